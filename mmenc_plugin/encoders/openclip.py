"""openclip: CLIP and its kin through OpenCLIP, any architecture and weights it knows.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

To the architectures that OpenCLIP lists two small ones are added, for pictures of 64 pixels and texts of 32 tokens:
ViT-Ti-8-64 (four blocks of width 128 for pictures, three for texts) and ViT-S-8-64 (six and four of width 256).
Nobody publishes weights for them: they are there to be trained from random ones (openclip:ViT-Ti-8-64/random), or
built from your own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mmenc_plugin.encoders._depths import Tower
from mmenc_plugin.encoders._pictures import PictureRule
from mmenc_plugin.encoders._weights import building, check_vocabulary, licence_of, not_loaded
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, Tokens, is_local, register, weights_digest
from mmenc_plugin.errors import SettingsError, WeightsError, unknown_name
from mmenc_plugin.types import Citation

_OWN = Path(__file__).parent / "_openclip"  # architectures that this package adds
_SCHEMES = ("local-dir:", "hf-hub:")
# No entry of CLIP's vocabulary is longer than 32 bytes, so what is cut here lies beyond any context length.
_LONGEST_TOKEN = 64


@register
class OpenClip(Encoder):
    """Both towers of a CLIP; features as they come out of the projections, not normalised."""

    family = "openclip"
    modalities = frozenset({"image", "text"})
    example = "openclip:ViT-B-32/laion2b_s34b_b79k"
    extra = "openclip"
    citation = Citation(
        "Learning Transferable Visual Models From Natural Language Supervision",
        "Radford et al.",
        2021,
        "https://arxiv.org/abs/2103.00020",
    )
    towers = (
        Tower("image", r"model\.visual\.", frozenset({"image", "itc"})),
        Tower("text", r"model\.text\.", frozenset({"text", "itc"})),
    )
    local = "local-dir:"

    def __init__(
        self, model: Any, tokenizer: Any, architecture: str, weights: str, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._config = config or {}
        self.model, self._tokenizer = model, _quick(tokenizer)
        self._can_be_short = _is_causal(model)
        self._transform, self.picture = _picture_way(dict(model.visual.preprocess_cfg))
        width = _widths(model, self)
        gelu = next(type(m).__name__ for m in model.modules() if "gelu" in type(m).__name__.lower())
        self.spec = EncoderSpec(
            family="openclip",
            architecture=architecture,
            weights=weights,
            weights_sha256=weights_digest(model),
            width=width,
            preprocessing={
                "image": {"gelu": gelu} | self.picture.as_dict(),
                "text": {
                    "gelu": gelu,
                    "tokenizer": type(tokenizer).__name__,
                    "max_tokens": int(tokenizer.context_length),
                },
            },
            licence=_licence(architecture, weights),
        )

    @classmethod
    def library(cls, module: str) -> Any:
        """As of the base class; OpenCLIP learns the small architectures that this package adds."""
        open_clip = super().library(module)
        if not {path.stem for path in _OWN.glob("*.json")} <= set(open_clip.list_models()):
            open_clip.add_model_config(_OWN)
        return open_clip

    @classmethod
    def check(cls, rest: str) -> None:
        """Architecture and tag are ones that OpenCLIP lists, or the weights are a path."""
        open_clip = cls.library("open_clip")
        if rest.startswith(_SCHEMES):
            return
        architecture, weights = _split(rest)
        if architecture not in open_clip.list_models():
            raise unknown_name("OpenCLIP architecture", architecture, open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if weights == "random" or is_local(weights) or open_clip.is_pretrained_cfg(architecture, weights):
            return
        raise unknown_name(f"OpenCLIP weights tag of {architecture}", weights, [*tags, "random"])

    @classmethod
    def from_rest(cls, rest: str) -> OpenClip:
        """See the base class."""
        open_clip = cls.library("open_clip")
        if rest.startswith(_SCHEMES):
            architecture, weights, name, options = rest.partition(":")[0], rest, rest, {"require_pretrained": True}
        else:
            architecture, weights = _split(rest)
            name, options = architecture, _options(open_clip, architecture, weights)
        try:
            with building():
                model = open_clip.create_model(name, force_custom_text=True, **options)
                tokenizer = open_clip.get_tokenizer(name)
                config = open_clip.get_model_config(name)
        except Exception as error:  # OpenCLIP raises what its downloads and torch raise
            raise _weights_error(rest, weights, error) from error
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            check_vocabulary(f"openclip:{rest}", tokenizer.vocab_size - 1, model.vocab_size)
        config |= {
            "custom_text": True,
            "quick_gelu": options.get("force_quick_gelu") or config.get("quick_gelu", False),
        }
        return cls(model, tokenizer, architecture, weights, config)

    def prepare_image(self, image: Image.Image) -> Tensor:
        """OpenCLIP's own evaluation transform up to its uint8 pixels: a picture -> [3, H, W]."""
        return self._transform(image)  # type: ignore[no-any-return]

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> `ids` [B, L], cut at the tower's context length (77 tokens).

        Padded to the longest of the batch where the tower cannot see what follows a text, else to the context length.
        """
        ids = self._tokenizer(list(texts))
        return {"ids": ids[:, : _ends(self.model.text, ids) + 1] if self._can_be_short else ids}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, D]."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> [B, D]."""
        ids, text = tokens["ids"], self.model.text
        if not self._can_be_short:
            return self.model.encode_text(ids)  # type: ignore[no-any-return]
        length = ids.shape[1]
        # OpenCLIP cuts the positions to a shorter text, but not the mask.
        return torch.func.functional_call(text, {"attn_mask": text.attn_mask[:length, :length]}, (ids,))  # type: ignore[no-any-return]

    def token_counts(self, texts: Sequence[str]) -> Tensor | None:
        """See the base class; known of OpenCLIP's byte pairs and of its plain Hugging Face tokenizers."""
        tokenizer = self._tokenizer
        if type(tokenizer).__name__ == "SimpleTokenizer":
            counts = [len(tokenizer.encode(text)) + 2 for text in texts]
        elif type(tokenizer).__name__ == "HFTokenizer" and not tokenizer.tokenizer_mode:
            cleaned = [tokenizer.clean_fn(text) for text in texts]
            counts = [len(tokenizer.tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in cleaned]
        else:
            return None
        return torch.tensor(counts, dtype=torch.int64)

    def write(self, folder: Path) -> None:
        """As OpenCLIP's local-dir: has it: configuration, weights, and a tokenizer that comes in files."""
        if getattr(self._tokenizer, "tokenizer", None) is not None:
            self._tokenizer.tokenizer.save_pretrained(folder)
        config = {"model_cfg": self._config, "preprocess_cfg": dict(self.model.visual.preprocess_cfg)}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")


def _split(rest: str) -> tuple[str, str]:
    architecture, _, weights = rest.partition("/")
    if not weights:
        raise SettingsError(
            f"encoder 'openclip:{rest}' names no weights. Write openclip:{architecture or 'ViT-B-32'}/<tag or path>, "
            "or .../random for random weights."
        )
    return architecture, weights


def _options(open_clip: Any, architecture: str, weights: str) -> dict[str, Any]:
    """Arguments of `create_model`: a tag brings its activation along, which the architecture's may not be."""
    if weights == "random":
        return {"pretrained_text": False}
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    pretrained = weights if tag else str(Path(weights).expanduser())
    return {"pretrained": pretrained, "require_pretrained": True, "force_quick_gelu": bool(tag.get("quick_gelu"))}


def _picture_way(config: dict[str, Any]) -> tuple[Any, PictureRule]:
    """OpenCLIP's evaluation transform, without its last two steps (to floats, normalise), and the rule it follows."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose, Normalize, PILToTensor

    steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
    if not isinstance(steps[-1], Normalize) or "ToTensor" not in type(steps[-2]).__name__:
        raise TypeError(f"this version of OpenCLIP ends its transform in {steps[-2:]}, not in ToTensor and Normalize.")
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    plain = config["resize_mode"] == "squash" or (config["resize_mode"] == "shortest" and height == width)
    rule = PictureRule(
        height,
        width,
        tuple(config["mean"]),
        tuple(config["std"]),
        resize=config["resize_mode"] if plain else "other",
        resize_to=height,
        resample=config["interpolation"],
        detail="" if plain else repr(steps[:-2]),
    )
    return Compose([*steps[:-2], PILToTensor()]), rule


def _widths(model: Any, encoder: OpenClip) -> dict[str, int]:
    with torch.no_grad():
        text = encoder.encode_text(encoder.tokenize(["a"]))
    size = getattr(model.visual, "output_dim", None) or text.shape[1]
    return {"image": int(size), "text": int(text.shape[1])}


def _weights_error(rest: str, weights: str, error: Exception) -> WeightsError:
    named = rest if rest.startswith(_SCHEMES) else rest.partition("/")[0]
    path = "local-dir:/path/to/folder" if named == rest else f"{named}//path/to/open_clip_model.safetensors"
    return not_loaded(
        f"openclip:{rest}",
        error,
        local=is_local(weights) or rest.startswith("local-dir:"),
        by_hand=f"bring the weights alone and name them by path: openclip:{path}",
    )


def _licence(architecture: str, weights: str) -> str:
    if weights.startswith(_SCHEMES):
        return licence_of(weights.partition(":")[2])
    from open_clip import get_pretrained_cfg

    source = get_pretrained_cfg(architecture, weights)
    return licence_of("/".join(source["hf_hub"].split("/")[:2])) if source.get("hf_hub") else "unknown"


def _quick(tokenizer: Any) -> Any:
    """CLIP's tokenizer takes time by the square of a word's length: what no token can reach is cut before it."""
    from open_clip import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        tokenizer.clean_fn = partial(_cleaned, tokenizer.clean_fn, _LONGEST_TOKEN * tokenizer.context_length)
    return tokenizer


def _cleaned(clean: Callable[[str], str], most: int, text: str) -> str:
    return clean(text)[:most]


def _is_causal(model: Any) -> bool:
    """Whether a text's features are read at its end, and from nothing behind it."""
    from open_clip.transformer import TextTransformer

    text = model.text
    return (
        isinstance(text, TextTransformer)
        and text.attn_mask is not None
        and text.cls_emb is None
        and text.pool_type in ("argmax", "eos")
    )


def _ends(text: Any, ids: Tensor) -> int:
    """The position of the end of the longest text, where the tower reads it."""
    marks = ids if text.pool_type == "argmax" else (ids == text.eos_id).int()
    return int(marks.argmax(dim=1).max())
