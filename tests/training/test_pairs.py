"""Which pairs there are, what is held out of them, and their order."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin.errors import DataError
from mmenc_plugin.training.pairs import batches, read_pairs, shuffled, split


@pytest.fixture
def items(make_items):
    return make_items(12)


def changed(items, images=None, texts=None):
    return replace(
        items,
        images=[(images or {}).get(row, image) for row, image in enumerate(items.images)],
        texts=[(texts or {}).get(row, text) for row, text in enumerate(items.texts)],
    )


def test_a_pair_needs_picture_and_text(items, tmp_path):
    pairs = read_pairs(changed(items, {1: "none.png", 2: ""}, {3: " "}), tmp_path)
    assert pairs.rows.tolist() == [0, *range(4, 12)]
    assert pairs.of_item.tolist() == [0, -1, -1, -1, *range(1, 9)]
    assert pairs.text(1) == items.texts[4]


def test_equal_contents_have_equal_numbers_and_equal_pairs_are_one(items, tmp_path):
    (items.image_dir / "copy.png").write_bytes((items.image_dir / "3.png").read_bytes())
    pairs = read_pairs(changed(items, {5: "copy.png", 7: "3.png"}, {8: items.texts[2], 7: items.texts[3]}), tmp_path)
    assert len(pairs) == 11  # item 7 is item 3 again
    assert pairs.of_item[7] == pairs.of_item[3]
    pair = pairs.of_item
    assert pairs.images[pair[5]] == pairs.images[pair[3]]
    assert pairs.texts[pair[8]] == pairs.texts[pair[2]]
    assert len(set(pairs.images)) == len(set(pairs.texts)) == 10


def test_pairs_can_be_left_out(items, tmp_path):
    pairs = read_pairs(changed(items, {1: ""}), tmp_path)
    fewer = pairs.without([0, 4])
    assert fewer.rows.tolist() == [2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert fewer.of_item.tolist() == [-1, -1, 0, 1, 2, -1, *range(3, 9)]
    assert fewer.digest != pairs.digest
    assert fewer.digest == read_pairs(changed(items, {0: "", 1: "", 5: ""}), tmp_path).digest


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_pairs_are_refused(items, tmp_path, n):
    bare = changed(items, dict.fromkeys(range(n, 12), ""))
    with pytest.raises(DataError, match=rf"at least two, but {n} of 12 items are \({12 - n} without a picture, 0 with"):
        read_pairs(bare, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_of_the_validation_part_is_in_the_training_part(make_items, tmp_path, seed):
    items = make_items(60)
    shared = {row: f"{row // 3}.png" for row in range(30, 40)}
    words = {row: items.texts[row % 7] for row in range(36, 55)}
    pairs = read_pairs(changed(items, shared, words), tmp_path)
    train, held = split(pairs, 0.2, seed)
    assert sorted([*train, *held]) == list(range(len(pairs)))
    assert 2 <= len(held) <= 0.2 * len(pairs) + 1
    assert not set(pairs.images[train]) & set(pairs.images[held])
    assert not set(pairs.texts[train]) & set(pairs.texts[held])


def test_what_is_held_out_depends_on_contents_and_seed_alone(make_items, tmp_path):
    items = make_items(40)
    backwards = replace(items, **{name: getattr(items, name)[::-1] for name in ("ids", "texts", "images")})

    def held(table, seed):
        pairs = read_pairs(table, tmp_path)
        return {pairs.text(pair) for pair in split(pairs, 0.25, seed)[1]}

    assert len(held(items, 0)) == 10
    assert held(items, 0) == held(backwards, 0)
    assert held(items, 0) != held(items, 1)


def test_pairs_that_all_hang_together_cannot_be_held_out(items, tmp_path):
    pairs = read_pairs(replace(items, texts=["the same"] * 12), tmp_path)
    with pytest.raises(DataError, match=r"12 pairs cannot be held out.* 0 would be.*1 groups.*the largest of 12"):
        split(pairs, 0.1, 0)
    train, held = split(pairs, 0, 0)
    assert (train.tolist(), held.tolist()) == (list(range(12)), [])


def test_batches_are_of_nearly_one_size():
    sizes = [len(batch) for batch in batches(np.arange(65), 64)]
    assert sizes == [33, 32]
    assert [len(batch) for batch in batches(np.arange(64), 64)] == [64]
    assert np.concatenate(batches(np.arange(1000), 64)).tolist() == list(range(1000))


def test_an_epoch_has_an_order_of_its_own():
    part = np.arange(3, 50)
    first, again, next_, other = (shuffled(part, *key) for key in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert first.tolist() == again.tolist()
    assert sorted(first) == sorted(next_) == part.tolist()
    assert len({tuple(order) for order in (first, next_, other)}) == 3


def test_a_picture_of_another_format_is_another_picture(items, tmp_path):
    Image.open(items.image_dir / "3.png").save(items.image_dir / "3.bmp")
    pairs = read_pairs(changed(items, {5: "3.bmp"}), tmp_path)
    assert pairs.images[5] != pairs.images[3]
