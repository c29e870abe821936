"""RecBole's trainer trains encoders: which, when, how fast, and what is left of it on the disk."""

import json

import live_shop
import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.errors import SettingsError, TrainingError
from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer


@pytest.fixture
def shop(tmp_path, monkeypatch, tiny_clip):
    monkeypatch.chdir(tmp_path)
    return {**live_shop.make(tmp_path), "encoder": f"openclip:local-dir:{tiny_clip}"}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def watch(monkeypatch, before_step):
    """Call before_step(trainer) in each step, after its loss."""
    check = MultimodalTrainer._check_nan

    def watched(self, loss):
        before_step(self)
        return check(self, loss)

    monkeypatch.setattr(MultimodalTrainer, "_check_nan", watched)


@pytest.mark.parametrize("model", ["VBPR", "FREEDOM", "LGMRec"])
def test_training_moves_encoder_and_recommender_and_the_test_is_of_the_best_epoch(shop, model):
    trainer, train, valid, test = live_shop.prepare({**shop, "tune": "top:1"}, model)
    encoder, rest = live_shop.trained(trainer)
    fixed = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.fit(train, valid, verbose=False)
    result = trainer.evaluate(test)
    after, rest_after = live_shop.trained(trainer)
    assert {name.split(".")[-4] for name in encoder} >= {"1"} if model == "VBPR" else True
    assert len(moved(encoder, after)) > len(encoder) / 2
    assert moved(rest, rest_after)
    assert not moved(fixed, dict(trainer.model.named_parameters()))
    again = live_shop.prepare(shop | {"tune": "top:1"}, model)[0]
    assert again.evaluate(test, model_file=trainer.saved_model_file) == result


def test_the_encoder_is_written_as_one_that_any_run_can_use(shop):
    trainer, train, valid, _ = live_shop.prepare({**shop, "tune": "lora:2"})
    trainer.fit(train, valid, verbose=False)
    (folder,) = (
        f for f in (trainer.config["checkpoint_dir"],) for f in __import__("pathlib").Path(f).glob("*-encoder")
    )
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["base"] == shop["encoder"]
    assert lineage["tune"] == "lora:2"
    assert lineage["settings"]["learning_rate"] == 0.01
    trainer.evaluate(valid)  # loads the best epoch
    features = trainer.model.model.features
    items = features.present("image").nonzero()[:4, 0]
    pictures = [features.items.image_dir / features.items.images[int(item)] for item in items]
    encoder = encoders.build(f"openclip:local-dir:{folder}")
    features.begin_step(items)
    mine = features.live_table("image").raw_rows(items).detach()
    torch.testing.assert_close(encoder.embed_images(pictures), mine, rtol=1e-4, atol=1e-5)
    assert (mine - encoders.build(shop["encoder"]).embed_images(pictures)).abs().max() > 1e-3
    frozen = {**shop, "paradigm": "frozen", "encoder": f"openclip:local-dir:{folder}"}
    assert live_shop.prepare(frozen)[0].live is None


def test_recboles_own_checkpoint_loads_and_recommends(shop):
    from pathlib import Path

    from recbole.quick_start import load_data_and_model

    from mmenc_plugin.hosts.recbole.recommend import SavedRun

    trainer, train, valid, _ = live_shop.prepare({**shop, "tune": "head"})
    trainer.fit(train, valid, verbose=False)
    expected = trainer.evaluate(valid)
    config, model, *_ = load_data_and_model(trainer.saved_model_file)
    assert MultimodalTrainer(config, model).evaluate(valid, load_best_model=False) == expected
    saved = torch.load(trainer.saved_model_file, weights_only=False)["state_dict"]
    of_encoder = {name for name in saved if "encoders" in name}
    assert {name.removeprefix("model.features.") for name in of_encoder} == set(live_shop.trained(trainer)[0])
    run = SavedRun(Path(trainer.saved_model_file))
    (top,) = run.recommend(["u1"], 3)
    scores = trainer.model.model.eval().topk(run._rows(["u1"]), 3, exclude=None).scores
    assert len(top.items[0]) == 3
    assert max(top.scores[0]) <= scores.max() + 1e-6


def test_a_warm_start_is_a_frozen_run_and_leaves_the_encoder_alone(shop, monkeypatch):
    settings = {**shop, "epochs": 2, "warm_start_epochs": 2}
    trainer, train, valid, _ = live_shop.prepare(settings)
    encoder, _ = live_shop.trained(trainer)
    calls = []
    trainer.model.model.features.encoders[0].register_forward_hook(lambda *_: calls.append(1))
    trainer.fit(train, valid, verbose=False, saved=False)
    after, rest = live_shop.trained(trainer)
    assert not calls
    assert not moved(encoder, after)
    frozen, train, valid, _ = live_shop.prepare({**settings, "paradigm": "frozen"})
    frozen.fit(train, valid, verbose=False, saved=False)
    for name, value in frozen.model.model.named_parameters():
        torch.testing.assert_close(rest[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_after_the_warm_start_the_encoder_learns_by_its_own_rate(shop, monkeypatch):
    rates = []
    watch(monkeypatch, lambda t: rates.append({g.get("name", "rest"): g["lr"] for g in t.optimizer.param_groups}))
    options = {"epochs": 3, "warm_start_epochs": 1, "schedule": "linear", "layer_decay": 0.5, "warmup": 0.0}
    trainer, train, valid, _ = live_shop.prepare({**shop, **options})
    trainer.fit(train, valid, verbose=False, saved=False)
    steps = len(train)
    assert len(rates) == 3 * steps
    head = next(name for name in rates[0] if "0 below the head, matrices" in name)
    below = next(name for name in rates[0] if "1 below the head, matrices" in name)
    expected = [0.0] * steps + [1e-3 * (1 - step / (2 * steps)) for step in range(2 * steps)]
    assert [rate[head] for rate in rates] == pytest.approx(expected)
    assert [rate[below] for rate in rates] == pytest.approx([rate / 2 for rate in expected])
    assert {rate["rest"] for rate in rates} == {0.01}


def test_weight_decay_is_decoupled_and_of_matrices_alone(shop):
    groups = live_shop.prepare({**shop, "weight_decay": 0.1, "encoder_weight_decay": 0.3})[0].optimizer.param_groups
    decays = {group.get("name", "rest").split(", ")[-1]: group["weight_decay"] for group in groups}
    assert decays == {"rest": 0.1, "vectors": 0.0, "matrices": 0.3}
    assert [group["decoupled_weight_decay"] for group in groups] == [False] + [True] * (len(groups) - 1)
    every = [p for group in groups for p in group["params"]]
    assert len(every) == len({id(p) for p in every})


@pytest.mark.parametrize(
    ("refresh", "times"), [("epoch", 2), ("evaluation", 1), ("never", 0), ("steps:2", 4)], ids=lambda v: str(v)
)
def test_refresh_policies(shop, refresh, times):
    """Two epochs of four steps, with an evaluation after the second."""
    trainer, train, valid, test = live_shop.prepare(
        {**shop, "refresh": refresh, "eval_step": 2, "train_batch_size": 12}
    )
    assert len(train) == 4
    table, filled = trainer.model.model.features.live_table("image"), []
    fill = table.fill
    table.fill = lambda outputs: (filled.append(1), fill(outputs))
    trainer.fit(train, valid, verbose=False)
    assert len(filled) == times
    trainer.evaluate(test)
    assert len(filled) == times + (refresh == "never")  # the others are fresh: the best epoch was the last


def test_rows_of_the_batch_alone_are_encoded_in_a_step(shop, monkeypatch):
    seen = []
    watch(monkeypatch, lambda t: seen.append(len(t.model.model.features.step_items)))
    trainer, train, *_ = live_shop.prepare({**shop, "train_batch_size": 2, "epochs": 1, "refresh": "never"})
    calls = []
    trainer.model.model.features.encoders[0].register_forward_hook(lambda m, args, out: calls.append(len(out)))
    trainer.fit(train, verbose=False, saved=False)
    assert max(seen) <= 4
    assert sum(calls) <= 2 * sum(seen)
    assert len(calls) <= 2 * len(seen)


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_of_one_and_items_without_pictures_train(shop, size):
    """Item 3 has no picture; in a batch of one it may be the only item, and be its own negative never."""
    trainer, train, valid, _ = live_shop.prepare({**shop, "train_batch_size": size, "epochs": 1, "itc_weight": 0.1})
    trainer.fit(train, valid, verbose=False, saved=False)
    assert all(value.isfinite().all() for part in live_shop.trained(trainer) for value in part.values())


def test_an_item_that_is_positive_and_negative_is_encoded_once(shop):
    trainer, *_ = live_shop.prepare(shop)
    model, features = trainer.model, trainer.model.model.features
    calls = []
    features.encoders[0].register_forward_hook(lambda m, args, out: calls.append(len(out)))
    users = items = torch.tensor([1, 2])
    parts = model.calculate_loss({model.USER_ID: users, model.ITEM_ID: items, model.NEG_ITEM_ID: items})
    sum(parts).backward()
    assert calls == [2, 2]  # pictures and texts
    assert float(parts[0]) == pytest.approx(0.6931, abs=1e-3)  # a tie
    gradients = [p.grad for p in features.trained().values() if p.grad is not None]
    assert max(gradient.abs().max() for gradient in gradients) < 1e-6


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(shop, monkeypatch):
    def spoil(trainer):
        if trainer.place == (1, 1):
            trainer.model.model.loss = lambda batch: {"bpr": torch.tensor(torch.nan, requires_grad=True)}

    watch(monkeypatch, spoil)
    trainer, train, valid, _ = live_shop.prepare({**shop, "epochs": 3})
    with pytest.raises(TrainingError, match=r"loss \(bpr\) is nan in epoch 1, batch 2, .*best epoch .*pth.*encoder_le"):
        trainer.fit(train, valid, verbose=False)
    good = torch.load(trainer.saved_model_file, weights_only=False)
    assert good["epoch"] == 0
    assert all(value.isfinite().all() for value in good["state_dict"].values())


def test_a_weight_that_is_no_number_stops_before_the_kernels_do(shop, monkeypatch):
    trainer, train, valid, _ = live_shop.prepare(shop)
    with torch.no_grad():
        next(iter(trainer.model.model.features.trained().values())).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"NaN or infinity .*in epoch 0, batch 0, .*no epoch was saved before"):
        trainer.fit(train, valid, verbose=False)


def test_the_contrast_of_pictures_and_texts_is_a_part_of_the_loss_and_trains_the_temperature(shop):
    trainer, train, valid, _ = live_shop.prepare({**shop, "itc_weight": 0.5, "epochs": 1})
    before, _ = live_shop.trained(trainer)
    (scale,) = (name for name in before if name.endswith("logit_scale"))
    trainer.fit(train, valid, verbose=False, saved=False)
    assert trainer.model.parts == ("bpr", "reg", "itc")
    assert scale in moved(before, live_shop.trained(trainer)[0])
    assert not [name for name in live_shop.trained(live_shop.prepare(shop)[0])[0] if name.endswith("logit_scale")]


def test_the_contrast_is_that_of_the_outputs(shop):
    from mmenc_plugin.training.contrast import itc_loss, scale_of

    trainer, *_ = live_shop.prepare({**shop, "itc_weight": 0.5, "missing": "zeros"})
    model, features = trainer.model, trainer.model.model.features
    tokens = live_shop.prepare(shop)[1]._dataset.field2id_token["item_id"].tolist()
    rows = torch.tensor(sorted(tokens.index(f"i{item}") for item in (3, 1, 5, 7)))  # 3 has no picture
    batch = {model.USER_ID: rows[:2] * 0 + 1, model.ITEM_ID: rows[:2], model.NEG_ITEM_ID: rows[2:]}
    found = model.calculate_loss(batch)[-1]
    encoder, items = encoders.build(shop["encoder"]), features.items
    both = [int(row) for row in rows if items.images[int(row)]]
    pictures = encoder.embed_images([items.image_dir / items.images[row] for row in both])
    texts, keys = encoder.embed_texts([items.texts[row] for row in both]), torch.arange(3)
    expected = itc_loss(pictures, texts, scale_of(encoder), keys, keys)
    assert found.item() == pytest.approx(0.5 * expected.item(), rel=1e-4)


def test_the_contrast_needs_one_encoder_of_both(shop, tiny_sbert):
    with pytest.raises(SettingsError, match="itc_weight contrasts pictures with texts, but modalities is"):
        live_shop.prepare({**shop, "modalities": ["text"], "itc_weight": 0.1})
    two = {"image": shop["encoder"], "text": f"sbert:{tiny_sbert}"}
    with pytest.raises(SettingsError, match=r"itc_weight .* but encoder is openclip:.* for pictures and sbert:"):
        live_shop.prepare({**shop, "encoder": two, "itc_weight": 0.1})


def test_two_encoders_learn_side_by_side_and_one_without_parameters_stays(shop, tiny_sbert):
    two = {"image": shop["encoder"], "text": f"sbert:{tiny_sbert}"}
    trainer, train, valid, _ = live_shop.prepare({**shop, "encoder": two, "epochs": 1})
    before, _ = live_shop.trained(trainer)
    trainer.fit(train, valid, verbose=False)
    assert {name.split(".")[1] for name in moved(before, live_shop.trained(trainer)[0])} == {"0", "1"}
    names = {path.name.split("-encoder-")[1] for path in __import__("pathlib").Path("saved").glob("*-encoder-*")}
    assert names == {"image", "text"}
    trainer, *_ = live_shop.prepare({**shop, "encoder": {"image": shop["encoder"], "text": "classic"}})
    assert trainer.model.model.features.learning == ("image",)
    trainer.model.model.features.begin_step(torch.tensor([1, 2]))
    assert not trainer.model.model.features.rows("text", torch.tensor([1])).requires_grad


def test_equal_seeds_train_to_equal_bits(shop):
    ends = []
    for workers in (1, 3):
        trainer, train, valid, _ = live_shop.prepare({**shop, "encoder_workers": workers})
        trainer.fit(train, valid, verbose=False, saved=False)
        ends.append(live_shop.trained(trainer))
    for one, other in zip(*ends, strict=True):
        assert not moved(one, other)


def test_a_joint_encoder_learns(shop, tiny_vlmo):
    trainer, train, valid, _ = live_shop.prepare({**shop, "encoder": f"vlmo:{tiny_vlmo}", "modalities": ["fused"]})
    before, _ = live_shop.trained(trainer)
    trainer.fit(train, valid, verbose=False, saved=False)
    assert moved(before, live_shop.trained(trainer)[0])
