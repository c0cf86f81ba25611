"""The floors of the house: a file imports only from floors below its own and from its own folder."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "zsad"
FLOORS = {
    "errors": 1,
    "bit_depth": 1,
    "config": 1,
    "fingerprint": 1,
    "coverage": 1,
    "images": 1,
    "filesystem": 1,
    "id_hashes": 1,
    "layout": 1,
    "process": 1,
    "projection": 1,
    "resize": 1,
    "stretch": 1,
    "text": 1,
    "threads": 1,
    "kernels": 1,
    "method": 2,
    "models": 2,
    "datasets": 2,
    "storage": 2,
    "steps": 3,
    "detector": 4,
    "evaluation": 4,
    "export": 4,
    "report": 5,
    "pipeline": 6,
    "cli": 7,
    "__main__": 8,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def unit_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "zsad" and len(parts) > 1 and parts[1] in FLOORS:
                yield parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    unit = unit_of(path)
    assert unit in FLOORS, f"{path} stands on no floor"
    for other in imported_units(path):
        # Floor 1 is one folder, so its files may use each other.
        same_folder = other == unit or FLOORS[other] == FLOORS[unit] == 1
        assert same_folder or FLOORS[other] < FLOORS[unit], f"{unit} imports {other}"


def module_name(path):
    return ".".join(("zsad", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(names):
    return "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)


def importable_without(blocked, statement):
    # None in place of a module: it is neither imported nor found.
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n{statement}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_everything_below_the_pipeline_imports_without_ray_and_all_but_its_kernels_without_triton():
    kernels = {
        "clipseg_kernels",
        "sam_decoder_kernels",
        "sam_encoder_kernels",
        "sam_mask_kernels",
        "sam_masks_gpu",
        "sam_decoder_fused",
    }
    below = [path for path in FILES if FLOORS[unit_of(path)] < FLOORS["pipeline"]]
    names = [module_name(path) for path in below if path.stem not in kernels]
    assert len(names) == len(below) - len(kernels)
    done = importable_without({"ray", "triton"}, imports(names))
    assert done.returncode == 0, done.stderr


def test_reading_results_needs_neither_torch_nor_ray():
    blocked = {"ray", "torch", "torchvision", "transformers", "open_clip", "segment_anything", "cv2"}
    done = importable_without(blocked, "import zsad; print(zsad.read_predictions, zsad.read_anomaly_map)")
    assert done.returncode == 0, done.stderr


def test_every_imported_package_is_declared():
    text = (PACKAGE.parent / "pyproject.toml").read_text("utf-8")
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    declared = {re.split(r"[\[<>=]", name)[0].lower().replace("_", "-") for name in re.findall(r'"([^"]+)",', block)}
    # Torch for CUDA brings the one Triton that it was built for; elsewhere there is none, and none is used.
    assert "torch" in declared and "triton" not in declared
    declared.add("triton")
    distribution = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless", "open_clip": "open-clip-torch"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "zsad":
                    assert distribution.get(top, top).lower().replace("_", "-") in declared, f"{path} imports {name}"
