"""What VLMo's objectives put on top of its tokens. B batch, L tokens, D width, V vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BERT_EPS = 1e-12  # of LayerNorm in the parts that come from BERT


class Pooler(nn.Module):
    """The vector of a text and a picture together: tanh of a layer on the text's [CLS] token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D] -> [B, D] in -1..1."""
        return torch.tanh(self.dense(tokens[:, 0]))


class ContrastHead(nn.Module):
    """Image-text contrast: the [CLS] token into the space that pictures and texts share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width, bias=False)

    def forward(self, cls: Tensor) -> Tensor:
        """[B, D] -> [B, D] of unit length, float32."""
        return F.normalize(self.fc(cls).float(), dim=-1)


class MatchingHead(nn.Module):
    """Image-text matching: does the text belong to the picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [B, D] -> logits [B, 2], the second for a match."""
        return self.fc(pooled)  # type: ignore[no-any-return]


class MaskedWordTransform(nn.Module):
    """BERT's layer before the words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=BERT_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self.LayerNorm(F.gelu(self.dense(tokens)))  # type: ignore[no-any-return]


class MaskedWordHead(nn.Module):
    """Masked words: which word piece was there; its output layer is not tied to the word embedding."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = MaskedWordTransform(width)
        self.decoder = nn.Linear(width, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        """Text tokens [B, L, D] -> logits [B, L, V]."""
        return F.linear(self.transform(tokens), self.decoder.weight, self.bias)
