# The commands people type. `make setup` runs by itself when one of them needs it.
.DEFAULT_GOAL := help
.PHONY: help setup study batch lab dashboard test test-slow test-browser lint size notebooks tables site bench clean

UV = $(shell command -v uv || echo .tools/bin/uv)
PY = .venv/bin/python
export UV_COMPILE_BYTECODE = 1

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## prepare the environment in .venv

.venv/.ready: pyproject.toml constraints.txt
	@command -v uv >/dev/null || test -x .tools/bin/uv || { python3 -m venv .tools && .tools/bin/pip install --quiet uv; } \
	    || { echo "clad: neither uv nor Python's venv module is here: install uv, then run make again"; exit 1; }
	$(UV) venv --quiet --allow-existing --python '>=3.11,<3.14' .venv
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --group dev --editable '.[multicore]' \
	    || { $(UV) pip install --quiet --python $(PY) --constraint constraints.txt --group dev --editable . \
	    && echo "clad: MulticoreTSNE was not built (it needs a C++ compiler and make): openTSNE draws the maps"; }
	@touch $@

study: setup  ## the whole study on the embedded data set: executed notebooks, table, report
	$(PY) -m clad_lib study

batch: setup  ## a grid of runs: make batch STUDY=studies/paper.toml
	$(PY) -m clad_lib batch $(or $(STUDY),studies/smoke.toml)

lab: setup  ## open your own copies of the notebooks in JupyterLab
	$(PY) -m clad_lib notebooks copy my_notebooks
	$(PY) -m jupyterlab my_notebooks/01_scenarios.ipynb

dashboard: setup  ## the explorers of the default run as a web page without code, on 127.0.0.1
	$(PY) -m clad_lib dashboard

test: setup  ## the test suite (embedded data, no network)
	$(PY) -m pytest

test-slow: setup  ## checks on real data; set CLAD_DATA first
	$(PY) -m pytest -m slow

test-browser: setup  ## a real JupyterLab and Voila in Chromium; screenshots go to test-artefacts/
	$(PY) -m pytest -m browser -p no:xdist tests/test_browser.py

lint: setup  ## formatter, linter and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

size: setup  ## statements, lines and import depth of the library, beside their limits
	$(PY) tools/measure_code.py

notebooks: setup  ## execute the default study again and rewrite the committed notebooks
	$(PY) tools/committed_notebooks.py

tables: setup  ## the tables of results/README.md again, from results/*.csv alone
	$(PY) tools/publish.py tables

site: setup  ## the documentation as a web site, in site/
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --group site
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PY) -m mkdocs build --strict --quiet

bench: setup  ## speed beside what one would use instead, in one table; make bench SMALL=--small for a try
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --group bench
	$(PY) benchmarks/run.py $(SMALL)

clean:  ## remove runs and caches, keep the environment
	rm -rf runs site my_notebooks .pytest_cache .mypy_cache .ruff_cache test-artefacts
