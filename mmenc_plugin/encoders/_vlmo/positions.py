"""Where tokens are: the table of relative positions, and positions for another picture size.

One table serves all blocks: [rows, heads * depth], column block i for block i. Its rows, for S patches
on a side of the picture: (2S-1)^2 offsets between two patches; three for the picture's [CLS] (as
query, as key, both); text to picture; picture to text; 2 * 196 for texts, of which the last three are
the text's [CLS] (Bao et al. 2022, section 3; the layout is that of the published checkpoints).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.encoders._vlmo.config import TEXT_SPAN
from mmenc_plugin.errors import WeightsError

OTHER_ROWS = 3 + 2 + 2 * TEXT_SPAN  # of the table, behind the offsets between patches
SMALLEST_SIDE = 3  # patches, for a cubic spline through their offsets


def table_rows(side: int) -> int:
    """Rows of the table for pictures of side x side patches."""
    return (2 * side - 1) ** 2 + OTHER_ROWS


def relative_index(side: int, texts: int) -> Tensor:
    """The table's row for each pair of tokens of a text and a picture together.

    Args:
        side: S, patches on a side of the picture.
        texts: L, tokens of the text, which come first.

    Returns:
        [L + 1 + S * S, L + 1 + S * S] int64; the first L rows and columns are those of a text alone,
        the others those of a picture alone.
    """
    with torch.device("cpu"):  # also where the network is built without memory
        cross = (2 * side - 1) ** 2 + 3
        text = _with_cls(_text_distances(texts - 1) + cross + 2, table_rows(side) - 3)
        image = _with_cls(_patch_offsets(side), cross - 3)
        to_image = torch.full((len(text), len(image)), cross)
        to_text = torch.full((len(image), len(text)), cross + 1)
        return torch.cat([torch.cat([text, to_image], dim=1), torch.cat([to_text, image], dim=1)])


def _text_distances(tokens: int) -> Tensor:
    place = torch.arange(tokens)
    return place - place[:, None] + TEXT_SPAN - 2


def _patch_offsets(side: int) -> Tensor:
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    offset = place[:, None] - place[None, :] + side - 1
    return offset[..., 0] * (2 * side - 1) + offset[..., 1]


def _with_cls(inner: Tensor, first: int) -> Tensor:
    """With a [CLS] before the others: its row `first` as query, one on as key, two on with itself."""
    out = F.pad(inner, (1, 0, 1, 0), value=first)
    out[1:, 0] = first + 1
    out[0, 0] = first + 2
    return out


def resize_table(table: Tensor, side: int) -> Tensor:
    """A table of relative positions for another picture size.

    The offsets of the smaller picture are taken to lie at geometrically growing distances that reach
    as far as the larger one's, and a cubic spline through them is read at whole offsets: near places
    stay near, as in BEiT and VLMo.

    Args:
        table: [rows, C] for a picture of any side.
        side: S, patches on a side of the wanted picture.

    Raises:
        WeightsError: the table is none of a square picture, or of one too small to draw a curve through.
    """
    from scipy.interpolate import RectBivariateSpline

    source, target = 2 * _side(len(table)) - 1, 2 * side - 1
    if source == target:
        return table
    if source < 2 * SMALLEST_SIDE - 1:
        raise WeightsError(
            f"relative positions of {source // 2 + 1} patches on a side are too few to be resized; {SMALLEST_SIDE} are "
            "needed. Name the architecture with the picture size of the checkpoint."
        )
    at, wanted = _geometric_offsets(source // 2, target // 2), np.arange(-(target // 2), target // 2 + 1)
    planes = table[: source**2].double().numpy().T.reshape(-1, source, source)
    resized = [RectBivariateSpline(at, at, plane)(wanted, wanted).ravel() for plane in planes]
    offsets = torch.from_numpy(np.stack(resized, axis=1)).to(table.dtype)
    return torch.cat([offsets, table[source**2 :]])


def _side(rows: int) -> int:
    span = math.isqrt(max(0, rows - OTHER_ROWS))
    if span % 2 == 0 or table_rows((span + 1) // 2) != rows:
        raise WeightsError(
            f"a table of relative positions with {rows} rows is none of VLMo's: (2S-1)^2 + {OTHER_ROWS} were expected "
            "for pictures of S x S patches. Bring the published file."
        )
    return (span + 1) // 2


def _geometric_offsets(steps: int, reach: int) -> np.ndarray:
    """-x_n .. -x_1, 0, x_1 .. x_n, with x_k = 1 + q + ... + q^(k-1), and q such that x_n is `reach`.

    q is sought between 1.01 and 1.5 to 1e-6, as the published checkpoints' own resizing does.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (ratio**steps - 1) / (ratio - 1) > reach:
            high = ratio
        else:
            low = ratio
    distances = np.cumsum(ratio ** np.arange(steps))
    return np.concatenate([-distances[::-1], [0.0], distances])


def resize_embedding(positions: Tensor, side: int) -> Tensor:
    """Absolute positions [1, 1 + S * S, D] of a picture, [CLS] first, for `side` patches on a side: bicubic.

    Raises:
        WeightsError: the positions are not those of a square picture.
    """
    source = math.isqrt(positions.shape[1] - 1)
    if source == side:
        return positions
    if source * source != positions.shape[1] - 1:
        raise WeightsError(f"positions of {positions.shape[1] - 1} patches are not those of a square picture.")
    grid = positions[:, 1:].reshape(1, source, source, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
