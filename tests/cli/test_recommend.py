"""mmenc recommend: the table, the page, and what it does with what is wrong."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
import torch

from mmenc_plugin import cli

RUN = {"show_progress": False, "epochs": 1, "embedding_size": 8, "state": "ERROR", "checkpoint_dir": "saved"}


@pytest.fixture(scope="module", params=["VBPR", "BPR"])
def trained(request, tmp_path_factory):
    """A folder with the checkpoint of a model of ours, or of RecBole's own, trained on the demo data."""
    from recbole.quick_start import run_recbole

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["test"])
        run_recbole(model=request.param, dataset="demo", config_dict={**RUN, "feature_dir": "features"})
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def recommend(capsys, *argv):
    status = cli.main(["recommend", *map(str, argv)])
    return status, *capsys.readouterr()


def scores_by_hand():
    """Scores of all users and items by RecBole's own call, what is taken -inf, and the names of both."""
    from recbole.data.interaction import Interaction
    from recbole.quick_start import load_data_and_model

    _, model, dataset, *_ = load_data_and_model(str(next(Path("saved").glob("*.pth"))))
    users = torch.arange(1, dataset.user_num)
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(dataset.join(Interaction({"user_id": users})))
    scores = scores.view(len(users), -1)
    scores[:, 0] = -torch.inf
    scores[dataset.inter_feat["user_id"] - 1, dataset.inter_feat["item_id"]] = -torch.inf
    return scores, dataset.field2id_token["user_id"][1:], dataset.field2id_token["item_id"]


def test_the_lists_are_those_of_all_scores_sorted(here, capsys):
    status, out, _ = recommend(capsys, "saved", "--k", 5)
    rows = list(csv.DictReader(io.StringIO(out)))
    scores, users, items = scores_by_hand()
    best = scores.topk(5, dim=1)
    assert status == 0
    assert [r["user_id"] for r in rows[::5]] == users.tolist()
    assert [int(r["rank"]) for r in rows[:5]] == [1, 2, 3, 4, 5]
    assert [r["item_id"] for r in rows] == items[best.indices.numpy()].ravel().tolist()
    found = torch.tensor([float(r["score"]) for r in rows])
    torch.testing.assert_close(found, best.values.ravel(), rtol=1e-4, atol=1e-6)


def test_csv_and_parquet_hold_the_same(here, tmp_path, capsys):
    for name in ("a.csv", "a.parquet"):
        assert recommend(capsys, "saved", "--output", tmp_path / name)[0] == 0
    one, other = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "a.parquet")
    assert len(one) == 600 * 20
    assert one[["user_id", "rank", "item_id"]].equals(other[["user_id", "rank", "item_id"]].astype(one.dtypes[:3]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


def test_what_was_taken_comes_again_only_where_asked(here, capsys):
    _, users, _ = scores_by_hand()
    user = str(users[0])
    everything = recommend(capsys, "saved", "--users", user, "--k", 400, "--again")[1].count("\n") - 1
    new = recommend(capsys, "saved", "--users", user, "--k", 400)[1].count("\n") - 1
    assert everything == 400
    assert 0 < new < 400


def test_the_page_shows_both_sides_and_asks_for_nothing(here, tmp_path, capsys):
    _, users, _ = scores_by_hand()
    assert recommend(capsys, "saved", "--users", users[3], "--k", 4, "--html", tmp_path / "p.html")[0] == 0
    page = (tmp_path / "p.html").read_text()
    assert f"User {users[3]} took" in page
    assert f"Recommended to {users[3]}" in page
    assert page.count("data:image/jpeg;base64,") >= 8
    assert "1. score" in page
    assert "4. score" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_users_from_a_file(here, tmp_path, capsys):
    _, users, _ = scores_by_hand()
    (tmp_path / "u.txt").write_text(f"{users[5]}\n\n {users[2]}\n")
    out = recommend(capsys, "saved", "--users-file", tmp_path / "u.txt", "--k", 1)[1]
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [users[5], users[2]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.pth"], "nowhere.pth does not exist. Name a checkpoint"),
        (["."], "holds no checkpoint"),
        (["saved", "--k", "0"], "--k is 0, but at least one item"),
        (["saved", "--users", "u9", "--html", "p.html"], "1 of 1 users are not in demo ('u9')"),
        (["saved", "--output", "a.xlsx"], "must end in .csv or .parquet"),
        (["saved", "--output", "no/such/a.csv"], "does not exist. Make it first"),
        (["saved", "--learning_rate=1"], "argument '--learning_rate=1' is not known"),
        (["saved", "--users-file", "none.txt"], "cannot read none.txt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(here, capsys, argv, message):
    status, _, err = recommend(capsys, *argv)
    assert status == 2
    assert message in err
    assert not (here / "p.html").exists()
