"""Gradients of recommenders reach the encoder, as many as if every item had been encoded in the step."""

import copy
from dataclasses import replace

import pytest
import torch
from live_items import N, Shop, build, gradients
from torch import nn

from mmenc_plugin import encoders, models
from mmenc_plugin.errors import CheckpointError, EncoderOutputError, MediaError, SettingsError
from mmenc_plugin.features import FrozenFeatures
from mmenc_plugin.features.align import Scaling, arrange
from mmenc_plugin.features.live import LiveFeatures

LIVE_MODELS = sorted(name for name, model in models.registry if model.learns)


@pytest.fixture
def shop(make_items, tiny_clip, tmp_path):
    """Nine items: 2 has no picture, 5 no text, 7 has the picture of 1; the host has them in the opposite order."""
    items = make_items(N)
    images = ["" if row == 2 else items.images[1 if row == 7 else row] for row in range(N)]
    items = replace(items, images=images, texts=["" if row == 5 else text for row, text in enumerate(items.texts)])
    return Shop(items, f"openclip:local-dir:{tiny_clip}", tmp_path / "store")


class Dense(nn.Module):
    """Everything encoded, nothing stale; the constants of scaling are given."""

    frozen, version = False, 0

    def __init__(self, live):
        super().__init__()
        self.modalities, self.values, self.has = live.modalities, {}, {}
        for m in live.modalities:
            table, encoder = live.live_table(m), live.encoder(m)
            inputs = [live._encoding[m].source.take([row])[0] for row in table.has.nonzero()[:, 0].tolist()]
            outputs = Scaling(table.scaling, table.mean, table.length)(encoder(m, inputs))
            self.values[m] = table.values.clone().index_put((table.has,), outputs)
            self.has[m] = table.has

    def width(self, m):
        return self.values[m].shape[1]

    def table(self, m):
        return self.values[m]

    def rows(self, m, items):
        return self.values[m][items]

    def present(self, m):
        return self.has[m]


def both(name, shop, items=None, **options):
    """Loss and gradients, by a step of live features and by the dense computation."""
    live = shop.live(**options).double()
    live._stale = True
    live.refresh()
    model, batch = build(name, shop, live), shop.batch()
    live.begin_step(model.items_read(batch) if items is None else items)
    found = gradients(model, live, batch)
    live.end_step()
    return found, gradients(build(name, shop, Dense(live)), live, batch)


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    scale = max(gradient.abs().max() for gradient in expected[1] if gradient is not None)
    assert scale > 1e-6
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert (mine is None or not mine.any()) == (theirs is None or not theirs.any())
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("name", ["VBPR", "FREEDOM", "BM3"])
@pytest.mark.parametrize("missing", ["mean", "neighbours", "zeros"])
def test_gradient_is_that_of_the_dense_computation(shop, name, missing):
    """The loss of these models reads no features but those of the batch."""
    assert_same(*both(name, shop, missing=missing))


@pytest.mark.parametrize("scaling", ["l2", "none"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_under_other_scalings_and_with_recomputation(shop, scaling, recompute):
    assert_same(*both("VBPR", shop, scaling=scaling, recompute=recompute))


@pytest.mark.parametrize("name", LIVE_MODELS)
def test_every_model_is_right_when_all_items_are_encoded(shop, name):
    assert_same(*both(name, shop, items=torch.arange(N + 1)))


@pytest.mark.parametrize("name", LIVE_MODELS)
def test_every_model_trains_the_encoder_and_ranks_by_what_it_then_gives(shop, name):
    live = shop.live()
    model, batch = models.build(name, {"embedding_size": 4}, live, shop.interactions), shop.batch()
    before = {name: parameter.clone() for name, parameter in live.trained().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        model.train()
        model.follow_features()
        model.begin_epoch()
        live.begin_step(model.items_read(batch))
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    moved = [name for name, parameter in live.trained().items() if not torch.equal(parameter, before[name])]
    assert any("visual" in name for name in moved)
    assert any("transformer" in name and "visual" not in name for name in moved)
    with torch.no_grad():
        scores = model.eval().scores(torch.arange(5))
    encoder = encoders.build(shop.uri)
    encoder.load_state_dict({k.removeprefix("encoders.0."): v for k, v in nn.Module.state_dict(live).items()})
    encoder.spec = replace(encoder.spec, weights_sha256="trained")
    again = models.build(
        name, {"embedding_size": 4}, FrozenFeatures(shop.tables(encoder, live.modalities, scaling="standard")),
        shop.interactions,
    )  # fmt: skip
    again.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("features.")})
    with torch.no_grad():
        torch.testing.assert_close(again.eval().scores(torch.arange(5)), scores, rtol=1e-4, atol=1e-5)


def test_rows_that_were_not_encoded_are_stale_and_have_no_gradient(shop):
    live = shop.live()
    items = torch.tensor([3, 4])
    before = live.table("image").clone()
    with torch.no_grad():
        for parameter in live.trained().values():
            parameter.add_(0.1)
    live.begin_step(items)
    fresh, stale = live.rows("image", items), live.rows("image", torch.tensor([5, 6]))
    assert fresh.requires_grad
    of_stale = torch.autograd.grad(stale.sum(), list(live.trained().values()), allow_unused=True, retain_graph=True)
    assert not any(gradient is not None and gradient.any() for gradient in of_stale)
    assert torch.equal(stale, before[5:7])
    assert (fresh != before[3:5]).any(1).all()
    table = live.table("image")
    assert torch.equal(table[items], fresh)
    assert torch.equal(table[5:7], before[5:7])
    live.end_step()
    assert torch.equal(live.table("image")[items], fresh.detach())  # stale now, but the last that was given
    assert not live.table("image").requires_grad


def test_items_with_one_picture_are_encoded_once_and_are_fresh_together(shop):
    live = shop.live(("image",))
    encoded = []
    live.encoders[0].register_forward_hook(lambda module, inputs, out: encoded.append(len(out)))
    row = {token: place for place, token in enumerate(shop.tokens, start=1)}
    live.begin_step(torch.tensor([row["i1"], row["i7"], row["i1"], row["i3"], row["i2"], 0]))
    assert encoded == [2]
    live.begin_step(torch.tensor([row["i7"]]))
    assert torch.equal(live.rows("image", torch.tensor([row["i1"]])), live.rows("image", torch.tensor([row["i7"]])))
    assert live.rows("image", torch.tensor([row["i1"]])).requires_grad


def test_items_without_the_modality_keep_what_they_have(shop):
    live = shop.live()
    row = 1 + shop.tokens.index("i2")
    filler = live.table("image")[row].clone()
    live.begin_step(torch.tensor([row, 0]))
    rows = live.rows("image", torch.tensor([row, 0]))
    assert not rows.requires_grad
    assert torch.equal(rows, torch.stack([filler, torch.zeros_like(filler)]))
    assert live.rows("text", torch.tensor([row])).requires_grad


@pytest.mark.parametrize("missing", ["mean", "neighbours", "zeros"])
@pytest.mark.parametrize("scaling", ["standard", "l2", "none"])
def test_before_training_the_table_is_that_of_frozen_features(shop, missing, scaling):
    from mmenc_plugin.features.neighbours import fill_from_neighbours

    live = shop.live(missing=missing, scaling=scaling)
    kind = "mean" if missing == "neighbours" else missing
    tables = shop.tables(encoders.build(shop.uri), live.modalities, missing=kind, scaling=scaling)
    for m, table in tables.items():
        if missing == "neighbours":
            table = fill_from_neighbours(table, shop.interactions.users, shop.interactions.items)
        torch.testing.assert_close(live.table(m), table.values, rtol=1e-6, atol=1e-6)
        assert torch.equal(live.present(m), table.present)


def test_an_evaluation_begins_with_a_refresh_and_encodes_nothing_that_did_not_change(shop):
    live = shop.live(("text",))
    encoded = []
    live.encoders[0].register_forward_hook(lambda module, inputs, out: encoded.append(len(out)))
    live.eval()
    assert not encoded
    live.train().begin_step(torch.tensor([1, 2]))
    encoded.clear()
    live.eval()
    assert sum(encoded) == N - 1  # different texts
    live.eval()
    live.train()
    live.eval()
    assert sum(encoded) == N - 1
    assert not live.training


def test_encoders_stay_in_evaluation_mode(shop):
    live = shop.live()
    live.train()
    assert live.training
    assert not any(module.training for module in live.encoders.modules())


@pytest.mark.parametrize("tune", ["head", "top:1", "full"])
def test_the_state_is_what_is_trained(shop, tune):
    live = shop.live(tune=tune)
    state = live.state_dict()
    assert set(state) == set(live.trained())
    assert len(state) < len(list(live.parameters())) or tune == "full"
    other = shop.live(tune=tune)
    with torch.no_grad():
        for parameter in live.trained().values():
            parameter.add_(0.05)
    module = nn.ModuleDict({"features": other})
    module.load_state_dict({f"features.{name}": value for name, value in live.state_dict().items()})
    live._stale = True
    assert torch.equal(live.eval().table("image"), other.eval().table("image"))


def test_the_state_of_another_scope_is_an_error_that_names_tune(shop):
    with pytest.raises(CheckpointError, match=r"lacks .* Set paradigm, encoder and tune"):
        shop.live(tune="full").load_state_dict(shop.live(tune="head").state_dict())


def test_a_copy_is_frozen_and_shares_the_tables(shop):
    live = shop.live()
    twin = copy.deepcopy(live)
    assert twin.frozen
    assert twin.table("image").data_ptr() == live.table("image").data_ptr()


def test_an_encoder_with_nothing_to_train_is_an_error(shop):
    encoder = encoders.build("classic")
    items = arrange(shop.items, shop.tokens, padding_row=True)
    with pytest.raises(SettingsError, match=r"classic:.* has no parameter that is trained. Take another encoder"):
        LiveFeatures(items, shop.tables(encoder, ["text"]), {"text": encoder}, shop.store)


def test_a_model_that_learns_nothing_cannot_be_live(shop):
    with pytest.raises(SettingsError, match="ItemKNNContent learns nothing, so no gradient of it trains an encoder"):
        models.build("ItemKNNContent", {}, shop.live(), shop.interactions)


def test_a_picture_that_is_gone_names_its_item(shop):
    live = shop.live(("image",))
    (shop.items.image_dir / "3.png").unlink()
    with pytest.raises(MediaError, match="the picture of item 'i3', which could be read before, cannot any more"):
        live.begin_step(torch.tensor([1 + shop.tokens.index("i3")]))


def test_an_encoder_that_has_diverged_is_named_with_the_items(shop):
    live = shop.live(("text",))
    live.begin_step(torch.tensor([1]))
    with torch.no_grad():
        next(iter(live.trained().values())).fill_(torch.nan)
    with pytest.raises(
        EncoderOutputError, match=r"not finite .* text of 3 items \('i8', .*smaller encoder_learning_rate"
    ):
        live.eval()


def test_pictures_are_prepared_before_they_are_asked_for(shop, monkeypatch):
    live = shop.live(("image",))
    source = live._encoding["image"].source
    live.prepare(torch.tensor([1, 2, 2, 3, 0]))
    waiting = dict(source._waiting)
    assert len(waiting) == 3
    live.begin_step(torch.tensor([3, 2]))
    assert len(source._waiting) == 1
    assert all(future.done() for future in waiting.values() if future not in source._waiting.values())


def test_bfloat16_steps_are_near_those_of_float32(shop):
    results = []
    for autocast in (False, True):
        live = shop.live(autocast=autocast)
        torch.manual_seed(0)
        model = models.build("VBPR", {"embedding_size": 4}, live, shop.interactions)
        torch.manual_seed(2)
        for parameter in model.projection.parameters():
            nn.init.normal_(parameter)
        live.begin_step(model.items_read(shop.batch()))
        results.append(torch.cat([g.flatten() for g in gradients(model, live, shop.batch())[1] if g is not None]))
        assert live.rows("image", torch.tensor([2])).dtype == torch.float32
    assert torch.cosine_similarity(*results, dim=0) > 0.99
    assert not torch.equal(*results)
