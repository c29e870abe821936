"""What is not installed, or installed for another torch."""

import os
import sys
import types

import pytest

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision

# Like the real one beside a torch it was not built for: it decorates an operator that nothing declared.
BROKEN = """
import torch

@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold):
    return scores

answer = 42
"""

MEND = """
try:
    import torchvision
    print("imported")
except RuntimeError as error:
    print(error)
from mmenc_plugin.encoders import _torchvision
print(_torchvision.state(), _torchvision.state())
import torchvision
print(torchvision.answer)
"""

BUILD = """
import sys
for name in ("open_clip", "sentence_transformers", "transformers", "timm"):
    sys.modules[name] = None
from mmenc_plugin import encoders
from mmenc_plugin.errors import MissingExtraError
for uri in ("openclip:ViT-B-32/random", "sbert:all-MiniLM-L6-v2", "hf:owner/name", "timm:resnet50/random"):
    for ask in (encoders.check, encoders.build):
        try:
            ask(uri)
        except MissingExtraError as error:
            print(error)
print(*encoders.registry.names(), encoders.build("classic").family)
"""


def test_a_torchvision_of_another_torch_is_mended(python, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    ran = python(MEND, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert ran.returncode == 0, ran.stderr
    without, states, answer = ran.stdout.splitlines()
    assert "operator torchvision::nms does not exist" in without
    assert states == "mended mended"
    assert answer == "42"


@pytest.fixture
def _nothing_mended(monkeypatch):
    monkeypatch.setattr(_torchvision, "_kept", [])


@pytest.mark.usefixtures("_nothing_mended")
def test_no_torchvision_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert _torchvision.state() == "absent"


@pytest.mark.usefixtures("_nothing_mended")
def test_a_working_torchvision_is_left_alone(monkeypatch):
    working = types.ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", working)
    assert _torchvision.state() == "working"
    assert sys.modules["torchvision"] is working


@pytest.mark.usefixtures("_nothing_mended")
def test_another_failure_of_torchvision_is_not_hidden(monkeypatch, tmp_path):
    modules = sys.modules
    for name in [name for name in modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text('raise RuntimeError("something else")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="something else"):
        _torchvision.state()
    assert _torchvision._kept == []


def test_a_library_that_is_not_installed_is_named_with_its_extra(python):
    ran = python(BUILD)
    assert ran.returncode == 0, ran.stderr
    *refused, others = ran.stdout.splitlines()
    assert "the encoder family openclip needs a package that is not installed" in refused[0]
    for checked, built, extra in zip(refused[::2], refused[1::2], ("openclip", "sbert", "hf", "timm"), strict=True):
        assert checked == built
        assert built.endswith(f"Install it with: pip install 'mmenc-plugin[{extra}]'")
    assert others.split() == [*encoders.registry.names(), "classic"]
