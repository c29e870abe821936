"""What a model does anew in each epoch, it does under RecBole's trainer."""

import pytest

from mmenc_plugin.models.freedom import FREEDOM


def test_each_training_epoch_draws_its_edges(tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])
    drawn, begin_epoch = [], FREEDOM.begin_epoch

    def watched(self):
        begin_epoch(self)
        drawn.append(self.pruned_graph.matrix().to_dense())

    monkeypatch.setattr(FREEDOM, "begin_epoch", watched)
    settings = {"epochs": 3, "show_progress": False, "state": "ERROR", "embedding_size": 8}
    result = run_recbole(model="FREEDOM", dataset="demo", config_dict=settings)
    assert result["test_result"]["recall@20"] > 0
    assert len(drawn) == 3
    edges = [(graph > 0).sum().item() for graph in drawn]
    assert edges == pytest.approx([edges[0]] * 3)
    assert not (drawn[0] == drawn[1]).all()
