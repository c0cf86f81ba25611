"""Faults of images, workers and disks inside one run."""

import shutil

import pandas as pd
import pytest

from tests.faults.conftest import run
from tests.faults.faulty import Faults, faulty_graph, full_disk_sink
from tools.same_run import differences
from zsad.errors import ZsadError
from zsad.pipeline import ledger as ledger_module
from zsad.pipeline.ledger import MAX_ATTEMPTS, Ledger
from zsad.storage import read_success


def table(output):
    return pd.read_parquet(f"{output}/predictions").set_index("image_id")


def test_images_that_end_every_process_become_error_rows_and_all_others_are_scored(
    reference, images, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    # Both in one batch: neither is taken for the other, and no other image pays for them.
    faults = Faults(kill=("04.png",), lose=("05.png",), begun=str(tmp_path / "begun"))
    monkeypatch.setattr("zsad.pipeline.execute.run_graph", faulty_graph(faults))
    summary, _ = run(images, output)
    assert (summary.images, summary.errors, summary.exit_code) == (24, 3, 0)
    rows = table(output)
    died = rows[rows["error_type"] == "process_died"]
    assert died["error_stage"].to_dict() == {"04.png": "saliency", "05.png": "saliency"}
    assert died["error_message"]["04.png"] == (
        f"{MAX_ATTEMPTS} processes that worked on this image ended (a crash, or out of memory)"
    )
    assert died["error_message"]["05.png"].endswith("ended: CUDA error: an illegal memory access was encountered")
    assert (tmp_path / "begun").read_text().split().count("04.png") == MAX_ATTEMPTS
    assert sorted(set(rows.index[rows["status"] == "error"])) == ["04.png", "05.png", "cut.png"]

    monkeypatch.undo()
    mended, _ = run(images, output, retry_errors=True)
    assert (mended.scored_now, mended.errors) == (3, 1)
    assert differences(output, reference) == []


def test_actors_that_end_while_they_load_their_models_stop_the_run(ray_local, images, tmp_path, monkeypatch):
    monkeypatch.setattr("zsad.pipeline.execute.run_graph", faulty_graph(Faults(kill_loading=True)))
    words = r"3 processes of pool 'fused' ended while they loaded their models.*runtime\.<pool>\.size"
    with pytest.raises(ZsadError, match=words):
        run(images, tmp_path / "out")


def test_a_machine_that_ends_every_process_stops_the_run():
    ledger = Ledger(given_up_limit=2)
    # A batch that is gone through again meets those given up again.
    for name in ("a", "b", "a", "a"):
        ledger.give_up(name)
    with pytest.raises(ZsadError, match=r"3 images, the last of them 'c', ended every process.*runtime.batch_size"):
        ledger.give_up("c")


def test_the_ledger_suspects_only_what_was_begun_and_not_finished():
    ledger = Ledger(given_up_limit=2)
    assert [attempt.ended for attempt in ledger.begin("fused", ["a", "b"])] == [0, 0]
    assert [attempt.ended for attempt in ledger.begin("other pool", ["a", "b"])] == [0, 0]
    ledger.finish("other pool", ["a", "b"])
    # The process dies; the next one finds both, takes them one by one, and dies at b.
    assert [attempt.ended for attempt in ledger.begin("fused", ["a", "b"])] == [1, 1]
    ledger.begin_alone("fused", "a")
    ledger.finish("fused", ["a"])
    ledger.begin_alone("fused", "b")
    ledger.enter_stage("fused", "b", "instances")
    ledger.record_reason("fused", ["b"], "no memory")
    a, b = ledger.begin("fused", ["a", "b"])
    assert (a.ended, a.stage) == (0, "")
    assert (b.ended, b.stage, b.reason) == (2, "instances", "no memory")


def test_actors_whose_nodes_go_while_they_load_may_start_anew(monkeypatch):
    gone = set()
    monkeypatch.setattr(ledger_module.ray, "nodes", lambda: [{"NodeID": n, "Alive": n not in gone} for n in "abcdefgh"])
    ledger = Ledger(given_up_limit=2)
    for node in "abcd":
        ledger.begin_loading("fused", "actor", node)
        gone.add(node)
    for _ in range(MAX_ATTEMPTS):
        ledger.begin_loading("fused", "actor", "f")
        ledger.begin_loading("fused", "other actor", "f")
    with pytest.raises(ZsadError, match="3 processes of pool 'fused' ended while they loaded"):
        ledger.begin_loading("fused", "actor", "f")
    # One that has loaded its models shows that it can be done: the others may try without end.
    ledger.has_loaded("fused", "other actor")
    assert ledger.begin_loading("fused", "other actor", "f") == 0
    assert [ledger.begin_loading("fused", "actor", "f") for _ in range(3)] == [3, 4, 5]
    with pytest.raises(ZsadError, match="pool 'other'"):
        for _ in range(9):
            ledger.begin_loading("other", "third actor", "f")


def test_an_image_is_not_blamed_for_the_loss_of_its_nodes(monkeypatch):
    gone = set()
    monkeypatch.setattr(ledger_module.ray, "nodes", lambda: [{"NodeID": n, "Alive": n not in gone} for n in "abcdefgh"])
    ledger = Ledger(given_up_limit=2)
    for node in "abcde":
        assert [attempt.ended for attempt in ledger.begin("fused", ["x", "y"], node)] == [0, 0]
        gone.add(node)
    # An image that takes every machine with it is suspected in the end.
    assert [attempt.ended for attempt in ledger.begin("fused", ["x", "y"], "f")] == [0, 0]
    gone.add("f")
    assert [attempt.ended for attempt in ledger.begin("fused", ["x", "y"], "g")] == [1, 1]
    ledger.finish("fused", ["x", "y"])
    # Its node is well, so it was the process.
    ledger.begin("fused", ["x"], "h")
    assert ledger.begin("fused", ["x"], "h")[0].ended == 1
    ledger.begin_alone("fused", "x", "h")
    ledger.record_reason("fused", ["x"], "no memory")
    gone.add("h")
    assert ledger.begin("fused", ["x"], "g")[0].ended == 1
    # What an earlier process said is not the reason of a later one.
    ledger.begin_alone("fused", "x", "g")
    assert ledger.begin("fused", ["x"], "g")[0].reason == ""


def test_full_disk_is_said_and_a_run_with_room_finishes(reference, images, tmp_path, monkeypatch):
    output = tmp_path / "out"
    monkeypatch.setattr("zsad.pipeline.execute.PartSink", full_disk_sink(parts=3, max_bytes=2000))
    with pytest.raises(ZsadError, match=r"(?s)Cannot write '.*/out/.*': .*File too large.*run the same command again"):
        run(images, output)
    assert read_success(str(output)) is None
    done = len(table(output))
    assert 0 < done < 24
    monkeypatch.undo()
    summary, text = run(images, output)
    assert f"{done} already done" in text and summary.scored_now == 24 - done
    assert differences(output, reference) == []


def test_damaged_and_stray_parts_are_set_aside_and_their_images_scored_again(reference, images, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    parts = sorted((output / "predictions").glob("*.parquet"))
    lost = pd.read_parquet(parts[0])["image_id"].tolist()
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    row = pd.read_parquet(parts[1]).dropna(subset="map_part").iloc[0]
    lost += pd.read_parquet(parts[1])["image_id"].tolist()
    maps = output / "anomaly_maps" / row["map_part"]
    maps.write_bytes(maps.read_bytes()[:-100])
    (output / "predictions" / "stray.parquet").write_bytes(b"PAR1 no table")
    shutil.copy(parts[2], output / "anomaly_maps" / "stray.parquet")
    shutil.copy(parts[3], output / "predictions" / "copy.parquet")
    summary, text = run(images, output)
    assert text.count("Set aside a broken part of an earlier run: ") == 5
    assert summary.scored_now == len(lost)
    assert differences(output, reference) == []
