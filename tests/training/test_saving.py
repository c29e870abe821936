"""Saved encoders: built again they give the same outputs, and they say where they come from."""

import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import torch
from conftest import KINDS
from safetensors.torch import load_file, save_file

from mmenc_plugin import __version__, encoders
from mmenc_plugin.errors import SettingsError, StoreError
from mmenc_plugin.testing import samples
from mmenc_plugin.training import apply_tuning, merge, save_encoder, trained_state

BASE = {"base": "openclip:ViT-B-32/openai", "settings": {"tune": "lora:2"}, "data": "00ff"}


def embedded(encoder):
    return {m: samples.embed(encoder, m, samples.inputs_of(m)) for m in sorted(encoder.modalities)}


def equal(one, other):
    return all(torch.equal(one[m], other[m]) for m in one)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", [*KINDS, "resnet"])
def test_a_tuned_encoder_is_built_again(build, step, tmp_path, kind):
    encoder = build(kind, torch.float32)
    apply_tuning(encoder, "full")
    if kind != "resnet":
        step(encoder, rate=1e-3)
    uri = save_encoder(encoder, tmp_path / "tuned", BASE)
    again = encoders.build(uri)
    assert uri.startswith(f"{encoder.family}:")
    assert uri.endswith(str(tmp_path / "tuned"))
    assert equal(embedded(again), embedded(encoder))
    assert again.spec.width == encoder.spec.width
    assert again.spec.preprocessing == encoder.spec.preprocessing
    assert again.spec.weights_sha256 == encoder.weights_digest()
    assert not [name for name in names(tmp_path / "tuned") if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    assert any(name.endswith(".safetensors") for name in names(tmp_path / "tuned"))


@pytest.mark.parametrize("kind", ["openclip", "clip", "sbert", "vlmo", "timm"])
def test_adapters_are_folded_into_a_copy(build, step, tmp_path, kind):
    """What is saved equals the encoder after `merge`; the encoder itself learns on."""
    encoder = build(kind, torch.float32)
    apply_tuning(encoder, "lora:2")
    step(encoder, 3, rate=0.01)
    state = {name: value.clone() for name, value in trained_state(encoder).items()}
    before = embedded(encoder)
    uri = save_encoder(encoder, tmp_path / "tuned", BASE)
    assert all(torch.equal(value, state[name]) for name, value in trained_state(encoder).items())
    assert equal(embedded(encoder), before)
    again = encoders.build(uri)
    for modality, value in embedded(again).items():
        torch.testing.assert_close(value, before[modality], rtol=1e-4, atol=1e-4)
    merge(encoder)
    assert equal(embedded(again), embedded(encoder))
    assert again.spec.weights_sha256 == encoder.weights_digest()


def test_the_lineage_says_what_made_the_weights(build, step, tmp_path):
    encoder = build("openclip", torch.float32)
    untouched = encoder.spec.weights_sha256
    tuning = apply_tuning(encoder, "lora:2")
    step(encoder, 2, rate=0.1)
    again = encoders.build(save_encoder(encoder, tmp_path / "tuned", BASE))
    told = json.loads((tmp_path / "tuned" / "lineage.json").read_text())
    assert told.items() >= BASE.items()
    assert told["weights_sha256"] == {"before": untouched, "after": again.spec.weights_sha256}
    assert untouched != again.spec.weights_sha256
    assert told["tune"] == "lora:2"
    assert told["parameters"] == {"trained": tuning.n_trained, "all": tuning.n_all}
    assert told["versions"]["mmenc-plugin"] == __version__
    assert told["versions"]["torch"] == torch.__version__


def test_the_lineage_of_an_encoder_that_was_not_tuned(build, tmp_path):
    encoder = build("timm", torch.float32)
    save_encoder(encoder, tmp_path / "same", {})
    told = json.loads((tmp_path / "same" / "lineage.json").read_text())
    assert told["weights_sha256"] == {"before": encoder.spec.weights_sha256, "after": encoder.spec.weights_sha256}
    assert told["tune"] is None


def test_a_saved_encoder_is_saved_again(build, tmp_path):
    first = encoders.build(build("openclip", torch.float32).save(tmp_path / "one"))
    second = encoders.build(first.save(tmp_path / "two"))
    assert equal(embedded(first), embedded(second))
    assert first.spec.recipe() == second.spec.recipe()


def test_the_base_may_go_before_the_encoder_is_saved(tmp_path, step):
    (tmp_path / "base").mkdir()
    folder = checkpoints.openclip(tmp_path / "base")
    encoder = encoders.build(f"openclip:local-dir:{folder}")
    shutil.rmtree(folder)
    assert equal(embedded(encoders.build(encoder.save(tmp_path / "saved"))), embedded(encoder))


# --- Whole or not at all ------------------------------------------------------------------------------


def test_a_save_that_fails_leaves_what_was_there(build, tmp_path, monkeypatch):
    encoder = build("openclip", torch.float32)
    uri = save_encoder(encoder, tmp_path / "kept", BASE)
    before, files = embedded(encoders.build(uri)), names(tmp_path)

    def full(folder):
        (folder / "open_clip_config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoder, "write", full)
    with pytest.raises(StoreError, match=r"cannot be written to .*kept: No space left on device\. Make room"):
        save_encoder(encoder, tmp_path / "kept", BASE)
    assert names(tmp_path) == files
    assert equal(embedded(encoders.build(uri)), before)


def test_a_rename_that_fails_brings_the_old_folder_back(build, tmp_path, monkeypatch):
    encoder = build("timm", torch.float32)
    uri = save_encoder(encoder, tmp_path / "kept", BASE)
    files, rename = names(tmp_path), Path.replace

    def fails(path, target):
        if path.name.endswith(".part"):
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(StoreError, match="Permission denied"):
        save_encoder(encoder, tmp_path / "kept", BASE)
    assert names(tmp_path) == files
    assert equal(embedded(encoders.build(uri)), embedded(encoder))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_saved_encoder_is_not_replaced(build, tmp_path, kind):
    path = tmp_path / "data"
    if kind == "folder":
        path.mkdir()
    mine = path / "mine.txt" if kind == "folder" else path
    mine.write_text("precious")
    with pytest.raises(StoreError, match=r"data holds other things than a saved encoder, and is not replaced"):
        save_encoder(build("timm", torch.float32), path, {})
    assert mine.read_text() == "precious"


def test_an_empty_folder_is_taken(build, tmp_path):
    (tmp_path / "empty").mkdir()
    encoder = build("timm", torch.float32)
    assert equal(embedded(encoders.build(save_encoder(encoder, tmp_path / "empty", {}))), embedded(encoder))


def test_a_save_replaces_the_whole_folder(build, tmp_path, step):
    encoder = build("openclip", torch.float32)
    uri = save_encoder(encoder, tmp_path / "kept", BASE)
    (tmp_path / "kept" / "left_over.txt").write_text("of an older one")
    apply_tuning(encoder, "head")
    step(encoder, rate=0.1)
    assert save_encoder(encoder, tmp_path / "kept", BASE) == uri
    assert equal(embedded(encoders.build(uri)), embedded(encoder))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert "left_over.txt" not in names(tmp_path / "kept")


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object()])
def test_a_lineage_that_is_no_json_is_refused_before_anything_is_written(build, tmp_path, value):
    with pytest.raises(SettingsError, match="lineage of an encoder must be JSON"):
        save_encoder(build("timm", torch.float32), tmp_path / "x", {"data": value})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written to .*file/x: "):
        save_encoder(build("timm", torch.float32), tmp_path / "file" / "x", {})


def test_a_family_without_parameters_is_not_saved(tmp_path):
    with pytest.raises(SettingsError, match="nothing to train or to save"):
        save_encoder(encoders.build("classic"), tmp_path / "x", {})


def test_adapters_are_not_saved_by_the_family(build, tmp_path):
    encoder = build("openclip")
    apply_tuning(encoder, "lora:2")
    with pytest.raises(SettingsError, match="merge them first, or use save_encoder"):
        encoder.save(tmp_path / "x")


# --- Encoders of other makes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT-Ti-8-64", "ViT-S-8-64"])
def test_the_small_architectures_of_this_package(tmp_path, name):
    encoder = encoders.build(f"openclip:{name}/random")
    assert (encoder.picture.height, encoder.picture.width) == (64, 64)
    assert encoder.spec.preprocessing["text"]["max_tokens"] == 32
    assert equal(embedded(encoders.build(encoder.save(tmp_path / "saved"))), embedded(encoder))
    weights = tmp_path / "saved" / "open_clip_model.safetensors"
    assert equal(embedded(encoders.build(f"openclip:{name}/{weights}")), embedded(encoder))


@pytest.mark.parametrize(
    "changes",
    [
        {"quick_gelu": True},
        {"custom_text": True, "text": {"no_causal_mask": True, "pool_type": "last"}},
        {"text": {"hf_tokenizer_name": "its own", "vocab_size": 600}},
    ],
    ids=["quick gelu", "reads the padding", "tokenizer in files"],
)
def test_openclip_models_of_other_kinds(tmp_path, changes):
    if "hf_tokenizer_name" in changes.get("text", {}):
        checkpoints.byte_tokenizer().save_pretrained(tmp_path)
    encoder = encoders.build(f"openclip:local-dir:{checkpoints.openclip(tmp_path, **changes)}")
    again = encoders.build(encoder.save(tmp_path / "saved"))
    assert equal(embedded(again), embedded(encoder))
    assert again.spec.recipe() == encoder.spec.recipe()


def test_timm_weights_of_a_file(tmp_path):
    """With a classifier, which is left out."""
    encoders.registry.get("timm").library("timm")
    import timm

    state = timm.create_model("test_vit2", num_classes=7).state_dict()
    save_file(state, tmp_path / "x.safetensors")
    encoder = encoders.build(f"timm:test_vit2/{tmp_path / 'x.safetensors'}")
    again = encoders.build(encoder.save(tmp_path / "saved"))
    assert equal(embedded(again), embedded(encoder))
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if name.startswith("head.")]
