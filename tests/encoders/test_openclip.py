"""openclip: the same numbers as OpenCLIP's own, whatever way the weights come, and refusals that help."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import SettingsError, UnknownNameError, WeightsError
from mmenc_plugin.testing.samples import TEXTS, picture

_torchvision.state()
import open_clip  # noqa: E402
import open_clip.factory  # noqa: E402
import open_clip.pretrained  # noqa: E402

PICTURES = [picture(1), picture(2, (9, 200)), picture(3, (333, 17)), picture(4, (32, 32))]


@pytest.fixture
def architecture(tiny_clip, tmp_path, monkeypatch):
    """The tiny model as one of OpenCLIP's own architectures, for this test."""
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


@pytest.fixture
def tag(monkeypatch, architecture):
    """tag(name, **config): weights that OpenCLIP lists for the tiny architecture."""

    def add(name, **config):
        known = open_clip.pretrained._PRETRAINED.get(architecture, {})
        defaults = open_clip.pretrained._pcfg()
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {**known, name: {**defaults, **config}})

    return add


@pytest.fixture(scope="module")
def ours(tiny_clip):
    return encoders.build(f"openclip:local-dir:{tiny_clip}")


@pytest.fixture(scope="module")
def theirs(tiny_clip):
    """OpenCLIP's own model, transform and tokenizer, as its readme has it."""
    name = f"local-dir:{tiny_clip}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


def features(encoder):
    return torch.cat([encoder.embed_images(PICTURES), encoder.embed_texts(TEXTS)])


# --- The same as OpenCLIP ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_pixels_are_those_of_openclips_transform(ours, theirs, mode):
    pictures = [picture(1, mode=mode), picture(2, (9, 200), mode)]
    assert torch.equal(ours.preprocess_images(pictures), torch.stack([theirs[1](p) for p in pictures]))


def test_the_transform_is_the_models_own(ours):
    """Of a plain picture every pixel is (colour - mean) / std, with the numbers of this model's configuration."""
    pixels = ours.preprocess_images([picture(0).resize((1, 1)).resize((50, 40))])
    assert pixels.shape == (1, 3, 32, 32)
    colour = torch.tensor(picture(0).resize((1, 1)).getpixel((0, 0))) / 255
    expected = (colour - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    torch.testing.assert_close(pixels[0].mean((1, 2)), expected, rtol=0, atol=1e-4)


def test_features_are_those_of_openclips_towers(ours, theirs):
    model, transform, tokenizer = theirs
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(p) for p in PICTURES]))
        texts = model.encode_text(tokenizer(list(TEXTS)))
    assert torch.equal(ours.embed_images(PICTURES), images)
    assert torch.equal(ours.embed_texts(TEXTS), texts)


def test_long_texts_are_cut_at_the_context_length(ours):
    assert ours.tokenize(["word " * 500])["ids"].shape == (1, 16)
    one, other = ours.embed_texts(["word " * 100, "word " * 500])
    assert torch.equal(one, other)


def test_the_spec_says_what_was_loaded(ours):
    assert ours.spec.width == {"image": 16, "text": 16}
    assert ours.spec.preprocessing["image"]["mean"] == [0.5, 0.4, 0.3]
    assert ours.spec.preprocessing["text"]["max_tokens"] == 16


# --- Every way in which weights come ----------------------------------------------------------------


def write_safetensors(state, path):
    save_file(state, path)


def write_state_dict(state, path):
    torch.save(state, path)


def write_training_checkpoint(state, path):
    parts = {"epoch": 3, "name": "run", "optimizer": {"lr": 0.1}}
    torch.save({**parts, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_safetensors, "x.safetensors"), (write_state_dict, "x.pt"), (write_training_checkpoint, "epoch_3.pt")],
)
def test_local_weights_of_every_layout_give_the_same_features(tiny_clip, architecture, tmp_path, write, name):
    write(load_file(tiny_clip / "open_clip_model.safetensors"), tmp_path / name)
    encoder = encoders.build(f"openclip:{architecture}/{tmp_path / name}")
    expected = open_clip.create_model(architecture, str(tiny_clip / "open_clip_model.safetensors")).eval()
    with torch.no_grad():
        texts = expected.encode_text(encoder.tokenize(TEXTS)["ids"])
    assert torch.equal(encoder.embed_texts(TEXTS), texts)
    assert encoder.spec.weights_sha256 == encoders.build(f"openclip:local-dir:{tiny_clip}").spec.weights_sha256


def test_random_weights_are_the_same_every_time_and_leave_the_random_state(architecture):
    uri = f"openclip:{architecture}/random"
    torch.manual_seed(5)
    one = encoders.build(uri)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two = encoders.build(uri)
    assert one.spec == two.spec
    assert torch.equal(features(one), features(two))


def test_a_copy_of_the_folder_has_the_same_recipe(ours, tiny_clip, tmp_path):
    copy = shutil.copytree(tiny_clip, tmp_path / "copy")
    assert encoders.build(f"openclip:local-dir:{copy}").spec.recipe() == ours.spec.recipe()


def test_recipes_differ_where_features_do(tiny_clip, architecture, tag):
    """The same weights, with the tag's activation and without it, as with ViT-B-32/openai and its file by path."""
    weights = str(tiny_clip / "open_clip_model.safetensors")
    tag("quick", file=weights, quick_gelu=True)
    by_tag, by_path = (encoders.build(f"openclip:{architecture}/{w}") for w in ("quick", weights))
    assert not torch.allclose(features(by_tag), features(by_path), atol=1e-4)
    assert by_tag.spec.recipe() != by_path.spec.recipe()


# --- What is refused --------------------------------------------------------------------------------


class Bomb:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.pth", "x.safetensors"])
@pytest.mark.parametrize("by", ["path", "folder"])
def test_a_pickle_with_code_is_refused_and_not_run(tiny_clip, architecture, tmp_path, name, by):
    if by == "folder" and name == "x.pt":
        name = "pytorch_model.bin"  # OpenCLIP does not look for .pt in a folder
    bomb = {"logit_scale": torch.ones(()), "bomb": Bomb(tmp_path / "was_run")}
    torch.save(bomb, tmp_path / name)
    shutil.copy(tiny_clip / "open_clip_config.json", tmp_path)
    uri = f"openclip:local-dir:{tmp_path}" if by == "folder" else f"openclip:{architecture}/{tmp_path / name}"
    with pytest.raises(WeightsError, match=r"not loaded.*without pickled code"):
        encoders.build(uri)
    assert not (tmp_path / "was_run").exists()


def test_an_unknown_architecture_gets_the_nearest_name():
    with pytest.raises(
        UnknownNameError, match=r"no OpenCLIP architecture named 'ViT-B-23'\. Did you mean 'ViT-B-32'\?"
    ):
        encoders.build("openclip:ViT-B-23/openai")


def test_an_unknown_tag_gets_the_nearest_name():
    expected = r"weights tag of ViT-B-32 named 'laion2b_s34b_b97k'\. Did you mean 'laion2b_s34b_b79k'\?"
    with pytest.raises(UnknownNameError, match=expected):
        encoders.build("openclip:ViT-B-32/laion2b_s34b_b97k")


@pytest.mark.parametrize("uri", ["openclip", "openclip:", "openclip:ViT-B-32", "openclip:ViT-B-32/"])
def test_no_weights_are_asked_for(uri):
    with pytest.raises(SettingsError, match=r"names no weights\. Write openclip:ViT-B-32/<tag or path>, or .*random"):
        encoders.build(uri)


def test_a_tag_that_cannot_be_downloaded_says_how_to_bring_the_weights(architecture, tag):
    tag("gone", hf_hub="no-such-owner/no-such-model/")
    with pytest.raises(WeightsError, match=r"cannot reach the hub.*HF_HOME.*by path: openclip:tiny.*//path/to"):
        encoders.build(f"openclip:{architecture}/gone")


def test_a_hub_model_that_cannot_be_downloaded_says_how_to_bring_it():
    with pytest.raises(WeightsError, match=r"cannot reach the hub.*local-dir:"):
        encoders.build("openclip:hf-hub:no-such-owner/no-such-model")


@pytest.mark.parametrize("weights", ["/none/x.pt", "./none.safetensors", "~/none.pt"])
def test_a_path_without_a_file_is_named(architecture, weights):
    with pytest.raises(WeightsError, match=r"none.*not a known tag or valid file path"):
        encoders.build(f"openclip:{architecture}/{weights}")


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(WeightsError, match="/none"):
        encoders.build("openclip:local-dir:/none")


def test_a_folder_without_weights_is_refused(tiny_clip, tmp_path):
    shutil.copy(tiny_clip / "open_clip_config.json", tmp_path)
    with pytest.raises(WeightsError, match="weights"):
        encoders.build(f"openclip:local-dir:{tmp_path}")


def test_weights_of_another_architecture_are_refused(architecture, tmp_path):
    save_file({"visual.conv1.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="A checkpoint must be a state dict of that architecture"):
        encoders.build(f"openclip:{architecture}/{tmp_path / 'x.safetensors'}")
