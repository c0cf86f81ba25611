"""Files with damage at random places: pixels within the cap, or an ``ImageError``; nothing else."""

import numpy as np
import pytest
from PIL import Image

from tests.bad_images.builders import encode, turned
from tests.bad_images.corpus import FINE, PICTURE
from zsad.errors import ImageError
from zsad.images import decode, decode_mask, image_size, orientation

CAP = 1_000_000
ROUNDS = 300


def seeds():
    """Small real files of every format, with as many optional parts as fit in."""
    small = PICTURE[:24, :32]
    grey = small[..., 0].astype(np.uint16) * 257
    indexed = Image.fromarray(small).quantize(16)
    more = {"save_all": True, "append_images": [Image.fromarray(small[::-1])]}
    icc = b"profile" * 9
    return {
        "jpeg": turned(PICTURE, 6, "JPEG", icc_profile=icc, **FINE),
        "progressive": encode(small, "JPEG", progressive=True),
        "cmyk": encode(Image.fromarray(small).convert("CMYK"), "JPEG"),
        "png": turned(small, 5, icc_profile=icc),
        "png16": encode(grey),
        "apng": encode(small, **more),
        "palette": encode(indexed, transparency=0),
        "gif": encode(indexed, "GIF", **more),
        "webp": turned(small, 3, "WEBP", icc_profile=icc),
        "animated webp": encode(small, "WEBP", **more),
        "tiff": turned(small, 8, "TIFF", **more),
        "lzw": encode(grey, "TIFF", compression="tiff_lzw"),
        "float": encode(grey.astype(np.float32), "TIFF", compression="tiff_adobe_deflate"),
        "bmp": encode(small, "BMP"),
        "ppm": encode(small, "PPM"),
    }


def damage(data, rng):
    """``data`` with some bytes changed, and sometimes cut, doubled, or with a part moved."""
    changed = bytearray(data)
    # Headers decide more than pixels do.
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 200)
    for at in rng.integers(0, reach, rng.integers(1, 12)):
        changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
    start, stop = sorted(rng.integers(0, len(changed) + 1, 2))
    match rng.integers(6):
        case 0:
            del changed[start:]
        case 1:
            del changed[start:stop]
        case 2:
            changed[start:start] = changed[start:stop]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", seeds())
def test_damaged_files(name):
    original = seeds()[name]
    rng = np.random.default_rng(list(name.encode()))
    errors = 0
    for _ in range(ROUNDS):
        data = damage(original, rng)
        try:
            pixels = decode(data, CAP)
        except ImageError as error:
            assert error.kind and str(error).strip()
            errors += 1
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert 0 < pixels.shape[0] * pixels.shape[1] <= CAP
            assert pixels.shape[:2] == image_size(data, CAP)
        for read in (decode_mask, orientation):
            try:
                read(data, CAP)
            except ImageError:
                continue
    assert errors > 0
