"""Runs of RecBole that go on after they were stopped, and end as if they had not been."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mmenc_plugin.errors import CheckpointError, TrainingError, some
from mmenc_plugin.hosts.recbole.config import plugin_keys, settings_of
from mmenc_plugin.settings import ResumeSettings
from mmenc_plugin.training import checkpoints

# What changes neither weights nor the choice of the epoch.
_FREE = {
    "gpu_id", "use_gpu", "worker", "state", "show_progress", "encoding", "log_wandb", "wandb_project", "data_path",
    "checkpoint_dir", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "metrics",
    "topk", "eval_batch_size", "fused_ranking", "scorer", "eval_slices", "feature_dir", "picture_cache",
    "encoder_workers", "resume_dir",
}  # fmt: skip


class Resume:
    """The checkpoints of a run: one when an epoch begins, and one when the training has ended.

    Args:
        trainer: of the run.
    """

    def __init__(self, trainer: Any) -> None:
        config = trainer.config
        settings = settings_of(config, ResumeSettings)
        self.trainer = trainer
        self.folder = (
            Path(settings.resume_dir) / f"{config['model']}-{config['dataset']}" if settings.resume_dir else None
        )
        self._random: Any = None  # where random numbers stood when the epoch to go on with began

    def load(self, train_data: Any) -> bool:
        """Go on from the newest checkpoint, if there is one.

        Args:
            train_data: RecBole's loader.

        Returns:
            Whether the training has ended already.

        Raises:
            CheckpointError: the checkpoint is of other settings, or cannot be read.
        """
        state = checkpoints.read(self.folder) if self.folder else None
        if state is None:
            return False
        trainer = self.trainer
        self._check(state["settings"], self._settings(train_data))
        best = Path(state["saved_model_file"])
        if state["best_epoch_saved"] and not best.is_file():
            raise CheckpointError(
                f"{best}, the best epoch of the run in {self.folder}, is not there any more. Put it back, or delete "
                f"{self.folder} to start anew."
            )
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.live:
            trainer.live.features.load_tables(state["tables"])
        for name in ("cur_step", "best_valid_score", "best_valid_result", "saved_model_file", "train_loss_dict"):
            setattr(trainer, name, state[name])
        trainer.start_epoch = state["epoch"]
        train_data.generator.set_state(state["loader"])
        self._random = state["random"][_rank(trainer.config)]
        trainer.logger.info(
            f"{self.folder}: this run has ended; it is only tested again."
            if state["finished"]
            else f"{self.folder}: going on with epoch {trainer.start_epoch}."
        )
        return bool(state["finished"])

    def begin_epoch(self, epoch: int, train_data: Any) -> None:
        """Write a checkpoint, unless the run has just gone on from it."""
        if self._random is not None:
            checkpoints.set_random_state(self._random)
            self._random = None
        elif self.folder and epoch > 0:
            self.save(epoch, train_data)

    def save(self, epoch: int, train_data: Any, finished: bool = False) -> None:
        """Write a checkpoint.

        Args:
            epoch: the next one.
            train_data: RecBole's loader.
            finished: whether there is none.

        Raises:
            StoreError: it cannot be written.
            TrainingError: a weight is not finite; the last checkpoint stays.
        """
        if not self.folder:
            return
        trainer, config = self.trainer, self.trainer.config
        model = trainer.model.state_dict()
        bad = [name for name, value in model.items() if not value.isfinite().all()]
        if bad:
            raise TrainingError(
                f"after epoch {epoch - 1}, {len(bad)} of {len(model)} parameters are not finite ({some(bad)}). The "
                f"checkpoint before it is kept in {self.folder}. Lower the learning rates."
            )
        randoms = _everyones(checkpoints.random_state(), config)
        state = {
            "epoch": epoch,
            "finished": finished,
            "settings": self._settings(train_data),
            "model": model,
            "tables": trainer.live.features.tables_to_keep() if trainer.live else {},
            "optimizer": trainer.optimizer.state_dict(),
            "loader": train_data.generator.get_state(),
            "random": randoms,
            "best_epoch_saved": Path(trainer.saved_model_file).is_file(),
        }
        kept = ("cur_step", "best_valid_score", "best_valid_result", "saved_model_file", "train_loss_dict")
        state |= {name: getattr(trainer, name) for name in kept}
        if _rank(config) == 0:
            checkpoints.write(self.folder, epoch, state)
        if not config["single_spec"]:
            dist.barrier()

    def _settings(self, train_data: Any) -> dict[str, str]:
        """What a run that goes on must have in common with the one that was stopped."""
        config, dataset = self.trainer.config, train_data._dataset
        keys = {key for part in config.parameters.values() for key in part} | plugin_keys(config["model"])
        keys -= _FREE | ({"epochs"} if self._any_length() else set())
        told = {key: _plain(config[key]) for key in sorted(keys | {"model", "dataset"})}
        told["processes"] = str(1 if config["single_spec"] else dist.get_world_size())
        told["users, items and interactions"] = f"{dataset.user_num}, {dataset.item_num}, {len(dataset)}"
        return told

    def _any_length(self) -> bool:
        """Whether the number of epochs changes nothing but when training ends."""
        live = self.trainer.live
        return live is None or (live.tuning.schedule == "constant" and not live.tuning.warmup)

    def _check(self, then: dict[str, str], now: dict[str, str]) -> None:
        changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
        if changed:
            told = "; ".join(f"{key} was {then.get(key)} and is now {now.get(key)}" for key in changed[:5])
            more = "; ..." if len(changed) > 5 else ""
            raise CheckpointError(
                f"the run in {self.folder} cannot go on: {told}{more}. Set back what was changed, name another "
                "resume_dir, or delete that folder to start anew."
            )


def _plain(value: Any) -> str:
    """A setting as text; addresses of objects are left out."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _rank(config: Any) -> int:
    return 0 if config["single_spec"] else dist.get_rank()


def _everyones(value: Any, config: Any) -> list[Any]:
    """The values of all processes."""
    if config["single_spec"]:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
