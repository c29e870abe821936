"""Everything that made a block of features, and the key that follows from it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from mmenc_plugin.data.digests import json_digest
from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.types import Modality

FORMAT = 2  # of the store; a change of the files' layout counts it up


@dataclass(frozen=True)
class Recipe:
    """What a block was made from. Two blocks with equal recipes are equal.

    Attributes:
        encoder: the part of the encoder's spec that decides its outputs.
        modality: image, text or fused.
        dtype: of the stored values.
        shard_size: items a shard; shards are encoded by themselves, so their size is part of the bytes.
        batch_size: items encoded at once, likewise.
        n_items: N.
        content: sha256 over the items' ids and the digests of their contents, in order.
        format: version of the store's layout.
    """

    encoder: dict[str, Any]
    modality: Modality
    dtype: str
    shard_size: int
    batch_size: int
    n_items: int
    content: str
    format: int = FORMAT

    @classmethod
    def of(
        cls, spec: EncoderSpec, modality: Modality, n_items: int, content: str, shard_size: int, batch_size: int
    ) -> Recipe:
        """The recipe of encoding items with an encoder; of the spec it keeps what concerns the modality."""
        encoder = spec.recipe()
        for part in ("width", "preprocessing"):
            encoder[part] = encoder[part].get(modality)
        if modality == "text":
            encoder.pop("preparation")  # of pictures
        return cls(encoder, modality, "float32", shard_size, batch_size, n_items, content)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def items_part(self) -> dict[str, Any]:
        """The fields that say which items; blocks that differ in these alone can lend each other rows."""
        return {"n_items": self.n_items, "content": self.content}

    @property
    def key(self) -> str:
        """Name of the block's folder: readable, and unique by the hash of the whole recipe."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.encoder['family']}-{self.encoder['architecture']}")[:48].strip("-")
        return f"{self.modality}-{name}-{json_digest(self.as_dict())[:16]}"
