# make test: everything on a new machine. The virtual environment is made in the checkout and used again afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: test slow compat old demo check format docs clean

test: $(READY)
	$(BIN)/python -m pytest

slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The oldest and the newest packages that pyproject.toml allows; KEEP="--keep torch==2.13.0 ..." for what a machine lacks.
compat:
	$(PYTHON) tests/compat.py oldest $(KEEP)
	$(PYTHON) tests/compat.py newest $(KEEP)

# A pruned model in older versions of Ultralytics, which pip fetches.
old: $(READY)
	$(BIN)/python tests/old_ultralytics.py

demo: $(READY)
	$(BIN)/python -m depgraph_hsic_only --demo

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-old-ultralytics build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
