"""timm: the same numbers as timm's own, whatever way the weights come, and refusals that help."""

import argparse
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import MissingExtraError, SettingsError, UnknownNameError, WeightsError
from mmenc_plugin.testing.samples import PICTURE_MODES, picture, picture_file

_torchvision.state()
import timm  # noqa: E402
from timm.data import create_transform, resolve_model_data_config  # noqa: E402

PICTURES = [picture(1), picture(2, (9, 200)), picture(3, (333, 17)), picture(4, (32, 32))]
ARCHITECTURE = "test_vit"  # timm's own for tests


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as timm's hub has it: with the classifier of 1000 classes."""
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model(ARCHITECTURE).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def ours(weights):
    return encoders.build(f"timm:{ARCHITECTURE}/{weights}")


@pytest.fixture(scope="module")
def theirs(weights):
    """timm's own model and transform, as its documentation has it."""
    model = timm.create_model(ARCHITECTURE, checkpoint_path=str(weights)).eval()
    return model, create_transform(**resolve_model_data_config(model), is_training=False)


def expected(theirs, pictures):
    model, transform = theirs
    with torch.no_grad():
        pixels = torch.stack([transform(one.convert("RGB")) for one in pictures])
        return model.forward_head(model.forward_features(pixels), pre_logits=True)


# --- The same as timm -------------------------------------------------------------------------------


# 16 bits are brought to 8 by `open_image`; Pillow's conversion to RGB cuts them at 255.
@pytest.mark.parametrize("mode", [mode for mode in PICTURE_MODES if mode != "I;16"])
def test_features_of_a_file_are_those_of_timm(ours, theirs, tmp_path, mode):
    files = [picture_file(tmp_path, seed, mode) for seed in (1, 2)]
    assert torch.equal(ours.embed_images(files), expected(theirs, [Image.open(file) for file in files]))


def test_pixels_are_those_of_timms_transform_bit_for_bit(ours, theirs):
    assert torch.equal(ours.preprocess_images(PICTURES), torch.stack([theirs[1](one) for one in PICTURES]))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit3", "test_byobnet"])
def test_features_are_those_of_a_model_without_classes(name):
    encoder = encoders.build(f"timm:{name}/random")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    pixels = encoder.preprocess_images(PICTURES)
    with torch.no_grad():
        assert torch.equal(encoder.embed_images(PICTURES), model(pixels))
    assert encoder.spec.width == {"image": model(pixels).shape[1]}


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"crop_pct": 0.875, "crop_mode": "center"}, ("shortest", 182)),
        ({"crop_pct": 1.0, "crop_mode": "center"}, ("shortest", 160)),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, ("squash", 0)),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, ("other", 0)),
        ({"crop_pct": 1.0, "crop_mode": "border"}, ("other", 0)),
        ({"crop_pct": 0.875, "input_size": (3, 160, 96)}, ("other", 0)),
    ],
    ids=str,
)
def test_every_way_with_pictures_is_timms(config, rule, tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told["pretrained_cfg"].update(config)
    (tmp_path / "config.json").write_text(json.dumps(told))
    encoder = encoders.build(f"timm:local-dir:{tmp_path}")
    transform = create_transform(**resolve_model_data_config(encoder.model), is_training=False)
    assert torch.equal(encoder.preprocess_images(PICTURES), torch.stack([transform(one) for one in PICTURES]))
    assert (encoder.picture.resize, encoder.picture.resize_to) == rule


# --- Every way in which weights come ----------------------------------------------------------------


def write_training_checkpoint(state, path):
    """As timm's training script leaves it: its settings, and the averaged weights beside the last ones."""
    last = {name: value + 1 for name, value in state.items()}
    averaged = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict": last, "state_dict_ema": averaged}, path)


def write_state_dict(state, path):
    torch.save(state, path)


def write_without_classifier(state, path):
    save_file({name: value for name, value in state.items() if not name.startswith("head.")}, path)


def write_with_another_classifier(state, path):
    save_file({**state, "head.weight": state["head.weight"][:7].clone(), "head.bias": torch.zeros(7)}, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_training_checkpoint, "x.pth.tar"),
        (write_state_dict, "x.pth"),
        (write_without_classifier, "x.safetensors"),
        (write_with_another_classifier, "x.safetensors"),
    ],
)
def test_local_weights_of_every_layout_give_the_same_features(ours, weights, tmp_path, write, name):
    write(load_file(weights), tmp_path / name)
    encoder = encoders.build(f"timm:{ARCHITECTURE}/{tmp_path / name}")
    assert encoder.spec.recipe() == ours.spec.recipe()
    assert torch.equal(encoder.embed_images(PICTURES), ours.embed_images(PICTURES))


def test_a_tag_is_loaded_from_where_timm_says(weights, ours, monkeypatch):
    from timm.models._registry import _model_pretrained_cfgs as known

    monkeypatch.setattr(known["test_vit.r160_in1k"], "file", str(weights))
    encoder = encoders.build("timm:test_vit.r160_in1k")
    assert torch.equal(encoder.embed_images(PICTURES), ours.embed_images(PICTURES))
    assert (encoder.spec.architecture, encoder.spec.weights) == ("test_vit", "r160_in1k")
    assert encoder.spec.licence == "apache-2.0"


def test_a_path_with_a_tag_prepares_pictures_as_the_tag_does(weights, ours):
    assert encoders.build(f"timm:test_vit.r160_in1k/{weights}").spec.recipe() == ours.spec.recipe()


def test_a_folder_as_timm_saves_it(weights, ours, tmp_path):
    timm.models.save_for_hf(timm.create_model(ARCHITECTURE, checkpoint_path=str(weights)), tmp_path)
    encoder = encoders.build(f"timm:local-dir:{tmp_path}")
    assert encoder.spec.recipe() == ours.spec.recipe()
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    assert encoders.build(f"timm:local-dir:{copy}").spec.recipe() == ours.spec.recipe()


def test_random_weights_are_the_same_every_time_and_leave_the_random_state():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = encoders.build("timm:test_resnet/random")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert encoders.build("timm:test_resnet/random").spec == one.spec


# --- What is refused --------------------------------------------------------------------------------


def refused(rest, message, kind):
    with pytest.raises(kind, match=message):
        encoders.build(f"timm:{rest}")


def test_an_unknown_architecture_gets_the_nearest_name():
    refused("resnet5/random", r"no timm architecture named 'resnet5'\. Did you mean 'resnet50'\?", UnknownNameError)


def test_an_unknown_tag_gets_the_nearest_name():
    refused("resnet50.a1_in2k", r"named 'resnet50\.a1_in2k'\. Did you mean 'resnet50\.a1_in1k'\?", UnknownNameError)


def test_no_weights_are_asked_for():
    """timm would take a tag of its own choice."""
    message = r"names no weights\. Write timm:resnet50\.<tag>, where <tag> is one of a1_in1k.*resnet50/random for"
    refused("resnet50", message, SettingsError)


@pytest.mark.parametrize("rest", ["test_vit//none/x.pth", "test_vit/./none.safetensors", "test_vit/~/none.pth"])
def test_a_path_without_a_file_is_named(rest):
    refused(rest, r"none.*does not exist\. Name a \.safetensors file or a torch file", WeightsError)


def test_a_name_that_is_no_path_is_no_weights():
    refused("test_vit/r160_in1k", r"there is no file r160_in1k\. Name weights by path, or by tag behind", WeightsError)


@pytest.mark.parametrize(
    ("rest", "by_hand"),
    [("resnet50.a1_in1k", r"timm:resnet50\.a1_in1k//path/to/model\.safetensors"), ("hf-hub:no/no", "timm:local-dir:")],
)
def test_weights_that_cannot_be_downloaded_say_how_to_bring_them(rest, by_hand):
    refused(rest, rf"cannot reach the hub.*HF_HOME.*by path: {by_hand}", WeightsError)


def test_missing_and_unexpected_weights_are_listed(weights, tmp_path):
    state = load_file(weights)
    state["third.weight"] = state.pop("norm.weight")
    save_file(state, tmp_path / "x.safetensors")
    message = r'Missing key\(s\).*"norm\.weight".*Unexpected key\(s\).*"third\.weight".*whole state dict'
    refused(f"{ARCHITECTURE}/{tmp_path / 'x.safetensors'}", message, WeightsError)


def test_weights_of_another_architecture_are_refused(weights):
    refused(f"test_resnet/{weights}", r'Missing key\(s\).*"conv1', WeightsError)


def test_a_timm_that_runs_code_in_weights_is_refused(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.26")
    refused("test_vit/random", r"timm 1\.0\.26 runs code.*pip install 'mmenc-plugin\[timm\]'", MissingExtraError)


def test_a_folder_without_a_model_is_named(tmp_path):
    refused(f"local-dir:{tmp_path}", r"Config file not found.*config\.json", WeightsError)
