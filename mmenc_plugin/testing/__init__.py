"""Contracts: the tests that every encoder and every model passes, for authors of plugins to inherit.

Needs pytest: pip install 'mmenc-plugin[test]'.
"""

import pytest

pytest.register_assert_rewrite(
    "mmenc_plugin.testing.encoder_contract", "mmenc_plugin.testing.model_contract"
)  # must come before the import

from mmenc_plugin.testing.encoder_contract import EncoderContract  # noqa: E402
from mmenc_plugin.testing.model_contract import ModelContract  # noqa: E402
from mmenc_plugin.testing.samples import Checkerboard, checkerboard  # noqa: E402

__all__ = ["Checkerboard", "EncoderContract", "ModelContract", "checkerboard"]
