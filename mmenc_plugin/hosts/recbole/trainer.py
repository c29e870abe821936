"""RecBole's Trainer, with the host's waste taken away, and encoders that learn; the loop is RecBole's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.trainer.trainer import Trainer
from torch import Tensor

from mmenc_plugin.errors import TrainingError
from mmenc_plugin.hosts.recbole.config import settings_of
from mmenc_plugin.hosts.recbole.export import export_encoders
from mmenc_plugin.hosts.recbole.resume import Resume
from mmenc_plugin.settings import LiveSettings, TuningSettings
from mmenc_plugin.training.end_to_end import EndToEnd
from mmenc_plugin.training.memory import advising, joint_ways


class MultimodalTrainer(Trainer):
    """Trainer of our models.

    Attributes:
        live: the course of the encoder's training; None where features are frozen.
        resume: the checkpoints that a stopped run goes on from.
    """

    def __init__(self, config: Any, model: Any) -> None:
        self.live: EndToEnd | None = None
        if not model.model.features.frozen:
            self.live = EndToEnd(model.model, settings_of(config, TuningSettings), settings_of(config, LiveSettings))
        self.place = (0, 0)  # epoch and batch
        with _batch_norm_as_it_is():
            super().__init__(config, model)
        if not model.model.learns:
            self.epochs = min(config["epochs"], 1)  # in which the validation set is ranked, as with any model
            self.eval_step = min(config["eval_step"], self.epochs)
        self.resume = Resume(self)

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """See RecBole; a stopped run goes on, and trained encoders are written beside RecBole's checkpoint."""
        ended = self.resume.load(train_data)
        if ended:
            return self.best_valid_score, self.best_valid_result
        result = super().fit(train_data, *args, **kwargs)
        self.resume.save(self.epochs, train_data, finished=True)
        if self.live:
            export_encoders(self)
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, **kwargs: Any) -> Any:
        """See RecBole; the model draws or builds what it makes anew in each epoch."""
        if not self.model.model.learns:
            return 0.0
        self.resume.begin_epoch(epoch_idx, train_data)
        if self.live:
            self.live.begin_epoch(epoch_idx, self.epochs, len(train_data))
        self.model.model.begin_epoch()
        step = f"a training step of {self.config['train_batch_size']} interactions"
        with advising(step, self.device, joint_ways(self.config)):
            return super()._train_epoch(Batches(train_data, self, epoch_idx), epoch_idx, self._loss, **kwargs)

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """See RecBole; with refresh: never, rows of different ages are ranked by."""
        if not self.live:
            return super()._valid_epoch(*args, **kwargs)
        self.live.features.refreshes = self.live.rule != "never"
        try:
            return super()._valid_epoch(*args, **kwargs)
        finally:
            self.live.features.refreshes = True

    def _loss(self, interaction: Any) -> Any:
        """The parts of the loss; kernels look at what they are given where the loss is no number."""
        try:
            return self.model.calculate_loss(interaction)
        except ValueError as error:
            if "finite" not in str(error):
                raise
            raise self._stopped(f"the training loss is no number: {error} That was") from error

    def _check_nan(self, loss: Tensor) -> None:
        """Stop at a loss that is no number.

        Raises:
            TrainingError: names the epoch, the batch and the parts of the loss.
        """
        if not torch.isfinite(loss):
            raise self._stopped(f"the training loss ({' + '.join(self.model.parts)}) is {loss.item()}")

    def _stopped(self, told: str) -> TrainingError:
        epoch, batch = self.place
        advice = "Lower learning_rate"
        if self.live:
            advice = "Lower encoder_learning_rate or learning_rate, lengthen warmup, or set autocast: none"
        kept = Path(self.saved_model_file)
        best = f"the best epoch so far is kept in {kept}" if kept.is_file() else "no epoch was saved before"
        return TrainingError(f"{told} in epoch {epoch}, batch {batch}, both counted from 0; {best}. {advice}.")

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """RecBole's optimizer, and the encoders' groups; Adam and AdamW in one pass, 2 to 3 times as fast.

        Without weight decay, AdamW is Adam.
        """
        if self.live and "params" not in kwargs:
            kwargs["params"] = [{"params": self.live.others()}, *self.live.groups()]
            kwargs.setdefault("learner", self.learner if self.weight_decay else "adamw")
        optimizer: torch.optim.Optimizer = super()._build_optimizer(**kwargs)
        if isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False
        return optimizer


class Batches:
    """RecBole's training loader for one epoch, which knows the next batch while a step runs.

    Args:
        loader: of RecBole.
        trainer: of the model.
        epoch: from 0.
    """

    def __init__(self, loader: Any, trainer: MultimodalTrainer, epoch: int) -> None:
        self.loader, self.trainer, self.epoch = loader, trainer, epoch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        trainer, live = self.trainer, self.trainer.live
        for number, batch in enumerate(self._ahead() if live else self.loader):
            trainer.place = (self.epoch, number)
            if live:
                live.set_rates(trainer.optimizer, number)
            yield batch
            if live:
                live.end_step(number)

    def _ahead(self) -> Iterator[Any]:
        """The batches; while one is in use, the pictures of the next are being prepared."""
        model, waiting = self.trainer.model, deque[Any]()
        for batch in self.loader:
            model.model.features.prepare(model.model.items_read(model.batch(batch)))
            waiting.append(batch)
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


@contextmanager
def _batch_norm_as_it_is() -> Iterator[None]:
    """RecBole lets batch norms share statistics between processes; those of encoders are constants."""
    norm = torch.nn.SyncBatchNorm
    original = norm.__dict__["convert_sync_batchnorm"]
    norm.convert_sync_batchnorm = staticmethod(lambda module: module)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        norm.convert_sync_batchnorm = original  # type: ignore[method-assign]
