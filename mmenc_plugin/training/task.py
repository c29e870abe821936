"""What a fine-tuning is to do, and everything that its result depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.encoders.base import Preparation
from mmenc_plugin.errors import CheckpointError
from mmenc_plugin.features.pictures import PictureOptions
from mmenc_plugin.settings import FinetuneSettings, TuningSettings
from mmenc_plugin.training.bought import Bought
from mmenc_plugin.training.pairs import Pairs
from mmenc_plugin.types import ItemTable

_FREE = ("finetune_chunk", "finetune_dir", "gradient_checkpointing")  # change what is needed, not what is learned


@dataclass(frozen=True)
class Task:
    """What is to be fine-tuned.

    Attributes:
        items: whose pictures and texts are learned from.
        base: URI of the encoder.
        settings: objectives and course.
        tuning: what of the encoder is trained, and how fast.
        seed: of everything random.
        device: where it computes.
        preparation: of pictures, exact or fast.
        pictures: threads, and a cache of what they prepare.
        taken: users and the item ids that they took, [E] each, of the training part alone; for `bought`.
        store: folder where digests of pictures are remembered.
        show_progress: bars.
    """

    items: ItemTable
    base: str
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    seed: int = 2020
    device: str = "cpu"
    preparation: Preparation = "exact"
    pictures: PictureOptions = field(default_factory=PictureOptions)
    taken: tuple[Sequence[Any], Sequence[str]] | None = None
    store: Path = Path("features")
    show_progress: bool = True


def bought_of(task: Task, pairs: Pairs) -> Bought | None:
    """Which pairs were taken together, where an objective asks for it.

    Raises:
        DataError: none were.
    """
    if "bought" not in task.settings.finetune_objectives:
        return None
    return Bought(pairs, *(task.taken or ([], [])))


def made_of(task: Task, encoder: Encoder, pairs: Pairs, bought: Bought | None) -> dict[str, Any]:
    """Everything that the result depends on."""
    settings = {**task.settings.model_dump(), **task.tuning.model_dump()}
    return {
        "encoder": encoder.spec.recipe(),
        "settings": {name: value for name, value in settings.items() if name not in _FREE},
        "seed": task.seed,
        "items": pairs.digest,
        "bought": bought.digest if bought else None,
    }


def check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """A folder goes on with what it was begun with.

    Raises:
        CheckpointError: names each setting that differs.
    """
    flat = [{**parts["settings"], **{k: v for k, v in parts.items() if k != "settings"}} for parts in (before, now)]
    changed = [name for name in flat[1] if flat[0].get(name) != json.loads(json.dumps(flat[1][name]))]
    if not changed:
        return
    told = [
        f"{n} was {flat[0].get(n)!r} and is {flat[1][n]!r}" if n in now["settings"] or n == "seed" else f"other {n}"
        for n in changed
    ]
    raise CheckpointError(
        f"{folder} holds a fine-tuning of another making: {'; '.join(told)}. Set it back to go on from there, or name "
        "another folder with --output."
    )
