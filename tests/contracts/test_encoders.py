"""Every encoder family keeps the contract."""

import pytest

from mmenc_plugin import encoders
from mmenc_plugin.testing import EncoderContract


class TestClassic(EncoderContract):
    uri = "classic"


class TestHuggingFace(EncoderContract):
    """A model of each kind that `tiny_hf` makes."""

    uri = "hf:{folder}"

    @pytest.fixture
    def encoder_uri(self, tiny_hf):
        return self.uri.format(folder=tiny_hf)


class TestOpenClip(EncoderContract):
    uri = "openclip:local-dir:{folder}"

    @pytest.fixture
    def encoder_uri(self, tiny_clip):
        return self.uri.format(folder=tiny_clip)


class TestSentenceBert(EncoderContract):
    uri = "sbert:{folder}"

    @pytest.fixture
    def encoder_uri(self, tiny_sbert):
        return self.uri.format(folder=tiny_sbert)


class TestVlmo(EncoderContract):
    uri = "vlmo:{folder}"

    @pytest.fixture
    def encoder_uri(self, tiny_vlmo):
        return self.uri.format(folder=tiny_vlmo)


class TestTimm(EncoderContract):
    uri = "timm:test_vit/random"


def test_every_family_has_a_contract():
    tested = {test.uri.partition(":")[0] for name, test in globals().items() if name.startswith("Test")}
    assert tested == {name for name, family in encoders.registry if not family.ready}  # ready ones encode nothing
