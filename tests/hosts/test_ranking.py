"""RecBole's full ranking through our kernel: its values, its loop, its trainers."""

import pytest
import torch
from ranking_data import N_ITEMS, assert_same, evaluated, prepare, trainer_of, write_shop

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole import collector, ranking
from mmenc_plugin.hosts.recbole.factors import RECBOLE


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path / "dataset")
    ranking._warn_once.cache_clear()
    ranking._warn_once_of_steps.cache_clear()


@pytest.fixture
def ranked_batches(monkeypatch):
    """Sizes of the batches that our kernel ranked."""
    sizes = []
    rank = collector.RankingCollector._rank

    def counted(self, batch):
        sizes.append(len(batch))
        rank(self, batch)

    monkeypatch.setattr(collector.RankingCollector, "_rank", counted)
    return sizes


def trained(config, model, train):
    trainer = trainer_of(config, model, train, fused_ranking=False)
    trainer.fit(train, saved=False, verbose=False)
    return model


@pytest.mark.parametrize("eval_batch_size", [None, 7 * (N_ITEMS + 1)], ids=["large steps", "7 users a step"])
@pytest.mark.parametrize("split", [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]], ids=["few positives", "many positives"])
def test_every_metric_of_recbole_keeps_its_value(split, eval_batch_size, ranked_batches):
    """Users with two items left are among those ranked at 20."""
    given = {} if eval_batch_size is None else {"eval_batch_size": eval_batch_size}
    config, model, train, valid, test = prepare(eval_args={"split": {"RS": split}}, epochs=3, **given)
    trained(config, model, train)
    for loader in (valid, test):
        ranked_batches.clear()
        stock = evaluated(trainer_of(config, model, train, eval_batch_size=4096), loader)
        assert not ranked_batches
        ours = evaluated(trainer_of(config, model, train, fused_ranking=True), loader)
        users = len(loader.uid_list)
        assert ranked_batches == ([users] if eval_batch_size is None else [7] * (users // 7) + [users % 7])
        assert_same(ours, stock)


def test_ours_are_ranked_so_by_default_and_have_recboles_values(ranked_batches):
    config, model, train, _, test = prepare("VBPR", "demo", topk=[1, 5, 100], content_size=8)
    ours = evaluated(trainer_of(config, model, train), test)
    assert sum(ranked_batches) == len(test.uid_list)
    assert_same(ours, evaluated(trainer_of(config, model, train, fused_ranking=False), test))
    assert sum(ranked_batches) == len(test.uid_list)


@pytest.mark.parametrize("name", sorted(RECBOLE))
def test_every_model_of_the_table_ranks_as_in_recbole(name, ranked_batches, caplog):
    dataset = "ml-100k" if name == "CKE" else "shop"
    extra = {"user_inter_num_interval": "[200,inf)", "metrics": ["MRR", "GAUC"]} if name == "CKE" else {}
    config, model, train, _, test = prepare(name, dataset, fused_ranking=True, **extra)
    ours = evaluated(trainer_of(config, model, train), test)
    assert sum(ranked_batches) == len(test.uid_list), caplog.text
    assert_same(ours, evaluated(trainer_of(config, model, train, fused_ranking=False), test))


def test_equal_scores_share_their_mean_rank_as_in_recbole():
    config, model, train, _, test = prepare(metrics=["GAUC"], valid_metric="GAUC")
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.randint(0, 2, model.user_embedding.weight.shape).float())
        model.item_embedding.weight.copy_(torch.randint(0, 2, model.item_embedding.weight.shape).float())
    assert_same(
        evaluated(trainer_of(config, model, train, fused_ranking=True), test),
        evaluated(trainer_of(config, model, train), test),
    )


def test_a_users_own_batch_size_is_kept_and_a_small_one_named(ranked_batches, caplog):
    config, model, train, _, test = prepare(fused_ranking=True, eval_batch_size=4)
    evaluated(trainer_of(config, model, train), test)
    assert ranked_batches == [1] * len(test.uid_list)
    assert "eval_batch_size: 4 means 1 users at a time" in caplog.text


def test_metrics_that_need_the_matrix_are_left_to_recbole(monkeypatch, ranked_batches, caplog):
    from recbole.evaluator import register

    monkeypatch.setitem(register.metric_information, "recall", ["rec.topk", "rec.score"])
    config, model, train, _, test = prepare(fused_ranking=True, metrics=["Recall"], valid_metric="Recall@5")
    assert evaluated(trainer_of(config, model, train), test)[1]
    assert not ranked_batches
    assert "fused_ranking: the metric recall needs 'rec.score'; RecBole ranks in its own way." in caplog.text


def test_a_model_made_from_recboles_with_other_scores_is_noticed(ranked_batches, caplog):
    from recbole.model.general_recommender import BPR

    class Same(BPR):
        pass

    class Shifted(BPR):
        def full_sort_predict(self, interaction):
            return super().full_sort_predict(interaction).view(len(interaction), -1) + torch.arange(self.n_items) / 50

    config, model, train, _, test = prepare(Same, fused_ranking=True)
    evaluated(trainer_of(config, model, train), test)
    assert sum(ranked_batches) == len(test.uid_list)
    assert "RecBole ranks in its own way" not in caplog.text

    ranked_batches.clear()
    config, model, train, _, test = prepare(Shifted, fused_ranking=True)
    ours = evaluated(trainer_of(config, model, train), test)
    assert not ranked_batches
    assert_same(ours, evaluated(trainer_of(config, model, train, fused_ranking=False), test))
    evaluated(trainer_of(config, model, train), test)
    assert caplog.text.count("the scores of this Shifted are not the dot products of RecBole's BPR") == 1


def test_a_model_that_is_not_known_to_rank_so_is_named_before_training(caplog):
    config, model, train, _, test = prepare("NeuMF", fused_ranking=True)
    assert "fused_ranking: NeuMF is not known to score with a dot product, as these do: BPR" in caplog.text
    assert evaluated(trainer_of(config, model, train), test)[1]


def test_a_trainer_that_makes_the_scores_itself_keeps_doing_so(ranked_batches, caplog):
    from recbole.trainer import Trainer

    class Mine(Trainer):
        def _full_sort_batch_eval(self, batched_data):
            interaction, scores, *positives = super()._full_sort_batch_eval(batched_data)
            return interaction, -scores.nan_to_num(neginf=torch.inf), *positives

    config, model, train, _, test = prepare(fused_ranking=True)
    trainer = Mine(config, model)
    trainer.eval_collector.data_collect(train)
    assert evaluated(trainer, test)[1]
    assert not ranked_batches
    assert "fused_ranking: Mine has a _full_sort_batch_eval of its own" in caplog.text


def test_embeddings_are_computed_once_an_evaluation_and_anew_after_training(monkeypatch):
    from recbole.model.general_recommender import LightGCN

    calls = []
    forward = LightGCN.forward
    monkeypatch.setattr(LightGCN, "forward", lambda self: calls.append(self.training) or forward(self))
    config, model, train, valid, _ = prepare(
        "LightGCN", fused_ranking=True, epochs=2, eval_batch_size=7 * (N_ITEMS + 1), train_batch_size=10**6
    )
    trainer_of(config, model, train).fit(train, valid, saved=False, verbose=False)
    assert calls == [True, False, True, False]


def test_more_items_than_there_are(caplog):
    config, model, train, _, test = prepare(fused_ranking=True, topk=[N_ITEMS + 2], valid_metric="GAUC")
    with pytest.raises(SettingsError, match=rf"topk asks for {N_ITEMS + 2} items, but the data set has {N_ITEMS + 1}"):
        evaluated(trainer_of(config, model, train), test)


def test_a_part_without_users_has_no_result_as_in_recbole():
    config, model, train, _, test = prepare(fused_ranking=True, eval_args={"split": {"RS": [0.9, 0.1, 0]}})
    assert trainer_of(config, model, train).evaluate(test, load_best_model=False) is None


def test_the_case_study_functions_are_recboles():
    from recbole.utils.case_study import full_sort_scores, full_sort_topk

    config, model, train, _, test = prepare(fused_ranking=True)
    tensors, _ = evaluated(trainer_of(config, model, train), test)
    users = test.uid_list.tolist()
    scores, ids = full_sort_topk(users[:9], model, test, k=5)
    assert torch.equal(ids, tensors["rec.items"][:9, :5])
    assert torch.equal(full_sort_scores(users[:9], model, test).gather(1, ids), scores)


SEQUENCES = {"user_inter_num_interval": "[300,inf)", "train_neg_sample_args": None, "metrics": ["MRR"]}


@pytest.mark.parametrize(
    ("model", "dataset", "settings"),
    [("BPR", "shop", {"eval_args": {"mode": "uni5"}}), ("GRU4Rec", "ml-100k", SEQUENCES)],
)
def test_sampled_evaluation_and_sequential_models_are_recboles_business(model, dataset, settings, ranked_batches):
    config, model, train, _, test = prepare(model, dataset, fused_ranking=True, **settings)
    assert evaluated(trainer_of(config, model, train), test)[1]
    assert not ranked_batches


@pytest.mark.parametrize("scorer", ["cpu", "reference"])
def test_the_implementation_that_the_settings_name_computes(scorer, monkeypatch):
    import sys

    from mmenc_plugin.kernels import dispatch, score_topk

    used = []
    module = sys.modules[score_topk.__module__]
    monkeypatch.setattr(collector, "score_topk", lambda *a, **k: used.append(k["scorer"]) or module.score_topk(*a, **k))
    config, model, train, _, test = prepare("VBPR", "demo", scorer=scorer, content_size=4)
    try:
        assert dispatch.get_scorer() == scorer
        evaluated(trainer_of(config, model, train), test)
        assert set(used) == {scorer}
    finally:
        dispatch.set_scorer("auto")
