"""What several models are compared with: the graph of users and items as a whole matrix."""

import torch


def adjacency(interactions, keep=None):
    """[U + I, U + I] D^-1/2 A D^-1/2 in float64, of the pairs that `keep` names."""
    n = interactions.n_users + interactions.n_items
    users, items = interactions.users, interactions.items + interactions.n_users
    if keep is not None:
        users, items = users[keep], items[keep]
    ones = torch.zeros(n, n, dtype=torch.float64)
    ones[users, items] = ones[items, users] = 1
    root = ones.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * ones * root


def light_gcn(matrix, users, items, n_layers):
    """[U, D] and [I, D], the mean of the layers."""
    layers = [torch.cat([users, items])]
    for _ in range(n_layers):
        layers.append(matrix @ layers[-1])
    return torch.stack(layers).mean(0).split([len(users), len(items)])


def cross_entropy(a, b, temperature):
    """Mean over rows of the softmax loss whose positives are the first of b's rows."""
    return -(a @ b.T / temperature).log_softmax(1).diagonal().mean()


def contrast(a, b, temperature):
    """The same by cosine."""
    a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (a, b))
    return cross_entropy(a, b, temperature)


def branches(model, features, matrices, entering=None):
    """Of SLMRec's and MMGCL's branches, each one's users and items.

    Args:
        model: whose `branches` they are.
        features: of the items.
        matrices: the graph of each branch.
        entering: branch -> (users, items) or (None, items) that enter it in place of what would.
    """
    b, entering = model.branches, entering or {}
    inputs = [b.item_id.weight]
    for m, projection in b.projections.items():
        rows = features.table(m).double()
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        inputs.append(rows @ projection.weight.T + projection.bias)
    out = []
    for place, (items, matrix) in enumerate(zip(inputs, matrices, strict=True)):
        users, items = entering.get(place, (None, items))
        out.append(light_gcn(matrix, b.user_id.weight if users is None else users, items, model.options.n_layers))
    return out


def fused(model, parts):
    """[U, D] and [I, D] of the branches."""
    users, items = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
    return model.branches.user_fusion(users), model.branches.item_fusion(items)
