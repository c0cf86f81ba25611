import pytest

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
from zsad.pipeline.execute import _explain
from zsad.pipeline.pools import describe, plan_pools
from zsad.pipeline.text import duration, progress_line

GIB = 1024**3


def plan(resources, *overrides, actor_gib=1.0):
    return plan_pools(load_config("mini", None, list(overrides)), resources, actor_gib)


def test_cpu_machine_runs_fused_actors_as_cpus_and_memory_allow():
    (pool,) = plan({"CPU": 8, "memory": 20 * GIB}, actor_gib=5)
    assert (pool.name, pool.size, pool.num_gpus, pool.torch_threads) == ("fused", 4, 0.0, 2)
    assert pool.steps == ("saliency", "instances", "tile_scores", "tile_maps")
    assert plan({"CPU": 2, "memory": 1 * GIB}, actor_gib=5)[0].size == 1
    assert describe([pool]) == "fused: 4 actors (CPU)"


def test_one_gpu_runs_fused_and_several_run_one_pool_per_model():
    (pool,) = plan({"CPU": 16, "GPU": 1, "memory": 64 * GIB})
    assert (pool.size, pool.num_gpus, pool.calls) == (1, 1.0, 3)
    pools = plan({"CPU": 64, "GPU": 8, "memory": 64 * GIB})
    assert [p.name for p in pools] == ["saliency", "instances", "tile_scores", "tile_maps"]
    assert sum(p.size * p.num_gpus for p in pools) <= 8
    assert all(p.size == 8 for p in pools)


def test_device_cpu_leaves_the_gpus_alone():
    assert plan({"CPU": 4, "GPU": 8, "memory": 64 * GIB}, "runtime.device=cpu")[0].num_gpus == 0


@pytest.mark.parametrize(
    ("resources", "overrides", "message"),
    [
        (
            {"CPU": 4, "GPU": 1},
            ["runtime.topology=pools", "runtime.instances.num_gpus=0.9"],
            r"need 1\.4 GPUs.*cluster's 1\.",
        ),
        (
            {"CPU": 4, "GPU": 2},
            ["runtime.topology=fused", "runtime.fused.size=3", "runtime.fused.num_gpus=0.6"],
            r"1\.8",
        ),
        ({"CPU": 4}, ["runtime.device=cuda"], r"no GPU"),
        ({"CPU": 4, "memory": 8 * GIB}, ["runtime.memory_gib=5", "runtime.fused.size=2"], r"10\.0 GiB.*has 8\.0 GiB"),
        ({"GPU": 1}, [], r"no CPU"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(resources, overrides, message):
    with pytest.raises(UsageError, match=message):
        plan(resources, *overrides)


def wrap(error):
    """As Ray wraps an exception of an actor: some layers, one of which only repeats the text."""
    outer = RuntimeError("a wall of text about retries")
    outer.cause = SystemError()
    outer.cause.__cause__ = error
    return outer


def test_an_error_of_ours_inside_a_worker_keeps_its_message_but_not_the_promise_that_nothing_was_written():
    shown = _explain(wrap(UsageError("no such thing; expected another")))
    assert type(shown) is ZsadError
    assert str(shown).startswith("The run stopped: no such thing; expected another\n")


def test_any_other_error_is_named_in_one_line():
    text = str(_explain(wrap(ValueError("first\nsecond"))))
    assert text.startswith("The run stopped: ValueError: first second\n")
    assert "run the same command again" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42, "42s"), (598, "9m58s"), (11_100, "3h05m"), (187_200, "2d04h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_progress_line():
    assert progress_line(128, 2162, 1, 37.6) == "128/2162 images (5.9%), 3.40 images/s, 1 error, 9m57s left"
    assert progress_line(0, 10, 0, 5) == "0/10 images (0.0%), 0.00 images/s, 0 errors"
    assert progress_line(11, 10, 0, 5).startswith("10/10 images (100.0%)")
