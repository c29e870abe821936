"""The image-text contrast: its answer in plain float64, several positives, and the temperature."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from mmenc_plugin import encoders
from mmenc_plugin.training.contrast import itc_loss, matches, scale_of


def plain(images, texts, scale, image_keys, text_keys):
    """The loss with the whole matrix."""
    scores = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    match = (image_keys[:, None] == image_keys) | (text_keys[:, None] == text_keys)
    wanted = match.double() / match.sum(1, keepdim=True)
    return -(wanted * (scores.log_softmax(1) + scores.T.log_softmax(1))).sum(1).mean() / 2


def views(n, width=5):
    generator = torch.Generator().manual_seed(n)
    return (torch.randn(n, width, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))


KEYS = [([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 0, 2, 3, 4], [7, 1, 1, 9, 7]), ([5] * 4, [1, 2, 3, 4]), ([1, 1], [2, 2])]


@pytest.mark.parametrize(("image_keys", "text_keys"), KEYS)
def test_value_and_gradients_are_those_of_the_whole_matrix(image_keys, text_keys):
    image_keys, text_keys = torch.tensor(image_keys), torch.tensor(text_keys)
    images, texts = views(len(image_keys))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    inputs = images, texts, scale
    ours, theirs = (loss(*inputs, image_keys, text_keys) for loss in (itc_loss, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), max_size=12))
def test_pairs_match_where_picture_or_text_is_equal(keys):
    image_keys = torch.tensor([image for image, _ in keys], dtype=torch.int64)
    text_keys = torch.tensor([text for _, text in keys], dtype=torch.int64)
    offsets, columns = matches(image_keys, text_keys)
    found = [columns[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == [[n for n, (j, u) in enumerate(keys) if i == j or t == u] for i, t in keys]


def test_two_items_of_one_picture_do_not_push_each_other_apart():
    one = F.one_hot(torch.tensor([0, 0, 1]), 4).double()
    keys = torch.tensor([0, 0, 1])
    loss = itc_loss(one, one, torch.tensor(50.0, dtype=torch.float64), keys, torch.arange(3))
    # each of the two has both texts as its matches, at equal scores: log 2 is the least that there is
    assert loss.item() == pytest.approx(2 * math.log(2) / 3)
    apart = itc_loss(one, one, torch.tensor(50.0, dtype=torch.float64), torch.arange(3), torch.arange(3))
    assert apart.item() == pytest.approx(loss.item())
    moved = one.clone()
    moved[1] = F.one_hot(torch.tensor(2), 4)
    assert itc_loss(moved, moved, torch.tensor(50.0, dtype=torch.float64), keys, torch.arange(3)) > 10 * loss


def test_keys_of_another_number_are_refused():
    with pytest.raises(ValueError, match="3 keys of pictures but 2 of texts"):
        matches(torch.arange(3), torch.arange(2))


def test_scale_is_the_encoders_own_and_learns(tiny_clip, tiny_hf, tiny_vlmo):
    for uri in (f"openclip:local-dir:{tiny_clip}", f"hf:{tiny_hf}", f"vlmo:{tiny_vlmo}"):
        encoder = encoders.build(uri)
        scale = scale_of(encoder)
        assert scale.shape == ()
        assert 1 <= scale.item() <= 100
        scale.backward()
        assert sum(p.grad is not None and bool(p.grad.abs() > 0) for p in encoder.parameters()) == 1


def test_scale_stops_at_100_and_can_come_back():
    network = torch.nn.Module()
    network.logit_scale = torch.nn.Parameter(torch.tensor(math.log(200.0)))
    scale = scale_of(network)
    assert scale.item() == pytest.approx(100, rel=1e-6)
    scale.backward()
    assert network.logit_scale.grad.item() == pytest.approx(200, rel=1e-6)
    assert scale_of(torch.nn.Linear(2, 2)).item() == pytest.approx(1 / 0.07)
