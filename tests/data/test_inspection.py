"""What an inspection finds in catalogues whose answers are known."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin.data.inspection import Catalogue, Example, Spread, inspect_catalogue, report_tokens
from mmenc_plugin.data.inspection.catalogue import sample_rows
from mmenc_plugin.data.inspection.interactions import count_per_item, report_interactions, top_share
from mmenc_plugin.data.inspection.pictures import is_blank
from mmenc_plugin.data.inspection.texts import find_html, find_unprintable, printable, report_texts
from mmenc_plugin.data.inspection.words import percent
from mmenc_plugin.types import ItemTable

RNG = np.random.default_rng(0)
GOOD = "a text of five words"


def noise(width, height, mode="RGB"):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """20 items: 13 with a usable picture, 18 with a text; 10 interactions of 3 users, one with an unknown item."""
    folder = tmp_path_factory.mktemp("shop") / "images"
    folder.mkdir()
    noise(40, 30).save(folder / "photo.jpg")
    noise(40, 30).save(folder / "twin.png")
    (folder / "twin2.png").write_bytes((folder / "twin.png").read_bytes())
    Image.new("RGB", (20, 40), (250, 250, 250)).save(folder / "grey.png")  # for five items: a placeholder
    noise(80, 20, "L").save(folder / "flat.png")
    Image.new("RGBA", (20, 20), (9, 9, 9, 0)).save(folder / "clear.png")
    for k in range(3):
        noise(30, 30).save(folder / f"n{k}.png")
    (folder / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:700])
    (folder / "page.jpg").write_text("<html>404</html>")
    noise(5, 20).save(folder / "thin.png")
    noise(20, 20).save(folder.parent / "outside.png")
    images = ["photo.jpg", "twin.png", "twin2.png", *["grey.png"] * 5, "flat.png", "clear.png", "n0.png", "n1.png",
              "n2.png", "", "", "gone.jpg", "cut.jpg", "page.jpg", "thin.png", "../outside.png"]  # fmt: skip
    texts = [f"{GOOD} {k}" for k in range(20)]
    texts[0], texts[13] = "", ""
    texts[1] = texts[2] = texts[3] = GOOD
    texts[4] = "red shoe"
    texts[5] = "Soft &amp; warm jersey"
    texts[6] = "one<br>two three four"
    texts[7] = "a caf\ufffd in the town"
    ids = [f"i{k}" for k in range(20)]
    pairs = [("u1", "i0"), ("u1", "i1"), ("u1", "i0"), ("u2", "i0"), ("u2", "i13"), ("u2", "i15"), ("u2", "i2"),
             ("u2", "i3"), ("u2", "zzz"), ("u3", "i0")]  # fmt: skip
    users, taken = zip(*pairs, strict=True)
    return Catalogue("shop", ItemTable(ids, texts, images, folder), users, taken)


@pytest.fixture(scope="module")
def report(catalogue):
    return inspect_catalogue(catalogue)


# --- Coverage -------------------------------------------------------------------------------------------


def test_coverage_by_items_and_by_interactions(report):
    found = {key: dataclasses.astuple(part) for key, part in report.coverage.items()}
    assert found == {  # of nine interactions with known items, two are with items that have no picture
        "image": (13, 13 / 20, 7 / 9),
        "text": (18, 18 / 20, 4 / 9),
        "both": (12, 12 / 20, 3 / 9),
        "neither": (1, 1 / 20, 1 / 9),
    }


def test_without_a_modality_it_is_left_out(catalogue):
    texts = inspect_catalogue(dataclasses.replace(catalogue, pictures=False))
    assert list(texts.coverage) == ["text"]
    assert texts.pictures is None
    images = inspect_catalogue(dataclasses.replace(catalogue, texts=False))
    assert list(images.coverage) == ["image"]
    assert images.texts is None


# --- Pictures -------------------------------------------------------------------------------------------


def test_every_picture_that_cannot_be_used_is_under_its_reason(report):
    pictures = report.pictures
    assert (pictures.examined, pictures.usable) == (20, 13)
    words = {"named": ["i13", "i14"], "not exist": ["i15"], "damaged": ["i16"], "known format": ["i17"],
             "side under": ["i18"], "leads out": ["i19"]}  # fmt: skip
    assert pictures.unusable[0].count == 2  # the most frequent first
    for word, ids in words.items():
        (group,) = [group for group in pictures.unusable if word in group.name]
        assert (group.count, group.share) == (len(ids), len(ids) / 20)
        assert [example.item for example in group.examples] == ids


def test_files_with_the_same_bytes_are_duplicates(catalogue, report):
    pictures = report.pictures
    assert (pictures.duplicates.count, pictures.duplicates.share) == (7, 7 / 20)
    assert pictures.duplicates.examples[1] == Example("i1", "the same as i2")
    assert [group.count for group in pictures.duplicate_groups] == [5, 2]
    assert [e.item for e in pictures.duplicate_groups[1].examples] == ["i1", "i2"]
    bytes_ = (catalogue.items.image_dir / "twin.png").read_bytes()
    assert pictures.duplicate_groups[1].name == hashlib.sha256(bytes_).hexdigest()


def test_a_picture_of_many_items_is_a_placeholder(report):
    assert report.pictures.placeholder_from == 5
    assert [group.count for group in report.pictures.placeholders] == [5]
    assert report.pictures.placeholders[0].examples[0] == Example("i3", "grey.png")


def test_a_placeholder_is_half_a_percent_of_a_large_catalogue(tmp_path):
    noise(10, 10).save(tmp_path / "a.png")
    names = [*["a.png"] * 6, *["none.png"] * 1195]
    items = ItemTable([str(k) for k in range(1201)], [""] * 1201, names, tmp_path)
    pictures = inspect_catalogue(Catalogue("large", items, [], [], texts=False)).pictures
    assert pictures.placeholder_from == 7
    assert pictures.placeholders == ()
    assert pictures.duplicates.count == 6


def test_blank_pictures_are_found(report):
    assert report.pictures.blank.count == 6
    assert [e.item for e in report.pictures.blank.examples] == ["i3", "i4", "i5", "i6", "i7", "i9"]


@pytest.mark.parametrize(("side", "blank"), [(0, True), (4, True), (5, False)])
def test_blank_is_all_but_half_a_percent_of_one_colour(side, blank):
    """On 64 x 64 pixels, 20 may differ."""
    picture = Image.new("RGB", (64, 64), (200, 100, 50))
    picture.paste((0, 0, 0), (0, 0, side, side))
    assert is_blank(picture) is blank


@pytest.mark.parametrize(("level", "blank"), [(108, True), (109, False)])
def test_eight_grey_levels_are_nearly_one_colour(level, blank):
    picture = Image.new("L", (64, 64), 100)
    picture.paste(level, (0, 0, 30, 64))
    assert is_blank(picture) is blank


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_blank_is_asked_of_every_mode(mode):
    assert is_blank(Image.new("L", (30, 20), 255).convert(mode))
    assert not is_blank(noise(30, 20, "L").convert(mode))


def test_sizes_formats_and_modes(report):
    pictures = report.pictures
    assert pictures.formats == {"PNG": 12, "JPEG": 1}
    assert pictures.modes == {"RGB": 11, "L": 1, "RGBA": 1}
    assert (pictures.width.minimum, pictures.width.median, pictures.width.maximum) == (20, 30, 80)
    assert (pictures.height.minimum, pictures.height.median, pictures.height.maximum) == (20, 30, 40)
    assert (pictures.aspect.minimum, pictures.aspect.median, pictures.aspect.maximum) == (0.5, 1, 4)


def test_the_size_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(40, 20).save(tmp_path / "a.jpg", exif=exif)
    pictures = inspect_catalogue(Catalogue("one", ItemTable(["a"], ["t"], ["a.jpg"], tmp_path), [], [])).pictures
    assert (pictures.width.median, pictures.height.median) == (20, 40)


def test_pictures_to_show_are_usable_and_from_all_over(make_items):
    items = make_items(60)
    items.images[0] = ""
    shown = [e.item for e in inspect_catalogue(Catalogue("x", items, [], [])).pictures.shown]
    assert len(set(shown)) == 24
    assert shown[0] == "i1"
    assert int(shown[-1][1:]) > 55


def test_a_sample_is_seeded_said_and_counted_alone(make_items):
    items, rows = make_items(30), sample_rows(30, 10, seed=3)
    for row in rows[:4]:
        items.images[row] = ""
    catalogue = Catalogue("x", items, ["u", "u"], [items.ids[rows[0]], items.ids[rows[9]]])
    report = inspect_catalogue(catalogue, sample=10, seed=3)
    assert (report.sample, report.seed, report.pictures.examined, report.pictures.usable) == (10, 3, 10, 6)
    assert dataclasses.astuple(report.coverage["image"]) == (6, 0.6, 0.5)
    assert report.coverage["text"].count == 30
    assert sample_rows(30, 10, 3) == rows != sample_rows(30, 10, 4)
    assert "4 looked-at items (40.0 %) have no usable picture" in report.advice[0]


def test_a_sample_of_everything_is_no_sample(make_items):
    assert inspect_catalogue(Catalogue("x", make_items(5), [], []), sample=5).sample is None


# --- Texts ----------------------------------------------------------------------------------------------


def test_texts_by_their_faults(report):
    texts = report.texts
    assert (texts.empty.count, texts.empty.share) == (2, 0.1)
    assert [e.item for e in texts.empty.examples] == ["i0", "i13"]
    assert texts.short.examples == (Example("i4", "red shoe"),)
    assert texts.duplicates.count == 3
    assert [(g.name, g.count, g.examples[0].item) for g in texts.duplicate_groups] == [(GOOD, 3, "i1")]
    assert texts.html.examples == (Example("i5", "Soft &amp; warm jersey"), Example("i6", "one<br>two three four"))
    assert texts.unprintable.examples == (Example("i7", "a caf\ufffd in the town"),)
    assert (texts.words.minimum, texts.words.median, texts.words.maximum) == (2, 6, 6)
    assert texts.characters.minimum == 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a &amp; b", "&amp;"),
        ("&#39;", "&#39;"),
        ("x &#x2019; y", "&#x2019;"),
        ("a<br/>b", "<br/>"),
        ("<P class='x'>b", "<P class='x'>"),
        ("b</span> c", "</span>"),
        ("AT&T; and R&D", None),
        ("5 < 6 > 4", None),
        ("size <s> & <brand>", None),
        ("&amp without an end", None),
        ("AT&T; then &lt;b&gt;", "&lt;"),
    ],
)
def test_what_is_left_of_html(text, found):
    span = find_html(text)
    assert (span and text[slice(*span)]) == found


@pytest.mark.parametrize("text", ["caf\u00e9", "zero\u200dwidth", "no\u00a0break", "日本", "👍🏽", "soft\u00adhyphen"])
def test_unusual_characters_are_no_fault(text):
    assert find_unprintable(text) is None
    assert printable(text) == text


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x85", "\ue000", "\ufffd", "\uffff"])
def test_characters_that_a_text_cannot_mean(character):
    assert find_unprintable(f"ab{character}c") == (2, 3)
    assert printable(f"ab{character}c") == "ab\ufffdc"


def test_a_long_text_is_shown_in_part(tmp_path):
    long = "word " * 100 + "<br>" + " word" * 100
    texts = report_texts(ItemTable(["a", "b"], [long, long], ["", ""], tmp_path))
    assert texts.html.examples[0].detail == "..." + "word " * 6 + "<br>" + " word" * 6 + "..."
    assert texts.duplicate_groups[0].name == ("word " * 40)[:197] + "..."


# --- Tokens ---------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    return ItemTable(["a", "b", "c"], ["one", "", "three"], [""] * 3, tmp_path)


def test_tokens_over_the_limit_are_cut_and_empty_texts_do_not_count(three):
    tokens = report_tokens("some:encoder", 77, three, [60, 2, 100])
    assert (tokens.cut.count, tokens.cut.share, tokens.lost) == (1, 0.5, 23 / 160)
    assert tokens.cut.examples == (Example("c", "100 tokens"),)
    assert (tokens.tokens.minimum, tokens.tokens.maximum) == (60, 100)


def test_at_the_limit_nothing_is_cut(three):
    assert report_tokens("some:encoder", 77, three, [77, 2, 77]).cut.count == 0


def test_without_a_limit_nothing_is_cut(three):
    tokens = report_tokens("some:encoder", None, three, [60, 2, 100])
    assert (tokens.cut.count, tokens.lost) == (0, 0.0)


@pytest.mark.parametrize("limit", [None, 77])
def test_an_encoder_that_does_not_tell_leaves_it_unknown(three, limit):
    tokens = report_tokens("some:encoder", limit, three, None)
    assert (tokens.limit, tokens.tokens, tokens.cut, tokens.lost) == (limit, None, None, None)


# --- Interactions ---------------------------------------------------------------------------------------


def test_interactions(report):
    found = report.interactions
    assert (found.users, found.interactions, found.repeated) == (3, 10, 1)
    assert found.density == 8 / (3 * 20)
    assert (found.per_user.minimum, found.per_user.median, found.per_user.maximum) == (1, 3, 6)
    assert (found.per_item.minimum, found.per_item.median, found.per_item.maximum) == (0, 0, 4)
    assert (found.few.count, found.few.share) == (2, 2 / 3)
    assert set(found.few.examples) == {Example("u1", "3 interactions"), Example("u3", "1 interaction")}
    assert (found.cold.count, found.cold.share) == (14, 14 / 20)
    assert found.cold.examples[0].item == "i4"
    assert (found.unknown.count, found.unknown.share, found.unknown_items) == (1, 0.1, 1)
    assert found.unknown.examples == (Example("zzz", "1 interaction"),)
    assert (found.top_1_percent, found.top_10_percent) == (4 / 9, 5 / 9)
    assert [(g.name, g.count) for g in found.most_taken][:2] == [("i0", 4), ("i1", 1)]
    assert len(found.most_taken) == 6


def test_ids_are_texts_even_if_they_look_like_numbers():
    assert count_per_item(["1", "01", "1.0"], ["01", "01", "1", "1e0"]).tolist() == [1, 2, 0]


def test_top_share_rounds_the_number_of_items_up():
    assert top_share(np.array([1, 5, 2, 2]), 0.1) == 0.5
    assert top_share(np.array([1, 5, 2, 2]), 0.5) == 0.7


def test_no_interactions_are_reported_as_none():
    found = report_interactions(["a"], [], [])
    assert (found.users, found.interactions, found.density, found.per_user) == (0, 0, 0, None)
    assert (found.top_1_percent, found.most_taken) == (0, ())


# --- The whole ------------------------------------------------------------------------------------------


def test_advice_names_what_to_do_the_most_urgent_first(report):
    beginnings = [
        "1 interaction names 1 item without a row in shop.item, at which a run stops",
        "7 items (35.0 %) have no usable picture: no picture is named (2); ",
        "5 items have one and the same picture (grey.png)",
        "6 pictures are nearly one single colour",
        "2 items (10.0 %) have no text",
        "2 texts have HTML left in (as 'Soft &amp; warm jersey')",
        "1 text has characters that cannot be printed",
        "3 items (15.0 %) share their text",
        "1 text has fewer than 3 words",
        "14 items (70.0 %) have no interaction",
        "66.7 % of the users have fewer than 5 interactions",
        "55.6 % of the interactions go to 10 % of the items",
    ]
    assert [line[: len(b)] for line, b in zip(report.advice, beginnings, strict=True)] == beginnings


def test_a_sound_catalogue_gets_the_next_command(make_items):
    items = make_items(6)
    users = [f"u{k // 6}" for k in range(36)]
    sound = Catalogue("x", dataclasses.replace(items, texts=[f"{GOOD} {k}" for k in range(6)]), users, items.ids * 6)
    assert inspect_catalogue(sound).advice == ("Nothing to mend. Encode with: mmenc extract --dataset=x",)


def test_advice_on_tokens_and_on_large_pictures(tmp_path):
    Image.effect_noise((1100, 1200), 50).save(tmp_path / "a.png")
    items = ItemTable(["a"], [GOOD], ["a.png"], tmp_path)
    tokens = report_tokens("some:encoder", 10, items, [16])
    advice = inspect_catalogue(Catalogue("x", items, ["u"], ["a"]), tokens=tokens).advice
    assert any(line.startswith("Pictures are large (1,100 x 1,200 in the middle)") for line in advice)
    assert any(line.startswith("100.0 % of the texts are cut at 10 tokens, and 37.5 % of all") for line in advice)


def test_without_one_usable_picture_the_settings_are_named(tmp_path):
    items = ItemTable(["a", "b"], [GOOD, GOOD + "!"], ["a.png", "b.png"], tmp_path / "nowhere")
    advice = inspect_catalogue(Catalogue("x", items, [], [])).advice
    assert advice[0].startswith("There are no interactions. ")
    assert advice[1].startswith("Not one item has a usable picture (")
    assert "Check image_dir and item_image" in advice[1]


def test_nothing_at_all_is_a_report_too(tmp_path):
    report = inspect_catalogue(Catalogue("x", ItemTable([], [], [], tmp_path), [], []))
    assert (report.items, report.coverage["image"].share, report.pictures.width) == (0, 0, None)


def test_the_report_is_json(report):
    assert json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))["coverage"]["image"]["count"] == 13


def test_spread_of_known_numbers():
    spread = Spread.of(list(range(101)))
    assert (spread.minimum, spread.median, spread.p95, spread.maximum) == (0, 50, 95, 100)
    assert (len(spread.histogram), sum(spread.histogram)) == (24, 101)
    assert Spread.of([]) is None
    assert sum(Spread.of([7, 7]).histogram) == 2


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0.0 %"), (1, "100.0 %"), (0.1234, "12.3 %"), (0.0001, "under 0.1 %"), (0.9999, "over 99.9 %")],
)
def test_a_percentage_is_neither_nothing_nor_all_by_rounding(share, said):
    assert percent(share) == said
