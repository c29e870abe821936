"""Which items are not ranked: a user's best three are one of training, one of validation and one of the test."""

import itertools

import pytest
import torch
from ranking_data import METRICS, assert_same, evaluated, prepare, trainer_of

from mmenc_plugin.errors import SettingsError

ITEMS = 12
# user -> items of training, validation and test, best first; `twice` has taken its test item in training already
USERS = {"plain": (["1"], ["2"], ["3"]), "late": (["4"], [], ["5"]), "twice": (["6", "8"], ["7"], ["8"])}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    for part, name in enumerate(("train", "valid", "test")):
        pairs = [(user, item) for user, items in USERS.items() for item in items[part]]
        if name == "train":
            pairs += [(f"other{item % 2}", str(item)) for item in range(1, ITEMS + 1)]
        lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item in pairs)]
        (folder / f"shop.{name}.inter").write_text("\n".join(lines) + "\n")
    return {"benchmark_filename": ["train", "valid", "test"], "topk": [1, 2, 3], "valid_metric": "MRR@1"}


def made(shop, model="BPR", **settings):
    """A model that gives each user of USERS their items in order, then the others."""
    shop = {**shop, "embedding_size": ITEMS + 1, "metrics": METRICS, **settings}
    config, model, train, valid, test = prepare(model, **shop)
    users, items = train._dataset.field2token_id["user_id"], train._dataset.field2token_id["item_id"]
    with torch.no_grad():
        model.item_embedding.weight.copy_(torch.eye(ITEMS + 1))
        model.user_embedding.weight.copy_(-torch.arange(ITEMS + 1.0).expand(len(users), -1))
        for user, parts in USERS.items():
            for place, item in enumerate(itertools.chain(*parts)):
                model.user_embedding.weight[users[user], items[item]] = 10.0 - place
    return config, model, train, valid, test


def first_items(trainer, loader):
    """User -> the tokens of their first three items."""
    ids = evaluated(trainer, loader)[0]["rec.items"]
    dataset = loader._dataset
    users = dataset.id2token("user_id", loader.uid_list)
    return dict(zip(users.tolist(), dataset.id2token("item_id", ids).tolist(), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_the_items_of_the_validation_part_are_ranked_in_the_test_or_not(shop, fused):
    config, model, train, valid, test = made(shop, fused_ranking=fused)
    seen = first_items(trainer_of(config, model, train), test)
    assert (seen["plain"][0], seen["late"][0], seen["twice"][0]) == ("3", "5", "8")
    assert "2" not in seen["plain"]
    train_alone = first_items(trainer_of(config, model, train, ranking_mask="train"), test)
    assert train_alone["plain"][:2] == ["2", "3"]
    assert train_alone["late"][0] == "5"
    assert train_alone["twice"][:2] == ["7", "8"], "an item that is to be found is ranked, though training has it too"
    valid_lists = [first_items(trainer_of(config, model, train, ranking_mask=m), valid) for m in ("seen", "train")]
    assert valid_lists[0] == valid_lists[1]
    assert valid_lists[0]["plain"][:2] == ["2", "3"]


@pytest.mark.parametrize("mask", ["seen", "train"])
def test_the_mask_is_the_same_with_the_matrix_and_without(shop, mask):
    config, model, train, _, test = made(shop, ranking_mask=mask)
    ours = evaluated(trainer_of(config, model, train, fused_ranking=True), test)
    assert_same(ours, evaluated(trainer_of(config, model, train, fused_ranking=False), test))
    recall = {"seen": 1.0, "train": 1 / 3}[mask]
    assert ours[1]["recall@1"] == pytest.approx(recall)


def test_models_that_are_not_ranked_so_take_the_mask_too(shop):
    config, model, train, _, test = prepare(
        "NeuMF", **shop, ranking_mask="train", metrics=["MRR", "GAUC", "ItemCoverage"]
    )
    tensors, _ = evaluated(trainer_of(config, model, train), test)
    assert tensors["rec.meanrank"][:, 1].tolist() == [ITEMS - 1] * 3  # one is of training, and not to be found


def test_ours_take_the_mask(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = {}
    for mask in ("seen", "train"):
        config, model, train, valid, test = prepare(
            "VBPR", "demo", ranking_mask=mask, metrics=["GAUC"], valid_metric="GAUC", content_size=4
        )
        found[mask] = evaluated(trainer_of(config, model, train), test)[0]["rec.meanrank"]
    assert (found["train"][:, 1] - found["seen"][:, 1]).sum() == len(valid._dataset)


@pytest.mark.parametrize("model", ["BPR", "VBPR"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fused_ranking": 3}, "fused_ranking is 3: input should be a valid boolean"),
        ({"ranking_mask": "all"}, "ranking_mask is 'all': input should be 'seen' or 'train'"),
        ({"ranking_mask": "trian"}, r"ranking_mask is 'trian'.*Did you mean 'train'\?"),
        ({"scorer": "fast"}, "scorer is 'fast': input should be 'auto', 'triton', 'cpu' or 'reference'"),
        ({"scorer": "trition"}, r"scorer is 'trition'.*Did you mean 'triton'\?"),
        ({"ranking_mask": "train", "eval_args": {"mode": "uni10"}}, "draws the items to rank from those never taken"),
        ({"ranking_mask": "train", "repeatable": True}, "masks no items at all where repeatable is True"),
    ],
)
def test_what_cannot_be_is_said_before_data_is_read(model, settings, message):
    from recbole.config import Config

    with pytest.raises(SettingsError, match=message):
        Config(model, "demo", config_dict=settings)


def test_settings_may_be_written_as_texts(monkeypatch):
    from recbole.config import Config

    monkeypatch.setattr("sys.argv", ["run", "--fused_ranking=true", "--ranking_mask=train", "--scorer=cpu"])
    config = Config("BPR", "demo")
    assert (config["fused_ranking"], config["ranking_mask"], config["scorer"]) == (True, "train", "cpu")
    assert Config("VBPR", "demo")["ranking_mask"] == "train"


def test_recboles_own_models_have_none_of_the_settings_unless_given():
    from recbole.config import Config

    assert [Config("BPR", "demo")[key] for key in ("fused_ranking", "ranking_mask", "scorer")] == [None] * 3
    assert [Config("VBPR", "demo")[key] for key in ("fused_ranking", "ranking_mask", "scorer")] == [
        True,
        "seen",
        "auto",
    ]
