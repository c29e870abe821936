"""vlmo: features of published checkpoints however they come, the original's preparation, and refusals that help."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmenc_plugin import encoders
from mmenc_plugin.encoders._vlmo import config as configs
from mmenc_plugin.encoders._vlmo import vocabulary
from mmenc_plugin.encoders._vlmo.positions import resize_embedding, resize_table, table_rows
from mmenc_plugin.errors import MediaError, SettingsError, UnknownNameError, WeightsError
from mmenc_plugin.testing.samples import TEXTS, picture

RECORDED = Path(__file__).parents[1] / "parity" / "vlmo"
NAME = "base_patch16_64"
PIECES = [*vocabulary.SPECIAL, *(f"word{k}" for k in range(507))]
PICTURES = [picture(1), picture(2, (9, 200))]


@pytest.fixture(autouse=True)
def _tiny_base(monkeypatch, tmp_path):
    """The recorded tiny network as `base`, and an empty Hugging Face cache."""
    sizes = {"width": 64, "depth": 4, "heads": 4, "vl_start": 3, "vocabulary": 512}
    monkeypatch.setitem(configs.SIZES, "base", configs.SIZES["base"] | sizes)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def state():
    """The weights of the recorded network, under the names of the published files."""
    return load_file(RECORDED / "tiny_rel" / "state_dict.safetensors")


@pytest.fixture
def publish(tmp_path):
    """publish(state): a checkpoint with its vocabulary beside it, and the URI that names it."""

    def write(state, name="vlmo.pt", architecture=NAME, pieces=PIECES):
        (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
        if name.endswith(".safetensors"):
            save_file(state, tmp_path / name)
        else:
            torch.save(state, tmp_path / name)
        return f"vlmo:{architecture}/{tmp_path / name}"

    return write


@pytest.fixture(scope="module")
def recorded():
    inputs, outputs = (load_file(RECORDED / "tiny_rel" / f"{name}.safetensors") for name in ("inputs", "outputs"))
    tokens = {"ids": inputs["text_ids"], "mask": inputs["text_masks"].bool()}
    return inputs["image"], tokens, outputs


def without(state, *starts):
    return {key: value for key, value in state.items() if not key.startswith(starts)}


@torch.no_grad()
def features(encoder, image, tokens):
    return encoder.encode_image(image), encoder.encode_text(tokens), encoder.encode_pair(image, tokens)


# --- Checkpoints, however they come -----------------------------------------------------------------


def as_lightning(state):
    return {"epoch": 3, "hyper_parameters": {"lr": 1e-4}, "state_dict": state}


def as_deepspeed(state):
    return {"global_steps": 9, "module": {f"module.{key}": value for key, value in state.items()}}


def with_index_buffers(state):
    return {"state_dict": state | load_file(RECORDED / "tiny_rel" / "rel_index.safetensors")}


def without_position_ids(state):
    return {"model": without(state, "text_embeddings.position_ids")}


@pytest.mark.parametrize("wrap", [dict, as_lightning, as_deepspeed, with_index_buffers, without_position_ids])
def test_every_layout_gives_the_originals_features(state, publish, recorded, wrap):
    image, tokens, out = recorded
    found = features(encoders.build(publish(wrap(state))), image, tokens)
    for ours, key, tolerance in zip(found, ("image", "text", "vl"), (1e-6, 1e-6, 1e-5), strict=True):
        torch.testing.assert_close(ours, out[f"{key}.cls_feats"], rtol=0, atol=tolerance)


def test_safetensors_and_a_saved_folder_are_the_same_encoder(state, publish, tmp_path, recorded):
    first = encoders.build(publish(state))
    second = encoders.build(publish(state, "vlmo.safetensors"))
    second.save(tmp_path / "saved")
    third = encoders.build(f"vlmo:{tmp_path / 'saved'}")
    assert first.spec.recipe() == second.spec.recipe() == third.spec.recipe()
    for one, other in zip(features(first, *recorded[:2]), features(third, *recorded[:2]), strict=True):
        assert torch.equal(one, other)


def test_half_precision_files_are_computed_in_float32(state, publish):
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    assert {value.dtype for value in encoders.build(publish(half)).state_dict().values()} == {torch.float32}


def test_the_text_stage_is_cut_to_40_tokens_and_gives_its_words(state, publish, recorded):
    """Of the original: the text stage's checkpoint, of 196 tokens, loaded for 40."""
    stage = without(state, "itc_", "itm_", "logit_")
    stage = {key: value for key, value in stage.items() if "_vl." not in key}
    longer = torch.cat([state["text_embeddings.position_embeddings.weight"], torch.ones(156, 64)])
    stage |= {"text_embeddings.position_embeddings.weight": longer, "text_embeddings.position_ids": torch.arange(196)}
    uri = publish(stage)
    with pytest.raises(WeightsError, match=r"no contrast heads and no vision-language experts: it gives no features\."):
        encoders.build(uri)
    network = encoders.vlmo.load_network(Path(uri.partition("/")[2]), configs.architecture(NAME))
    expected = load_file(RECORDED / "tiny_rel" / "outputs_text_stage.safetensors")
    ids = load_file(RECORDED / "tiny_rel" / "inputs.safetensors")["text_ids_mlm"]
    with torch.no_grad():
        words = network.text_tokens(ids, recorded[1]["mask"])
    torch.testing.assert_close(words, expected["text_feats"], rtol=0, atol=1e-5)
    torch.testing.assert_close(network.word_logits(words)[..., ::8], expected["mlm_logits"], rtol=0, atol=1e-4)
    with pytest.raises(WeightsError, match="checkpoint without vision-language experts"):
        network.pair_tokens(recorded[0], **recorded[1])


@pytest.mark.parametrize("side", [32, 96])
def test_positions_are_resized_to_the_named_picture_size(state, publish, side):
    encoder = encoders.build(publish(state, architecture=f"base_patch16_{side}"))
    expected = load_file(RECORDED / "tiny_rel" / "resized.safetensors")[f"table.{side}"]
    table = encoder.network.relative_position_bias_table[:, :3]
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-6)
    assert encoder.embed_images(PICTURES).shape == (2, 64)


def test_a_retrieval_checkpoint_gives_all_features(state, publish, recorded):
    """It has neither the second branch's heads nor those of matching and masked words."""
    encoder = encoders.build(publish(without(state, "itc_vl_", "logit_vl_", "itm_", "mlm_")))
    whole = encoders.build(publish(state))
    for one, other in zip(features(encoder, *recorded[:2]), features(whole, *recorded[:2]), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(WeightsError, match="checkpoint without contrast heads of the second branch"):
        encoder.network.image_contrast(recorded[0])
    with pytest.raises(WeightsError, match="checkpoint without a matching head"):
        encoder.network.matching_logits(torch.zeros(1, 64))


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_a_question_checkpoint_gives_fused_features_only(state, publish, recorded, task):
    image, tokens, out = recorded
    tuned = without(state, "itc_", "logit_", "itm_", "mlm_")
    tuned |= {f"{task}_classifier.{k}.weight": torch.ones(8) for k in (0, 1, 3)}
    if task == "nlvr2":
        types = tuned["token_type_embeddings.weight"]
        tuned["token_type_embeddings.weight"] = torch.cat([types, 5 * types[1:]])
    encoder = encoders.build(publish(tuned))
    with torch.no_grad():
        pooled = encoder.encode_pair(image, tokens)
    torch.testing.assert_close(pooled, out["vl.cls_feats"], rtol=0, atol=1e-5)
    for call in (lambda: encoder.encode_image(image), lambda: encoder.encode_text(tokens)):
        with pytest.raises(WeightsError, match=r"has no contrast heads: it gives fused features only.*384_coco\.pt"):
            call()


def test_random_weights_are_the_same_every_time_and_leave_the_random_state(cached):
    cached("\n".join(PIECES))
    torch.manual_seed(5)
    one = encoders.build(f"vlmo:{NAME}/random")
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two = encoders.build(f"vlmo:{NAME}/random")
    assert one.spec == two.spec
    assert torch.equal(one.embed_images(PICTURES), two.embed_images(PICTURES))


def test_bfloat16_is_close(tiny_vlmo):
    exact, quick = (encoders.build(f"vlmo:{tiny_vlmo}", precision=p) for p in ("float32", "bfloat16"))
    pairs = list(zip(PICTURES, TEXTS, strict=False))
    for embed in ("embed_images", "embed_texts", "embed_pairs"):
        inputs = {"embed_images": [PICTURES], "embed_texts": [TEXTS]}.get(embed, list(zip(*pairs, strict=True)))
        one, other = getattr(exact, embed)(*inputs), getattr(quick, embed)(*inputs)
        assert (torch.cosine_similarity(one, other) > 0.995).all(), embed
        assert not torch.equal(one, other)


# --- Preparation ------------------------------------------------------------------------------------


@pytest.fixture
def at_64(state, publish):
    return encoders.build(publish(state))


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_pixels_are_the_originals_bit_for_bit(at_64, name):
    """Of a photo, of one in grey, of one with transparent parts (whose colours show), of one already small."""
    expected = load_file(RECORDED / "preprocess" / "square_transform.safetensors")[f"{name}.64"]
    with Image.open(RECORDED / "preprocess" / f"{name}.png") as image:
        assert torch.equal(at_64.preprocess_images([image])[0], expected)


def test_pixels_at_224_are_the_originals_bit_for_bit(state, publish):
    encoder = encoders.build(publish(state, architecture="base_patch16_224"))
    with Image.open(RECORDED / "preprocess" / "a.png") as image:
        pixels = encoder.preprocess_images([image])[0]
    digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
    assert digest == "f8f250092be8923a4081fa3f9045387107326fcb7ae85a3e3478c762a7ac4238"


def test_texts_are_cut_into_berts_pieces(tmp_path):
    """Lower-cased, accents stripped, at most 40; the vocabulary holds only the pieces that the original found."""
    recorded = json.loads((RECORDED / "preprocess" / "bert_tokens.json").read_text(encoding="utf-8"))
    pieces = sorted({piece for tokens in recorded["tokens"] for piece in tokens} | set(vocabulary.SPECIAL))
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokens = vocabulary.WordPieces(tmp_path / "vocab.txt", len(pieces), 40)(recorded["texts"])
    found = [[pieces[k] for k in row[keep]] for row, keep in zip(tokens["ids"], tokens["mask"], strict=True)]
    assert found == recorded["tokens"]
    assert (tokens["ids"][~tokens["mask"]] == pieces.index("[PAD]")).all()


def test_texts_are_padded_to_the_longest_and_cut_at_the_limit(at_64):
    assert at_64.tokenize(["word1", "word1 word2"])["ids"].tolist() == [[2, 6, 3, 0], [2, 6, 7, 3]]
    assert at_64.tokenize(["word1 " * 500])["ids"].shape == (1, 40)
    assert torch.equal(at_64.embed_texts(["word1 " * 100]), at_64.embed_texts(["word1 " * 500]))


def test_the_spec_says_what_the_features_depend_on(at_64, tmp_path):
    spec = at_64.spec
    assert (spec.architecture, spec.width) == (NAME, {"image": 64, "text": 64, "fused": 64})
    assert spec.preprocessing["image"]["resize"] == "squash"
    digest = hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest()
    assert spec.preprocessing["text"]["vocabulary_sha256"] == digest
    assert spec.preprocessing["text"]["max_tokens"] == 40


# --- The vocabulary ---------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(text): a file in the Hugging Face cache, as bert-base-uncased's vocabulary."""

    def write(text, hub_id=vocabulary.HUB_ID, right=True):
        repo = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("1" * 40)
        path = repo / "snapshots" / ("1" * 40) / "vocab.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        if right:
            monkeypatch.setattr(vocabulary, "SHA256", hashlib.sha256(text.encode()).hexdigest())
        return path

    return write


@pytest.mark.parametrize("hub_id", vocabulary.HUB_NAMES)
def test_the_cache_is_asked_where_no_vocabulary_lies_beside_the_checkpoint(state, publish, tmp_path, cached, hub_id):
    uri = publish(state)
    beside = encoders.build(uri).spec
    shutil.move(tmp_path / "vocab.txt", tmp_path / "elsewhere")
    cached((tmp_path / "elsewhere").read_text(), hub_id)
    assert encoders.build(uri).spec == beside


def test_another_file_in_the_cache_is_refused(cached):
    path = cached("\n".join(PIECES), right=False)
    with pytest.raises(WeightsError, match=rf"{path} is not the vocabulary that VLMo was trained with.*hf download"):
        encoders.build(f"vlmo:{NAME}/random")


def test_no_vocabulary_anywhere_says_how_to_bring_it(state, publish, tmp_path):
    uri = publish(state)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=rf"with: hf download google-bert.*HF_HOME.*as {tmp_path}/vocab\.txt"):
        encoders.build(uri)
    with pytest.raises(WeightsError, match=r"neither beside .* cache.*with: hf download google-bert.*has it\)\.$"):
        encoders.build(f"vlmo:{NAME}/random")


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        (PIECES[:-1], "has 511 pieces, 511 different, and the network has 512 word embeddings"),
        ([*PIECES[:-1], PIECES[-2]], "has 512 pieces, 511 different"),
        (["[BLANK]", *PIECES[1:]], r"lacks \[PAD\]"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(state, publish, pieces, what):
    with pytest.raises(WeightsError, match=what):
        encoders.build(publish(state, pieces=pieces))


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_patch_224", r"no VLMo architecture named 'base_patch_224'\. Did you mean 'base_patch16_224'\?"),
        ("vlmo_base_plus_patch16_224", r"Did you mean 'base_plus_patch16_224'\?"),
        ("base_224", r"Did you mean 'base_patch16_224'\?"),
    ],
)
def test_an_unknown_architecture_gets_the_nearest_name(name, message):
    with pytest.raises(UnknownNameError, match=message):
        encoders.check(f"vlmo:{name}/random")


@pytest.mark.parametrize("pixels", ["0", "225", "8"])
def test_a_picture_size_that_is_no_multiple_of_16_is_refused(pixels):
    with pytest.raises(SettingsError, match=rf"{pixels} pixels are not a multiple of 16"):
        encoders.check(f"vlmo:base_patch16_{pixels}/random")


@pytest.mark.parametrize("uri", ["vlmo", "vlmo:", "vlmo:base_patch16_224", "vlmo:base_patch16_224/"])
def test_no_weights_are_asked_for(uri):
    with pytest.raises(SettingsError, match=r"names no weights\. Write vlmo:base_patch16_224//path/to/.*/random"):
        encoders.build(uri)


def test_a_tag_is_answered_with_where_the_files_are():
    expected = r"have no tags\. Bring a file from https://.*vlmo_ckpts.*as in vlmo:base_plus_patch16_224//path/to/"
    with pytest.raises(WeightsError, match=expected):
        encoders.check("vlmo:base_plus_patch16_224/pretrained")


def test_a_file_that_does_not_exist_is_named_before_anything_is_loaded():
    with pytest.raises(WeightsError, match=r"/none/x\.pt does not exist\. The published files are under https"):
        encoders.check("vlmo:base_patch16_224//none/x.pt")


def test_missing_keys_are_listed(state, publish):
    del state["pooler.dense.bias"], state["itc_text_proj.fc.weight"]
    expected = r"Tensors 2 missing: 'pooler\.dense\.bias', 'itc_text_proj\.fc\.weight'\."
    with pytest.raises(WeightsError, match=expected):
        encoders.build(publish(state))


def test_left_over_keys_are_listed_up_to_ten_and_counted(state, publish):
    more = {f"extra.{k}": torch.ones(1) for k in range(12)}
    with pytest.raises(WeightsError, match=r"12 left over: 'extra\.0', .*'extra\.9', \.\.\."):
        encoders.build(publish(state | more))


def test_other_shapes_are_listed(state, publish):
    state["token_type_embeddings.weight"] = torch.ones(3, 64)
    with pytest.raises(
        WeightsError, match=r"1 of another shape: 'token_type_embeddings.weight \[3, 64\] for \[2, 64\]'"
    ):
        encoders.build(publish(state))


def test_another_architecture_is_told_by_its_width_and_depth(state, publish):
    state["transformer.cls_token"] = torch.ones(1, 1, 544)
    state |= {f"transformer.blocks.{k}.norm1.weight": torch.ones(544) for k in range(24)}
    expected = (
        r"not base_patch16_64: it has width 544 and 24 blocks, and width 64 and 4 blocks were expected\. "
        r"It is base_plus's: write vlmo:base_plus_patch16_64//.*vlmo\.pt$"
    )
    with pytest.raises(WeightsError, match=expected):
        encoders.build(publish(state))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"visual.proj": torch.ones(2)},
            r"holds no VLMo: 'transformer\.cls_token' is missing; there are 'visual\.proj'",
        ),
        ({"state_dict": {"a": 1}}, r"is no state dict: tensors by name were expected"),
        ([torch.ones(2)], r"is no state dict"),
    ],
)
def test_something_else_is_refused(publish, content, message):
    with pytest.raises(WeightsError, match=message):
        encoders.build(publish(content))


def test_a_table_of_no_square_picture_is_refused(state, publish):
    state["relative_position_bias_table"] = torch.ones(450, 16)
    with pytest.raises(WeightsError, match="450 rows is none of VLMo's"):
        encoders.build(publish(state))


def test_positions_that_cannot_be_resized_are_refused():
    with pytest.raises(WeightsError, match="of 2 patches on a side are too few to be resized; 3 are needed"):
        resize_table(torch.zeros(table_rows(2), 4), 4)
    with pytest.raises(WeightsError, match="positions of 10 patches are not those of a square picture"):
        resize_embedding(torch.zeros(1, 11, 4), 4)


def test_a_truncated_file_is_refused(state, publish, tmp_path):
    uri = publish(state)
    whole = (tmp_path / "vlmo.pt").read_bytes()
    (tmp_path / "vlmo.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"vlmo\.pt is damaged or cut off"):
        encoders.build(uri)


class Bomb:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_with_code_is_refused_and_not_run(state, publish, tmp_path):
    uri = publish({"state_dict": state, "hyper_parameters": Bomb(tmp_path / "was_run")})
    with pytest.raises(WeightsError, match="holds more than tensors, and is not opened"):
        encoders.build(uri)
    assert not (tmp_path / "was_run").exists()


def test_pixels_of_another_size_and_texts_that_were_not_cut_are_refused(at_64):
    with pytest.raises(MediaError, match=r"shape \[1, 3, 32, 32\] were given to a network for pictures of 3 x 64 x 64"):
        at_64.encode_image(torch.zeros(1, 3, 32, 32))
    with pytest.raises(SettingsError, match="a text of 41 tokens was given to a network for at most 40"):
        at_64.encode_text({"ids": torch.ones(1, 41, dtype=torch.int64), "mask": torch.ones(1, 41, dtype=torch.bool)})


# --- Folders ----------------------------------------------------------------------------------------


def test_a_folder_that_lacks_a_file_is_refused(tiny_vlmo, tmp_path):
    folder = shutil.copytree(tiny_vlmo, tmp_path / "copy")
    assert encoders.build(f"vlmo:{folder}").spec.recipe() == encoders.build(f"vlmo:{tiny_vlmo}").spec.recipe()
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"no folder of a VLMo: it has no vocab\.txt\."):
        encoders.check(f"vlmo:{folder}")
    with pytest.raises(WeightsError, match=r"/none is no folder of a VLMo: it has no config\.json, no model"):
        encoders.check("vlmo:/none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depht": 3}, "depht: Extra inputs are not permitted"),
        ({"heads": 3}, "width 32 cannot be shared by 3 heads"),
        ({"vl_start": 9}, "vl_start 9 lies behind the last of 3 blocks"),
        ({"image_size": 40}, "image_size: Input should be a multiple of 16"),
        ({"depth": 4}, "it has width 32 and 3 blocks, and width 32 and 4 blocks were expected"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tiny_vlmo, tmp_path, change, message):
    folder = shutil.copytree(tiny_vlmo, tmp_path / "copy")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        encoders.build(f"vlmo:{folder}")


def test_a_config_that_is_no_json_is_refused(tiny_vlmo, tmp_path):
    folder = shutil.copytree(tiny_vlmo, tmp_path / "copy")
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is damaged.*Save the encoder anew"):
        encoders.build(f"vlmo:{folder}")


def test_tokens_are_counted_before_they_are_cut(at_64):
    """[CLS], the pieces, [SEP]; a long text's, as many texts of one word each would have."""
    (one, word, long) = at_64.token_counts([" ", "a", "a " * 100]).tolist()
    assert one == 2
    assert long - 2 == 100 * (word - 2)
