"""The image-text contrast of a batch of items: which pairs match, at which temperature, and the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.kernels import score_loss
from mmenc_plugin.kernels.checks import CSR

MOST_SCALE = 100.0  # of the similarities, as CLIP bounds it (Radford et al. 2021, section 2.5)


def itc_loss(images: Tensor, texts: Tensor, scale: Tensor, image_keys: Tensor, text_keys: Tensor) -> Tensor:
    """The symmetric image-text contrastive loss, with several positives where pairs share a picture or a text.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3. Picture b
    and text n match where pairs b and n have the same picture or the same text; the target of a row is then the
    uniform distribution over its matches, as in Khosla et al., "Supervised Contrastive Learning", 2020, equation 2.
    The [B, B] matrix is never made.

    Args:
        images: [B, D] of any length; they are compared by cosine.
        texts: [B, D] of the same type.
        scale: [] the inverse temperature, which may learn.
        image_keys: [B] int64, equal where the pictures are.
        text_keys: [B] int64, equal where the texts are.

    Returns:
        The mean over the pairs and both directions, a scalar.

    Raises:
        ValueError: shapes that do not agree, or NaN.
    """
    return score_loss(
        F.normalize(images, dim=1),
        F.normalize(texts, dim=1),
        matches(image_keys, text_keys),
        scale=scale.to(images.device),
        symmetric=True,
    )


def matches(image_keys: Tensor, text_keys: Tensor) -> CSR:
    """Which pairs match which: those with an equal picture or an equal text, themselves included.

    Args:
        image_keys: [B] int64.
        text_keys: [B] int64.

    Returns:
        CSR: offsets [B + 1] and, rising in each row, the pairs that match it. The relation is symmetric.
    """
    n = len(image_keys)
    if image_keys.shape != text_keys.shape:
        raise ValueError(f"there are {n} keys of pictures but {len(text_keys)} of texts: one of each a pair.")
    entries = torch.unique(torch.cat([_equal(image_keys), _equal(text_keys)]))
    rows = torch.div(entries, max(n, 1), rounding_mode="floor")
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=entries.device)
    offsets[1:] = torch.bincount(rows, minlength=n).cumsum(0)
    return offsets, entries % max(n, 1)


def _equal(keys: Tensor) -> Tensor:
    """The entries with equal keys, as row * B + column; time and memory go by their number."""
    n = len(keys)
    order = keys.argsort(stable=True)
    _, group, sizes = torch.unique(keys, return_inverse=True, return_counts=True)
    mine = sizes[group]
    rows = torch.arange(n, device=keys.device).repeat_interleave(mine)
    before = (sizes.cumsum(0) - sizes)[group].repeat_interleave(mine)
    place = torch.arange(len(rows), device=keys.device) - (mine.cumsum(0) - mine).repeat_interleave(mine)
    return rows * n + order[before + place]


def scale_of(encoder: nn.Module) -> Tensor:
    """The inverse temperature [] of an encoder's own contrast, at most 100, which learns if its parameter does.

    It is exp(logit_scale) of CLIP and its kin, and 1 / temperature of ALIGN; CLIP's initial 1 / 0.07 for a network
    that has neither.
    """
    found = {name.rpartition(".")[2]: parameter for name, parameter in encoder.named_parameters()}
    if "logit_scale" in found:
        scale = found["logit_scale"].exp()
    elif "temperature" in found:
        scale = 1 / found["temperature"]
    else:
        return torch.tensor(1 / 0.07)
    return at_most(scale.squeeze())


def at_most(scale: Tensor) -> Tensor:
    """An inverse temperature held at 100 without holding its gradient, so that it can come back."""
    return scale - (scale - MOST_SCALE).clamp(min=0).detach()
