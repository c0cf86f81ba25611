"""Two runs never write into one output at once, and a dead one holds nothing."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from zsad.errors import UsageError
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


def test_an_output_that_cannot_be_locked_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write to the output .*file/out"), output_lock(f"{tmp_path}/file/out"):
        pass


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1&allow_bucket_creation=true"
    filesystem, _ = fs.FileSystem.from_uri(f"s3://locks{query}")
    filesystem.create_dir("locks")
    yield f"s3://locks/out{query}", filesystem
    server.stop()


def test_a_heartbeat_on_an_object_store(bucket):
    out, filesystem = bucket
    # Modification times there have a resolution of one second.
    times = {"beat": 1.2, "stale": 5.0}
    stream = io.StringIO()
    with output_lock(out, stream, **times):
        assert len(filesystem.get_file_info(fs.FileSelector("locks/out/.running"))) == 1
        refused = pytest.raises(UsageError, match=rf"Another run is writing.*process {os.getpid()} on")
        with refused, output_lock(out, stream, **times):
            pass
    assert "Waiting up to 5 s" in stream.getvalue()
    assert not filesystem.get_file_info(fs.FileSelector("locks/out/.running", allow_not_found=True))

    with filesystem.open_output_stream("locks/out/.running/dead.json") as corpse:
        corpse.write(b"{}")
    start = time.monotonic()
    with output_lock(out, stream, **times):
        assert time.monotonic() - start > 3
        assert len(filesystem.get_file_info(fs.FileSelector("locks/out/.running"))) == 1
