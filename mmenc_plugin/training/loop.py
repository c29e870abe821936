"""The loop of fine-tuning: epochs, validation, checkpoints, the best one kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mmenc_plugin.errors import DataError, TrainingError, some
from mmenc_plugin.features.ahead import Ahead
from mmenc_plugin.features.contents import Rows
from mmenc_plugin.features.pictures import picture_threads
from mmenc_plugin.training import checkpoints
from mmenc_plugin.training.bought import Bought
from mmenc_plugin.training.networks import DualNetwork
from mmenc_plugin.training.optimizer import encoder_groups, rate
from mmenc_plugin.training.pairs import Pairs, batches, shuffled, split
from mmenc_plugin.training.retrieval import retrieval
from mmenc_plugin.training.step import Batch, Step
from mmenc_plugin.training.task import Task, check_same
from mmenc_plugin.training.team import Team
from mmenc_plugin.training.tuning import load_trained_state, trained_parameters, trained_state

AHEAD = 2  # batches whose pictures are being prepared while one is learned from
SAVE_SECONDS = 300.0  # between checkpoints within an epoch


class Loop:
    """One fine-tuning, from its start or from its last checkpoint.

    What is random in a step depends on the seed, the epoch and the step alone, so a checkpoint needs no random state.

    Args:
        task: what is to be done.
        network: of the encoder, its tuning applied.
        pairs: P pairs.
        bought: which were taken together, for that objective.
        team: the processes that share the batches.
        folder: of checkpoints.
        made_of: kept with them, and compared.

    Raises:
        DataError: too few pairs.
    """

    def __init__(
        self, task: Task, network: DualNetwork, pairs: Pairs, bought: Bought | None, team: Team, folder: Path,
        made_of: dict[str, Any],
    ) -> None:  # fmt: skip
        self.task, self.settings, self.team, self.pairs, self.bought = task, task.settings, team, pairs, bought
        self.encoder, self.folder, self.made_of, self.network = network.encoder, folder, made_of, network
        self.train, self.held = split(pairs, self.settings.finetune_validation, task.seed)
        largest = min(len(self.train), self.settings.finetune_batch_size)
        if team.size > 1 and largest < 4 * team.size:
            raise DataError(
                f"{team.size} processes share batches of {largest} pairs, but each wants four at least. Start fewer "
                "processes, or raise finetune_batch_size."
            )
        self.steps_an_epoch = len(batches(self.train, self.settings.finetune_batch_size))
        self.steps = self.steps_an_epoch * self.settings.finetune_epochs
        self.parameters = list(trained_parameters(self.encoder).values())
        self.optimizer = torch.optim.AdamW(encoder_groups(self.encoder, task.tuning))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.state: dict[str, Any] = {"step": 0, "history": [], "sum": 0.0, "best": None, "made_of": made_of}

    def run(self) -> dict[str, Any]:
        """Train to the end, and leave the encoder with the weights of the best epoch.

        Returns:
            Retrieval before and after, and the course of the losses.
        """
        with picture_threads(self.task.pictures.threads()) as pool:
            self._open(pool)
            try:
                self._resume()
                if "before" not in self.state:
                    self.state["before"] = self._retrieval()
                self._epochs()
                if self.state["best"]:
                    load_trained_state(self.encoder, self.state["best"])
                return self._report(self._retrieval())
            finally:
                self.ahead.close()

    def forget(self) -> None:
        """Remove the checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, pool: ThreadPoolExecutor) -> None:
        options, contents = self.task.pictures, self.pairs.pictures
        self.ahead = Ahead(self.pairs.items, self.encoder, "image", contents, options, lambda: pool)
        settings = self.settings
        self.step = Step(
            self.network, settings.finetune_objectives, settings.finetune_chunk, self.pairs, self.bought, self.team,
            lambda pairs: self.ahead.take(self._rows(pairs)),
        )  # fmt: skip

    def _resume(self) -> None:
        found = checkpoints.read(self.folder)
        if found is None:
            return
        check_same(found["state"]["made_of"], self.made_of, self.folder.parent)
        self.state = found["state"]
        load_trained_state(self.encoder, found["weights"])
        self.optimizer.load_state_dict(found["optimizer"])

    def _save(self) -> None:
        if self.team.speaks:
            state = {"state": self.state, "weights": trained_state(self.encoder)}
            checkpoints.write(self.folder, self.state["step"], {**state, "optimizer": self.optimizer.state_dict()})
        self.team.wait()

    def _epochs(self) -> None:
        speaks = self.task.show_progress and self.team.speaks
        with tqdm(
            total=self.steps, initial=self.state["step"], unit="step", desc="finetune", disable=not speaks
        ) as bar:
            while self.state["step"] < self.steps and not self._is_enough():
                self._epoch(self.state["step"] // self.steps_an_epoch, bar)

    def _epoch(self, epoch: int, bar: tqdm) -> None:
        order = self._order(epoch)
        parts = batches(order, self.settings.finetune_batch_size)
        saved = time.monotonic()
        for place, batch in self._prepared(parts, self.state["step"] % self.steps_an_epoch, (epoch,)):
            if self.team.agrees(time.monotonic() - saved > SAVE_SECONDS):
                self._save()
                saved = time.monotonic()
            loss = self._learn(batch, epoch, place)
            self.state["step"] += 1
            self.state["sum"] += loss
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
            bar.update()
        self._close_epoch(epoch, bar)

    def _order(self, epoch: int) -> Rows:
        if self.bought is None:
            return shuffled(self.train, self.task.seed, epoch)
        return self.bought.order(self.train, self.task.seed, epoch)

    def _learn(self, batch: Batch, epoch: int, place: int) -> float:
        """One step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        where = f"epoch {epoch}, step {place} of it, {self.state['step']} in all (counted from 0)"
        losses = self.step(batch, learns=True)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {losses} in {where}", batch)
        self.team.sum_gradients(self.parameters)
        if not all(bool(p.grad.isfinite().all()) for p in self.parameters if p.grad is not None):
            raise self._diverged(f"a gradient is no number in {where}, at a loss of {loss:.4g}", batch)
        factor = rate(self.state["step"], self.steps, self.task.tuning)
        for group, full in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = full * factor
        self.optimizer.step()
        return loss

    def _diverged(self, what: str, batch: Batch) -> TrainingError:
        ids = [self.pairs.items.ids[row] for row in self._rows(batch.pairs)]
        kept = checkpoints.read(self.folder)
        told = f"of step {kept['state']['step']}, in {self.folder}" if kept else "none yet"
        return TrainingError(
            f"{what}; the batch has items {some(ids)}. Lower encoder_learning_rate, lengthen warmup, or set autocast: "
            f"none. The last good checkpoint is kept: {told}."
        )

    def _close_epoch(self, epoch: int, bar: tqdm) -> None:
        """Validate, keep the best, save."""
        told: dict[str, Any] = {"epoch": epoch, "loss": self.state["sum"] / self.steps_an_epoch}
        self.state["sum"] = 0.0
        if len(self.held):
            told["validation_loss"] = self._validation_loss()
            if self.settings.finetune_select == "recall":
                told |= self._retrieval()
        best = min((self._badness(entry) for entry in self.state["history"]), default=math.inf)
        self.state["history"].append(told)
        if self._badness(told) < best:
            self.state["best"] = {name: value.clone() for name, value in trained_state(self.encoder).items()}
        if "validation_loss" in told and not bar.disable:
            bar.write(f"epoch {epoch + 1}: loss {told['loss']:.4f}, validation {told['validation_loss']:.4f}")
        self._save()

    def _badness(self, told: dict[str, Any]) -> float:
        """What is to be least; without validation the last epoch is the best."""
        if "validation_loss" not in told:
            return -float(told["epoch"])
        if self.settings.finetune_select == "loss":
            return float(told["validation_loss"])
        return -float(told["image->text R@1"]) - float(told["text->image R@1"])

    def _best_epoch(self) -> int:
        worse = [self._badness(entry) for entry in self.state["history"]]
        return worse.index(min(worse))

    def _is_enough(self) -> bool:
        history = self.state["history"]
        at_end = self.state["step"] % self.steps_an_epoch == 0
        return bool(history) and at_end and len(history) - 1 - self._best_epoch() >= self.settings.finetune_patience

    def _validation_loss(self) -> float:
        parts = batches(self.held, self.settings.finetune_batch_size)
        losses = [
            sum(self.step(batch, learns=False).values()) * len(batch.pairs)
            for _, batch in self._prepared(parts, 0, (2**32,))
        ]
        return sum(losses) / len(self.held)

    @torch.no_grad()
    def _retrieval(self) -> dict[str, float]:
        """Of the validation part, or of all pairs where nothing is held out."""
        part = self.held if len(self.held) else self.train
        mine = part[self.team.share(len(part))]
        chunks = [
            mine[at : at + self.settings.finetune_chunk] for at in range(0, len(mine), self.settings.finetune_chunk)
        ]
        views = [self.step.encode(pictures, chunk)[:2] for chunk, pictures in self._fetched(chunks)]
        images, texts = (self.team.gather(torch.cat(view), len(part)) for view in zip(*views, strict=True))
        (image_at, image_of), (text_at, text_of) = (
            np.unique(numbers[part], return_index=True, return_inverse=True)[1:]
            for numbers in (self.pairs.images, self.pairs.texts)
        )
        return retrieval(images[torch.from_numpy(image_at)], texts[torch.from_numpy(text_at)], image_of, text_of)

    def _prepared(self, parts: list[Rows], start: int, name: tuple[int, ...]) -> Iterator[tuple[int, Batch]]:
        """Batches from the one at `start` on, with the pictures of this process's share."""
        shares = [part[self.team.share(len(part))] for part in parts[start:]]
        for place, (part, (_, pictures)) in enumerate(zip(parts[start:], self._fetched(shares), strict=True), start):
            yield place, Batch(part, pictures, (self.task.seed % 2**63, *name, place))

    def _fetched(self, parts: list[Rows]) -> Iterator[tuple[Rows, list[Any]]]:
        """Prepared pictures of parts, the next few of them under way."""
        for place, part in enumerate(parts):
            for ahead in parts[place : place + AHEAD + 1]:
                self.ahead.begin(self._rows(ahead))
            yield part, self.ahead.take(self._rows(part))

    def _rows(self, pairs: Rows) -> list[int]:
        return [int(row) for row in self.pairs.rows[pairs]]

    def _report(self, after: dict[str, float]) -> dict[str, Any]:
        return {
            "before": self.state["before"],
            "after": after,
            "measured_on": "validation" if len(self.held) else "training",
            "pairs": {"training": len(self.train), "validation": len(self.held)},
            "best_epoch": self._best_epoch(),
            "steps": self.state["step"],
            "history": self.state["history"],
        }
