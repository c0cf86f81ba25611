import pytest
from ray.data.exceptions import ExecutionTimeoutError

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
from zsad.pipeline.cost import StageCosts
from zsad.pipeline.execute import _explain
from zsad.pipeline.pools import describe, images_within, plan_pools, proportional
from zsad.pipeline.text import failure_line, progress_line, stage_times

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
    assert sum(p.size * p.num_gpus for p in pools) == 8
    assert all((p.size, p.num_gpus) == (4, 0.5) for p in pools)


@pytest.mark.parametrize(("gpus", "size", "share"), [(1, 2, 0.5), (1, 3, 0.3333), (2, 3, 0.5), (2, 2, 1), (4, 2, 1)])
def test_more_fused_actors_than_gpus_share_them(gpus, size, share):
    resources = {"CPU": 16, "GPU": gpus, "memory": 64 * GIB}
    (pool,) = plan(resources, "runtime.topology=fused", f"runtime.fused.size={size}")
    assert (pool.size, pool.num_gpus, pool.calls) == (size, share, 3)


@pytest.mark.parametrize(
    ("gpus", "overrides", "overlap"),
    [(1, [], True), (0, [], False), (1, ["runtime.compile=true"], False), (1, ["runtime.topology=pools"], False)],
)
def test_steps_of_one_actor_overlap_on_a_gpu_unless_they_are_compiled(gpus, overrides, overlap):
    pools = plan({"CPU": 16, "memory": 64 * GIB, **({"GPU": gpus} if gpus else {})}, *overrides)
    assert {pool.overlap for pool in pools} == {overlap}


@pytest.mark.parametrize("resources", [{"CPU": 16}, {"CPU": 16, "GPU": 1}, {"CPU": 64, "GPU": 8}])
@pytest.mark.parametrize("topology", ["fused", "pools"])
def test_all_actors_together_have_as_many_threads_as_there_are_cpus(resources, topology):
    pools = plan(resources | {"memory": 5 * GIB}, f"runtime.topology={topology}")
    threads = sum(pool.size * pool.torch_threads for pool in pools)
    assert resources["CPU"] / 2 < threads <= resources["CPU"]


COSTS = {"load": 9.0, "saliency": 5.0, "instances": 80.0, "tile_scores": 5.0, "tile_maps": 10.0}


@pytest.mark.parametrize(("gpus", "per_gpu"), [(2, 4), (3, 3), (8, 2), (64, 2)])
def test_pools_are_sized_by_measured_costs_so_that_no_gpu_idles(gpus, per_gpu):
    costs = StageCosts(COSTS, "measured", "cuda")
    pools = plan_pools(load_config("mini"), {"CPU": 64, "GPU": gpus, "memory": 64 * GIB}, 1.0, costs)
    sizes = {pool.name: pool.size for pool in pools}
    # Equal shares fill every GPU in whatever order the actors are placed.
    (share,) = {pool.num_gpus for pool in pools}
    assert 0.999 < share * per_gpu <= 1
    assert sum(sizes.values()) == per_gpu * gpus
    assert min(sizes.values()) >= 1
    rate = {name: sizes[name] / COSTS[name] for name in sizes}
    # No actor is worth more at the slowest step than where it is.
    for name, number in sizes.items():
        assert number == 1 or (number - 1) / COSTS[name] <= min(rate.values())


def test_sizes_in_proportion():
    assert proportional(32, {"a": 5, "b": 80, "c": 5, "d": 10}) == {"a": 2, "b": 25, "c": 2, "d": 3}
    assert proportional(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 1}
    assert proportional(5, {"a": 0, "b": 1}) == {"a": 1, "b": 4}


def test_the_slowest_pool_bounds_what_is_at_work_for_three_minutes():
    resources = {"CPU": 64, "GPU": 8, "memory": 64 * GIB}
    slow = StageCosts({"load": 100.0, "saliency": 0.0, "instances": 59_900.0, "tile_scores": 0.0}, "measured", "cuda")
    pools = plan_pools(load_config("mini"), resources, 1.0, slow)
    (size,) = [pool.size for pool in pools if pool.name == "instances"]
    assert size > 4
    assert images_within(180, pools, slow) == (3, 3 * size)
    assert images_within(10, pools, slow)[0] == 1
    one = plan({"CPU": 1})
    assert images_within(180, one, None) == (180, 180)


def test_a_given_size_stands():
    costs = StageCosts(COSTS, "measured", "cuda")
    config = load_config("mini", None, ["runtime.instances.size=2", "runtime.instances.num_gpus=0.5"])
    pools = plan_pools(config, {"CPU": 64, "GPU": 2, "memory": 64 * GIB}, 1.0, costs)
    assert next((pool.size, pool.num_gpus) for pool in pools if pool.name == "instances") == (2, 0.5)


def test_device_cpu_leaves_the_gpus_alone():
    assert plan({"CPU": 4, "GPU": 8, "memory": 64 * GIB}, "runtime.device=cpu")[0].num_gpus == 0


@pytest.mark.parametrize(
    ("resources", "overrides", "message"),
    [
        (
            {"CPU": 4, "GPU": 1},
            ["runtime.topology=pools", "runtime.instances.num_gpus=0.9"],
            r"need 1\.65 GPUs.*cluster's 1\.",
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
    shown = _explain(wrap(UsageError("no such thing; expected another")), 9)
    assert type(shown) is ZsadError
    assert str(shown).startswith("The run stopped: no such thing; expected another\n")


def test_any_other_error_is_named_in_one_line():
    text = str(_explain(wrap(ValueError("first\nsecond")), 9))
    assert text.startswith("The run stopped: ValueError: first second\n")
    assert "run the same command again" in text


def test_a_run_without_progress_is_said_in_our_words(ray_local):
    text = str(_explain(wrap(ExecutionTimeoutError("ds.context")), 90))
    assert text.startswith(
        "The run stopped: No batch was finished within 90 s (runtime.no_progress_seconds). The cluster has 2 CPUs and 0 "
    )


def test_progress_line():
    assert progress_line(128, 2162, 1, 37.6) == "128/2162 images (5.9%), 3.40 images/s, 1 error, 9m57s left"
    assert progress_line(0, 10, 0, 5) == "0/10 images (0.0%), 0.00 images/s, 0 errors"
    assert progress_line(11, 10, 0, 5).startswith("10/10 images (100.0%)")


def test_a_failed_image_is_one_line_that_greps():
    assert failure_line("a/b.png", "load", "truncated", "ends early") == (
        'image_id=a/b.png stage=load type=truncated message="ends early"'
    )
    hostile = failure_line('x" stage=ok\n', "load", "missing", "")
    assert hostile == 'image_id="x\\" stage=ok\\n" stage=load type=missing message=""'


def test_stage_times():
    assert stage_times({"load": 12.25, "saliency": 400.0}) == "412.2 ms (load 12.2, saliency 400)"
    assert stage_times({"load": 0.8424, "instances": 65_800.4}) == "65,801 ms (load 0.842, instances 65,800)"
    assert stage_times({"load": 7.26, "tile_maps": 999.6}) == "1,007 ms (load 7.26, tile_maps 1,000)"
