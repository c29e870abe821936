"""Pictures by way of a Hugging Face image processor: its own pixels in two steps, up to uint8 and from there."""

from __future__ import annotations

import json
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmenc_plugin.encoders._pictures import PictureRule
from mmenc_plugin.errors import SettingsError

_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_TO_FLOATS = ("do_rescale", "do_normalize", "include_top")  # the steps behind the uint8 pixels; include_top: ALIGN's
_TO_PIXELS = ("do_resize", "do_center_crop", "do_pad")


class Pictures:
    """Of a processor that makes [3, H, W] of a picture.

    A processor's rescaling and normalising take each pixel by itself, so they are read off once, for all 256
    values, and looked up from there: its bits whatever its arithmetic, and quicker.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._told: dict[str, Any] = processor.to_dict()
        self._levels = self._read_levels()
        self.rule = self._rule()

    def prepare(self, image: Image.Image) -> Tensor:
        """A picture -> uint8 [3, H, W], or what else the processor makes of it."""
        return self._processed(image, without=_TO_FLOATS)["pixel_values"][0]  # type: ignore[no-any-return]

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32, as the processor rescales and normalises them."""
        return torch.stack([self._look_up(pixels[:, channel], channel) for channel in range(3)], dim=1)

    def inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels -> arguments of the network."""
        return {"pixel_values": pixels}

    def _processed(self, image: Image.Image, without: tuple[str, ...], **options: Any) -> Any:
        # A processor that does not convert takes RGB alone.
        image = image if self._told.get("do_convert_rgb") else image.convert("RGB")
        off = {step: False for step in without if self._told.get(step)}
        return self.processor(image, return_tensors="pt", **off, **options)

    def _read_levels(self) -> Tensor:
        """What becomes of each of the 256 values: [3, 256]."""
        strip = Image.frombytes("L", (16, 16), bytes(range(256))).convert("RGB")
        return self._processed(strip, without=_TO_PIXELS)["pixel_values"][0].reshape(3, 256)  # type: ignore[no-any-return]

    def _look_up(self, values: Tensor, channel: int) -> Tensor:
        table = self._levels[channel].to(values.device)
        return table.index_select(0, values.flatten().int()).view(values.shape)

    def _rule(self) -> PictureRule:
        """What the processor does, in `PictureRule`'s words where they can say it."""
        square, wide = (self.prepare(Image.new("RGB", size)) for size in ((64, 64), (64, 32)))
        shape = tuple(square.shape)
        if shape != wide.shape or len(shape) != 3 or square.dtype != torch.uint8:
            raise SettingsError(
                f"the image processor {type(self.processor).__name__} makes {square.dtype} {list(shape)} of one "
                f"picture and {list(wide.shape)} of another, which no batch can hold. Name a model whose processor "
                "makes [3, H, W] of one size."
            )
        resize, resize_to = _resize(self._told)
        return self._described(shape[1], shape[2], resize=resize, resize_to=resize_to, crop="floor")

    def _described(self, height: int, width: int, **rule: Any) -> PictureRule:
        transparent = self.prepare(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
        told = {name: value for name, value in self._told.items() if not name.startswith("_")}
        return PictureRule(
            height,
            width,
            tuple(told["image_mean"]),
            tuple(told["image_std"]),
            resample=_FILTERS.get(told.get("resample", 0), "bicubic"),  # type: ignore[arg-type]
            alpha="white" if transparent.max() == 255 else "drop",
            detail=f"{type(self.processor).__name__} {json.dumps(told, sort_keys=True, default=str)}",
            **rule,
        )


def _resize(told: dict[str, Any]) -> tuple[Any, int]:
    """How `PictureRule` names a processor's resizing: (resize, resize_to)."""
    size = {name: value for name, value in (told.get("size") or {}).items() if value}
    crop = {name: value for name, value in (told.get("crop_size") or {}).items() if value}
    other = not told.get("do_resize") or told.get("do_pad") or told.get("resample") not in _FILTERS
    if not other and set(size) == {"height", "width"} and not told.get("do_center_crop"):
        return "squash", 0
    if not other and set(size) == {"shortest_edge"} and told.get("do_center_crop"):
        side = crop.get("height", 0)
        if side == crop.get("width") and side <= size["shortest_edge"]:
            return "shortest", int(size["shortest_edge"])
    return "other", 0


class PatchedPictures(Pictures):
    """Of SigLIP 2's NaFlex processor, which keeps a picture's shape and cuts it into at most P patches.

    A picture is one tensor uint8 [P + 1, C]: its patches, row by row, C = side * side * 3 values each, empty ones
    behind them, and in a last row the number of patches down and across, as two bytes each.
    """

    def prepare(self, image: Image.Image) -> Tensor:
        """A picture -> uint8 [P + 1, C]."""
        out = self._processed(image, without=_TO_FLOATS)
        patches, (down, across) = out["pixel_values"][0], out["spatial_shapes"][0].tolist()
        last = torch.zeros_like(patches[:1])
        last[0, :4] = torch.tensor([down % 256, down // 256, across % 256, across // 256])
        return torch.cat([patches, last])

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [B, P + 1, C] -> float32, empty patches zero and the last row as it is."""
        channels = pixels.view(*pixels.shape[:2], -1, 3)
        out = torch.stack([self._look_up(channels[..., c], c) for c in range(3)], dim=-1).flatten(2)
        out[:, :-1].masked_fill_(self._mask(pixels).unsqueeze(2) == 0, 0)
        out[:, -1] = pixels[:, -1].float()
        return out

    def inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """[B, P + 1, C] -> patches [B, P, C], which of them count [B, P], and their numbers down and across [B, 2]."""
        return {
            "pixel_values": pixels[:, :-1],
            "pixel_attention_mask": self._mask(pixels),
            "spatial_shapes": _shapes(pixels),
        }

    def _mask(self, pixels: Tensor) -> Tensor:
        places = torch.arange(pixels.shape[1] - 1, device=pixels.device)
        return (places < _shapes(pixels).prod(dim=1, keepdim=True)).int()

    def _read_levels(self) -> Tensor:
        side = self.processor.patch_size
        grid = Image.frombytes("L", (16, 16), bytes(range(256))).convert("RGB").resize((16 * side,) * 2, 0)
        out = self._processed(grid, without=_TO_PIXELS, max_num_patches=256)["pixel_values"][0]
        return out[:, :3].T.contiguous()  # type: ignore[no-any-return]

    def _rule(self) -> PictureRule:
        side = int(self._told["patch_size"])
        return self._described(side, side * int(self._told["max_num_patches"]), resize="other")


def _shapes(pixels: Tensor) -> Tensor:
    """The numbers of patches down and across that the last row holds: [B, 2]."""
    last = pixels[:, -1, :4].long()
    return last[:, 0::2] + 256 * last[:, 1::2]


def pictures_of(processor: Any) -> Pictures:
    """The way of a processor."""
    return PatchedPictures(processor) if "max_num_patches" in processor.to_dict() else Pictures(processor)
