"""What every model does, as tests to inherit.

    from mmenc_plugin.testing import ModelContract

    class TestMyModel(ModelContract):
        model = "MyModel"

pytest finds the inherited tests under the subclass's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.settings import OwnLossSettings
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import Checkerboard, checkerboard
from mmenc_plugin.types import Embeddings, Modality


class ModelContract:
    """The tests of a model.

    Attributes:
        model: its name in the registry.
        settings: set on top of its defaults, e.g. to make it small.
        learning_rate: of Adam, for the checkerboard.
        steps: of training, for the checkerboard.
        unchanged: parameters that a first step of training leaves as they are.
        unscored: parameters that only the loss needs.
        stops_gradients: the loss detaches something on purpose, so that its gradient is not its derivative.
        features_train_only: features are read by the loss and not by the scores.
        ranks_cold_items: items that nobody took are ranked by their features.
        for_cold_items: settings that this takes, on top of `settings`.
    """

    model: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    learning_rate: ClassVar[float] = 0.02
    steps: ClassVar[int] = 150
    unchanged: ClassVar[frozenset[str]] = frozenset()
    unscored: ClassVar[frozenset[str]] = frozenset()
    stops_gradients: ClassVar[bool] = False
    features_train_only: ClassVar[bool] = False
    ranks_cold_items: ClassVar[bool] = True
    for_cold_items: ClassVar[Mapping[str, Any]] = {}

    def build(self, data: Checkerboard, seed: int = 0, **settings: Any) -> MultimodalRecommender:
        """The model on a data set, embeddings 8 wide unless `settings` says otherwise."""
        torch.manual_seed(seed)
        merged = {"embedding_size": 8, **self.settings, **settings}
        return models.build(self.model, merged, data.features, data.interactions)

    def test_it_is_registered_and_described(self) -> None:
        """The registry has it, with its source."""
        kind = models.registry.get(self.model)
        assert issubclass(kind, MultimodalRecommender)
        assert kind.__doc__
        assert kind.citation.title
        assert kind.citation.url.startswith("https://")

    @pytest.mark.parametrize("modalities", samples.SUBSETS, ids="+".join)
    def test_embeddings_have_the_shape_of_the_data(self, modalities: Sequence[Modality]) -> None:
        """[U, D], [I, D] and [I], finite, padding rows and items without a picture too."""
        data = checkerboard(modalities)
        out = self.build(data).embed()
        assert out.users.shape == (data.interactions.n_users, out.items.shape[1])
        assert len(out.items) == data.interactions.n_items
        assert out.item_bias is None or out.item_bias.shape == (data.interactions.n_items,)
        assert all(part is None or part.isfinite().all() for part in (out.users, out.items, out.item_bias))

    def test_scores_are_products_plus_bias(self) -> None:
        """`scores`, `pair_scores` and `embed` agree, in training and in evaluation."""
        data = checkerboard()
        model = samples.shaken(self.build(data))
        rows = torch.arange(data.interactions.n_users)
        users, items = torch.cartesian_prod(rows, torch.arange(data.interactions.n_items)).unbind(1)
        for training in (False, True):
            model.train(training)
            with torch.no_grad():
                torch.manual_seed(0)
                out = model.embed()
                expected = out.users @ out.items.T + (0 if out.item_bias is None else out.item_bias)
                torch.manual_seed(0)
                scores = model.scores(rows)
                torch.manual_seed(0)
                pairs = model.pair_scores(users, items).view_as(scores)
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(pairs, expected, rtol=1e-5, atol=1e-5)

    def test_topk_leaves_seen_items_out_and_is_sorted(self) -> None:
        """The same items in the same order as by sorting all scores."""
        data = checkerboard()
        model = samples.shaken(self.build(data)).eval()
        users = torch.arange(data.interactions.n_users)
        offsets, seen = data.excluded
        with torch.no_grad():
            top = model.topk(users, 10, exclude=(offsets, seen))
            scores = model.scores(users)
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[users.repeat_interleave(offsets.diff()), seen] = True
        assert not mask.gather(1, top.ids).any()
        expected = scores.masked_fill(mask, -torch.inf).sort(dim=1, descending=True).values[:, :10]
        torch.testing.assert_close(top.scores, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores.gather(1, top.ids), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("modalities", samples.SUBSETS, ids="+".join)
    def test_the_loss_reaches_every_parameter(self, modalities: Sequence[Modality]) -> None:
        """Its parts are finite scalars, and one step of Adam changes every parameter but those of `unchanged`."""
        data = checkerboard(modalities)
        model = self.build(data).train()
        if not model.learns:
            assert not list(model.parameters())
            assert model.loss(data.batch(torch.Generator().manual_seed(0))) == {}
            return
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        parts = model.loss(data.batch(torch.Generator().manual_seed(0)))
        assert parts
        assert all(part.shape == () and part.isfinite() for part in parts.values())
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert {name for name, p in model.named_parameters() if torch.equal(p, before[name])} <= self.unchanged

    def test_every_parameter_counts_for_the_scores(self) -> None:
        """What is learned is used in ranking, but for `unscored`."""
        data = checkerboard()
        model = samples.shaken(self.build(data)).train()
        if not model.learns:
            return
        scores = model.scores(torch.arange(1, data.interactions.n_users))
        weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
        (scores * weights).sum().backward()  # type: ignore[no-untyped-call]
        unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert unused <= self.unscored

    def test_gradients_are_the_derivatives_of_the_loss(self) -> None:
        """Against finite differences in double precision."""
        if self.stops_gradients:
            return
        data = checkerboard(n=4, taken=1)
        model = samples.shaken(self.build(data, embedding_size=2)).double().train()
        if not model.learns:
            return
        loss = samples.SummedLoss(model, data.batch(torch.Generator().manual_seed(0)))
        names, values = zip(*loss.named_parameters(), strict=True)

        def function(*parameters: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), ())
            return out

        assert torch.autograd.gradcheck(function, tuple(v.detach().requires_grad_() for v in values), fast_mode=True)

    def test_embeddings_are_kept_only_while_evaluating(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Computed once an evaluation, anew after training, after loading, and wherever gradients are asked for."""
        data = checkerboard()
        model, users = self.build(data).eval(), torch.tensor([1, 2])
        calls, embed = [], model.embed

        def counted() -> Embeddings:
            calls.append(1)
            return embed()

        monkeypatch.setattr(model, "embed", counted)
        with torch.no_grad():
            model.scores(users)
            model.pair_scores(users, users)
            model.topk(users, 3)
            assert len(calls) == 1
            model.train()
            model.scores(users)
            model.eval()
            model.scores(users)
            assert len(calls) == 3
        assert model.scores(users).requires_grad == model.learns
        other = self.build(data, seed=1).eval()
        model.load_state_dict(other.state_dict())
        with torch.no_grad():
            assert torch.equal(model.scores(users), other.scores(users))

    def test_a_state_dict_holds_the_model_and_not_the_features(self) -> None:
        """Feature tables lie in the store, and stay out of checkpoints."""
        model = self.build(checkerboard())
        assert set(model.state_dict()) >= {name for name, _ in model.named_parameters()}
        assert not [name for name in model.state_dict() if name.startswith("features.")]

    @pytest.mark.parametrize("modality", ["image", "text"])
    def test_items_are_told_apart_by_each_modality(self, modality: Modality) -> None:
        """Other features of one modality, all else equal, give other scores, before or after training."""
        data = checkerboard()
        rows, scores = torch.arange(1, data.interactions.n_users), []
        for changed in (data, data.with_other(modality)):
            model = samples.shaken(self.build(changed))
            if self.features_train_only:
                samples.train(model, changed, 3, self.learning_rate)
            with torch.no_grad():
                scores.append(model.eval().scores(rows))
        assert not torch.allclose(scores[0], scores[1], atol=1e-4)

    @pytest.mark.parametrize("modalities", samples.SUBSETS, ids="+".join)
    def test_it_learns_the_checkerboard(self, modalities: Sequence[Modality]) -> None:
        """After training, the best unseen item of nine users in ten is one of those held out."""
        data = checkerboard(modalities)
        model = self.build(data)
        if model.learns:
            samples.train(model, data, self.steps, self.learning_rate)
        assert samples.found(model, data) >= 0.9

    @pytest.mark.parametrize("loss_type", ["in_batch", "CE"])
    def test_it_learns_with_each_loss_or_refuses_it(self, loss_type: str) -> None:
        """`loss_type` names the main part of the loss, as `ranking_loss` does, or the settings do not take it."""
        data = checkerboard()
        if issubclass(models.registry.get(self.model).settings, OwnLossSettings):
            with pytest.raises(SettingsError, match=f"loss_type is '{loss_type}'"):
                self.build(data, loss_type=loss_type)
            return
        model = self.build(data, loss_type=loss_type)
        assert loss_type.lower() in model.loss(data.batch(torch.Generator().manual_seed(0)))
        samples.train(model, data, self.steps // 3, self.learning_rate)
        assert samples.found(model, data) >= 0.9

    @pytest.mark.parametrize("shuffled", [False, True], ids=["as it is", "shuffled"])
    @pytest.mark.parametrize("informative", ["image", "text"])
    def test_cold_items_are_ranked_by_the_modality_that_knows_them(self, informative: Modality, shuffled: bool) -> None:
        """Nine pairs in ten, of items that nobody took, are in order; with that modality shuffled, as coins fall.

        A model whose scores of such items do not depend on features does no better than coins in either case.
        """
        data = samples.cold_pairs(informative, shuffled)
        model = self.build(data, **{"embedding_size": 16, **self.for_cold_items})
        if model.learns:
            samples.train(model, data, self.steps // 3, self.learning_rate)
        right, pairs = data.right(model.eval()), len(data.askers)
        if self.ranks_cold_items and not shuffled:
            assert right >= 0.9 * pairs
        else:
            assert samples.chance_of(right, pairs) > 1e-4

    def test_settings_are_closed_bounded_and_described(self) -> None:
        """No key but its own, a sentence for each, and no number without a bound."""
        kind = models.registry.get(self.model).settings
        with pytest.raises(ValidationError, match="no_such_setting"):
            kind.model_validate({"no_such_setting": 1})
        data = checkerboard()
        for name, field in kind.model_fields.items():
            assert field.description, name
            default = field.get_default(call_default_factory=True)
            if isinstance(default, (int, float)) and not isinstance(default, bool):
                outside = samples.beyond(field.metadata)
                assert outside, f"{name} has no bound"
                for value in outside:
                    with pytest.raises(SettingsError, match=name):
                        models.build(self.model, {name: value}, data.features, data.interactions)
