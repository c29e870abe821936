"""The whole of VLMo: three passes through one transformer, and the heads of its objectives.

Shapes: B batch, L tokens of a text, N patches of a picture, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.encoders._vlmo.blocks import Expert, TextEmbedding, Transformer
from mmenc_plugin.encoders._vlmo.config import PARTS, Part, VlmoConfig
from mmenc_plugin.encoders._vlmo.heads import ContrastHead, MaskedWordHead, MatchingHead, Pooler
from mmenc_plugin.encoders._vlmo.positions import relative_index, table_rows
from mmenc_plugin.errors import SettingsError, WeightsError

WHAT: dict[Part, str] = {
    "vl": "vision-language experts",
    "itc": "contrast heads",
    "itc_vl": "contrast heads of the second branch",
    "itm": "a matching head",
    "mlm": "a masked-word head",
}


@dataclass(frozen=True)
class Contrast:
    """What image-text contrast compares.

    Attributes:
        features: [B, D] of unit length, by the modality's own experts throughout.
        vl_features: [B, D] of unit length, of the second branch, whose last blocks use the vision-language expert.
    """

    features: Tensor
    vl_features: Tensor


@dataclass(frozen=True)
class _Sequence:
    """Tokens on their way through the blocks.

    Attributes:
        x: [B, T, D].
        texts: how many of the tokens are the text's; they come first.
        hidden: [B, 1, 1, T], -inf for padding and 0 elsewhere; None where nothing is padding.
        index: [T, T] rows of the table of relative positions; None with absolute ones.
    """

    x: Tensor
    texts: int
    hidden: Tensor | None
    index: Tensor | None


class Vlmo(nn.Module):
    """VLMo (Bao et al. 2022), in evaluation or in training; it has no dropout.

    Args:
        config: its sizes.
        parts: the experts and heads that it has beside the backbone, which every checkpoint has.
    """

    relative_index: Tensor | None

    def __init__(self, config: VlmoConfig, parts: Iterable[Part] = PARTS) -> None:
        super().__init__()
        self.config, self.parts = config, frozenset(parts)
        width, temperature = config.width, math.log(1 / 0.07)
        self.transformer = Transformer(config, "vl" in self.parts)
        self.text_embeddings = TextEmbedding(config)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.pooler = Pooler(width)
        relative = config.positions == "relative"
        index = relative_index(config.side, config.max_tokens) if relative else None
        if relative:
            rows = table_rows(config.side)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, config.heads * config.depth))
        self.register_buffer("relative_index", index, persistent=False)
        if "itc" in self.parts:
            self.itc_text_proj, self.itc_image_proj = ContrastHead(width), ContrastHead(width)
            self.logit_scale = nn.Parameter(torch.tensor(temperature))
        if "itc_vl" in self.parts:
            self.itc_vl_text_proj, self.itc_vl_image_proj = ContrastHead(width), ContrastHead(width)
            self.logit_vl_scale = nn.Parameter(torch.tensor(temperature))
        if "itm" in self.parts:
            self.itm_score = MatchingHead(width)
        if "mlm" in self.parts:
            self.mlm_score = MaskedWordHead(width, config.vocabulary)
        self.apply(_start)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """A picture alone: pixels [B, 3, H, W] -> [B, 1 + N, D] after the last norm, [CLS] first."""
        return self._finish(self._picture(pixels), "imag")

    def text_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """A text alone: word pieces [B, L], and where they are no padding -> [B, L, D] after the last norm."""
        return self._finish(self._text(ids, mask), "text")

    def pair_tokens(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A picture and a text together.

        Below the vision-language experts each token goes through its own modality's expert, and all attend to
        all; from there on all go through the vision-language expert.

        Returns:
            The text's tokens [B, L, D] and the picture's [B, 1 + N, D], after the last norm.
        """
        self._need("vl")
        below = self._run(self._pair(pixels, ids, mask), range(self.config.vl_start), "pair")
        x = self._finish(below, "vl", self.config.vl_start)
        return x[:, : below.texts], x[:, below.texts :]

    def image_features(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in the space that they share with texts: [B, D] of unit length, float32."""
        self._need("itc")
        return self.itc_image_proj(self.image_tokens(pixels)[:, 0])  # type: ignore[no-any-return]

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Texts [B, L] in the space that they share with pictures: [B, D] of unit length, float32."""
        self._need("itc")
        return self.itc_text_proj(self.text_tokens(ids, mask)[:, 0])  # type: ignore[no-any-return]

    def pair_features(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """A picture and its text as one vector: the pooled text [CLS] of the joint pass, [B, D] in -1..1."""
        return self.pooler(self.pair_tokens(pixels, ids, mask)[0])  # type: ignore[no-any-return]

    def image_contrast(self, pixels: Tensor) -> Contrast:
        """Both branches of pictures [B, 3, H, W]; the blocks below the vision-language experts run once."""
        own, joint = self._branches(self._picture(pixels), "imag")
        return Contrast(self.itc_image_proj(own), self.itc_vl_image_proj(joint))

    def text_contrast(self, ids: Tensor, mask: Tensor) -> Contrast:
        """Both branches of texts [B, L]; the blocks below the vision-language experts run once."""
        own, joint = self._branches(self._text(ids, mask), "text")
        return Contrast(self.itc_text_proj(own), self.itc_vl_text_proj(joint))

    def contrast_logits(self, images: Contrast, texts: Contrast) -> tuple[Tensor, Tensor]:
        """Scaled similarities [B, B] of each picture (row) to each text (column), by either branch."""
        own = self.logit_scale.exp() * images.features @ texts.features.T
        return own, self.logit_vl_scale.exp() * images.vl_features @ texts.vl_features.T

    def matching_logits(self, pooled: Tensor) -> Tensor:
        """Pairs [B, D], as from `pair_features` -> logits [B, 2], the second for a match."""
        self._need("itm")
        return self.itm_score(pooled)  # type: ignore[no-any-return]

    def word_logits(self, tokens: Tensor) -> Tensor:
        """Text tokens [B, L, D], of a text alone or of a pair -> logits [B, L, V] of the word at each place."""
        self._need("mlm")
        return self.mlm_score(tokens)  # type: ignore[no-any-return]

    def _need(self, *parts: Part) -> None:
        lacking = [WHAT[part] for part in parts if part not in self.parts]
        if lacking:
            raise WeightsError(
                f"{self.config.architecture} was loaded from a checkpoint without {' and '.join(lacking)}."
            )

    def _picture(self, pixels: Tensor) -> _Sequence:
        x = self.transformer.embed(pixels) + self.token_type_embeddings.weight[1]
        texts = self.config.max_tokens
        return _Sequence(x, 0, None, None if self.relative_index is None else self.relative_index[texts:, texts:])

    def _text(self, ids: Tensor, mask: Tensor) -> _Sequence:
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise SettingsError(
                f"a text of {length} tokens was given to a network for at most {self.config.max_tokens}. "
                "Cut it with this encoder's tokenize."
            )
        x = self.text_embeddings(ids) + self.token_type_embeddings.weight[0]
        index = None if self.relative_index is None else self.relative_index[:length, :length]
        return _Sequence(x, length, _hidden(mask, x.dtype), index)

    def _pair(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> _Sequence:
        text, picture = self._text(ids, mask), self._picture(pixels)
        x, index, hidden = torch.cat([text.x, picture.x], dim=1), self.relative_index, text.hidden
        if index is not None:
            keep = torch.arange(len(index), device=index.device)
            keep = keep[(keep < text.texts) | (keep >= self.config.max_tokens)]
            index = index[keep[:, None], keep]
        if hidden is not None:
            hidden = F.pad(hidden, (0, picture.x.shape[1]))
        return _Sequence(x, text.texts, hidden, index)

    def _run(self, given: _Sequence, blocks: range, expert: Expert) -> _Sequence:
        x = given.x
        for layer in blocks:
            x = self.transformer.blocks[layer](x, self._bias(layer, given), expert, given.texts)
        return replace(given, x=x)

    def _finish(self, given: _Sequence, expert: Expert, start: int = 0) -> Tensor:
        """The blocks from `start` on, and the last norm: [B, T, D]."""
        return self.transformer.norm(self._run(given, range(start, self.config.depth), expert).x)  # type: ignore[no-any-return]

    def _branches(self, given: _Sequence, expert: Expert) -> tuple[Tensor, Tensor]:
        """[CLS] [B, D] by the modality's own experts, and with the vision-language expert in the last blocks."""
        self._need("itc", "itc_vl", "vl")
        start = self.config.vl_start
        below = self._run(given, range(start), expert)
        return self._finish(below, expert, start)[:, 0], self._finish(below, "vl", start)[:, 0]

    def _bias(self, layer: int, given: _Sequence) -> Tensor | None:
        """What a block adds to its attention logits: [1 or B, heads or 1, T, T]."""
        if given.index is None:
            return given.hidden
        heads = self.config.heads
        columns = self.relative_position_bias_table[:, layer * heads : (layer + 1) * heads]
        # Contiguous, since attention is up to twice as slow with another layout.
        bias = F.embedding(given.index, columns).permute(2, 0, 1)[None].contiguous()
        return bias if given.hidden is None else bias + given.hidden


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """-inf for padding, [B, 1, 1, L]; None where there is none, which spares the blocks an addition."""
    if mask.all():
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask.bool(), -math.inf)[:, None, None]


def _start(module: nn.Module) -> None:
    """Weights to start training from: normal, of deviation 0.02; biases and relative positions are zero."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, Transformer):
        nn.init.normal_(module.cls_token, std=0.02)
        if module.pos_embed is not None:
            nn.init.normal_(module.pos_embed, std=0.02)
