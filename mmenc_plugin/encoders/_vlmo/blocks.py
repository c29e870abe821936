"""The multiway transformer: one attention for all, a feed-forward expert for each modality."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.encoders._vlmo.config import PATCH, VlmoConfig
from mmenc_plugin.encoders._vlmo.heads import BERT_EPS
from mmenc_plugin.errors import MediaError

# The expert of all tokens, or (pair) the text's expert for the text's tokens and the picture's for the others.
Expert = Literal["text", "imag", "vl", "pair"]
EPS = 1e-6  # of LayerNorm


class Attention(nn.Module):
    """Multi-head attention; queries and values have a bias, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D]; `bias`, to [B, heads, L, L], is added to the scaled logits."""
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = self.qkv(x).add_(qkv_bias)  # called as a layer, so that adapters may stand beside it
        q, k, v = qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """A feed-forward expert, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x += gamma_1 * attention(norm(x)); x += gamma_2 * expert(norm of the expert(x)) (paper, equations 2 and 3)."""

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(self, config: VlmoConfig, with_vl: bool) -> None:
        super().__init__()
        width = config.width
        for name in ("gamma_1", "gamma_2"):
            scale = nn.Parameter(torch.full((width,), 0.1)) if config.layer_scale else None
            self.register_parameter(name, scale)
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, config.heads)
        for expert in ("text", "imag", "vl") if with_vl else ("text", "imag"):
            self.add_module(f"norm2_{expert}", nn.LayerNorm(width, eps=EPS))
            self.add_module(f"mlp_{expert}", Mlp(width))

    def forward(self, x: Tensor, bias: Tensor | None, expert: Expert, texts: int = 0) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D].

        Args:
            x: the tokens.
            bias: of the attention.
            expert: which one the tokens go through.
            texts: how many of the tokens are the text's; they come first (pair).
        """
        x = _add(x, self.gamma_1, self.attn(self.norm1(x), bias))
        if expert != "pair":
            return self._through(x, expert)
        return torch.cat([self._through(x[:, :texts], "text"), self._through(x[:, texts:], "imag")], dim=1)

    def _through(self, x: Tensor, expert: str) -> Tensor:
        norm, mlp = self.get_submodule(f"norm2_{expert}"), self.get_submodule(f"mlp_{expert}")
        return _add(x, self.gamma_2, mlp(norm(x)))


def _add(x: Tensor, scale: Tensor | None, branch: Tensor) -> Tensor:
    return x + branch if scale is None else torch.addcmul(x, scale, branch)


class PatchEmbedding(nn.Module):
    """A picture's patches as tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, H/16 * W/16, D], row by row."""
        return self.proj(pixels).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The picture's tokens, the blocks, and the norm behind them."""

    pos_embed: nn.Parameter | None

    def __init__(self, config: VlmoConfig, with_vl: bool) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.patch_embed = PatchEmbedding(config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        absolute = config.positions == "absolute"
        places = nn.Parameter(torch.zeros(1, 1 + config.side**2, config.width)) if absolute else None
        self.register_parameter("pos_embed", places)
        self.blocks = nn.ModuleList(
            Block(config, with_vl and layer >= config.vl_start) for layer in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> tokens [B, 1 + N, D], [CLS] first.

        Raises:
            MediaError: the pixels are not of the size that the positions are for.
        """
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise MediaError(
                f"pixels of shape {list(pixels.shape)} were given to a network for pictures of 3 x {self.image_size} x "
                f"{self.image_size}. Prepare them with this encoder's preprocess_images."
            )
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), self.patch_embed(pixels)], dim=1)
        return tokens if self.pos_embed is None else tokens + self.pos_embed


class TextEmbedding(nn.Module):
    """BERT's embedding of word pieces; with relative positions its own positions are there, and not added."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.add_positions = config.positions == "absolute"
        # BERT's [PAD] is piece 0; it is not trained.
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_tokens, config.width)
        self.token_type_embeddings = nn.Embedding(2, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=BERT_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """Word pieces [B, L] -> [B, L, D]."""
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        if self.add_positions:
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(x)  # type: ignore[no-any-return]
