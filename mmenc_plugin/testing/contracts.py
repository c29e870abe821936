"""What every encoder and every model does, as tests to inherit.

    from mmenc_plugin.testing import EncoderContract, ModelContract

    class TestMyEncoder(EncoderContract):
        uri = "mine:small/v1"

    class TestMyModel(ModelContract):
        model = "MyModel"

pytest finds the inherited tests under the subclass's name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mmenc_plugin import encoders, models
from mmenc_plugin.data import open_image
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import Checkerboard, checkerboard
from mmenc_plugin.types import MODALITIES, Embeddings, Modality

SUBSETS: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("image", "text"))


class EncoderContract:
    """The tests of an encoder.

    Attributes:
        uri: names the encoder; override the fixture `encoder_uri` where it is known only at run time.
        tolerance: how far an item's output may move when its batch changes.
    """

    uri: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def encoder_uri(self) -> str:
        """The URI under test."""
        return self.uri

    @pytest.fixture
    def encoder(self, encoder_uri: str) -> Encoder:
        """The encoder under test, built once for all of the class's tests."""
        kind, kept = type(self), "_built"
        if kind.__dict__.get(kept, (None,))[0] != encoder_uri:
            setattr(kind, kept, (encoder_uri, encoders.build(encoder_uri)))
        built: Encoder = getattr(kind, kept)[1]
        return built

    def test_the_family_is_registered_and_described(self, encoder: Encoder) -> None:
        """The registry has it, under the family of its URI and of its spec, with an example and a source."""
        kind = encoders.registry.get(encoder.family)
        assert isinstance(encoder, kind)
        assert encoder.spec.family == kind.family
        assert kind.modalities
        assert kind.modalities <= set(MODALITIES)
        assert kind.example.partition(":")[0] == kind.family
        assert kind.citation.title
        assert kind.citation.url.startswith("https://")

    def test_the_uri_passes_the_check(self, encoder: Encoder, encoder_uri: str) -> None:
        """`check` takes the URI for each modality of the family, and no other."""
        for modality in MODALITIES:
            if modality in encoder.modalities:
                encoders.check(encoder_uri, modality)
            else:
                with pytest.raises(SettingsError, match=f"not {modality}"):
                    encoders.check(encoder_uri, modality)

    def test_the_spec_is_filled(self, encoder: Encoder) -> None:
        """Width and preprocessing of each modality, a digest where there are weights, and a recipe in JSON."""
        spec = encoder.spec
        assert set(spec.width) == encoder.modalities
        assert all(isinstance(width, int) and width > 0 for width in spec.width.values())
        assert all(spec.preprocessing.get(modality) for modality in encoder.modalities)
        assert spec.architecture
        assert bool(spec.weights_sha256) == any(True for _ in encoder.parameters())
        assert json.loads(json.dumps(spec.recipe())) == spec.recipe()

    def test_it_is_built_for_evaluation(self, encoder: Encoder) -> None:
        """No dropout, no gradients in what it returns."""
        assert not encoder.training
        assert not any(samples.embed(encoder, m, samples.inputs_of(m)[:1]).requires_grad for m in encoder.modalities)

    def test_outputs_have_the_width_of_the_spec(self, encoder: Encoder) -> None:
        """[B, width] float32 on the CPU, finite; blank texts, long texts and tiny pictures too."""
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)
            out = samples.embed(encoder, modality, inputs)
            assert out.shape == (len(inputs), encoder.spec.width[modality])
            assert (out.dtype, out.device.type) == (torch.float32, "cpu")
            assert out.isfinite().all()

    def test_an_output_does_not_depend_on_its_batch(self, encoder: Encoder) -> None:
        """Alone, among others of other sizes, in another order: the same features."""
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)
            together = samples.embed(encoder, modality, inputs)
            alone = torch.cat([samples.embed(encoder, modality, [one]) for one in inputs])
            reverse = samples.embed(encoder, modality, inputs[::-1]).flip(0)
            torch.testing.assert_close(alone, together, rtol=0, atol=self.tolerance)
            torch.testing.assert_close(reverse, together, rtol=0, atol=self.tolerance)

    def test_encoding_twice_gives_the_same_bits(self, encoder: Encoder) -> None:
        """Neither preprocessing nor encoding is random."""
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)
            assert torch.equal(samples.embed(encoder, modality, inputs), samples.embed(encoder, modality, inputs))

    def test_different_inputs_give_different_outputs(self, encoder: Encoder) -> None:
        """No two of the pictures, and no two of the texts, have the same features."""
        for modality in encoder.modalities:
            out = samples.embed(encoder, modality, samples.inputs_of(modality))
            assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(out, 2))

    @pytest.mark.parametrize("mode", samples.PICTURE_MODES)
    def test_files_of_every_mode_are_taken(self, encoder: Encoder, mode: str, tmp_path: Path) -> None:
        """Whatever mode `open_image` hands on: pixels [B, 3, H, W], and features that tell two pictures apart."""
        if "image" not in encoder.modalities:
            return
        pictures = [open_image(samples.picture_file(tmp_path, seed, mode)) for seed in (1, 2)]
        pixels = encoder.preprocess_images(pictures)
        assert (pixels.ndim, pixels.shape[1], pixels.dtype) == (4, 3, torch.float32)
        out = encoder.embed_images(pictures)
        assert out.isfinite().all()
        assert not torch.allclose(out[0], out[1], atol=1e-4)

    def test_a_picture_that_is_only_stored_otherwise_gives_the_same_output(self, encoder: Encoder) -> None:
        """An opaque alpha channel, or one picture grey in RGB and in L, changes nothing."""
        if "image" not in encoder.modalities:
            return
        colour, grey = samples.picture(1), samples.picture(1).convert("L")
        same = [colour, colour.convert("RGBA")], [grey, grey.convert("RGB")]
        for pair in same:
            one, other = encoder.embed_images(pair)
            torch.testing.assert_close(one, other, rtol=0, atol=self.tolerance)

    def test_the_same_uri_is_the_same_encoder(self, encoder: Encoder, encoder_uri: str) -> None:
        """Built a second time, it has an equal spec and gives the same bits."""
        again = encoders.build(encoder_uri)
        assert again.spec == encoder.spec
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)[:3]
            assert torch.equal(samples.embed(again, modality, inputs), samples.embed(encoder, modality, inputs))


class ModelContract:
    """The tests of a model.

    Attributes:
        model: its name in the registry.
        settings: set on top of its defaults, e.g. to make it small.
        learning_rate: of Adam, for the checkerboard.
        steps: of training, for the checkerboard.
        unchanged: parameters that a first step of training leaves as they are.
        stops_gradients: the loss detaches something on purpose, so that its gradient is not its derivative.
    """

    model: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    learning_rate: ClassVar[float] = 0.02
    steps: ClassVar[int] = 150
    unchanged: ClassVar[frozenset[str]] = frozenset()
    stops_gradients: ClassVar[bool] = False

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

    @pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
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

    @pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
    def test_the_loss_reaches_every_parameter(self, modalities: Sequence[Modality]) -> None:
        """Its parts are finite scalars, and one step of Adam changes every parameter but those of `unchanged`."""
        data = checkerboard(modalities)
        model = self.build(data).train()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        parts = model.loss(data.batch(torch.Generator().manual_seed(0)))
        assert parts
        assert all(part.shape == () and part.isfinite() for part in parts.values())
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert {name for name, p in model.named_parameters() if torch.equal(p, before[name])} <= self.unchanged

    def test_gradients_are_the_derivatives_of_the_loss(self) -> None:
        """Against finite differences in double precision."""
        if self.stops_gradients:
            return
        data = checkerboard(n=4, taken=1)
        model = samples.shaken(self.build(data, embedding_size=2)).double().train()
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
        assert model.scores(users).requires_grad
        other = self.build(data, seed=1).eval()
        model.load_state_dict(other.state_dict())
        with torch.no_grad():
            assert torch.equal(model.scores(users), other.scores(users))

    def test_a_state_dict_holds_the_model_and_not_the_features(self) -> None:
        """Feature tables lie in the store, and stay out of checkpoints."""
        data = checkerboard()
        model = self.build(data)
        assert set(model.state_dict()) >= {name for name, _ in model.named_parameters()}
        assert not [name for name in model.state_dict() if name.startswith("features.")]

    @pytest.mark.parametrize("modality", MODALITIES)
    def test_items_are_told_apart_by_each_modality(self, modality: Modality) -> None:
        """Other features of one modality, all else equal, give other scores."""
        data = checkerboard()
        rows, scores = torch.arange(1, data.interactions.n_users), []
        for changed in (data, data.with_other(modality)):
            with torch.no_grad():
                scores.append(samples.shaken(self.build(changed)).eval().scores(rows))
        assert not torch.allclose(scores[0], scores[1], atol=1e-4)

    @pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
    def test_it_learns_the_checkerboard(self, modalities: Sequence[Modality]) -> None:
        """After training, the best unseen item of nine users in ten is one of those held out."""
        data = checkerboard(modalities)
        model = self.build(data)
        samples.train(model, data, self.steps, self.learning_rate)
        users = torch.arange(1, data.interactions.n_users)
        offsets, seen = data.excluded
        with torch.no_grad():
            best = model.topk(users, 1, exclude=(offsets[1:] - offsets[1], seen[offsets[1] :])).ids[:, 0]
        assert data.held_out[users, best].double().mean() >= 0.9

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
