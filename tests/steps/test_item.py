import io

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.config import ImagesConfig
from zsad.errors import ImageError, UsageError
from zsad.steps import isolation
from zsad.steps.isolation import DeviceBatches, attempt, condemns_process, isolate
from zsad.steps.item import ImageItem, load, timed


def item(name="x"):
    return ImageItem(path=name, class_name="thing")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("zsad.filesystem.time.sleep", lambda _: None)


def test_isolate_finds_the_one_image_that_fails():
    items = [item(str(index)) for index in range(7)]

    def work(some):
        if any(one.path == "3" for one in some):
            raise RuntimeError("cannot do 3")
        for one in some:
            one.score = 1.0

    isolate("tile_scores", items, work)
    assert [one.score for one in items] == [1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0]
    failure = items[3].failure
    assert (failure.stage, failure.kind, failure.message) == ("tile_scores", "RuntimeError", "cannot do 3")


@pytest.mark.parametrize(
    ("error", "condemned"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (UsageError("no such prompt"), True),
        (ModuleNotFoundError("No module named 'cv2'"), True),
        (ValueError("one odd image"), False),
    ],
)
def test_only_what_dooms_every_image_stops_the_process(impatient, error, condemned):
    assert condemns_process(error) == condemned

    def fail(_):
        raise error

    one = item()
    if condemned:
        with pytest.raises(type(error)):
            attempt("saliency", one, fail)
        with pytest.raises(type(error)):
            isolate("saliency", [one, item()], fail)
    else:
        attempt("saliency", one, fail)
        assert one.failure.kind == type(error).__name__


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("out of memory"), MemoryError(), RuntimeError("Triton Error [CUDA]: out of memory")],
)
def test_device_batches_halve_until_they_fit(error):
    seen = []

    def forward(window):
        size = window.stop - window.start
        if size > 3:
            raise error
        seen.append((window.start, window.stop))
        return size

    batches, tried = DeviceBatches(), []
    assert sum(batches.run(10, 8, forward)) == 10
    assert [start for start, _ in seen] == [0, 2, 4, 6, 8]
    # What did not fit is not tried again.
    assert sum(batches.run(5, 8, lambda window: tried.append(window) or forward(window))) == 5
    assert [window.stop - window.start for window in tried] == [2, 2, 1]
    with pytest.raises(type(error)):
        DeviceBatches().run(1, 8, lambda _: (_ for _ in ()).throw(error))


def test_messages_are_short_one_line_and_without_secrets():
    one = item()
    one.fail("load", ImageError("unreadable", "s3://key:hunter2@bucket/x\nsecond line" + "y" * 1000))
    assert one.failure.message == "s3://***@bucket/x"
    one.fail("load", ValueError("z" * 1000))
    assert len(one.failure.message) == 300
    one.fail("load", ValueError())
    assert one.failure.message == "ValueError"


def test_load_checks_aspect_and_times_the_stage():
    wide, square = item(), item()
    wide.image = np.zeros((10, 201, 3), np.uint8)
    square.image = np.zeros((10, 200, 3), np.uint8)
    load([wide, square], ImagesConfig())
    assert wide.failure.kind == "extreme_aspect" and "20.1" in wide.failure.message
    assert square.failure is None and (square.height, square.width) == (10, 200)
    assert square.stage_ms["load"] > 0


def test_what_failed_before_a_stage_takes_no_time_of_it():
    failed, sound, fails_now = item(), item(), item()
    failed.fail("load", ValueError("no"))
    with timed("saliency", [failed, sound, fails_now]):
        fails_now.fail("saliency", ValueError("no"))
    assert failed.stage_ms == {} and sound.stage_ms == fails_now.stage_ms != {}


TRANSIENT = {
    "GPU memory": torch.OutOfMemoryError("CUDA out of memory"),
    "host memory": MemoryError(),
    "host memory as torch says it": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "a store out of reach": ImageError("unreadable", "connection reset", transient=True),
}


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
@pytest.mark.parametrize("together", [True, False])
def test_what_may_pass_is_tried_three_times_and_five_where_it_is_a_store(impatient, error, together, monkeypatch):
    freed = []
    monkeypatch.setattr(isolation.graphs, "free_memory", lambda: freed.append(True))

    def work_that_fails(times):
        left = [times]

        def work(_):
            left[0] -= 1
            if left[0] >= 0:
                raise error

        return work

    def run(one, work):
        return isolate("saliency", [one], work) if together else attempt("saliency", one, work)

    again = 4 if isinstance(error, ImageError) else 2
    passing, lasting = item(), item()
    run(passing, work_that_fails(again))
    assert passing.failure is None
    run(lasting, work_that_fails(again + 1))
    assert lasting.failure.stage == "saliency"
    # A store has no use for it.
    assert len(freed) == (0 if isinstance(error, ImageError) else 2 * again)


def test_what_lasts_is_tried_once():
    tries = []

    def work(_):
        tries.append(1)
        raise ImageError("missing", "no file at this path")

    attempt("load", item(), work)
    assert len(tries) == 1


def test_memory_that_runs_out_for_a_batch_is_enough_for_its_halves(impatient):
    items = [item(str(index)) for index in range(8)]

    def work(some):
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for one in some:
            one.score = 1.0

    isolate("tile_scores", items, work)
    assert all(one.score == 1.0 for one in items)


def test_a_missing_package_is_no_fault_of_the_images(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("No module named 'cv2'")

    monkeypatch.setattr("zsad.images._copy", fail)
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    one = ImageItem(path="a.png", class_name="thing", data=buffer.getvalue())
    with pytest.raises(ModuleNotFoundError, match="cv2"):
        load([one], ImagesConfig())
    assert one.failure is None
