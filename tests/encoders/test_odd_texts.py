"""Texts as catalogues have them: finite features for all, and the same alone as among others."""

import itertools
import random

import pytest
import torch

from mmenc_plugin import encoders

LETTERS = random.Random(0)
TEXTS = {
    "nothing": "",
    "blanks": " \t\n ",
    "emoji": "\U0001f460\U0001f9e5 shoes \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left": "نعل أحمر من الجلد",
    "right to left, with marks": "\u202b\u05e0\u05e2\u05dc \u05d0\u05d3\u05d5\u05de\u05d4\u202c",
    "composed and decomposed": "e\u0301té été",
    "control characters": "red\x00\x07 shoe\ufeff",
    "a lone surrogate's stand-in": "red \ufffd shoe",
    "a tag": "<b>red</b> &amp; <|endoftext|> [SEP] </s> shoe",
    "100,000 characters of words": "many words " * 9_091,
    "100,000 letters without a blank": "".join(LETTERS.choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
    "100,000 characters without a blank": "".join(map(chr, LETTERS.choices(range(0x4E00, 0x9FFF), k=100_000))),
    "100,000 blanks": " " * 100_000,
}


@pytest.fixture(scope="module", params=["hf", "openclip", "sbert"])
def encoder(request):
    folder = {"hf": "tiny_hf_clip", "openclip": "tiny_clip", "sbert": "tiny_sbert"}[request.param]
    scheme = "local-dir:" if request.param == "openclip" else ""
    return encoders.build(f"{request.param}:{scheme}{request.getfixturevalue(folder)}")


@pytest.fixture(scope="module")
def alone(encoder):
    return {name: encoder.embed_texts([text]) for name, text in TEXTS.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_features_are_finite(alone, name):
    assert alone[name].isfinite().all()
    assert alone[name].norm() > 0


def test_features_are_the_same_alone_and_among_others(encoder, alone):
    together = encoder.embed_texts(list(TEXTS.values()))
    torch.testing.assert_close(together, torch.cat(list(alone.values())), rtol=0, atol=1e-6)


def test_scripts_are_told_apart(alone):
    names = ["nothing", "emoji", "right to left", "100,000 characters of words"]
    assert all(not torch.allclose(alone[a], alone[b], atol=1e-4) for a, b in itertools.combinations(names, 2))
