# `make sample` and `make test` need only Python and make. They install into .venv and .venvs.

# The first of these Pythons that exists and has a supported version.
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# uv links the gigabytes that .venv and the environments of tests have in common from its cache; pip would copy them.
# It compiles bytecode only on request. Without bytecode, and where Python may write none, each start takes 20 s.
UV := $(VENV)/bin/uv
UV_COMPILE := $(UV) pip compile --quiet --upgrade --no-annotate --no-header
UV_LOCK := $(UV_COMPILE) --universal --generate-hashes

.PHONY: setup sample sample-multilabel test test-all test-rest environments gpu soak fuzz audit coverage bench bench-accuracy pictures docs lint format lock clean

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

# The same for several labels per image.
sample-multilabel: setup
	$(RUN) samples/digits.py --multilabel

# Waiting threads that spin make a busy machine several times slower.
test test-all test-rest coverage: export OMP_WAIT_POLICY = passive

# Two workers; each takes one file of tests at a time.
WORKERS ?= 2
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist loadfile

test: environments
	$(PYTEST) -m "not thorough and not gpu"

# All tests. The browser and the terminal come from Debian's packages chromium and tmux.
test-all: environments
	$(PYTEST) -m "not gpu"

# The tests of test-all that are not in test, except those in a browser or a terminal.
test-rest: environments
	$(PYTEST) -m "thorough and not gpu" --ignore tests/test_as_a_person_would.py

# Environments that cannot be part of .venv, built once under .venvs before the tests start.
environments: setup
	$(RUN) -m tests.environments retired azure_ai_ml azure_ml_component mldesigner mlflow inference_server

# For a machine with a GPU: the tests that need one, then the benchmarks. Nothing is installed where PyTorch is.
gpu:
	@for python in $(RUN) python3 python; do \
		if $$python -c 'import torch' 2>/dev/null; then \
			PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}" exec $$python -m benchmarks.gpu; fi; \
	done; $(MAKE) setup && exec $(RUN) -m benchmarks.gpu

soak: setup
	$(RUN) -m tests.soak

# Runs commands on valid and broken inputs for MINUTES; --real N also runs the real command N times.
MINUTES ?= 10
fuzz: setup
	OMP_NUM_THREADS=1 $(RUN) -m tests.fuzzing --minutes $(MINUTES)

bench: setup
	$(RUN) -m benchmarks

# Accuracy on the photos of DATA, compared with fastai; OPTIONS choose a part, such as OPTIONS="--sets flowers".
bench-accuracy: setup
	@test -n "$(DATA)" || { echo "Name a folder of photos and weights with: make bench-accuracy DATA=/path"; exit 1; }
	$(RUN) -m tests.environments fastai
	$(RUN) -m benchmarks.accuracy --data "$(DATA)" $(OPTIONS)

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
	for name in audit azure_ai_ml browser fastai mldesigner mlflow inference_server; do \
		$(UV_LOCK) --python-version 3.11 tests/environments/$$name.in -o tests/environments/$$name.lock || exit 1; done
	$(UV_LOCK) --python-version 3.11 requirements/docs.in -o requirements/docs.lock
	cp requirements.lock environment/requirements.lock

clean:
	rm -rf $(VENV) .venvs sample_run site
