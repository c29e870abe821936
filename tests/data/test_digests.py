"""Digests of files, texts and JSON, their memory, and files that are there whole or not at all."""

import errno
import hashlib
import os

import pytest

from mmenc_plugin.data import digests
from mmenc_plugin.data.digests import DigestCache, file_digest, json_digest, text_digest
from mmenc_plugin.data.files import write_atomically
from mmenc_plugin.errors import StoreError


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_files_digest_is_its_sha256(tmp_path, size):
    data = bytes(k % 251 for k in range(1000)) * (size // 1000 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    assert file_digest(tmp_path / "x") == hashlib.sha256(data[:size]).hexdigest()


def test_texts_are_kept_apart():
    same = text_digest("ab", "c")
    assert same == text_digest("ab", "c")
    others = [("a", "bc"), ("abc",), ("ab", "c", ""), ("c", "ab"), ()]
    assert len({same, *(text_digest(*other) for other in others)}) == len(others) + 1


def test_json_is_the_same_in_any_order_of_keys():
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": [1, 2], "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])
    assert json_digest(1) != json_digest("1")


@pytest.fixture
def taken(monkeypatch):
    """The files whose bytes were read, in order."""
    read = []
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path.name) or file_digest(path))
    return read


def test_a_file_is_read_once_also_by_the_next_run(tmp_path, taken):
    (tmp_path / "x").write_text("one")
    cache = DigestCache(tmp_path / "cache.json")
    expected = [file_digest(tmp_path / "x")] * 2
    assert [cache.digest(tmp_path / "x"), cache.digest(tmp_path / "x")] == expected
    cache.save()
    assert DigestCache(tmp_path / "cache.json").digest(tmp_path / "x") == expected[0]
    assert taken == ["x"]


@pytest.mark.parametrize(("text", "seconds"), [("longer", 1), ("one", 2), ("two", 2)])
def test_a_file_with_another_size_or_time_is_read_again(tmp_path, taken, text, seconds):
    path = tmp_path / "x"
    path.write_text("one")
    os.utime(path, ns=(1, 10**9))
    cache = DigestCache(tmp_path / "cache.json")
    cache.digest(path)
    path.write_text(text)
    os.utime(path, ns=(1, seconds * 10**9))
    assert cache.digest(path) == file_digest(path)
    assert taken == ["x", "x"]


def test_files_of_one_name_in_two_folders_are_two(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
        os.utime(tmp_path / name / "x", ns=(1, 1))
    cache = DigestCache(tmp_path / "cache.json")
    assert cache.digest(tmp_path / "a" / "x") != cache.digest(tmp_path / "b" / "x")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"%s": 3}', b'{"%s": []}', b'{"%s": null}']
)
def test_a_memory_that_is_no_memory_starts_empty(tmp_path, content):
    (tmp_path / "x").write_text("one")
    path = tmp_path / "cache.json"
    path.write_bytes(content.replace(b"%s", str(tmp_path / "x").encode()))
    cache = DigestCache(path)
    assert cache.digest(tmp_path / "x") == file_digest(tmp_path / "x")
    cache.save()
    assert DigestCache(path).digest(tmp_path / "x") == file_digest(tmp_path / "x")


def test_nothing_new_writes_nothing(tmp_path):
    DigestCache(tmp_path / "cache.json").save()
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "x"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, call):
    write_atomically(tmp_path / "x", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"fsync": ("os.fsync", full), "replace": ("pathlib.Path.replace", full)}[call])
    with pytest.raises(StoreError, match=r"cannot write to .*No space left on device.*feature_dir"):
        write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        write_atomically(tmp_path / "file" / "x", b"")
