import pytest

from zsad.config import Config, load_config, preset_names
from zsad.errors import UsageError
from zsad.fingerprint import differences, fingerprint, scored_fields

WEIGHTS = {"isnet": "a", "sam": "b", "clip": "c", "clipseg": "d"}


def test_every_preset_loads():
    assert preset_names() == ["fast", "mini", "strong", "vand2023"]
    for name in preset_names():
        assert load_config(name).preset == name


def test_vand2023_is_the_settled_reading():
    assert load_config("vand2023") == Config(preset="vand2023")


def test_file_goes_over_preset_and_override_over_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("foreground: {min_coverage: 0.7, closing_radius: 2}\n")
    config = load_config("mini", path, ["foreground.min_coverage=0.6", "prompts.class_names={pcb1: green board}"])
    assert (config.foreground.min_coverage, config.foreground.closing_radius) == (0.6, 2)
    assert config.prompts.class_names == {"pcb1": "green board"}
    assert config.models.sam.name == "mini-sam"


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("nosuch", [], r"Unknown preset 'nosuch'.*fast, mini, strong, vand2023"),
        ("mini", ["foo.bar=1"], r"foo: unknown field. Expected one of: .*foreground"),
        ("mini", ["foreground.foo=1"], r"foreground.foo: unknown field. Expected one of: .*min_coverage"),
        ("mini", ["foreground.min_coverage=7"], r"foreground.min_coverage: given 7; .*less than or equal to 1"),
        ("mini", ["foreground.min_coverage=0"], r"foreground.min_coverage: given 0; .*greater than 0"),
        ("mini", ["foreground.min_coverage"], r"Expected section.field=value"),
        ("mini", ["foreground.min_coverage=yes"], r"min_coverage: given True; expected a number"),
        ("mini", ["runtime.batch_size=on"], r"batch_size: given True; expected a number"),
        ("mini", ["runtime.fused.num_gpus=true"], r"runtime.fused.num_gpus: given True; expected a number"),
        ("mini", ["foreground.pred_iou_threshold=88"], r"pred_iou_threshold: given 88; .*less than or equal to 1"),
        ("mini", ["foreground.stability_threshold=95"], r"stability_threshold: given 95; .*less than or equal to 1"),
        ("mini", ["prompts.normal_states=[flawless]"], r"'flawless' does not say.*\[o\]"),
        ("mini", ["prompts.anomalous_states=[damaged thing]"], r"'damaged thing' does not say.*\[o\]"),
        ("mini", ["prompts.localising=['a crack in the [o]']"], r"'a crack in the \[o\]' .*the same for all objects"),
        ("mini", ["prompts.localising=[a hole, '']"], r"the prompt '' is empty"),
        ("mini", ["prompts.localising=scratch"], r"given 'scratch'; expected a list, e.g. \[scratch, ...\]"),
        ("mini", ["prompts.localising=[1]"], r"Wrong configuration:\n  prompts.localising.0: given 1; Input[^\n]*$"),
        ("mini", ["prompts.class_names={bolt: 1}"], r"prompts.class_names.bolt: given 1"),
        (
            "mini",
            ["tile_level.temperature=checkpiont"],
            r"Wrong configuration:\n  tile_level.temperature: given 'checkpiont'; .*'checkpoint'. Or: .*number[^\n]*$",
        ),
        ("mini", ["tiling=false"], r"tiling: given False, but it is a section"),
        ("mini", ["prompts.localising=no"], r"localising: given False; expected a list"),
        ("mini", "foreground.min_coverage=0.9", r"overrides are 'foreground.min_coverage=0.9'. Expected a list"),
        ("mini", [0.9], r"overrides are \[0.9\]. Expected a list"),
        (
            "mini",
            ["models.sam=mini-sam"],
            r"models.sam: given 'mini-sam', but it is a section. Expected one of: name, ",
        ),
        ("mini", ["foreground.min_coverage=[1"], r"not valid YAML"),
        ("mini", ["preset=strong"], r"Preset 'mini' was asked for.*preset='strong'.*--preset"),
    ],
)
def test_wrong_configuration_says_what_was_given_and_expected(preset, overrides, message):
    with pytest.raises(UsageError, match=message):
        load_config(preset, None, overrides)


def test_a_file_may_repeat_the_preset_but_not_change_it(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("preset: mini\n")
    assert load_config("mini", path) == load_config("mini")
    with pytest.raises(UsageError, match=r"Preset 'vand2023' was asked for.*preset='mini'.*--preset"):
        load_config("vand2023", path)


def test_overrides_may_come_one_by_one():
    config = load_config("mini", overrides=(one for one in ["foreground.min_coverage=0.9"]))
    assert config.foreground.min_coverage == 0.9


@pytest.mark.parametrize("text", ["a: [", "- list", "!!python/object/apply:os.system ['true']"])
def test_bad_files_are_refused_without_running_anything(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        load_config("mini", path)
    with pytest.raises(UsageError, match="Cannot read"):
        load_config("mini", tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("foreground.min_coverage=0.81", True),
        ("prompts.class_names={pcb1: board}", True),
        ("models.precision=bf16", True),
        ("foreground.point_pruning=dis", True),
        ("runtime.batch_size=3", False),
        ("runtime.topology=pools", False),
        ("foreground.points_per_batch=8", False),
        ("models.isnet.weights=/elsewhere/isnet.pth", False),
    ],
)
def test_fingerprint_speaks_for_scores_only(override, changes):
    before = fingerprint(load_config("vand2023"), WEIGHTS)
    assert (fingerprint(load_config("vand2023", None, [override]), WEIGHTS) != before) == changes


def test_fingerprint_depends_on_weights_and_object():
    config = load_config("mini")
    assert fingerprint(config, WEIGHTS) != fingerprint(config, WEIGHTS | {"sam": "x"})
    assert fingerprint(config, WEIGHTS) != fingerprint(config, WEIGHTS, "capsule")
    assert len(fingerprint(config, WEIGHTS)) == 64


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_fingerprint_of_half_precision_alone_depends_on_its_version(monkeypatch, precision):
    config = load_config("mini", None, [f"models.precision={precision}"])
    before = fingerprint(config, WEIGHTS)
    monkeypatch.setattr("zsad.fingerprint.HALF_PRECISION_VERSION", 99)
    assert (fingerprint(config, WEIGHTS) != before) == (precision != "fp32")


def test_differences_name_the_leaf():
    old = scored_fields(load_config("mini"), WEIGHTS)
    new = scored_fields(load_config("mini", None, ["tiling.max_tiles=3"]), WEIGHTS)
    assert differences(old, new) == ["tiling.max_tiles: 64 -> 3"]


def test_a_section_that_a_file_holds_twice_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("foreground:\n  min_coverage: 0.7\nruntime:\n  batch_size: 2\nforeground:\n  closing_radius: 3\n")
    with pytest.raises(UsageError, match=r"c\.yaml.* names 'foreground' \(line 5\) twice"):
        load_config("mini", path)
    path.write_text("foreground:\n  min_coverage: 0.7\n  min_coverage: 0.8\n")
    with pytest.raises(UsageError, match=r"names 'min_coverage' \(line 3\) twice"):
        load_config("mini", path)


def test_anchors_are_looked_at_once(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("prompts: &x\n  a: *x\n")
    with pytest.raises(UsageError, match=r"prompts\.a: unknown field"):
        load_config("mini", path)
    lines = ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{k: *a{i - 1}, l: *a{i - 1}}}" for i in range(1, 60))]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="a0: unknown field"):
        load_config("mini", path)
    path.write_text("foreground: {<<: {min_coverage: 0.7}, <<: {closing_radius: 3}}\n")
    foreground = load_config("mini", path).foreground
    assert (foreground.min_coverage, foreground.closing_radius) == (0.7, 3)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: " + "[" * 3000 + "]" * 3000 + "\n")
    with pytest.raises(UsageError, match=r"c\.yaml is not valid YAML: .*recursion"):
        load_config("mini", path)


def test_a_file_that_is_not_there_is_named_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_config(path=tmp_path / "nope.yaml")
    assert str(caught.value).endswith("nope.yaml': No such file or directory.") and str(caught.value).count("nope") == 1
