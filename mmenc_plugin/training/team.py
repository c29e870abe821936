"""The processes that fine-tune one encoder together, through accelerate; one alone is a team as well."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mmenc_plugin.errors import MissingExtraError


class Team:
    """Shares batches out and sums what the processes found.

    Every process holds the whole encoder. `torchrun` (or `accelerate launch`) starts several; gradients are summed by
    hand once a step, since those of a contrastive loss are complete only when all of its chunks have gone back.

    Args:
        device: where this process computes.
        autocast: none or bfloat16.

    Raises:
        MissingExtraError: there is no accelerate.
    """

    def __init__(self, device: str | torch.device, autocast: str = "none") -> None:
        try:
            accelerate = importlib.import_module("accelerate")
        except ImportError as error:
            raise MissingExtraError("fine-tuning", "train", error) from error
        self.device, self._rounded = torch.device(device), autocast != "none"
        self._state = accelerate.PartialState(cpu=self.device.type == "cpu")
        self._operations = accelerate.utils
        self.size, self.rank = int(self._state.num_processes), int(self._state.process_index)

    @property
    def speaks(self) -> bool:
        """Whether this process writes files and shows progress for all."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that encoders compute in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self._rounded else nullcontext()

    def share(self, n: int) -> slice:
        """This process's part of n things; the parts are as equal as can be, in the order of the processes."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, mine: Tensor, n: int) -> Tensor:
        """The whole [n, ...] of which each process holds its share."""
        if self.size == 1:
            return mine
        most = -(-n // self.size)
        padded = torch.cat([mine, mine.new_zeros(most - len(mine), *mine.shape[1:])])
        parts = self._operations.gather(padded).view(self.size, most, *mine.shape[1:])
        sizes = [n * (rank + 1) // self.size - n * rank // self.size for rank in range(self.size)]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def total(self, mine: Tensor) -> Tensor:
        """The sum over the processes."""
        summed: Tensor = mine if self.size == 1 else self._operations.reduce(mine, "sum")
        return summed

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; a parameter that has none anywhere keeps none."""
        if self.size == 1:
            return
        candidates = list(parameters)
        having = self.total(torch.tensor([float(p.grad is not None) for p in candidates], device=self.device)).tolist()
        learning = [parameter for parameter, count in zip(candidates, having, strict=True) if count]
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in learning])
        start = 0
        flat = self.total(flat)
        for parameter in learning:
            stop = start + parameter.numel()
            parameter.grad = flat[start:stop].view_as(parameter)
            start = stop

    def agrees(self, mine: bool) -> bool:
        """What the speaking process says."""
        if self.size == 1:
            return mine
        return bool(self.total(torch.tensor(float(mine and self.speaks), device=self.device)) > 0)

    def wait(self) -> None:
        """Until all are here."""
        self._state.wait_for_everyone()
