"""A PictureRule says what is done to a picture: whoever follows it word by word gets the encoder's pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmenc_plugin import encoders
from mmenc_plugin.encoders._pictures import to_rgb
from mmenc_plugin.testing.samples import picture

PICTURES = [picture(1), picture(2, (9, 200)), picture(3, (333, 17)), picture(4, (64, 64)), picture(5, (41, 53), "RGBA")]


def follow(rule, image):
    """The rule in Pillow's words."""
    image, filter = to_rgb(image, rule.alpha), Image.Resampling[rule.resample.upper()]
    if rule.resize == "squash":
        image = image.resize((rule.width, rule.height), filter)
    else:
        short, to = min(image.size), rule.resize_to
        image = image.resize([to if side == short else int(to * side / short) for side in image.size], filter)
        rounded = round if rule.crop == "round" else int
        left, top = (
            rounded((have - want) / 2) for have, want in zip(image.size, (rule.width, rule.height), strict=True)
        )
        image = image.crop((left, top, left + rule.width, top + rule.height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture(params=["classic", "hf", "openclip", "timm", "timm, cropped"])
def encoder(request):
    uris = {"classic": "classic", "timm": "timm:test_vit/random", "timm, cropped": "timm:test_efficientnet/random"}
    if request.param == "hf":
        return encoders.build(f"hf:{request.getfixturevalue('tiny_hf_clip')}")
    if request.param == "openclip":
        return encoders.build(f"openclip:local-dir:{request.getfixturevalue('tiny_clip')}")
    return encoders.build(uris[request.param])


@pytest.mark.parametrize("image", PICTURES, ids=lambda image: str(image.size))
def test_pixels_are_those_of_the_rule(encoder, image):
    # OpenCLIP converts to RGB last, which makes a difference where colours below transparent parts are blended.
    image = image.convert("RGB") if encoder.family == "openclip" else image
    assert torch.equal(encoder.prepare_image(image), follow(encoder.picture, image))


def test_pixels_are_those_of_the_rule_of_every_fixed_size_model(tiny_hf):
    encoder = encoders.build(f"hf:{tiny_hf}")
    if encoder.picture.has_fast_form:
        assert all(torch.equal(encoder.prepare_image(one), follow(encoder.picture, one)) for one in PICTURES)
    else:
        assert "max_num_patches" in encoder.picture.detail
