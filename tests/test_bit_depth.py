"""Images of more than 8 bits: every kind gives the picture it holds, or an error that says what it holds."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from zsad import Detector, UsageError
from zsad.config import ImagesConfig, load_config
from zsad.errors import ImageError
from zsad.images import decode, decode_small, from_pil, image_size
from zsad.steps.item import ImageItem, load

CAP = 1_000_000
RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def tiff(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def png(array):
    import cv2

    done, data = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
    assert done
    return data.tobytes()


def shows(data, picture, white_level=None, tolerance=1):
    """Whether ``data`` is decoded to the picture, whose values are 0 (black) to 1, give or take a rounding."""
    pixels = decode(data, CAP, white_level).astype(int)
    expected = np.broadcast_to(picture[..., None] if picture.ndim == 2 else picture, pixels.shape)
    return bool(np.abs(pixels - 255 * expected).max() <= tolerance)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
def test_16_bit_grey_and_colour_tiffs_of_both_byte_orders(order, options):
    for picture in (RAMP, COLOUR):
        wide = (65535 * picture).astype("u2")
        kind = "rgb" if picture.ndim == 3 else "minisblack"
        assert shows(tiff(wide, byteorder=order, photometric=kind, **options), picture)


def test_where_zero_is_white_the_picture_is_no_negative():
    for type, white in (("u1", 255), ("u2", 65535), ("f4", 1)):
        stored = (white * (1 - RAMP)).astype(type)
        assert shows(tiff(stored, photometric="miniswhite"), RAMP), type
    assert shows(tiff((4095 * (1 - RAMP)).astype("u2"), photometric="miniswhite"), RAMP, white_level=4095)


def test_signed_16_bit_ends_at_32767():
    assert shows(tiff((32767 * RAMP).astype("i2")), RAMP)


@pytest.mark.parametrize("type", ["u2", "i2", "u4", "i4", "f4"])
def test_white_level_brings_12_bits_in_a_wider_file_to_their_brightness(type):
    data = tiff((4095 * RAMP).astype(type))
    assert shows(data, RAMP, white_level=4095)
    if type != "f4":
        assert decode(data, CAP).max() <= 32


def test_white_level_of_16_bit_colour_uses_all_bits():
    wide = (4095 * COLOUR).astype("u2")
    for data in (png(wide), tiff(wide, photometric="rgb"), tiff(wide, photometric="rgb", compression="zlib")):
        assert shows(data, COLOUR, white_level=4095)
        assert decode(data, CAP).max() == 15
        # Not sixteen steps stretched to the whole range.
        assert len(np.unique(decode(data, CAP, 4095))) > 200
    opaque = np.concatenate([wide, np.full((*RAMP.shape, 1), 65535, "u2")], axis=-1)
    assert shows(tiff(opaque, photometric="rgb", extrasamples=["unassalpha"]), COLOUR, white_level=4095)
    opaque[:12, :, 3] = 0
    half = decode(tiff(opaque, photometric="rgb", extrasamples=["unassalpha"]), CAP, 4095)
    assert half[:12].min() == 255 and np.array_equal(half[12:], decode(png(wide), CAP, 4095)[12:])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bit_colour_is_turned_with_and_without_a_white_level(orientation):
    wide = (65535 * COLOUR).astype("u2")
    data = tiff(wide, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    upright, own = decode(data, CAP), decode(data, CAP, 65535)
    assert upright.shape == own.shape == (*image_size(data, CAP), 3)
    assert np.abs(upright.astype(int) - own).max() <= 1
    assert (upright.shape[:2] == RAMP.shape) == (orientation in (1, 3))


def test_a_turned_16_bit_png_keeps_its_turn():
    wide = (65535 * COLOUR).astype("u2")
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG", exif=exif)
    marked = stream.getvalue()
    start = marked.index(b"eXIf") - 4
    chunk = marked[start : start + 12 + int.from_bytes(marked[start : start + 4], "big")]
    plain = png(wide)
    at = plain.index(b"IDAT") - 4
    data = plain[:at] + chunk + plain[at:]
    assert np.array_equal(decode(data, CAP, 65535), np.rot90(decode(plain, CAP, 65535), -1))


def test_white_level_clips_what_is_brighter_and_a_hot_pixel_darkens_nothing():
    hot = RAMP.astype("f4")
    hot[0, 0] = 500
    assert decode(tiff(hot), CAP)[1:].max() < 2
    pixels = decode(tiff(hot), CAP, 1.0)
    assert pixels[0, 0].tolist() == [255, 255, 255] and np.abs(pixels[1:, :, 0] - 255 * RAMP[1:]).max() <= 1
    below = np.array([[-5, 100, 300]], "i4")
    assert decode(tiff(below), CAP, 200)[0, :, 0].tolist() == [0, 128, 255]


def test_white_level_leaves_8_bits_and_files_that_state_their_white_alone():
    eight = (255 * COLOUR).astype("u1")
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(eight).save(stream, format)
        assert np.array_equal(decode(stream.getvalue(), CAP, 4095), decode(stream.getvalue(), CAP))
    pgm = b"P5 32 24 4095\n" + (4095 * RAMP).astype(">u2").tobytes()
    assert shows(pgm, RAMP) and shows(pgm, RAMP, white_level=4095)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        ((65535 * np.moveaxis(COLOUR, -1, 0)).astype("u2"), {"planarconfig": "separate"}, "16-bit unsigned.*apart"),
        (COLOUR.astype("f4"), {}, "3 channels of 32-bit floating-point"),
        (RAMP.astype("f2"), {}, "1 channel of 16-bit floating-point"),
        (RAMP, {}, "1 channel of 64-bit floating-point"),
        (RAMP, {"bigtiff": True}, "1 channel of 64-bit floating-point"),
        ((127 * RAMP).astype("i1"), {}, "1 channel of 8-bit signed"),
    ],
)
def test_a_tiff_that_is_not_read_says_what_it_holds(array, options, words):
    data = tiff(array, photometric="rgb" if array.ndim == 3 else "minisblack", **options)
    for white_level in (None, 4095):
        with pytest.raises(ImageError, match=f"{words}.*; expected interleaved grey, RGB") as caught:
            decode(data, CAP, white_level)
        assert caught.value.kind == "undecodable"


@pytest.mark.parametrize("type", ["f4", "i2", "i4"])
def test_what_pillow_would_swap_is_refused_and_the_rest_of_big_endian_read(type):
    values = (4095 * RAMP).astype(type)
    assert shows(tiff(values, byteorder=">"), RAMP, white_level=4095)
    for white_level in (None, 4095):
        with pytest.raises(ImageError, match=r"-bit .* samples, big-endian, compressed; expected"):
            decode(tiff(values, byteorder=">", compression="zlib"), CAP, white_level)


def test_a_fourth_channel_is_what_the_file_says_it_is():
    wide = np.full((8, 8, 4), 3000, "u2")
    wide[..., 3] = 32768
    grey, half = 255 * 3000 / 4095, 255 * (1 - 32768 / 65535)
    for kind, expected in (
        ("unspecified", grey),
        ("unassalpha", grey / 2 + half),
        ("assocalpha", min(255, grey + half)),
    ):
        pixels = decode(tiff(wide, photometric="rgb", extrasamples=[kind]), CAP, 4095)
        assert np.abs(pixels - expected).max() <= 1, kind


def test_16_bit_colour_that_is_no_rgb_is_refused_with_a_white_level():
    data = tiff((65535 * COLOUR[..., [0, 1, 2, 0]]).astype("u2"), photometric="separated")
    assert decode(data, CAP).shape == (24, 32, 3)
    with pytest.raises(ImageError, match=r"CMYK of 16 bits .*images\.white_level; save it as 16-bit RGB"):
        decode(data, CAP, 4095)


def test_no_memory_for_16_bit_colour_says_nothing_about_the_image(monkeypatch):
    import cv2

    failure = cv2.error("no memory")
    failure.code = cv2.Error.STS_NO_MEM
    monkeypatch.setattr(cv2, "imdecode", lambda *_: (_ for _ in ()).throw(failure))
    with pytest.raises(MemoryError):
        decode(png((4095 * COLOUR).astype("u2")), CAP, 4095)


def test_pixels_without_a_finite_value_are_refused_with_a_white_level_as_without():
    for white_level in (None, 1.0):
        with pytest.raises(ImageError, match="without a finite value"):
            decode(tiff(np.full((4, 4), np.nan, "f4")), CAP, white_level)


def test_what_fails_only_when_it_is_read_says_what_the_file_holds():
    data = tiff(np.zeros((4, 8, 8), "u1"), photometric="rgb", planarconfig="separate", extrasamples=["assocalpha"])
    with pytest.raises(ImageError, match="4 channels of 8-bit unsigned samples, stored apart: "):
        decode(data, CAP)


def test_a_tiff_whose_header_is_cut_off_is_called_broken():
    with pytest.raises(ImageError, match="cut off or broken"):
        decode(tiff((255 * RAMP).astype("u1"))[:9], CAP)


def test_negative_grey_names_its_range_and_the_setting():
    with pytest.raises(ImageError, match=r"from -3 to 7; expected 0 to 32767, or images\.white_level"):
        decode(tiff(np.array([[-3, 7]], "i2")), CAP)


@pytest.mark.parametrize("cut", [40, 300, 900])
def test_a_file_that_is_cut_off_is_an_error_with_a_white_level_as_without(cut):
    wide = (4095 * COLOUR).astype("u2")
    for data in (png(wide), tiff(wide, photometric="rgb")):
        for white_level in (None, 4095):
            with pytest.raises(ImageError):
                decode(data[:-cut], CAP, white_level)


def test_small_pictures_and_open_images_hear_the_white_level():
    data = tiff((4095 * RAMP).astype("u2"))
    assert np.array_equal(decode_small(data, CAP, 32, 4095), decode(data, CAP, 4095))
    assert np.array_equal(from_pil(Image.open(io.BytesIO(data)), 4095), decode(data, CAP, 4095))


def test_a_dark_image_gets_a_remark_once():
    item = ImageItem(path="", class_name="disc", data=tiff((4095 * RAMP).astype("u2")))
    load([item], ImagesConfig())
    assert item.failure is None
    assert item.note == "dark: no value above 16 of 255 (images.white_level says what is white in files of over 8 bits)"
    # A pool further on decodes it again.
    load([item], ImagesConfig())
    item.remark("step widened")
    assert item.note.count("dark:") == 1 and item.note.endswith("; step widened")
    bright = ImageItem(path="", class_name="disc", data=tiff((4095 * RAMP).astype("u2")))
    load([bright], ImagesConfig(white_level=4095))
    assert bright.note is None


def test_one_bright_pixel_between_those_looked_at_first_is_seen():
    dark = np.zeros((24, 32, 3), np.uint8)
    dark[3, 5] = 200
    item = ImageItem(path="", class_name="disc", image=dark)
    load([item], ImagesConfig())
    assert item.note is None


def test_a_detector_hears_the_white_level_and_hands_the_remark_over():
    data = tiff((4095 * np.kron(RAMP, np.ones((4, 4)))).astype("u2"))
    dark = Detector.from_preset("mini", overrides=["foreground.source=full_image"])
    bright = Detector.from_preset("mini", overrides=["foreground.source=full_image", "images.white_level=4095"])
    assert "dark:" in dark.score(data, object="disc").remark
    found = bright.score(data, object="disc")
    assert found.remark is None
    assert bright.score(Image.open(io.BytesIO(data)), object="disc").score == pytest.approx(found.score, abs=1e-6)


@pytest.mark.parametrize("value", ["0", "-1", "true", ".inf", "white"])
def test_a_white_level_that_is_no_brightness_is_refused(value):
    with pytest.raises(UsageError, match="images.white_level"):
        load_config("mini", None, [f"images.white_level={value}"])


def test_a_detector_goes_on_past_a_pil_image_that_cannot_be_read():
    detector = Detector.from_preset("mini", overrides=["foreground.source=full_image"])
    bad = Image.fromarray(np.full((64, 64), np.nan, np.float32))
    first, second = detector.score_batch([bad, Image.new("RGB", (64, 64), "grey")], "disc")
    assert first.failure.kind == "undecodable" and second.failure is None
