"""What is refused before a cluster is used."""

import gc
import io
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from PIL import Image

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
from zsad.pipeline import cluster
from zsad.pipeline.score import ScoreOptions, score


def test_a_run_from_outside_the_cluster_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": "a", "Alive": True}])
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    cluster.check_nodes(*paths, load_config("mini"))
    monkeypatch.setattr(cluster.ray.util.client.ray, "is_connected", lambda: True)
    for given in (paths, ("s3://bucket/in", "s3://bucket/out")):
        with pytest.raises(UsageError, match=r"outside the cluster.*ray job submit.*--address auto"):
            cluster.check_nodes(*given, load_config("mini"))
    with pytest.raises(UsageError, match=r"out' is a local path, but the cluster has machines of its own"):
        cluster.check_readable([paths[1]], shared=False)


@pytest.mark.parametrize("address", ["here", "http://a:8265", "host:", "host:port", "a b:1"])
def test_an_address_of_no_known_form_is_refused_at_once(monkeypatch, address):
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("asked Ray"))
    with (
        pytest.raises(UsageError, match=rf"the address '{address}'\. Expected local, auto or HOST:PORT"),
        cluster.connected(address),
    ):
        pass


def test_an_address_of_the_environment_is_looked_at_as_well(monkeypatch):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("asked Ray"))
    for address, error, words in (
        ("http://host:8265", UsageError, r"'http://host:8265' of \$RAY_ADDRESS\. Expected"),
        ("127.0.0.1:1", ZsadError, "Cannot reach Ray at 'auto': .*refused"),
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(error, match=words), cluster.connected(None):
            pass


def test_local_paths_are_refused_where_there_are_several_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in "ab"])
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"--output .*out' is a local path, but the cluster has several nodes"):
        cluster.check_nodes(*paths, load_config("mini"))
    with pytest.raises(UsageError, match=r"--root .*in' is a local path"):
        cluster.check_nodes(paths[0], "s3://bucket/out", load_config("mini"))


def test_a_node_that_is_gone_by_the_time_it_is_tried_does_not_end_the_run(monkeypatch):
    listed = [["a", "b"], ["a", "b"], ["a"]]
    tried = []

    class Task:
        def options(self, scheduling_strategy):
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, output):
            return self.node

    def get(node, timeout):
        tried.append(node[0])
        if node[0] == "b":
            raise cluster.ray.exceptions.WorkerCrashedError

    def nodes():
        names = listed.pop(0) if len(listed) > 1 else listed[0]
        return [{"NodeID": 56 * name, "Alive": True} for name in names]

    monkeypatch.setattr(cluster.ray, "nodes", nodes)
    monkeypatch.setattr(cluster.ray, "remote", lambda **_: lambda _: Task())
    monkeypatch.setattr(cluster.ray, "get", get)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: None)
    cluster.check_nodes("s3://bucket/in", "s3://bucket/out", load_config("mini"))
    # Tried again while it was still listed.
    assert tried == ["a", "b", "b"]
    listed[:] = [["a", "b"]]
    with pytest.raises(ZsadError, match="A node could not try the output"):
        cluster.check_nodes("s3://bucket/in", "s3://bucket/out", load_config("mini"))


def test_a_run_in_a_local_folder_is_not_read_from_other_machines(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    one, two = (lambda names=names: [{"NodeID": name, "Alive": True} for name in names] for names in ("a", "ab"))
    monkeypatch.setattr(cluster.ray, "nodes", one)
    cluster.check_readable([folder], shared=False)
    monkeypatch.setattr(cluster.ray, "nodes", two)
    wanted = r"run' is a local path, but the cluster has several nodes.*--shared-filesystem.*--address local"
    for paths in ([folder], ["s3://bucket/run", folder]):
        with pytest.raises(UsageError, match=wanted):
            cluster.check_readable(paths, shared=False)
    cluster.check_readable([folder], shared=True)
    cluster.check_readable(["s3://bucket/run"], shared=False)


def test_a_run_with_local_paths_stays_on_its_node(tmp_path, monkeypatch):
    class Context:
        def get_node_id(self):
            return "a"

    monkeypatch.setattr(cluster.ray, "get_runtime_context", Context)
    local, bucket = str(tmp_path), "s3://bucket/out"
    assert cluster.only_node(local, bucket, load_config("mini")) == "a"
    assert cluster.only_node(bucket, local, load_config("mini")) == "a"
    assert cluster.only_node(bucket, bucket, load_config("mini")) is None
    shared = load_config("mini", None, ["runtime.shared_filesystem=true"])
    assert cluster.only_node(local, local, shared) is None


def test_a_ray_of_its_own_starts_with_settings_that_the_caller_keeps_nothing_of(monkeypatch):
    seen = {}
    monkeypatch.setattr(cluster.ray, "init", lambda **_: seen.update(os.environ))
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    for name in cluster._OWN_RAY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    before = dict(os.environ)
    with cluster.connected("local"):
        assert dict(os.environ) == before
    assert {name: seen[name] for name in cluster._OWN_RAY} == cluster._OWN_RAY | {"RAY_BACKEND_LOG_LEVEL": "info"}
    seen.clear()
    with cluster.connected("auto"):
        assert "RAY_event_stats" not in seen
    monkeypatch.setattr(cluster.ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("no")))
    with pytest.raises(ZsadError, match="Cannot reach Ray at 'local'"), cluster.connected("local"):
        pass
    assert dict(os.environ) == before


@contextmanager
def handlers(**given):
    """These handlers for the duration of the block."""
    numbers = {getattr(signal, name): handler for name, handler in given.items()}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def steps(monkeypatch):
    """What a Ray that only pretends does; ``init`` is to be patched."""
    found = []
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: found.append("shut down"))
    return found


@pytest.mark.parametrize(("name", "end"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("seconds_between", [None, 0.01, 2])
def test_a_signal_waits_until_ray_has_started_unless_it_is_sent_again(monkeypatch, steps, name, end, seconds_between):
    number, now = getattr(signal, name), [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])

    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: steps.append("Ray's own"))
        signal.raise_signal(number)
        if seconds_between is not None:
            now[0] += seconds_between
            signal.raise_signal(number)
        steps.append("started")

    monkeypatch.setattr(cluster.ray, "init", init)
    own = {"SIGINT": signal.default_int_handler, "SIGTERM": lambda *_: sys.exit(143)}
    set_handler = signal.signal
    with handlers(**own):
        with pytest.raises(end), cluster.connected("local"):
            steps.append("ran")
        assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == list(own.values())
    assert signal.signal is set_handler
    assert steps == (["shut down"] if seconds_between == 2 else ["started", "shut down"])


@pytest.mark.parametrize("address", ["local", "auto"])
def test_rays_answer_to_sigterm_replaces_none_but_the_systems(monkeypatch, steps, address):
    def rays(*_):
        pass

    monkeypatch.setattr(cluster.ray, "init", lambda **_: signal.signal(signal.SIGTERM, rays))
    for own, kept in ((lambda *_: None, None), (signal.SIG_DFL, rays)):
        with handlers(SIGTERM=own), cluster.connected(address):
            assert signal.getsignal(signal.SIGTERM) is (kept or own)


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch, steps):
    monkeypatch.setattr(cluster.ray, "init", lambda **_: signal.raise_signal(signal.SIGINT))
    with handlers(SIGINT=signal.SIG_IGN), cluster.connected("local"):
        steps.append("ran")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert steps == ["ran", "shut down"]


def test_a_failed_start_gives_the_handlers_back(monkeypatch, steps):
    def init(**_):
        raise ConnectionError("no")

    monkeypatch.setattr(cluster.ray, "init", init)
    with handlers(SIGINT=signal.default_int_handler):
        with pytest.raises(ZsadError, match="Cannot reach Ray"), cluster.connected("local"):
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_no_handler_is_touched(monkeypatch, steps):
    monkeypatch.setattr(cluster.ray, "init", lambda **_: steps.append("started"))

    def connect():
        with cluster.connected("local"):
            steps.append("ran")

    with handlers(SIGTERM=lambda *_: None):
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
    assert steps == ["started", "ran", "shut down"]


def test_of_what_rays_core_writes_only_its_remark_on_our_own_setting_is_left_out(capfd):
    with pytest.raises(ZsadError), cluster._without_remark():
        os.write(
            2, b"first\n[x] logging.cc:1: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"
        )
        os.write(2, b"second\n")
        assert capfd.readouterr().err == ""
        raise ZsadError("no")
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\n"


def test_ray_starts_without_a_word():
    code = "from zsad.pipeline.cluster import connected\nwith connected('local'): print('connected')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("connected\n", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_as_before_when_the_models_are_refused(tmp_path, monkeypatch, enabled):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    collecting = []

    def refuse(*_):
        collecting.append(gc.isenabled())
        raise UsageError("no such weights")

    monkeypatch.setattr("zsad.pipeline.score.validate_models", refuse)
    options = ScoreOptions("folder", str(tmp_path / "in"), str(tmp_path / "out"), "mini", object_name="part")
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(UsageError, match="no such weights"):
            score(options, io.StringIO())
        assert collecting == [False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
