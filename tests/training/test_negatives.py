"""Hard negatives: never a true pair, the similar ones more often."""

import torch
import torch.nn.functional as F

from mmenc_plugin.training.contrast import matches
from mmenc_plugin.training.negatives import hard_negatives


def draws(n, seed=0):
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_match_is_never_drawn():
    images, texts = torch.randn(40, 4), torch.randn(40, 4)
    keys = torch.arange(40) // 3, torch.arange(40) % 11
    true = matches(*keys)
    belongs = (keys[0][:, None] == keys[0]) | (keys[1][:, None] == keys[1])
    for seed in range(300):
        drawn = hard_negatives(images, texts, torch.tensor(20.0), true, draws(40, seed))
        assert not belongs[torch.arange(40), drawn].any()
    extremes = torch.tensor([0.0, 1.0 - 2**-53] * 20, dtype=torch.float64)
    assert not belongs[torch.arange(40), hard_negatives(images, texts, torch.tensor(100.0), true, extremes)].any()


def test_where_everything_matches_there_is_none():
    x = torch.randn(3, 2)
    drawn = hard_negatives(x, x, torch.tensor(1.0), matches(torch.tensor([0, 0, 0]), torch.arange(3)), draws(3))
    assert drawn.tolist() == [-1, -1, -1]


def test_draws_follow_the_similarities():
    angles = torch.tensor([0.0, 0.5, 1.5, 3.0], dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], 1)
    queries = torch.cat([points[:1]] * 4)
    true = torch.arange(5), torch.zeros(4, dtype=torch.int64)  # the first belongs to all
    counts = torch.zeros(4)
    for seed in range(2000):
        drawn = hard_negatives(queries, points, torch.tensor(2.0, dtype=torch.float64), true, draws(4, seed))
        counts += torch.bincount(drawn, minlength=4)
    expected = (2 * angles.cos()).exp().index_fill(0, torch.tensor([0]), 0)
    torch.testing.assert_close((counts / 8000).double(), expected / expected.sum(), atol=0.02, rtol=0)


def test_blocks_of_rows_draw_what_the_whole_draws(monkeypatch):
    images, texts = F.normalize(torch.randn(50, 8)), torch.randn(50, 8)
    arguments = images, texts, torch.tensor(5.0), matches(torch.arange(50), torch.arange(50) // 2), draws(50)
    whole = hard_negatives(*arguments)
    monkeypatch.setattr("mmenc_plugin.training.negatives._BLOCK", 7)
    assert torch.equal(hard_negatives(*arguments), whole)
