"""Training in mixed precision: the sparse products, which know no half types, stay in float32."""

import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.models.blocks.graph import bipartite
from mmenc_plugin.models.blocks.learned_graph import Pattern
from mmenc_plugin.testing.samples import checkerboard

ROWS, COLUMNS = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_graphs_product_is_not_rounded(kind):
    graph, x = bipartite(ROWS, COLUMNS, 3, 3), torch.randn(6, 4).to(kind).requires_grad_()
    expected = graph(x.detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = graph(x)
        found.sum().backward()
    assert torch.equal(found, expected)
    assert x.grad.dtype == kind


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_learned_graphs_products_are_not_rounded(kind):
    pattern, x = Pattern(ROWS, COLUMNS, (3, 3)), torch.randn(3, 4).to(kind).requires_grad_()

    def both(x):
        values = pattern.products(x, x)
        return pattern.multiply(values, x)

    expected = both(x.detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = both(x)
        found.sum().backward()
    assert torch.equal(found, expected)
    assert x.grad.dtype == kind


@pytest.mark.parametrize("name", ["FREEDOM", "LATTICE", "MGCN", "SMORE"])
def test_a_training_step_under_autocast(name):
    data = checkerboard()
    torch.manual_seed(0)
    settings = {"embedding_size": 8, **({"edge_dropout": 0.0} if name == "FREEDOM" else {})}
    model = models.build(name, settings, data.features, data.interactions).train()
    batch, gradients, losses = data.batch(torch.Generator().manual_seed(0)), [], []
    for rounded in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            losses.append(torch.stack([part.float() for part in model.loss(batch).values()]).sum())
        losses[-1].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*losses, rtol=0.01, atol=0.01)
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()
