"""openclip: the same numbers as OpenCLIP's own, whatever way the weights come, and refusals that help."""

import json
import shutil

import checkpoints
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import SettingsError, UnknownNameError, WeightsError
from mmenc_plugin.testing.samples import PICTURE_MODES, TEXTS, picture, picture_file

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


@pytest.mark.parametrize("mode", [mode for mode in PICTURE_MODES if mode not in ("PA", "I;16", "F", "I")])
def test_features_of_a_file_are_those_of_openclip(ours, theirs, tmp_path, mode):
    """Of every mode that OpenCLIP resizes as it should; `open_image` brings PA and 16 bits to plain ones before."""
    files = [picture_file(tmp_path, seed, mode) for seed in (1, 2)]
    with torch.no_grad():
        expected = theirs[0].encode_image(torch.stack([theirs[1](Image.open(file)) for file in files]))
    torch.testing.assert_close(ours.embed_images(files), expected, rtol=0, atol=1e-6)


def test_texts_are_padded_to_the_longest_of_their_batch(ours, theirs):
    """Features are those of the whole context length, whatever a text holds: "!" is CLIP's token 0."""
    texts = ["a red shoe", "blue!!", "!", ""]
    tokens = ours.tokenize(texts)
    assert tokens["ids"].shape == (4, 5)  # of the first: three words, and a token before and behind them
    with torch.no_grad():
        expected = theirs[0].encode_text(theirs[2](texts))
    torch.testing.assert_close(ours.embed_texts(texts), expected, rtol=0, atol=1e-6)
    alone = torch.cat([ours.embed_texts([text]) for text in texts])
    torch.testing.assert_close(alone, expected, rtol=1e-6, atol=1e-6)


def test_gradients_reach_the_tower_through_short_texts(ours):
    tokens = ours.tokenize(["a red shoe"])
    ours.encode_text(tokens).sum().backward()
    positions = ours.model.text.positional_embedding.grad
    length = tokens["ids"].shape[1]
    assert positions[:length].abs().sum(1).all()
    assert not positions[length:].any()
    ours.zero_grad()


@pytest.mark.parametrize(
    "text_cfg",
    [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}, {"pool_type": "eos", "eos_id": 49407}],
    ids=["not causal", "read at the last token", "with a token behind", "read at the end of the text"],
)
def test_texts_of_towers_of_other_kinds(tmp_path, text_cfg):
    """They are cut only where nothing is lost; SigLIP's read the padding, with which they were trained."""
    name = f"local-dir:{checkpoints.openclip(tmp_path, custom_text=True, text=text_cfg)}"
    encoder, model = encoders.build(f"openclip:{name}"), open_clip.create_model(name).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(name)(list(TEXTS[:2])))
    torch.testing.assert_close(encoder.embed_texts(TEXTS[:2]), expected, rtol=0, atol=1e-6)
    assert encoder.tokenize(["a"])["ids"].shape == (1, 3 if text_cfg.get("pool_type") == "eos" else 16)


def test_a_text_of_any_length_has_the_tokens_of_openclip(ours, theirs):
    """Long texts are cut before their words are taken apart; what lies within reach is as it was."""
    texts = ["&amp;amp; " * 9_999, "\n \t" * 40_000 + "shoe", "many different words " * 5_000, "\U0001f602" * 3_000]
    assert torch.equal(encoder_ids(ours, texts), theirs[2](texts))


def encoder_ids(encoder, texts):
    return torch.cat([encoder.tokenize([text, "word " * 99])["ids"][:1] for text in texts])


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


def test_a_saved_encoder_keeps_the_activation_of_its_tag(tiny_clip, architecture, tag, tmp_path):
    tag("quick", file=str(tiny_clip / "open_clip_model.safetensors"), quick_gelu=True)
    encoder = encoders.build(f"openclip:{architecture}/quick")
    again = encoders.build(encoder.save(tmp_path / "saved"))
    assert torch.equal(features(again), features(encoder))
    assert again.spec.preprocessing == encoder.spec.preprocessing


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.pth", "x.safetensors"])
@pytest.mark.parametrize("by", ["path", "folder"])
def test_a_pickle_with_code_is_refused_and_not_run(tiny_clip, architecture, tmp_path, name, by):
    if by == "folder" and name == "x.pt":
        name = "pytorch_model.bin"  # OpenCLIP does not look for .pt in a folder
    bomb = {"logit_scale": torch.ones(()), "bomb": checkpoints.Bomb(tmp_path / "was_run")}
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


def test_the_page_of_a_tags_licence_is_named(architecture, tag, tiny_clip):
    tag("small", file=str(tiny_clip / "open_clip_model.safetensors"), hf_hub="owner/name/")
    assert encoders.build(f"openclip:{architecture}/small").spec.licence == "see https://huggingface.co/owner/name"


def test_a_tokenizer_of_more_tokens_than_the_weights_is_refused(tmp_path):
    folder = checkpoints.openclip(tmp_path, text={"vocab_size": 100})
    with pytest.raises(WeightsError, match=r"does not fit its weights: its ids go up to 49407.* has 100 rows"):
        encoders.build(f"openclip:local-dir:{folder}")


def test_weights_of_another_architecture_are_refused(architecture, tmp_path):
    save_file({"visual.conv1.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"Missing key.*Weights must be the network's whole state dict"):
        encoders.build(f"openclip:{architecture}/{tmp_path / 'x.safetensors'}")
