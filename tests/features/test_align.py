"""Item ids become rows: each row gets its own item's features, whatever the order."""

import copy
import random
from pathlib import Path

import pytest
import torch

from mmenc_plugin.errors import DataError
from mmenc_plugin.features import AlignedFeatures, FeatureBlock, FrozenFeatures, align


def block(values, present=None, rejected=None, ids=None):
    values = torch.tensor(values, dtype=torch.float32)
    present = torch.ones(len(values), dtype=torch.bool) if present is None else torch.tensor(present)
    ids = ids or [f"i{k}" for k in range(len(values))]
    return FeatureBlock(ids, values, present, rejected or {}, {"modality": "image"}, Path("store"))


def test_every_row_gets_its_own_item():
    rng = random.Random(0)
    for _ in range(50):
        n, width = rng.randint(1, 40), rng.randint(1, 5)
        ids = [str(k) for k in rng.sample(range(1000), n)]
        values = [[float(item) + column / 10 for column in range(width)] for item in ids]
        present = [rng.random() < 0.8 for _ in ids]
        tokens = rng.choices(ids, k=rng.randint(0, 60))  # shuffled, some left out, some twice
        out = align(block(values, present, ids=ids), tokens, missing="zeros")
        assert out.values.shape == (len(tokens), width)
        assert out.values.dtype == torch.float32
        for row, token in enumerate(tokens):
            here = ids.index(token)
            assert bool(out.present[row]) == present[here]
            expected = values[here] if present[here] else [0.0] * width
            torch.testing.assert_close(out.values[row], torch.tensor(expected))


def test_a_block_is_left_as_it_is():
    made = block([[1.0, 2.0], [3.0, 4.0]], [True, False])
    align(made, ["i1", "i0"], missing="mean", scaling="standard", padding_row=True)
    assert made.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_unknown_items_are_counted_and_named():
    tokens = ["i0", "x1", "x2", "i1", "x3", "x4"]
    expected = r"4 of 6 items of the interactions have no row in the item file \('x1', 'x2', 'x3', \.\.\.\)"
    with pytest.raises(DataError, match=expected):
        align(block([[1.0], [2.0]]), tokens)


def test_ids_are_compared_as_they_are_written():
    with pytest.raises(DataError, match="'1'"):
        align(block([[1.0]], ids=["01"]), ["1"])


MISSING = [[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]], [True, False, True]


@pytest.mark.parametrize(("missing", "expected"), [("mean", [2.0, 4.0]), ("zeros", [0.0, 0.0])])
def test_a_missing_item_gets_what_was_asked_for(missing, expected):
    out = align(block(*MISSING), ["i0", "i1", "i2"], missing=missing)
    assert out.values.tolist() == [[1.0, 2.0], expected, [3.0, 6.0]]
    assert out.present.tolist() == [True, False, True]


def test_the_mean_is_over_the_hosts_items_alone():
    out = align(block([[1.0], [0.0], [3.0], [100.0]], [True, False, True, True]), ["i2", "i1", "i0"], missing="mean")
    assert out.values.tolist() == [[3.0], [2.0], [1.0]]


def test_a_missing_item_may_be_an_error_with_its_reason():
    made = block(*MISSING, rejected={"i1": "truncated or damaged: eof"})
    with pytest.raises(DataError, match=r"1 of 3 items have no image \('i1: truncated or damaged: eof'\)"):
        align(made, ["i0", "i1", "i2"], missing="error")
    assert align(made, ["i0", "i2"], missing="error").present.all()


def test_the_padding_row_is_first_and_zero():
    out = align(block([[1.0, 1.0], [3.0, 3.0]]), ["i1", "i0"], padding_row=True, scaling="none")
    assert out.values.tolist() == [[0.0, 0.0], [3.0, 3.0], [1.0, 1.0]]
    assert out.present.tolist() == [False, True, True]


@pytest.mark.parametrize("scaling", ["standard", "l2", "none"])
@pytest.mark.parametrize("missing", ["mean", "zeros"])
def test_the_padding_row_changes_no_other_row(scaling, missing):
    tokens = ["i2", "i1", "i0"]
    without = align(block(*MISSING), tokens, scaling=scaling, missing=missing)
    padded = align(block(*MISSING), tokens, scaling=scaling, missing=missing, padding_row=True)
    assert torch.equal(padded.values[1:], without.values)
    assert not padded.values[0].any()


def test_standard_scaling_by_hand():
    """Mean (3, 4), centred rows (-2, -4), (0, 0), (2, 4), mean squared norm (20 + 0 + 20) / 3."""
    out = align(block([[1.0, 0.0], [3.0, 4.0], [5.0, 8.0]]), ["i0", "i1", "i2"], scaling="standard")
    unit = (40 / 3) ** 0.5
    torch.testing.assert_close(out.values, torch.tensor([[-2.0, -4.0], [0.0, 0.0], [2.0, 4.0]]) / unit)
    torch.testing.assert_close(out.values.square().sum(1).mean(), torch.tensor(1.0))


def test_l2_scaling_by_hand():
    out = align(block([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]), ["i0", "i1", "i2"], scaling="l2")
    torch.testing.assert_close(out.values, torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]))


def test_no_scaling_keeps_the_bits():
    values = [[0.1, 1e30], [-0.0, 1e-40]]
    assert torch.equal(align(block(values), ["i0", "i1"], scaling="none").values, block(values).values)


def test_missing_items_have_no_part_in_the_scaling():
    """With or without a missing item the others get the same rows; it gets the mean, or zeros, of the scaled ones."""
    values = [[1.0, 0.0], [3.0, 4.0], [5.0, 8.0], [0.0, 0.0]]
    made, present = block(values, [True, True, True, False]), ["i0", "i1", "i2"]
    for scaling in ("standard", "l2", "none"):
        alone = align(made, present, scaling=scaling)
        for missing in ("mean", "zeros"):
            out = align(made, [*present, "i3"], scaling=scaling, missing=missing)
            assert torch.equal(out.values[:3], alone.values)
            expected = alone.values.mean(0) if missing == "mean" else torch.zeros(2)
            torch.testing.assert_close(out.values[3], expected)


@pytest.mark.parametrize("scaling", ["standard", "l2", "none"])
def test_equal_rows_one_row_and_no_row_stay_finite(scaling):
    made = block([[7.0, 7.0], [7.0, 7.0], [0.0, 0.0]], [True, True, False])
    for tokens in (["i0", "i1"], ["i0"], ["i2"], []):
        out = align(made, tokens, scaling=scaling)
        assert out.values.shape == (len(tokens), 2)
        assert out.values.isfinite().all()


def test_frozen_features_answer_by_modality():
    image = AlignedFeatures(torch.arange(6.0).view(3, 2), torch.tensor([False, True, True]))
    text = AlignedFeatures(torch.ones(3, 5), torch.ones(3, dtype=torch.bool))
    features = FrozenFeatures({"text": text, "image": image})
    assert features.modalities == ("text", "image")
    assert (features.width("image"), features.width("text")) == (2, 5)
    assert torch.equal(features.table("image"), image.values)
    assert features.rows("image", torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert features.present("image").tolist() == [False, True, True]


def test_frozen_features_are_neither_trained_nor_saved_and_copies_share_them():
    features = FrozenFeatures({"image": AlignedFeatures(torch.ones(3, 2), torch.ones(3, dtype=torch.bool))})
    assert not list(features.parameters())
    assert not features.state_dict()
    shared = copy.deepcopy({"one": features})["one"]
    assert shared is not features
    assert shared.table("image").data_ptr() == features.table("image").data_ptr()
    assert features.double().table("image").dtype == torch.float64
