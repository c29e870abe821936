"""Small data sets, models and evaluations for the tests of ranking."""

import numpy as np
import torch

METRICS = [
    "Recall", "MRR", "NDCG", "Hit", "MAP", "Precision", "GAUC",
    "ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage",
]  # fmt: skip
N_ITEMS, N_USERS = 40, 60
BASE = {
    "show_progress": False, "metrics": METRICS, "topk": [1, 5, 20], "valid_metric": "MRR@5", "metric_decimal_place": 12,
    "tail_ratio": 0.3, "embedding_size": 8, "state": "ERROR",
}  # fmt: skip


def write_shop(folder):
    """Users with 6 to 12 items, and two with all items but one or two; RecBole splits them 8:1:1 (or as told)."""
    rng = np.random.default_rng(5)
    (folder / "shop").mkdir(parents=True)
    taken = [rng.permutation(N_ITEMS)[: rng.integers(6, 13)] for _ in range(N_USERS)]
    taken += [rng.permutation(N_ITEMS)[:-1], rng.permutation(N_ITEMS)[:-2]]
    lines = [f"u{user}\ti{item}" for user, items in enumerate(taken) for item in items]
    (folder / "shop" / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token", *lines]) + "\n")


def prepare(model="BPR", dataset="shop", **settings):
    """RecBole's model and loaders, untrained: (config, model, train, valid, test)."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    config = Config(model, dataset, config_dict={**BASE, **settings})
    init_seed(7, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    made = config.model_class(config, train._dataset).to(config["device"])
    return config, made, train, valid, test


def trainer_of(config, model, train, **changes):
    """RecBole's trainer of a model, under the settings with some changed."""
    import copy

    from recbole.utils import get_trainer

    config = copy.deepcopy(config)
    for key, value in changes.items():
        config[key] = value
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    return trainer


def evaluated(trainer, loader):
    """What the metrics are computed from, by name, and the metrics."""
    kept = {}
    evaluate = trainer.evaluator.evaluate

    def keep(struct):
        kept.update({name: struct.get(name) for name in ("rec.items", "rec.topk", "rec.meanrank") if name in struct})
        return evaluate(struct)

    trainer.evaluator.evaluate = keep
    metrics = trainer.evaluate(loader, load_best_model=False)
    return kept, {name: float(value) for name, value in metrics.items()}


def assert_same(ours, stock):
    """The same metrics to 12 digits, out of the same tensors."""
    (our_tensors, our_metrics), (their_tensors, their_metrics) = ours, stock
    assert our_tensors.keys() == their_tensors.keys()
    for name, tensor in their_tensors.items():
        assert our_tensors[name].dtype == tensor.dtype, name
        assert torch.equal(our_tensors[name], tensor), name
    assert our_metrics == their_metrics
