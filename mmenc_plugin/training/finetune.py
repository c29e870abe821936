"""Fine-tuning an encoder on the pairs of picture and text that the items are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm import tqdm

from mmenc_plugin import encoders
from mmenc_plugin.data.digests import json_digest
from mmenc_plugin.data.files import write_atomically, writing
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import CheckpointError, MediaError, some
from mmenc_plugin.features.pictures import PictureSource, picture_threads
from mmenc_plugin.training.loop import Loop
from mmenc_plugin.training.memory import advising, finetune_ways
from mmenc_plugin.training.networks import DualNetwork, check_shared_space, network_of
from mmenc_plugin.training.pairs import Pairs, read_pairs
from mmenc_plugin.training.saving import save_encoder
from mmenc_plugin.training.task import Task, bought_of, check_same, made_of
from mmenc_plugin.training.team import Team
from mmenc_plugin.training.tuning import apply_tuning

REPORT, ENCODER, REJECTED = "report.json", "encoder", "rejected.json"
_log = logging.getLogger("mmenc_plugin")


@dataclass(frozen=True)
class Finetuned:
    """An encoder that was fine-tuned.

    Attributes:
        uri: builds it.
        folder: holds it, and its report.
        report: what made it, and how well pictures and texts find each other before and after.
    """

    uri: str
    folder: Path
    report: dict[str, Any]


def finetune(task: Task, folder: Path | None = None) -> Finetuned:
    """Fine-tune an encoder, or return what the same task made before.

    A run that was stopped, even killed, goes on from its last checkpoint and ends with the same weights as one that was
    not. Several processes (torchrun) share the batches; processes that know nothing of each other wait for the first.

    Args:
        task: what is to be done.
        folder: of the result; by default below `finetune_dir`, named by what the result is made of.

    Raises:
        SettingsError: the encoder has no space for pictures and texts, or lacks what an objective needs.
        DataError: fewer than two pairs, or too few to hold some out.
        CheckpointError: the folder holds what another task began.
        TrainingError: a loss that is no number; the last good checkpoint stays.
        MissingExtraError: there is no accelerate.
    """
    encoder = encoders.build(task.base, task.device, preparation=task.preparation)
    check_shared_space(task.base, encoder)
    network = network_of(encoder, task.settings.finetune_objectives)
    with writing(task.store):
        task.store.mkdir(parents=True, exist_ok=True)
    team = Team(task.device, task.tuning.autocast)
    pairs = read_pairs(task.items, task.store, task.show_progress and team.speaks)
    made = made_of(task, encoder, pairs, bought_of(task, pairs))
    folder = (folder or Path(task.settings.finetune_dir) / json_digest(made)[:16]).resolve()
    with _alone(folder, team):
        report = _finished(folder, encoder, made) or _train(task, network, pairs, team, folder, made)
    return Finetuned(encoder.saved_uri(folder / ENCODER), folder, report)


def _train(
    task: Task, network: DualNetwork, pairs: Pairs, team: Team, folder: Path, made: dict[str, Any]
) -> dict[str, Any]:
    """Train from where it stands, and write the encoder and, last, the report."""
    encoder = network.encoder
    pairs = pairs.without(_unfit(task, encoder, pairs, folder, team))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)  # new adapters are random
        uses = {"image", "text", *task.settings.finetune_objectives} - {"bought"}
        apply_tuning(encoder, task.tuning.tune, uses)
    encoder.set_gradient_checkpointing(task.tuning.gradient_checkpointing)
    loop = Loop(task, network, pairs, bought_of(task, pairs), team, folder / "state", made)
    with advising(*_step_of(task)):
        report = {"made_of": made, "base": task.base, **loop.run()}
    if team.speaks:
        encoder.set_gradient_checkpointing(False)
        save_encoder(encoder, folder / ENCODER, report)
        write_atomically(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False).encode())
        loop.forget()
    team.wait()
    return report


def _step_of(task: Task) -> tuple[str, str, list[str]]:
    """A step in words, its device, and the settings that would need less memory."""
    chunk, size = task.settings.finetune_chunk, task.settings.finetune_batch_size
    ways = finetune_ways({**task.settings.model_dump(), **task.tuning.model_dump()})
    return f"a fine-tuning step of {size} pairs, {chunk} at once,", task.device, ways


@contextmanager
def _alone(folder: Path, team: Team) -> Iterator[None]:
    """One run at a time in a folder; the others wait."""
    with writing(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    if team.speaks:
        lock.acquire()
    team.wait()
    try:
        yield
    finally:
        lock.release()


def _finished(folder: Path, encoder: Encoder, made: dict[str, Any]) -> dict[str, Any] | None:
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_same(report["made_of"], made, folder)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Delete {folder} to start anew.") from error
    encoders.check(encoder.saved_uri(folder / ENCODER))
    return report


def _unfit(task: Task, encoder: Encoder, pairs: Pairs, folder: Path, team: Team) -> list[int]:
    """Pairs whose picture cannot be decoded, found before training by looking at all of them once; also remembered."""
    path = folder / REJECTED
    if team.speaks and not path.is_file():
        reasons = _reasons(task, encoder, pairs)
        write_atomically(path, json.dumps(reasons, indent=2, ensure_ascii=False).encode())
    team.wait()
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    if known and team.speaks:
        ids = list(known)
        _log.warning("%d of %d pairs have pictures that cannot be used: %s (%s)", len(ids), len(pairs), some(ids),
                     known[ids[0]])  # fmt: skip
    return [pair for pair, row in enumerate(pairs.rows) if task.items.ids[int(row)] in known]


def _reasons(task: Task, encoder: Encoder, pairs: Pairs) -> dict[str, str]:
    source = PictureSource(task.items, encoder, pairs.pictures.pictures, task.pictures.cache)

    def reason(row: int) -> str:
        try:
            source.picture(row)
        except MediaError as error:
            return str(error)
        return ""

    with picture_threads(task.pictures.threads()) as pool:
        found = zip(pairs.rows, pool.map(reason, map(int, pairs.rows)), strict=True)
        bar = tqdm(
            found, total=len(pairs), unit="item", desc="check image", disable=not task.show_progress, leave=False
        )
        reasons = {task.items.ids[int(row)]: why for row, why in bar if why}
    source.close()
    return reasons
