"""Scaling against the libraries whose values it promises."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from zsad import resize as module
from zsad.resize import Normalisation, Padded, resize_into
from zsad.stretch import stretch

KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
sides = st.integers(1, 160)
plain = Normalisation(1, (0, 0, 0), (1, 1, 1))
clips = Normalisation(255, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def resize(pixels, height, width, kernel):
    output = np.full((3, height, width), np.nan, np.float32)
    resize_into(output, pixels, kernel, plain)
    return output.transpose(1, 2, 0).astype(np.uint8)


def picture(seed, height, width):
    """Noise; black and white for every other seed, where cubic coefficients overshoot."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if seed % 2 else (noise > 127).astype(np.uint8) * 255


def pillow(pixels, height, width, kernel):
    """As Pillow 13: where it scales the height first, older ones are made to."""
    if module._rows_first(pixels.shape, height, width):
        pixels = np.asarray(Image.fromarray(pixels).resize((pixels.shape[1], height), KERNELS[kernel]))
    return np.asarray(Image.fromarray(pixels).resize((width, height), KERNELS[kernel]))


def torchs(pixels, height, width):
    """The kernel of a single thread; several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        floats = torch.tensor(pixels).permute(2, 0, 1)[None].float()
        return F.interpolate(floats, (height, width), mode="bilinear")[0].to(torch.uint8)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1000), sides, sides, sides, sides)
@example(0, 1, 1, 1, 1)
@example(1, 1, 160, 160, 1)
@example(1, 2, 3000, 50, 7)
@example(0, 3000, 2, 7, 50)
@example(0, 64, 64, 64, 64)
def test_resize_is_pillows(kernel, seed, height, width, new_height, new_width):
    pixels = picture(seed, height, width)
    ours = resize(pixels, new_height, new_width, kernel)
    assert np.array_equal(ours, pillow(pixels, new_height, new_width, kernel))


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1000), sides, sides, sides, sides, st.tuples(*[st.integers(0, 90)] * 4))
@example(0, 1, 1, 1, 1, (0, 0, 0, 1))
@example(1, 20, 90, 90, 90, (35, 35, 0, 0))
@example(1, 90, 20, 90, 90, (0, 0, 35, 35))
@example(0, 300, 40, 7, 50, (3, 0, 5, 1))
def test_padding_is_scaled_as_if_it_were_there(kernel, seed, height, width, new_height, new_width, padding):
    pixels = picture(seed, height, width)
    top, bottom, left, right = padding
    whole = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    ours = resize(Padded(pixels, *padding), new_height, new_width, kernel)
    assert np.array_equal(ours, pillow(whole, new_height, new_width, kernel))


@pytest.mark.parametrize("shape", [(900, 8500), (8500, 900)])
@pytest.mark.parametrize(("side", "kernel"), [(240, "bicubic"), (352, "bilinear")])
def test_a_long_image_is_scaled_as_its_padded_square(shape, side, kernel):
    pixels = picture(1, *shape)
    before, after = (8500 - 900) // 2, (8500 - 900) // 2
    padding = (before, after, 0, 0) if shape[0] < shape[1] else (0, 0, before, after)
    whole = np.pad(pixels, (padding[:2], padding[2:], (0, 0)), mode="edge")
    expected = pillow(whole, side, side, kernel)
    del whole
    assert np.array_equal(resize(Padded(pixels, *padding), side, side, kernel), expected)


def test_padding_takes_little_memory():
    """The padded square of each of these would take 4.8 GB."""
    script = (
        "import resource, numpy as np; from zsad.resize import Normalisation, Padded, resize_into\n"
        "output, plain = np.empty((3, 352, 352), np.float32), Normalisation(1, (0, 0, 0), (1, 1, 1))\n"
        "resize_into(output, np.zeros((400, 400, 3), np.uint8), 'bilinear', plain)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "wide, tall = np.zeros((2000, 40000, 3), np.uint8), np.zeros((40000, 2000, 3), np.uint8)\n"
        "resize_into(output, Padded(wide, 19000, 19000, 0, 0), 'bilinear', plain)\n"
        "resize_into(output, Padded(tall, 0, 0, 19000, 19000), 'bilinear', plain)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert grown < 500 * 1024  # KiB; the two images are 458 MiB, of which only pages that are read count


@pytest.mark.parametrize(
    ("shape", "size", "kernel"),
    [
        ((1000, 1500), (683, 1024), "bilinear"),
        ((540, 540), (240, 240), "bicubic"),
        ((540, 540), (352, 352), "bilinear"),
        ((1500, 1000), (336, 224), "bicubic"),
        ((120, 80), (1024, 683), "bilinear"),
    ],
)
def test_sizes_of_the_job(shape, size, kernel):
    for seed in (0, 1):
        pixels = picture(seed, *shape)
        assert np.array_equal(resize(pixels, *size, kernel), pillow(pixels, *size, kernel))


@pytest.mark.parametrize(
    ("shape", "size"),
    # One line more than twice as many, exactly twice as many, and none: where Pillow turns its passes around.
    [((40, 30), (19, 20)), ((40, 30), (20, 20)), ((40, 30), (40, 20)), ((40, 20), (39, 40)), ((300, 20), (30, 5))],
)
def test_the_order_of_the_passes_is_pillows(shape, size):
    for seed in range(20):
        pixels = picture(seed, *shape)
        assert np.array_equal(resize(pixels, *size, "bilinear"), pillow(pixels, *size, "bilinear"))


def test_a_window_and_read_only_pixels():
    image = picture(1, 90, 120)
    image.setflags(write=False)
    window = image[10:70, 20:95]
    assert np.array_equal(resize(window, 31, 33, "bicubic"), pillow(window.copy(), 31, 33, "bicubic"))
    assert np.array_equal(resize(window, 31, 75, "bicubic"), pillow(window.copy(), 31, 75, "bicubic"))


def normalised(pixels, how):
    mean, std = (np.array(values, np.float32) for values in (how.mean, how.std))
    return ((pixels.astype(np.float32) / np.float32(how.divisor) - mean) / std).transpose(2, 0, 1)


def test_bytes_are_normalised_per_channel_into_the_corner():
    pixels = picture(1, 50, 60)
    output = np.full((3, 40, 50), -9, np.float32)
    resize_into(output, pixels, "bilinear", clips, (30, 45))
    assert np.array_equal(output[:, :30, :45], normalised(pillow(pixels, 30, 45, "bilinear"), clips))
    assert (output[:, 30:] == -9).all() and (output[:, :, 45:] == -9).all()
    whole = np.empty((3, 20, 25), np.float32)
    resize_into(whole, pixels, "bicubic", clips)
    assert np.array_equal(whole, normalised(pillow(pixels, 20, 25, "bicubic"), clips))


channels = st.tuples(*[st.floats(2**-10, 1024, width=32)] * 3)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 255]), channels, channels)
@example(1, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
@example(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
@example(255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
def test_every_byte_is_divided_exactly(divisor, mean, std):
    how = Normalisation(divisor, mean, std)
    every = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    output = np.empty((3, 1, 256), np.float32)
    resize_into(output, every, "bilinear", how)
    assert np.array_equal(output, normalised(every, how))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1000), sides, sides, sides, sides)
@example(0, 1, 1, 160, 160)
@example(1, 1, 5, 100, 100)
@example(1, 90, 90, 90, 70)
def test_stretch_is_torchs(seed, height, width, new_height, new_width):
    pixels = picture(seed, height, width)
    expected = torchs(pixels, new_height, new_width).div(255.0).sub_(0.5)
    assert torch.equal(torch.from_numpy(stretch(pixels, new_height, new_width, 255.0, 0.5)), expected)


@pytest.mark.parametrize("shape", [(1000, 1500), (1500, 1000), (427, 640), (77, 1999)])
@pytest.mark.parametrize("side", [320, 1024])
def test_stretch_at_the_sizes_of_the_job(shape, side):
    # Flat regions lie on whole numbers, where the last bit decides what truncation leaves.
    pixels = picture(1, *shape)
    pixels[: shape[0] // 2] = pixels[0, 0]
    assert torch.equal(torch.from_numpy(stretch(pixels, side, side, 1.0, 0.0)).byte(), torchs(pixels, side, side))


@pytest.mark.parametrize("broken", ["no folder", "damaged", "full"])
def test_kernels_work_without_a_place_to_keep_them(broken, tmp_path):
    code = (
        "import numpy as np; from zsad.resize import Normalisation, resize_into; "
        "output, plain = np.empty((3, 4, 4), np.float32), Normalisation(1, (0, 0, 0), (1, 1, 1)); "
        "resize_into(output, np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2), 'bilinear', plain); "
        "print(int(output.sum()))"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path.cwd())}

    def run(prefix=""):
        command = [sys.executable, "-c", prefix + code]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    if broken == "no folder":
        done = run("import numba.core.caching as c; c.CacheImpl._locator_classes = []; ")
    elif broken == "damaged":
        assert run().returncode == 0
        kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert kept
        for path in kept:
            path.write_bytes(b"")
        done = run()
    else:
        done = run(
            "import numba.core.caching as c\n"
            "def full(*_): raise OSError(28, 'No space left on device')\n"
            "c.IndexDataCacheFile.save = full\n"
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(int(pillow(np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2), 4, 4, "bilinear").sum()))
    ]


def test_a_mistake_in_a_kernel_shows():
    with pytest.raises(Exception, match="(?i)typing|argument|index"):
        module._combine("neither", "an", "array", 1, 2)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[..., ::-1],
        lambda image: image[:, ::-1],
        lambda image: image[::-1],
        lambda image: image[:, ::2],
        lambda image: image.transpose(1, 0, 2),
        lambda image: image[5:50, 7:60],
        np.asfortranarray,
    ],
)
def test_any_view_is_scaled_like_a_copy_of_it(view):
    pixels = view(picture(1, 90, 120))
    copied = pixels.copy("C")
    assert np.array_equal(resize(pixels, 31, 40, "bicubic"), resize(copied, 31, 40, "bicubic"))
    assert np.array_equal(resize(pixels, 20, 150, "bilinear"), resize(copied, 20, 150, "bilinear"))
    assert np.array_equal(stretch(pixels, 31, 40, 255.0, 0.5), stretch(copied, 31, 40, 255.0, 0.5))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(pixels):
    with pytest.raises(ValueError, match=r"expected uint8 \(h, w, 3\)"):
        resize(pixels, 3, 3, "bilinear")
    with pytest.raises(ValueError, match=r"expected uint8 \(h, w, 3\)"):
        stretch(pixels, 3, 3, 255.0, 0.5)


@pytest.mark.parametrize("size", [(41, 50), (40, 51), (0, 50)])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="expected float32"):
        resize_into(np.empty((3, 40, 50), np.float32), picture(1, 9, 9), "bilinear", plain, size)
