# `make demo` and `make test` set up all they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS
# The demo keeps to itself: its runs, its private share, its data.
DEMO_PATHS := paths.runs=$(DEMO)/runs paths.private=$(DEMO)/private
# A script that finished, but held something back or failed on single items, exits with 3.
FINISHED := || test $$? -eq 3

.PHONY: setup exiftool browser demo test test-slow claims check format docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $@

# The second reader that tests hold against our own check of metadata. Without it they skip these,
# which is a failure with CI=1.
exiftool:
	@command -v exiftool >/dev/null || { \
	  root=$$(test "$$(id -u)" -eq 0 || command -v sudo); \
	  command -v apt-get >/dev/null && $$root apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends \
	    libimage-exiftool-perl >/dev/null; } \
	|| { echo "exiftool is missing: install it (Debian: libimage-exiftool-perl; https://exiftool.org)"; \
	  test -z "$$CI"; }

# What opens the report as its readers do. Without it those tests are skipped, a failure with CI=1.
browser:
	@command -v chromium >/dev/null || { \
	  root=$$(test "$$(id -u)" -eq 0 || command -v sudo); \
	  command -v apt-get >/dev/null && $$root apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends \
	    chromium >/dev/null; } \
	|| { echo "chromium is missing: install it (Debian: chromium; https://www.chromium.org)"; \
	  test -z "$$CI"; }

demo: $(READY)
	@$(BIN)/python generate_triplets.py $(DEMO_PATHS) output_dir=$(DEMO)/triplets $(FINISHED)
	@$(BIN)/python anonymize.py $(DEMO_PATHS) triplets=$(DEMO)/triplets output_dir=$(DEMO)/redacted $(FINISHED)
	@$(BIN)/python train.py editor=tiny editor.trainable=full $(DEMO_PATHS) pairs=$(DEMO)/redacted output_dir=$(DEMO)/training $(FINISHED)
	@$(BIN)/python anonymize.py editor=tiny editor.trainable=full $(DEMO_PATHS) triplets=$(DEMO)/triplets adapter=$(DEMO)/training write_pairs=false output_dir=$(DEMO)/edited $(FINISHED)
	@$(BIN)/python evaluate.py $(DEMO_PATHS) 'runs=[$(DEMO)/redacted,$(DEMO)/edited]' output_dir=$(DEMO)/evaluation $(FINISHED)
	@$(BIN)/python train.py experiment=tiny_finetune task.scenes=600 trainer.max_steps=120 $(DEMO_PATHS) output_dir=$(DEMO)/finetuned $(FINISHED)
	@$(BIN)/python evaluate.py suite=truth dataset.world=phrasings dataset.size=64 $(DEMO_PATHS) 'runs=[$(DEMO)/finetuned]' output_dir=$(DEMO)/scenes $(FINISHED)
	@$(BIN)/python -m unsafe2safe.jobs.demo $(DEMO)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Test files side by side, each on one thread: twice as fast as one after another on two. In the
# order of their names: xdist would begin files with few tests last, and those have the longest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder

test: check exiftool
	$(PYTEST) -m "not slow"

test-slow: $(READY) exiftool browser
	$(PYTEST) -m slow

# The long trainings and tables behind the docs' figures: hours, not in CI.
claims: $(READY)
	$(BIN)/python benchmarks/claims.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m unsafe2safe.jobs.config_page > docs/config.md

clean:
	rm -rf $(DEMO)
