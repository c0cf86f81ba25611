"""How an actor takes a batch."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from zsad.config import load_config
from zsad.datasets import load_manifest
from zsad.errors import ZsadError
from zsad.pipeline import actor as actor_module
from zsad.pipeline.actor import StepActor
from zsad.pipeline.pools import Pool

POOL = Pool("saliency", ("saliency",), 1, 0.0, 1, 1)


class Looking:
    """A step that notes what is decoded at once."""

    name = "saliency"

    def __init__(self):
        self.groups, self.pixels = [], []

    def __call__(self, items):
        self.groups.append("".join(item.path[-5] for item in items))
        self.pixels.append(sum(item.image.size // 3 for item in items if item.image is not None))


@pytest.mark.parametrize(
    ("max_pixels", "groups"), [(1000, ["ab", "cde"]), (100_000, ["abcde"]), (400, ["ab", "cd", "e"])]
)
def test_a_batch_holds_no_more_decoded_pixels_at_once_than_one_image_may_have(tmp_path, ledger, max_pixels, groups):
    for name, (height, width) in {"a": (20, 20), "b": (30, 20), "c": (10, 20), "e": (20, 20)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((height, width, 3), np.uint8))
    (tmp_path / "d.png").write_bytes(b"no image")
    manifest = load_manifest("folder", str(tmp_path), object_name="nut")
    look = Looking()

    class Actor(StepActor):
        def build(self, config, names):
            return [look]

    config = load_config("mini", None, [f"images.max_pixels={max_pixels}"])
    result = Actor(POOL, config, "f" * 64, ledger)(manifest)
    assert look.groups == groups and max(look.pixels) <= max_pixels
    assert result["image_id"].to_pylist() == manifest["image_id"].to_pylist()
    over = "too_many_pixels" if max_pixels == 400 else None
    assert result["error_type"].to_pylist() == [None, over, None, "not_an_image", None]


def test_an_image_that_may_have_ended_a_process_shares_the_next_one_with_no_other(tmp_path, ledger, monkeypatch):
    for name in "abcdef":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((20, 20, 3), np.uint8))
    manifest = load_manifest("folder", str(tmp_path), object_name="nut")
    suspects, others = manifest.slice(0, 2), [manifest.slice(2, 2), manifest.slice(4, 2)]
    at_work, seen = [], []
    load = actor_module.load

    def noting(items, *args):
        at_work.append(len(items))
        seen.append(tuple(at_work))
        time.sleep(0.05)
        load(items, *args)
        at_work.remove(len(items))

    monkeypatch.setattr(actor_module, "load", noting)

    class Actor(StepActor):
        def build(self, config, names):
            return []

    # A process died over this batch.
    ledger.begin.remote("saliency", suspects["image_id"].to_pylist())
    actor = Actor(Pool("saliency", ("saliency",), 1, 0.0, 1, 3), load_config("mini"), "f" * 64, ledger)
    threads = [threading.Thread(target=actor, args=(batch,)) for batch in (others[0], suspects, others[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 in together for together in seen) == 2
    assert all(together == (1,) for together in seen if 1 in together)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_step_works_on_a_batch_while_another_step_works_on_the_one_before(tmp_path, ledger, overlap):
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((20, 20, 3), np.uint8))
    manifest = load_manifest("folder", str(tmp_path), object_name="nut")
    began = {key: threading.Event() for key in ("saliency a", "saliency b", "instances a", "instances b")}
    # Each goes on once the other has begun.
    meet = {"saliency b": "instances a", "instances a": "saliency b"} if overlap else {}
    at_work, most = [], []

    class Meeting:
        def __init__(self, name):
            self.name = name

        def __call__(self, items):
            key = f"{self.name} {items[0].path[-5]}"
            at_work.append(key)
            most.append(len(at_work))
            began[key].set()
            assert key not in meet or began[meet[key]].wait(30)
            time.sleep(0.05)
            at_work.remove(key)

    class Actor(StepActor):
        def build(self, config, names):
            return [Meeting(name) for name in names]

    pool = Pool("two", ("saliency", "instances"), 1, 0.0, 1, 2, overlap)
    actor = Actor(pool, load_config("mini", None, ["runtime.device=cpu"]), "f" * 64, ledger)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(actor, manifest.slice(0, 1))
        assert began["saliency a"].wait(30)
        second = actor(manifest.slice(1, 1))
        assert first.result().num_rows == second.num_rows == 1 and began["instances b"].is_set()
    assert max(most) == 1 + overlap


def test_weights_other_than_the_run_s_are_refused_before_anything_is_scored(ledger):
    pool = Pool("all", ("saliency", "tile_scores"), 1, 0.0, 1, 1)

    class Actor(StepActor):
        def build(self, config, names):
            # A step of one's own has no model.
            models = [SimpleNamespace(sha256="a" * 64), SimpleNamespace(sha256="b" * 64)]
            steps = [SimpleNamespace(name=name, model=model) for name, model in zip(names, models, strict=True)]
            return [SimpleNamespace(name="own"), *steps]

    config = load_config("mini")
    Actor(pool, config, "f" * 64, ledger, {"isnet": "a" * 64, "clip": "b" * 64})
    Actor(pool, config, "f" * 64, ledger)
    words = "The weights of the step tile_scores on node .* have sha256 b{64}.*isnet a{64}, clip c{64}.*replace those that differ"
    with pytest.raises(ZsadError, match=words):
        Actor(pool, config, "f" * 64, ledger, {"isnet": "a" * 64, "clip": "c" * 64})
