# make setup     the environment in .venv, from nothing (every other target does it first, and skips it when current)
# make run       the whole chain on the embedded default, then the table and the report's path
# make test      all tests, the end-to-end ones included, with `make check` beside them
# make fast      the tests that take seconds
# make check     linter and type checker
# make bench     speed of the rollout engines, side by side; of PPO beside TRL's, of the controller and of the
#                annotator's desk, into docs/benchmarks.md
# make evidence  five seeds of every stage and control, then docs/results.json and the README's tables; another recipe's
#                with RECIPE=advantages
# make lock      write requirements/lock.txt anew from this environment

PYTHON ?= python3
VENV   ?= .venv
ACCEL  ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
UV     := $(VENV)/bin/uv
PY     := $(VENV)/bin/python
# What libraries compile to is kept, also where the shell says otherwise: half of every later process's start.
export PYTHONDONTWRITEBYTECODE :=
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))

# vLLM has wheels for Linux alone, and is left out of WSL unless asked for (VLLM=yes): the transformers engine generates.
VLLM   ?= $(if $(filter Linux,$(shell uname -s)),$(if $(findstring icrosoft,$(shell uname -r)),no,yes),no)
comma     := ,
EXTRAS    := $(if $(filter yes,$(VLLM)),vllm-$(ACCEL)$(comma))eval,dev
FLAGS.cpu := --excludes requirements/cpu-excludes.txt $(if $(UV_FIND_LINKS),,--torch-backend=cpu)
FLAGS.gpu := --torch-backend=auto
STAMP     := $(VENV)/.setup-$(ACCEL)$(if $(filter yes,$(VLLM)),,-plain)
# One more than there are cores, as tests wait for what they start; each may hold a few models.
PROCESSES := $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
WORKERS   ?= -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
SEEDS     ?= 1,2,3,4,5
RECIPE    ?= evidence
RESULTS   := docs/results$(addprefix _,$(filter-out evidence,$(RECIPE))).json
space     := $(subst ,, )

.PHONY: setup run test fast check bench evidence lock clean

setup: $(STAMP)
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which one with make PYTHON=...") if sys.version_info < (3, 11) else 0'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"
$(STAMP): pyproject.toml requirements/cpu-excludes.txt requirements/lock.txt Makefile | $(UV)
	@$(if $(filter yes,$(VLLM)),,echo "Set up without vLLM (no wheel for macOS, left out of WSL; VLLM=yes asks for it): rollouts use the transformers engine.")
	@$(UV) pip install --quiet --python $(PY) $(FLAGS.$(ACCEL)) --constraints requirements/lock.txt --editable ".[$(EXTRAS)]"
	@touch $@

run: setup
	@$(PY) -m alignment.run recipe=ppo_fin

test: setup
	@$(MAKE) -s check & check=$$!; $(PY) -m pytest -q $(WORKERS); tests=$$?; wait $$check && exit $$tests

fast: setup
	@$(PY) -m pytest -q $(WORKERS) -m "not slow"

check: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

bench: setup
	@OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PY) -m tests.bench.rollout
	@$(PY) -m tests.bench.packing --docs docs/benchmarks.md
	@$(PY) -m tests.bench.controller --docs docs/benchmarks.md
	@OMP_NUM_THREADS=2 $(PY) -m tests.bench.shared_prompts --docs docs/benchmarks.md
	@$(PY) -m tests.bench.desk --docs docs/benchmarks.md
	@$(PY) -m tests.bench.ppo --docs docs/benchmarks.md

evidence: setup
	@$(PY) -m alignment.run --multirun recipe=$(RECIPE) seed=$(SEEDS) gates=warn
	@$(PY) -m alignment.evidence $(patsubst %,runs/$(RECIPE)/seed%,$(subst $(comma),$(space),$(SEEDS))) \
		--out $(RESULTS) --readme README.md

lock: setup
	@$(UV) pip freeze --python $(PY) | grep -v -e '^-e' -e '^finalign' -e '^uv==' | sed 's/+cpu$$//' > requirements/lock.txt

clean:
	rm -rf $(VENV)
