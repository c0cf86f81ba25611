"""Connecting to Ray: addresses, settings, signals and words on the terminal."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import psutil
import pytest

from zsad.errors import UsageError, ZsadError
from zsad.pipeline import ray_session


@pytest.mark.parametrize("address", ["here", "http://a:8265", "host:", "host:port", "a b:1"])
def test_an_address_of_no_known_form_is_refused_at_once(monkeypatch, address):
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: pytest.fail("asked Ray"))
    with (
        pytest.raises(UsageError, match=rf"the address '{address}'\. Expected local, auto or HOST:PORT"),
        ray_session.connected(address),
    ):
        pass


def test_an_address_of_the_environment_is_looked_at_as_well(monkeypatch):
    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: pytest.fail("asked Ray"))
    for address, error, words in (
        ("http://host:8265", UsageError, r"'http://host:8265' of \$RAY_ADDRESS\. Expected"),
        ("127.0.0.1:1", ZsadError, "Cannot reach Ray at 'auto': .*refused"),
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(error, match=words), ray_session.connected(None):
            pass


def test_a_ray_of_its_own_starts_with_settings_that_the_caller_keeps_nothing_of(monkeypatch):
    seen = {}
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: seen.update(os.environ))
    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    for name in ray_session._OWN_RAY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    before = dict(os.environ)
    with ray_session.connected("local"):
        assert dict(os.environ) == before
    assert {name: seen[name] for name in ray_session._OWN_RAY} == ray_session._OWN_RAY | {
        "RAY_BACKEND_LOG_LEVEL": "info"
    }
    seen.clear()
    with ray_session.connected("auto"):
        assert "RAY_event_stats" not in seen
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("no")))
    with pytest.raises(ZsadError, match="Cannot reach Ray at 'local'"), ray_session.connected("local"):
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
    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: found.append("shut down"))
    return found


@pytest.mark.parametrize(("name", "end"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("seconds_between", [None, 0.01, 2])
def test_a_signal_waits_until_ray_has_started_unless_it_is_sent_again(monkeypatch, steps, name, end, seconds_between):
    number, now = getattr(signal, name), [0.0]
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: now[0])

    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: steps.append("Ray's own"))
        signal.raise_signal(number)
        if seconds_between is not None:
            now[0] += seconds_between
            signal.raise_signal(number)
        steps.append("started")

    monkeypatch.setattr(ray_session.ray, "init", init)
    own = {"SIGINT": signal.default_int_handler, "SIGTERM": lambda *_: sys.exit(143)}
    set_handler = signal.signal
    with handlers(**own):
        with pytest.raises(end), ray_session.connected("local"):
            steps.append("ran")
        assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == list(own.values())
    assert signal.signal is set_handler
    assert steps == (["shut down"] if seconds_between == 2 else ["started", "shut down"])


@pytest.mark.parametrize("address", ["local", "auto"])
def test_rays_answer_to_sigterm_replaces_none_but_the_systems(monkeypatch, steps, address):
    def rays(*_):
        pass

    monkeypatch.setattr(ray_session.ray, "init", lambda **_: signal.signal(signal.SIGTERM, rays))
    for own, kept in ((lambda *_: None, None), (signal.SIG_DFL, rays)):
        with handlers(SIGTERM=own), ray_session.connected(address):
            assert signal.getsignal(signal.SIGTERM) is (kept or own)


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch, steps):
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: signal.raise_signal(signal.SIGINT))
    with handlers(SIGINT=signal.SIG_IGN), ray_session.connected("local"):
        steps.append("ran")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert steps == ["ran", "shut down"]


def test_a_failed_start_gives_the_handlers_back(monkeypatch, steps):
    def init(**_):
        raise ConnectionError("no")

    monkeypatch.setattr(ray_session.ray, "init", init)
    with handlers(SIGINT=signal.default_int_handler):
        with pytest.raises(ZsadError, match="Cannot reach Ray"), ray_session.connected("local"):
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_no_handler_is_touched(monkeypatch, steps):
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: steps.append("started"))

    def connect():
        with ray_session.connected("local"):
            steps.append("ran")

    with handlers(SIGTERM=lambda *_: None):
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
    assert steps == ["started", "ran", "shut down"]


def test_of_what_rays_core_writes_only_its_remark_on_our_own_setting_is_left_out(capfd):
    with pytest.raises(ZsadError), ray_session._without_remark():
        os.write(
            2, b"first\n[x] logging.cc:1: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"
        )
        os.write(2, b"second\n")
        assert capfd.readouterr().err == ""
        raise ZsadError("no")
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\n"


def test_ray_starts_without_a_word_and_without_what_nobody_needs():
    code = """
import ray
from zsad.pipeline.ray_session import connected
with connected("local"):
    print(ray.get(ray.remote(lambda: "connected").remote()))
    print(sorted(kind for kind in ray._private.worker._global_node.all_processes))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    connected, processes = done.stdout.splitlines()
    assert (connected, done.stderr) == ("connected", "")
    assert "raylet" in processes and not {"log_monitor", "monitor"} & {*ast.literal_eval(processes)}


@pytest.fixture
def start(tmp_path):
    """Starts a process of this name that has one of its own, as a raylet has workers; all are ended at last."""
    started = []

    def start(name):
        program = tmp_path / str(len(started)) / name
        program.parent.mkdir()
        shutil.copy("/bin/sh", program)
        child = subprocess.Popen([program, "-c", "sleep 600 & echo; wait"], stdout=subprocess.PIPE)
        child.stdout.readline()
        (worker,) = psutil.Process(child.pid).children()
        started.append((child, worker))
        return child, worker

    yield start
    for child, worker in started:
        for process in (worker, child):
            with suppress(psutil.Error):
                process.kill()
        child.wait()
        child.stdout.close()


def is_over(process):
    psutil.wait_procs([process], timeout=1)
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_processes_of_a_ray_of_its_own_that_do_not_end_are_ended_and_no_others(monkeypatch, steps, start):
    rays, others = [], [start("raylet")]

    def init(**_):
        rays.append(start("raylet"))
        # By another thread of the caller.
        others.append(start("tool"))

    monkeypatch.setattr(ray_session.ray, "init", init)
    with ray_session.connected("local"):
        others.append(start("raylet"))
    assert steps == ["shut down"]
    ((child, worker),) = rays
    assert child.wait(10) == -signal.SIGKILL and is_over(worker)
    assert not any(child.poll() or is_over(worker) for child, worker in others)


def test_of_a_cluster_that_is_joined_no_process_is_ended(monkeypatch, steps, start):
    found = []
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: found.append(start("raylet")))
    with ray_session.connected("auto"):
        pass
    ((child, worker),) = found
    assert steps == ["shut down"] and not is_over(worker) and child.poll() is None


@pytest.mark.parametrize(
    ("error", "raised"), [(ConnectionError("too long"), ZsadError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_start_that_fails_leaves_no_process(monkeypatch, steps, start, error, raised):
    rays = []

    def init(**_):
        rays.append(start("raylet"))
        raise error

    monkeypatch.setattr(ray_session.ray, "init", init)
    with pytest.raises(raised), ray_session.connected("local"):
        pass
    ((child, worker),) = rays
    assert steps == ["shut down"] and child.wait(10) == -signal.SIGKILL and is_over(worker)


def test_a_ray_that_does_not_end_properly_leaves_no_process_either(monkeypatch, steps, start):
    rays = []
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: rays.append(start("raylet")))

    def shut_down():
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_session.ray, "shutdown", shut_down)
    with pytest.raises(KeyboardInterrupt), ray_session.connected("local"):
        pass
    ((child, worker),) = rays
    assert child.wait(10) == -signal.SIGKILL and is_over(worker)
