# The daily verbs. `make run` and `make test` set up what they need; nothing else has to be installed by hand.
PYTHON ?= python3
SERVICE := .venv
DEV := .venv-dev

.PHONY: run test lint models footprint bench clean

run: $(SERVICE)/installed
	@$(SERVICE)/bin/carry serve

test: lint $(SERVICE)/installed
	$(DEV)/bin/pytest

lint: $(DEV)/installed
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

models: $(DEV)/installed
	PATH="$(CURDIR)/$(DEV)/bin:$$PATH" ./models/train.sh $(NAMES)

footprint: $(SERVICE)/installed
	$(PYTHON) -m benchmarks.footprint $(SERVICE)

# About fifteen minutes on two idle cores; the peers' environments are made on the way.
bench: $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.kernels
	$(DEV)/bin/python -m benchmarks.bench

clean:
	rm -rf $(SERVICE) $(DEV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Editable, so that the code here is what runs; reinstalled when what it depends on changes.
$(SERVICE)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Carry needs Python 3.11 or newer; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(SERVICE)
	$(SERVICE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(DEV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Carry needs Python 3.11 or newer; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[training,dev]'
	touch $@
