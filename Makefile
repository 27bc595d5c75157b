# make demo   learn a subject on the small demo model and see it move
# make test   all tests but those of a release
# make test-quick    what is worth a run after every change
# make test-release  everything, before a release
# make check  lint, format and types
# make bench  measure time and memory, into benchmarks/RESULTS.md
# make clean  remove what make made; videos in output/ stay
#
# Each of them sets up .venv first where that is missing. Options go into ARGS: make test ARGS="-k cli"

PYTHON ?= python3
# The version the tests ran with; `make TORCH=torch` takes the newest. Without a GPU the CPU build is a far smaller
# download: make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install -qq --disable-pip-version-check
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-release check bench clean

help:
	@sed -n 's/^# make /make /p' Makefile

# one thread: measured faster than two for so small a model, and far faster when the machine is busy
demo: $(READY)
	@OMP_NUM_THREADS=1 $(RUN) -m customcrafter_core demo $(ARGS)

# one thread: sums come out the same every time, and two tests at once do not fight for cores
# three processes, because those with a host often wait for it; one, as for --pdb or -s: make test ARGS="-n 0 --pdb"
test: $(READY)
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 -m "not release" $(ARGS)

test-quick: $(READY)
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 -m "not (slow or older_host or release)" $(ARGS)

test-release: $(READY)
	@FUZZED_FILES=10000 LONG_RUN=100 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 $(ARGS)

# one thread by itself: python -m benchmarks has an option for more
bench: $(READY)
	@$(RUN) -m benchmarks $(ARGS)

check: $(READY)
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

$(READY): pyproject.toml requirements.txt requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "No $(PYTHON) found. Install Python 3.10 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is too old. Name Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV), once; this takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
