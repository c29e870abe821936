"""An encoder of every family that can be trained, with random weights, and a loss that all of it is in."""

import checkpoints
import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.testing import samples

KINDS = ["openclip", "clip", "siglip", "align", "sbert", "vlmo", "timm"]


@pytest.fixture(scope="session")
def uri_of(tmp_path_factory):
    """uri_of(kind): of a small encoder, whose files are made once."""
    made = {"timm": "timm:test_vit/random", "resnet": "timm:test_resnet/random"}

    def uri(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"learn_{kind}")
            if kind == "openclip":
                made[kind] = f"openclip:local-dir:{checkpoints.openclip(folder)}"
            elif kind in ("sbert", "vlmo"):
                made[kind] = f"{kind}:{getattr(checkpoints, kind)(folder)}"
            else:
                made[kind] = f"hf:{checkpoints.hf(kind, folder)}"
        return made[kind]

    return uri


@pytest.fixture
def build(uri_of):
    """build(kind, dtype): a fresh encoder, in float64 unless said, so that no small step is lost."""

    def make(kind, dtype=torch.float64):
        return encoders.build(uri_of(kind)).to(dtype)

    return make


@pytest.fixture
def outputs():
    """outputs(encoder): features of three items of each modality, [3, D] float64 by modality."""

    def embed(encoder):
        with torch.no_grad():
            return {m: _encoded(encoder, m).double() for m in sorted(encoder.modalities)}

    return embed


@pytest.fixture
def loss():
    """loss(encoder): a number that every parameter of the encoder's objectives is in."""

    def total(encoder, modalities=None):
        out = {m: _encoded(encoder, m) for m in sorted(modalities or encoder.modalities)}
        parts = [(value * torch.linspace(-1, 2, value.shape[1], dtype=value.dtype)).sum() for value in out.values()]
        if modalities is None:
            scales = [p for name, p in encoder.named_parameters() if "logit_" in name or "temperature" in name]
            parts += [scale.exp().sum() for scale in scales]
            if encoder.family == "vlmo":
                parts += _objectives(encoder)
        return sum(part.double() for part in parts)

    return total


@pytest.fixture
def step(loss):
    """step(encoder, times): plain gradient steps on what requires gradients."""

    def descend(encoder, times=1, rate=1.0):
        for _ in range(times):
            encoder.zero_grad()
            loss(encoder).backward()
            with torch.no_grad():
                for parameter in encoder.parameters():
                    if parameter.grad is not None:
                        parameter -= rate * parameter.grad
        encoder.zero_grad()

    return descend


def _encoded(encoder, modality):
    pictures = [encoder.prepare_image(samples.picture(k)) for k in range(3)] if modality != "text" else []
    texts = ["a red shoe", "blue", "shoe 3"]
    if modality == "image":
        return encoder.encode_image(encoder._pixels(pictures))
    tokens = encoder._tokens(texts)
    if modality == "text":
        return encoder.encode_text(tokens)
    return encoder.encode_pair(encoder._pixels(pictures), tokens)


def _objectives(encoder):
    """Of VLMo: contrast by both branches, matching, masked words."""
    network, tokens = encoder.network, encoder._tokens(["a red shoe", "blue"])
    pixels = encoder._pixels([encoder.prepare_image(samples.picture(k)) for k in range(2)])
    ids, mask = tokens["ids"], tokens["mask"]
    logits = network.contrast_logits(network.image_contrast(pixels), network.text_contrast(ids, mask))
    match = network.matching_logits(network.pair_features(pixels, ids, mask))
    words = network.word_logits(network.text_tokens(ids, mask))
    return [part.pow(2).sum() for part in (*logits, match[:, :1], words)]
