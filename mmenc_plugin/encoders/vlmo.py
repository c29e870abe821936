"""vlmo: VLMo's picture, text and joint encoders, from the published checkpoints.

Bao et al. 2022, "VLMo: Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts".

The authors publish the weights under https://github.com/wenhui0924/vlmo_ckpts/releases (linked from the
readme of https://github.com/microsoft/unilm/tree/master/vlmo, whose licence is MIT):
vlmo_<base|base_plus|large>_patch16_224.pt of the pre-training, *_384_coco.pt and *_384_f30k.pt tuned for
retrieval, *_480_vqa.pt and *_384_nlvr2.pt tuned for questions. Nothing is downloaded: bring a file, and
name its path after its architecture. An architecture's name ends in the picture size, which may be any
multiple of 16; positions of a checkpoint of another size are resized.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmenc_plugin.encoders._depths import Place, Tower
from mmenc_plugin.encoders._pictures import PictureRule, to_rgb
from mmenc_plugin.encoders._vlmo import Vlmo, VlmoConfig, architecture, folder
from mmenc_plugin.encoders._vlmo.checkpoint import load_network
from mmenc_plugin.encoders._vlmo.config import NAME
from mmenc_plugin.encoders._vlmo.folder import save as save_network
from mmenc_plugin.encoders._vlmo.vocabulary import WordPieces, find_vocabulary
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, Tokens, is_local, register, weights_digest
from mmenc_plugin.errors import SettingsError, WeightsError
from mmenc_plugin.types import Citation

_ALL = frozenset({"image", "text", "fused", "itc", "itm", "mlm"})
_JOINT = frozenset({"fused", "itc", "itm", "mlm"})  # of the vision-language experts; itc's second branch has them
# What needs a parameter, by its name; the others are needed by everything.
_USES = {
    r"(mlp|norm2)_imag\.|patch_embed|cls_token|pos_embed": _ALL - {"text"},
    r"(mlp|norm2)_text\.|text_embeddings": _ALL - {"image"},
    r"(mlp|norm2)_vl\.": _JOINT,
    r"itc_image_proj": frozenset({"image", "itc"}),
    r"itc_text_proj": frozenset({"text", "itc"}),
    r"itc_vl_|logit_": frozenset({"itc"}),
    r"pooler": frozenset({"fused", "itm"}),
    r"itm_score": frozenset({"itm"}),
    r"mlm_score": frozenset({"mlm"}),
}
_PAGE = "https://github.com/wenhui0924/vlmo_ckpts/releases"


@register
class VlmoEncoder(Encoder):
    """A VLMo with its preprocessing.

    Pictures and texts go through their own experts alone, and their [CLS] through the contrast head: two
    vectors of unit length in one space. A picture with its text goes through the joint pass: the pooled
    [CLS], which the original's matching head and classifiers stand on.

    Args:
        network: the network.
        words: its vocabulary.
        weights: where they are from.
    """

    family = "vlmo"
    modalities = frozenset({"image", "text", "fused"})
    example = "vlmo:base_patch16_224//path/to/vlmo_base_patch16_224.pt"
    extra = "vlmo"
    citation = Citation(
        "VLMo: Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts",
        "Bao et al.",
        2022,
        "https://arxiv.org/abs/2111.02358",
    )
    towers = (Tower("multiway", r"", _ALL, stem=r"embed|cls_token|relative_position"),)

    def __init__(self, network: Vlmo, words: WordPieces, weights: str) -> None:
        super().__init__()
        self.network, self.words = network, words
        config, half = network.config, (0.5, 0.5, 0.5)
        self.picture = PictureRule(config.image_size, config.image_size, half, half, resize="squash")
        image = {"heads": config.heads} | self.picture.as_dict()
        text = {"heads": config.heads, "vocabulary_sha256": words.sha256, "max_tokens": config.max_tokens}
        self.spec = EncoderSpec(
            family="vlmo",
            architecture=config.architecture,
            weights=weights,
            weights_sha256=weights_digest(network),
            width=dict.fromkeys(sorted(self.modalities), config.width),
            preprocessing={"image": image, "text": text, "fused": {"image": image, "text": text}},
            licence="MIT",
        )

    @classmethod
    def check(cls, rest: str) -> None:
        """The architecture is known and the weights are `random` or a file; or all is a folder that `save` wrote."""
        cls.library("tokenizers")
        if path := _folder(rest):
            folder.check(path)
        else:
            cls._check_weights(rest, *_split(rest))

    @staticmethod
    def _check_weights(rest: str, name: str, weights: str) -> None:
        architecture(name)
        if weights == "random":
            return
        if not is_local(weights):
            raise WeightsError(
                f"'vlmo:{rest}': VLMo's weights have no tags. Bring a file from {_PAGE} "
                f"and name its path, as in vlmo:{name}//path/to/vlmo_{name}.pt, or write vlmo:{name}/random."
            )
        if not Path(weights).expanduser().is_file():
            raise WeightsError(f"'vlmo:{rest}': {weights} does not exist. The published files are under {_PAGE}.")

    @classmethod
    def from_rest(cls, rest: str) -> VlmoEncoder:
        """See the base class."""
        file: Path | None
        if path := _folder(rest):
            config, weights, file = folder.read_config(path), rest, path / folder.WEIGHTS
        else:
            name, weights = _split(rest)
            config, file = architecture(name), None if weights == "random" else Path(weights).expanduser()
        vocabulary = find_vocabulary(file.parent if file else None)
        words = WordPieces(vocabulary, config.vocabulary, config.max_tokens)
        network = load_network(file, config) if file else _random(config)
        if not network.parts & {"itc", "vl"}:
            raise WeightsError(
                _without(config.architecture, "contrast heads and no vision-language experts: it gives no features")
            )
        return cls(network, words, weights)

    def write(self, folder: Path) -> None:
        """Sizes, weights and vocabulary."""
        save_network(self.network, self.words, folder)

    def prepare_image(self, image: Image.Image) -> Tensor:
        """A picture of any size and mode -> uint8 [3, H, W]: alpha dropped, squashed to a square by PIL's bicubic."""
        size = (self.picture.width, self.picture.height)
        small = to_rgb(image, self.picture.alpha).resize(size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> `ids` [B, L] and `mask` [B, L], cut at 40 tokens and padded to the longest of the batch.

        The original pads every text to 40; padding is hidden from all attention, so the features are the same.
        """
        return self.words(texts)

    def token_counts(self, texts: Sequence[str]) -> Tensor:
        """Word pieces of each text before any is cut, [CLS] and [SEP] included: [B] int64."""
        return self.words.counts(texts)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, D] of unit length.

        Raises:
            WeightsError: the checkpoint has no contrast heads.
        """
        self._need_contrast()
        return self.network.image_features(pixels)

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> [B, D] of unit length.

        Raises:
            WeightsError: the checkpoint has no contrast heads.
        """
        self._need_contrast()
        return self.network.text_features(tokens["ids"], tokens["mask"])

    def encode_pair(self, pixels: Tensor, tokens: Tokens) -> Tensor:
        """Pixels [B, 3, H, W] and tokens [B, L] -> [B, D] in -1..1: the pooled text [CLS], which saw the picture."""
        return self.network.pair_features(pixels, tokens["ids"], tokens["mask"])

    def place(self, name: str, place: Place) -> Place:
        """See the base class."""
        if self.network.relative_index is not None and "position_embeddings" in name:
            return replace(place, uses=frozenset())  # they are there, and not added
        return next((replace(place, uses=u) for pattern, u in _USES.items() if re.search(pattern, name)), place)

    def _need_contrast(self) -> None:
        if "itc" not in self.network.parts:
            raise WeightsError(_without(self.spec.architecture, "contrast heads: it gives fused features only"))


def _folder(rest: str) -> Path | None:
    """The folder that a URI's rest names as a whole, if it does not begin with an architecture."""
    named = NAME.fullmatch(rest.partition("/")[0])
    return Path(rest).expanduser() if rest and not named and is_local(rest) else None


def _split(rest: str) -> tuple[str, str]:
    name, _, weights = rest.partition("/")
    if not weights:
        name = name or "base_patch16_224"
        raise SettingsError(
            f"encoder 'vlmo:{rest}' names no weights. Write vlmo:{name}//path/to/vlmo_{name}.pt, or vlmo:{name}/random "
            "for random weights."
        )
    return name, weights


def _random(config: VlmoConfig) -> Vlmo:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that random weights are the same ones every time
        return Vlmo(config)


def _without(name: str, what: str) -> str:
    return (
        f"the checkpoint of {name} has no {what}. For picture and text features bring that of the pre-training "
        "(vlmo_*_patch16_224.pt) or one tuned for retrieval (vlmo_*_patch16_384_coco.pt, vlmo_*_patch16_384_f30k.pt)."
    )
