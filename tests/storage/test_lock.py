"""Two runs never write into one output at once, and a dead one holds nothing."""

import io
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from pyarrow import fs

from zsad.errors import UsageError, ZsadError
from zsad.storage import lock as lock_module
from zsad.storage import output_lock

HOLD = "import sys, time\nfrom zsad.storage import output_lock\nwith output_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_who_holds_it_and_takes_over_once_that_is_dead(holder, tmp_path):
    out = str(tmp_path / "out")
    for _ in range(2):
        refused = pytest.raises(UsageError, match=rf"Another run is writing.*process {holder.pid} on .*since 20")
        with refused, output_lock(out):
            pass
    holder.kill()
    holder.wait()
    with output_lock(out):
        assert f'"pid": {os.getpid()}' in Path(out, ".lock.json").read_text()
    assert os.listdir(out) == []


def test_nothing_is_left_behind_and_two_threads_count_as_two(tmp_path):
    out = str(tmp_path / "new")
    with pytest.raises(KeyError), output_lock(out):
        raise KeyError
    assert not os.path.exists(out)
    refused = []

    def second():
        with pytest.raises(UsageError) as error, output_lock(out):
            pass
        refused.append(error)

    with output_lock(out):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_on_a_file_system_too_a_lock_that_another_run_took_commits_nothing_more(tmp_path):
    """As on a shared one, when the driver is dead and another machine's worker of it is not."""
    out, holder = str(tmp_path / "out"), tmp_path / "out" / ".lock.json"
    with output_lock(out) as ended:
        pickle.loads(pickle.dumps(ended)).check()
    with pytest.raises(ZsadError, match="taken over the output .*a process that has ended"):
        ended.check()
    with output_lock(out) as lock:
        lock.check()
        with pytest.raises(ZsadError, match=f"taken over the output .*process {os.getpid()} on "):
            ended.check()
        holder.write_text('{"token": "other", "host": "elsewhere", "pid": 7, "since": "now"}')
        with pytest.raises(ZsadError, match="taken over the output .*process 7 on elsewhere"):
            lock.check()
    assert "other" in holder.read_text()


def test_an_output_that_cannot_be_locked_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write to the output .*file/out"), output_lock(f"{tmp_path}/file/out"):
        pass


@pytest.fixture
def bucket(s3, request, monkeypatch):
    """An output of its own, and what its lock holds."""
    endpoint, filesystem = s3
    filesystem.create_dir("locks")
    name = request.node.name
    monkeypatch.setattr(lock_module, "_SETTLE_SECONDS", 0.2)

    def content(new=None):
        path = f"locks/{name}/.lock.json"
        if new is not None:
            with filesystem.open_output_stream(path) as sink:
                sink.write(new)
        if filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        return filesystem.open_input_stream(path).read()

    return f"s3://locks/{name}?scheme=http&endpoint_override={quote(endpoint)}&region=us-east-1", content


TIMES = {"beat": 0.2, "stale": 2.5}


def test_on_an_object_store_a_living_run_is_told_from_a_dead_one(bucket):
    out, content = bucket
    stream = io.StringIO()
    with output_lock(out, stream, **TIMES) as lock:
        refused = pytest.raises(UsageError, match=rf"Another run is writing.*process {os.getpid()} on .*since 20")
        with refused, output_lock(out, stream, **TIMES):
            pass
        lock.check()
    assert "to see whether it is alive" in stream.getvalue()
    assert content() is None

    content(b"the last words of a run that was killed")
    start = time.monotonic()
    with output_lock(out, stream, **TIMES) as lock:
        # Modification times there have a resolution of one second.
        assert time.monotonic() - start > 1.4
        lock.check()


def test_a_run_that_was_taken_for_dead_stops_and_leaves_the_lock_alone(bucket):
    out, content = bucket
    stream = io.StringIO()
    with output_lock(out, stream, **TIMES) as lock:
        content(b'{"token": "other", "host": "elsewhere", "pid": 7, "since": "now"}')
        with pytest.raises(ZsadError, match="taken over the output .*process 7 on elsewhere"):
            pickle.loads(pickle.dumps(lock)).check()
        time.sleep(0.7)
        assert b"other" in content()
    assert b"other" in content()
    assert stream.getvalue().count("Another run has taken over") == 1


def test_no_error_ends_the_renewing(bucket, monkeypatch):
    out, content = bucket
    failures = [OSError("connection reset"), RuntimeError("anything")]
    write = lock_module._write

    def failing(*args):
        if failures:
            raise failures.pop()
        write(*args)

    with output_lock(out, **TIMES) as lock:
        before = content()
        monkeypatch.setattr(lock_module, "_write", failing)
        time.sleep(1.2)
        assert not failures and content() != before
        lock.check()


def test_of_two_that_start_at_the_same_moment_one_gets_the_lock(bucket, monkeypatch):
    out, content = bucket
    read, both_looked, ended = lock_module._read, threading.Barrier(2), threading.Barrier(2)
    waiting = threading.local()

    def looking(output):
        found = read(output)
        if not hasattr(waiting, "done"):
            waiting.done = True
            both_looked.wait(10)
        return found

    monkeypatch.setattr(lock_module, "_read", looking)
    outcomes = []

    def start():
        try:
            with output_lock(out, beat=5.0, stale=60.0):
                outcomes.append("held")
                ended.wait(10)
        except UsageError:
            outcomes.append("refused")
            ended.wait(10)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]
    assert content() is None


def test_a_look_at_the_lock_that_fails_once_does_not_end_the_run(monkeypatch):
    held = lock_module.Lock("s3://bucket/out", "mine")
    answers = [OSError("AWS Error SLOW_DOWN during GetObject operation"), b'{"token": "mine"}']

    def read(output):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(lock_module, "_read", read)
    monkeypatch.setattr("zsad.filesystem.time.sleep", lambda _: None)
    held.check()
    answers[:] = [OSError("AWS Error ACCESS_DENIED during GetObject operation")]
    with pytest.raises(ZsadError, match="Cannot read the lock"):
        held.check()
