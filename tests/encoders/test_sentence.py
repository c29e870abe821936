"""sbert: the same numbers as SentenceTransformer.encode, and refusals that help."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders import _torchvision
from mmenc_plugin.errors import SettingsError, WeightsError
from mmenc_plugin.testing.samples import TEXTS

_torchvision.state()
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding  # noqa: E402


@pytest.fixture(scope="module")
def ours(tiny_sbert):
    return encoders.build(f"sbert:{tiny_sbert}")


def assert_like_encode(folder):
    encoder, model = encoders.build(f"sbert:{folder}"), SentenceTransformer(str(folder), device="cpu")
    expected = torch.from_numpy(model.encode(list(TEXTS), batch_size=len(TEXTS)))
    torch.testing.assert_close(encoder.embed_texts(TEXTS), expected, rtol=0, atol=1e-6)


def test_features_are_those_of_encode(tiny_sbert):
    assert_like_encode(tiny_sbert)


@pytest.mark.parametrize("mode", ["cls", "max"])
def test_features_are_those_of_encode_with_another_pooling(tiny_sbert, tmp_path, mode):
    transformer = SentenceTransformer(str(tiny_sbert), device="cpu")[0]
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=mode)], device="cpu").save(str(tmp_path))
    assert_like_encode(tmp_path)


def test_features_are_those_of_encode_with_a_default_prompt(tiny_sbert, tmp_path):
    """As many models have it, "passage: " or an instruction, which `encode` puts before each text."""
    model = SentenceTransformer(str(tiny_sbert), device="cpu")
    model.prompts, model.default_prompt_name = {"document": "shoe shoe shoe: "}, "document"
    model.save(str(tmp_path))
    assert_like_encode(tmp_path)


def test_features_are_those_of_encode_of_static_embeddings(ours, tmp_path):
    tokenizer = ours.model.tokenizer.backend_tokenizer
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(tmp_path))
    assert_like_encode(tmp_path)


def test_a_text_does_not_depend_on_the_longest_of_its_batch(ours):
    (alone,), (among, _) = ours.embed_texts(["red shoe"]), ours.embed_texts(["red shoe", "word " * 100])
    torch.testing.assert_close(alone, among, rtol=0, atol=1e-6)


def test_tokens_are_tensors_cut_at_the_models_length(ours):
    tokens = ours.tokenize(["a", "word " * 100])
    assert {"input_ids", "attention_mask"} <= set(tokens)
    assert tokens["input_ids"].shape == (2, 24)


def test_the_spec_says_what_was_loaded(ours):
    assert ours.spec.architecture == "Transformer > Pooling > Normalize"
    assert ours.spec.width == {"text": 32}
    assert ours.spec.preprocessing["text"]["max_tokens"] == 24


def test_a_copy_of_the_folder_has_the_same_recipe(ours, tiny_sbert, tmp_path):
    copy = shutil.copytree(tiny_sbert, tmp_path / "copy")
    assert encoders.build(f"sbert:{copy}").spec.recipe() == ours.spec.recipe()


def test_recipes_differ_with_pooling_length_tokenizer_and_weights(ours, tiny_sbert, tmp_path):
    def changed(name, change):
        model = SentenceTransformer(str(tiny_sbert), device="cpu")
        change(model)
        model.save(str(tmp_path / name))
        return encoders.build(f"sbert:{tmp_path / name}").spec.recipe()

    def another_weight(model):
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1

    recipes = [
        ours.spec.recipe(),
        changed("pooling", lambda model: setattr(model[1], "pooling_mode", "max")),
        changed("length", lambda model: setattr(model, "max_seq_length", 12)),
        changed("tokenizer", lambda model: model.tokenizer.add_tokens(["sofa"])),
        changed("weights", another_weight),
    ]
    assert all(one != other for k, one in enumerate(recipes) for other in recipes[:k])


def test_no_model_is_asked_for():
    with pytest.raises(SettingsError, match=r"names no model\. Write sbert:<hub id or folder>"):
        encoders.build("sbert:")


@pytest.mark.parametrize("folder", ["/none/model", "./none", "~/none"])
def test_a_missing_folder_is_named(folder):
    with pytest.raises(WeightsError, match=r"none.* is not a folder of a sentence-transformers model"):
        encoders.build(f"sbert:{folder}")


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(WeightsError, match="is not a folder of a sentence-transformers model"):
        encoders.build(f"sbert:{tmp_path}")


def test_a_folder_without_weights_is_refused(tiny_sbert, tmp_path):
    copy = shutil.copytree(tiny_sbert, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="were not loaded"):
        encoders.build(f"sbert:{copy}")


def without(folder, names):
    """Leave the weights out whose name has one of `names` in it."""
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not any(part in name for part in names)}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_listed_and_not_left_random(tiny_sbert, tmp_path):
    copy = shutil.copytree(tiny_sbert, tmp_path / "copy")
    without(copy, ["layer.1.output.dense", "word_embeddings"])
    with pytest.raises(
        WeightsError, match=r"do not fit its network\. missing: 'embeddings\.word_embeddings\.weight', '"
    ):
        encoders.build(f"sbert:{copy}")


def test_a_missing_pooler_is_none_of_ours(ours, tiny_sbert, tmp_path):
    """It is random, but the same every time, and no feature depends on it."""
    copy = shutil.copytree(tiny_sbert, tmp_path / "copy")
    without(copy, ["pooler"])
    one, two = encoders.build(f"sbert:{copy}"), encoders.build(f"sbert:{copy}")
    assert one.spec == two.spec
    assert torch.equal(one.embed_texts(TEXTS), ours.embed_texts(TEXTS))


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused(tiny_sbert, tmp_path):
    model = SentenceTransformer(str(tiny_sbert), device="cpu")
    rows = model[0].auto_model.get_input_embeddings().num_embeddings
    model.tokenizer.add_tokens(["sofa", "chair", "table"])
    model.save(str(tmp_path))
    with pytest.raises(WeightsError, match=rf"does not fit its weights: its ids go up to {rows}.* has {rows} rows"):
        encoders.build(f"sbert:{tmp_path}")


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no-such-model"])
def test_a_hub_id_that_cannot_be_downloaded_says_how_to_bring_the_model(name):
    with pytest.raises(WeightsError, match=r"cannot reach the hub.*\.save\(folder\).*sbert:/path/to/folder"):
        encoders.build(f"sbert:{name}")
