"""torch's multi-head attention with its projections as layers, so that adapters can stand beside them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """The self-attention of an `nn.MultiheadAttention`, with its parameters, in evaluation.

    torch's own reads the projections' weights and never calls them as layers, so an adapter beside them would be
    ignored; peft's way around that writes the weights anew in each forward pass, which wears them off by rounding.

    Args:
        whole: the attention whose place it takes; `whole` gives it back.
    """

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that its parameters are not counted twice
        self.heads, self.batch_first = whole.num_heads, whole.batch_first
        weight, bias = whole.in_proj_weight, whole.in_proj_bias
        self.in_proj = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        _give(self.in_proj, weight=weight, bias=bias)
        self.out_proj = whole.out_proj

    @staticmethod
    def fits(attention: nn.Module) -> bool:
        """Whether an attention is one that this class computes."""
        return (
            isinstance(attention, nn.MultiheadAttention)
            and attention.in_proj_weight is not None
            and attention.bias_k is None
            and not attention.add_zero_attn
        )

    @property
    def whole(self) -> nn.MultiheadAttention:
        """The attention in whose place it stood, with the weights as they are now."""
        whole = self._whole[0]
        _give(whole, in_proj_weight=self.in_proj.weight, in_proj_bias=self.in_proj.bias)
        whole.out_proj = self.out_proj
        return whole

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Tokens [B, L, D] (or [L, B, D], if the whole has them so) -> the same shape, and no weights.

        Args:
            query: the tokens.
            key: the same tensor.
            value: the same tensor.
            need_weights: must be False.
            attn_mask: [L, L], added to the logits, or True where a place is not seen.

        Raises:
            NotImplementedError: attention to other tokens, or its weights are asked for.
        """
        if need_weights or key is not query or value is not query:
            raise NotImplementedError("adapters work on self-attention whose weights are not asked for")
        x = query if self.batch_first else query.transpose(0, 1)
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # the function below has it the other way round
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _give(module: nn.Module, **parameters: Any) -> None:
    for name, parameter in parameters.items():
        setattr(module, name, parameter)
