# The two commands of a fresh machine: `make demo` and `make test`. Everything else is a convenience.
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    torch's CPU build from PyTorch's own index
#   make venv EXTRAS=demo,dev,team                                with PostgreSQL, S3 and MLflow log-in
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= demo,dev
TORCH_INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
empty :=
comma := ,
# .ready names the extras that are installed: asking for more adds them, and none is taken away.
INSTALLED := $(shell cat $(READY) 2>/dev/null)
ASKED := $(subst $(comma), ,$(EXTRAS))
ALL := $(sort $(INSTALLED) $(ASKED))
# Tests that start servers and whole chains: each wants the machine for itself.
SERVERS := tests/pipelines tests/repository tests/tracking \
	$(addprefix tests/test_,cli_chain.py private_chain.py publication.py services.py)

.PHONY: demo test test-slow test-nightly check format venv ui worker lock dvc.yaml schema clean more

demo: $(READY)
	@$(BIN)/graft run

test: $(READY)
	@$(BIN)/python -m pytest -q -m "not slow and not nightly" -n 2 --dist loadfile

test-slow: $(READY)
	@$(BIN)/python -m pytest -q -m "slow and not nightly" --timeout 900 -n 2 $(addprefix --ignore=,$(SERVERS))
	@$(BIN)/python -m pytest -q -m "slow and not nightly" --timeout 900 $(SERVERS)

test-nightly: $(READY)
	@$(BIN)/python -m pytest -q -m "nightly"

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

venv: $(READY)

$(READY): requirements.lock pyproject.toml infra/install $(if $(filter-out $(INSTALLED),$(ASKED)),more)
	@sh infra/install "$(PYTHON)" "$(VENV)" "$(subst $(empty) ,$(comma),$(ALL))" "$(TORCH_INDEX)"
	@echo $(ALL) > $(READY)

more:

ui: $(READY)
	@$(BIN)/graft ui

worker: $(READY)
	@$(BIN)/graft worker --pool $(or $(POOL),graft)

# Resolves the ranges of pyproject.toml anew, for all supported Python versions and platforms.
lock: $(READY)
	@sh infra/lock "$(BIN)/python"

# make dvc.yaml PROJECT=projects/reviews: that of another project
dvc.yaml: $(READY)
	@cd "$(or $(PROJECT),.)" && "$(abspath $(BIN))/python" -m graft.stages render > .dvc.yaml.new && mv .dvc.yaml.new dvc.yaml

schema: $(READY)
	@$(BIN)/graft schema > infra/params.schema.json

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find src pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
