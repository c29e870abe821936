"""Weights that are cut off, or hold code: one error for each family, and nothing is run."""

import shutil

import checkpoints
import pytest
import torch
from safetensors.torch import load_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import WeightsError

_torchvision.state()
import timm  # noqa: E402


class Folder:
    """A model's folder whose weights can be exchanged: `uri`, and the names that a weights file may have in it."""

    def __init__(self, uri, folder, safe, torch_name):
        self.uri, self.folder, self.safe, self.torch = uri, folder, folder / safe, folder / torch_name

    def use_torch_file(self, content=None):
        """Put a torch file in the place of the safetensors."""
        torch.save(load_file(self.safe) if content is None else content, self.torch)
        self.safe.unlink()
        return self.torch


@pytest.fixture(params=["hf", "openclip", "sbert", "timm"])
def model(request, tmp_path):
    folder = tmp_path / "model"
    if request.param == "openclip":
        shutil.copytree(request.getfixturevalue("tiny_clip"), folder)
        return Folder(f"openclip:local-dir:{folder}", folder, "open_clip_model.safetensors", "pytorch_model.bin")
    if request.param == "timm":
        timm.models.save_for_hf(timm.create_model("test_vit"), folder, safe_serialization=True)
        return Folder(f"timm:local-dir:{folder}", folder, "model.safetensors", "pytorch_model.bin")
    shutil.copytree(request.getfixturevalue({"hf": "tiny_hf_clip", "sbert": "tiny_sbert"}[request.param]), folder)
    return Folder(f"{request.param}:{folder}", folder, "model.safetensors", "pytorch_model.bin")


def test_a_torch_file_gives_the_same_features(model):
    expected = encoders.build(model.uri).spec.recipe()
    model.use_torch_file()
    assert encoders.build(model.uri).spec.recipe() == expected


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_file_that_is_cut_off_is_refused(model, kind):
    path = model.safe if kind == "safetensors" else model.use_torch_file()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"the weights of '.*' were not loaded: .+\. Weights must be the network's"):
        encoders.build(model.uri)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_torch_file_is_refused_and_not_run(model, tmp_path, legacy):
    path = model.use_torch_file({"bomb": checkpoints.Bomb(tmp_path / "was_run")})
    if legacy:
        bomb = {"bomb": checkpoints.Bomb(tmp_path / "was_run")}
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    message = r"the file holds more than tensors, and was not opened.*without pickled code"
    with pytest.raises(WeightsError, match=message):
        encoders.build(model.uri)
    assert not (tmp_path / "was_run").exists()


def test_a_file_of_something_else_is_refused(model):
    model.safe.write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="were not loaded"):
        encoders.build(model.uri)
