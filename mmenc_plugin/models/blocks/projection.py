"""From an encoder's width to the model's."""

from __future__ import annotations

from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures


class ModalityProjection(nn.Module):
    """One matrix a modality, summed: the same as one matrix over the concatenated features.

    Args:
        features: whose modalities and widths are projected.
        width: D of the result.
    """

    def __init__(self, features: ItemFeatures, width: int) -> None:
        super().__init__()
        self.matrices = nn.ModuleDict({m: nn.Linear(features.width(m), width, bias=False) for m in features.modalities})
        for weight in self.matrices.parameters():
            nn.init.xavier_normal_(weight)

    def forward(self, features: ItemFeatures, items: Tensor | None = None) -> Tensor:
        """[B, D] of the item rows [B], or [I, D] of all items."""
        return sum(  # type: ignore[return-value]
            matrix(features.table(m) if items is None else features.rows(m, items))  # type: ignore[arg-type]
            for m, matrix in self.matrices.items()
        )
