"""RecBole's Trainer, with the host's waste taken away; the loop is RecBole's."""

from __future__ import annotations

from typing import Any

import torch
from recbole.trainer.trainer import Trainer

from mmenc_plugin.training.memory import advising, joint_ways


class MultimodalTrainer(Trainer):
    """Trainer of our models."""

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        if not model.model.learns:
            self.epochs = min(config["epochs"], 1)  # in which the validation set is ranked, as with any model
            self.eval_step = min(config["eval_step"], self.epochs)

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """See RecBole; the model draws or builds what it makes anew in each epoch."""
        if not self.model.model.learns:
            return 0.0
        self.model.model.begin_epoch()
        step = f"a training step of {self.config['train_batch_size']} interactions"
        with advising(step, self.device, joint_ways(self.config)):
            return super()._train_epoch(*args, **kwargs)

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """RecBole's optimizer; Adam and AdamW in one pass over the parameters, 2 to 3 times as fast."""
        optimizer: torch.optim.Optimizer = super()._build_optimizer(**kwargs)
        if isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False
        return optimizer
