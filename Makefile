# Every target sets itself up: Python 3.11 or newer, make and a network are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test serve bench soak check lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/ -/'

$(READY): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(READY) ## train a small DDU-Net on generated scenes, evaluate it, serve it and segment one scene
	$(BIN)/python -m tests.demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest

# other servers, in an environment of their own that sees the packages of ours
$(VENV)/servers/.ready: $(READY) tests/benchmarks/servers/requirements.txt
	$(PYTHON) -m venv $(VENV)/servers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(VENV)/servers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	$(VENV)/servers/bin/pip install --quiet --disable-pip-version-check -r tests/benchmarks/servers/requirements.txt
	@touch $@

bench: $(VENV)/servers/.ready ## the figures of docs/performance.md, measured side by side: half an hour
	$(BIN)/python -m tests.benchmarks

soak: $(READY) ## kill training fifty times, strike a save at each of its system calls (needs strace): half an hour
	$(BIN)/python -m tests.soak

serve: $(READY) ## serve what lies in runs/ on http://localhost:8000
	$(BIN)/python -m service

check: $(READY) ## formatting, lint, types, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint --failure-threshold warning Dockerfile.train Dockerfile.serve
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

lock: ## pin the newest releases that fit pyproject.toml, with their hashes
	for set in serve train; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --constraint constraints.txt --extra $$set pyproject.toml -o requirements-$$set.txt || exit 1; \
	done
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --constraint constraints.txt --all-extras pyproject.toml -o requirements-dev.txt

clean: ## remove what was installed and what the demo left
	rm -rf $(VENV) demo
