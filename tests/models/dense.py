"""Plain dense float64 forms of what the models compute with sparse matrices, and a tiny data set."""

import torch

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

# 4 users, 6 items; user 2 took nothing, and nobody took items 4 and 5. Item 3 has no picture, item 5 has nothing.
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 2], [3, 3], [3, 0], [3, 2]])
N_USERS, N_ITEMS = 4, 6
WITHOUT = {"image": [3, 5], "text": [5], "fused": [5]}
BATCH = TripletBatch(torch.tensor([0, 1, 3, 0]), torch.tensor([1, 2, 3, 0]), torch.tensor([4, 0, 5, 2]))


def tiny(modalities=("image", "text")):
    generator = torch.Generator().manual_seed(3)
    tables = {}
    for modality, width in zip(modalities, (4, 3, 5), strict=False):
        present = torch.ones(N_ITEMS, dtype=torch.bool)
        present[WITHOUT[modality]] = False
        values = torch.randn(N_ITEMS, width, generator=generator)
        tables[modality] = AlignedFeatures(values * present[:, None], present)
    return FrozenFeatures(tables), Interactions(*PAIRS.T, N_USERS, N_ITEMS)


def build(name, data=None, **settings):
    """The model with random parameters, in float64."""
    model = models.build(name, {"embedding_size": 4, **settings}, *(data or tiny())).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def inverse_root(degree):
    positive = degree > 0
    return degree.where(positive, 1).rsqrt().where(positive, 0)


def interactions():
    """[U, I] of ones."""
    r = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    r[tuple(PAIRS.T)] = 1
    return r


def adjacency():
    """[U + I, U + I], not normalised."""
    r = interactions()
    return torch.cat(
        [torch.cat([torch.zeros(N_USERS, N_USERS), r], 1), torch.cat([r.T, torch.zeros(N_ITEMS, N_ITEMS)], 1)]
    ).double()


def normalised(matrix):
    root = inverse_root(matrix.sum(1))
    return root[:, None] * matrix * root[None, :]


def light_gcn(matrix, users, items, n_layers):
    x = torch.cat([users, items])
    return sum(torch.linalg.matrix_power(matrix, layer) @ x for layer in range(n_layers + 1)) / (n_layers + 1)


def nearest(values, present, k):
    """[I, I] cosines of each item's k nearest, itself among them, and zeros; with gradient. None below zero."""
    length = values.norm(dim=1, keepdim=True)
    cosines = (values / length.clamp(min=1e-12)) @ (values / length.clamp(min=1e-12)).T
    both = present[:, None] & present[None, :]
    chosen = cosines.detach().masked_fill(~both, -2).topk(min(k, len(values)), dim=1).indices
    mask = torch.zeros_like(both).scatter_(1, chosen, torch.ones_like(both)) & both
    return torch.where(mask, cosines, torch.zeros_like(cosines)).clamp(min=0)


def gradients(value, model):
    """Of a scalar by each parameter, zero where it has none."""
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(model.named_parameters(), found, strict=True)
    }
