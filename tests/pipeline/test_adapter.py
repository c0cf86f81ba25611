"""What travels between pools loses nothing: the actors of all pools in one process against the steps in a row."""

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.conftest import BRANCHES
from zsad.config import load_config
from zsad.datasets import load_manifest
from zsad.detector import METHOD, build_steps
from zsad.pipeline.actor import StepActor
from zsad.pipeline.adapter import TRANSPORT_SCHEMA, items_from_table, transport_table
from zsad.pipeline.pools import Pool
from zsad.steps.item import ImageItem, load
from zsad.storage import SCORED_SCHEMA


@pytest.mark.parametrize("batch", [1, 8])
def test_tile_maps_before_rounding_equal_the_detectors(photographs, ledger, batch):
    config = load_config("mini", None, list(BRANCHES))
    manifest = load_manifest("folder", str(photographs), object_name="disc")
    actors = [StepActor(Pool(step.name, (step.name,), 1, 0.0, 1, 1), config, "f" * 64, ledger) for step in METHOD]
    tables = []
    for start in range(0, manifest.num_rows, batch):
        table = manifest.slice(start, batch)
        for actor in actors[:-1]:
            table = actor(table)
            assert table.schema.equals(TRANSPORT_SCHEMA)
        tables.append(table)
        assert actors[-1](table).schema.equals(SCORED_SCHEMA)
    travelled = items_from_table(pa.concat_tables(tables))

    *steps, last = build_steps(config)
    direct = [ImageItem(path, "disc") for path in manifest["image_path"].to_pylist()]
    for item in direct:
        for step in steps:
            step([item])
    assert [item.failure for item in travelled] == [item.failure for item in direct]
    good = [index for index, item in enumerate(direct) if item.failure is None]
    assert len(good) == 8
    for index in good:
        ours, theirs = travelled[index], direct[index]
        assert (ours.tiles, ours.foreground_source, ours.note) == (theirs.tiles, theirs.foreground_source, theirs.note)
        np.testing.assert_array_equal(ours.foreground, theirs.foreground)
        np.testing.assert_array_equal(ours.dis_mask, theirs.dis_mask)
        np.testing.assert_allclose(ours.tile_scores, theirs.tile_scores, atol=1e-5)
        assert abs(ours.score - theirs.score) <= 1e-5
        load([ours], config.images)
        np.testing.assert_allclose(last.predict([ours])[0], last.predict([theirs])[0], atol=1e-5)


def test_a_table_of_failures_keeps_its_schema():
    manifest = load_manifest.__globals__["build"]({"image_id": ["a"], "image_path": ["/nowhere"]})
    item = ImageItem("/nowhere", "disc")
    item.fail("load", ValueError("no"))
    table = transport_table([item], manifest)
    assert table.schema.equals(TRANSPORT_SCHEMA)
    (back,) = items_from_table(table)
    assert back.failure == item.failure and back.dis_mask is None and back.tiles == ()
