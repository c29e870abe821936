"""classic: known answers."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmenc_plugin import encoders
from mmenc_plugin.encoders.classic import IMAGE_WIDTH, TEXT_WIDTH
from mmenc_plugin.errors import SettingsError, UnknownNameError


@pytest.fixture(scope="module")
def classic():
    return encoders.build("classic")


def plain(colour, size=(64, 64)):
    return Image.new("RGB", size, colour)


def with_dot(colour, left):
    """A white picture with a disc in a corner of one side."""
    picture = plain("white")
    ImageDraw.Draw(picture).ellipse([4, 4, 28, 28] if left else [36, 4, 60, 28], fill=colour)
    return picture


def stripes(angle):
    picture = plain("white")
    draw = ImageDraw.Draw(picture)
    for k in range(0, 64, 8):
        draw.rectangle([k, 0, k + 3, 63] if angle == "upright" else [0, k, 63, k + 3], fill="black")
    return picture


def test_red_is_nearer_to_another_red_than_to_blue(classic):
    red, other, blue = classic.embed_images([plain((220, 20, 20)), plain((190, 30, 20)), plain((20, 20, 220))])
    assert red @ other > red @ blue + 0.2


def test_hue_counts_and_not_only_brightness(classic):
    red, green, blue = classic.embed_images([plain((200, 0, 0)), plain((0, 200, 0)), plain((0, 0, 200))])
    assert max(red @ green, red @ blue, green @ blue) < 0.8


def test_what_is_where_counts(classic):
    left, right, flipped = classic.embed_images(
        [
            with_dot("red", True),
            with_dot("red", False),
            with_dot("red", True).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        ]
    )
    assert (left - right).abs().max() > 0.05
    assert (right - flipped).norm() < 0.1 * (left - flipped).norm()


def test_directions_of_edges_count(classic):
    upright, lying = classic.embed_images([stripes("upright"), stripes("lying")])
    assert upright @ lying < 0.8


def test_the_size_of_a_picture_hardly_counts(classic):
    small, large, wide = classic.embed_images(
        [plain("red", (16, 16)), plain("red", (500, 500)), plain("red", (300, 20))]
    )
    torch.testing.assert_close(small, large)
    torch.testing.assert_close(small, wide)


def test_transparent_parts_are_white_whatever_lies_below(classic):
    below_black, below_red = Image.new("RGBA", (64, 64), (0, 0, 0, 0)), Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    palette = plain("black").convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    out = classic.embed_images([plain("white"), below_black, below_red, palette])
    for row in out[1:]:
        torch.testing.assert_close(row, out[0])


@pytest.mark.parametrize("colour", ["black", "white", (128, 128, 128)])
def test_a_grey_picture_without_hue_or_edge_is_finite(classic, colour):
    (out,) = classic.embed_images([plain(colour)])
    assert out.isfinite().all()
    torch.testing.assert_close(out.norm(), torch.tensor(1.0))


def test_the_order_of_words_counts_little_and_words_count_much(classic):
    one, turned, other = classic.embed_texts(["red leather shoe", "shoe leather red", "blue woollen hat"])
    assert one @ turned > 0.5  # the words
    assert one @ turned < 0.9  # but not the pairs
    assert abs(one @ other) < 0.1


def test_single_words_have_no_order(classic):
    one, turned = classic.tokenize(["red shoe", "shoe red"])["bucket"].tolist()
    assert len(set(one) & set(turned)) == 2


def test_case_and_punctuation_do_not_count(classic):
    one, other = classic.embed_texts(["Red shoe", "RED, shoe!"])
    assert torch.equal(one, other)


def test_a_word_said_often_counts_less_than_so_many_times(classic):
    once, often = classic.embed_texts(["shoe hat", "shoe " * 50 + "hat"])
    assert 0.5 < once @ often < 0.99


@pytest.mark.parametrize("text", ["", " ", "\n", "!?", "- - -"])
def test_a_text_without_words_is_zeros(classic, text):
    assert torch.equal(classic.embed_texts([text]), torch.zeros(1, TEXT_WIDTH))


def test_other_features_have_unit_length(classic):
    out = classic.embed_texts(["a shoe", "word " * 500])
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2))


PICTURE_NUMBERS = {
    0: -0.138953,
    3: 0.062382,
    12: -0.138953,
    15: 0.062382,
    16: -0.132908,
    31: 0.108728,
    40: -0.009519,
    47: -0.001296,
    48: 0.071626,
    50: 0.027849,
    53: 0.11723,
    58: 0.11132,
    63: 0.114005,
    64: 0.028216,
    67: 0.351591,
    71: 0.0,
    72: 0.019281,
    90: 0.039974,
    110: 0.130489,
    130: 0.014067,
    150: 0.01512,
    170: 0.003394,
    199: 0.012457,
}
TEXT_NUMBERS = {
    148: 0.324236,
    249: -0.324236,
    363: -0.324236,
    368: -0.324236,
    765: -0.513902,
    843: 0.324236,
    872: -0.324236,
    881: 0.324236,
}


def test_a_picture_has_the_numbers_it_always_had(classic):
    rows, columns = np.mgrid[:80, :100]
    pixels = np.stack([columns * 2, rows * 3, (rows * columns) % 256], axis=2).astype(np.uint8)
    (out,) = classic.embed_images([Image.fromarray(pixels)])
    assert out.shape == (IMAGE_WIDTH,)
    assert {k: out[k].item() for k in PICTURE_NUMBERS} == pytest.approx(PICTURE_NUMBERS, abs=1e-5)


def test_a_text_has_the_numbers_it_always_had(classic):
    (out,) = classic.embed_texts(["Blue woollen hat, blue scarf"])
    rows = out.nonzero().flatten().tolist()
    assert dict(zip(rows, out[rows].tolist(), strict=True)) == pytest.approx(TEXT_NUMBERS, abs=1e-5)


def test_classic_has_no_variants():
    with pytest.raises(SettingsError, match=r"classic has no variants\. Write 'classic'"):
        encoders.build("classic:large")


def test_a_family_that_does_not_exist_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"no encoder family named 'clasic'\. Did you mean 'classic'\?"):
        encoders.build("clasic")
