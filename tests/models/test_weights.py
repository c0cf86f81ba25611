"""Registry, search order, resumable download and strict loading."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsad.config import ModelConfig
from zsad.errors import UsageError
from zsad.models import download, registry, state_dicts, weights

BODY = bytes(range(256)) * 9000
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = "test-model"


@dataclass
class Remote:
    """What the loopback server does, and what it was asked."""

    body: bytes = BODY
    etag: str = '"one"'
    cut_after: int | None = None
    status: int = 200
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def remote() -> Iterator[Remote]:
    state = Remote()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            state.requests.append(dict(self.headers))
            if state.status != 200:
                self.send_error(state.status)
                return
            start = 0
            if "Range" in self.headers and self.headers.get("If-Range") == state.etag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start > len(state.body):
                self.send_error(416)
                return
            rest = state.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("ETag", state.etag)
            if start:
                total = len(state.body)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            self.wfile.write(rest if state.cut_after is None else rest[: state.cut_after])
            if state.cut_after is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    for name in ("ZSAD_WEIGHTS", "ZSAD_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def register(monkeypatch: pytest.MonkeyPatch, source: str, sha256: str | None = None) -> None:
    item = registry.WeightsEntry(NAME, "clip", "test-model.bin", source, sha256, len(BODY), "MIT")
    monkeypatch.setattr(registry, "REGISTRY", MappingProxyType({**registry.REGISTRY, NAME: item}))


def test_registry_is_complete_and_consistent() -> None:
    names = {
        "isnet-general-use",
        "sam-vit-h",
        "sam-vit-l",
        "sam-vit-b",
        "ViT-B-16-plus-240/laion400m_e31",
        "ViT-L-14-336-quickgelu/openai",
        "ViT-H-14/laion2b_s32b_b79k",
        "ViT-SO400M-16-SigLIP2-384/webli",
        "PE-Core-L-14-336/meta",
        "clipseg-rd64-refined",
        *(f"{kind}-{family}" for kind in ("mini", "random") for family in ("isnet", "sam", "clip", "clipseg")),
    }
    assert set(registry.REGISTRY) == names
    entries = registry.REGISTRY.values()
    assert len({item.filename for item in entries}) == len(names)
    assert all(item.licence for item in entries)
    for item in entries:
        assert item.sha256 is None or (len(item.sha256) == 64 and set(item.sha256) <= set("0123456789abcdef"))
        if item.source not in ("random", "bundled"):
            assert download.resolve_url(item.source).startswith("https://")
            assert item.sha256 is not None or "first download" in item.note
    with pytest.raises(TypeError):
        registry.REGISTRY["x"] = next(iter(entries))  # type: ignore[index]


def test_hub_source_becomes_a_url_of_that_revision() -> None:
    url = download.resolve_url("hf://owner/name@abc123/folder/file.bin")
    assert url.endswith("/owner/name/resolve/abc123/folder/file.bin")
    with pytest.raises(UsageError, match="hf://owner/name/path"):
        download.resolve_url("hf://owner/name")
    with pytest.raises(UsageError, match="https"):
        download.resolve_url("http://example.org/file.bin")


def test_other_open_clip_names_are_accepted() -> None:
    item = registry.entry("ViT-B-32/laion2b_s34b_b79k")
    assert item.family == "clip" and item.source.startswith("hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K/")
    assert registry.entry("ViT-B-16-SigLIP2/webli").tokenizer == "timm/ViT-B-16-SigLIP2"


@pytest.mark.parametrize("name", ["ViT-L-14-336/openai", "ViT-H-14-378/dfn5b", "RN50/cc12m"])
def test_weights_of_quickgelu_ask_for_its_model(name: str) -> None:
    model, _, tag = name.partition("/")
    with pytest.raises(
        UsageError, match=f"QuickGELU, which '{name}' does not compute. Expected '{model}-quickgelu/{tag}'"
    ):
        registry.entry(name)
    assert registry.entry(f"{model}-quickgelu/{tag}").family == "clip"


@pytest.mark.parametrize("name", ["nothing", "ViT-B-32/nothing", "nothing/laion2b_s34b_b79k"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"Unknown model .*sam-vit-h.*MODEL/TAG"):
        registry.entry(name)


def test_trained_or_not() -> None:
    assert registry.is_trained("sam-vit-b")
    assert registry.is_trained("mini-clip")
    assert not registry.is_trained("random-clip")
    assert registry.is_trained("random-clip", "trained.safetensors")


def test_order_of_places(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "https://unreachable.invalid/file.bin")
    explicit, shared, cached = folders / "own.bin", folders / "shared", folders / "cache" / "weights"
    shared.mkdir()
    cached.mkdir(parents=True)
    for path in (explicit, shared / "test-model.bin", cached / "test-model.bin"):
        path.write_bytes(b"content")
    monkeypatch.setenv("ZSAD_WEIGHTS", str(shared))
    assert weights.locate(NAME, explicit) == explicit
    assert weights.locate(NAME) == shared / "test-model.bin"
    monkeypatch.delenv("ZSAD_WEIGHTS")
    assert weights.locate(NAME) == cached / "test-model.bin"
    with pytest.raises(UsageError, match="no file"):
        weights.locate(NAME, folders / "absent.bin")


def test_random_model_has_no_file() -> None:
    with pytest.raises(UsageError, match="seeded random"):
        weights.locate("random-clip")


def test_missing_offline_says_everything(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    monkeypatch.setenv("ZSAD_WEIGHTS", str(folders / "shared"))
    with pytest.raises(UsageError) as caught:
        weights.locate("sam-vit-h")
    for part in (
        "sam_vit_h_4b8939.pth",
        "2.6 GB",
        str(folders / "shared" / "sam_vit_h_4b8939.pth"),
        str(folders / "cache" / "weights" / "sam_vit_h_4b8939.pth"),
        "zsad models download sam-vit-h",
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        "offline",
    ):
        assert part in str(caught.value)
    assert not (folders / "cache" / "weights").exists()


def test_download_false_never_asks_the_network(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    with pytest.raises(UsageError, match="not found"):
        weights.locate(NAME, download=False)
    assert not remote.requests


def test_download_is_checked_and_kept(folders: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    seen: list[tuple[int, int | None]] = []
    path = weights.locate(NAME, progress=lambda done, total: seen.append((done, total)))
    assert path == folders / "cache" / "weights" / "test-model.bin"
    assert path.read_bytes() == BODY and seen[-1] == (len(BODY), len(BODY))
    assert weights.locate(NAME) == path and len(remote.requests) == 1
    assert {item.name for item in path.parent.iterdir()} <= {path.name, path.name + ".lock"}


def test_interrupted_download_resumes(folders: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    remote.cut_after = len(BODY) // 3
    target = folders / "cache" / "weights" / "test-model.bin"
    with pytest.raises(download.DownloadError):
        download.fetch(remote.url, target, BODY_SHA256, attempts=1)
    held = target.with_name("test-model.bin.part").stat().st_size
    assert 0 < held < len(BODY) and not target.exists()
    remote.cut_after = None
    assert weights.locate(NAME).read_bytes() == BODY
    assert remote.requests[-1]["Range"] == f"bytes={held}-"


def test_changed_remote_file_is_not_mixed_with_the_old_part(folders: Path, remote: Remote) -> None:
    target = folders / "file.bin"
    remote.cut_after = 1000
    with pytest.raises(download.DownloadError):
        download.fetch(remote.url, target, None, attempts=1)
    remote.cut_after, remote.etag, remote.body = None, '"two"', b"another " * 1000
    download.fetch(remote.url, target, None)
    assert target.read_bytes() == remote.body


def test_wrong_hash_leaves_nothing(folders: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, "0" * 64)
    with pytest.raises(UsageError, match=f"{BODY_SHA256}.*expected {'0' * 64}"):
        weights.locate(NAME)
    left = [path.name for path in (folders / "cache" / "weights").iterdir()]
    assert left in ([], ["test-model.bin.lock"])


def test_corrupt_cached_file_is_put_aside(folders: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    path = weights.locate(NAME)
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"expected .*run again"):
        weights.locate(NAME)
    assert not path.exists() and path.with_name("test-model.bin.wrong").exists()
    assert weights.locate(NAME).read_bytes() == BODY


def test_wrong_file_in_the_users_folder_is_left_alone(
    folders: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    (folders / "test-model.bin").write_bytes(b"other")
    monkeypatch.setenv("ZSAD_WEIGHTS", str(folders))
    with pytest.raises(UsageError, match="sha256"):
        weights.locate(NAME)
    assert (folders / "test-model.bin").read_bytes() == b"other"


def test_first_download_sets_the_hash(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, None)
    assert weights.trusted_sha256(registry.entry(NAME)) is None
    path = weights.locate(NAME)
    assert weights.trusted_sha256(registry.entry(NAME)) == BODY_SHA256
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match=BODY_SHA256):
        weights.locate(NAME)


def test_http_error_is_one_message(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, remote.url, BODY_SHA256)
    remote.status = 404
    with pytest.raises(UsageError, match=r"download failed.*404"):
        weights.locate(NAME)
    assert len(remote.requests) == 1


def test_bundled_file_is_found_in_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, "bundled")
    with pytest.raises(UsageError, match="missing from the installed package"):
        weights.locate(NAME)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "weights.py"))
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "test-model.bin").write_bytes(b"x")
    assert weights.locate(NAME) == tmp_path / "bundled" / "test-model.bin"


def test_sha256_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert weights.sha256_of(path) == weights.sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert weights.sha256_of(path) == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "parallel"])
def test_state_dict_forms(tmp_path: Path, form: str) -> None:
    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.tensor([1, 2])}
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    loaded = state_dicts.load_state_dict(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_half_precision_file_loads_as_float32(tmp_path: Path) -> None:
    value = torch.randn(4).half()
    save_file({"w": value, "count": torch.tensor(3)}, tmp_path / "half.safetensors")
    loaded = state_dicts.load_state_dict(tmp_path / "half.safetensors")
    assert loaded["w"].dtype == torch.float32 and torch.equal(loaded["w"], value.float())
    assert loaded["count"].dtype == torch.int64


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(UsageError, match="more than plain tensors"):
        state_dicts.load_state_dict(tmp_path / "bad.pth")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth", "absent.pth"])
def test_unreadable_files_are_one_message(tmp_path: Path, name: str) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"\x00\x01 not weights at all")
    with pytest.raises(UsageError, match=name):
        state_dicts.load_state_dict(tmp_path / name)


def test_not_a_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="mapping from names to tensors"):
        state_dicts.load_state_dict(tmp_path / "list.pth")


def test_strict_load_names_what_differs() -> None:
    module = nn.Linear(3, 2)
    state_dicts.load_into(module, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, NAME)
    assert torch.equal(module.weight, torch.ones(2, 3))
    with pytest.raises(UsageError) as caught:
        state_dicts.load_into(module, {"weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, NAME)
    for part in ("missing (1): bias", "unexpected (1): extra", "weight (3, 3), expected (2, 3)", NAME):
        assert part in str(caught.value)
    assert torch.equal(module.weight, torch.ones(2, 3))


def test_seeding_leaves_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    first, second = state_dicts.seeded(lambda: torch.randn(3)), state_dicts.seeded(lambda: torch.randn(3))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


def test_restore_from_explicit_file_and_from_random(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    untrained = weights.restore(module, ModelConfig(name="random-clip"))
    assert untrained == state_dicts.sha256_of_state_dict(module.state_dict())
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "w.safetensors")
    trained = weights.restore(module, ModelConfig(name="random-clip", weights=str(tmp_path / "w.safetensors")))
    assert trained == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert torch.equal(module.weight, torch.ones(2, 3))


def test_state_dict_hash_sees_names_and_values() -> None:
    value = torch.arange(4.0)
    digests = {
        state_dicts.sha256_of_state_dict({"a": value}),
        state_dicts.sha256_of_state_dict({"b": value}),
        state_dicts.sha256_of_state_dict({"a": value.reshape(2, 2)}),
        state_dicts.sha256_of_state_dict({"a": value + 1}),
    }
    assert len(digests) == 4


def test_tokenizer_files(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ViT-SO400M-16-SigLIP2-384/webli"
    assert weights.locate_tokenizer("ViT-B-16-plus-240/laion400m_e31") is None
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    with pytest.raises(UsageError, match=f"tokenizer.json.*(?s:.*)zsad models download {name}"):
        weights.locate_tokenizer(name)
    folder = folders / "ViT-SO400M-16-SigLIP2-384-webli-tokenizer"
    folder.mkdir()
    for file in weights.TOKENIZER_FILES:
        (folder / file).write_text("{}")
    monkeypatch.setenv("ZSAD_WEIGHTS", str(folders))
    assert weights.locate_tokenizer(name) == folder
