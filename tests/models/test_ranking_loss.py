"""Each `loss_type` against dense float64 losses, and what may not count as a negative."""

import math

import dense
import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.models.blocks.losses import RankingLoss
from mmenc_plugin.settings import ModelSettings
from mmenc_plugin.types import Embeddings, Interactions, TripletBatch

# Users 0 and 3 stand twice, items 0 and 2 too, and user 1 with an item that the training part has not.
BATCH = TripletBatch(
    torch.tensor([0, 1, 3, 0, 3, 1]), torch.tensor([1, 2, 0, 0, 2, 5]), torch.tensor([4, 0, 5, 2, 1, 3])
)
HISTORY = {user: {int(i) for u, i in dense.PAIRS if u == user} for user in range(dense.N_USERS)}
COUNTS = torch.bincount(dense.PAIRS[:, 1], minlength=dense.N_ITEMS)
TEMPERATURE = 0.7


def log_chance(item, size):
    """The logarithm of the chance that one of `size` independent draws of training interactions has the item."""
    return math.log(1 - (1 - max(int(COUNTS[item]), 1) / len(dense.PAIRS)) ** size)


def expected(embeddings, batch, loss_type, first=0):
    """Row by row, over a list of columns."""
    bias = torch.zeros(dense.N_ITEMS).double() if embeddings.item_bias is None else embeddings.item_bias
    scores = embeddings.users @ embeddings.items.T + bias
    losses = []
    for user, positive, negative in zip(*(rows.tolist() for rows in vars(batch).values()), strict=True):
        own = scores[user, positive]
        if loss_type == "BPR":
            losses.append(-torch.log(torch.sigmoid(own - scores[user, negative])))
            continue
        columns = set(batch.positives.tolist()) if loss_type == "in_batch" else set(range(first, dense.N_ITEMS))
        columns = sorted((columns - HISTORY[user]) | {positive})
        logits = (embeddings.users[user] @ embeddings.items[columns].T) / TEMPERATURE + bias[columns]
        if loss_type == "in_batch":
            logits = logits - torch.tensor([log_chance(i, len(batch.users)) for i in columns], dtype=torch.float64)
        losses.append(-torch.log_softmax(logits, 0)[columns.index(positive)])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss_type", ["BPR", "in_batch", "CE"])
@pytest.mark.parametrize("name", ["VBPR", "FREEDOM", "MGCN"])
def test_loss_and_gradients_are_those_of_the_dense_form(name, loss_type):
    settings = {"FREEDOM": {"modality_weight": 0.0}, "MGCN": {"contrast_weight": 0.0}}.get(name, {})
    model = dense.build(name, loss_type=loss_type, softmax_temperature=TEMPERATURE, reg_weight=0.0, **settings).train()
    found = model.loss(BATCH)[loss_type.lower()]
    reference = expected(model.embed(), BATCH, loss_type)
    assert found.item() == pytest.approx(reference.item(), rel=1e-12)
    gradients = dense.gradients(reference, model)
    assert max(g.abs().max() for g in gradients.values()) > 0.01
    for parameter, gradient in dense.gradients(found, model).items():
        torch.testing.assert_close(gradient, gradients[parameter], rtol=1e-10, atol=1e-12, msg=parameter)


@pytest.mark.parametrize("loss_type", ["BPR", "in_batch"])
def test_gathered_rows_give_the_loss_of_whole_tables(loss_type):
    """With a bias, which the graph models have not."""
    loss, whole = tables(loss_type)
    items = loss.items(BATCH)
    rows = Embeddings(whole.users[BATCH.users], whole.items[items], whole.item_bias[items])
    (found,), (same,) = loss(rows, BATCH, gathered=True).values(), loss(whole, BATCH).values()
    assert found.item() == pytest.approx(expected(whole, BATCH, loss_type).item(), rel=1e-12)
    leaves = whole.users, whole.items, whole.item_bias
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(same, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss_type", ["in_batch", "CE"])
def test_what_a_user_took_gets_no_gradient_as_a_negative(loss_type):
    """User 3 took the items 0, 2 and 3. Item 3 is the positive; of the batch's others, 2 is known, 1 is not."""
    loss, whole = tables(loss_type)
    batch = TripletBatch(torch.tensor([3, 2, 2]), torch.tensor([3, 2, 1]), torch.tensor([1, 1, 1]))
    pushed = gradient_of_first(loss, whole, batch) > 0
    assert pushed.tolist() == [False, True, False, False, *[loss_type == "CE"] * 2]


def test_the_padding_row_is_no_item():
    pairs = dense.PAIRS[(dense.PAIRS > 0).all(1)]
    loss, whole = tables("CE", Interactions(*pairs.T, dense.N_USERS, dense.N_ITEMS, padding_row=True))
    batch = TripletBatch(*torch.tensor([[1], [2], [4]]))
    assert loss(whole, batch)["ce"].item() == pytest.approx(expected(whole, batch, "CE", first=1).item(), rel=1e-12)
    assert (gradient_of_first(loss, whole, batch) > 0).tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("size", [1, 3, 2000])
def test_the_correction_is_the_logarithm_of_the_chance(size):
    """By drawing: of many batches, the share that holds an item; and for small shares that of the item, times B."""
    loss, _ = tables("in_batch")
    found = loss._log_chance(torch.arange(4), size)
    assert found.tolist() == pytest.approx([log_chance(i, size) for i in range(4)], rel=1e-12)
    draws = dense.PAIRS[:, 1][torch.randint(len(dense.PAIRS), (20_000, min(size, 50)))]
    shares = torch.stack([(draws == i).any(1).double().mean() for i in range(4)])
    torch.testing.assert_close(found.exp(), shares, rtol=0.05, atol=0.01)


def test_rare_items_are_corrected_by_their_share():
    users, items = torch.arange(30_000), torch.cat([torch.zeros(20), torch.ones(10), torch.full((29_970,), 2)]).long()
    loss = RankingLoss(ModelSettings(loss_type="in_batch"), Interactions(users, items, 30_000, 3))
    apart = loss._log_chance(torch.tensor([0, 1]), 8).diff().item()
    assert apart == pytest.approx(math.log(10 / 20), abs=2e-3)


def test_a_batch_of_one_has_no_negative():
    loss, whole = tables("in_batch")
    (value,) = loss(whole, batch_of(BATCH, 1)).values()
    assert value.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(value, (whole.users, whole.items)))


def test_the_same_item_as_positive_and_negative():
    loss, whole = tables("in_batch")
    batch = TripletBatch(BATCH.users, BATCH.positives, BATCH.positives)
    assert torch.equal(loss(whole, batch)["in_batch"], loss(whole, BATCH)["in_batch"])


def test_the_temperature_divides_the_scores():
    one, whole = tables("CE")
    other = RankingLoss(ModelSettings(loss_type="CE"), dense.tiny()[1]).double()
    scaled = Embeddings(whole.users / TEMPERATURE, whole.items, whole.item_bias)
    assert one(whole, BATCH)["ce"].item() == pytest.approx(other(scaled, BATCH)["ce"].item(), rel=1e-12)


@pytest.mark.parametrize("name", ["SLMRec", "BM3", "ItemKNNContent"])
def test_models_with_a_loss_of_their_own_refuse_another(name):
    with pytest.raises(SettingsError, match=r"loss_type is 'CE'.*the model's main loss is its own"):
        models.build(name, {"loss_type": "CE"}, *dense.tiny())


def test_a_misspelt_loss_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match="Did you mean 'in_batch'"):
        models.build("VBPR", {"loss_type": "inbatch"}, *dense.tiny())


def tables(loss_type, interactions=None):
    """The loss, and embeddings that learn, a bias among them."""
    settings = ModelSettings(loss_type=loss_type, softmax_temperature=TEMPERATURE)
    loss = RankingLoss(settings, interactions or dense.tiny()[1]).double()
    shapes = (dense.N_USERS, 4), (dense.N_ITEMS, 4), (dense.N_ITEMS,)
    return loss, Embeddings(*(torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes))


def gradient_of_first(loss, whole, batch):
    """Of the items' biases [I], by what the first row of the batch adds to the loss: the other users have weight 0."""
    own = torch.zeros(dense.N_USERS, 1, dtype=torch.float64)
    own[batch.users[0]] = 1
    users = whole.users * own
    (value,) = loss(Embeddings(users, whole.items, whole.item_bias), batch).values()
    (gradient,) = torch.autograd.grad(value, whole.items)
    return gradient @ whole.users[batch.users[0]].detach() / whole.users[batch.users[0]].square().sum()


def batch_of(batch, row):
    return TripletBatch(*(rows[row : row + 1] for rows in vars(batch).values()))
