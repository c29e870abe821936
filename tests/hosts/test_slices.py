"""Slices of the test set: RecBole's metrics of a test part that holds their interactions alone."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from ranking_data import METRICS, prepare, trainer_of

from mmenc_plugin.errors import DataError, SettingsError
from mmenc_plugin.hosts.recbole import collector, slices
from mmenc_plugin.hosts.recbole.run import Launch, run_with_baselines, slice_tables
from mmenc_plugin.testing.samples import shaken

N_ITEMS, N_USERS, COLD = 40, 50, 6
NO_PICTURE, NO_TEXT = {"i3", "i11", "i12", "i39"}, {"i4", "i12", "i20"}
NAMES = ["cold", "warm", "tail", "missing-image", "missing-text"]
SETTINGS = {
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id"]},
    "metrics": METRICS, "topk": [1, 5, 12], "valid_metric": "MRR@5", "eval_slices": NAMES,
}  # fmt: skip
WIDTHS = {"VBPR": {"content_size": 4}}


def write(folder, parts):
    """A data set whose parts are lists of pairs; its items beside it, some without a picture or a text."""
    name, rng = folder.name, np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    for part, pairs in parts.items():
        lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item in pairs)]
        (folder / f"{name}.{part}.inter").write_text("\n".join(lines) + "\n")
    rows = ["item_id:token\ttitle:token_seq\tdescription:token_seq\timage:token"]
    for item in (f"i{k}" for k in range(N_ITEMS)):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / "images" / f"{item}.png")
        title = "" if item in NO_TEXT else " ".join(rng.choice(["red", "blue", "shoe", "hat", "old", "new"], 3))
        rows.append(f"{item}\t{title}\t\t{'' if item in NO_PICTURE else item + '.png'}")
    (folder / f"{name}.item").write_text("\n".join(rows) + "\n")


def drawn():
    """Each user's items, the popular ones more often: six of training, one or two of validation, four of the test."""
    rng, parts = np.random.default_rng(5), {"train": [], "valid": [], "test": []}
    odds = 1.0 / np.arange(1, N_ITEMS - COLD + 1)
    for user in (f"u{k}" for k in range(N_USERS)):
        warm = rng.choice(N_ITEMS - COLD, 10, replace=False, p=odds / odds.sum())
        cold = N_ITEMS - COLD + rng.choice(COLD, int(rng.integers(0, 3)), replace=False)
        for part, items in {"train": warm[:6], "valid": warm[6:7], "test": [*warm[7:], *cold]}.items():
            parts[part] += [(user, f"i{item}") for item in items]
    return parts


def items_by_hand(parts):
    """The items of each slice, from the lists of pairs."""
    taken = Counter(item for _, item in parts["train"])
    everything = {f"i{k}" for k in range(N_ITEMS)}
    tail, held = set(), 0
    for count in sorted(set(taken.values())):
        if held >= len(parts["train"]) / 5:
            break
        tail |= (group := {item for item in taken if taken[item] == count})
        held += count * len(group)
    return {
        "cold": everything - set(taken), "warm": set(taken), "tail": tail,
        "missing-image": NO_PICTURE, "missing-text": NO_TEXT,
    }  # fmt: skip


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = drawn()
    write(tmp_path / "dataset" / "shop", parts)
    return parts


def evaluated(model, dataset="shop", like=None, **settings):
    """RecBole's model, with the weights of another one if given, and its result of the test."""
    config, made, train, _, test = prepare(model, dataset, **{**SETTINGS, **WIDTHS.get(model, {}), **settings})
    made.tokens = train._dataset.field2token_id["item_id"]
    if like is not None:  # RecBole counts items as they come, so that the other one's rows may be others
        rows = torch.tensor([like.tokens[token] for token in made.tokens])
        state = like.state_dict().items()
        made.load_state_dict({name: value[rows] if len(value) == len(rows) else value for name, value in state})
    else:
        shaken(made)  # so that no two scores are equal but for the last bit
    return made, trainer_of(config, made, train).evaluate(test, load_best_model=False)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "matrix"])
@pytest.mark.parametrize("model", ["VBPR", "BPR"])
def test_a_slice_has_recboles_values_of_a_test_part_filtered_by_hand(model, fused, shop, tmp_path):
    made, whole = evaluated(model, fused_ranking=fused)
    items = items_by_hand(shop)
    assert list(whole.slices) == NAMES
    assert dict(whole) == dict(evaluated(model, like=made, fused_ranking=fused, eval_slices=[])[1])
    for name, found in whole.slices.items():
        left = [(user, item) for user, item in shop["test"] if item in items[name]]
        assert (found["interactions"], found["users"]) == (len(left), len({user for user, _ in left})), name
        write(tmp_path / "dataset" / name, {**shop, "test": left})
        _, filtered = evaluated(model, name, made, fused_ranking=fused, eval_slices=[])
        assert len(filtered) == 3 * 11 + 1  # at three lengths, and GAUC
        assert found["result"] == filtered, name


def test_recall_and_ndcg_by_brute_force(shop):
    made, whole = evaluated("VBPR", topk=[5], metrics=["Recall", "NDCG"], valid_metric="NDCG@5")
    train = prepare("VBPR", **{**SETTINGS, **WIDTHS["VBPR"]})[2]
    users, items = (train._dataset.field2token_id[field] for field in ("user_id", "item_id"))
    with torch.no_grad():
        scores = made.model.eval().scores(torch.arange(len(users))).double()
    seen, wanted = defaultdict(set), defaultdict(set)
    for part in ("train", "valid"):
        for user, item in shop[part]:
            seen[user].add(item)
    for user, item in shop["test"]:
        wanted[user].add(item)
    for name, of_slice in items_by_hand(shop).items():
        recalls, gains = [], []
        for user, of_user in wanted.items():
            targets = of_user & of_slice
            ranked = sorted((i for i in items if i != "[PAD]" and i not in seen[user]),
                            key=lambda i, row=users[user]: -scores[row, items[i]])[:5]  # fmt: skip
            if targets:
                hit = np.array([i in targets for i in ranked])
                discounts = 1 / np.log2(np.arange(2, 7))
                recalls.append(hit.sum() / len(targets))
                gains.append((hit * discounts).sum() / discounts[: len(targets)].sum())
        assert whole.slices[name]["result"]["recall@5"] == pytest.approx(np.mean(recalls), abs=1e-9)
        assert whole.slices[name]["result"]["ndcg@5"] == pytest.approx(np.mean(gains), abs=1e-9)


def test_users_are_ranked_once_for_all_slices(shop, monkeypatch):
    from mmenc_plugin.hosts.recbole.adapter import RecboleModel

    ranked, scored = [], []
    rank, predict = collector.score_topk, RecboleModel.full_sort_predict
    monkeypatch.setattr(
        collector, "score_topk", lambda users, *a, **k: ranked.append(len(users)) or rank(users, *a, **k)
    )
    monkeypatch.setattr(RecboleModel, "full_sort_predict", lambda self, x: scored.append(len(x)) or predict(self, x))
    evaluated("VBPR")
    assert (sum(ranked), scored) == (N_USERS, [])
    evaluated("VBPR", fused_ranking=False)
    assert (sum(ranked), sum(scored)) == (N_USERS, N_USERS)


def test_the_validation_part_has_no_slices(shop):
    config, made, train, valid, _ = prepare("BPR", "shop", **{**SETTINGS, "eval_slices": ["cold"]})
    assert not hasattr(trainer_of(config, made, train).evaluate(valid, load_best_model=False), "slices")


def test_the_tail_holds_a_fifth_of_the_interactions_and_no_item_that_nobody_took():
    taken = torch.tensor([0, 0, 1, 1, 2, 6, 10])  # 20: the first two that were taken hold 2, the first three hold 4
    assert slices.tail(taken).tolist() == [False, False, True, True, True, False, False]
    assert slices.tail(torch.tensor([0, 3, 3, 0])).tolist() == [False, True, True, False]  # none is more popular
    assert not slices.tail(torch.tensor([0, 0])).any()


def test_the_run_hands_on_the_slices_and_prints_a_block_for_each(tmp_path, monkeypatch, capsys):
    """RecBole's own model has no features: what lacks a picture is known from the settings of ours."""
    monkeypatch.chdir(tmp_path)
    parts = drawn()
    parts["test"] = [pair for pair in parts["test"] if pair[1] not in NO_TEXT]
    write(tmp_path / "dataset" / "shop", parts)
    overrides = ["--benchmark_filename=['train','valid','test']", "--eval_slices=missing-image,cold,missing-text"]
    overrides += [
        "--epochs=1",
        "--show_progress=False",
        "--metrics=['Recall']",
        "--topk=[5]",
        "--valid_metric=Recall@5",
    ]
    results = run_with_baselines(Launch("VBPR", "shop", overrides=overrides), ["BPR", "ItemKNNContent"])
    counts = Counter(item for _, item in parts["test"])
    for result in results.values():
        found = result["test_slices"]
        assert list(found) == ["missing-image", "cold", "missing-text"]
        assert found["missing-image"]["interactions"] == sum(counts[item] for item in NO_PICTURE) > 0
        assert found["missing-text"] == {"users": 0, "interactions": 0, "result": {}}
    pictures, cold, texts = slice_tables(results).split("\n\n")
    assert texts == "missing-text: items without a text; none of these is in the test set"
    title, header, *rows = cold.split("\n")
    assert title == "cold: items without a training interaction"
    assert header.split() == ["model", "users", "interactions", "recall@5"]
    assert [row.split()[0] for row in rows] == ["VBPR", "BPR", "ItemKNNContent"]
    of_bpr = results["BPR"]["test_slices"]["cold"]
    assert rows[1].split()[1:3] == [str(of_bpr["users"]), str(of_bpr["interactions"])]
    assert rows[1].split()[3] == f"{of_bpr['result']['recall@5']:.4f}"
    assert "nan" not in pictures + cold


def test_slices_may_be_written_as_one_text_with_commas(monkeypatch):
    from recbole.config import Config

    monkeypatch.setattr("sys.argv", ["run", "--eval_slices=cold,missing-text"])
    assert Config("VBPR", "demo")["eval_slices"] == ["cold", "missing-text"]
    assert Config("BPR", "demo")["eval_slices"] == ["cold", "missing-text"]


@pytest.mark.parametrize("model", ["BPR", "VBPR"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_slices": "cold,tial"}, r"eval_slices.1 is 'tial'.*Did you mean 'tail'\?"),
        ({"eval_slices": ["missing-image"], "modalities": ["text"]}, r"missing-image, but modalities is \['text'\]"),
        ({"eval_slices": ["cold"], "eval_args": {"mode": "uni10"}}, "with the mode uni10 of eval_args the test ranks"),
        ({"eval_slices": ["cold"], "repeatable": True}, "repeatable is True, as it is for sequential models"),
    ],
)
def test_what_cannot_be_is_said_before_data_is_read(model, settings, message):
    from recbole.config import Config

    with pytest.raises(SettingsError, match=message):
        Config(model, "demo", config_dict=settings)


def test_a_metric_that_needs_the_scores_is_named(monkeypatch):
    from recbole.config import Config
    from recbole.evaluator import register

    monkeypatch.setitem(register.metric_information, "recall", ["rec.topk", "rec.score"])
    with pytest.raises(SettingsError, match=r"but the metric recall needs 'rec\.score'"):
        Config("BPR", "demo", config_dict={"eval_slices": ["cold"], "metrics": ["Recall"]})


def test_a_baseline_without_an_item_file_has_no_slice_by_features(tmp_path, monkeypatch):
    from recbole.config import Config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset" / "bare").mkdir(parents=True)
    with pytest.raises(DataError, match=r"bare.item does not exist"):
        Config("BPR", "bare", config_dict={"eval_slices": ["missing-text"]})
    assert Config("BPR", "bare", config_dict={"eval_slices": ["cold"]})["eval_slices"] == ["cold"]


def test_a_trainer_with_a_collector_of_its_own_is_named(shop):
    from recbole.evaluator.collector import Collector

    config, made, train, _, test = prepare("BPR", "shop", **{**SETTINGS, "eval_slices": ["cold"]})
    trainer = trainer_of(config, made, train)
    trainer.eval_collector = Collector(config)
    with pytest.raises(SettingsError, match="Trainer has a collector of its own"):
        trainer.evaluate(test, load_best_model=False)
