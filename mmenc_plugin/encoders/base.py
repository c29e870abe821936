"""What an encoder is: a network with its own preprocessing, complete when constructed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from mmenc_plugin.data.media import open_image
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.encoders._learning import Learning
from mmenc_plugin.encoders._pictures import PictureRule, normalize, prepare_fast
from mmenc_plugin.encoders._weights import is_local as is_local
from mmenc_plugin.encoders._weights import weights_digest as weights_digest
from mmenc_plugin.errors import MissingExtraError, SettingsError
from mmenc_plugin.registry import Registry
from mmenc_plugin.types import Citation, Modality

Tokens = dict[str, Tensor]
Precision = Literal["float32", "bfloat16"]
Preparation = Literal["exact", "fast"]


@dataclass(frozen=True)
class EncoderSpec:
    """Everything about an encoder that its outputs depend on; part of the recipe of its features.

    Attributes:
        family: the URI's part before the colon.
        architecture: name of the network.
        weights: tag, hub id, path, "random", or "none" for an encoder that has none.
        weights_sha256: of the weights' bytes, "" where there are none.
        width: D of each modality's output.
        preprocessing: by modality, how pictures and texts are prepared (sizes, means, resampling, token
            limits), and what else the outputs depend on and the weights do not tell.
        licence: of the weights, as far as known.
        precision: of the weights and of the computation; `build` sets it.
        preparation: exact is the encoder's own library's pixels, fast a quicker decoder and resize
            (a grey level apart); `build` sets it.
    """

    family: str
    architecture: str
    weights: str
    weights_sha256: str
    width: dict[str, int]
    preprocessing: dict[str, Any]
    licence: str = "unknown"
    precision: Precision = "float32"
    preparation: Preparation = "exact"

    def recipe(self) -> dict[str, Any]:
        """The part of the spec that decides the outputs; a path does not, the bytes behind it do."""
        parts = asdict(self)
        parts.pop("licence")
        if self.weights_sha256:
            parts.pop("weights")
        return parts


class Encoder(Learning):
    """Base of all encoders.

    A family sets the class attributes, builds itself from the URI's rest in `from_rest`, fills
    `self.spec` (and `self.picture`, if it takes pictures), and implements the methods of its
    modalities. The output for an item may not depend
    on the rest of its batch, and preprocessing may not be random.
    """

    family: ClassVar[str]
    modalities: ClassVar[frozenset[Modality]]
    citation: ClassVar[Citation]
    example: ClassVar[str]
    extra: ClassVar[str] = ""
    ready: ClassVar[bool] = False  # nothing is encoded; see ReadyFeatures

    spec: EncoderSpec
    picture: PictureRule  # of encoders that take pictures

    @classmethod
    def check(cls, rest: str) -> None:
        """Look at the URI's part after the colon, without loading weights.

        Raises:
            UnknownNameError: an architecture or a weights tag that does not exist.
            MissingExtraError: the family's library is not installed.
        """
        raise NotImplementedError

    @classmethod
    def from_rest(cls, rest: str) -> Encoder:
        """Build the encoder that the URI's part after the colon names, on the CPU.

        Raises:
            WeightsError: the weights cannot be found or loaded.
        """
        raise NotImplementedError

    @classmethod
    def library(cls, module: str) -> Any:
        """Import the library that the family stands on, whatever torchvision lies beside it.

        Raises:
            MissingExtraError: it is not installed; the message has the line that installs it.
        """
        _torchvision.state()
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(f"the encoder family {cls.family}", cls.extra, error) from error

    def prepare_image(self, image: Image.Image) -> Tensor:
        """A picture of any size and mode -> uint8 [3, H, W], resized and cropped as the encoder's own library does."""
        raise NotImplementedError

    def normalize(self, pixels: Tensor) -> Tensor:
        """Prepared pictures, uint8 [B, 3, H, W] -> float32 [B, 3, H, W] as the network takes them."""
        return normalize(pixels, self.picture)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> named tensors [B, L]."""
        raise NotImplementedError

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> features [B, D]."""
        raise NotImplementedError

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> features [B, D]."""
        raise NotImplementedError

    def encode_pair(self, pixels: Tensor, tokens: Tokens) -> Tensor:
        """Normalised pixels [B, 3, H, W] and tokens [B, L] -> features [B, D] of both together; joint encoders only."""
        raise NotImplementedError

    def token_counts(self, texts: Sequence[str]) -> Tensor | None:
        """Tokens of each text before any is cut, special ones included: [B] int64, or None if that is not known."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for an encoder that has none."""
        return self._weight.device

    @property
    def _weight(self) -> Tensor:
        return next(self.parameters(), torch.empty(0))

    def prepare_file(self, path: Path) -> Tensor:
        """The picture in a file -> uint8 [3, H, W], in the way that the spec's `preparation` names.

        Raises:
            MediaError: the file does not hold a picture that is taken.
        """
        if self.spec.preparation == "fast":
            return prepare_fast(path, self.picture, exact=self.prepare_image)
        return self.prepare_image(open_image(path))

    def preprocess_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size and mode -> normalised pixels [B, 3, H, W] float32."""
        return self.normalize(torch.stack([self.prepare_image(image) for image in images]))

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image | Path | str]) -> Tensor:
        """Pictures, or paths of pictures -> features [B, D] float32 on the CPU.

        Raises:
            MediaError: a path that does not hold a picture that is taken.
        """
        return self.embed("image", [self._prepared(image) for image in images])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> features [B, D] float32 on the CPU."""
        return self.embed("text", texts)

    @torch.no_grad()
    def embed_pairs(self, images: Sequence[Image.Image | Path | str], texts: Sequence[str]) -> Tensor:
        """Pictures with their texts -> features [B, D] float32 on the CPU; joint encoders only.

        Raises:
            MediaError: a path that does not hold a picture that is taken.
        """
        return self.embed("fused", list(zip(map(self._prepared, images), texts, strict=True)))

    def embed(self, modality: Modality, inputs: Sequence[Any]) -> Tensor:
        """What the encoder makes of B items: features [B, D] float32 on the CPU.

        Args:
            modality: one of the encoder's.
            inputs: B prepared pictures uint8 [3, H, W], B texts, or (fused) B pairs of the two.
        """
        return self.forward(modality, inputs).float().cpu()

    def forward(self, modality: Modality, inputs: Sequence[Any]) -> Tensor:
        """As `embed`, but where the weights are, in their precision, and with a gradient where they have one."""
        if not inputs:
            return self._weight.new_zeros(0, self.spec.width[modality])
        if modality == "image":
            return self.encode_image(self._pixels(inputs))
        if modality == "text":
            return self.encode_text(self._tokens(inputs))
        pictures, texts = zip(*inputs, strict=True)
        return self.encode_pair(self._pixels(pictures), self._tokens(texts))

    def _prepared(self, image: Image.Image | Path | str) -> Tensor:
        return self.prepare_image(image) if isinstance(image, Image.Image) else self.prepare_file(Path(image))

    def _pixels(self, prepared: Sequence[Tensor]) -> Tensor:
        return self.normalize(torch.stack(list(prepared)).to(self.device)).to(self._weight.dtype)

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        return {name: tensor.to(self.device) for name, tensor in self.tokenize(list(texts)).items()}


registry: Registry[type[Encoder]] = Registry("encoder family", "mmenc_plugin.encoders", "mmenc.encoders")


def register(encoder: type[Encoder]) -> type[Encoder]:
    """Class decorator: make a family known under its `family` name."""
    return registry.add(encoder.family)(encoder)


def check(uri: str, modality: Modality | None = None) -> None:
    """Whether a URI names an encoder (that takes a modality), without loading weights.

    Raises:
        UnknownNameError: no such family, architecture or weights tag.
        SettingsError: the family does not take the modality.
        MissingExtraError: the family's library is not installed.
    """
    family, rest = _split(uri)
    kind = registry.get(family)
    if modality and modality not in kind.modalities:
        takers = [name for name, other in registry if modality in other.modalities]
        raise SettingsError(
            f"encoder '{uri}' takes {' and '.join(sorted(kind.modalities))}, not {modality}. Families that take "
            f"{modality}: {', '.join(takers)}. Name one for each modality, as in "
            "encoder: {image: classic, text: sbert:all-MiniLM-L6-v2}, or set modalities."
        )
    kind.check(rest)


def build(
    uri: str,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    preparation: Preparation = "exact",
) -> Encoder:
    """The encoder that a URI names, ready to encode.

    Args:
        uri: `family:architecture/weights`, e.g. "openclip:ViT-B-32/laion2b_s34b_b79k" or "classic".
        device: where it computes.
        precision: bfloat16 casts the weights: about twice as fast where the processor knows it.
        preparation: of pictures. exact: the pixels of the encoder's own library, bit for bit; fast: a quicker
            decoder and resize, at most a grey level or two apart.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        UnknownNameError: no such family, architecture or weights tag.
        WeightsError: the weights cannot be found or loaded.
        MissingExtraError: the family's library is not installed.
        SettingsError: the encoder's way with pictures has no fast form.
    """
    check(uri)
    family, rest = _split(uri)
    encoder = registry.get(family).from_rest(rest)
    encoder.fixed = frozenset(name for name, parameter in encoder.named_parameters() if not parameter.requires_grad)
    if encoder.ready:
        return encoder.eval()  # neither precision nor preparation concerns values that are there
    if preparation == "fast" and "image" in encoder.modalities and not encoder.picture.has_fast_form:
        raise SettingsError(f"encoder '{uri}' prepares pictures in a way that has no fast form. Use exact.")
    encoder.spec = replace(encoder.spec, precision=precision, preparation=preparation)
    return encoder.to(device, getattr(torch, precision)).eval()


def _split(uri: str) -> tuple[str, str]:
    family, _, rest = uri.partition(":")
    return family, rest
