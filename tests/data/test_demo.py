"""The demo data set: made again to the pixel, well formed, and with content that matters."""

import importlib.util
import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

SCRIPT = Path(__file__).parents[2] / "dataset_atomic" / "make_demo.py"
DEMO = SCRIPT.parent / "demo"
SEEN = ("colour", "shape", "pattern")
SAID = ("material", "occasion", "style")
# Whatever names a colour, a shape or a pattern, and not only the values that the generator knows.
VISUAL = r"""\b(
    colou?r\w* | hue | tint | shade | bright | dark | pale | red | crimson | scarlet | ruby | orange | amber
    | yellow | gold(en)? | lemon | green | olive | lime | mint | teal | turquoise | cyan | aqua | blue | navy
    | azure | indigo | purple | violet | lilac | pink | rose | magenta | brown | tan | beige | cream
    | ivory | white | black | gr[ae]y | silver | copper | shape\w* | circ\w+ | round | disc | square\w*
    | rectang\w+ | box | triang\w+ | star(s|ry)? | rings? | cross\w* | heart | oval | ball | corner\w*
    | pattern\w* | plain | solid | strip\w+ | lined? | dot(s|ted)? | spot(s|ted)? | che(ck|quer)\w* | plaid
)\b"""


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("make_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def items(generator):
    return generator.make_items(generator.stream("items"))


def read_rows(name):
    header, *rows = (DEMO / name).read_bytes().decode().removesuffix("\n").split("\n")
    return header, [row.split("\t") for row in rows]


@pytest.fixture(scope="module")
def texts():
    return [f"{title}. {description}" for _, title, description, _ in read_rows("demo.item")[1]]


@pytest.fixture(scope="module")
def pictures():
    return np.stack([pixels(DEMO / "images" / row[3]) for row in read_rows("demo.item")[1]])


@pytest.fixture(scope="module")
def taken(items):
    """[U, I] who took what."""
    rows = read_rows("demo.inter")[1]
    row_of = {user: k for k, user in enumerate(sorted({row[0] for row in rows}))}
    column_of = {item.item_id: k for k, item in enumerate(items)}
    matrix = np.zeros((len(row_of), len(items)), dtype=bool)
    for user, item, _ in rows:
        matrix[row_of[user], column_of[item]] = True
    return matrix


def pixels(path):
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def values(items, attribute):
    return np.array([getattr(item, attribute) for item in items])


# --- The committed files are what the generator writes ---------------------------------------------


def test_a_rerun_writes_the_committed_files(tmp_path):
    out = tmp_path / "demo"
    subprocess.run([sys.executable, str(SCRIPT), str(out)], check=True)
    for name in ("demo.inter", "demo.item"):
        assert (out / name).read_bytes() == (DEMO / name).read_bytes()
    made = sorted(path.name for path in (out / "images").iterdir())
    assert made == sorted(path.name for path in (DEMO / "images").iterdir())
    for name in made:
        np.testing.assert_array_equal(pixels(out / "images" / name), pixels(DEMO / "images" / name))


def test_help_says_what_comes_out():
    shown = subprocess.run([sys.executable, str(SCRIPT), "--help"], check=True, capture_output=True, text=True)
    for part in ("demo.inter", "demo.item", "images/", "data_path"):
        assert part in shown.stdout


def test_it_is_small():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 3_000_000


# --- The tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("demo.inter", "user_id:token\titem_id:token\ttimestamp:float"),
        ("demo.item", "item_id:token\ttitle:token_seq\tdescription:token_seq\timage:token"),
    ],
)
def test_tables_are_atomic_files(name, header):
    found, rows = read_rows(name)
    assert found == header
    for row in rows:
        assert len(row) == header.count("\t") + 1
        assert all(field and field == field.strip() for field in row)
        assert not set("\"'\r") & set("".join(row))


def test_every_item_has_a_row_and_a_picture(items):
    rows = read_rows("demo.item")[1]
    table = {row[0]: row[3] for row in rows}
    assert len(table) == len(rows)
    assert {row[1] for row in read_rows("demo.inter")[1]} == set(table)
    assert sorted(table.values()) == sorted(path.name for path in (DEMO / "images").iterdir())
    assert [(item.item_id, item.image) for item in items] == list(table.items())


def test_pictures_are_readable_and_of_one_size(pictures, generator):
    assert pictures.shape == (generator.N_ITEMS, generator.SIZE, generator.SIZE, 3)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_histories_are_short_and_items_have_a_long_tail(taken, items, generator):
    rows = read_rows("demo.inter")[1]
    assert len(rows) == taken.sum()  # nobody takes an item twice
    assert 5_000 <= len(rows) <= 7_000
    assert len(taken) == generator.N_USERS
    per_user, per_item = taken.sum(1), taken.sum(0)
    assert (per_user.min(), per_user.max()) == (6, 16)
    assert 12 <= per_item.mean() <= 16
    assert per_item.max() > 4 * np.median(per_item)
    assert 0.06 <= (per_item <= 2).mean() <= 0.1
    assert set(per_item[values(items, "cold")]) == {1, 2}


# --- Nothing but content tells items apart ---------------------------------------------------------


def test_ids_say_nothing(items, taken):
    for order in (items, sorted(items, key=lambda item: item.image)):
        for attribute in (*SEEN, *SAID):
            column = values(order, attribute)
            assert abs((column[1:] == column[:-1]).mean() - 1 / len(set(column))) < 0.06
    columns = taken - taken.mean(0)
    columns = columns / np.linalg.norm(columns, axis=0)
    alike = columns.T @ columns
    assert abs(np.diag(alike, 1).mean() - alike[~np.eye(len(alike), dtype=bool)].mean()) < 0.01


def test_rows_are_ordered_by_time_alone():
    rows = read_rows("demo.inter")[1]
    times = np.array([float(row[2]) for row in rows])
    assert (np.diff(times) > 0).all()
    for column in (0, 1):
        names = np.array([row[column] for row in rows])
        assert (names[1:] == names[:-1]).mean() < 0.01


# --- What is seen is not said, and what is said is not seen ----------------------------------------


def test_texts_name_nothing_that_is_seen(texts, generator):
    named = re.compile(VISUAL, re.VERBOSE | re.IGNORECASE)
    assert all(named.fullmatch(value) for value in (*generator.HUES, *generator.SHAPES, *generator.PATTERNS))
    assert not [text for text in texts if named.search(text)]


def test_texts_are_sentences_in_several_wordings(items, generator):
    descriptions = [row[2] for row in read_rows("demo.item")[1]]
    assert all(10 <= len(description.split()) <= 30 for description in descriptions)
    assert len(set(descriptions)) == len(descriptions)
    tables = {"material": generator.MATERIALS, "occasion": generator.OCCASIONS, "style": generator.STYLES}
    for attribute, table in tables.items():
        wordings = list(table.values())
        used = Counter()
        for item, description in zip(items, descriptions, strict=True):
            found = [w for w in wordings[getattr(item, attribute)] if w.lower() in description.lower()]
            assert found
            used.update(found)
        assert set(used) == {wording for row in wordings for wording in row}


def test_texts_and_pictures_are_made_apart(generator):
    assert list(inspect.signature(generator.draw).parameters) == [*SEEN, "rng"]
    assert list(inspect.signature(generator.write_up).parameters) == [*SAID, "rng"]


@pytest.mark.parametrize("attribute", SEEN)
def test_each_value_shows_in_the_picture(generator, attribute):
    look = dict.fromkeys(SEEN, 0)
    drawn = [
        generator.draw(**{**look, attribute: value}, rng=generator.stream("same")).astype(int)
        for value in range(generator.SIZES[attribute])
    ]
    for k, one in enumerate(drawn):
        for other in drawn[:k]:
            assert (abs(one - other).max(2) > 20).mean() > 0.02


def weak_features(pictures):
    """[I, D] a histogram of the hues and a coarse layout: what a weak encoder would see."""
    hsv = np.stack([np.asarray(Image.fromarray(picture).convert("HSV")) for picture in pictures]).astype(int)
    vivid = hsv[..., 1] > 76
    bins = hsv[..., 0] // 16
    hues = np.stack([(vivid & (bins == k)).mean((1, 2)) for k in range(16)], 1)
    layout = vivid.reshape(len(pictures), 8, 8, 8, 8).mean((2, 4)).reshape(len(pictures), -1)
    return np.hstack([hues / hues.sum(1, keepdims=True), layout])


def accuracy(features, labels):
    return cross_val_score(LogisticRegression(C=10, max_iter=2000), features, labels, cv=5).mean()


def test_each_attribute_is_read_from_its_own_side_alone(items, texts, pictures):
    sides = {SEEN: weak_features(pictures), SAID: CountVectorizer(binary=True).fit_transform(texts).toarray()}
    for own, other in ((SEEN, SAID), (SAID, SEEN)):
        for attribute in own:
            labels = values(items, attribute)
            chance = 1 / len(set(labels))
            assert accuracy(sides[other], labels) < chance + 0.07, attribute
            if attribute != "pattern":  # too fine for so weak features
                assert accuracy(sides[own], labels) > 0.7, attribute


@pytest.mark.parametrize("attribute", SAID)
def test_pictures_of_one_look_do_not_depend_on_what_is_said(items, pictures, attribute):
    """Among pictures of one colour and shape, those with the same words are no nearer to each other."""
    features = weak_features(pictures)
    look = np.array([item.colour * 100 + item.shape for item in items])
    left, right = np.nonzero(np.triu(look[:, None] == look[None, :], 1))
    distances = np.linalg.norm(features[left] - features[right], axis=1)

    def gap(labels):
        same = labels[left] == labels[right]
        return abs(distances[same].mean() - distances[~same].mean())

    rng = np.random.RandomState(0)
    labels = values(items, attribute)
    by_chance = [gap(rng.permutation(labels)) for _ in range(200)]
    assert gap(labels) < np.quantile(by_chance, 0.99)


# --- Users go by content ---------------------------------------------------------------------------


def one_hot(items, attributes):
    return np.hstack([np.eye(values(items, a).max() + 1)[values(items, a)] for a in attributes])


def recall(taken, features, k=20):
    """Leave-one-out Recall@k of the items that are most like the mean of a user's other items."""
    noise = np.random.RandomState(0).uniform(0, 1e-6, taken.shape[1])  # breaks ties
    hits = []
    for row in taken:
        for held in np.flatnonzero(row):
            others = row.copy()
            others[held] = False
            scores = np.where(others, -np.inf, features @ features[others].mean(0) + noise)
            hits.append((scores > scores[held]).sum() < k)
    return np.mean(hits)


def test_users_prefer_what_they_see_and_what_they_read(items, taken):
    by_chance = 20 / len(items)
    seen = recall(taken, one_hot(items, SEEN))
    said = recall(taken, one_hot(items, SAID))
    both = recall(taken, one_hot(items, SEEN + SAID))
    assert min(seen, said) > 2.5 * by_chance
    assert both > 1.3 * max(seen, said)
    assert abs(seen - said) < 0.25 * max(seen, said)


def test_cold_items_go_to_those_who_like_such_items(items, taken):
    features = one_hot(items, SEEN + SAID)
    cold = values(items, "cold")
    profiles = taken[:, ~cold] @ features[~cold] / taken[:, ~cold].sum(1, keepdims=True)
    likeness = profiles @ features.T
    ranks = [(likeness[:, i] < likeness[u, i]).mean() for u, i in np.argwhere(taken & cold)]
    assert np.mean(ranks) > 0.7
