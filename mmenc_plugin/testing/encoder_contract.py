"""What every encoder does, as tests to inherit.

    from mmenc_plugin.testing import EncoderContract

    class TestMyEncoder(EncoderContract):
        uri = "mine:small/v1"

pytest finds the inherited tests under the subclass's name.
"""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.data import open_image
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.encoders.base import Preparation
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.testing import samples
from mmenc_plugin.types import MODALITIES


@functools.lru_cache(maxsize=2)
def _built(uri: str, preparation: Preparation = "exact") -> Encoder:
    return encoders.build(uri, preparation=preparation)


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
        return _built(encoder_uri)

    def test_the_family_is_registered_and_described(self, encoder: Encoder) -> None:
        """The registry has it, under the family of its URI and of its spec, with an example and a source."""
        kind = encoders.registry.get(encoder.family)
        assert isinstance(encoder, kind)
        assert encoder.spec.family == kind.family
        assert set() < kind.modalities <= set(MODALITIES)
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
        prepared = [encoder.prepare_image(picture) for picture in pictures]
        assert all(pixels.dtype == torch.uint8 for pixels in prepared)
        assert encoder.preprocess_images(pictures).dtype == torch.float32
        out = encoder.embed_images(pictures)
        assert out.isfinite().all()
        assert not torch.allclose(out[0], out[1], atol=1e-4)

    @pytest.mark.parametrize("mode", samples.PICTURE_MODES)
    def test_fast_preparation_is_near_the_exact_one(
        self, encoder: Encoder, encoder_uri: str, mode: str, tmp_path: Path
    ) -> None:
        """At most two grey levels apart, under a recipe of its own; or refused, where there is no fast form."""
        if "image" not in encoder.modalities:
            return
        if not encoder.picture.has_fast_form:
            with pytest.raises(SettingsError, match="no fast form"):
                encoders.build(encoder_uri, preparation="fast")
            return
        fast = _built(encoder_uri, "fast")
        assert (encoder.spec.preparation, fast.spec.preparation) == ("exact", "fast")
        assert fast.spec.recipe() != encoder.spec.recipe()
        path = samples.picture_file(tmp_path, 1, mode)
        one, other = encoder.prepare_file(path), fast.prepare_file(path)
        assert (other.dtype, other.shape) == (torch.uint8, one.shape)
        assert (one.int() - other.int()).abs().max() <= 2

    def test_a_picture_that_is_only_stored_otherwise_gives_the_same_output(self, encoder: Encoder) -> None:
        """An opaque alpha channel, or one picture grey in RGB and in L, changes nothing."""
        if "image" not in encoder.modalities:
            return
        colour, grey = samples.picture(1), samples.picture(1).convert("L")
        same = [colour, colour.convert("RGBA")], [grey, grey.convert("RGB")]
        for pair in same:
            one, other = encoder.embed_images(pair)
            torch.testing.assert_close(one, other, rtol=0, atol=self.tolerance)

    def test_every_parameter_has_a_depth(self, encoder: Encoder) -> None:
        """By its name, from the stem on; a family without parameters says that it cannot be trained."""
        if not encoder.towers:
            with pytest.raises(SettingsError, match="has no parameters"):
                encoder.depths()
            return
        depths = encoder.depths()
        assert set(depths) == {name for name, _ in encoder.named_parameters()}
        assert min(depths.values()) == 0
        assert len(encoder.blocks()) >= max(depths.values()) - 1

    def test_a_saved_encoder_gives_the_same_outputs(self, encoder: Encoder, tmp_path: Path) -> None:
        """Built from the URI that `save` returns: the same bits and digest, and no file that could run code."""
        if not encoder.towers:
            return
        again = encoders.build(encoder.save(tmp_path / "saved"))
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)
            assert torch.equal(samples.embed(again, modality, inputs), samples.embed(encoder, modality, inputs))
        assert again.spec.weights_sha256 == encoder.spec.weights_sha256
        pickled = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
        assert not [path for path in (tmp_path / "saved").rglob("*") if path.suffix in pickled]

    def test_the_same_uri_is_the_same_encoder(self, encoder: Encoder, encoder_uri: str) -> None:
        """Built a second time, it has an equal spec and gives the same bits."""
        again = encoders.build(encoder_uri)
        assert again.spec == encoder.spec
        for modality in encoder.modalities:
            inputs = samples.inputs_of(modality)[:3]
            assert torch.equal(samples.embed(again, modality, inputs), samples.embed(encoder, modality, inputs))
