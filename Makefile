# `make sample` and `make test` need nothing but Python and make; what they install goes into .venv and .venvs.

# The first of these that is there and of a supported version.
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# Gigabytes are the same in .venv and in the environments of tests: uv links them from its cache, pip would copy them.
# Unlike pip it compiles nothing unasked, and where Python may write no bytecode every start would then take 20 s.
UV := $(VENV)/bin/uv
UV_COMPILE := $(UV) pip compile --quiet --upgrade --no-annotate --no-header
UV_LOCK := $(UV_COMPILE) --universal --generate-hashes

.PHONY: setup sample test test-all test-rest environments test-gpu soak fuzz audit coverage bench pictures docs lint format lock clean

setup: $(INSTALLED)

$(INSTALLED): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.lock > $(VENV)/installer.txt
	$(RUN) -m pip install --quiet --no-deps --require-hashes -r $(VENV)/installer.txt
	$(UV) pip install --quiet --compile-bytecode --no-deps --require-hashes --python $(RUN) -r requirements-dev.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

sample: setup
	$(RUN) samples/digits.py

# Threads that spin while they wait make a machine that does other things too several times slower.
test test-all test-rest coverage: export OMP_WAIT_POLICY = passive

# Two workers, each with a file of tests at a time.
WORKERS ?= 2
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist loadfile

test: environments
	$(PYTEST) -m "not thorough and not gpu"

# Besides, a browser and a terminal, of Debian's packages: chromium and tmux.
test-all: environments
	$(PYTEST) -m "not gpu"

# What test-all has beyond test, but for a browser and a terminal.
test-rest: environments
	$(PYTEST) -m "thorough and not gpu" --ignore tests/test_as_a_person_would.py

# What tests cannot share .venv with, built once under .venvs, before the time of any test begins.
environments: setup
	$(RUN) -m tests.environments retired azure_ai_ml azure_ml_component mldesigner mlflow inference_server

test-gpu: setup
	$(RUN) -m pytest -m gpu

soak: setup
	$(RUN) -m tests.soak

# Whole inputs, valid and broken, for so many minutes; with --real N, so many more by the real command.
MINUTES ?= 10
fuzz: setup
	OMP_NUM_THREADS=1 $(RUN) -m tests.fuzzing --minutes $(MINUTES)

bench: setup
	$(RUN) -m benchmarks

audit: setup
	$(RUN) -m tests.audit

coverage: environments
	$(RUN) -m coverage erase
	-$(RUN) -m coverage run -m pytest -m "not thorough and not gpu"
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

pictures: setup
	$(RUN) -m tests.pictures

# The documentation as a site, in site/.
docs: setup
	$(RUN) -m tests.documentation

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: setup
	$(UV_LOCK) --python-version 3.11 --override requirements/runtime.overrides requirements/runtime.in -o requirements.lock
	$(UV_LOCK) --python-version 3.11 --override requirements/runtime.overrides -c requirements.lock requirements/dev.in -o requirements-dev.lock
	$(UV_COMPILE) --python-version 3.9 --python-platform x86_64-manylinux_2_28 requirements/conda.in | $(RUN) requirements/write_conda_env.py > conda_env.yaml
	$(UV_LOCK) --python-version 3.9 --override tests/environments/retired.overrides tests/environments/retired.in -o tests/environments/retired.lock
	$(UV_LOCK) --python-version 3.9 tests/environments/azure_ml_component.in -o tests/environments/azure_ml_component.lock
	for name in audit azure_ai_ml browser mldesigner mlflow inference_server; do \
		$(UV_LOCK) --python-version 3.11 tests/environments/$$name.in -o tests/environments/$$name.lock || exit 1; done
	$(UV_LOCK) --python-version 3.11 requirements/docs.in -o requirements/docs.lock
	cp requirements.lock environment/requirements.lock

clean:
	rm -rf $(VENV) .venvs sample_run site
