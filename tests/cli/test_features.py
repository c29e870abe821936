"""mmenc features, as a user meets it."""

import json
import re

import numpy as np
import pytest

from mmenc_plugin import cli
from mmenc_plugin.cli import _features, features
from mmenc_plugin.features import exchange, open_block


@pytest.fixture
def mmenc(capsys, tmp_path, monkeypatch):
    """mmenc(*argv): status, output and errors of a command, run in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        try:
            status = cli.main(argv)
        except SystemExit as stop:  # argparse
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err or "--debug" in argv
        return status, out, err

    return run


@pytest.fixture
def shop(tmp_path):
    """A data set with texts alone; `.inter` names the items in another order than `.item`."""
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    rows = ["b\tred shoe", "a\tblue hat", "d\t", "c\tgreen bag"]
    (folder / "shop.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *rows]) + "\n")
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\nu\tc\nu\ta\nv\td\nv\tb\n")
    return folder


DATA = ["--dataset=shop", "--data_path=data", "--item_text=title", "--modalities=text", "--show_progress=False"]


@pytest.fixture
def extracted(mmenc, shop):
    """The key of the shop's block of texts, in the store ./features."""
    status, _, err = mmenc("extract", *DATA)
    assert status == 0, err
    return next(path.name for path in (shop.parent.parent / "features").glob("text-*") if path.is_dir())


def test_no_command_and_every_help_teach(mmenc):
    status, out, _ = mmenc("features")
    assert status == 0
    for action in _features.ACTIONS:
        assert f"mmenc features {action}" in out.split("examples:")[1]
        assert f"usage: mmenc features {action}" in mmenc("features", action, "--help")[1]


def test_the_formats_in_the_help_are_those_of_the_registry():
    lines = re.findall(r"^  (\w+) +(.*?)(?: \(export alone\))?$", features.FORMATS, re.MULTILINE)
    assert sorted(lines) == [(name, kind.about) for name, kind in exchange.registry]


def test_list_shows_blocks_as_a_table_and_as_json(mmenc, extracted):
    status, out, _ = mmenc("features", "list")
    header, line = out.splitlines()
    assert status == 0
    assert header.split() == ["key", "modality", "encoder", "items", "width", "masked", "size", "written"]
    assert line.split()[:6] == [extracted, "text", "classic:colour-layout-hash-1", "4", "1024", "1"]
    found = json.loads(mmenc("features", "list", "--json")[1])
    assert (found[0]["key"], found[0]["items"], found[0]["masked"]) == (extracted, 4, 1)


def test_list_names_damage_and_what_stopped_runs_have_left(mmenc, extracted, tmp_path):
    (tmp_path / "features" / extracted / "manifest.json").write_text("{")
    (tmp_path / "features" / f"{extracted}-x.shards").mkdir()
    out = mmenc("features", "list")[1]
    assert f"damaged: {extracted}: JSONDecodeError" in out
    assert "1 leftovers of stopped runs" in out


def test_verify_reads_on_after_damage_and_says_so_in_its_status(mmenc, extracted, tmp_path):
    mmenc("extract", *DATA, "--encoder_batch_size=2")
    assert mmenc("features", "verify")[:2][0] == 0
    path = tmp_path / "features" / extracted / "ids.json"
    path.write_text(path.read_text().replace('"a"', '"x"'))
    status, out, _ = mmenc("features", "verify")
    assert status == 1
    assert f"DAMAGED  {extracted}: the features in" in out
    assert len(re.findall("^ok ", out, re.MULTILINE)) == 1
    assert "2 blocks, 1 damaged" in out
    assert mmenc("features", "verify", extracted)[0] == 1


def test_diff_of_blocks_and_of_stores(mmenc, extracted):
    assert mmenc("features", "diff", extracted, f"features/{extracted}")[:2] == (
        0, "the two blocks are the same, byte for byte\n",
    )  # fmt: skip
    mmenc("extract", *DATA, "--feature_dir=other")
    assert mmenc("features", "diff", "features", "other")[:2][0] == 0
    mmenc("extract", *DATA, "--feature_dir=other", "--encoder_batch_size=2")
    status, out, _ = mmenc("features", "diff", "features", "other")
    assert status == 1
    assert f"the same: {extracted}" in out
    assert "only in B: text-classic" in out
    second = next(key for key in out.split() if key.startswith("text-") and key != extracted)
    status, out, _ = mmenc("features", "diff", f"features/{extracted}", f"other/{second}")
    assert status == 1
    assert "recipe, batch_size: 32 | 2" in out
    assert re.search(r"cosine over 3 items: mean 1\.000000, least 1\.000000", out)
    found = json.loads(mmenc("features", "diff", f"features/{extracted}", f"other/{second}", "--json")[1])
    assert found["recipe"] == {"batch_size": [32, 2]}
    status, _, err = mmenc("features", "diff", "features", f"features/{extracted}")
    assert status == 2
    assert "are a block and a store" in err


def test_delete_shows_asks_and_deletes(mmenc, extracted, tmp_path, monkeypatch):
    folder = tmp_path / "features" / extracted
    status, out, err = mmenc("features", "delete", "text")
    assert status == 2
    assert f"features/{extracted}" in out
    assert "nobody can be asked here, so nothing was deleted. Add --yes" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert mmenc("features", "delete", "text")[0] == 1
    assert folder.is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    status, out, _ = mmenc("features", "delete", "text")
    assert status == 0
    assert "1 deleted" in out
    assert not folder.exists()


def test_unused_keeps_what_the_settings_ask_for(mmenc, extracted, tmp_path):
    mmenc("extract", *DATA, "--encoder_batch_size=2")
    status, out, err = mmenc("features", "delete", "--unused", *DATA, "--yes")
    assert status == 0, err
    assert f"used by shop: {extracted}" in out
    assert [path.name for path in (tmp_path / "features").iterdir() if path.is_dir()] == [extracted]
    status, out, _ = mmenc("features", "delete", "--unused", *DATA, "--yes")
    assert (status, out.splitlines()[-1]) == (0, "nothing to delete")
    status, out, err = mmenc("features", "delete", "--unused", "--yes")
    assert status == 2
    assert "--unused needs --dataset" in err


def test_unused_names_used_blocks_that_are_not_there(mmenc, extracted):
    out = mmenc("features", "delete", "--unused", *DATA, "--encoder_batch_size=3")[1]
    assert "(not in the store)" in out
    assert f"  features/{extracted}" in out


def test_leftovers_and_old_blocks(mmenc, extracted, tmp_path):
    (tmp_path / "features" / "text-x.shards").mkdir()
    status, out, _ = mmenc("features", "delete", "--leftovers", "--yes")
    assert status == 0
    assert "features/text-x.shards" in out
    assert [path.name for path in (tmp_path / "features").iterdir() if path.is_dir()] == [extracted]
    assert mmenc("features", "delete", "--older-than=1", "--yes")[1] == "nothing to delete\n"
    assert "1 deleted" in mmenc("features", "delete", "--older-than=-1", "--yes")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "--stor=x"], "'--stor=x' is not an argument of mmenc features list"),
        (["list", "extra"], "'extra' is not an argument of mmenc features list"),
        (["verify", "--epochs=3"], "'--epochs=3' is not an argument"),
        (["delete", "text", "--epochs=3"], "'--epochs=3' is not an argument"),
        (["delete"], "say what to delete"),
        (["delete", "--older-than=soon"], "invalid float value"),
        (["sweep"], "invalid choice"),
        (["export", "--format=plain", "--to=x"], "required: --key"),
        (["export", "--format=plan", "--key=text", "--to=x"], "no exchange format named 'plan'. Did you mean 'plain'"),
        (["export", "--format=mmrec", "--key=text", "--to=x"], "the format mmrec needs --order-from"),
        (["export", "--format=plain", "--key=image", "--to=x"], "no block in features named 'image'"),
        (["list", "--store=nowhere"], "there is no feature store nowhere"),
        (["import", "--format=plain", "--modality=text", "x.npy", *DATA], "x.npy does not exist"),
        (["import", "--format=plain", "--modality=text", "a=b.npy", *DATA], "a path with '=' in it cannot stand"),
        (
            ["import", "--format=plain", "--modality=text", "x.npy", "--data_path", "y"],
            "'--data_path' is not of the form",
        ),
    ],
)
@pytest.mark.usefixtures("extracted")
def test_what_is_asked_wrongly_is_one_paragraph(mmenc, argv, message):
    status, _, err = mmenc("features", *argv)
    assert status == 2
    assert message in err


@pytest.mark.usefixtures("extracted")
def test_debug_is_taken_before_and_after_the_second_word(mmenc):
    for argv in (["--debug", "list", "--store=nowhere"], ["list", "--debug", "--store=nowhere"]):
        assert "Traceback" in mmenc("features", *argv)[2]


# --- Export and import --------------------------------------------------------------------------------


def test_an_export_says_what_it_wrote_and_how_it_is_used(mmenc, extracted, tmp_path):
    status, out, err = mmenc(
        "features",
        "export",
        "--format=recbole",
        f"--key={extracted}",
        "--order-from=data/shop/shop.inter",
        "--to=data/shop",
    )
    assert status == 0, err
    assert "4 items, width 1024: data/shop/shop.itememb\n1 items without features got the mean\n" in out
    assert "preload_weight: {iid: item_emb}" in out
    out = mmenc("features", "export", "--format=plain", "--key=text", "--to=plain")[1]
    assert "1 items without features were left out" in out
    assert 'encoder: "npy:plain/text_feat.npy?ids=plain/text_feat.ids.txt"' in out
    assert np.load(tmp_path / "plain" / "text_feat.npy").shape == (3, 1024)


@pytest.mark.parametrize("name", ["plain", "ducho", "cornac", "recbole"])
def test_what_was_exported_is_imported_under_a_line_that_a_run_takes(mmenc, extracted, tmp_path, name):
    before = open_block(tmp_path / "features" / extracted)
    place = "data/shop/shop.itememb" if name == "recbole" else "out"
    argv = ["--format", name, "--key", extracted, "--to", place, "--order-from", "data/shop/shop.inter"]
    out = mmenc("features", "export", *argv)[1]
    written = out.splitlines()[0].rpartition(": ")[2].split(", ")[0]
    status, out, err = mmenc(
        "features", "import", f"--format={name}", "--modality=text", written, "--dataset=shop", "--data_path=data"
    )
    assert status == 0, err
    line = out.splitlines()[-1]
    after = open_block(tmp_path / re.search(r"width 1024, (\S+)", out)[1])
    assert after.ids == before.ids
    known = before.present if name in ("plain", "ducho") else before.present | ~before.present
    assert after.present.tolist() == known.tolist()
    assert np.array_equal(after.values[before.present].numpy(), before.values[before.present].numpy())
    (tmp_path / "own.yaml").write_text(f"{line}\nmodalities: [text]\n")
    again = mmenc("extract", "--dataset=shop", "--data_path=data", "--config_files=own.yaml")[1]
    assert str(after.folder.name) in again
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 2


def test_mmrecs_features_come_in_by_their_mapping(mmenc, shop, tmp_path):
    folder = tmp_path / "baby"
    folder.mkdir()
    np.save(folder / "image_feat.npy", np.arange(8.0).reshape(4, 2))
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nd\t1\na\t0\nc\t3\nb\t2\n")
    argv = ["--format=mmrec", "--modality=image", "baby/image_feat.npy", "--dataset=shop", "--data_path=data"]
    status, out, err = mmenc("features", "import", *argv)
    assert status == 0, err
    assert 'encoder: {image: "npy:baby/image_feat.npy?ids=baby/i_id_mapping.csv"}' in out
    block = open_block(tmp_path / re.search(r"width 2, (\S+)", out)[1])
    rows = dict(zip(block.ids, block.values.tolist(), strict=True))
    assert rows == {"a": [0, 1], "d": [2, 3], "b": [4, 5], "c": [6, 7]}


@pytest.mark.usefixtures("shop")
def test_an_import_checks_the_settings_that_follow(mmenc, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2), dtype=np.float32))
    (tmp_path / "x.ids.txt").write_text("a\nb\nc\nd\n")
    argv = ["--format=plain", "--modality=text", "x.npy", "--dataset=shop", "--data_path=data", "--feature_dirr=z"]
    status, _, err = mmenc("features", "import", *argv)
    assert status == 2
    assert "no setting named 'feature_dirr'" in err
