"""Gradients in chunks equal those of the whole batch at once."""

from functools import partial

import pytest
import torch
from torch import nn

from mmenc_plugin import encoders
from mmenc_plugin.testing.samples import TEXTS, picture
from mmenc_plugin.training.contrast import itc_loss, scale_of
from mmenc_plugin.training.gradient_cache import GradientCache, cached_backward


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=["openclip:local-dir:{tiny_clip}", "hf:{tiny_hf_clip}", "vlmo:{tiny_vlmo}"])
def encoder(request, tiny_clip, tiny_hf_clip, tiny_vlmo):
    uri = request.param.format(tiny_clip=tiny_clip, tiny_hf_clip=tiny_hf_clip, tiny_vlmo=tiny_vlmo)
    return encoders.build(uri).double()


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6])
def test_an_encoders_gradients_equal_those_of_the_whole_batch(encoder, chunk):
    texts = [f"{text} {k}" for k, text in enumerate(TEXTS)]
    pixels = encoder.preprocess_images([picture(k) for k in range(6)]).double()
    keys = torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([0, 1, 1, 3, 4, 4])

    def encode(rows):
        return encoder.encode_image(pixels[rows]).double(), encoder.encode_text(encoder.tokenize(texts[rows])).double()

    def loss(images, words):
        return itc_loss(images, words, scale_of(encoder), *keys)

    whole = loss(*encode(slice(0, 6)))
    whole.backward()
    expected = gradients(encoder)
    encoder.zero_grad()
    chunks = [partial(encode, slice(start, start + chunk)) for start in range(0, 6, chunk)]
    value = cached_backward(chunks, loss)
    torch.testing.assert_close(value, whole.detach(), rtol=1e-10, atol=0)
    assert sum(bool(g.abs().max() > 1e-8) for g in expected.values()) > 10
    assert_equal(gradients(encoder), expected)


def test_a_chunk_that_is_encoded_again_draws_the_same_random_numbers():
    network = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 4)).double()
    x, drawn = torch.randn(6, 4, dtype=torch.float64), []

    def encode(rows):
        drawn.append(torch.get_rng_state())
        return (network(x[rows]),)

    torch.manual_seed(3)
    outputs = torch.cat([encode(slice(start, start + 2))[0] for start in (0, 2, 4)])
    outputs.pow(2).sum().backward()
    after, expected = torch.rand(1), gradients(network)
    network.zero_grad()
    torch.manual_seed(3)
    drawn.clear()
    cached_backward([partial(encode, slice(start, start + 2)) for start in (0, 2, 4)], lambda y: y.pow(2).sum())
    assert torch.equal(torch.rand(1), after)  # what is drawn later is not drawn again
    assert len(drawn) == 6
    assert all(torch.equal(first, again) for first, again in zip(drawn[:3], drawn[3:], strict=True))
    assert not torch.equal(drawn[0], drawn[1])
    assert_equal(gradients(network), expected)


def test_activations_of_one_chunk_are_alive_at_a_time():
    network, alive, most = nn.Linear(3, 3), [0], [0]

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive[0] -= 1
            return gradient

    def encode():
        y = network(torch.ones(1, 3))
        if y.requires_grad:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return (Held.apply(y),)

    cached_backward([encode] * 5, lambda y: y.sum())
    assert (most, alive) == ([1], [0])


def test_a_tower_that_does_not_learn_is_left_alone():
    moving, still = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
    x = torch.randn(4, 3)
    chunks = [lambda rows=rows: (moving(x[rows]), still(x[rows])) for rows in (slice(0, 2), slice(2, 4))]
    cached_backward(chunks, lambda a, b: (a * b).sum())
    torch.testing.assert_close(moving.weight.grad, still(x).T @ x)
    assert still.weight.grad is None


def test_without_learning_nothing_is_kept():
    network = nn.Linear(3, 2)
    cache = GradientCache([lambda: (network(torch.ones(2, 3)),)], learns=False)
    assert not cache.views[0].requires_grad
    assert cache._graph is None
