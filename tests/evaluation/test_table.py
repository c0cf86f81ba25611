from __future__ import annotations

import numpy as np
import pytest

from zsad.evaluation import PUBLISHED, evaluate, format_table
from zsad.evaluation.table import VISA_CLASSES


def fill(run, categories) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 1
    for index, category in enumerate(categories):
        hot = np.zeros((4, 6))
        hot[1, 2] = 0.9
        run.add(f"{index}-good", 0, 0.1, category=category)
        run.add(f"{index}-also-good", 0, 0.3, category=category)
        run.add(f"{index}-bad", 1, 0.2, hot, mask, category)


def cells(text: str, title: str, name: str) -> list[str]:
    """The numbers of row ``name`` in the table whose header starts with ``title``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    row = next(line for line in lines[start:] if line.startswith(name))
    return row[len(name) :].replace("|", " ").split()


def test_one_row_per_class_with_the_protocol_above(run) -> None:
    fill(run, ["part_b", "part_a"])
    run.add("unlabelled", None, category="part_a")
    text = format_table(evaluate(run.write()), "folder", "untrained")
    heading = " ".join(text.split("\n\n")[0].split())
    assert heading == (
        "Evaluation: dataset folder; split test; resolution native; sample level over 6 images "
        "(2 anomalous); pixel level over 6 images (2 anomalous); left out: 1 without a label; weights: "
        "untrained. Percent; AUPRO up to a false-positive rate of 0.3."
    )
    # Scores 0.1 and 0.3 normal, 0.2 anomalous: F1 2/3, AUROC 1/2, AP 1/2; the pixel maps are perfect.
    expected = ["3", "1", "66.7", "50.0", "50.0", "100.0", "100.0", "100.0", "100.0"]
    assert cells(text, "class", "part_a") == expected
    assert cells(text, "class", "part_b") == expected
    assert cells(text, "class", "mean") == ["6", "2", *expected[2:]]
    assert "WinCLIP" not in text


def test_intervals_follow_in_a_block_of_their_own(run) -> None:
    fill(run, ["part_b", "a" * 60, "single"])
    for name in ("part_b", "a" * 60):
        run.add(f"{name}-also-bad", 1, 0.2, category=name)
    run.add("only", 0, category="fryum")
    output = run.write()
    assert "bootstrap" not in format_table(evaluate(output), "folder")
    with pytest.warns(UserWarning, match="^No interval for 'single': it takes two normal and two anomalous images"):
        text = format_table(evaluate(output, bootstrap=100), "folder")
    # Two anomalous images of one score between two normal ones: drawn with replacement, AUROC is 0, 0.5 or 1.
    assert cells(text, "95 % bootstrap", "part_b")[3:6] == ["0.0", "to", "100.0"]
    assert cells(text, "95 % bootstrap", "a" * 12 + "..")[3:6] == ["0.0", "to", "100.0"]
    assert cells(text, "95 % bootstrap", "fryum") == cells(text, "95 % bootstrap", "single") == ["-", "-", "-"]
    assert max(len(line) for line in text.splitlines()) <= 80


def test_an_unfinished_run_is_called_so(run) -> None:
    fill(run, ["candle"])
    metrics = evaluate(run.write())
    assert "unfinished" not in format_table(metrics)
    heading = " ".join(format_table(metrics, finished=False).split("\n\n")[0].split())
    assert "; the run is unfinished (no _SUCCESS), so images may be missing. Percent;" in heading


def test_visa_stands_beside_the_published_figures(run) -> None:
    fill(run, VISA_CLASSES)
    text = format_table(evaluate(run.write()), "VisA", "untrained")
    assert cells(text, "sample F1-max", "pcb1") == ["71.0", "66.9", "74.3", "66.7"]
    assert cells(text, "sample F1-max", "mean") == ["79.0", "78.7", "81.5", "66.7"]
    assert cells(text, "pixel F1-max", "chewinggum") == ["41.1", "78.5", "63.4", "100.0"]
    assert cells(text, "pixel F1-max", "mean") == ["14.8", "32.3", "24.2", "100.0"]
    assert text.count("ours (reconstruction)") == 2
    assert "sample F1-max (weights of ours: untrained)" in text
    assert "pixel F1-max (weights of ours: untrained)" in text
    assert "untrained" not in format_table(evaluate(run.write()), "visa")
    assert [line.split()[0] for line in text.splitlines() if line.startswith(VISA_CLASSES)] == [*VISA_CLASSES] * 3
    assert max(len(line) for line in text.splitlines()) <= 80


def test_some_classes_are_compared_over_themselves(run) -> None:
    fill(run, ["pcb2", "candle"])
    text = format_table(evaluate(run.write()), "visa")
    assert cells(text, "pixel F1-max", "mean of these 2") == ["13.6", "31.4", "15.6", "100.0"]
    assert "fryum" not in text


@pytest.mark.parametrize(
    ("categories", "order"), [(["candle", "pcb2"], ["pcb2", "candle"]), (["candle", "bolt"], ["bolt", "candle"])]
)
def test_classes_of_visa_stand_as_in_the_paper_others_by_the_alphabet(run, categories, order) -> None:
    fill(run, categories)
    lines = format_table(evaluate(run.write())).splitlines()
    assert [name for line in lines for name in line.split()[:1] if name in categories] == order


@pytest.mark.parametrize(
    ("dataset", "categories"), [("mvtec", ["candle"]), (None, ["candle"]), ("visa", ["candle", "nut"])]
)
def test_no_comparison_elsewhere(run, dataset: str | None, categories: list[str]) -> None:
    fill(run, categories)
    assert "WinCLIP" not in format_table(evaluate(run.write()), dataset)


def test_undefined_is_a_dash_with_its_reason(run) -> None:
    fill(run, ["candle"])
    run.add("only", 0, category="fryum")
    run.add_failed("failed", category="fryum")
    text = format_table(evaluate(run.write()), "visa")
    assert cells(text, "class", "fryum") == ["1", "0", *["-"] * 7]
    assert cells(text, "sample F1-max", "fryum") == ["82.7", "91.7", "84.8", "-"]
    assert "fryum: sample level, no anomalous images." in text
    assert "mean: pixel level, over 1 of 2 classes; undefined for fryum." in text
    assert "left out: 1 failed" in " ".join(text.split())


def test_long_and_hostile_names_keep_the_width(run) -> None:
    fill(run, ["a" * 60, "x\x1b[31m\ny"])
    text = format_table(evaluate(run.write()), "folder")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert cells(text, "class", "a" * 12 + "..")[0] == "3"
    assert cells(text, "class", "x?[31m?y")[0] == "3"


def test_published_means_are_those_of_their_rows() -> None:
    assert {(row.system, row.level) for row in PUBLISHED} == {
        (system, level) for system in ("WinCLIP", "APRIL-GAN", "paper") for level in ("sample", "pixel")
    }
    for row in PUBLISHED:
        assert len(row.figures) == len(VISA_CLASSES) == 12
        assert np.mean(row.figures) == pytest.approx(row.mean, abs=0.11)
