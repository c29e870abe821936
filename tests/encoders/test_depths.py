"""How deep parameters lie: by family, by architecture, and whatever stands beside a layer."""

import checkpoints
import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.encoders import Tower
from mmenc_plugin.encoders._depths import block_roots, places
from mmenc_plugin.testing.samples import picture

TOWER = (Tower("image", r"", frozenset({"image"})),)


def uri(kind, folder):
    if kind == "openclip":
        return f"openclip:local-dir:{checkpoints.openclip(folder)}"
    if kind in ("sbert", "vlmo"):
        return f"{kind}:{getattr(checkpoints, kind)(folder)}"
    return "timm:test_vit/random" if kind == "timm" else f"hf:{checkpoints.hf(kind, folder)}"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("openclip", {
            "model.visual.class_embedding": 0, "model.visual.positional_embedding": 0, "model.visual.conv1.weight": 0,
            "model.visual.ln_pre.bias": 0, "model.visual.transformer.resblocks.0.attn.in_proj_weight": 1,
            "model.visual.transformer.resblocks.1.mlp.c_fc.weight": 2, "model.visual.ln_post.weight": 3,
            "model.visual.proj": 3, "model.text.token_embedding.weight": 0, "model.text.positional_embedding": 0,
            "model.text.transformer.resblocks.1.ln_1.weight": 2, "model.text.ln_final.bias": 3,
            "model.text.text_projection": 3, "model.logit_scale": 3,
        }),
        ("clip", {
            "model.vision_model.embeddings.class_embedding": 0, "model.vision_model.pre_layrnorm.weight": 0,
            "model.vision_model.encoder.layers.0.mlp.fc1.weight": 1, "model.vision_model.post_layernorm.bias": 3,
            "model.visual_projection.weight": 3, "model.text_model.embeddings.position_embedding.weight": 0,
            "model.text_model.final_layer_norm.weight": 3, "model.text_projection.weight": 3, "model.logit_scale": 3,
        }),
        ("siglip", {
            "model.vision_model.head.probe": 3, "model.vision_model.head.attention.in_proj_weight": 3,
            "model.text_model.head.weight": 3, "model.logit_bias": 3,
        }),
        ("align", {
            "model.vision_model.embeddings.convolution.weight": 0, "model.text_projection.weight": 3,
            "model.vision_model.encoder.blocks.1.expansion.expand_conv.weight": 2, "model.temperature": 3,
            "model.text_model.embeddings.word_embeddings.weight": 0,
            "model.text_model.encoder.layer.0.attention.self.query.weight": 1,
        }),
        ("sbert", {}),
        ("vlmo", {
            "network.relative_position_bias_table": 0, "network.text_embeddings.word_embeddings.weight": 0,
            "network.token_type_embeddings.weight": 0, "network.transformer.patch_embed.proj.weight": 0,
            "network.transformer.cls_token": 0, "network.transformer.blocks.0.gamma_1": 1,
            "network.transformer.blocks.2.mlp_vl.fc1.weight": 3, "network.transformer.norm.weight": 4,
            "network.itc_text_proj.fc.weight": 4, "network.logit_scale": 4, "network.mlm_score.bias": 4,
        }),
        ("timm", {
            "model.cls_token": 0, "model.pos_embed": 0, "model.patch_embed.proj.weight": 0,
            "model.blocks.5.mlp.fc2.bias": 6, "model.norm.weight": 7,
        }),
    ],
)  # fmt: skip
def test_depths_of_a_family(tmp_path, kind, expected):
    encoder = encoders.build(uri(kind, tmp_path))
    depths, found = encoder.depths(), encoder.places()
    assert depths.items() >= expected.items()
    assert set(depths) == {name for name, _ in encoder.named_parameters()}
    for tower in {place.tower for place in found.values() if place.tower}:
        own = [place for place in found.values() if place.tower == tower]
        assert {place.blocks for place in own} == {max(place.blocks for place in own)}
        assert set(range(own[0].blocks + 1)) <= {place.depth for place in own} <= set(range(own[0].blocks + 2))
    assert len(encoder.blocks()) == sum({place.tower: place.blocks for place in found.values() if place.tower}.values())


@pytest.mark.parametrize("kind", ["openclip", "clip", "vlmo", "timm"])
def test_features_pass_the_blocks_in_the_order_of_their_depths(tmp_path, kind):
    """The same order as that in which a forward pass calls them."""
    encoder = encoders.build(uri(kind, tmp_path))
    depths = encoder.depths()
    names = {module: name for name, module in encoder.named_modules()}
    seen = []
    for block in encoder.blocks():
        block.register_forward_hook(lambda module, *_: seen.append(names[module]))
    encoder.embed_images([picture(1)])
    order = [{depths[n] for n in depths if n.startswith(f"{name}.")} for name in seen]
    assert order == [{depth} for depth in range(1, len(seen) + 1)]


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("resnet50", 3 + 4 + 6 + 3), ("vit_tiny_patch16_224", 12), ("convnext_atto", 2 + 2 + 6 + 2),
        ("swin_tiny_patch4_window7_224", 2 + 2 + 6 + 2), ("swinv2_tiny_window8_256", 2 + 2 + 6 + 2),
        ("efficientnet_b0", 1 + 2 + 2 + 3 + 3 + 4 + 1), ("regnetx_002", 1 + 1 + 4 + 7),
        ("beit_base_patch16_224", 12), ("deit3_small_patch16_224", 12),
        ("mobilenetv3_small_100", 1 + 2 + 3 + 2 + 3 + 1),
        ("eva02_tiny_patch14_224", 12), ("mixer_s16_224", 8), ("vit_small_patch14_dinov2", 12),
    ],
)  # fmt: skip
def test_blocks_of_timms_architectures(architecture, blocks):
    encoders.registry.get("timm").library("timm")
    import timm

    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0)
    names = [name for name, _ in model.named_parameters()]
    found = places(names, TOWER)
    assert {place.blocks for place in found.values()} == {blocks}
    assert len(block_roots(names, TOWER)) == blocks
    first = [name for name, place in found.items() if place.depth == 0]
    assert first
    assert all(any(word in name for word in ("stem", "embed", "conv1", "bn1", "token", "pos")) for name in first)
    assert not any(
        word in name for name, place in found.items() if place.in_head for word in ("stem", "embed", "block")
    )
    depths = [place.depth for name, place in found.items() if place.in_block]
    assert depths == sorted(depths)


def test_t5_has_a_block_for_each_pair_of_layers_and_its_tied_table_once(tmp_path):
    encoders.registry.get("sbert").library("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    tokenizer = checkpoints.byte_tokenizer()
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    modules = [Transformer(str(tmp_path / "t5"), max_seq_length=16), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    encoder = encoders.build(f"sbert:{tmp_path / 'model'}")
    found = encoder.places()
    assert {place.blocks for place in found.values()} == {3}
    assert [place.depth for name, place in found.items() if "shared" in name or "embed_tokens" in name] == [0]
    assert found["model.0.model.encoder.block.2.layer.1.DenseReluDense.wo.weight"].depth == 3
    assert found["model.0.model.encoder.final_layer_norm.weight"].in_head
    again = encoders.build(encoder.save(tmp_path / "saved"))
    assert torch.equal(again.embed_texts(["a", "b c"]), encoder.embed_texts(["a", "b c"]))


def test_what_stands_beside_a_layer_lies_as_deep_as_it():
    names = ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight", "norm.weight"]
    wrapped = [
        "patch_embed.proj.weight", "blocks.0.attn.qkv.base_layer.weight", "blocks.0.attn.qkv.lora_A.default.weight",
        "blocks.0.attn.qkv.lora_B.default.weight", "blocks.1.base_layer.attn.qkv.weight", "norm.weight",
    ]  # fmt: skip
    assert [place.depth for place in places(names, TOWER).values()] == [0, 1, 2, 3]
    assert [place.depth for place in places(wrapped, TOWER).values()] == [0, 1, 1, 1, 2, 3]
    assert block_roots(wrapped, TOWER) == ["blocks.0", "blocks.1"]


def test_towers_of_different_heights_end_in_one_temperature():
    names = ["a.layers.0.x", "a.layers.1.x", "a.head.x", "b.emb.x", "b.layers.0.x", "b.head.x", "logit_scale", "other"]
    towers = (Tower("a", "a", frozenset({"image"})), Tower("b", "b", frozenset({"text"})))
    found = places(names, towers)
    assert [(place.depth, place.blocks) for place in found.values()] == [
        (1, 2), (2, 2), (3, 2), (0, 1), (1, 1), (2, 1), (3, 2), (3, 2)
    ]  # fmt: skip
    assert found["logit_scale"].uses == {"itc"}
    assert found["other"].uses == frozenset()


def test_a_network_without_blocks_has_depths_all_the_same():
    found = places(["conv.weight", "fc.weight"], TOWER)
    assert [(place.depth, place.blocks) for place in found.values()] == [(0, 0), (0, 0)]
