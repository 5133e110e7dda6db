# Every target sets itself up: Python 3.11 or newer, make and a network are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test fleet serve bench soak check lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/ -/'

$(READY): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	@echo "installing into $(VENV)/: torch with CUDA and what else is needed, 7 GB on Linux; minutes, without a word"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "project.pth").write_text("$(CURDIR)\n")' # for any folder
	@touch $@

setup: $(READY) ## make the virtual environment .venv, and nothing else

demo: $(READY) ## train a small DDU-Net on generated scenes, evaluate it, serve it and segment one scene
	$(BIN)/python -m tests.e2e.demo

test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile # two workers, a thread each: the processes that tests start have their own

# `required`: what a machine lacks for it fails instead of being left out
FLEET ?= yes
fleet: $(READY) ## images built and run, several machines, a balancer, for real: needs root on Debian (or a Docker Engine, for the first)
	FLEET=$(FLEET) $(BIN)/python -m pytest -rs -s tests/e2e/containers tests/e2e/multi_host

# other servers, in an environment of their own that sees the packages of ours
$(VENV)/servers/.ready: $(READY) tests/benchmarks/servers/requirements.txt
	$(PYTHON) -m venv $(VENV)/servers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(VENV)/servers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	$(VENV)/servers/bin/pip install --quiet --disable-pip-version-check -r tests/benchmarks/servers/requirements.txt
	@touch $@

bench: $(VENV)/servers/.ready ## the figures of docs/performance.md, measured side by side: half an hour
	$(BIN)/python -m tests.benchmarks

soak: $(READY) ## kills of training by the dozen, saves struck at each system call (needs strace), the service's bad days: three quarters of an hour
	$(BIN)/python -m tests.soak
	OPENAPI_EXAMPLES=500 $(BIN)/python -m pytest -q -s tests/integration/service/test_openapi.py

serve: $(READY) ## serve what lies in runs/ on http://localhost:8000
	$(BIN)/python -m service

check: $(READY) ## formatting, lint, types, container files, known holes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint --failure-threshold warning Dockerfile.train Dockerfile.serve
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/bandit --quiet --recursive --severity-level medium core service training
	@if $(BIN)/python -c "import urllib.request as r; r.urlopen('https://pypi.org/pypi/pip/json', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip-audit --progress-spinner off --disable-pip --require-hashes -r requirements-serve-cuda.txt -r requirements-train.txt; \
	else echo "pip-audit: its database can't be reached; not asked"; fi

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --constraint constraints.txt
lock: ## pin the newest releases that fit pyproject.toml, with their hashes
	$(COMPILE) --extra train pyproject.toml -o requirements-train.txt
	$(COMPILE) --extra serve pyproject.toml -o requirements-serve-cpu.txt
	$(COMPILE) --extra serve --extra torch pyproject.toml -o requirements-serve-cuda.txt
	$(COMPILE) --all-extras pyproject.toml -o requirements-dev.txt

clean: ## remove what was installed and what the demo left
	rm -rf $(VENV) demo
