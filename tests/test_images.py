import importlib
import io
import struct
import sys
import zlib
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from zsad.errors import ImageError
from zsad.images import _copy, _jpeg_by_torchvision, _open, decode, decode_mask, image_size, orient, orientation

CAP = 1_000_000


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(height=6, width=9):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_orientation(array, value, **options):
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(Image.fromarray(array), "PNG", exif=exif, **options)


def test_rgb_comes_back():
    array = gradient()
    np.testing.assert_array_equal(decode(encode(Image.fromarray(array)), CAP), array)


@pytest.mark.parametrize("shape", [(1, 1), (33, 47), (1, 3000), (2100, 2000)])
def test_pixels_are_copied_whether_pillow_holds_them_in_one_piece_or_in_several(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    copied = _copy(Image.fromarray(pixels))
    assert np.array_equal(copied, pixels)
    assert copied.flags.writeable and copied.flags.c_contiguous and copied.dtype == np.uint8


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_turns_the_image_its_size_and_its_mask_alike(value):
    array = gradient()
    data = with_orientation(array, value)
    upright = decode(data, CAP)
    assert orientation(data, CAP) == value
    assert image_size(data, CAP) == upright.shape[:2]
    for channel in range(3):
        np.testing.assert_array_equal(orient(array[..., channel], value), upright[..., channel])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", [1, 3, 6, 8])
def test_size_is_that_of_the_decoded_image_in_every_format(format, value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = encode(Image.fromarray(gradient()), format, exif=exif)
    assert orientation(data, CAP) == value
    assert image_size(data, CAP) == decode(data, CAP).shape[:2] == ((9, 6) if value > 4 else (6, 9))


def test_orientation_that_means_nothing_is_upright():
    assert orientation(with_orientation(gradient(), 99), CAP) == 1


def test_grey_is_repeated():
    grey = gradient()[..., 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey)), CAP), np.repeat(grey[..., None], 3, 2))


def test_16_bit_is_scaled_not_clipped():
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert decode(encode(Image.fromarray(grey)), CAP)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_keeps_every_value_of_a_division_by_257():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(values)), CAP)[..., 0], expected)


def test_transparent_16_bit_grey_lies_on_white():
    image = Image.fromarray(np.array([[40000, 1000]], np.uint16))
    data = encode(image)
    plain = decode(data, CAP)[0, :, 0].tolist()
    chunk = b"tRNS" + struct.pack(">H", 1000)
    at = data.index(b"IDAT") - 4
    marked = data[:at] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]
    assert (plain, decode(marked, CAP)[0, :, 0].tolist()) == ([156, 4], [156, 255])


def test_integers_beyond_16_bit_are_refused_not_clipped():
    with pytest.raises(ImageError, match="0 to 65535") as caught:
        decode(encode(Image.fromarray(np.array([[0, 65536]], np.int32)), "TIFF"), CAP)
    assert caught.value.kind == "undecodable"


def test_infinite_pixels_do_not_darken_the_others():
    values = np.array([[0.0, 0.5, 1.0, np.inf, -np.inf, np.nan]], np.float32)
    assert decode(encode(Image.fromarray(values), "TIFF"), CAP)[0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]


@pytest.mark.parametrize("where", ["open", "load"])
def test_whatever_a_decoder_raises_is_an_image_error_unless_the_image_is_not_to_blame(monkeypatch, where):
    data = encode(Image.fromarray(gradient()))

    def fail_with(error):
        def fail(*_, **__):
            raise error

        if where == "open":
            monkeypatch.setattr(Image, "open", fail)
        else:
            monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)

    for error in (struct.error("bad"), zlib.error("bad"), AttributeError("bad"), RecursionError("bad")):
        fail_with(error)
        with pytest.raises(ImageError):
            decode(data, CAP)
    for error in (MemoryError(), ImportError("no module named cv2")):
        fail_with(error)
        with pytest.raises(type(error)):
            decode(data, CAP)


def test_1_bit():
    assert decode(encode(Image.fromarray(np.array([[True, False]]))), CAP)[0, :, 1].tolist() == [255, 0]


def test_alpha_lies_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    assert decode(encode(Image.fromarray(rgba)), CAP)[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_palette_with_transparency_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putpixel((1, 0), 1)
    assert decode(encode(image, transparency=0), CAP)[0].tolist() == [[255, 255, 255], [200, 10, 10]]


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = decode(encode(image, "JPEG", quality=95), CAP)[8, 8].tolist()
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, CAP)[0, 0].tolist() == [255, 0, 0]


def test_float_tiff():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode(encode(image, "TIFF"), CAP)[0, :, 0].tolist() == [0, 128, 255]


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_file"),
        (b"this is text, renamed to .jpg", "not_an_image"),
        (encode(Image.fromarray(gradient(400, 400)), "JPEG")[:3000], "truncated"),
        (encode(Image.fromarray(gradient(400, 400)))[:3000], "truncated"),
        (png_header(1001, 1000), "too_many_pixels"),
        (png_header(60_000, 60_000), "too_many_pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "over the cap", "bomb", "eps"],
)
@pytest.mark.parametrize("read", [decode, decode_mask])
def test_bad_files_say_why(read, data, kind):
    with pytest.raises(ImageError) as caught:
        read(data, CAP)
    assert caught.value.kind == kind


def test_masks_are_anomalous_where_not_zero():
    ids = np.array([[0, 1, 2], [0, 0, 255]], np.uint8)
    np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(ids)), CAP), ids != 0)
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[0, 1, 2] = 1
    assert decode_mask(encode(Image.fromarray(rgba)), CAP).tolist() == [[False, True]]


def test_palette_mask_is_read_by_index_not_by_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.putpixel((1, 0), 1)
    assert decode_mask(encode(image), CAP).tolist() == [[False, True]]


def both(data):
    """What ``decode`` says with torchvision and without: pixels, or the kind of an error."""

    def outcome():
        try:
            return decode(data, CAP)
        except ImageError as error:
            return error.kind

    importlib.import_module("torchvision.io")
    with_it = outcome()
    with patch.dict(sys.modules):
        del sys.modules["torchvision.io"]
        return with_it, outcome()


def jpegs():
    smooth = np.add.outer(np.arange(61), np.arange(83)).astype(np.uint8)[..., None] + gradient(61, 83) // 8
    exif = Image.Exif()
    exif[0x0112] = 6
    ways = [
        {"quality": 90},
        {"quality": 30, "subsampling": 2},
        {"quality": 80, "subsampling": 1, "progressive": True},
        {"quality": 100, "subsampling": 0, "exif": exif},
        {"quality": 75, "restart_marker_blocks": 3},
    ]
    for height, width in ((61, 83), (1, 1), (8, 16), (17, 3)):
        image = Image.fromarray(smooth[:height, :width])
        yield from (encode(image, "JPEG", **way) for way in ways)
        yield encode(image.convert("L"), "JPEG")


def test_torchvision_decodes_jpeg_files_as_pillow_does():
    for data in jpegs():
        mine, other = both(data)
        np.testing.assert_array_equal(mine, other)
        assert mine.flags.writeable and mine.flags.c_contiguous and mine.dtype == np.uint8
        assert _jpeg_by_torchvision(data, _open(data, CAP)) is not None


def test_torchvision_and_pillow_agree_on_damaged_jpeg_files():
    rng = np.random.default_rng(0)
    kinds = []
    for data in jpegs():
        for _ in range(20):
            damaged = bytearray(data)
            for at in rng.integers(2, len(data) - 2, 3):
                damaged[at] = rng.integers(256)
            mine, other = both(bytes(damaged[: rng.choice([len(data), len(data), rng.integers(len(data))])]))
            if isinstance(other, str):
                assert mine == other
                kinds.append(other)
            else:
                np.testing.assert_array_equal(mine, other)
    assert {"truncated", "undecodable"} <= set(kinds)
    assert len(kinds) < 24 * 20 * 0.8


def test_what_is_no_ordinary_jpeg_file_is_left_to_pillow():
    image = Image.fromarray(gradient(20, 30))
    whole = encode(image, "JPEG")
    for data in (encode(image), encode(image.convert("CMYK"), "JPEG"), whole[:-2], whole + b"more"):
        assert _jpeg_by_torchvision(data, _open(data, CAP)) is None
        mine, other = both(data)
        assert np.array_equal(mine, other)
