"""Blocks in other toolkits' files, and back: every item keeps its own features, whatever the order."""

import csv
import json
import re
import sys
import types

import numpy as np
import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.errors import DataError, SettingsError, StoreError, UnknownNameError
from mmenc_plugin.features import Recipe, exchange, extract, open_block
from mmenc_plugin.features.exchange.order import read_order
from mmenc_plugin.features.store import write_block
from mmenc_plugin.types import ItemTable

N, WIDTH = 12, 3
IDS = [f"B00{k}" for k in np.random.default_rng(0).permutation(N)]  # not in the order of their numbers
MASKED = {IDS[3], IDS[8]}
FORMATS = ["cornac", "ducho", "mmrec", "plain", "recbole", "warprec"]


def value_of(item):
    """Features that name their item, with digits that need all of float32."""
    return np.float32(int(item[3:]) + 1) / np.float32(3) + np.arange(WIDTH, dtype=np.float32)


def make_block(store, ids=IDS, masked=MASKED, modality="image"):
    spec = EncoderSpec("mine", "net", "v1", "", {modality: WIDTH}, {modality: {}})
    present = torch.tensor([item not in masked for item in ids])
    values = torch.tensor(np.stack([value_of(item) for item in ids])) * present[:, None]
    recipe = Recipe.of(spec, modality, len(ids), "content", 256, 32)
    write_block(store, recipe, list(ids), {"values": values, "present": present}, dict.fromkeys(masked, "gone"))
    return open_block(store / recipe.key)


@pytest.fixture
def block(tmp_path):
    return make_block(tmp_path / "store")


@pytest.fixture
def whole(tmp_path):
    """A block in which nothing is masked."""
    return make_block(tmp_path / "whole", masked=set())


def items_of(ids, images=()):
    return ItemTable(list(ids), [""] * len(ids), list(images) or [""] * len(ids), None)


def shuffled(ids, seed=1):
    return [ids[k] for k in np.random.default_rng(seed).permutation(len(ids))]


def expected(ids):
    return np.stack([value_of(item) for item in ids])


def export_any(block, name, tmp_path, **options):
    """Export with an order where the format needs one."""
    (tmp_path / "order.txt").write_text("\n".join(IDS))
    place = {"recbole": "shop.itememb", "warprec": "side.tsv", "plain": "x.npy", "cornac": "x.npy"}.get(name, name)
    return exchange.export(block, name, tmp_path / "out" / place, order_from=tmp_path / "order.txt", **options)


# --- There and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "cornac", "ducho", "recbole"])
def test_formats_with_ids_come_back_item_by_item(whole, tmp_path, name):
    written = export_any(whole, name, tmp_path)
    assert (written.n_rows, written.width, written.filled, written.left_out) == (N, WIDTH, 0, 0)
    items = items_of([*shuffled(IDS), "B00_none"])
    encoder = encoders.build(exchange.uri_of(name, written.files[0], items))
    back = extract(items, encoder, "image", tmp_path / "back", show_progress=False)
    assert back.present.tolist() == [True] * N + [False]
    assert np.array_equal(back.values[:N].numpy(), expected(items.ids[:N]))


@pytest.mark.parametrize("name", ["plain", "ducho"])
def test_masked_items_are_left_out_and_come_back_masked(block, tmp_path, name):
    written = export_any(block, name, tmp_path)
    assert (written.n_rows, written.filled, written.left_out) == (N - 2, 0, 2)
    items = items_of(shuffled(IDS))
    back = extract(
        items,
        encoders.build(exchange.uri_of(name, written.files[0], items)),
        "text",
        tmp_path / "b",
        show_progress=False,
    )
    assert {item for item, has in zip(back.ids, back.present.tolist(), strict=True) if not has} == MASKED


def test_mmrecs_rows_are_those_of_its_numbers_and_come_back(block, tmp_path):
    folder = mmrec_folder(tmp_path, shuffled(IDS))
    order = shuffled(IDS)
    written = exchange.export(block, "mmrec", folder, order_from=folder)
    assert written.files == [folder / "image_feat.npy"]
    assert (written.n_rows, written.filled) == (N, 2)
    array = np.load(folder / "image_feat.npy", allow_pickle=False)
    assert array.dtype == np.float32
    mean = np.stack([value_of(item) for item in IDS if item not in MASKED]).mean(0)
    for number, item in enumerate(order):
        np.testing.assert_allclose(array[number], mean if item in MASKED else value_of(item), rtol=1e-6)
    items = items_of(shuffled(IDS, 5))
    uri = exchange.uri_of("mmrec", folder / "image_feat.npy", items)
    assert uri == f"npy:{folder}/image_feat.npy?ids={folder}/i_id_mapping.csv"
    encoder = encoders.build(uri)
    back = encoder.values(encoder.rows(items)).numpy()
    assert np.array_equal(back, array[[order.index(item) for item in items.ids]])


def mmrec_folder(tmp_path, order, mapping=True, name="baby"):
    """MMRec's data: interactions by number, not in the order of numbers, and the mapping, lines shuffled."""
    folder = tmp_path / name
    folder.mkdir()
    rows = [f"{k % 4}\t{k}\t5.0\t1\t0" for k in shuffled(list(range(len(order))), 3)]
    (folder / f"{name}.inter").write_text("\n".join(["userID\titemID\trating\ttimestamp\tx_label", *rows]) + "\n")
    if mapping:
        lines = shuffled([f"{item}\t{number}" for number, item in enumerate(order)], 4)
        (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *lines]) + "\n")
    return folder


def test_mmrec_takes_only_the_items_that_it_counts(block, tmp_path):
    folder = mmrec_folder(tmp_path, IDS[:5])
    (folder / "i_id_mapping.csv").write_text(
        "\n".join(["asin\titemID", *(f"{item}\t{k}" for k, item in enumerate(IDS))])
    )
    written = exchange.export(block, "mmrec", folder / "other.npy", order_from=folder / "baby.inter")
    assert np.load(folder / "other.npy").shape == (5, WIDTH)
    assert "vision_feature_file: 'other.npy'" in written.note


def test_mmrecs_own_numbers_need_no_mapping(tmp_path):
    numbers = shuffled([str(k) for k in range(7)])
    spec = EncoderSpec("mine", "net", "v1", "", {"text": 1}, {"text": {}})
    recipe = Recipe.of(spec, "text", 7, "content", 256, 32)
    values = torch.tensor([[float(k)] for k in numbers])
    write_block(tmp_path / "s", recipe, numbers, {"values": values, "present": torch.ones(7, dtype=torch.bool)}, {})
    folder = mmrec_folder(tmp_path, numbers, mapping=False)
    exchange.export(open_block(tmp_path / "s" / recipe.key), "mmrec", folder, order_from=folder)
    assert np.load(folder / "text_feat.npy").ravel().tolist() == list(range(7))
    uri = exchange.uri_of("mmrec", folder / "text_feat.npy", items_of(["3", "1"]))
    assert uri == f"npy:{folder}/text_feat.npy?order=number"


# --- What the files are -----------------------------------------------------------------------------


def test_plain_and_cornac_files_are_arrays_with_an_id_a_line(whole, tmp_path):
    for name in ("plain", "cornac"):
        written = export_any(whole, name, tmp_path, replace=True)
        array, ids = written.files
        assert ids.read_text(encoding="utf-8").split("\n") == IDS
        assert np.array_equal(np.load(array, allow_pickle=False), expected(IDS))


def test_the_lines_for_cornac_run_and_pair_rows_with_ids(whole, tmp_path, monkeypatch):
    written = export_any(whole, "cornac", tmp_path)

    class FeatureModality:
        def __init__(self, features, ids):
            self.features, self.ids = features, ids

    monkeypatch.setitem(sys.modules, "cornac", types.ModuleType("cornac"))
    data = types.ModuleType("cornac.data")
    data.FeatureModality = FeatureModality
    monkeypatch.setitem(sys.modules, "cornac.data", data)
    names = {}
    exec(written.note, names)
    made = names["item_feature"]
    assert len(made.features) == len(made.ids)
    for row, item in zip(made.features, made.ids, strict=True):
        assert np.array_equal(row, value_of(item))


def test_a_folder_for_ducho_has_one_row_a_file(block, tmp_path):
    written = export_any(block, "ducho", tmp_path)
    assert {path.name for path in written.files[0].iterdir()} == {f"{item}.npy" for item in IDS if item not in MASKED}
    assert np.array_equal(np.load(written.files[0] / f"{IDS[0]}.npy"), value_of(IDS[0])[None])


def test_recboles_file_has_its_header_and_every_digit(block, tmp_path):
    written = export_any(block, "recbole", tmp_path, missing="zeros")
    lines = written.files[0].read_text().splitlines()
    assert lines[0] == "iid:token\titem_emb:float_seq"
    for line, item in zip(lines[1:], IDS, strict=True):
        token, vector = line.split("\t")
        assert token == item
        row = np.array(vector.split(" "), dtype=np.float64).astype(np.float32)
        assert np.array_equal(row, np.zeros(WIDTH) if item in MASKED else value_of(item))
    other = exchange.export(
        block, "recbole", tmp_path / "shop.itemtext", order_from=tmp_path / "order.txt", missing="mean"
    )
    assert other.files[0].read_text().startswith("itemtext_iid:token\titemtext_emb:float_seq\n")
    assert "preload_weight: {itemtext_iid: itemtext_emb}" in other.note


def test_warprecs_table_has_the_item_first_and_numbers_after_it(block, tmp_path):
    written = export_any(block, "warprec", tmp_path)
    with written.files[0].open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["item_id", "image_0", "image_1", "image_2"]
    assert [row[0] for row in rows[1:]] == IDS
    assert [float(cell) for cell in rows[1][1:]] == pytest.approx(value_of(IDS[0]).tolist(), rel=1e-7)
    assert "every different number of a column for a category" in written.note


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_the_same_values_for_the_same_items(whole, tmp_path, name):
    """Exported in two orders, each item's row is the same."""
    found = []
    for turn, order in enumerate((IDS, shuffled(IDS))):
        (tmp_path / str(turn)).mkdir()
        (tmp_path / f"{turn}.json").write_text(json.dumps(order))
        place = {"recbole": "shop.itememb", "warprec": "side.tsv"}.get(name, "")
        written = exchange.export(whole, name, tmp_path / str(turn) / place, order_from=tmp_path / f"{turn}.json")
        found.append(rows_of(written.files[0], order))
    assert found[0] == found[1]


def rows_of(path, order):
    """Item -> its numbers, read without any code of ours."""
    if path.is_dir():
        return {file.stem: np.load(file).ravel().tolist() for file in path.iterdir()}
    if path.suffix == ".npy":
        return dict(zip(order, np.load(path).tolist(), strict=True))
    lines = [re.split("[\t ]", line) for line in path.read_text().splitlines()[1:]]
    return {item: [float(cell) for cell in cells] for item, *cells in lines}


# --- What items without features get -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmrec", "cornac", "recbole", "warprec"])
def test_formats_that_need_every_item_leave_none_out(block, tmp_path, name):
    with pytest.raises(SettingsError, match=f"the format {name} needs a row for every item"):
        export_any(block, name, tmp_path, missing="omit")
    with pytest.raises(DataError, match=r"2 of 12 items have no image \('B00.*: gone'"):
        export_any(block, name, tmp_path, missing="error")
    assert export_any(block, name, tmp_path).filled == 2


@pytest.mark.parametrize("missing", ["mean", "zeros"])
def test_a_complete_plain_file_can_be_asked_for(block, tmp_path, missing):
    written = export_any(block, "plain", tmp_path, missing=missing)
    assert (written.n_rows, written.filled, written.left_out) == (N, 2, 0)
    row = np.load(written.files[0])[3]
    mean = np.stack([value_of(item) for item in IDS if item not in MASKED]).mean(0)
    np.testing.assert_allclose(row, mean if missing == "mean" else 0, rtol=1e-6)


# --- Orders -----------------------------------------------------------------------------------------


def test_orders_are_read_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\nu\tb\nu\ta\nv\tb\n")
    (tmp_path / "a.item").write_text("sku:token\ttitle:token_seq\nb\tx\nc\ty\n")
    assert read_order(tmp_path / "a.inter") == ["b", "a"]
    assert read_order(tmp_path / "a.item", "sku") == ["b", "c"]
    assert read_order(tmp_path) == ["b", "a"]
    (tmp_path / "ids.csv").write_text("id\nq\nb\n")
    assert read_order(tmp_path / "ids.csv") == ["q", "b"]


def test_orders_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.inter does not exist"):
        read_order(tmp_path / "none.inter")
    with pytest.raises(DataError, match=r"holds 0 \.inter files"):
        read_order(tmp_path)
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\nu\tb\n")
    with pytest.raises(UnknownNameError, match=r"column of a\.inter named 'sku'"):
        read_order(tmp_path / "a.inter", "sku")
    (tmp_path / "m.inter").write_text("userID\titemID\n0\t1\n0\tx\n")
    with pytest.raises(DataError, match=r"m\.inter: line 3 has no item number in the column itemID"):
        read_order(tmp_path / "m.inter")
    folder = mmrec_folder(tmp_path, IDS)
    (folder / "i_id_mapping.csv").write_text("asin\titemID\na\t0\n")
    with pytest.raises(DataError, match=r"has item numbers up to 11, but .*i_id_mapping\.csv ends with 0"):
        read_order(folder)


@pytest.mark.parametrize("name", ["mmrec", "recbole"])
def test_formats_that_need_an_order_say_why(block, tmp_path, name):
    with pytest.raises(SettingsError, match=f"the format {name} needs --order-from: .*(have no ids|makes an item)"):
        exchange.export(block, name, tmp_path / "x")


def test_an_item_that_the_block_lacks_stops_the_export(block, tmp_path):
    (tmp_path / "order.txt").write_text("\n".join([*IDS, "gold"]))
    with pytest.raises(
        DataError, match=r"1 of 13 items of .*order\.txt are not in the block \('gold'; the block's are"
    ):
        exchange.export(block, "plain", tmp_path / "x.npy", order_from=tmp_path / "order.txt")
    (tmp_path / "order.txt").write_text("\n".join(MASKED))
    with pytest.raises(DataError, match="not one of the 2 items has features"):
        exchange.export(block, "plain", tmp_path / "x.npy", order_from=tmp_path / "order.txt")
    assert not (tmp_path / "x.npy").exists()


# --- Care -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_overwritten_unasked(whole, tmp_path, name):
    first = export_any(whole, name, tmp_path)
    with pytest.raises(SettingsError, match=r"already.*--replace"):
        export_any(whole, name, tmp_path)
    assert export_any(whole, name, tmp_path, replace=True).files == first.files


def test_a_folder_for_ducho_is_never_mixed_with_other_items(whole, tmp_path):
    written = export_any(whole, "ducho", tmp_path)
    np.save(written.files[0] / "stranger.npy", np.zeros((1, WIDTH)))
    with pytest.raises(
        SettingsError, match=r"holds 13 \.npy files already, 1 of them of items that are not written now"
    ):
        export_any(whole, "ducho", tmp_path, replace=True)


def test_item_graphs_that_mmrec_would_use_on_are_named(whole, tmp_path):
    folder = mmrec_folder(tmp_path, IDS)
    (folder / "mm_adj_10.pt").write_bytes(b"")
    assert re.search(
        "would be used on: delete mm_adj_10.pt", exchange.export(whole, "mmrec", folder, order_from=folder).note
    )


def test_ids_that_a_file_cannot_hold_are_refused(tmp_path):
    spec = EncoderSpec("mine", "net", "v1", "", {"image": 1}, {"image": {}})
    ids, tensors = ["a/b\t\n"], {"values": torch.ones(1, 1), "present": torch.ones(1, dtype=torch.bool)}
    recipe = Recipe.of(spec, "image", 1, "content", 256, 32)
    write_block(tmp_path / "s", recipe, ids, tensors, {})
    block = open_block(tmp_path / "s" / recipe.key)
    (tmp_path / "order.json").write_text(json.dumps(ids))
    for name, message in {
        "ducho": "cannot be file names",
        "plain": "line breaks",
        "recbole": "a tab, line break or",
    }.items():
        with pytest.raises(DataError, match=f"1 item ids .*{message}"):
            exchange.export(block, name, tmp_path / "x.itememb", order_from=tmp_path / "order.json")


@pytest.mark.parametrize("suffix", ["inter", "item", "item-emb"])
def test_recboles_own_suffixes_are_not_taken(whole, tmp_path, suffix):
    (tmp_path / "order.txt").write_text("\n".join(IDS))
    with pytest.raises(SettingsError, match=rf"'{suffix}' cannot be the suffix .* Call it shop\.itememb"):
        exchange.export(whole, "recbole", tmp_path / f"shop.{suffix}", order_from=tmp_path / "order.txt")


def test_a_place_that_cannot_be_written_is_named(whole, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/x\.ids\.txt: .*name another place"):
        exchange.export(whole, "plain", tmp_path / "file" / "x.npy")


# --- Import ------------------------------------------------------------------------------------------


def test_mmrecs_files_are_not_guessed_at(tmp_path):
    folder = mmrec_folder(tmp_path, ["100", "7", "1"])
    np.save(folder / "image_feat.npy", np.zeros((3, 2), dtype=np.float32))
    path = folder / "image_feat.npy"
    with pytest.raises(DataError, match=r"1 of 2 item ids stand in .*i_id_mapping.csv, and all of them are numbers"):
        exchange.uri_of("mmrec", path, items_of(["1", "2"]))
    with pytest.raises(DataError, match=r"called 'x', which are not MMRec's item numbers, and .* has not one of them"):
        exchange.uri_of("mmrec", path, items_of(["x"]))
    (folder / "i_id_mapping.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*i_id_mapping.csv that translates them"):
        exchange.uri_of("mmrec", path, items_of(["x"]))


def test_duchos_names_are_seen_in_the_folder(tmp_path):
    np.save(tmp_path / "p1.npy", np.zeros((1, 2), dtype=np.float32))
    np.save(tmp_path / "i1.npy", np.zeros((1, 2), dtype=np.float32))
    assert exchange.uri_of("ducho", tmp_path, items_of(["a"], ["p1.x.png"])) == f"npy:{tmp_path}?names=pictures"
    assert exchange.uri_of("ducho", tmp_path, items_of(["i1"], ["q.png"])) == f"npy:{tmp_path}?names=ids"
    both = items_of(["i1"], ["p1.png"])
    with pytest.raises(DataError, match="in two ways"):
        encoders.build(exchange.uri_of("ducho", tmp_path, both)).rows(both)


def test_imports_without_what_they_need_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"there is no list of ids .*x\.ids\.txt beside it. Name one with --ids"):
        exchange.uri_of("plain", tmp_path / "x.npy", items_of(["a"]))
    with pytest.raises(SettingsError, match="the format warprec is only written"):
        exchange.uri_of("warprec", tmp_path / "x.npy", items_of(["a"]))
    with pytest.raises(DataError, match="does not exist"):
        exchange.uri_of("plain", tmp_path / "none.npy", items_of(["a"]))
    with pytest.raises(UnknownNameError, match=r"no exchange format named 'mmrek'\. Did you mean 'mmrec'"):
        exchange.uri_of("mmrek", tmp_path / "x.npy", items_of(["a"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iid:token\n", "one column of type token and one of type float_seq"),
        ("iid:token\te:float_seq\na\t1 x\n", "a cell of e is no list of numbers"),
        ("iid:token\te:float_seq\na\t1 2\nb\t1\n", r"the vectors have \[1, 2\] numbers"),
    ],
)
def test_recbole_files_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "shop.itememb").write_text(text)
    with pytest.raises(DataError, match=message):
        exchange.uri_of("recbole", tmp_path / "shop.itememb", items_of(["a"]))


def test_all_formats_are_registered_and_described():
    assert exchange.registry.names() == FORMATS
    assert all(kind.about and kind.__doc__ for _, kind in exchange.registry)
