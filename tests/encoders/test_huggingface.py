"""hf: the same numbers as the towers of transformers with their own processors, and refusals that help."""

import json
import shutil

import checkpoints
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import SettingsError, WeightsError
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import TEXTS, picture

_torchvision.state()
import transformers  # noqa: E402

PICTURES = [picture(1), picture(2, (9, 200)), picture(3, (333, 17)), picture(4, (32, 32))]


class Theirs:
    """A folder through transformers alone, as its documentation has it."""

    def __init__(self, folder):
        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        self.processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def pixels(self, images):
        return self.processor(images, return_tensors="pt")

    @torch.no_grad()
    def images(self, images):
        return self.tensor(self.model.get_image_features(**self.pixels(images)))

    @torch.no_grad()
    def texts(self, texts):
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        return self.tensor(self.model.get_text_features(**tokens))

    def tensor(self, out):
        return out if isinstance(out, torch.Tensor) else out.pooler_output


@pytest.fixture(scope="module")
def theirs(tiny_hf):
    return Theirs(tiny_hf)


@pytest.fixture(scope="module")
def ours(tiny_hf):
    return encoders.build(f"hf:{tiny_hf}")


@pytest.fixture(scope="module")
def clip(tiny_hf_clip):
    return encoders.build(f"hf:{tiny_hf_clip}")


@pytest.fixture
def copy(tiny_hf_clip, tmp_path):
    """The CLIP's folder, to be spoilt."""
    return shutil.copytree(tiny_hf_clip, tmp_path / "copy")


def refused(folder, message, kind=WeightsError):
    with pytest.raises(kind, match=message):
        encoders.build(f"hf:{folder}")


# --- The same as transformers -----------------------------------------------------------------------


# 16 bits are brought to 8 by `open_image`; transformers cuts them at 255.
@pytest.mark.parametrize("mode", [mode for mode in samples.PICTURE_MODES if mode != "I;16"])
def test_features_of_a_file_are_those_of_transformers(ours, theirs, tmp_path, mode):
    files = [samples.picture_file(tmp_path, seed, mode) for seed in (1, 2)]
    # A processor that does not convert takes RGB alone.
    converts = theirs.processor.to_dict().get("do_convert_rgb")
    pictures = [Image.open(file) if converts else Image.open(file).convert("RGB") for file in files]
    expected = torch.cat([theirs.images([one]) for one in pictures])
    alone = torch.cat([ours.embed_images([file]) for file in files])
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)


def test_pixels_are_those_of_the_image_processor_bit_for_bit(ours, theirs):
    inputs = ours._pictures.inputs(ours.preprocess_images(PICTURES))
    expected = theirs.pixels(PICTURES)
    assert set(inputs) == set(expected)
    for name, value in inputs.items():
        assert torch.equal(value, torch.as_tensor(expected[name])), name


def test_patches_survive_bfloat16(tmp_path):
    """The numbers of patches travel in the pixels, which are cast with the weights."""
    folder = checkpoints.hf("siglip2", tmp_path)
    exact, cast = (encoders.build(f"hf:{folder}", precision=p) for p in ("float32", "bfloat16"))
    torch.testing.assert_close(exact.embed_images(PICTURES), cast.embed_images(PICTURES), rtol=0, atol=0.05)


def test_features_of_texts_are_those_of_transformers_at_full_length(ours, theirs):
    torch.testing.assert_close(ours.embed_texts(TEXTS), theirs.texts(list(TEXTS)), rtol=0, atol=1e-6)


def test_texts_of_a_clip_are_padded_to_the_longest(clip):
    assert clip.tokenize(["abc", "abcd"])["input_ids"].shape == (2, 6)
    assert clip.tokenize(["abc", "word " * 100])["input_ids"].shape == (2, 16)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_texts_of_a_siglip_are_padded_as_it_was_trained(kind, tmp_path):
    encoder = encoders.build(f"hf:{checkpoints.hf(kind, tmp_path)}")
    assert encoder.tokenize(["abc"])["input_ids"].shape == (1, 16)


# --- What the spec says -----------------------------------------------------------------------------


def test_the_spec_says_what_was_loaded(clip):
    assert clip.spec.architecture == "CLIPModel"
    assert clip.spec.width == {"image": 16, "text": 16}
    assert clip.spec.preprocessing["text"]["max_tokens"] == 16
    assert clip.spec.preprocessing["image"]["network"]["hidden_act"] == "quick_gelu"
    rule = clip.picture
    assert (rule.resize, rule.resize_to, rule.height, rule.width, rule.crop) == ("shortest", 37, 32, 32, "floor")
    assert "CLIPImageProcessor" in rule.detail


def test_the_licence_is_the_model_cards(copy):
    (copy / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# A model\n\nlicense: none\n")
    assert encoders.build(f"hf:{copy}").spec.licence == "mit"


def test_a_copy_and_a_torch_file_of_the_same_weights_have_the_same_recipe(clip, copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert encoders.build(f"hf:{copy}").spec.recipe() == clip.spec.recipe()


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_recipes_differ_with_activation_processor_tokenizer_and_weights(clip, copy, tmp_path):
    def changed(name, change):
        folder = shutil.copytree(copy, tmp_path / name)
        change(folder)
        return encoders.build(f"hf:{folder}").spec.recipe()

    def another_activation(folder):
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["hidden_act"] = "gelu"
        (folder / "config.json").write_text(json.dumps(config))

    def another_tokenizer(folder):
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Lowercase"}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    def another_weight(folder):
        state = load_file(folder / "model.safetensors")
        save_file({**state, "logit_scale": state["logit_scale"] + 1}, folder / "model.safetensors", {"format": "pt"})

    recipes = [
        clip.spec.recipe(),
        changed("activation", another_activation),
        changed("processor", lambda folder: edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])),
        changed("tokenizer", another_tokenizer),
        changed("weights", another_weight),
    ]
    assert all(one != other for k, one in enumerate(recipes) for other in recipes[:k])


# --- What is refused --------------------------------------------------------------------------------


def test_no_model_is_asked_for():
    refused("", r"names no model\. Write hf:<hub id or folder>", SettingsError)


@pytest.mark.parametrize("folder", ["/none/model", "./none", "~/none"])
def test_a_missing_folder_is_named(folder):
    refused(folder, r"none.* is not a folder of a transformers model: it has no config\.json")


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no-such-owner/no-such-model@v2"])
def test_a_hub_id_that_cannot_be_downloaded_says_how_to_bring_the_model(name):
    refused(name, r"cannot reach the hub.*HF_HOME.*save_pretrained\(folder\).*hf:/path/to/folder")


def test_a_model_without_two_towers_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(vocab_size=9, **checkpoints.SIZES)).save_pretrained(tmp_path)
    message = r"is a BertModel, which has no get_image_features and no get_text_features.*sbert:.*timm:"
    refused(tmp_path, message, SettingsError)


def respell(folder, **changes):
    """Rewrite the weights: a name with None is left out, others are set."""
    state = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: value for name, value in state.items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_listed_and_not_left_random(copy):
    respell(copy, **{"visual_projection.weight": None, "logit_scale": None})
    refused(copy, r"do not fit its network\. missing: 'logit_scale', 'visual_projection\.weight'\. Bring")


def test_weights_that_nothing_takes_are_listed(copy):
    respell(copy, **{"third_tower.weight": torch.zeros(2)})
    refused(copy, r"not the network's: 'third_tower\.weight'")


def test_tables_of_positions_of_older_versions_are_no_weights(copy, clip):
    respell(copy, **{"text_model.embeddings.position_ids": torch.arange(16)[None]})
    assert encoders.build(f"hf:{copy}").spec.recipe() == clip.spec.recipe()


def test_weights_of_another_size_are_refused(copy):
    respell(copy, **{"visual_projection.weight": torch.zeros(16, 8)})
    refused(copy, r"do not fit.*of another shape: 'visual_projection\.weight'")


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "were not loaded.*Weights must be the network's whole state dict")


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused(copy):
    tokenizer = checkpoints.byte_tokenizer()
    tokenizer.add_tokens(["sofa"])
    tokenizer.save_pretrained(copy)
    refused(copy, r"tokenizer of .* does not fit its weights: its ids go up to 261.* has 261 rows")


def test_a_processor_that_keeps_shapes_is_refused(copy):
    edit(copy / "preprocessor_config.json", do_center_crop=False)
    refused(
        copy,
        r"makes torch\.uint8 \[3, 37, 37\] of one picture and \[3, 37, 74\] of another, which no batch can hold",
        SettingsError,
    )


def test_a_processor_of_other_steps_has_no_fast_form(copy):
    transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, resample=0).save_pretrained(copy)
    assert encoders.build(f"hf:{copy}").picture.resize == "other"
    with pytest.raises(SettingsError, match=r"no fast form\. Use exact"):
        encoders.build(f"hf:{copy}", preparation="fast")


def test_code_in_a_models_folder_is_not_run(copy, tmp_path):
    (copy / "code.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    edit(copy / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    refused(copy, "were not loaded")
    assert not (tmp_path / "was_run").exists()


def test_safetensors_are_preferred(copy, clip, tmp_path):
    torch.save({"bomb": checkpoints.Bomb(tmp_path / "was_run")}, copy / "pytorch_model.bin")
    assert encoders.build(f"hf:{copy}").spec.recipe() == clip.spec.recipe()
    assert not (tmp_path / "was_run").exists()
