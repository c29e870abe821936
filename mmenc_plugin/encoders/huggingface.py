"""hf: models with an image and a text tower through transformers: CLIP, SigLIP, SigLIP 2, ALIGN and their kin.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmenc_plugin.encoders._depths import Place, Tower
from mmenc_plugin.encoders._processors import pictures_of
from mmenc_plugin.encoders._weights import (
    building,
    check_keys,
    check_vocabulary,
    is_local,
    licence_of,
    not_loaded,
    tokenizer_digest,
    weights_digest,
)
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, Tokens, register
from mmenc_plugin.errors import MmencError, SettingsError, WeightsError
from mmenc_plugin.types import Citation

_WITHOUT_POOLER = ("align", "altclip", "chinese_clip")  # read a text's first token as it is; BERT's pooler lies idle


@register
class HuggingFace(Encoder):
    """Both towers of a model; features as `get_image_features` and `get_text_features` give them, not normalised."""

    family = "hf"
    modalities = frozenset({"image", "text"})
    example = "hf:google/siglip2-base-patch16-224"
    extra = "hf"
    citation = Citation(
        "Sigmoid Loss for Language Image Pre-Training",
        "Zhai et al.",
        2023,
        "https://arxiv.org/abs/2303.15343",
    )
    towers = (
        Tower("image", r"model\.(vision|visual|image)_", frozenset({"image", "itc"})),
        Tower("text", r"model\.text_", frozenset({"text", "itc"})),
    )

    def __init__(self, model: Any, processor: Any, tokenizer: Any, weights: str) -> None:
        super().__init__()
        self.model, self._tokenizer = model, tokenizer
        self._pictures = pictures_of(processor)
        self.picture = self._pictures.rule
        self._limit = _limit(model.config, tokenizer)
        # SigLIP's towers read a text at the end of its padding, which they were trained with; the others mask it.
        self._padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
        self.spec = EncoderSpec(
            family="hf",
            architecture=type(model).__name__,
            weights=weights,
            weights_sha256=weights_digest(model),
            width=self._widths(),
            preprocessing={
                "image": {"network": _choices(model.config, "vision")} | self.picture.as_dict(),
                "text": {
                    "network": _choices(model.config, "text"),
                    "max_tokens": self._limit,
                    "padding": self._padding,
                    "tokenizer_sha256": tokenizer_digest(tokenizer),
                },
            },
            licence=licence_of(weights),
        )

    @classmethod
    def check(cls, rest: str) -> None:
        """A hub id, or a local folder that holds a model."""
        cls.library("transformers")
        if not rest:
            raise SettingsError(f"encoder 'hf:' names no model. Write hf:<hub id or folder>, e.g. {cls.example}")
        folder = Path(rest).expanduser()
        if is_local(rest) and not (folder / "config.json").is_file():
            raise WeightsError(
                f"'hf:{rest}': {folder} is not a folder of a transformers model: it has no config.json. Save one with "
                "save_pretrained of the model and of its processor."
            )

    @classmethod
    def from_rest(cls, rest: str) -> HuggingFace:
        """See the base class; `owner/name@revision` takes that branch, tag or commit."""
        cls.library("transformers")
        uri = f"hf:{rest}"
        try:
            with building():
                return cls(*_load(uri, rest), rest)
        except MmencError:
            raise
        except Exception as error:  # transformers raises what the hub, the files and torch raise
            by_hand = "save model and processor elsewhere with save_pretrained(folder) and name it: hf:/path/to/folder"
            raise not_loaded(uri, error, local=is_local(rest), by_hand=by_hand) from error

    def prepare_image(self, image: Image.Image) -> Tensor:
        """The image processor's pixels before it rescales them: a picture -> uint8 [3, H, W].

        SigLIP 2's NaFlex models keep a picture's shape: uint8 [P + 1, C], see `PatchedPictures`.
        """
        return self._pictures.prepare(image)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Prepared pictures uint8 [B, ...] -> float32 of the same shape, as the image processor has them."""
        return self._pictures.normalize(pixels)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> `input_ids` and what else the tokenizer gives, [B, L], cut at the tower's length."""
        return dict(
            self._tokenizer(
                list(texts), padding=self._padding, truncation=True, max_length=self._limit, return_tensors="pt"
            )
        )

    def token_counts(self, texts: Sequence[str]) -> Tensor:
        """See the base class."""
        counts = [len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in texts]
        return torch.tensor(counts, dtype=torch.int64)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> [B, D]."""
        return _pooled(self.model.get_image_features(**self._pictures.inputs(pixels)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> [B, D]."""
        return _pooled(self.model.get_text_features(**tokens))

    def write(self, folder: Path) -> None:
        """Model, image processor and tokenizer, as transformers saves them."""
        for part in (self.model, self._pictures.processor, self._tokenizer):
            part.save_pretrained(folder)

    def place(self, name: str, place: Place) -> Place:
        """See the base class."""
        if self.model.config.model_type in _WITHOUT_POOLER and ".pooler." in name:
            return replace(place, uses=frozenset())
        return place

    def _widths(self) -> dict[str, int]:
        """Run once at full length, so that what does not fit comes up now."""
        with torch.no_grad():
            image = self.encode_image(self.preprocess_images([Image.new("RGB", (64, 64))]))
            text = self.encode_text(self.tokenize(["a " * self._limit]))
        return {"image": int(image.shape[1]), "text": int(text.shape[1])}


def _load(uri: str, rest: str) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer of a hub id or folder, found to fit each other."""
    from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    name, _, revision = (str(Path(rest).expanduser()), "", "") if is_local(rest) else rest.partition("@")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    config = AutoConfig.from_pretrained(name, **options)
    _check_towers(uri, MODEL_MAPPING[type(config)])
    model, report = AutoModel.from_pretrained(
        name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    # Tables of positions, which older versions saved, are no weights.
    unexpected = [name for name in report["unexpected_keys"] if not name.endswith("position_ids")]
    # In transformers 4 a name, in 5 a name with both shapes.
    wrong_shape = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    check_keys(uri, report["missing_keys"], unexpected, wrong_shape)
    # Pillow's processors: torchvision's differ by a grey level, and are not there on every machine.
    processor = AutoImageProcessor.from_pretrained(name, use_fast=False, **options)
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    tables = [m.num_embeddings for m in getattr(model, "text_model", model).modules() if isinstance(m, nn.Embedding)]
    check_vocabulary(uri, max(tokenizer.get_vocab().values()), max(tables))
    return model, processor, tokenizer


def _check_towers(uri: str, model: type) -> None:
    """Before anything large is downloaded."""
    lacking = [name for name in ("get_image_features", "get_text_features") if not hasattr(model, name)]
    if lacking:
        raise SettingsError(
            f"'{uri}' is a {model.__name__}, which has no {' and no '.join(lacking)}. The family hf takes models "
            "with an image and a text tower: CLIP, SigLIP, ALIGN, ... For texts alone there is sbert:, for pictures "
            "alone timm:."
        )


def _limit(config: Any, tokenizer: Any) -> int:
    """The most tokens of a text: what the table of positions holds, or less if the tokenizer says so."""
    positions = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    limits = [int(limit) for limit in (positions, tokenizer.model_max_length) if limit and limit < 1e6]
    if not limits:
        raise SettingsError(
            f"neither the configuration of {type(config).__name__} nor its tokenizer says how long a text may be. "
            "Set model_max_length in tokenizer_config.json."
        )
    return min(limits)


def _choices(config: Any, tower: str) -> dict[str, Any]:
    """What a tower's output depends on and its weights do not tell."""
    told = getattr(config, f"{tower}_config", config)
    names = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps", "patch_size", "eos_token_id")
    return {name: value for name in names if isinstance(value := getattr(told, name, None), (str, int, float))}


def _pooled(out: Any) -> Tensor:
    """[B, D] of what a tower returns: a tensor in transformers 4, in 5 an output with it as `pooler_output`."""
    pooled: Tensor = out if isinstance(out, Tensor) else out.pooler_output
    if pooled.ndim != 2:
        raise SettingsError(f"the towers give features {list(pooled.shape)}, not one row [B, D] for each item.")
    return pooled
