# `make demo` and `make test` do all their set-up themselves, on a machine with Python >= 3.10 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
KILLS ?= 40

.PHONY: demo test soak check bench clean

demo: $(VENV)/.installed
	$(BIN)/zsad demo --output $(OUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.installed
	$(BIN)/python -m tools.soak --kills $(KILLS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
