"""Write constraints.txt from the current environment: names and versions only.

Run it in an environment where `pip install --upgrade '.[test]'` has just succeeded and the tests pass.
A version that no longer supports the oldest Python of pyproject.toml gets a marker, so that pip chooses
an older one there.
"""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

OLDEST, CURRENT = "3.10", "3.11"
LEFT_OUT = {"pip", "setuptools", "wheel", "zsad"}

lines = []
for package in sorted(distributions(), key=lambda d: d.metadata["Name"].lower()):
    name = package.metadata["Name"].lower()
    if name in LEFT_OUT:
        continue
    supported = SpecifierSet(package.metadata.get("Requires-Python") or "")
    marker = "" if f"{OLDEST}.0" in supported else f' ; python_version >= "{CURRENT}"'
    lines.append(f"{name}=={package.version.split('+')[0]}{marker}")

header = f"# Versions the tests pass with (Python {CURRENT}); made by tools/constraints.py.\n"
Path("constraints.txt").write_text(header + "\n".join(lines) + "\n")
print(f"{len(lines)} packages")
