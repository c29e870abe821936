"""mmenc inspect: the table, the JSON, the page, and what it does with what is wrong."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin import cli, encoders
from mmenc_plugin.data.inspection import Inspection

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' $name {0} &amp; https://evil.example/a.png \x1b[31m"
NAME = 'a" onerror="alert(3).png'


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """shop(items, inter): a data set in tmp_path/shop with two pictures, and the arguments that name it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", NAME):
        Image.fromarray(rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)).save(folder / "images" / name)

    def make(items=(("i1", "a red shoe for you", "a.png"), ("i2", EVIL, NAME)), inter=(("u1", "i1"),)):
        rows = ["item_id:token\ttitle:token_seq\timage:token", *("\t".join(row) for row in items)]
        (folder / "shop.item").write_text("\n".join(rows) + "\n", encoding="utf-8")
        rows = ["user_id:token\titem_id:token", *("\t".join(row) for row in inter)]
        (folder / "shop.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return ["-d", "shop", f"--data_path={tmp_path}", "--item_text=title", "--show_progress=False"]

    return make


def inspect(capsys, *argv):
    status = cli.main(["inspect", *argv])
    out, err = capsys.readouterr()
    return status, out, err


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


# --- The table ------------------------------------------------------------------------------------------


def test_the_demo_is_sound(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = inspect(capsys, "-d", "demo", "--show_progress=False")
    assert status == 0
    rows = dict(re.findall(r"^  (\S.*?)  +(.*)$", out, re.M))
    assert (rows["items"], rows["users"]) == ("400", "600")
    assert rows["a usable picture"] == "400 (100.0 %), 100.0 % of interactions"
    assert rows["width"] == "64 px (all)"
    assert (rows["encoder"], rows["limit"]) == ("classic", "none")
    assert out.endswith("WHAT TO DO\n  - Nothing to mend. Encode with: mmenc extract --dataset=demo\n")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_no_commands_from_a_title(capsys, shop):
    _, out, _ = inspect(capsys, *shop(items=[("i\x1b[2J1", "\x1b[31mred", "none.png"), ("i2", "a\x07", "")]))
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "i\ufffd[2J1" in out


def test_a_sample_is_said(capsys, shop):
    _, out, _ = inspect(capsys, *shop(), "--sample=1")
    assert "Pictures (of 1 items chosen at random, seed 2020)" in out


def test_tokens_against_the_encoders_limit(capsys, shop, tiny_sbert):
    argv = shop(items=[("i1", "red shoe", "a.png"), ("i2", "blue shoe " * 15, "a.png")])
    _, out, _ = inspect(capsys, *argv, f"--encoder={{image: classic, text: 'sbert:{tiny_sbert}'}}", "--json=-")
    tokens = json.loads(out)["tokens"]
    assert tokens["limit"] == 24
    assert (tokens["tokens"]["minimum"], tokens["tokens"]["maximum"]) == (4, 32)
    assert tokens["cut"]["examples"] == [{"item": "i2", "detail": "32 tokens"}]
    assert tokens["lost"] == 8 / 36


def test_an_encoder_that_does_not_count_is_said(capsys, shop, monkeypatch):
    monkeypatch.setattr(encoders.registry.get("classic"), "token_counts", encoders.Encoder.token_counts)
    _, out, _ = inspect(capsys, *shop())
    assert "unknown: this encoder does not tell" in out


# --- JSON -----------------------------------------------------------------------------------------------


def test_json_alone_on_the_standard_output(capsys, shop):
    status, out, _ = inspect(capsys, *shop(), "--json", "-")
    found = json.loads(out)
    assert status == 0
    assert found["version"] == 1
    assert list(found) == [field.name for field in dataclasses.fields(Inspection)]
    assert found["coverage"]["image"] == {"count": 2, "share": 1.0, "interaction_share": 1.0}


def test_the_keys_of_json_stay(capsys, shop):
    """A change here is a change for whoever reads the file: raise `version`."""
    _, out, _ = inspect(capsys, *shop(), "--json=-")
    keys = {name: sorted(part) for name, part in json.loads(out).items() if isinstance(part, dict)}
    assert keys == {
        "coverage": ["both", "image", "neither", "text"],
        "interactions": [
            "cold", "density", "few", "interactions", "most_taken", "per_item", "per_user", "repeated",
            "top_10_percent", "top_1_percent", "unknown", "unknown_items", "users",
        ],
        "pictures": [
            "aspect", "blank", "duplicate_groups", "duplicates", "examined", "formats", "height", "modes",
            "placeholder_from", "placeholders", "shown", "unusable", "usable", "width",
        ],
        "texts": [
            "characters", "duplicate_groups", "duplicates", "empty", "html", "short", "unprintable", "words",
        ],
        "tokens": ["cut", "encoder", "limit", "lost", "tokens"],
    }  # fmt: skip


def test_json_in_a_file_beside_the_table(capsys, shop, tmp_path):
    _, out, err = inspect(capsys, *shop(), "--json=report.json")
    assert "INTERACTIONS" in out
    assert "written: report.json" in err
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["dataset"] == "shop"


# --- The page -------------------------------------------------------------------------------------------


def test_the_page_loads_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspect(capsys, "-d", "demo", "--show_progress=False", "--html=page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for word in ("http://", "https://", "//", "@import", "url(", "<script", "<link", "<iframe", "javascript:"):
        assert word not in re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)
    sources = [value for _, name, value in Page(text).attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 24 + 12
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", source) for source in sources)
    assert "default-src 'none'" in text


def test_what_items_say_is_shown_and_does_nothing(capsys, shop, tmp_path):
    items = [("i1", "a red shoe for you", NAME), ("i2", EVIL, "a.png"), ("<u>i3", EVIL, f"gone {NAME}")]
    argv = shop(items, inter=[("u1", "i1"), ("<b>u2", "i2"), ("u1", "<i>zzz")])
    inspect(capsys, *argv, "--html=page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {tag for tag, name, _ in page.attributes if name == "src"} == {"img"}
    assert all(value.startswith("data:") for _, name, value in page.attributes if name in ("src", "href"))
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\"' $name {0} &amp; https://" in page.text
    assert all(written in page.text for written in ("<b>u2", "<i>zzz", "<u>i3", f"gone {NAME}"))
    assert "\x1b" not in text


def test_pictures_of_the_page_are_small_jpegs(capsys, shop, tmp_path):
    import base64
    import io

    inspect(capsys, *shop(), "--html=page.html")
    found = re.findall(r"base64,([A-Za-z0-9+/=]+)", (tmp_path / "page.html").read_text(encoding="utf-8"))
    for data in found:
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (picture.format, max(picture.size)) == ("JPEG", 160)
    assert len(found) == 2 + 1 + 3  # all, the one that was taken, the one that was not, has HTML, is unprintable


def test_a_user_with_an_items_id_does_not_get_its_picture(capsys, shop, tmp_path):
    inspect(capsys, *shop(items=[("1", "a red shoe for you", "a.png"), ("2", "a blue shoe for you", "none.png")],
                          inter=[("1", "2")]), "--html=page.html")  # fmt: skip
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    users = text.split("users with under 5")[1].split("items never taken")[0]
    assert "<code>1</code>" in users
    assert "<img" not in users


# --- What is wrong --------------------------------------------------------------------------------------


def test_without_any_picture_there_is_a_report(capsys, shop, tmp_path):
    argv = [*shop(), "--image_dir=nowhere"]
    status, out, _ = inspect(capsys, *argv, "--html=page.html")
    assert status == 0
    assert "a usable picture    0 (0.0 %), 0.0 % of interactions" in out
    assert "Not one item has a usable picture (" in out
    assert "no picture" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert cli.main(["extract", *argv]) == 2  # a run is still told before it begins


def test_without_interactions_there_is_a_report(capsys, shop, tmp_path):
    argv = shop()
    (tmp_path / "shop" / "shop.inter").unlink()
    status, out, _ = inspect(capsys, *argv, "--html=page.html")
    assert status == 0
    assert "There are no interactions. Features can be extracted; a run needs shop.inter" in out


def test_interactions_that_are_split_already_are_read_from_all_parts(capsys, shop, tmp_path):
    argv = shop()
    whole = tmp_path / "shop" / "shop.inter"
    for part, user in (("train", "u1"), ("valid", "u2"), ("test", "u3")):
        (tmp_path / "shop" / f"shop.{part}.inter").write_text(f"user_id:token\titem_id:token\n{user}\ti1\n")
    whole.unlink()
    _, out, _ = inspect(capsys, *argv, "--benchmark_filename=['train','valid','test']", "--json=-")
    assert json.loads(out)["interactions"]["users"] == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--item_text=titel"], "no column of shop.item (named by item_text) named 'titel'. Did you mean 'title'?"),
        (["--item_image=img"], "(named by item_image) named 'img'. Did you mean 'image'?"),
        (["--USER_ID_FIELD=user"], "no column of shop.inter named 'user'. Did you mean 'user_id'?"),
        (["--sample=0"], "--sample is 0, but at least one picture must be looked at"),
        (["--json=no/where.json"], "--json: the folder"),
        (["--html=no/where.html"], "--html: the folder"),
        (["--html=-"], "--html=- is not possible; name a file"),
        (["--html=shop"], "--html: cannot write shop: Is a directory"),
        (["--encodr=classic"], "no setting named 'encodr'"),
        (["--encoder=openclip:ViT-B-32/laion"], "no OpenCLIP weights tag of ViT-B-32 named 'laion'"),
    ],
)
def test_a_wrong_question_is_an_error(capsys, shop, argv, message):
    given = [old for old in shop() if old.partition("=")[0] != argv[0].partition("=")[0]]
    status, _, err = inspect(capsys, *given, *argv)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_data_set_is_an_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = inspect(capsys, "-d", "nowhere")
    assert status == 2
    assert "nowhere.item does not exist" in err


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("i1", "a", "a.png"), ("i1", "b", "a.png")], "1 item ids occur more than once ('i1')"),
        ([("", "a", "a.png")], "has an empty item id"),
        ([("i1", "a")], "line 2 has 2 fields where the header has 3"),
    ],
)
def test_a_table_that_is_none_is_an_error(capsys, shop, items, message):
    status, _, err = inspect(capsys, *shop(items=items))
    assert status == 2
    assert message in err


def test_help_says_the_status_and_has_an_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--help"])
    out = capsys.readouterr().out
    assert "The exit status is 0 for a report" in out
    assert "mmenc inspect --dataset=demo" in out.split("examples:")[1]
