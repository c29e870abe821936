"""Scopes of tuning: each touches exactly what it names, and adapters are what the paper says."""

import copy
import re
import sys

import pytest
import torch
from conftest import KINDS
from torch import nn

from mmenc_plugin import encoders
from mmenc_plugin.errors import CheckpointError, MissingExtraError, SettingsError
from mmenc_plugin.settings import TuningSettings, validate
from mmenc_plugin.training import (
    apply_tuning,
    load_trained_state,
    merge,
    trained_parameters,
    trained_state,
    tuning_of,
)
from mmenc_plugin.training._attention import SplitAttention

# By family: parameters of the head, of the last block(s), and those that no output depends on.
HEAD = {
    "openclip": r"model\.(visual\.(ln_post|proj)|text\.(ln_final|text_projection)|logit_scale)",
    "clip": r"model\.(vision_model\.post_layernorm|text_model\.final_layer_norm|.*_projection|logit_scale)",
    "siglip": r"model\.(vision_model\.(post_layernorm|head)|text_model\.(final_layer_norm|head)|logit_)",
    "align": r"model\.(text_projection|temperature)",
    "sbert": r"nothing",
    "vlmo": r"network\.(transformer\.norm|pooler|itc_|itm_score|mlm_score|logit_)",
    "timm": r"model\.norm",
}
LAST = {
    "openclip": r"model\.(visual|text)\.transformer\.resblocks\.1\.",
    "clip": r"model\.(vision|text)_model\.encoder\.layers\.1\.",
    "siglip": r"model\.(vision|text)_model\.encoder\.layers\.1\.",
    "align": r"model\.(vision_model\.encoder\.blocks\.1\.|text_model\.encoder\.layer\.1\.)",
    "sbert": r".*encoder\.layer\.1\.",
    "vlmo": r"network\.transformer\.blocks\.2\.",
    "timm": r"model\.blocks\.5\.",
}
DEAD = {"align": r".*\.pooler\.", "sbert": r".*\.pooler\.", "vlmo": r".*position_embeddings"}
LORA = [kind for kind in KINDS if kind != "align"]  # whose image tower has no linear layer


def expected(kind, scope, names):
    live = {name for name in names if not re.match(DEAD.get(kind, "nothing"), name)}
    patterns = {"full": ["."], "head": [HEAD[kind]], "top:1": [HEAD[kind], LAST[kind]]}[scope]
    return {name for name in live if any(re.match(pattern, name) for pattern in patterns)}


def snapshot(encoder):
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def changed(before, encoder):
    return {name for name, value in encoder.state_dict().items() if not torch.equal(before[name], value)}


def difference(one, other):
    return max((one[m] - other[m]).abs().max().item() for m in one)


# --- What each scope touches -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["full", "head", "top:1"])
def test_a_step_changes_what_the_scope_names_and_nothing_else(build, step, kind, scope):
    encoder = build(kind)
    names = [name for name, _ in encoder.named_parameters()]
    wanted = expected(kind, scope, names)
    if not wanted:
        with pytest.raises(SettingsError, match="matches no parameter"):
            apply_tuning(encoder, scope)
        return
    tuning = apply_tuning(encoder, scope)
    assert set(tuning.trained) == wanted
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == wanted
    before = snapshot(encoder)
    step(encoder)
    assert changed(before, encoder) == wanted
    assert not encoder.training
    assert tuning.n_all == sum(p.numel() for p in encoder.parameters())
    assert tuning.n_trained == sum(p.numel() for name, p in encoder.named_parameters() if name in wanted)


@pytest.mark.parametrize("kind", LORA)
def test_lora_changes_adapters_alone(build, step, kind):
    """In the first step B alone, since it is zero; then A and B of every adapter. No layer's own weight moves."""
    encoder = build(kind)
    own = sum(p.numel() for p in encoder.parameters())
    tuning = apply_tuning(encoder, "lora:2")
    names = set(tuning.trained)
    assert names == {name for name, _ in encoder.named_parameters() if ".lora_" in name}
    before = snapshot(encoder)
    step(encoder, rate=0.1)
    assert changed(before, encoder) == {name for name in names if ".lora_B." in name}
    step(encoder, rate=0.1)
    assert changed(before, encoder) == names
    assert tuning.n_all == own
    assert tuning.n_trained == sum(p.numel() for name, p in encoder.named_parameters() if name in names)


def test_lora_stands_beside_every_attention_and_mlp_layer(build):
    """Of the smallest OpenCLIP: two projections of the attention and two of the MLP, in two blocks of two towers."""
    adapted = {name.partition(".lora_")[0] for name in apply_tuning(build("openclip"), "lora:2").trained}
    towers = ("model.visual.transformer.resblocks", "model.text.transformer.resblocks")
    layers = ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    assert adapted == {f"{tower}.{block}.{layer}" for tower in towers for block in (0, 1) for layer in layers}


def test_lora_of_vlmo_has_all_experts(build):
    adapted = {name.partition(".lora_")[0] for name in apply_tuning(build("vlmo"), "lora:2").trained}
    layers = {"attn.qkv", "attn.proj"} | {f"mlp_{e}.{fc}" for e in ("text", "imag") for fc in ("fc1", "fc2")}
    wanted = {f"network.transformer.blocks.{block}.{layer}" for block in range(3) for layer in layers}
    assert adapted == wanted | {f"network.transformer.blocks.2.mlp_vl.{fc}" for fc in ("fc1", "fc2")}


def test_a_layer_whose_weight_is_read_and_not_called_has_no_adapter(tmp_path):
    """BEiT's attention multiplies by its weight itself: an adapter beside the layer would learn nothing."""
    encoders.registry.get("timm").library("timm")
    import timm
    from timm.models import save_for_hf

    sizes = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}
    save_for_hf(timm.create_model("beit_base_patch16_224", num_classes=0, **sizes), tmp_path, safe_serialization=True)
    encoder = encoders.build(f"timm:local-dir:{tmp_path}")
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in apply_tuning(encoder, "lora:1").trained}
    assert adapted == {"proj", "fc1", "fc2"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_trained_for_the_modalities_has_a_gradient(build, loss, kind):
    encoder = build(kind)
    apply_tuning(encoder, "full", uses=encoder.modalities)
    loss(encoder, encoder.modalities).backward()
    trained = trained_parameters(encoder)
    assert all(parameter.grad is not None for parameter in trained.values())
    assert not [name for name in trained if "logit_" in name or "temperature" in name]


@pytest.mark.parametrize("kind", ["openclip", "clip", "siglip", "align", "vlmo"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_tower_of_a_modality_that_is_not_used_stays(build, loss, kind, modality):
    encoder = build(kind)
    apply_tuning(encoder, "full", uses={modality})
    loss(encoder, {modality}).backward()
    having = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert having == set(trained_parameters(encoder))


@pytest.mark.parametrize(
    ("kind", "modality", "tower"), [("openclip", "image", "visual"), ("align", "text", "text_model")]
)
def test_adapters_stand_in_the_tower_that_is_used(build, kind, modality, tower):
    """Also where the other tower could have none."""
    trained = apply_tuning(build(kind), "lora:2", uses={modality}).trained
    assert trained
    assert all(name.startswith(f"model.{tower}.") for name in trained)


def test_adapters_of_many_layers_are_those_of_the_tower_alone():
    """peft shortens a long list of names, and must not reach into the other tower by that."""
    encoder = encoders.build("openclip:ViT-S-8-64/random")
    adapted = {name.partition(".lora_")[0] for name in apply_tuning(encoder, "lora:1", uses={"image"}).trained}
    assert len(adapted) == 6 * 4
    assert all(name.startswith("model.visual.transformer.resblocks.") for name in adapted)


@pytest.mark.parametrize("scope", ["full", "head", "lora:2"])
def test_a_use_that_the_encoder_does_not_have_matches_nothing(build, scope):
    with pytest.raises(SettingsError, match=r"matches no parameter of the encoder .*\(0 could be trained"):
        apply_tuning(build("openclip"), scope, uses={"mlm"})


def test_constants_of_the_library_stay_constants(tmp_path, step):
    """Places as sines, which OpenCLIP builds without gradients."""
    import checkpoints

    vision = {**checkpoints.OPENCLIP["vision_cfg"], "pos_embed_type": "sin_cos_2d"}
    encoder = encoders.build(f"openclip:local-dir:{checkpoints.openclip(tmp_path, vision_cfg=vision)}").double()
    assert encoder.fixed == {"model.visual.positional_embedding"}
    assert "model.visual.positional_embedding" not in apply_tuning(encoder, "full").trained
    merge(encoder)
    assert not encoder.model.visual.positional_embedding.requires_grad
    assert encoder.model.visual.proj.requires_grad


def test_scopes_may_follow_one_another(build, outputs, step):
    encoder = build("openclip")
    names = [name for name, _ in encoder.named_parameters()]
    apply_tuning(encoder, "lora:2")
    step(encoder, 2, rate=0.1)
    learned = outputs(encoder)
    assert apply_tuning(encoder, "full").n_trained == sum(p.numel() for p in encoder.parameters())
    assert [name for name, _ in encoder.named_parameters()] == names
    assert difference(outputs(encoder), learned) < 1e-9


# --- Adapters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LORA)
def test_adapters_start_as_nothing_and_merge_without_a_trace(build, outputs, step, kind):
    encoder = build(kind)
    first, names = outputs(encoder), [name for name, _ in encoder.named_parameters()]
    kinds = [type(module) for module in encoder.modules()]
    apply_tuning(encoder, "lora:2")
    assert difference(outputs(encoder), first) < (1e-6 if kind == "vlmo" else 1e-12)  # VLMo's heads are in float32
    step(encoder, 3, rate=0.1)
    learned = outputs(encoder)
    assert difference(learned, first) > 1e-3
    merge(encoder)
    assert difference(outputs(encoder), learned) < (1e-6 if kind == "vlmo" else 1e-9)
    assert [name for name, _ in encoder.named_parameters()] == names
    assert [type(module) for module in encoder.modules()] == kinds
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert tuning_of(encoder) is None


def test_a_merged_weight_is_w_plus_b_a(build, step):
    encoder = build("openclip")
    name = "model.text.transformer.resblocks.1.attn.in_proj"
    before = encoder.get_parameter(f"{name}_weight").detach().clone()
    apply_tuning(encoder, "lora:2")
    step(encoder, 3, rate=0.1)
    layer = encoder.get_submodule(name)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.linalg.matrix_rank(product.detach()) == 2
    merge(encoder)
    torch.testing.assert_close(encoder.get_parameter(f"{name}_weight"), before + product, rtol=0, atol=1e-12)


def test_forward_passes_leave_the_weights_as_they_are(build, outputs):
    """To the bit: what a checkpoint of the adapters alone stands on may not wear off."""
    encoder = build("openclip", torch.float32)
    apply_tuning(encoder, "lora:4")
    for parameter in trained_parameters(encoder).values():
        nn.init.normal_(parameter)
    before = snapshot(encoder)
    for _ in range(5):
        outputs(encoder)
    assert changed(before, encoder) == set()


@pytest.mark.parametrize("mask", [None, "floats", "bools"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_split_attention_is_torchs_attention(mask, batch_first, bias):
    whole = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first).double().eval()
    if bias:
        nn.init.normal_(whole.in_proj_bias)
    masks = {None: None, "floats": torch.full((5, 5), -1e4).triu(1).double(), "bools": torch.ones(5, 5).triu(1).bool()}
    x = torch.randn(2, 5, 12).double() if batch_first else torch.randn(5, 2, 12).double()
    one = whole(x, x, x, need_weights=False, attn_mask=masks[mask])[0]
    split = SplitAttention(whole)
    other = split(x, x, x, need_weights=False, attn_mask=masks[mask])[0]
    torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
    assert split.whole is whole
    torch.testing.assert_close(whole(x, x, x, need_weights=False, attn_mask=masks[mask])[0], one, rtol=0, atol=0)


def test_split_attention_refuses_what_it_does_not_compute():
    attention, x = SplitAttention(nn.MultiheadAttention(4, 2)), torch.randn(3, 1, 4)
    with pytest.raises(NotImplementedError, match="self-attention"):
        attention(x, x + 1, x)
    assert not SplitAttention.fits(nn.MultiheadAttention(4, 2, kdim=3))
    assert not SplitAttention.fits(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    assert not SplitAttention.fits(nn.Linear(4, 4))


@pytest.mark.parametrize("kind", LORA)
def test_adapters_learn_under_autocast(build, loss, kind):
    encoder = build(kind, torch.float32)
    apply_tuning(encoder, "lora:2")
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(encoder)
    total.backward()
    for name, parameter in trained_parameters(encoder).items():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() == (".lora_B." in name), name


def test_adapters_learn_beside_coarse_weights(uri_of, step):
    encoder = encoders.build(uri_of("openclip"), precision="bfloat16")
    apply_tuning(encoder, "lora:2")
    assert {parameter.dtype for parameter in trained_parameters(encoder).values()} == {torch.float32}
    step(encoder, 2, rate=0.1)
    assert all(parameter.any() for parameter in trained_parameters(encoder).values())


def test_a_copy_of_an_encoder_with_adapters_is_another_encoder(build, outputs, step):
    encoder = build("openclip")
    apply_tuning(encoder, "lora:2")
    encoder.set_gradient_checkpointing(True)
    step(encoder, 2, rate=0.1)
    learned = outputs(encoder)
    twin = copy.deepcopy(encoder)
    step(twin, 2, rate=0.1)
    merge(twin)
    assert difference(outputs(encoder), learned) == 0
    assert difference(outputs(twin), learned) > 1e-4
    assert any(".lora_" in name for name, _ in encoder.named_parameters())


# --- States ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["openclip", "clip", "vlmo"])
@pytest.mark.parametrize("scope", ["full", "head", "top:1", "lora:2"])
def test_a_state_brings_an_encoder_back(build, outputs, step, kind, scope):
    encoder, fresh = build(kind), build(kind)
    apply_tuning(encoder, scope)
    step(encoder, 2, rate=0.01)
    apply_tuning(fresh, scope)
    state = {name: value.clone() for name, value in trained_state(encoder).items()}
    assert set(state) == set(tuning_of(encoder).trained)
    load_trained_state(fresh, state)
    assert difference(outputs(fresh), outputs(encoder)) == 0


@pytest.mark.parametrize(("first", "then"), [("lora:2", "lora:4"), ("head", "top:1"), ("full", "lora:2")])
def test_a_state_of_another_scope_is_refused(build, first, then):
    encoder = build("openclip")
    apply_tuning(encoder, first)
    state = {name: value.clone() for name, value in trained_state(encoder).items()}
    apply_tuning(encoder, then)
    before = snapshot(encoder)
    with pytest.raises(CheckpointError, match=rf"what tune: {then} trains.*Set encoder and tune to what they were"):
        load_trained_state(encoder, state)
    assert changed(before, encoder) == set()


def test_a_state_is_asked_for_after_a_tuning(build):
    with pytest.raises(SettingsError, match="call apply_tuning first"):
        trained_state(build("timm"))


def test_what_is_held_still_for_a_while_is_in_the_state(build):
    encoder = build("timm")
    names = set(apply_tuning(encoder, "top:1").trained)
    encoder.requires_grad_(False)
    assert set(trained_state(encoder)) == names


# --- Gradient checkpointing --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["full", "lora:2"])
def test_checkpointing_computes_blocks_twice_and_the_same_gradients(build, loss, kind, scope):
    if scope == "lora:2" and kind not in LORA:
        return
    encoder = build(kind)
    apply_tuning(encoder, scope)
    calls = []
    for block in encoder.blocks():
        next(block.children()).register_forward_hook(lambda *_: calls.append(1))
    value, gradients, once = _run(encoder, loss, calls)
    encoder.set_gradient_checkpointing(True)
    again, recomputed, twice = _run(encoder, loss, calls)
    assert torch.equal(value, again)
    assert all(torch.allclose(gradients[n], recomputed[n], rtol=1e-12, atol=1e-12) for n in gradients)
    assert twice == 2 * once > 0
    encoder.set_gradient_checkpointing(False)
    assert _run(encoder, loss, calls)[2] == once


def _run(encoder, loss, calls):
    calls.clear()
    encoder.zero_grad()
    value = loss(encoder)
    value.backward()
    return value.detach(), {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}, len(calls)


# --- Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tune", "near"),
    [
        ("tpo:2", "top:2"), ("lora:0", "lora:8"), ("lora:x", "lora:8"), ("lora", "lora:8"), ("top", "top:2"),
        ("top:-1", "top:1"), ("Full", "full"), ("heads", "head"), ("", "full"), ("lora:8.5", "lora:85"),
        ("lroa:16", "lora:16"), ("top:0", "top:2"), ("full:2", "full"),
    ],
)  # fmt: skip
def test_a_scope_that_is_none_gets_the_nearest_one(build, tune, near):
    expected = rf"tune is '{re.escape(tune)}': full, head, top:N .* or lora:R .* Did you mean '{near}'\?"
    with pytest.raises(SettingsError, match=expected):
        apply_tuning(build("timm"), tune)
    with pytest.raises(SettingsError, match=expected):
        validate(TuningSettings, {"tune": tune})


@pytest.mark.parametrize(
    ("kind", "tune", "message"),
    [
        ("openclip", "top:3", r"its image tower has 2 and its text tower has 2\. top:2 is the most"),
        ("timm", "top:7", r"test_vit has fewer blocks: its image tower has 6\. top:6 is the most"),
        ("vlmo", "top:4", r"its multiway tower has 3"),
        (
            "resnet",
            "lora:4",
            r"test_resnet have no linear layer.*the tower's layers are 15 BatchNorm2d, 15 Conv2d\. Use",
        ),
        ("align", "lora:4", r"blocks of the image tower of AlignModel have no linear layer"),
        ("resnet", "head", r"matches no parameter of the encoder test_resnet \(45 could be trained, 4 blocks\)"),
        ("sbert", "head", r"matches no parameter"),
    ],
)
def test_a_scope_that_the_encoder_cannot_have_says_what_it_has(build, kind, tune, message):
    encoder = build(kind)
    names = [name for name, _ in encoder.named_parameters()]
    with pytest.raises(SettingsError, match=message):
        apply_tuning(encoder, tune)
    assert [name for name, _ in encoder.named_parameters()] == names
    assert tuning_of(encoder) is None


@pytest.mark.parametrize("scope", ["full", "head", "top:1"])
def test_coarse_weights_are_not_trained(uri_of, scope):
    encoder = encoders.build(uri_of("openclip"), precision="bfloat16")
    with pytest.raises(SettingsError, match=r"weights are in bfloat16.*encoder_precision: float32 and autocast"):
        apply_tuning(encoder, scope)


def test_without_peft_the_line_that_installs_it_is_named(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"tune: lora needs.*pip install 'mmenc-plugin\[train\]'"):
        apply_tuning(build("timm"), "lora:2")


def test_families_without_parameters_name_those_that_learn(tmp_path):
    encoder = encoders.build("classic")
    message = r"family classic has no parameters.*can be trained: hf, openclip, sbert, timm, vlmo"
    for attempt in (
        encoder.depths,
        encoder.blocks,
        lambda: encoder.save(tmp_path / "x"),
        lambda: encoder.set_gradient_checkpointing(True),
        lambda: apply_tuning(encoder, "full"),
    ):
        with pytest.raises(SettingsError, match=message):
            attempt()
    assert not (tmp_path / "x").exists()
