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
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from mmenc_plugin import encoders, models
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.types import MODALITIES, Interactions, Modality, TripletBatch

# The modes of files that `open_image` lets through.
PICTURE_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "I;16", "I", "F", "YCbCr")
TEXTS = ("a red shoe", "blue", "word " * 200 + "end", "Überzug für ein Sofa, 日本語", "It's 50% off!\nTwo lines.", " ")
SUBSETS: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("image", "text"))


def _picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Noise over a colour, in any of `PICTURE_MODES`."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (size[1], size[0], 3)) + rng.integers(0, 190, 3)
    picture = Image.fromarray(noise.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(noise[..., 1].astype(np.uint8)))
    return picture.convert("L").convert(mode) if mode in ("I", "F") else picture.convert(mode)


def _inputs(modality: Modality) -> list[Any]:
    """Items of a modality that have different sizes, or lengths."""
    if modality == "text":
        return list(TEXTS)
    return [_picture(seed, size) for seed, size in enumerate([(40, 30), (9, 200), (64, 64), (333, 17), (8, 8)])]


def _embed(encoder: Encoder, modality: Modality, inputs: Sequence[Any]) -> Tensor:
    return encoder.embed_images(inputs) if modality == "image" else encoder.embed_texts(inputs)


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
        assert not any(_embed(encoder, m, _inputs(m)[:1]).requires_grad for m in encoder.modalities)

    def test_outputs_have_the_width_of_the_spec(self, encoder: Encoder) -> None:
        """[B, width] float32 on the CPU, finite; blank texts, long texts and tiny pictures too."""
        for modality in encoder.modalities:
            inputs = _inputs(modality)
            out = _embed(encoder, modality, inputs)
            assert out.shape == (len(inputs), encoder.spec.width[modality])
            assert (out.dtype, out.device.type) == (torch.float32, "cpu")
            assert out.isfinite().all()

    def test_an_output_does_not_depend_on_its_batch(self, encoder: Encoder) -> None:
        """Alone, among others of other sizes, in another order: the same features."""
        for modality in encoder.modalities:
            inputs = _inputs(modality)
            together = _embed(encoder, modality, inputs)
            alone = torch.cat([_embed(encoder, modality, [one]) for one in inputs])
            reverse = _embed(encoder, modality, inputs[::-1]).flip(0)
            torch.testing.assert_close(alone, together, rtol=0, atol=self.tolerance)
            torch.testing.assert_close(reverse, together, rtol=0, atol=self.tolerance)

    def test_encoding_twice_gives_the_same_bits(self, encoder: Encoder) -> None:
        """Neither preprocessing nor encoding is random."""
        for modality in encoder.modalities:
            inputs = _inputs(modality)
            assert torch.equal(_embed(encoder, modality, inputs), _embed(encoder, modality, inputs))

    def test_different_inputs_give_different_outputs(self, encoder: Encoder) -> None:
        """No two of the pictures, and no two of the texts, have the same features."""
        for modality in encoder.modalities:
            out = _embed(encoder, modality, _inputs(modality))
            assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(out, 2))

    @pytest.mark.parametrize("mode", PICTURE_MODES)
    def test_pictures_of_every_mode_are_taken(self, encoder: Encoder, mode: str) -> None:
        """Whatever mode the file has: pixels [B, 3, H, W], and features that tell two pictures apart."""
        if "image" not in encoder.modalities:
            return
        pictures = [_picture(seed, mode=mode) for seed in (1, 2)]
        pixels = encoder.preprocess_images(pictures)
        assert (pixels.ndim, pixels.shape[1], pixels.dtype) == (4, 3, torch.float32)
        out = encoder.embed_images(pictures)
        assert out.isfinite().all()
        assert not torch.allclose(out[0], out[1], atol=1e-4)

    def test_a_picture_that_is_only_stored_otherwise_gives_the_same_output(self, encoder: Encoder) -> None:
        """An opaque alpha channel, or one picture grey in RGB and in L, changes nothing."""
        if "image" not in encoder.modalities:
            return
        picture, grey = _picture(1), _picture(1).convert("L")
        same = [picture, picture.convert("RGBA")], [grey, grey.convert("RGB")]
        for pair in same:
            one, other = encoder.embed_images(pair)
            torch.testing.assert_close(one, other, rtol=0, atol=self.tolerance)

    def test_the_same_uri_is_the_same_encoder(self, encoder: Encoder, encoder_uri: str) -> None:
        """Built a second time, it has an equal spec and gives the same bits."""
        again = encoders.build(encoder_uri)
        assert again.spec == encoder.spec
        for modality in encoder.modalities:
            inputs = _inputs(modality)[:3]
            assert torch.equal(_embed(again, modality, inputs), _embed(encoder, modality, inputs))


@dataclass(frozen=True)
class Checkerboard:
    """A tiny data set with an answer: even users take even items, odd users odd ones.

    Row 0 of users and items is padding, as RecBole has it. The features of each modality say whether
    an item is even, beside noise; one item has no picture.

    Attributes:
        features: of the items.
        interactions: of the training part.
        seen: [U, I] bool, the training pairs.
        held_out: [U, I] bool, the pairs to be found.
    """

    features: FrozenFeatures
    interactions: Interactions
    seen: Tensor
    held_out: Tensor

    @property
    def excluded(self) -> tuple[Tensor, Tensor]:
        """Training pairs and the padding item, as `topk` takes them."""
        out = self.seen.clone()
        out[:, 0] = True
        return torch.cat([torch.zeros(1, dtype=torch.int64), out.sum(1).cumsum(0)]), out.nonzero()[:, 1]

    def batch(self, generator: torch.Generator) -> TripletBatch:
        """Every training pair, each with an item that its user did not take."""
        weights = (~self.seen).double()
        weights[:, 0] = 0
        users = self.interactions.users
        negatives = torch.multinomial(weights[users], 1, generator=generator).squeeze(1)
        return TripletBatch(users, self.interactions.items, negatives)


def checkerboard(modalities: Sequence[Modality] = MODALITIES, n: int = 24, taken: int = 6) -> Checkerboard:
    """Make a checkerboard.

    Args:
        modalities: which the items have.
        n: users, and items, beside the padding rows; even.
        taken: items that each user took, of the n / 2 to their taste.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(n + 1)
    taste = (rows[:, None] % 2 == rows[None, :] % 2) & (rows[:, None] > 0) & (rows[None, :] > 0)
    order = (torch.rand(n + 1, n + 1, generator=generator) + taste).argsort(dim=1, descending=True)
    seen = torch.zeros_like(taste).scatter_(1, order[:, :taken], torch.ones_like(taste)) & taste
    tables = {}
    for modality, width in zip(modalities, (6, 5), strict=False):
        values = 0.3 * torch.randn(n + 1, width, generator=generator)
        values[:, 0] += 1.0 - 2.0 * (rows % 2)
        present = rows > (1 if modality == "image" else 0)
        tables[modality] = AlignedFeatures(values * present[:, None], present)
    users, items = seen.nonzero().unbind(1)
    interactions = Interactions(users, items, n_users=n + 1, n_items=n + 1)
    return Checkerboard(FrozenFeatures(tables), interactions, seen, taste & ~seen)


class _Loss(nn.Module):
    """The summed loss as a `forward`, for `torch.func.functional_call`."""

    def __init__(self, model: MultimodalRecommender, batch: TripletBatch) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self) -> Tensor:
        torch.manual_seed(0)  # so that a loss with dropout is a function
        return torch.stack(list(self.model.loss(self.batch).values())).sum()


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
        model = _shaken(self.build(data))
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
        model = _shaken(self.build(data)).eval()
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
        model = _shaken(self.build(data, embedding_size=2)).double().train()
        loss = _Loss(model, data.batch(torch.Generator().manual_seed(0)))
        names, values = zip(*loss.named_parameters(), strict=True)

        def function(*parameters: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), ())
            return out

        assert torch.autograd.gradcheck(function, tuple(v.detach().requires_grad_() for v in values))

    def test_embeddings_are_kept_only_while_evaluating(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Computed once an evaluation, anew after training, after loading, and wherever gradients are asked for."""
        data = checkerboard()
        model, users = self.build(data).eval(), torch.tensor([1, 2])
        calls, embed = [], model.embed
        monkeypatch.setattr(model, "embed", lambda: calls.append(1) or embed())
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
        for sign in (1, -1):
            tables = {m: AlignedFeatures(data.features.table(m), data.features.present(m)) for m in MODALITIES}
            table = tables[modality]
            tables[modality] = AlignedFeatures(sign * table.values.roll(sign, 0), table.present)
            changed = Checkerboard(FrozenFeatures(tables), data.interactions, data.seen, data.held_out)
            with torch.no_grad():
                scores.append(_shaken(self.build(changed)).eval().scores(rows))
        assert not torch.allclose(*scores, atol=1e-4)

    @pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
    def test_it_learns_the_checkerboard(self, modalities: Sequence[Modality]) -> None:
        """After training, the best unseen item of nine users in ten is one of those held out."""
        data = checkerboard(modalities)
        model = self.build(data)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        generator = torch.Generator().manual_seed(0)
        model.train()
        for _ in range(self.steps):
            optimizer.zero_grad()
            torch.stack(list(model.loss(data.batch(generator)).values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
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
                beyond = _beyond(field.metadata)
                assert beyond, f"{name} has no bound"
                for value in beyond:
                    with pytest.raises(SettingsError, match=name):
                        self.build(data, **{name: value})


def _beyond(constraints: Sequence[Any]) -> list[float]:
    """A value outside each bound of a field."""
    steps = {"ge": -1, "gt": 0, "le": 1, "lt": 0}
    return [getattr(c, bound) + step for c in constraints for bound, step in steps.items() if hasattr(c, bound)]


def _shaken(model: MultimodalRecommender) -> MultimodalRecommender:
    """The model with noise on every parameter, so that nothing that starts at zero hides."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model
