"""Every model keeps the contract."""

from mmenc_plugin import models
from mmenc_plugin.testing import ModelContract

# What a model needs beyond the defaults of the contract: model -> attributes of ModelContract.
SPECIAL: dict[str, dict] = {
    "FREEDOM": {
        "settings": {"knn_k": 6, "edge_dropout": 0.0},
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
        "unscored": frozenset(f"projections.{m}.{part}" for m in ("image", "text") for part in ("weight", "bias")),
    },
}

SPECIAL["ItemKNNContent"] = {"settings": {"knn_k": 0}}

for _name in models.registry.names():
    globals()[f"Test{_name}"] = type(f"Test{_name}", (ModelContract,), {"model": _name, **SPECIAL.get(_name, {})})


def test_every_model_has_a_contract():
    tested = {test.model for name, test in globals().items() if name.startswith("Test")}
    assert tested == set(models.registry.names())
    assert set(SPECIAL) <= tested
