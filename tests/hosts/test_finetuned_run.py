"""paradigm: finetuned in RecBole: the encoder is made on demand, from the training part alone, and found again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ranking_data import prepare

from mmenc_plugin import encoders
from mmenc_plugin.cli import main
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole import finetuning
from mmenc_plugin.training.loop import Loop

ITEMS = 24


@pytest.fixture
def settings(make_items, tmp_path, tiny_clip):
    """A data set of items with pictures, and settings of a run on it."""
    folder = tmp_path / "shop"
    items = make_items(ITEMS, folder / "images")
    rows = [f"{i}\t{text}\t{image}" for i, text, image in zip(items.ids, items.texts, items.images, strict=True)]
    (folder / "shop.item").write_text("\n".join(["item_id:token\ttitle:token_seq\timage:token", *rows]) + "\n")
    rng = np.random.default_rng(1)
    pairs = [f"u{user}\ti{item}" for user in range(30) for item in rng.permutation(ITEMS)[:8]]
    (folder / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token", *pairs]) + "\n")
    return {
        "data_path": str(tmp_path), "encoder": f"openclip:local-dir:{tiny_clip}", "paradigm": "finetuned",
        "item_text": ["title"], "finetune_dir": str(tmp_path / "finetuned"), "feature_dir": str(tmp_path / "features"),
        "finetune_epochs": 1, "finetune_batch_size": 8, "encoder_learning_rate": 1e-3, "metrics": ["Recall"],
        "valid_metric": "Recall@5", "seed": 7,
    }  # fmt: skip


def made(settings):
    """Reports of the encoders that were made."""
    paths = Path(settings["finetune_dir"]).glob("*/report.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def features_of(settings):
    model = prepare("VBPR", **settings)[1].model
    return {m: model.features.table(m).clone() for m in ("image", "text")}


def test_a_run_takes_the_features_of_the_tuned_encoder_and_makes_it_once(settings, monkeypatch):
    frozen = features_of(settings | {"paradigm": "frozen"})
    assert not made(settings)
    tuned = features_of(settings)
    ((key, report),) = made(settings).items()
    assert report["base"] == settings["encoder"]
    assert all(not torch.allclose(tuned[m], frozen[m], atol=1e-3) for m in tuned)
    monkeypatch.setattr(Loop, "run", None)
    assert all(torch.equal(again, tuned[m]) for m, again in features_of(settings).items())
    by_hand = f"openclip:local-dir:{settings['finetune_dir']}/{key}/encoder"
    named = features_of(settings | {"paradigm": "frozen", "encoder": by_hand})
    assert all(torch.equal(named[m], tuned[m]) for m in tuned)


def test_texts_are_learned_from_even_if_the_run_uses_pictures_alone(settings):
    prepare("VBPR", **settings, modalities=["image"])
    prepare("VBPR", **settings)
    assert len(made(settings)) == 1


def test_bought_sees_the_training_part_alone(settings, monkeypatch):
    settings = settings | {"finetune_objectives": ["itc", "bought"]}
    config, _, train, valid, test = prepare("VBPR", **settings)
    users, taken = finetuning.taken_of(train._dataset)
    whole = {(int(u), int(i)) for part in (train, valid, test) for u, i in _pairs(part._dataset)}
    assert {(u, f"i{i}") for u, i in _known(train._dataset)} == set(zip(users, taken, strict=True))
    assert len(users) < len(whole)
    assert len(made(settings)) == 1
    # What the command would make is what the run has made: RecBole's own split, by the same seed.
    monkeypatch.setattr(Loop, "run", None)
    assert finetuning.finetuned(config, finetuning_items(config)).folder.name in made(settings)


def finetuning_items(config):
    from mmenc_plugin.hosts.recbole.features import pairs_of

    return pairs_of(config)


def _pairs(dataset):
    return zip(dataset.inter_feat[dataset.uid_field], dataset.inter_feat[dataset.iid_field], strict=True)


def _known(dataset):
    tokens = dataset.field2id_token[dataset.iid_field]
    return {(int(u), str(tokens[int(i)]).removeprefix("i")) for u, i in _pairs(dataset)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": {"image": "timm:resnet18/random", "text": "sbert:x"}}, "share no space.*one encoder of both"),
        ({"encoder": "timm:resnet18/random", "modalities": ["image"]}, "takes image, not text"),
        ({"encoder": "classic", "modalities": ["image"]}, "has no weights"),
        ({"finetune_objectives": ["itc", "clip"]}, "finetune_objectives"),
        ({"finetune_batch_size": 1}, "finetune_batch_size"),
    ],
)
def test_what_cannot_be_fine_tuned_is_told_first(settings, changes, told):
    with pytest.raises(SettingsError, match=told):
        prepare("VBPR", **(settings | changes))


def command(settings, *more):
    overrides = [f"--{name}={value}" for name, value in settings.items() if name not in ("metrics", "valid_metric")]
    return ["finetune", "--dataset=shop", *overrides, "--show_progress=False", *more]


def test_the_command_prints_where_the_encoder_is(settings, tmp_path, capsys, monkeypatch):
    arguments = command(settings, "--output", str(tmp_path / "out"))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "22 pairs learned from, 2 held out; best epoch 1 of 1"
    assert [line.split()[0] for line in lines[2:5]] == ["image->text"] * 3
    uri = lines[-1].removeprefix("encoder: ")
    assert uri == f"openclip:local-dir:{tmp_path / 'out' / 'encoder'}"
    assert encoders.build(uri).spec.width == {"image": 16, "text": 16}
    monkeypatch.setattr(Loop, "run", None)
    assert main(arguments) == 0
    assert capsys.readouterr().out == printed
    assert main(command(settings | {"finetune_epochs": 2}, "--output", str(tmp_path / "out"))) == 2
    assert "finetune_epochs was 1 and is 2" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    printed = capsys.readouterr().out
    for word in (
        "itc",
        "itm",
        "mlm",
        "bought",
        "lora:R",
        "finetune_chunk",
        "paradigm: finetuned",
        "torchrun",
        "--output",
    ):
        assert word in printed
