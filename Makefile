# make run    serve on this machine: uWSGI and the writer, data under ./var
# make test   everything CI runs: lint, format, types, tests
# make bench  measure speed and memory, for a minute or two
# make chaos  break everything around the datastore, for some minutes

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
DATA ?= var

.PHONY: run test bench chaos clean

run: $(VENV)/run.stamp
	@exec $(VENV)/bin/datastore serve --port $(PORT) --data '$(DATA)'

test: $(VENV)/test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q -n 3 --dist worksteal

bench: $(VENV)/test.stamp
	@$(VENV)/bin/python -m bench

chaos: $(VENV)/test.stamp
	$(VENV)/bin/python -m chaos

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) || \
	  { echo 'make: no virtual environment: apt install python3-venv' >&2; exit 1; }

$(VENV)/run.stamp: $(VENV)/bin/python setup.cfg pyproject.toml
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/bin/python setup.cfg pyproject.toml
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/run.stamp
