"""The key of a block changes with everything that its bytes depend on, and with nothing else."""

import dataclasses
import json

import pytest

from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.features import Recipe

SPEC = EncoderSpec(
    family="mine",
    architecture="Big-Net/14",
    weights="/models/a.pt",
    weights_sha256="ab" * 32,
    width={"image": 8, "text": 6},
    preprocessing={"image": {"size": 224}, "text": {"max_tokens": 77}},
    licence="MIT",
)
ASKED = {"modality": "image", "n_items": 10, "content": "cd" * 32, "shard_size": 1024, "batch_size": 32}


def key(spec=SPEC, **changes):
    return Recipe.of(spec, **{**ASKED, **changes}).key


def changed(**parts):
    return dataclasses.replace(SPEC, **parts)


def test_equal_ingredients_have_equal_keys():
    assert key() == key(dataclasses.replace(SPEC))


@pytest.mark.parametrize(
    "changes",
    [{"modality": "text"}, {"n_items": 11}, {"content": "ef" * 32}, {"shard_size": 512}, {"batch_size": 33}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_ingredient_changes_the_key(changes):
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "parts",
    [
        {"family": "yours"},
        {"architecture": "Big-Net-14"},
        {"weights_sha256": "ab" * 31 + "cd"},
        {"weights_sha256": ""},
        {"width": {"image": 9, "text": 6}},
        {"preprocessing": {"image": {"size": 256}, "text": {"max_tokens": 77}}},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_every_part_of_the_encoder_changes_the_key(parts):
    assert key(changed(**parts)) != key()


@pytest.mark.parametrize("weights", ["/elsewhere/b.safetensors", "openai", ""])
def test_the_path_of_the_same_weights_does_not_change_the_key(weights):
    assert key(changed(weights=weights)) == key()


def test_without_a_digest_the_name_of_the_weights_counts():
    one, other = (changed(weights_sha256="", weights=weights) for weights in ("v1", "v2"))
    assert key(one) != key(other)


def test_a_licence_does_not_change_the_key():
    assert key(changed(licence="unknown")) == key()


@pytest.mark.parametrize(
    "parts",
    [{"width": {"image": 8, "text": 7}}, {"preprocessing": {"image": {"size": 224}, "text": {"max_tokens": 9}}}],
    ids=["width", "preprocessing"],
)
def test_what_concerns_the_other_modality_does_not_change_the_key(parts):
    assert key(changed(**parts)) == key()
    assert key(changed(**parts), modality="text") != key(modality="text")


def test_a_key_is_a_readable_name_for_a_folder():
    assert key().startswith("image-mine-Big-Net-14-")
    long = key(changed(architecture="../../" + "very/long " * 50))
    assert "/" not in long
    assert " " not in long
    assert not long.startswith(".")
    assert len(long) < 100


def test_keys_of_names_that_are_written_alike_differ():
    assert key(changed(architecture="Big_Net/14")) != key(changed(architecture="Big-Net/14"))


def test_a_recipe_is_json():
    recipe = Recipe.of(SPEC, **ASKED)
    assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()
    assert recipe.as_dict()["encoder"]["width"] == 8


def test_a_key_is_the_same_in_every_version_of_this_format():
    """A change here makes every stored block worthless: let it be on purpose, and count FORMAT up."""
    assert key() == "image-mine-Big-Net-14-a0bcd973ccf85f00"
