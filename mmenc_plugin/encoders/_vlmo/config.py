"""Sizes of VLMo: the published ones by name, any other in full."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from mmenc_plugin.errors import SettingsError, unknown_name
from mmenc_plugin.settings import Settings

PATCH = 16  # pixels on a side of a patch
TEXT_SPAN = 196  # tokens that the relative positions of texts reach over, whatever length is used

# Groups of parameters that a checkpoint has or lacks as a whole, by the stage of training it is from:
# the vision-language experts, and the heads of image-text contrast (of the two separate passes, and of
# their second branch through the vision-language experts), of matching, and of masked words.
Part = Literal["vl", "itc", "itc_vl", "itm", "mlm"]
PARTS: frozenset[Part] = frozenset(get_args(Part))


class VlmoConfig(Settings):
    """What a VLMo network is built from."""

    architecture: str = Field(min_length=1, description="its name")
    image_size: int = Field(224, ge=PATCH, multiple_of=PATCH, description="pixels on a side of a picture")
    width: int = Field(ge=1, description="of a token, D")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="of the attention in each block")
    vl_start: int = Field(ge=1, description="the first block that has a vision-language expert")
    positions: Literal["relative", "absolute"] = Field(
        description="relative: a bias for each pair of places, in every attention; absolute: vectors added at the start"
    )
    layer_scale: bool = Field(description="whether each branch of a block is scaled by a learned vector")
    vocabulary: int = Field(30522, ge=1, description="word pieces")
    max_tokens: int = Field(40, ge=2, le=TEXT_SPAN, description="of a text, [CLS] and [SEP] included")

    @model_validator(mode="after")
    def _fits_together(self) -> VlmoConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared by {self.heads} heads")
        if self.vl_start > self.depth:
            raise ValueError(f"vl_start {self.vl_start} lies behind the last of {self.depth} blocks")
        return self

    @property
    def side(self) -> int:
        """Patches on a side of a picture."""
        return self.image_size // PATCH


SIZES: dict[str, dict[str, Any]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "vl_start": 10, "positions": "relative", "layer_scale": True},
    "base_plus": {
        "width": 544,
        "depth": 24,
        "heads": 16,
        "vl_start": 21,
        "positions": "absolute",
        "layer_scale": False,
    },
    "large": {"width": 1024, "depth": 24, "heads": 16, "vl_start": 21, "positions": "relative", "layer_scale": True},
}
NAME = re.compile(rf"({'|'.join(SIZES)})_patch{PATCH}_(\d+)")
PUBLISHED = [f"{size}_patch{PATCH}_{pixels}" for size in SIZES for pixels in (224, 384, 480)]


def architecture(name: str) -> VlmoConfig:
    """The sizes behind a name such as base_patch16_224: a published network, at any picture size.

    Raises:
        UnknownNameError: no such network.
        SettingsError: pictures of that size cannot be cut into patches.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise unknown_name("VLMo architecture", name, PUBLISHED)
    size, pixels = match[1], int(match[2])
    if pixels < PATCH or pixels % PATCH:
        raise SettingsError(
            f"VLMo architecture '{name}': {pixels} pixels are not a multiple of {PATCH}, the side of a patch. "
            f"Published are 224, 384 and 480, as in {size}_patch{PATCH}_224."
        )
    return VlmoConfig(architecture=name, image_size=pixels, **SIZES[size])
