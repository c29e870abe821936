"""A model that learns nothing runs as any other does."""

import pytest


@pytest.mark.parametrize("knn_k", [0, 20])
def test_one_epoch_of_nothing_and_both_sets_are_ranked(knn_k, tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])
    settings = {"epochs": 300, "eval_step": 2, "show_progress": False, "state": "ERROR", "knn_k": knn_k}
    result = run_recbole(model="ItemKNNContent", dataset="demo", config_dict=settings)
    assert result["best_valid_result"]["recall@20"] > 0.1  # 20 of the 400 items at random: .05
    again = run_recbole(model="ItemKNNContent", dataset="demo", config_dict=settings | {"fused_ranking": False})
    assert again["test_result"] == pytest.approx(result["test_result"])
