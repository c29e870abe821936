"""What the objectives of fine-tuning need of an encoder, for those with two towers and for VLMo."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.encoders.base import Tokens
from mmenc_plugin.encoders.vlmo import VlmoEncoder
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.kernels.precision import summed_in
from mmenc_plugin.training.contrast import at_most, scale_of
from mmenc_plugin.training.gradient_cache import Views
from mmenc_plugin.training.masking import WordMasks


class DualNetwork:
    """An encoder whose pictures and texts share a space.

    Args:
        encoder: takes both.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def views(self, pixels: Tensor, tokens: Tokens) -> Views:
        """Pictures and texts of a chunk in the space that they share: [B, D] each, pictures first."""
        out = self.encoder.encode_image(pixels), self.encoder.encode_text(tokens)
        return tuple(view.to(summed_in(view.dtype)) for view in out)

    def scales(self) -> tuple[Tensor, ...]:
        """The inverse temperature of each pair of views."""
        return (scale_of(self.encoder),)


class JointNetwork(DualNetwork):
    """VLMo: its contrast has a second branch through the vision-language experts, and pairs are seen together.

    Bao et al. 2022, "VLMo: Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts", section 3.2.

    Args:
        encoder: of the family vlmo.
    """

    encoder: VlmoEncoder

    def __init__(self, encoder: VlmoEncoder) -> None:
        super().__init__(encoder)
        self.masks = WordMasks(encoder.words)
        self._branches = {"itc", "itc_vl", "vl"} <= encoder.network.parts

    def views(self, pixels: Tensor, tokens: Tokens) -> Views:
        """Pictures and texts of the own experts, then those of the second branch."""
        if not self._branches:
            return super().views(pixels, tokens)
        network = self.encoder.network
        images, texts = network.image_contrast(pixels), network.text_contrast(tokens["ids"], tokens["mask"])
        return images.features, texts.features, images.vl_features, texts.vl_features

    def scales(self) -> tuple[Tensor, ...]:
        """See the base class."""
        own = super().scales()
        return (*own, at_most(self.encoder.network.logit_vl_scale.exp())) if self._branches else own

    def matching(self, pixels: Tensor, tokens: Tokens) -> Tensor:
        """Whether text and picture belong together: logits [B, 2], the second for yes."""
        network = self.encoder.network
        return network.matching_logits(network.pair_features(pixels, tokens["ids"], tokens["mask"]))

    def words(self, pixels: Tensor, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Which word stood at each of the places [B, L] bool of texts that are seen with their pictures: [n, V]."""
        network = self.encoder.network
        return network.word_logits(network.pair_tokens(pixels, ids, mask)[0][places])


def network_of(encoder: Encoder, objectives: Collection[str]) -> DualNetwork:
    """The encoder as the objectives want it.

    Raises:
        SettingsError: it cannot have one of them.
    """
    name = f"{encoder.spec.family}:{encoder.spec.architecture}"
    if isinstance(encoder, VlmoEncoder):
        wanted = {"itc": {"itc"}, "bought": {"itc"}, "itm": {"itc", "vl", "itm"}, "mlm": {"vl", "mlm"}}
        lacking = sorted(o for o in objectives if not wanted[o] <= encoder.network.parts)
        if lacking:
            raise SettingsError(
                f"finetune_objectives has {', '.join(lacking)}, but the checkpoint of {name} lacks the heads for it "
                f"(it has {', '.join(sorted(encoder.network.parts))}). Bring that of the pre-training, "
                "vlmo_*_patch16_224.pt."
            )
        return JointNetwork(encoder)
    if joint := sorted(set(objectives) & {"itm", "mlm"}):
        raise SettingsError(
            f"finetune_objectives has {', '.join(joint)}, for which an encoder must see picture and text together, and "
            f"{name} has a tower for each. Use itc alone, or an encoder of the family vlmo."
        )
    return DualNetwork(encoder)


def check_shared_space(uri: str, encoder: Encoder) -> None:
    """An encoder of pictures and texts in one space, with weights that can learn.

    Raises:
        SettingsError: it is none.
    """
    kinds = sorted(encoder.modalities & {"image", "text"})
    if len(kinds) < 2:
        raise SettingsError(
            f"encoder '{uri}' takes {' and '.join(sorted(encoder.modalities))} alone, and fine-tuning contrasts "
            "pictures with texts. Name one encoder of both, as openclip:ViT-B-32/laion2b_s34b_b79k."
        )
    widths = encoder.spec.width
    if not encoder.towers or widths["image"] != widths["text"]:
        why = (
            "has no weights"
            if not encoder.towers
            else f"gives vectors of {widths['image']} and {widths['text']} numbers"
        )
        raise SettingsError(
            f"encoder '{uri}' {why}: its pictures and texts share no space that could be fine-tuned. "
            "Name one encoder of both, as openclip:ViT-B-32/laion2b_s34b_b79k."
        )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over the rows of -log softmax at the target: logits [n, C], targets [n] int64."""
    return torch.nn.functional.cross_entropy(logits.to(summed_in(logits.dtype)), targets, reduction="sum")
