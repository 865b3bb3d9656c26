# The book's commands. Each does its own set-up: Python 3.11 or newer and make are all it takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SITE   := _build/html
COLAB  := .venv-colab

# One BLAS thread a process: the tests run two processes, and many small solves on busy cores are slow with more.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help book serve test test-gpu test-colab test-machines links notebooks repo bench clean

help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | expand -t 16

book: $(VENV)/ready   ## build the site, warnings as errors
	$(BIN)/jupyter-book build . -W --keep-going -n -q
	@echo "The book: $(CURDIR)/$(SITE)/index.html   (or: make serve)"

serve: book           ## build the site and serve it on http://localhost:8000
	$(BIN)/python -m http.server --directory $(SITE) --bind localhost 8000

test: book            ## the package, the notebooks cell by cell (nbval, strict), the built site
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg tests book

test-gpu: $(VENV)/ready       ## the kernels at real sizes, on a machine with a card
	$(BIN)/python -m pip install -q 'numba-cuda[cu12]>=0.22' cupy-cuda12x
	$(BIN)/python -m pytest tests/gpu

test-colab: $(COLAB)/ready   ## every notebook with Colab's versions, the package installed without its dependencies
	$(COLAB)/bin/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env book

test-machines: $(VENV)/ready  ## every notebook, strict, as on other machines
	$(BIN)/python tools/other_machines.py

links: $(VENV)/ready  ## ask every address that the book links to whether it is still there (needs the Internet)
	$(BIN)/jupyter-book build . --builder linkcheck

notebooks: $(VENV)/ready     ## run every notebook in place (MEASURE=1: measure again what the machine's speed decides)
	$(BIN)/python tools/notebooks.py run $(if $(MEASURE),--measure)

repo: $(VENV)/ready          ## URL=https://github.com/OWNER/NAME: write the book's public address everywhere
	$(BIN)/python tools/repository.py "$(URL)"

bench: $(VENV)/ready         ## measure on this machine; writes book/data/
	$(BIN)/python benchmarks/cost.py cpu
	$(BIN)/python benchmarks/three_views.py
	$(BIN)/python benchmarks/scan.py cpu
	$(BIN)/python benchmarks/selective.py cpu
	$(BIN)/python benchmarks/mistakes.py cpu
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/models.py

clean:                ## remove what the commands above made
	rm -rf _build $(VENV) $(COLAB) .pytest_cache .hypothesis

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(COLAB)/ready: tests/requirements-colab.txt pyproject.toml $(wildcard mambalib/*.py mambalib/*/*.py book/data/*.json)
	$(PYTHON) -m venv $(COLAB)
	$(COLAB)/bin/python -m pip install -q -r tests/requirements-colab.txt
	$(COLAB)/bin/python -m pip install -q --no-deps --force-reinstall .
	@touch $@
