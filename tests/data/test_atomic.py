"""Atomic files: headers, cells, and every way in which a file is none."""

import pytest

from mmenc_plugin.data.atomic import read_columns, read_header
from mmenc_plugin.errors import DataError, UnknownNameError

HEADER = "item_id:token\ttitle:token_seq\tprice:float\n"


@pytest.fixture
def file(tmp_path):
    """file(text or bytes): a path that holds it."""

    def write(content):
        path = tmp_path / "shop.item"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path, *columns):
    """The rows of the columns, as lists."""
    return read_columns(path, columns or ["item_id", "title", "price"]).to_numpy().tolist()


def test_header_names_columns_and_types_in_order(file):
    assert list(read_header(file(HEADER)).items()) == [("item_id", "token"), ("title", "token_seq"), ("price", "float")]


def test_header_may_have_a_byte_order_mark_and_windows_lines(file):
    path = file(b"\xef\xbb\xbf" + HEADER.replace("\n", "\r\n").encode() + b"a\tx\t1\r\n")
    assert list(read_header(path)) == ["item_id", "title", "price"]
    assert read(path) == [["a", "x", "1"]]


def test_another_separator_than_the_files_is_named(file):
    """RecBole takes no colon in a column's name, and a comma-separated header looks like one long name."""
    with pytest.raises(DataError, match=r"'item_id:token,title:token_seq'.*separated by '\\t'"):
        read_header(file("item_id:token,title:token_seq\n"))


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("item_id", "item_id"),
        ("a:token\titem_id:int", "item_id:int"),
        (":token", ":token"),
        ("", ""),
        ("a:token\t", ""),
    ],
)
def test_a_field_that_is_not_name_and_type_is_named(file, header, field):
    with pytest.raises(DataError, match=f"first line has the field '{field}'.*name:type.*separated by"):
        read_header(file(header + "\n"))


def test_another_separator(file):
    frame = read_columns(file("a:token,b:token\n1,2\n"), ["b"], separator=",")
    assert frame.to_numpy().tolist() == [["2"]]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.item does not exist"):
        read_columns(tmp_path / "none.item", ["item_id"])


def test_an_unknown_column_gets_the_nearest_name(file):
    with pytest.raises(UnknownNameError, match=r"no column of shop\.item named 'titel'\. Did you mean 'title'\?"):
        read(file(HEADER), "titel")


def test_cells_are_text_whatever_they_look_like(file):
    rows = [["007", "NA", "1.50"], ["nan", "null", "-"], ["1e3", "None", "N/A"]]
    assert read(file(HEADER + "".join("\t".join(row) + "\n" for row in rows))) == rows


def test_empty_cells_are_empty_texts(file):
    assert read(file(HEADER + "a\t\t\n\tx\t\n")) == [["a", "", ""], ["", "x", ""]]


def test_columns_may_be_asked_for_twice_or_not_at_all(file):
    path = file(HEADER + "a\tx\t1\n")
    assert read(path, "title", "title") == [["x"]]
    assert read(path, "item_id") == [["a"]]


def test_a_header_alone_has_no_rows(file):
    assert read(file(HEADER)) == []


def test_unusual_characters_stay_in_their_cell(file):
    title = "5\" nail, it's 50% off; 日本\u2028語\u0085 \x0b\\n #1"
    assert read(file(f"{HEADER}a\t{title}\t1\n"))[0][1] == title


def test_a_row_is_a_line_whatever_its_quotes(file):
    path = file(HEADER + 'a\t"Ever\t1\nb\tso "nice"\t2\nc\tafter"\t3\n')
    assert [row[0] for row in read(path)] == ["a", "b", "c"]


def test_an_open_quote_at_the_end_of_the_file_loses_nothing(file):
    assert [row[0] for row in read(file(HEADER + 'a\tx\t1\nb\t"open\t2\n'))] == ["a", "b"]


@pytest.mark.parametrize("row", ["a\tx", "a", "a\tx\t1\t2", "a\tx\t1\t"])
def test_a_ragged_row_is_refused(file, row):
    with pytest.raises(DataError, match=r"shop\.item"):
        read(file(f"{HEADER}z\ty\t1\n{row}\n"), "item_id", "title")


def test_a_column_named_twice_is_refused(file):
    with pytest.raises(DataError, match="title"):
        read(file("item_id:token\ttitle:token\ttitle:token\tprice:float\na\tx\ty\t1\n"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_than_utf_8_is_refused(file, encoding):
    with pytest.raises(DataError, match=r"shop\.item"):
        read(file(f"{HEADER}a\tCafé\t1\n".encode(encoding)))


def test_another_encoding_far_down_is_refused_too(file):
    many = (HEADER + "a\tx\t1\n" * 20_000).encode()
    with pytest.raises(DataError, match=r"shop\.item cannot be read"):
        read(file(many + "a\tCafé\t1\n".encode("latin-1")))
