"""timm: any picture model of timm (ResNet, ViT, ConvNeXt, DINOv2, ...), the features before its classifier.

He et al. 2016, "Deep Residual Learning for Image Recognition".
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmenc_plugin.encoders._depths import Tower
from mmenc_plugin.encoders._pictures import PictureRule
from mmenc_plugin.encoders._weights import building, is_local, licence_of, load_state, not_loaded, weights_digest
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, register
from mmenc_plugin.errors import MissingExtraError, MmencError, SettingsError, WeightsError, unknown_name
from mmenc_plugin.types import Citation

_SCHEMES = ("local-dir:", "hf-hub:")
_OLDEST = (1, 0, 27)  # before it, timm ran whatever code a weights file held
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # of training checkpoints, in timm's order


@register
class Timm(Encoder):
    """A picture model without its classifier: pooled features, as `forward_head(..., pre_logits=True)` gives them."""

    family = "timm"
    modalities = frozenset({"image"})
    example = "timm:resnet50.a1_in1k"
    extra = "timm"
    citation = Citation(
        "Deep Residual Learning for Image Recognition",
        "He et al.",
        2016,
        "https://arxiv.org/abs/1512.03385",
    )
    towers = (Tower("image", r"", frozenset({"image", "itc"})),)
    local = "local-dir:"

    def __init__(self, model: Any, weights: str) -> None:
        super().__init__()
        self.model = model
        self._transform, self.picture = _picture_way(model)
        self.spec = EncoderSpec(
            family="timm",
            architecture=model.pretrained_cfg["architecture"],
            weights=weights,
            weights_sha256=weights_digest(model),
            width={"image": self._width()},
            preprocessing={"image": self.picture.as_dict()},
            licence=_licence(model.pretrained_cfg, weights),
        )

    @classmethod
    def library(cls, module: str) -> Any:
        """As of the base class; a timm that runs code in weights files counts as none."""
        timm = super().library(module)
        if tuple(int(part) for part in timm.__version__.split(".")[:3]) < _OLDEST:
            old = ImportError(
                f"timm {timm.__version__} runs code that a weights file may hold; 1.0.27 and newer do not"
            )
            raise MissingExtraError(f"the encoder family {cls.family}", cls.extra, old)
        return timm

    @classmethod
    def check(cls, rest: str) -> None:
        """Architecture and tag are ones that timm lists, and weights are named."""
        timm = cls.library("timm")
        if rest.startswith(_SCHEMES):
            return
        name, weights = _split(rest)
        architecture, _, tag = name.partition(".")
        if architecture not in timm.list_models():
            raise unknown_name("timm architecture", architecture, timm.list_models())
        tags = timm.list_pretrained(f"{architecture}.*")
        if tag and name not in tags:
            raise unknown_name("timm model", name, tags)
        if not tag and not weights:
            named = f", where <tag> is one of {', '.join(t.partition('.')[2] for t in tags)}" if tags else ""
            raise SettingsError(
                f"encoder 'timm:{rest}' names no weights. Write timm:{architecture}.<tag>{named}; "
                f"timm:{architecture}//path/to/file for your own; timm:{architecture}/random for random ones."
            )
        if weights and weights != "random" and not is_local(weights):
            raise WeightsError(
                f"'timm:{rest}': there is no file {weights}. Name weights by path, or by tag behind a dot."
            )

    @classmethod
    def from_rest(cls, rest: str) -> Timm:
        """See the base class."""
        timm = cls.library("timm")
        name, weights = (rest, rest) if rest.startswith(_SCHEMES) else _split(rest)
        local = bool(weights) if name != rest else rest.startswith("local-dir:")
        try:
            with building():
                if weights == "random":
                    model = timm.create_model(name, num_classes=0)
                elif name != rest:
                    model = _with_file(timm, name, Path(weights).expanduser())
                else:
                    model = timm.create_model(name, pretrained=True)
                model.reset_classifier(0)
                return cls(model.eval(), weights or rest.partition(".")[2])
        except MmencError:
            raise
        except Exception as error:  # timm raises what its downloads and torch raise
            path = "local-dir:/path/to/folder" if name.startswith(_SCHEMES) else f"{name}//path/to/model.safetensors"
            by_hand = f"bring the weights alone and name them by path: timm:{path}"
            raise not_loaded(f"timm:{rest}", error, local=local, by_hand=by_hand) from error

    def prepare_image(self, image: Image.Image) -> Tensor:
        """Timm's own evaluation transform up to its uint8 pixels: a picture, in RGB as timm reads it -> [3, H, W]."""
        return self._transform(image.convert("RGB"))  # type: ignore[no-any-return]

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, D]."""
        return self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)  # type: ignore[no-any-return]

    def write(self, folder: Path) -> None:
        """As timm's local-dir: has it."""
        from timm.models import save_for_hf

        save_for_hf(self.model, str(folder), safe_serialization=True)

    def _width(self) -> int:
        with torch.no_grad():
            out = self.encode_image(torch.zeros(1, 3, self.picture.height, self.picture.width))
        if out.ndim != 2:
            raise SettingsError(f"this model gives features {list(out.shape)}, not one row [B, D] for each picture.")
        return int(out.shape[1])


def _split(rest: str) -> tuple[str, str]:
    name, _, weights = rest.partition("/")
    return name, weights


def _with_file(timm: Any, name: str, path: Path) -> Any:
    """The model with the weights of a file, none missing and none over; its classifier is as large as the file's."""
    with torch.serialization.safe_globals([argparse.Namespace]):  # the settings in timm's training checkpoints
        loaded: dict[str, Any] = dict(load_state(path))
    state = next((loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), dict)), loaded)
    state = {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in state.items()}
    head = getattr(timm.get_pretrained_cfg(name), "classifier", None)
    head = head[0] if isinstance(head, (tuple, list)) else head
    classes = len(state[f"{head}.weight"]) if f"{head}.weight" in state else 0
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
    return timm.create_model(name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)


def _picture_way(model: Any) -> tuple[Any, PictureRule]:
    """Timm's evaluation transform without its last two steps (to floats, normalise), and the rule it follows."""
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.transforms import Compose, Normalize, PILToTensor

    config = resolve_model_data_config(model)
    steps = create_transform(**config, is_training=False).transforms
    if not isinstance(steps[-1], Normalize) or "ToTensor" not in type(steps[-2]).__name__:
        raise TypeError(f"this version of timm ends its transform in {steps[-2:]}, not in ToTensor and Normalize.")
    _, height, width = config["input_size"]
    resize, resize_to = _resize(config)
    rule = PictureRule(
        height,
        width,
        tuple(config["mean"]),
        tuple(config["std"]),
        resize=resize,
        resize_to=resize_to,
        resample=config["interpolation"],
        detail=repr(steps[:-2]) if resize == "other" else "",
    )
    return Compose([*steps[:-2], PILToTensor()]), rule


def _resize(config: dict[str, Any]) -> tuple[Any, int]:
    """How `PictureRule` names timm's resizing: (resize, resize_to)."""
    _, height, width = config["input_size"]
    share, mode = config["crop_pct"], config["crop_mode"]
    if config["interpolation"] in ("bicubic", "bilinear") and share <= 1:
        if mode == "squash" and share == 1:
            return "squash", 0
        if mode == "center" and height == width:
            return "shortest", int(height / share)
    return "other", 0


def _licence(config: dict[str, Any], weights: str) -> str:
    if weights == "random":
        return "unknown"
    return config.get("license") or (licence_of(config["hf_hub_id"]) if config.get("hf_hub_id") else "unknown")
