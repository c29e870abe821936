"""Data at the edge of what can be, and every model on it: numbers that mean something, or an error that says what."""

import dataclasses

import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.testing.samples import checkerboard, train
from mmenc_plugin.types import Interactions, TripletBatch

NAMES = models.registry.names()
SMALL = {"embedding_size": 4}
NEIGHBOURS = {name: [f for f in models.registry.get(name).settings.model_fields if "knn_k" in f] for name in NAMES}

every_model = pytest.mark.parametrize("name", NAMES)


def build(name, features, interactions, **settings):
    torch.manual_seed(0)
    return models.build(name, {**SMALL, **settings}, features, interactions)


def trained_and_finite(model, data, steps=3):
    """The model after some steps of training; its losses, parameters and scores are numbers all along."""
    if model.learns:
        model.begin_epoch()
        parts = model.loss(data.batch(torch.Generator().manual_seed(0)))
        assert all(part.isfinite() for part in parts.values())
        train(model, data, steps, 0.01)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    scores = model.eval().scores(torch.arange(data.interactions.n_users)).detach()
    assert scores.isfinite().all()
    return scores


def changed(data, modality, change):
    """The data set with other values and marks of one modality."""
    tables = {m: AlignedFeatures(data.features.table(m), data.features.present(m)) for m in data.features.modalities}
    old = tables[modality]
    tables[modality] = AlignedFeatures(*change(old.values.clone(), old.present.clone()))
    return FrozenFeatures(tables)


@every_model
def test_a_user_and_an_item_without_a_training_interaction(name):
    """They have scores, though nobody says what they should be; everybody else still learns."""
    data = checkerboard(n=12, taken=4)
    seen = data.seen.clone()
    seen[3], seen[:, 5] = False, False
    users, items = seen.nonzero().unbind(1)
    interactions = dataclasses.replace(data.interactions, users=users, items=items)
    data = dataclasses.replace(data, seen=seen, interactions=interactions)
    scores = trained_and_finite(build(name, data.features, interactions), data)
    assert scores.std(dim=1)[[1, 2, 4]].gt(0).all()


@every_model
def test_a_graph_with_one_user_and_one_item(name):
    features = FrozenFeatures({"image": AlignedFeatures(torch.ones(1, 3), torch.ones(1, dtype=torch.bool))})
    one = torch.zeros(1, dtype=torch.int64)
    model = build(name, features, Interactions(one, one, n_users=1, n_items=1))
    model.train()
    parts = model.loss(TripletBatch(one, one, one))
    assert all(part.isfinite() for part in parts.values())
    assert bool(parts) == model.learns
    scores = model.eval().scores(one)
    assert scores.shape == (1, 1)
    assert scores.isfinite().all()
    assert model.topk(one, 1).ids.tolist() == [[0]]


@every_model
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_modality_that_no_item_has(name, modality):
    data = checkerboard(n=12, taken=4)
    features = changed(data, modality, lambda values, present: (values * 0, present & False))
    scores = trained_and_finite(build(name, features, data.interactions), data)
    assert scores[1:].std(dim=1).gt(0).all()


@every_model
@pytest.mark.parametrize("rows", [[4], list(range(13))], ids=["one item", "every item"])
def test_features_of_zero_length(name, rows):
    """An item that has the modality, whose encoder gave it zeros: its direction is none, not a number divided by 0."""
    data = checkerboard(n=12, taken=4)

    def emptied(values, present):
        values[rows] = 0
        return values, present

    trained_and_finite(build(name, changed(data, "image", emptied), data.interactions), data)


@pytest.mark.parametrize("name", [name for name in NAMES if NEIGHBOURS[name]])
def test_more_neighbours_than_items_are_all_items(name):
    data = checkerboard(n=12, taken=4)

    def scores(k):
        settings = {f: dict.fromkeys(("image", "text"), k) if f.startswith("modality") else k for f in NEIGHBOURS[name]}
        return build(name, data.features, data.interactions, **settings).eval().scores(torch.arange(13)).detach()

    assert torch.equal(scores(1000), scores(13))
    assert not torch.equal(scores(1000), scores(2))


def test_models_with_neighbours_are_known():
    assert {name for name in NAMES if NEIGHBOURS[name]} >= {"FREEDOM", "ItemKNNContent", "LATTICE", "MGCN", "SMORE"}


@every_model
@pytest.mark.parametrize(("encoder", "modality"), [("timm:resnet50.a1_in1k", "text"), ("classic", "fused")])
def test_a_modality_that_the_encoder_does_not_give_is_named(name, encoder, modality):
    from recbole.config import Config

    with pytest.raises(SettingsError, match=rf"encoder '{encoder}' takes image.*, not {modality}\. Families that take"):
        Config(name, "demo", config_dict={"encoder": encoder, "modalities": [modality]})
