"""Rules -> thresholds per class -> decisions."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import precision_recall_curve
from typer.testing import CliRunner

from zsad.cli import app
from zsad.errors import UsageError, ZsadError
from zsad.evaluation import decide_by, evaluable_parts, evaluate_part, load_predictions, merge_states
from zsad.evaluation.ranking import format_top
from zsad.evaluation.thresholds import decide, format_decisions, parse_rule, rows_to_count
from zsad.pipeline.evaluate import decide_run
from zsad.storage import DECISIONS_SCHEMA, RunInfo, read_decisions, read_predictions, write_run


def decided(output: str, text: str) -> pd.DataFrame:
    """As the job does it, in this process."""
    predictions = load_predictions(output)
    rule = parse_rule(text)
    parts = evaluable_parts(rows_to_count(predictions, rule))
    return decide(predictions, merge_states(evaluate_part(output, *part) for part in parts), rule, "f")


def fill(run, scores, category: str | None = "candle", labels=None, **kwargs) -> None:
    for index, score in enumerate(scores):
        label = None if labels is None else labels[index]
        run.add(f"{category}-{index}", label, float(score), category=category, part=index % 2, **kwargs)


def flagged(decisions: pd.DataFrame) -> dict[str, int]:
    names = decisions["category"].astype(object).where(decisions["category"].notna(), "none")
    return decisions.groupby(names)["pred_label"].sum().astype(int).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        *("", "f2", "F1", "quantile", "quantile:", "quantile:0", "quantile:0.0", "quantile:1", "quantile:1.5"),
        *("quantile:-0.5", "quantile:nan", "quantile:1/2", "budget:0", "budget:-3", "budget:2.5", "budget:1e3"),
        *("budget:" + "9" * 5000, "200", "score:", "score:1.5", "score:-0.1", "score:nan", "score:1e3"),
    ],
)
def test_wrong_rules_name_the_right_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"Unknown threshold .*quantile:0.99.*budget:200.*f1"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("scores", "rule", "count"),
    [
        (range(100), "quantile:0.99", 1),
        (range(101), "quantile:0.9", 11),
        (range(100), "quantile:.5", 50),
        ([7], "quantile:0.99", 1),
        (range(10), "budget:3", 3),
        (range(10), "budget:10", 10),
        (range(10), "budget:99", 10),
        ([1, 2, 2, 2, 3], "budget:3", 1),
        ([1, 2, 2, 2, 3], "budget:4", 4),
        ([2, 2, 2], "budget:2", 0),
        ([2] * 99 + [1], "quantile:0.9", 0),
    ],
)
def test_at_most_the_limit_is_flagged_and_equal_scores_equally(run, scores, rule: str, count: int) -> None:
    fill(run, scores)
    decisions = decided(run.write(), rule)
    assert decisions["pred_label"].sum() == count
    flags = decisions["pred_label"].to_numpy(bool)
    scores = decisions["pred_score"].to_numpy()
    assert decisions["threshold"].dtype == np.float32 and decisions["threshold"].nunique() == 1
    assert (flags == (scores >= decisions["threshold"].to_numpy())).all()
    assert not flags.any() or flags.all() or scores[flags].min() > scores[~flags].max()


def test_the_quantile_is_numpys_where_no_scores_are_equal(run) -> None:
    scores = np.random.default_rng(0).random(57).astype(np.float32)
    fill(run, scores)
    output = run.write()
    for quantile in ("0.9", "0.5", "0.77"):
        expected = np.quantile(scores, float(quantile), method="higher")
        assert decided(output, f"quantile:{quantile}")["threshold"].iloc[0] == expected


def test_a_score_of_ones_own_decides_alike_in_every_class(run) -> None:
    ramp = np.arange(16).reshape(4, 4)
    for index, score in enumerate([0.2, 0.62, 0.7, 0.1]):
        run.add(f"c{index}", None, score, ramp + 16 * index, category="candle")
    run.add("p0", None, 0.3, ramp, category="pcb1")
    output = run.write()
    decisions = decided(output, "score:0.62")
    assert flagged(decisions) == {"candle": 2, "pcb1": 0}
    assert set(decisions["threshold"]) == {float(np.float32(0.62))}
    pixel = dict(zip(decisions["category"], decisions["pixel_threshold"], strict=True))
    # Of the candles half are flagged, and of their 64 pixels half; of the other class nothing.
    assert pixel == {"candle": 32, "pcb1": float(np.nextafter(np.float16(15), np.float16(np.inf)))}
    text = format_decisions(decisions)
    assert "one threshold for all classes" in text and "0.6200" in text and ">" not in text.split("threshold.")[1]
    assert flagged(decided(output, "score:0")) == {"candle": 4, "pcb1": 1}
    assert flagged(decided(output, "score:1")) == {"candle": 0, "pcb1": 0}


def test_top_of_a_category_ranks_its_images_only(run) -> None:
    fill(run, [0.2, 0.9], "candle")
    fill(run, [0.5, 0.4], "pcb1")
    output = run.write()
    assert [line.split()[-1] for line in format_top(output, 9, categories=["pcb1"]).splitlines()[2:]] == [
        "pcb1-0",
        "pcb1-1",
    ]
    assert "4 of 4 scored" in format_top(output, 9, categories=["pcb1", "candle"])
    with pytest.raises(UsageError, match="No image of category 'pcb'. Expected of candle, pcb1."):
        format_top(output, 9, categories=["pcb"])


def test_classes_share_a_budget_and_never_exceed_it(run) -> None:
    fill(run, range(60), "candle")
    fill(run, range(100, 130), "pcb1")
    fill(run, range(10), None)
    output = run.write()
    assert flagged(decided(output, "budget:20")) == {"candle": 12, "pcb1": 6, "none": 2}
    for budget in (1, 2, 11):
        assert sum(flagged(decided(output, f"budget:{budget}")).values()) == budget
    assert flagged(decided(output, "quantile:0.9")) == {"candle": 6, "pcb1": 3, "none": 1}


def test_a_budget_of_fewer_images_than_classes_goes_to_the_highest_scores(run) -> None:
    for category, highest in {"a": 0.3, "b": 0.9, "c": 0.5, "d": 0.5}.items():
        fill(run, [0.1, highest], category)
    output = run.write()
    assert flagged(decided(output, "budget:1")) == {"a": 0, "b": 1, "c": 0, "d": 0}
    assert flagged(decided(output, "budget:2")) == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert "share of the budget is 0, or the images of the highest score" in " ".join(
        format_decisions(decided(output, "budget:1")).split()
    )


def test_the_pixel_threshold_follows_the_same_rule(run) -> None:
    generator = np.random.default_rng(1)
    maps = [generator.permutation(np.arange(80)).reshape(8, 10) + 80 * index for index in range(10)]
    for index, values in enumerate(maps):
        run.add(f"{index}", None, index / 10, values, part=index % 3)
    output = run.write()
    pixels = np.concatenate([values.reshape(-1) for values in maps])
    for rule, expected in [
        ("quantile:0.95", np.quantile(pixels, 0.95, method="higher")),
        ("budget:2", np.sort(pixels)[-160]),
    ]:
        assert set(decided(output, rule)["pixel_threshold"]) == {expected}


def test_a_background_of_equal_values_is_never_masked(run) -> None:
    values = np.zeros((8, 10))
    values[0, 0] = 0.5
    run.add("0", None, 0.5, values)
    assert decided(run.write(), "quantile:0.5")["pixel_threshold"].iloc[0] == 0.5


def test_f1_is_that_of_scikit_learn_per_class_and_decides_the_unlabelled_too(run) -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, 40)
    scores = (generator.random(40) + 0.3 * labels).astype(np.float32)
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 1
    for index, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        run.add(f"{index}", label, score, mask * 0.5 + 0.25, mask if label else None)
    run.add("unknown", None, 0.9)
    run.add("odd", 0, 0.9, category="only normal")
    decisions = decided(run.write(), "f1").set_index("image_id")
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    best = np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert decisions.loc["0", "threshold"] == thresholds[best]
    assert decisions.loc["0", "pixel_threshold"] == 0.75
    assert decisions.loc["unknown", "pred_label"] == (np.float32(0.9) >= thresholds[best])
    assert decisions.loc["odd", ["threshold", "pred_label", "pixel_threshold"]].isna().all()


def test_f1_warns_of_masks_as_the_metrics_do(run) -> None:
    mask = np.zeros((4, 6), np.uint8)
    for category, size in {"a": (4, 6), "b": (5, 6)}.items():
        run.add(f"{category}0", 0, 0.1, category=category)
        run.add(f"{category}1", 1, 0.9, mask=np.zeros(size, np.uint8), category=category)
    run.add("c0", 0, 0.1, category="c")
    mask[1, 2] = 1
    run.add("c1", 1, 0.9, mask * 0.5, mask, category="c")
    output = run.write()
    with pytest.warns(UserWarning) as caught:
        decisions = decide_by(output, "f1")
    said = [str(warning.message) for warning in caught]
    assert any("1 mask cannot be used" in text and "'b1'" in text for text in said)
    assert any("The mask of 1 anomalous image is empty" in text and "'a1'" in text for text in said)
    lines = format_decisions(decisions).splitlines()
    assert lines[-1].split()[5] == "-", "the threshold of one class is not that of all"
    assert lines[-3].split()[5] == "0.5000"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decide_by(output, "budget:3")


def test_no_threshold_is_never_shown_as_one_beyond_all_scores(run) -> None:
    fill(run, [0.25] * 5, "a")
    fill(run, [0.25, 0.5], "b")
    decisions = decided(run.write(), "quantile:0.9")
    decisions = decisions.assign(
        threshold=decisions["threshold"].where(decisions["category"] == "a"),
        pred_label=decisions["pred_label"].where(decisions["category"] == "a"),
    )
    assert format_decisions(decisions).splitlines()[-1].split()[3:5] == ["0", "-"]


def test_f1_without_labels_says_what_to_use_instead(run) -> None:
    fill(run, range(3))
    run.add("normal", 0, category="a")
    run.add("anomalous", 1, category="b")
    with pytest.raises(UsageError, match=r"needs labels.*quantile:0.99"):
        decided(run.write(), "f1")


def test_failed_images_get_no_label(run) -> None:
    fill(run, range(4))
    run.add_failed("broken")
    run.add_failed("alone", category="pcb1")
    decisions = decided(run.write(), "budget:2").set_index("image_id")
    assert decisions.loc[["broken", "alone"], "pred_label"].isna().all()
    assert decisions["pred_label"].sum() == 2
    text = format_decisions(decisions.reset_index())
    assert "candle       5       1        2" in text and "all          6       2        2" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_threshold_beyond_all_scores_is_shown_as_such(run) -> None:
    fill(run, [0.25] * 5)
    fill(run, [0.25, 0.5], "pcb1")
    text = format_decisions(decided(run.write(), "quantile:0.9"))
    assert "candle       5       0        0   > 0.2500" in text and "pcb1         2       0        1     0.5000" in text
    assert '">": nothing is flagged' in text
    assert max(map(len, text.splitlines())) <= 80
    assert ">" not in format_decisions(decided(run.write(), "budget:7")).replace(">=", "")


def test_nothing_scored_and_nan(run) -> None:
    run.add_failed("broken")
    with pytest.raises(UsageError, match="None of the 1 images has a score"):
        decided(run.write(), "budget:2")
    run.add("odd", None, float("nan"))
    with pytest.raises(ZsadError, match="'candle': 1 of 1 scores are NaN"):
        decided(run.write(), "budget:2")


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.parquet")}


def test_the_command_decides_without_labels_and_leaves_the_predictions(ray_local, run) -> None:
    fill(run, np.arange(10) / 10)
    run.add("train", None, 0.95, split="train")
    run.add_failed("broken")
    output = run.write()
    write_run(output, RunInfo("a" * 64, {}, {}, dataset={"trained": True}))
    before = digest(Path(output))
    result = CliRunner().invoke(app, ["evaluate", output, "--threshold", "budget:4", "--split", "test"])
    assert result.exit_code == 0, result.output
    assert "Decisions by budget:4" in result.output and "precision" in result.output
    assert f"Decisions: {output}/decisions/decisions.parquet" in result.output
    assert pq.read_table(f"{output}/decisions").schema.equals(DECISIONS_SCHEMA)
    decisions = read_decisions(output)
    assert decisions["image_id"].is_unique and len(decisions) == 11 and decisions["pred_label"].sum() == 4
    assert set(decisions["fingerprint"]) == {"a" * 64} and set(decisions["rule"]) == {"budget:4"}
    pd.testing.assert_frame_equal(decisions, decided_of_split(output), check_dtype=False)
    decide_run(output, "quantile:0.5")
    assert len(read_decisions(output)) == len(read_predictions(output)) == 12
    assert {name: value for name, value in digest(Path(output)).items() if name in before} == before


def decided_of_split(output: str) -> pd.DataFrame:
    predictions = load_predictions(output, "test")
    rule = parse_rule("budget:4")
    parts = evaluable_parts(rows_to_count(predictions, rule))
    return decide(predictions, merge_states(evaluate_part(output, *part) for part in parts), rule, "a" * 64)


@pytest.mark.parametrize("extra", [["--resolution", "240"], ["--bootstrap", "5"]])
def test_options_of_the_metrics_do_not_go_with_a_threshold(run, extra: list[str]) -> None:
    fill(run, range(3))
    result = CliRunner().invoke(app, ["evaluate", run.write(), "--threshold", "budget:4", *extra])
    assert isinstance(result.exception, UsageError)
    assert not list(run.folder.rglob("decisions"))


def test_reading_decisions_that_are_not_there_or_damaged(run, tmp_path) -> None:
    with pytest.raises(UsageError, match="No results at"):
        read_decisions(tmp_path)
    fill(run, range(3))
    output = run.write()
    with pytest.raises(UsageError, match=r"No decisions in .* yet.*zsad evaluate .* --threshold quantile:0.99"):
        read_decisions(output)
    path = Path(output, "decisions", "decisions.parquet")
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    with pytest.raises(ZsadError, match="is damaged.*--threshold again"):
        read_decisions(output)
