# Everything happens in .venv, made from requirements.txt; PYTHON picks the interpreter that makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Another library to measure beside, with an environment of its own.
PEER := $(VENV)-d3rlpy
# One thread a process: parallel work is processes side by side (see docs/pipeline.md).
export OMP_NUM_THREADS := 1
export PATH := $(abspath $(BIN)):$(PATH)

# Columns of `dvc exp show` that are digests, and settings which params.yaml holds too.
NOT_COMPARED := ^(artifacts/|reports/|code\.|data\.|settings\.|origins\.)

.PHONY: help setup setup-dev run study publish experiments theory benchmark view ui docs test test-slow lint format clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(BIN)/.setup ## make .venv with the pinned requirements
setup-dev: $(BIN)/.setup-dev ## the same, with what tests, lint and docs need

$(BIN)/.setup: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(BIN)/.setup-dev: requirements-dev.txt requirements-docs.txt requirements-ray.txt $(BIN)/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

run: setup ## run the study that params.yaml holds, and publish it to MLflow; JOBS=4 runs four cells at a time
	$(BIN)/python -m stages.run $(addprefix --jobs ,$(JOBS))

study: setup ## put studies/$(NAME).yaml into params.yaml and run it: make study NAME=builtin
	@test -n "$(NAME)" || { echo 'error: say which study: make study NAME=default'; exit 2; }
	$(BIN)/python -m stages.study $(NAME)
	$(BIN)/python -m stages.run $(addprefix --jobs ,$(JOBS))

publish: setup ## make sure that every cell of the study is in MLflow
	$(BIN)/python -m stages.tracking.publish

experiments: setup ## compare experiments of `dvc exp run`: the metrics and params in which they differ
	$(BIN)/dvc exp show --no-pager --only-changed --drop '$(NOT_COMPARED)'

theory: setup ## measure the geometric claims on synthetic problems: reports/theory/README.md
	$(BIN)/dvc repro theory theory_page

benchmark: setup $(PEER)/.setup ## measure speed, beside d3rlpy too (hours, on an idle machine): docs/benchmarks.md
	$(BIN)/python -m benchmarks --peer $(PEER)/bin/python

$(PEER)/.setup: benchmarks/requirements-d3rlpy.txt
	test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-d3rlpy.txt
	touch $@

view: setup ## write the page of the study's report, reports/<study>/report.html
	$(BIN)/python -m stages.view

ui: setup ## open the MLflow UI on http://127.0.0.1:5000
	$(BIN)/python -m stages.tracking.ui

docs: $(BIN)/.setup-docs ## build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open site/index.html, or serve it to have the search too: $(BIN)/python -m http.server --directory site'

$(BIN)/.setup-docs: requirements-docs.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

test: setup-dev ## the tests, without those that take minutes each
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: setup-dev ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow

lint: setup-dev ## ruff (rules, format) and mypy (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove artifacts (DVC's cache keeps them) and drafts
	rm -rf artifacts
