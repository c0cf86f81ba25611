"""``zsad explain``: what is shown is what was scored, and wrong input is refused before a model is loaded."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipeline.conftest import BRANCHES
from zsad.cli import main
from zsad.config import load_config
from zsad.coverage import covered_annotations
from zsad.detector import Detector
from zsad.errors import ImageError, UsageError
from zsad.method.tile_level import score_tiles
from zsad.models.sam_mask_generator import Annotation
from zsad.report import explain_figure
from zsad.report.explain import explain, open_photograph
from zsad.report.explain_figure import draw_explanation
from zsad.report.explain_foreground import foreground_row
from zsad.report.explain_input import figure_path
from zsad.report.explain_text import format_explanation
from zsad.report.overlay import grey
from zsad.report.panels import UNIT, Line, fit, in_font, text_block

SETTINGS = (
    *BRANCHES,
    # Two states in 22 templates each: enough to rank, quick to encode.
    "prompts.normal_states=['[o]', 'flawless [o]']",
    "prompts.anomalous_states=['damaged [o]', 'cracked [o]']",
)
SEEDS = {"sam+dis": 0, "dis": 1}
"""Of a photograph whose foreground comes from there."""


@pytest.fixture(scope="module")
def detector():
    return Detector.from_preset("mini", overrides=SETTINGS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """One photograph per branch of the foreground extraction."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, seed in SEEDS.items():
        rng = np.random.default_rng(seed)
        image = np.full((300, 500, 3), rng.integers(60, 120), np.uint8)
        for _ in range(2):
            centre = (int(rng.integers(20, 480)), int(rng.integers(20, 280)))
            cv2.circle(image, centre, int(rng.integers(10, 40)), [int(v) for v in rng.integers(120, 255, 3)], -1)
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), noisy[..., ::-1])
    return folder


def opened(path, config):
    return open_photograph(str(path), "washer", config, path.read_bytes())


@pytest.fixture(scope="module")
def explanations(detector, photographs):
    return {name: explain(detector, opened(photographs / f"{name}.png", detector.config)) for name in SEEDS}


@pytest.mark.parametrize("name", SEEDS)
def test_it_shows_what_the_detector_scores(detector, photographs, explanations, name):
    detection = detector.score(photographs / f"{name}.png", object="washer")
    shown = explanations[name]
    assert shown.item.foreground_source == detection.foreground_source == name
    assert shown.score == detection.score
    assert shown.item.tiles == detection.tiles
    np.testing.assert_array_equal(shown.tile_scores, detection.tile_scores)
    np.testing.assert_array_equal(shown.component_scores, detection.component_scores)
    np.testing.assert_array_equal(shown.item.foreground, detection.foreground)
    np.testing.assert_array_equal(shown.anomaly_map, detection.anomaly_map)


@pytest.mark.parametrize("name", SEEDS)
def test_its_parts_lead_to_the_score(detector, explanations, name):
    shown = explanations[name]
    best = shown.best
    scaled = shown.average_map * np.float32(shown.tile_scores[best])
    np.testing.assert_array_equal(scaled.astype(np.float16), shown.item.tile_maps[best])
    margin = (shown.anomalous.pooled - shown.normal.pooled) * shown.trace.temperature
    assert 1 / (1 + np.exp(-margin)) == pytest.approx(shown.tile_scores[best], abs=1e-6)
    assert shown.prompt_maps.shape[0] == len(shown.localising) == 18
    assert dict(zip(shown.localising, shown.prompt_weights, strict=True))["an error"] == 2
    trace = shown.trace
    own = score_tiles(
        trace.embeddings, trace.normal_prompts.mean(0), trace.anomalous_prompts.mean(0), trace.temperature
    )
    np.testing.assert_allclose(own, shown.tile_scores, atol=1e-6)


def test_kept_annotations_are_those_on_the_dis_mask(explanations):
    shown = explanations["sam+dis"]
    assert list(shown.kept) == covered_annotations(shown.trace.annotations, shown.item.dis_mask, 0.5)
    assert shown.kept and explanations["dis"].kept == ()


def test_kept_and_dropped_annotations_differ_without_colour(explanations):
    shown = explanations["dis"]
    annotations = [
        Annotation(box, np.ones((200, 150), bool), 30_000, 0.9, 0.9, (0, 0))
        for box in ((50, 50, 200, 250), (300, 50, 450, 250))
    ]
    item = replace(shown.item, image=np.full((300, 500, 3), 200, np.uint8))
    crafted = replace(shown, item=item, trace=replace(shown.trace, annotations=annotations), kept=(0,))
    picture = grey(foreground_row(crafted)[2])[..., 0]
    scale = UNIT / 500
    kept, dropped = (picture[100:180, int(x * scale) + 20 : int(x * scale) + 80] for x in (50, 300))
    assert kept.std() < 1 and dropped.std() > 12


def test_similarities_are_those_of_the_model_and_sorted(detector, explanations):
    shown = explanations["dis"]
    model = detector.steps[2].model
    ranked = shown.anomalous.top(44)
    values = [value for _, value in ranked]
    assert values == sorted(values, reverse=True) and len({prompt for prompt, _ in ranked}) == 44
    text = model.embed_texts([ranked[0][0]]).numpy()[0]
    assert text @ shown.trace.embeddings[shown.best] == pytest.approx(values[0], abs=1e-5)
    assert np.mean(values) == pytest.approx(shown.anomalous.pooled, abs=1e-6)


def test_scoring_without_a_trace_keeps_nothing(detector, photographs):
    item = opened(photographs / "dis.png", detector.config)
    detector.run([item])
    assert item.failure is None and item.trace is None


@pytest.mark.parametrize("name", SEEDS)
def test_the_picture_is_1600_wide_and_the_text_says_the_same(explanations, name):
    shown = explanations[name]
    picture = draw_explanation(shown)
    assert picture.shape[1:] == (1600, 3) and picture.dtype == np.uint8
    assert (picture[:40] == 255).all() and (picture[:, :40] == 255).all() and (picture[:, -40:] == 255).all()
    text = format_explanation(shown)
    assert f"{shown.score:.6f}" in text and shown.item.foreground_source in text
    assert "untrained (isnet, sam, clip, clipseg)" in text
    assert shown.normal.top(1)[0][0] in text and shown.anomalous.top(1)[0][0] in text
    assert all(f"{stage} " in text for stage in ("load", "saliency", "instances", "tile_scores", "tile_maps"))


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (1, "the score of the one component"),
        (3, "the highest of 3 components"),
        (9, "the mean of the 3 highest of 9 components (the top 25%)"),
    ],
)
def test_how_the_score_arises_is_said_with_components_from_0(explanations, number, rule):
    shown = explanations["sam+dis"]
    scores = np.linspace(0.5, 0.9, number, dtype=np.float32)
    tiles = [replace(shown.item.tiles[0], component=i) for i in range(number)]
    item = replace(shown.item, component_scores=scores, tiles=tiles, tile_scores=scores)
    boxes = np.zeros((number, 4), int)
    foreground = replace(shown.trace.foreground, boxes=boxes)
    crafted = replace(shown, item=item, trace=replace(shown.trace, foreground=foreground), best=number - 1)
    text = format_explanation(crafted)
    assert f"{rule}; a component's score is the mean of its tiles" in text
    assert f"one of {number}, component {number - 1}, " in text
    numbers = [line.split()[0] for line in text.split("bounding box")[1].splitlines()[1 : number + 1]]
    assert numbers == [str(i) for i in reversed(range(number))]
    drawn = [line.text for line in explain_figure._component_lines(crafted)]
    assert rule in drawn and drawn[1].startswith(f"{number - 1}:  ")


VARIANTS = {
    "sample prompts instead of localising ones": ["pixel_level.prompts=sample", "pixel_level.prompt_average=max"],
    "no model for the foreground, one prompt": [
        "foreground.source=full_image",
        "prompts.localising=['a scratch']",
        "aggregation.tile_scaling=false",
    ],
    "nothing found": ["foreground.empty_guard=1"],
}


@pytest.mark.parametrize("case", VARIANTS)
def test_other_settings_leave_no_empty_picture(detector, photographs, case):
    config = load_config("mini", None, [*SETTINGS, *VARIANTS[case]])
    steps = [type(step).__new__(type(step)) for step in detector.steps]
    for step, other in zip(steps, detector.steps, strict=True):
        step.__dict__ |= {**vars(other), "config": config, "_embedded": {}}
    runner = Detector(steps, config)
    shown = explain(runner, opened(photographs / "dis.png", config))
    assert shown.score == runner.score(photographs / "dis.png", object="washer").score
    assert draw_explanation(shown).shape[1] == 1600
    assert "Score" in format_explanation(shown)
    if case == "nothing found":
        assert shown.item.foreground_source == "full_image" and shown.trace.annotations is None


def test_an_image_that_cannot_be_scored_says_at_which_stage(photographs):
    class Broken:
        config = load_config("mini", None, SETTINGS)

        def run(self, items):
            items[0].fail("instances", torch.OutOfMemoryError("no memory left"))

    item = opened(photographs / "dis.png", Broken.config)
    with pytest.raises(ImageError, match="instances: no memory left"):
        explain(Broken(), item)


def refused(capsys, arguments, pattern):
    with pytest.raises(SystemExit) as caught:
        main(["explain", *map(str, arguments)])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    for word in pattern:
        assert word in message
    assert "Traceback" not in message
    return message


def test_wrong_input_is_refused(tmp_path, photographs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo, noun = photographs / "dis.png", ("--object", "washer", "--preset", "mini")
    text = tmp_path / "notes.jpg"
    text.write_text("not a photograph")
    refused(capsys, [tmp_path / "no.jpg", *noun], ["no.jpg", "missing", "JPEG"])
    refused(capsys, [text, *noun], ["notes.jpg", "not_an_image", "PNG"])
    refused(capsys, [tmp_path, *noun], ["not_a_file"])
    too_large = refused(
        capsys, [photo, *noun, "--set", "images.max_pixels=9"], ["too_many_pixels", "images.max_pixels"]
    )
    assert "Expected a photograph" not in too_large
    refused(capsys, [photo, "--preset", "mini"], ["--object"])
    refused(capsys, [photo, "--object", " ", "--preset", "mini"], ["--object", "metal washer"])
    refused(capsys, [photo, "--object", "washer", "--preset", "nosuch"], ["nosuch", "mini", "vand2023"])
    refused(capsys, [photo, *noun, "--set", "tiling.foo=1"], ["tiling.foo"])
    refused(capsys, [photo, *noun, "--set", "prompts.normal_states=[good]"], ["[o]"])
    refused(capsys, [photo, *noun, "--output", "out.jpg"], ["out.jpg", ".png"])
    refused(capsys, [photo, *noun, "--output", "s3://bucket/x.png"], ["local file"])
    refused(capsys, [photo, *noun, "--output", "nowhere/out.png"], ["nowhere", "folder that exists"])
    refused(capsys, [photo, *noun, "--output", photo], ["the photograph itself"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.jpg"]


@pytest.mark.parametrize("arguments", [["no.jpg"], ["here.png", "--output", "nowhere/out.png"]])
def test_wrong_paths_are_refused_without_torch(tmp_path, arguments):
    Image.new("RGB", (8, 8)).save(tmp_path / "here.png")
    code = (
        "import sys; from zsad.cli import main\n"
        "try: main(['explain', *sys.argv[1:], '--object', 'nut', '--preset', 'mini'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout == "2 False\n" and "Error: Cannot" in done.stderr, done.stderr


def test_the_command_writes_a_picture_and_a_summary(tmp_path, photographs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(photographs / "dis.png"), "--object", "washer", "--preset", "mini", *settings])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "Score" in out and "dis-explained.png" in out
    with Image.open(tmp_path / "dis-explained.png") as picture:
        assert picture.width == 1600


@pytest.mark.parametrize(
    ("image", "name"),
    [("a/b/part.v2.jpg", "part.v2-explained.png"), ("s3://bucket/x/part.png?region=eu", "part-explained.png")],
)
def test_the_picture_is_named_after_the_photograph(image, name):
    assert figure_path(image, None).name == name


def test_a_folder_is_no_place_for_the_picture(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UsageError, match="folder"):
        figure_path("a.jpg", str(tmp_path / "x.png"))


def test_text_stays_in_its_column_and_letters_in_the_font():
    block = text_block([Line("a word and anotherverylongwordthatfitsnowhere " * 3, 15)], 120)
    assert block.shape[1] == 120 and (block[:, -1] == 255).all() and (block < 128).any()
    assert in_font("caf\u00e9 \u65e5\u672c\n") == "cafe ???"
    assert fit(np.zeros((1000, 10, 3), np.uint8), 100, 50).shape == (50, 1, 3)
