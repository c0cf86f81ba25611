"""Encoded prompts on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from zsad.models.text_cache import cached_texts


@dataclass
class Model:
    name: str = "a/b"
    sha256: str = "a" * 64
    precision: str = "fp32"
    device: str = "cpu"


class Encoder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.full((2, 3), self.calls, np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_texts_are_encoded_once():
    encode = Encoder()
    first = cached_texts(Model(), ["a", "b"], encode)
    again = cached_texts(Model(), ("a", "b"), encode)
    assert encode.calls == 1
    assert again.dtype == np.float32 and np.array_equal(first, again)


@pytest.mark.parametrize(
    "change", [{"name": "a-quickgelu/b"}, {"sha256": "b" * 64}, {"precision": "bf16"}, {"device": "cuda:1"}]
)
def test_other_models_share_nothing(change):
    encode = Encoder()
    cached_texts(Model(), ["a"], encode)
    cached_texts(Model(**change), ["a"], encode)
    cached_texts(Model(), ["b"], encode)
    cached_texts(Model(), ["a", "b"], encode)
    assert encode.calls == 4


def test_all_gpus_share():
    encode = Encoder()
    cached_texts(Model(device="cuda:0"), ["a"], encode)
    cached_texts(Model(device="cuda:1"), ["a"], encode)
    assert encode.calls == 1


def test_a_model_without_a_hash_is_not_cached(cache):
    encode = Encoder()
    cached_texts(Model(sha256=""), ["a"], encode)
    cached_texts(Model(sha256=""), ["a"], encode)
    assert encode.calls == 2 and not cache.exists()


def test_damaged_and_unusable_caches_only_cost_encoding(cache, monkeypatch):
    encode = Encoder()
    cached_texts(Model(), ["a"], encode)
    (file,) = (cache / "texts").glob("*.npy")
    file.write_bytes(file.read_bytes()[:20])
    assert cached_texts(Model(), ["a"], encode)[0, 0] == 2
    assert cached_texts(Model(), ["a"], encode)[0, 0] == 2
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("ZSAD_CACHE", str(blocked))
    assert cached_texts(Model(), ["a"], encode)[0, 0] == 3


def test_one_of_several_encodes():
    encode = Encoder()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_texts(Model(), ["a"], encode), range(8)))
    assert encode.calls == 1 and all((one == 1).all() for one in found)


def test_what_is_no_number_is_not_kept():
    broken = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(cached_texts(Model(), ["a"], lambda: broken)).all()
    encode = Encoder()
    assert np.isfinite(cached_texts(Model(), ["a"], encode)).all() and encode.calls == 1
