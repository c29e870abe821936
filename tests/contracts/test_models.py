"""Every model keeps the contract."""

from mmenc_plugin import models
from mmenc_plugin.testing import ModelContract

# What a model needs beyond the defaults of the contract: model -> attributes of ModelContract.
SPECIAL: dict[str, dict] = {
    "FREEDOM": {
        "settings": {"knn_k": 6, "edge_dropout": 0.0},
        "for_cold_items": {"image_weight": 0.5},  # its default, 0.1, lets texts drown what pictures know
        "unscored": frozenset(f"projections.{m}.{part}" for m in ("image", "text") for part in ("weight", "bias")),
    },
    "SLMRec": {
        "unscored": frozenset(
            f"spaces.{i}.{side}.{part}"
            for i in (0, 1)
            for side in ("so_far", "modality")
            for part in ("weight", "bias")
        ),
    },
    "BM3": {
        "stops_gradients": True,
        "features_train_only": True,
        "ranks_cold_items": False,  # by their ids' embeddings, which no loss of the features moves
        "unscored": frozenset(f"projections.{m}.{part}" for m in ("image", "text") for part in ("weight", "bias")),
    },
}

# An item without users gets nothing back from the graph of users and items, its own features least of all.
SPECIAL["LGMRec"] = {"for_cold_items": {"n_modality_layers": 0}}
SPECIAL["ItemKNNContent"] = {"settings": {"knn_k": 0}}

for _name in models.registry.names():
    globals()[f"Test{_name}"] = type(f"Test{_name}", (ModelContract,), {"model": _name, **SPECIAL.get(_name, {})})


def test_every_model_has_a_contract():
    tested = {test.model for name, test in globals().items() if name.startswith("Test")}
    assert tested == set(models.registry.names())
    assert set(SPECIAL) <= tested
