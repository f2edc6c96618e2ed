# From a bare clone: `make demo` shows it, `make test` tests it. Needs make and Python 3.11 or newer.
# Another interpreter: make PYTHON=/path/to/python3.12 ...   Options for what is run: make bench ARGS="--quick"

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
DURATION ?= 3600

.DELETE_ON_ERROR:
.PHONY: help setup wheel test-wheel demo test check format bench conformance real-parts golden crds manifests soak clean

help:
	@echo "make demo          the whole story on this machine"
	@echo "make test          all tests (real parts are skipped where they are missing)"
	@echo "make check         ruff, mypy --strict, import-linter"
	@echo "make format        put imports and layout in order"
	@echo "make wheel         the wheel that is shipped, compiled, into dist/; needs a C compiler"
	@echo "make test-wheel    tests of the compiled wheel"
	@echo "make bench         measure against nginx and Envoy            ARGS=\"--quick\""
	@echo "make conformance   the official conformance suite, directly and by all ways through the sidecar"
	@echo "make real-parts    install what the real tests need, outside of this folder"
	@echo "make crds          renew manifests/crds from the tables of the configuration"
	@echo "make golden        renew the golden files; look at the difference before committing it"
	@echo "make manifests     renew the chart's CRDs and the kustomize base after the CRDs or the chart were changed"
	@echo "make soak          fuzz the parsers with atheris               DURATION=3600 (seconds) ARGS=\"listener\""
	@echo "                   or rotate identities under load, on SPIRE   DURATION=900 ARGS=rotation"
	@echo "                   or have Kubernetes' API server away         DURATION=120 ARGS=apiserver"
	@echo "make setup         only the environment in $(VENV)"
	@echo "make clean         remove the environment and everything that was built"

setup: $(READY)

# pip before 25.1 does not know --group. With -qq only errors show: setuptools warns of editable installations as such.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable ".[demo]" --group dev
	@touch $@

demo: $(READY)
	$(BIN)/openmcp demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel that is shipped, and an environment that has it installed instead of the sources.
SHIPPED := .venv-wheel
SOURCES := $(shell find config identity injector sidecar -name '*.py') pyproject.toml .ci/wheel.py

wheel: $(SHIPPED)/.ready

$(SHIPPED)/.ready: $(READY) $(SOURCES)
	rm -rf dist
	$(BIN)/python .ci/wheel.py dist
	$(PYTHON) -m venv --clear $(SHIPPED)
	$(SHIPPED)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(SHIPPED)/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[demo]" --group dev
	@touch $@

test-wheel: $(SHIPPED)/.ready
	$(SHIPPED)/bin/python -m pytest -p no:cacheprovider $(ARGS)

bench: $(SHIPPED)/.ready
	$(BIN)/python -m benchmarks --sidecar "$(SHIPPED)/bin/openmcp run -c {config}" $(ARGS)

conformance: $(READY)
	$(BIN)/python -m tests.conformance $(ARGS)

real-parts: $(READY)
	$(BIN)/python tests/real_parts/install.py $(ARGS)

# atheris is in an environment of its own: it is large, and not there for every platform.
ifneq ($(filter apiserver rotation,$(ARGS)),)
soak: $(READY)
	$(BIN)/python -m tests.soak.$(ARGS) --seconds $(DURATION)
else
soak: build/soak/.ready
	build/soak/bin/python -m tests.fuzz.run --seconds $(DURATION) $(ARGS)
endif

build/soak/.ready: pyproject.toml
	$(PYTHON) -m venv build/soak
	build/soak/bin/python -m pip install --quiet --disable-pip-version-check --editable . "atheris>=3"
	@touch $@

crds: $(READY)
	$(BIN)/python .ci/crds.py

golden: $(READY)
	OPENMCP_GOLDEN=renew $(BIN)/python -m pytest $(ARGS)

manifests: crds
	$(BIN)/python .ci/manifests.py "$$($(BIN)/python -c 'from tests.real_parts.install import program; print(program("kubernetes", "helm"))')"

clean:
	rm -rf $(VENV) $(SHIPPED) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
