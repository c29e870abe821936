"""Masked words: whole words, at the rate that was asked for."""

import numpy as np
import pytest
import torch
from checkpoints import LETTERS

from mmenc_plugin.encoders._vlmo.vocabulary import WordPieces
from mmenc_plugin.training.masking import KEPT, WordMasks

TEXTS = ["red shoe", "a longer story of blue things, with 7 words", "redshoe blue", "x", "", "日本 red"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(LETTERS) + "\n")
    return WordPieces(path, len(LETTERS), 40)


@pytest.fixture(scope="module")
def ids(words):
    return words(TEXTS)["ids"]


def words_of(row):
    """Words by their spelling, from the pieces alone: [(place, ...), ...]."""
    found = []
    for place, piece in enumerate(LETTERS[i] for i in row):
        if piece.startswith("##"):
            found[-1].append(place)
        elif not piece.startswith("["):
            found.append([place])
    return found


def test_words_are_found(words, ids):
    masks = WordMasks(words)
    for row in ids:
        assert [word.tolist() for word in masks.words(row.numpy())] == words_of(row)
    assert [len(word) for word in words_of(ids[2])] == [5, 1]  # red ##s ##h ##o ##e, blue
    assert words_of(ids[4]) == []


def test_a_word_is_hidden_whole_or_not_at_all(words, ids):
    masks = WordMasks(words)
    for seed in range(200):
        targets = masks(ids, [(seed, row) for row in range(len(TEXTS))]).targets
        for row, text in enumerate(ids):
            hidden = targets[row] != KEPT
            assert torch.equal(targets[row][hidden], text[hidden])
            spelled = words_of(text)
            for word in spelled:
                assert hidden[word].all() or not hidden[word].any()
            assert set(hidden.nonzero().ravel().tolist()) <= {place for word in spelled for place in word}
            assert hidden.any() == bool(spelled)


def test_shares_are_those_of_the_paper(words):
    ids = words(["red " * 38])["ids"].repeat(2000, 1)
    masked = WordMasks(words)(ids, [(row,) for row in range(2000)])
    hidden = masked.targets != KEPT
    assert hidden.float().sum() / (2000 * 38) == pytest.approx(0.15, abs=0.005)
    became = masked.ids[hidden]
    assert (became == LETTERS.index("[MASK]")).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (became == LETTERS.index("red")).float().mean() == pytest.approx(0.1, abs=0.02)  # and 1 in 75 of the others
    assert torch.equal(masked.ids[~hidden], ids[~hidden])
    others = became[(became != LETTERS.index("[MASK]")) & (became != LETTERS.index("red"))]
    assert others.min() > LETTERS.index("[MASK]")
    assert len(others.unique()) > 60


def test_what_is_hidden_depends_on_the_seed_and_not_on_the_batch(words, ids):
    masks = WordMasks(words)
    whole, alone = masks(ids, [(9, row) for row in range(len(TEXTS))]), masks(ids[1:2], [(9, 1)])
    assert torch.equal(whole.ids[1], alone.ids[0])
    assert not torch.equal(masks(ids[1:2], [(8, 1)]).targets, alone.targets)
    assert np.array_equal(ids.numpy(), words(TEXTS)["ids"].numpy())  # the texts themselves are left alone
