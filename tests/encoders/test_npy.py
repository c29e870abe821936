"""Features that somebody has already: every item gets its own row, and what is in doubt is refused."""

import json
import pickle

import numpy as np
import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.errors import DataError, SettingsError
from mmenc_plugin.features import extract
from mmenc_plugin.types import ItemTable

N, WIDTH = 23, 5


def table(ids, images=(), tmp_path=None):
    return ItemTable(list(ids), [""] * len(ids), list(images) or [""] * len(ids), tmp_path or "images")


def values_of(ids):
    """Features that name their item: all of one row are the number in its id, plus the column."""
    numbers = np.array([float("".join(filter(str.isdigit, item))) for item in ids])
    return (numbers[:, None] + np.arange(WIDTH) / 10).astype(np.float32)


@pytest.fixture
def ids():
    """Ids in no order, none of which is its row."""
    return [f"i{k}" for k in np.random.default_rng(0).permutation(np.arange(100, 100 + N))]


@pytest.fixture
def shuffled(ids):
    return [ids[k] for k in np.random.default_rng(1).permutation(N)]


@pytest.fixture
def array(tmp_path, ids):
    np.save(tmp_path / "feat.npy", values_of(ids))
    return tmp_path / "feat.npy"


def write_ids(path, ids):
    """The ids in the format of the file's name."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{item}\n" for item in ids))
    elif path.suffix == ".csv":
        path.write_text("asin,title\n" + "".join(f'{item},"a, ""b"""\n' for item in ids))
    elif path.suffix == ".tsv":
        path.write_text("\ufeffitem_id\r\n" + "".join(f"{item}\r\n" for item in ids))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ids))
    else:
        np.save(path, np.array(ids))
    return path


def embedded(uri, items):
    encoder = encoders.build(uri)
    rows = encoder.rows(items)
    assert rows.dtype == torch.int64
    return encoder.values(rows)


# --- Which row is whose -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "json", "npy"])
@pytest.mark.parametrize("sign", "=:")
def test_ids_from_a_list_find_their_rows(array, tmp_path, ids, shuffled, kind, sign):
    path = write_ids(tmp_path / f"ids.{kind}", ids)
    out = embedded(f"npy:{array}?ids{sign}{path}", table(shuffled))
    assert out.dtype == torch.float32
    assert np.array_equal(out.numpy(), values_of(shuffled))


@pytest.mark.parametrize("save", ["U", "S", "int64", "uint16"])
def test_ids_in_an_array_may_be_strings_bytes_or_integers(tmp_path, save):
    numbers = [31, 7, 20]
    np.save(tmp_path / "feat.npy", values_of(map(str, numbers)))
    np.save(tmp_path / "ids.npy", np.array(numbers).astype(save))
    out = embedded(f"npy:{tmp_path}/feat.npy?ids={tmp_path}/ids.npy", table(["7", "20", "31"]))
    assert np.array_equal(out.numpy(), values_of(["7", "20", "31"]))


def test_mmrecs_mapping_is_read_by_its_numbers_not_by_its_lines(array, tmp_path, ids, shuffled):
    lines = [f"{item}\t{row}\n" for row, item in enumerate(ids)]
    np.random.default_rng(2).shuffle(lines)
    (tmp_path / "i_id_mapping.csv").write_text("asin\titemID\n" + "".join(lines))
    out = embedded(f"npy:{array}?ids={tmp_path}/i_id_mapping.csv", table(shuffled))
    assert np.array_equal(out.numpy(), values_of(shuffled))


def test_order_items_takes_the_rows_as_they_are(array, ids):
    out = embedded(f"npy:{array}?order=items", table(ids))
    assert np.array_equal(out.numpy(), values_of(ids))


@pytest.mark.parametrize("sign", "=:")
def test_order_number_takes_the_row_that_the_id_says(tmp_path, sign):
    np.save(tmp_path / "feat.npy", values_of(map(str, range(12))))
    out = embedded(f"npy:{tmp_path}/feat.npy?order{sign}number", table(["10", "0", "11", "3"]))
    assert np.array_equal(out.numpy(), values_of(["10", "0", "11", "3"]))


def test_items_without_a_row_are_masked_and_others_keep_theirs(array, tmp_path, ids):
    write_ids(tmp_path / "ids.txt", ids)
    items = table([ids[4], "unknown", ids[2]])
    encoder = encoders.build(f"npy:{array}?ids={tmp_path}/ids.txt")
    assert encoder.rows(items).tolist() == [4, -1, 2]
    block = extract(items, encoder, "text", tmp_path / "store", show_progress=False)
    assert block.present.tolist() == [True, False, True]
    assert list(block.rejected) == ["unknown"]
    assert np.array_equal(block.values.numpy()[[0, 2]], values_of([ids[4], ids[2]]))


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
@pytest.mark.parametrize("order", "CF")
def test_every_float_type_and_memory_order_is_read_as_float32(tmp_path, ids, dtype, order):
    values = np.asarray(values_of(ids).round(0), dtype=dtype, order=order)
    np.save(tmp_path / "feat.npy", values)
    out = embedded(f"npy:{tmp_path}/feat.npy?order=items", table(ids))
    assert np.array_equal(out.numpy(), values.astype(np.float32))


# --- Ducho ------------------------------------------------------------------------------------------


def write_folder(folder, names, shape=(1, WIDTH)):
    folder.mkdir()
    for name in names:
        np.save(folder / f"{name}.npy", values_of([name]).reshape(shape))
    return folder


@pytest.mark.parametrize("query", ["", "?names=ids", "?names:ids"])
@pytest.mark.parametrize("shape", [(1, WIDTH), (WIDTH,), (1, WIDTH, 1, 1)])
def test_a_folder_has_a_file_an_item(tmp_path, query, shape, shuffled):
    folder = write_folder(tmp_path / "ducho", [*shuffled, "v1.5"], shape)
    items = table([*shuffled[::-1], "gone", "v1.5"])
    encoder = encoders.build(f"npy:{folder}{query}")
    rows = encoder.rows(items)
    assert (rows < 0).tolist() == [False] * N + [True, False]
    assert np.array_equal(encoder.values(rows[rows >= 0]).numpy(), values_of([*shuffled[::-1], "v1.5"]))


def test_a_folder_may_be_named_by_pictures_cut_at_the_first_dot(tmp_path):
    folder = write_folder(tmp_path / "ducho", ["p1", "p2", "p3"])
    items = table(["a", "b", "c", "d"], ["p3.old.jpg", "sub/p1.png", "", "p3.old.jpg"])
    encoder = encoders.build(f"npy:{folder}?names=pictures")
    assert encoder.rows(items).tolist() == [2, 0, -1, 2]


def test_a_folder_that_can_be_read_in_two_ways_is_refused_until_one_is_named(tmp_path):
    folder = write_folder(tmp_path / "ducho", ["1", "2"])
    items = table(["1", "2"], ["2.png", "1.png"])
    with pytest.raises(DataError, match=r"in two ways: 2 of 2 items .* for 2 items \('1', '2'\) these differ. Add \?n"):
        encoders.build(f"npy:{folder}").rows(items)
    assert encoders.build(f"npy:{folder}?names=ids").rows(items).tolist() == [0, 1]
    assert encoders.build(f"npy:{folder}?names=pictures").rows(items).tolist() == [1, 0]


def test_two_pictures_with_one_file_are_refused(tmp_path):
    folder = write_folder(tmp_path / "ducho", ["p1"])
    with pytest.raises(DataError, match=r"p1\.a\.png and p1\.b\.png have one file, p1\.npy, since Ducho cuts names"):
        encoders.build(f"npy:{folder}?names=pictures").rows(table(["a", "b"], ["p1.b.png", "p1.a.png"]))


def test_folders_that_hold_something_else_are_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds no \.npy files\. Name the folder that has them itself"):
        encoders.build(f"npy:{empty}")
    matrix = write_folder(tmp_path / "matrix", ["1"])
    np.save(matrix / "2.npy", np.zeros((3, WIDTH), dtype=np.float32))
    with pytest.raises(DataError, match=r"2\.npy holds float32 \[3, 5\]; the features of one item"):
        encoders.build(f"npy:{matrix}")
    np.save(matrix / "2.npy", np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"2\.npy has 4 numbers where 1\.npy has 5"):
        encoders.build(f"npy:{matrix}")
    np.save(matrix / "2.npy", np.full((1, WIDTH), np.nan, dtype=np.float32))
    with pytest.raises(DataError, match=r"the files of 1 items \('2'\) hold values that are not finite"):
        encoders.build(f"npy:{matrix}").rows(table(["1", "2"]))
    assert encoders.build(f"npy:{matrix}").rows(table(["1"])).tolist() == [0]
    with pytest.raises(DataError, match=r"not one of the 1 items has its file .* called 'x', their pictures nothing"):
        encoders.build(f"npy:{matrix}").rows(table(["x"]))


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"does not say which row .* Add one of \?ids=FILE .*, \?order=items .* or \?order=number .* colon"),
        ("?order=index", "does not say which row"),
        ("?ids=", "does not say which row"),
        ("?names=ids", "does not say which row"),
    ],
)
def test_an_array_without_a_rule_is_refused(array, query, message):
    with pytest.raises(SettingsError, match=message):
        encoders.check(f"npy:{array}{query}", "image")


def test_what_does_not_exist_or_is_no_array_is_named_without_opening_anything(tmp_path, array):
    for uri in (f"npy:{tmp_path}/none.npy?order=items", "npy:", f"npy:{array}?ids={tmp_path}/none.txt"):
        with pytest.raises(DataError, match="does not exist"):
            encoders.check(uri)
    (tmp_path / "feat.pt").write_bytes(b"no")
    with pytest.raises(SettingsError, match=r"feat\.pt is no \.npy file. Write it with numpy.save"):
        encoders.check(f"npy:{tmp_path}/feat.pt?order=items")
    with pytest.raises(SettingsError, match=r"a folder takes \?names=ids .* not '\?order=items'"):
        encoders.check(f"npy:{tmp_path}?order=items")
    array.write_bytes(b"")
    encoders.check(f"npy:{array}?order=items")


class Bomb:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_refused_and_not_run(tmp_path, array):
    bomb = Bomb(tmp_path / "was_run")
    np.save(array, np.array([[bomb]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds pickled Python objects, which are not opened"):
        encoders.build(f"npy:{array}?order=items")
    array.write_bytes(pickle.dumps(bomb))
    with pytest.raises(DataError, match=r"is no whole \.npy file"):
        encoders.build(f"npy:{array}?order=items")
    np.save(tmp_path / "ids.npy", np.array([bomb], dtype=object), allow_pickle=True)
    np.save(array, np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"ids\.npy holds pickled Python objects"):
        encoders.build(f"npy:{array}?ids={tmp_path}/ids.npy")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((4, 2), dtype=np.int64), r"int64 \[4, 2\]"),
        (np.zeros(4, dtype=np.float32), r"float32 \[4\]"),
        (np.zeros((1, 4, 2)), r"float64 \[1, 4, 2\]"),
        (np.zeros((4, 2), dtype=complex), r"complex128 \[4, 2\]"),
        (np.zeros((4, 0), dtype=np.float32), r"float32 \[4, 0\]"),
    ],
    ids=["integers", "a vector", "three axes", "complex", "empty"],
)
def test_what_is_no_table_of_numbers_is_refused(array, values, found):
    np.save(array, values)
    with pytest.raises(DataError, match=rf"holds {found}; features are floating-point numbers \[N, D\]"):
        encoders.build(f"npy:{array}?order=items")


def test_a_file_cut_off_is_refused(array):
    array.write_bytes(array.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"is no whole \.npy file"):
        encoders.build(f"npy:{array}?order=items")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_rows_that_are_not_finite_are_named_by_their_items(tmp_path, ids, value):
    values = values_of(ids).astype(np.float64)
    values[[3, 8], 1] = value
    np.save(tmp_path / "feat.npy", values)
    encoder = encoders.build(f"npy:{tmp_path}/feat.npy?order=items")
    with pytest.raises(DataError, match=rf"rows of 2 items \('{ids[3]}', '{ids[8]}'\) hold values that are not finite"):
        encoder.rows(table(ids))
    write_ids(tmp_path / "ids.txt", ids)
    encoder = encoders.build(f"npy:{tmp_path}/feat.npy?ids={tmp_path}/ids.txt")
    assert encoder.rows(table([ids[4]])).tolist() == [4]


def test_ids_and_rows_must_be_as_many(array, tmp_path, ids):
    for k, kind in enumerate(("txt", "csv")):
        path = write_ids(tmp_path / f"ids.{kind}", ids[: N - 1 - k])
        with pytest.raises(DataError, match=rf"has 23 rows but .*ids\.{kind} lists {N - 1 - k} ids"):
            encoders.build(f"npy:{array}?ids={path}")


def test_a_csv_without_a_header_never_loses_its_first_id(array, tmp_path, ids):
    path = tmp_path / "ids.csv"
    path.write_text("\n".join(ids))
    with pytest.raises(DataError, match="lists 22 ids"):
        encoders.build(f"npy:{array}?ids={path}")
    path.write_text("\n".join(["first", *ids]))
    encoder = encoders.build(f"npy:{array}?ids={path}")
    with pytest.raises(DataError, match="the first line should be a header, but 'first' is an item's id"):
        encoder.rows(table(["first", *ids]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.txt", "a\na\nb\n", r"1 ids stand there more than once \('a'\)"),
        ("ids.txt", "a\n\nb\n", "the id of row 1 is empty"),
        ("ids.csv", "id,x\na,1\nb\n", "line 3 has not the 2 cells"),
        ("ids.csv", "asin\titemID\na\t0\nb\t2\n", r"each number from 0 to 1 once; it lacks '1'"),
        ("ids.csv", "asin\titemID\na\t0\nb\t0\n", r"it lacks '1'"),
        ("ids.json", '{"a": 0}', "should be a JSON list of strings or integers"),
        ("ids.json", '["a", 1.5]', "should be a JSON list of strings or integers"),
        ("ids.json", "[", "cannot be read as a list of ids"),
        ("ids.pkl", "", r"its name ends in none of \.txt"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, name, text, message):
    np.save(tmp_path / "feat.npy", np.zeros((3, 2), dtype=np.float32))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        encoders.build(f"npy:{tmp_path}/feat.npy?ids={tmp_path}/{name}")


def test_bytes_that_are_no_text_and_arrays_that_are_no_ids_are_refused(array, tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as a list of ids"):
        encoders.build(f"npy:{array}?ids={tmp_path}/ids.txt")
    np.save(tmp_path / "ids.npy", np.zeros(N))
    with pytest.raises(DataError, match=r"holds float64 \[23\]; a list of ids is \[N\] strings or integers"):
        encoders.build(f"npy:{array}?ids={tmp_path}/ids.npy")


def test_ids_of_another_data_set_are_told_apart(array, tmp_path, ids):
    encoder = encoders.build(f"npy:{array}?ids={write_ids(tmp_path / 'ids.txt', ids)}")
    with pytest.raises(DataError, match=rf"lists not one of the 2 items: they are called 'x', 'y', .* '{ids[0]}'"):
        encoder.rows(table(["x", "y"]))


@pytest.mark.parametrize(("extra", "padding"), [(-1, False), (1, True), (2, False)])
def test_order_items_refuses_another_number_of_items(array, ids, extra, padding):
    encoder = encoders.build(f"npy:{array}?order=items")
    items = table([*ids, "x"][: N - extra] if extra < 2 else ids[:-2])
    with pytest.raises(DataError, match=f"has 23 rows and the .item file {N - extra}") as caught:
        encoder.rows(items)
    assert ("padding row 0" in str(caught.value)) == padding


@pytest.mark.parametrize("item", ["23", "-1", "01", "i1", "1.0", "", "9" * 30, "²"])
def test_order_number_refuses_ids_that_are_no_row(array, item):
    encoder = encoders.build(f"npy:{array}?order=number")
    with pytest.raises(DataError, match="has rows 0 to 22, but 1 of 2 item ids are none of these numbers"):
        encoder.rows(table(["3", item]))


# --- The spec ---------------------------------------------------------------------------------------


def test_the_recipe_follows_the_content_not_the_place(array, tmp_path, ids):
    def recipe(uri):
        return encoders.build(uri).spec.recipe()

    path = write_ids(tmp_path / "ids.txt", ids)
    first = recipe(f"npy:{array}?ids={path}")
    assert first["width"] == {"image": WIDTH, "text": WIDTH, "fused": WIDTH}
    assert recipe(f"npy:{array}?ids={write_ids(tmp_path / 'other.json', ids)}") == first
    assert recipe(f"npy:{array}?order=items") != first
    swapped = write_ids(tmp_path / "swapped.txt", [ids[1], ids[0], *ids[2:]])
    assert recipe(f"npy:{array}?ids={swapped}") != first
    values = values_of(ids)
    values[7, 2] += 1
    np.save(array, values)
    assert recipe(f"npy:{array}?ids={path}")["weights_sha256"] != first["weights_sha256"]


def test_neither_precision_nor_preparation_makes_another_block(array, ids):
    uri = f"npy:{array}?order=items"
    assert encoders.build(uri, precision="bfloat16", preparation="fast").spec == encoders.build(uri).spec


def test_a_folders_recipe_follows_names_and_content(tmp_path):
    first = encoders.build(f"npy:{write_folder(tmp_path / 'a', ['1', '2'])}").spec.weights_sha256
    (tmp_path / "a" / "2.npy").rename(tmp_path / "a" / "3.npy")
    renamed = encoders.build(f"npy:{tmp_path}/a").spec.weights_sha256
    np.save(tmp_path / "a" / "3.npy", np.zeros((1, WIDTH), dtype=np.float32))
    assert len({first, renamed, encoders.build(f"npy:{tmp_path}/a").spec.weights_sha256}) == 3


@pytest.mark.parametrize("modality", ["image", "text", "fused"])
def test_every_modality_is_taken_and_no_batch_size_matters(array, tmp_path, ids, shuffled, modality):
    encoder = encoders.build(f"npy:{array}?ids={write_ids(tmp_path / 'ids.txt', ids)}")
    encoders.check(f"npy:{array}?order=items", modality)
    items = table(shuffled)
    blocks = [
        extract(items, encoder, modality, tmp_path / "store", batch_size=size, show_progress=False) for size in (1, 7)
    ]
    assert blocks[0].folder == blocks[1].folder
    assert np.array_equal(blocks[0].values.numpy(), values_of(shuffled))


def test_which_families_bring_features_is_known_without_opening_files():
    assert encoders.brings_features("npy:nowhere.npy")
    assert not encoders.brings_features("classic")
