"""An encoder's groups and rates: exact numbers."""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.settings import TuningSettings, validate
from mmenc_plugin.training import apply_tuning, encoder_groups, rate, trained_parameters


def by_name(encoder, groups):
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_rates_fall_from_block_to_block(build):
    encoder = build("openclip")
    apply_tuning(encoder, "full")
    settings = TuningSettings(encoder_learning_rate=0.8, layer_decay=0.5, encoder_weight_decay=0.3)
    found = by_name(encoder, encoder_groups(encoder, settings))
    assert found.keys() == trained_parameters(encoder).keys()
    assert (
        found.items()
        >= {
            "model.logit_scale": (0.8, 0.0),
            "model.visual.proj": (0.8, 0.3),
            "model.visual.ln_post.weight": (0.8, 0.0),
            "model.text.text_projection": (0.8, 0.3),
            "model.visual.transformer.resblocks.1.mlp.c_fc.weight": (0.4, 0.3),
            "model.visual.transformer.resblocks.1.mlp.c_fc.bias": (0.4, 0.0),
            "model.text.transformer.resblocks.0.attn.in_proj_weight": (0.2, 0.3),
            "model.text.transformer.resblocks.0.ln_1.weight": (0.2, 0.0),
            "model.visual.conv1.weight": (0.1, 0.3),
            "model.visual.class_embedding": (0.1, 0.0),
            "model.text.token_embedding.weight": (0.1, 0.3),
        }.items()
    )


def test_a_step_of_plain_descent_is_each_rate_times_the_gradient(build, loss):
    encoder = build("openclip")
    apply_tuning(encoder, "full")
    settings = TuningSettings(encoder_learning_rate=0.01, layer_decay=0.5, encoder_weight_decay=0)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    loss(encoder).backward()
    torch.optim.SGD(encoder_groups(encoder, settings), lr=1.0).step()
    depths = encoder.depths()
    for name, parameter in encoder.named_parameters():
        expected = before[name] - 0.01 * 0.5 ** (3 - depths[name]) * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12)


def test_without_decay_there_are_two_groups_of_one_rate(build):
    encoder = build("vlmo")
    apply_tuning(encoder, "full")
    found = by_name(encoder, encoder_groups(encoder, TuningSettings()))
    assert {lr for lr, _ in found.values()} == {1e-5}
    parameters = dict(encoder.named_parameters())
    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert without == {name for name in found if parameters[name].ndim < 2 or name == "network.transformer.cls_token"}
    assert {decay for _, decay in found.values()} == {0.0, 0.05}


@pytest.mark.parametrize(("scope", "rates"), [("head", {1.0}), ("top:1", {1.0, 0.5}), ("lora:1", {0.5, 0.25})])
def test_groups_hold_what_is_trained_alone(build, scope, rates):
    encoder = build("openclip")
    tuning = apply_tuning(encoder, scope)
    groups = encoder_groups(encoder, TuningSettings(tune=scope, encoder_learning_rate=1, layer_decay=0.5))
    found = by_name(encoder, groups)
    assert found.keys() == set(tuning.trained)
    assert {lr for lr, _ in found.values()} == rates
    if scope == "lora:1":  # a matrix of one row is a matrix
        assert {decay for _, decay in found.values()} == {0.05}
    assert all(group["params"] and group["name"] for group in groups)


def test_what_is_held_still_keeps_its_group(build):
    encoder = build("timm")
    apply_tuning(encoder, "top:1")
    groups = encoder_groups(encoder, TuningSettings())
    encoder.requires_grad_(False)
    assert [len(group["params"]) for group in encoder_groups(encoder, TuningSettings())] == [
        len(group["params"]) for group in groups
    ]


def test_groups_are_asked_for_after_a_tuning(build):
    with pytest.raises(SettingsError, match="call apply_tuning first"):
        encoder_groups(build("timm"), TuningSettings())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [1 / 3, 2 / 3] + [0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(9)]),
    ],
)
def test_the_course_of_the_rate(schedule, expected):
    """Ten steps, of which a fifth warm up; the eleventh is behind the last."""
    settings = TuningSettings(warmup=0.2, schedule=schedule)
    assert [rate(step, 10, settings) for step in range(11)] == pytest.approx(expected, abs=1e-12)


@hypothesis.given(st.integers(1, 60), st.floats(0, 1), st.sampled_from(["constant", "linear", "cosine"]))
def test_every_rate_is_a_share_and_rises_then_falls(steps, warmup, schedule):
    settings = TuningSettings(warmup=warmup, schedule=schedule)
    course = [rate(step, steps, settings) for step in range(steps)]
    assert all(0 < value <= 1 for value in course)
    top = course.index(max(course))
    assert course[: top + 1] == sorted(course[: top + 1])
    assert course[top:] == sorted(course[top:], reverse=True)
    assert [rate(steps + k, steps, settings) for k in (0, 9)] == [schedule == "constant"] * 2


@pytest.mark.parametrize(("step", "steps"), [(-1, 10), (0, 0), (3, -1)])
def test_steps_that_are_none_are_refused(step, steps):
    with pytest.raises(ValueError, match=f"step {step} of {steps}"):
        rate(step, steps, TuningSettings())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer_decay": 0}, "layer_decay is 0: input should be greater than 0"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1: input should be less than or equal to 1"),
        ({"encoder_learning_rate": 0}, "encoder_learning_rate is 0: input should be greater than 0"),
        ({"encoder_weight_decay": -1}, "encoder_weight_decay is -1"),
        ({"warmup": 2}, "warmup is 2: input should be less than or equal to 1"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"autocast": "float16"}, "Did you mean 'bfloat16'"),
        ({"tune": "tpo:2"}, r"tune is 'tpo:2': full, head, top:N .* Did you mean 'top:2'\? \(tune: full: all"),
        ({"tune": 2}, "tune is 2: input should be a valid string"),
    ],
)
def test_settings_out_of_bounds_are_named(given, message):
    with pytest.raises(SettingsError, match=message):
        validate(TuningSettings, given)
