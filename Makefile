# Targets make what they need: .venv, with the versions that constraints.txt pins.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
OUTPUT ?= results
PORT ?= 5000
ARGS ?=
PRESET ?= quick
BIN := .venv/bin
# Processes that share the tests, a file at a time, with a thread each: more threads than cores only wait.
# The order is that of tests/conftest.py, the longest files first.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) --editable

.PHONY: help install system-packages table2 paper test test-fast lint ui clean

help:
	@echo "make table2    Table II on scikit-learn's digits, three seeds (ARGS=... adds flags)"
	@echo "make paper     every table and figure of the paper, one report (PRESET=smoke, quick or paper)"
	@echo "make test      all tests;  make test-fast leaves out the slow ones and those of whole systems"
	@echo "make system-packages  what the tests of whole systems need: a browser, a database, ..."
	@echo "make ui        MLflow UI of $(OUTPUT) on http://127.0.0.1:$(PORT)"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove .venv and caches (results stay)"

install: .venv/.installed

.venv/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(PIP) '.[dev]'
	touch $@

system-packages: install
	@.ci/packages
	@test -f .venv/.peers || { $(PIP) '.[peers]' && touch .venv/.peers; } || echo "left out: the libraries that studies/cost.py compares with (pip could not install them)"

table2: install
	$(BIN)/python studies/table2.py --dataset digits --preset quick --seeds 3 --output $(OUTPUT) $(ARGS)

paper: install
	$(BIN)/python studies/reproduce.py --preset $(PRESET) --output $(OUTPUT) $(ARGS)

test: install
	$(PYTEST) $(ARGS)

test-fast: install
	$(PYTEST) -m 'not slow and not system' $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: install
	@test -f $(OUTPUT)/mlflow.db || { echo "$(OUTPUT)/mlflow.db is not there: run make table2 first, or name another folder with OUTPUT="; exit 1; }
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri 'sqlite:///$(abspath $(OUTPUT))/mlflow.db' --host 127.0.0.1 --port $(PORT)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
