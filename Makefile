# Targets make what they need: .venv, with the versions that constraints.txt pins. It is made anew
# where the choice of PYTHON and CONSTRAINTS is not the one that it was made with.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
OUTPUT ?= results
PORT ?= 5000
ARGS ?=
PRESET ?= quick
BIN := .venv/bin
# Processes that share the tests, a file at a time, with a thread each: twice two cores, as
# tests of servers and clusters wait.
# The order is that of tests/conftest.py, the longest files first.
JOBS ?= 4
# They start hundreds of processes, which would compile the sources anew if bytecode were not kept.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) --editable
CHOICE := $(strip $(shell $(PYTHON) -V 2>/dev/null) $(CONSTRAINTS))
STORE = import sys, pathlib; from hpo.tracking.store import local_tracking_uri as uri; print(uri(pathlib.Path(sys.argv[1])))

define SUITABLE
import sys
have = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 10):
    sys.exit("$(PYTHON) is Python " + have + ", and 3.10 is the lowest that works: name another, as in PYTHON=python3.11")
if sys.version_info < (3, 11) and "$(CONSTRAINTS)" == "constraints.txt":
    sys.exit("$(PYTHON) is Python " + have + ", and the versions of constraints.txt need 3.11: name another, as in PYTHON=python3.11, or give CONSTRAINTS= for the newest versions that " + have + " can have")
endef
export SUITABLE

.PHONY: help install system-packages table2 paper test test-fast test-ends lint docs site ui clean
ifneq "$(CHOICE)" "$(shell cat .venv/.installed 2>/dev/null)"
.PHONY: .venv/.installed
CLEAR = --clear
endif

help:
	@echo "make install   .venv and all that the others need, which they make themselves; PYTHON=$(PYTHON) is the"
	@echo "               interpreter, CONSTRAINTS=$(CONSTRAINTS) the versions (CONSTRAINTS= the newest)"
	@echo "make table2    Table II on scikit-learn's digits, three seeds (ARGS=... adds flags)"
	@echo "make paper     every table and figure of the paper, one report (PRESET=smoke, quick or paper)"
	@echo "make test      all tests;  make test-fast leaves out the slow ones and those of whole systems"
	@echo "               (JOBS=$(JOBS) processes; ARGS=... chooses tests)"
	@echo "make test-ends the lowest and the newest versions that pyproject.toml allows, in .ends (docs/versions.md)"
	@echo "make system-packages  what the tests of whole systems need: a browser, a database, ..."
	@echo "make ui        MLflow UI, for this machine alone (OUTPUT=$(OUTPUT) is what it shows, PORT=$(PORT))"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the tables of README.md and docs/ from docs/evidence"
	@echo "make site      these pages, and one for each public name, as a site in site/"
	@echo "make clean     remove .venv, .ends, builds and caches (results stay)"

install: .venv/.installed

.venv/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c "$$SUITABLE"
	$(PYTHON) -m venv $(CLEAR) .venv
	$(PIP) '.[dev]' || { echo "pip could not install $(or $(CONSTRAINTS),the newest versions) on $$($(PYTHON) -V): choose another PYTHON=, or other versions by CONSTRAINTS="; exit 1; }
	@echo '$(CHOICE)' >$@

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

test-ends:
	@.ci/ends $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m studies pages

site: install
	@test -f .venv/.docs || { $(PIP) '.[docs]' && touch .venv/.docs; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

ui: install
	@test -f "$(OUTPUT)/mlflow.db" || { echo "$(OUTPUT)/mlflow.db is not there: run make table2 first, or name another folder with OUTPUT="; exit 1; }
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri "$$($(BIN)/python -c '$(STORE)' "$(OUTPUT)")" --host 127.0.0.1 --port $(PORT)

clean:
	rm -rf .venv .ends site .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
