"""The settings of the process that scoring makes."""

import os
import platform
import subprocess
import sys

import pytest

from zsad.detector import use_large_pages


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_unless_the_user_has_decided(monkeypatch, given, kept):
    # Set first, so that it is restored whatever it was.
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given or "")
    if given is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    use_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators decide for themselves")
def test_an_actor_keeps_its_memory_unless_the_user_has_decided():
    code = (
        "import resource; from zsad.pipeline.actor import keep_memory; keep_memory()\n"
        "def batch(): [bytearray(20 << 20) for _ in range(5)]\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "batch(); before = faults(); batch(); print(faults() - before)"
    )
    fresh = []
    for decided in ({}, {"MALLOC_TRIM_THRESHOLD_": "131072"}):
        environment = {
            name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"
        } | decided
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        fresh.append(int(done.stdout))
    # Pages of 4 KiB that the second batch had to ask the system for, or of 2 MiB.
    assert fresh[0] < fresh[1] / 5
