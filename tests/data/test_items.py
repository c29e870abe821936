"""Item tables: ids, texts and pictures of an `.item` file."""

from pathlib import Path

import pytest

from mmenc_plugin.data import read_items
from mmenc_plugin.errors import DataError, UnknownNameError

HEADER = "item_id:token\ttitle:token_seq\tdescription:token_seq\timage:token\n"


@pytest.fixture
def file(tmp_path):
    """file(rows): the path of an item file with them."""

    def write(*rows, header=HEADER):
        path = tmp_path / "shop.item"
        path.write_text(header + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def test_the_table_is_in_the_order_of_the_file(file):
    path = file(("b", "Red shoe", "Fine.", "b.png"), ("a", "Blue hat", "Warm.", "a.png"), ("007", "x", "y", ""))
    items = read_items(path, text_columns=["title", "description"], image_column="image")
    assert len(items) == 3
    assert items.ids == ["b", "a", "007"]
    assert items.texts == ["Red shoe Fine.", "Blue hat Warm.", "x y"]
    assert items.images == ["b.png", "a.png", ""]
    assert items.image_dir == path.parent / "images"


def test_texts_are_joined_in_the_order_asked_for(file):
    path = file(("a", "one", "two", ""))
    assert read_items(path, text_columns=["description", "title"]).texts == ["two one"]
    assert read_items(path, text_columns=["image", "title", "title"]).texts == ["one one"]


def test_empty_cells_leave_no_space(file):
    path = file(("a", "", "two", ""), ("b", "one", " ", ""), ("c", " ", "", ""), ("d", "  one ", "two ", ""))
    texts = read_items(path, text_columns=["title", "description", "image"]).texts
    assert texts == ["two", "one", "", "one two"]


def test_without_columns_there_are_neither_texts_nor_pictures(file):
    items = read_items(file(("a", "one", "two", "a.png"), ("b", "", "", "")))
    assert items.texts == ["", ""]
    assert items.images == ["", ""]


def test_the_folder_of_pictures_and_the_id_column_may_be_others(file):
    path = file(("a", "one"), header="asin:token\ttitle:token\n")
    items = read_items(path, id_column="asin", text_columns=["title"], image_dir=Path("/elsewhere"))
    assert (items.ids, items.image_dir) == (["a"], Path("/elsewhere"))


def test_a_file_without_rows_is_an_empty_table(file):
    items = read_items(file(), text_columns=["title"], image_column="image")
    assert (items.ids, items.texts, items.images) == ([], [], [])


@pytest.mark.parametrize(
    "asked", [{"text_columns": ["titel"]}, {"image_column": "imag"}, {"id_column": "itemid"}], ids=str
)
def test_a_column_that_is_not_there_gets_the_nearest_name(file, asked):
    with pytest.raises(UnknownNameError, match=r"Did you mean '(title|image|item_id)'\?"):
        read_items(file(("a", "", "", "")), **asked)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"shop\.item does not exist"):
        read_items(tmp_path / "shop.item")


def test_ids_that_occur_twice_are_counted_and_named(file):
    path = file(*((item, "", "", "") for item in ["a", "b", "a", "c", "b"]))
    with pytest.raises(DataError, match=r"2 item ids occur more than once \('a', 'b'\)"):
        read_items(path)


def test_an_id_that_occurs_three_times_is_counted_once(file):
    path = file(*((item, "", "", "") for item in ["a", "a", "a", "b"]))
    with pytest.raises(DataError, match=r"1 item ids? occurs? more than once \('a'\)"):
        read_items(path)


def test_an_empty_id_is_found_by_its_row(file):
    with pytest.raises(DataError, match="item 2 of the file has an empty item id"):
        read_items(file(("a", "", "", ""), ("", "x", "", "")))


def test_two_empty_ids_are_called_empty(file):
    with pytest.raises(DataError, match="empty item id"):
        read_items(file(("", "x", "", ""), ("", "y", "", "")))
