"""What an encoder needs to be trained: where its parameters lie, its blocks, and a way onto the disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torch.utils.checkpoint import checkpoint

from mmenc_plugin.encoders._depths import Place, Tower, block_roots, places
from mmenc_plugin.encoders._weights import building, weights_digest
from mmenc_plugin.errors import SettingsError


class Learning(nn.Module):
    """The part of `Encoder` that training needs.

    A family that can be trained sets the class attributes and implements `write`; its network is `network` or
    `model`.

    Attributes:
        towers: of the network; none in a family without parameters.
        local: what stands before a folder's path in the URI of an encoder that `save` wrote.
        fixed: parameters that the family's library built as constants, as sines of places; never trained.
    """

    family: ClassVar[str]
    towers: ClassVar[tuple[Tower, ...]] = ()
    local: ClassVar[str] = ""
    fixed: frozenset[str] = frozenset()

    def places(self) -> dict[str, Place]:
        """Where each parameter lies: by name, its tower, its depth there, and what needs it.

        Raises:
            SettingsError: the family has no parameters.
        """
        self._need_parameters()
        found = places([name for name, _ in self.named_parameters()], self.towers)
        return {name: self.place(name, place) for name, place in found.items()}

    def depths(self) -> dict[str, int]:
        """The depth of each parameter in its tower.

        Returns:
            By name: 0 for embeddings and stem, 1..n for the tower's n blocks, n + 1 for the norm behind them,
            projections, heads and temperatures.

        Raises:
            SettingsError: the family has no parameters.
        """
        return {name: place.depth for name, place in self.places().items()}

    def blocks(self) -> list[nn.Module]:
        """The blocks of all towers.

        Raises:
            SettingsError: the family has no parameters.
        """
        self._need_parameters()
        return [self.get_submodule(name) for name in block_roots([n for n, _ in self.named_parameters()], self.towers)]

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Whether a backward pass computes the inside of each block anew, rather than keeping it from the forward one.

        The libraries' own switches are not used: some of them do nothing in evaluation mode, in which encoders stay.

        Raises:
            SettingsError: the family has no parameters.
        """
        for block in self.blocks():
            block.__dict__.pop("forward", None)
            if on:
                block.forward = partial(_recomputed, block)

    def save(self, folder: Path) -> str:
        """Write the encoder to a folder, made if need be, in its family's own format, without pickles.

        Returns:
            The URI that builds it again, with equal outputs.

        Raises:
            SettingsError: the family has no parameters, or adapters are not merged yet.
        """
        self._need_parameters()
        if any(".lora_" in name for name, _ in self.named_parameters()):
            raise SettingsError("adapters stand beside the encoder's layers: merge them first, or use save_encoder.")
        folder.mkdir(parents=True, exist_ok=True)
        with building():
            self.write(folder)
        return self.saved_uri(folder)

    @classmethod
    def saved_uri(cls, folder: Path) -> str:
        """The URI of an encoder that `save` wrote to the folder."""
        return f"{cls.family}:{cls.local}{folder.resolve()}"

    def weights_digest(self) -> str:
        """The sha256 of the weights as they are now, as the spec of an encoder built from them has it.

        Raises:
            SettingsError: the family has no parameters.
        """
        self._need_parameters()
        return weights_digest(self._network)

    def write(self, folder: Path) -> None:
        """Write the network, its preprocessing and its tokenizer to a folder that exists."""
        raise NotImplementedError

    def place(self, name: str, place: Place) -> Place:
        """A parameter's place as read off its name; a family puts right what needs it."""
        return place

    @property
    def _network(self) -> nn.Module:
        modules = dict(self.named_children())
        return modules.get("network") or modules["model"]

    def _need_parameters(self) -> None:
        if not self.towers:
            raise SettingsError(
                f"an encoder of the family {self.family} has no parameters: there is nothing to train or to save. "
                f"Families that can be trained: {', '.join(_trainable())}."
            )


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    # Blocks draw no random numbers: encoders stay in evaluation mode.
    forward = partial(type(block).forward, block)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _trainable() -> list[str]:
    from mmenc_plugin.encoders.base import registry

    return [name for name, family in registry if family.towers]
