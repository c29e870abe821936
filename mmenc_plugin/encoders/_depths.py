"""How deep each parameter of a network lies, read off the names and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# What wrapped layers put into the names of their parameters.
_WRAPPED = re.compile(r"\.(?:base_layer|lora_[AB]\.[^.]+)(?=\.)")
# A block's place in its tower: (block,), or (stage, block) where the blocks lie in stages.
_STAGED = re.compile(
    r"(?:^|\.)(?:(?:stages|layers)\.(\d+)\.(?:blocks|layers)\.(\d+)"  # Swin, ConvNeXt; those of transformers
    r"|(?:stages|blocks)\.(\d+)\.(\d+)"  # EfficientNet
    r"|layer(\d+)\.(\d+)"  # ResNet
    r"|s(\d+)\.b(\d+))(?=\.)"  # RegNet
)
_PLAIN = re.compile(r"(?:^|\.)(?:resblocks|blocks?|layers?|stages|h)\.(\d+)(?=\.)")
_STEM = r"emb|token|pos"  # of a tower's own parameters; its other ones are projections

_TEMPERATURE = r"logit|temperature"


@dataclass(frozen=True)
class Tower:
    """A part of a network that has its blocks in a row.

    Attributes:
        name: for messages.
        pattern: what the names of its parameters begin with, as a regular expression.
        uses: what needs the tower: modalities, and objectives (itc, itm, mlm).
        stem: a regular expression that finds the names before the blocks, where their order does not tell.
    """

    name: str
    pattern: str
    uses: frozenset[str]
    stem: str = ""


@dataclass(frozen=True)
class Place:
    """Where a parameter lies.

    Attributes:
        tower: the tower's name, empty for what belongs to none, as a temperature.
        depth: 0 for embeddings and stem, 1..blocks for the blocks, blocks + 1 for what comes behind them.
        blocks: n of the tower.
        uses: what needs the parameter; nothing at all for one that no output depends on.
    """

    tower: str
    depth: int
    blocks: int
    uses: frozenset[str]

    @property
    def in_head(self) -> bool:
        """Whether it is of the last norm, a projection, a head or a temperature."""
        return self.depth == self.blocks + 1

    @property
    def in_block(self) -> bool:
        """Whether it is of a block."""
        return 0 < self.depth <= self.blocks


def places(names: Iterable[str], towers: Sequence[Tower]) -> dict[str, Place]:
    """Where each parameter lies.

    Args:
        names: of all parameters, in the network's order.
        towers: of the network. Of what belongs to none, the contrastive objective needs the temperature.
    """
    members: dict[Tower | None, list[str]] = {tower: [] for tower in [*towers, None]}
    for name in names:
        members[next((tower for tower in towers if re.match(tower.pattern, name)), None)].append(name)
    shared = members.pop(None)
    out: dict[str, Place] = {}
    for tower, own in members.items():
        if tower is not None:
            depths, blocks = _depths(own, tower.stem)
            out |= {name: Place(tower.name, depth, blocks, tower.uses) for name, depth in depths.items()}
    blocks = max((place.blocks for place in out.values()), default=0)
    itc = {name: frozenset({"itc"} if re.search(_TEMPERATURE, name) else ()) for name in shared}
    return out | {name: Place("", blocks + 1, blocks, uses) for name, uses in itc.items()}


def block_roots(names: Iterable[str], towers: Sequence[Tower]) -> list[str]:
    """The names of the modules that are blocks, in the network's order."""
    roots: dict[str, None] = {}
    for tower in towers:
        found = [_block(name) for name in names if re.match(tower.pattern, name)]
        blocks = [block for block in found if block]
        size = max((len(key) for key, _ in blocks), default=0)
        roots |= {root: None for key, root in blocks if len(key) == size}
    return list(roots)


def _depths(names: Sequence[str], stem: str) -> tuple[dict[str, int], int]:
    """The depths of one tower's parameters, and how many blocks it has."""
    blocks = {name: block for name in names if (block := _block(name))}
    order = sorted({_padded(key) for key, _ in blocks.values()})
    above = {parent for _, root in blocks.values() for parent in _parents(root)}
    depths, passed = {}, False
    for name in names:
        parent, _, last = name.rpartition(".")
        if name in blocks:
            depths[name], passed = 1 + order.index(_padded(blocks[name][0])), True
            continue
        if stem:
            first = bool(re.search(stem, name))
        elif parent in above:  # beside the blocks, where a module's own parameters come first whatever they are for
            first = bool(re.search(_STEM, last))
        else:
            first = not passed
        depths[name] = 0 if first else len(order) + 1
    return depths, len(order)


def _block(name: str) -> tuple[tuple[int, ...], str] | None:
    """A parameter's block, and the name of the block's module; None outside of blocks."""
    clean = _WRAPPED.sub("", name)
    match = _STAGED.search(clean) or _PLAIN.search(clean)
    return (tuple(int(n) for n in match.groups() if n is not None), clean[: match.end()]) if match else None


def _padded(key: tuple[int, ...]) -> tuple[int, int]:
    """What stands before a stage's blocks goes with the first of them."""
    return key[0], key[1] if len(key) > 1 else 0


def _parents(root: str) -> Iterator[str]:
    while root:
        root = root.rpartition(".")[0]
        yield root
