"""VLMo gives the original implementation's numbers; `vlmo/README.md` says where they are from."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mmenc_plugin.encoders._vlmo import Vlmo, VlmoConfig, architecture
from mmenc_plugin.encoders._vlmo.config import PARTS
from mmenc_plugin.encoders._vlmo.positions import resize_embedding, resize_table

RECORDED = Path(__file__).parent / "vlmo"
SIZES = {
    "tiny_rel": {"image_size": 64, "width": 64, "depth": 4, "heads": 4, "vl_start": 3, "vocabulary": 512},
    "tiny_abs": {"image_size": 48, "width": 32, "depth": 3, "heads": 4, "vl_start": 2, "vocabulary": 64},
}
CONFIGS = {
    name: VlmoConfig(
        architecture=name,
        positions="relative" if name == "tiny_rel" else "absolute",
        layer_scale=name == "tiny_rel",
        **sizes,
    )
    for name, sizes in SIZES.items()
}
TOKENS, UNIT, LOGITS = 1e-5, 1e-6, 1e-4


class Recorded:
    """A recorded network: ours with its weights, what went in, and what came out."""

    def __init__(self, name):
        self.folder, self.config = RECORDED / name, CONFIGS[name]
        state = load_file(self.folder / "state_dict.safetensors")
        state.pop("text_embeddings.position_ids", None)
        self.network = Vlmo(self.config).eval()
        self.network.load_state_dict(state)
        self.inputs, self.outputs = self.read("inputs"), self.read("outputs")
        self.image, self.ids = self.inputs["image"], self.inputs["text_ids"]
        self.mask = self.inputs["text_masks"].bool()
        self.masked_words = self.inputs.get("text_ids_mlm", self.ids)

    def read(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name):
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture(params=["tiny_rel", "tiny_abs"])
def recorded(request):
    return Recorded(request.param)


@pytest.fixture
def relative():
    return Recorded("tiny_rel")


def close(ours, theirs, tolerance):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


# --- The three passes -------------------------------------------------------------------------------


@torch.no_grad()
def test_a_picture_alone(recorded):
    network, out = recorded.network, recorded.outputs
    close(network.image_tokens(recorded.image), out["image.image_feats"], TOKENS)
    close(network.image_features(recorded.image), out["image.cls_feats"], UNIT)
    both = network.image_contrast(recorded.image)
    close(both.features, out["image.cls_feats"], UNIT)
    close(both.vl_features, out["image.cls_vlffn_feats"], UNIT)


@torch.no_grad()
def test_a_text_alone(recorded):
    network, out = recorded.network, recorded.outputs
    close(network.text_tokens(recorded.ids, recorded.mask), out["text.text_feats"], TOKENS)
    close(network.text_features(recorded.ids, recorded.mask), out["text.cls_feats"], UNIT)
    both = network.text_contrast(recorded.ids, recorded.mask)
    close(both.features, out["text.cls_feats"], UNIT)
    close(both.vl_features, out["text.cls_vlffn_feats"], UNIT)


@torch.no_grad()
def test_a_picture_with_its_text(recorded):
    network, out = recorded.network, recorded.outputs
    text, image = network.pair_tokens(recorded.image, recorded.ids, recorded.mask)
    close(text, out["vl.text_feats"], TOKENS)
    close(image, out["vl.image_feats"], TOKENS)
    pooled = network.pair_features(recorded.image, recorded.ids, recorded.mask)
    close(pooled, out["vl.cls_feats"], TOKENS)
    close(network.matching_logits(pooled), out["vl.itm_logits"], LOGITS)
    masked = network.word_logits(network.pair_tokens(recorded.image, recorded.masked_words, recorded.mask)[0])
    step = masked.shape[-1] // out["vl.mlm_logits"].shape[-1]
    close(masked[..., ::step], out["vl.mlm_logits"], LOGITS)


@torch.no_grad()
def test_contrast_logits(relative):
    images = relative.network.image_contrast(relative.image)
    own, joint = relative.network.contrast_logits(images, relative.network.text_contrast(relative.ids, relative.mask))
    close(own, relative.outputs["itc.logits_per_image"], LOGITS)
    close(joint, relative.outputs["itc.logits_per_vlffn_image"], LOGITS)


@pytest.mark.parametrize("kind", ["image", "text", "vl"])
@torch.no_grad()
def test_every_block(relative, kind):
    calls = []
    for block in relative.network.transformer.blocks:
        block.register_forward_hook(lambda module, args, out: calls.append(out))
    if kind == "image":
        relative.network.image_contrast(relative.image)
    elif kind == "text":
        relative.network.text_contrast(relative.ids, relative.mask)
    else:
        relative.network.pair_tokens(relative.image, relative.ids, relative.mask)
    trace = {name: value for name, value in relative.read("trace").items() if f".{kind}." in name}
    assert len(calls) == len(trace) == (4 if kind == "vl" else 5)
    for number, out in enumerate(calls):
        close(out[:1], trace[f"trace.{kind}.call{number}"], TOKENS)


@torch.no_grad()
def test_texts_cut_to_their_longest_give_what_texts_padded_to_40_give(recorded):
    """Which the original cannot do; its numbers for the padded ones are those above."""
    rows = recorded.mask.sum(1) < 40
    length = int(recorded.mask[rows].sum(1).max())
    assert length < 40
    image, ids, mask = recorded.image[rows], recorded.ids[rows, :length], recorded.mask[rows, :length]
    out, network = (
        {name: value[rows] for name, value in recorded.outputs.items() if name[:4] != "itc."},
        recorded.network,
    )
    close(network.text_tokens(ids, mask)[mask], out["text.text_feats"][:, :length][mask], TOKENS)
    close(network.text_features(ids, mask), out["text.cls_feats"], UNIT)
    close(network.text_contrast(ids, mask).vl_features, out["text.cls_vlffn_feats"], UNIT)
    text, picture = network.pair_tokens(image, ids, mask)
    close(text[mask], out["vl.text_feats"][:, :length][mask], TOKENS)
    close(picture, out["vl.image_feats"], TOKENS)


@torch.no_grad()
def test_a_text_that_fills_its_batch_gives_what_it_gives_beside_longer_ones(recorded):
    row = int(recorded.mask.sum(1).argmin())
    length = int(recorded.mask[row].sum())
    alone = recorded.ids[[row], :length], recorded.mask[[row], :length]
    assert alone[1].all()
    close(recorded.network.text_features(*alone), recorded.outputs["text.cls_feats"][[row]], UNIT)
    pooled = recorded.network.pair_features(recorded.image[[row]], *alone)
    close(pooled, recorded.outputs["vl.cls_feats"][[row]], TOKENS)


# --- Training ---------------------------------------------------------------------------------------


def original_objectives(r):
    """Contrast, matching and masked words as the original adds them up, from our logits."""
    network, image, ids, mask = r.network, r.image, r.ids, r.mask
    logits = network.contrast_logits(network.image_contrast(image), network.text_contrast(ids, mask))
    right = torch.arange(len(image))
    contrast = torch.stack([F.cross_entropy(side, right) for one in logits for side in (one, one.T)]).mean()
    first, second = torch.tensor([0, 1, 1, 0, 0, 1]), torch.tensor([0, 1, 0, 1, 1, 0])
    matching = network.matching_logits(network.pair_features(image[first], ids[second], mask[second]))
    matches = torch.tensor([1, 1, 0, 0, 0, 0])
    words = network.word_logits(network.pair_tokens(image, r.masked_words, mask)[0])
    word = F.cross_entropy(words.flatten(0, 1), r.inputs["text_labels_mlm"].flatten(), ignore_index=-100)
    return {"itc": contrast, "itm_2pairs": F.cross_entropy(matching, matches), "mlm_x0.25": 0.25 * word}, matching


def test_the_objectives_of_the_pre_training_and_their_gradients(relative):
    parts, matching = original_objectives(relative)
    expected, total = relative.read("losses"), sum(parts.values())
    close(matching, expected["itm_2pairs.logits"], LOGITS)
    for name, value in {**parts, "total": total}.items():
        close(value, expected[f"loss.{name}"], TOKENS)
    total.backward()
    ours = {name: parameter.grad for name, parameter in relative.network.named_parameters()}
    for name, gradient in relative.read("grads").items():
        close(ours[name], gradient, TOKENS)
    check_norms(ours, relative.json("grad_norms"))


def test_gradients_with_absolute_positions():
    r = Recorded("tiny_abs")
    images, texts = r.network.image_contrast(r.image), r.network.text_contrast(r.ids, r.mask)
    text, _ = r.network.pair_tokens(r.image, r.ids, r.mask)
    match = r.network.matching_logits(r.network.pair_features(r.image, r.ids, r.mask))[:, 1]
    loss = (images.features * texts.features).sum() + (images.vl_features * texts.vl_features).sum() + match.sum()
    (loss + r.network.word_logits(text).square().mean()).backward()
    check_norms({n: p.grad for n, p in r.network.named_parameters()}, r.json("grad_norms"))


def check_norms(gradients, norms):
    """The parameters that the original gives a gradient have one, of the same length; the others have none."""
    assert {name for name, gradient in gradients.items() if gradient is not None} == set(norms)
    for name, norm in norms.items():
        assert float(gradients[name].double().norm()) == pytest.approx(norm, rel=1e-4, abs=1e-6), name


# --- Positions --------------------------------------------------------------------------------------


def test_rows_of_the_table_of_relative_positions(relative):
    index, theirs = relative.network.relative_index, relative.read("rel_index")
    assert torch.equal(index, theirs["text_imag_relative_position_index"].long())
    assert torch.equal(index[:40, :40], theirs["text_relative_position_index"])
    assert torch.equal(index[40:, 40:], theirs["relative_position_index"])


@pytest.mark.parametrize("pixels", [96, 128, 32])
def test_relative_positions_for_another_picture_size(relative, pixels):
    table = relative.network.relative_position_bias_table.detach()[:, :3]
    close(resize_table(table, pixels // 16), relative.read("resized")[f"table.{pixels}"], UNIT)


@pytest.mark.parametrize("pixels", [96, 32])
def test_absolute_positions_for_another_picture_size(pixels):
    r = Recorded("tiny_abs")
    places = r.network.transformer.pos_embed.detach()
    close(resize_embedding(places, pixels // 16), r.read("resized")[f"pos_embed.{pixels}"], UNIT)


# --- The real sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name", "parts", "changes"),
    [
        ("base_pretrain224", "base_patch16_224", PARTS, {}),
        ("base_plus_pretrain224", "base_plus_patch16_224", PARTS, {}),
        ("base_irtr384", "base_patch16_384", {"vl", "itc"}, {}),
        ("base_vqa480", "base_patch16_480", {"vl"}, {}),
        ("base_nlvr2_384", "base_patch16_384", {"vl"}, {}),
        ("base_textmlm196", "base_patch16_224", {"mlm"}, {"max_tokens": 196}),
    ],
)
def test_names_and_shapes_of_the_real_sizes(file, name, parts, changes):
    expected = json.loads((RECORDED / "keys" / f"{file}.json").read_text())
    del expected["text_embeddings.position_ids"]
    if file == "base_nlvr2_384":
        expected["token_type_embeddings.weight"][0] -= 1  # the second picture's
    expected = {key: shape for key, shape in expected.items() if not key.startswith(("vqa_", "nlvr2_"))}
    with torch.device("meta"):
        network = Vlmo(architecture(name).model_copy(update=changes), parts)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("name", "tensors", "whole", "backbone"),
    [("base", 293, 202.4, 176.0), ("base_plus", 503, 185.0, 166.9), ("large", 551, 599.1, 562.6)],
)
def test_parameters_of_the_real_sizes(name, tensors, whole, backbone):
    """In millions, with all heads and with none (the readme of the original: 175, 167, 562)."""
    with torch.device("meta"):
        networks = [Vlmo(architecture(f"{name}_patch16_224"), parts) for parts in (PARTS, {"vl"})]
    assert len(networks[0].state_dict()) == tensors - 1  # text_embeddings.position_ids
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert counts == pytest.approx([whole, backbone], abs=0.06)
