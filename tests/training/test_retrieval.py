"""Recall both ways on rankings with known answers."""

import numpy as np
import pytest
import torch

from mmenc_plugin.training.retrieval import retrieval


def test_each_finds_its_own():
    x, order = torch.eye(12), np.arange(12)
    assert set(retrieval(x, 3 * x, order, order).values()) == {1.0}
    mixed = retrieval(torch.eye(12), torch.eye(12), order, order[::-1].copy())  # 11 ties, of which 10 count half
    assert mixed["image->text R@1"] == mixed["text->image R@5"] == 0


def test_ranks_are_counted():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    found = retrieval(points[:2], points, np.array([0, 1]), np.array([1, 7]))  # ranks 1 and 7 from 0
    assert found["image->text R@1"] == 0
    assert found["image->text R@5"] == 0.5
    assert found["image->text R@10"] == 1


def test_any_of_several_texts_is_right():
    images = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.0, 0.1, 1.0]])
    found = retrieval(images, texts, np.array([0, 0, 1]), np.array([0, 1, 2]))
    assert found["image->text R@1"] == 1
    assert found["text->image R@1"] == 1


def test_an_encoder_that_gives_one_vector_for_all_finds_nothing():
    same, order = torch.ones(100, 3), np.arange(100)
    assert set(retrieval(same, same, order, order).values()) == {0.0}


def test_chance_is_one_in_n():
    n, order = 400, np.arange(400)
    found = retrieval(torch.randn(n, 16), torch.randn(n, 16), order, order)
    assert found["image->text R@10"] == pytest.approx(10 / n, abs=0.03)
