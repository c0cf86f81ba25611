"""What the source may not contain: doors through which data become code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("zsad", "jobs", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "joblib.load",
    "marshal.loads",
    "shelve.open",
    "torch.hub.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
}
DANGEROUS = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False, "verify": False}


def findings(source):
    """Lines and calls of a source text that open such a door."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
        if name in FORBIDDEN:
            found.append((node.lineno, name))
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append((node.lineno, name))
        found += [(node.lineno, word) for word, value in DANGEROUS.items() if word in given and given[word] is value]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_become_code(path):
    assert findings(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pickle.loads(data)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_check_finds_what_it_looks_for(line):
    assert findings(line)


@pytest.mark.parametrize("line", ["model.eval()", "torch.load(path, weights_only=True)", "yaml.safe_load(text)"])
def test_the_check_lets_the_rest_pass(line):
    assert not findings(line)


def test_pickle_is_imported_only_for_its_errors():
    users = [
        path for path in SOURCES if re.search(r"^\s*(import|from) (pickle|cloudpickle|dill)\b", path.read_text(), re.M)
    ]
    for path in users:
        names = set(re.findall(r"\bpickle\.(\w+)", path.read_text()))
        assert names <= {"UnpicklingError", "PickleError"}, path


def test_ray_is_new_enough():
    # The least version that SECURITY.md names.
    required = re.findall(r'"ray\[\w+\]>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    pinned = re.findall(r"^ray==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert required and pinned
    for version in (*required, *pinned):
        assert tuple(map(int, version.split(".")[:2])) >= (2, 55)
