# make report | web | appendix | lab | test | check | bench | soak | lowest     each installs what it needs first, once
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
LOCK := $(wildcard requirements.lock)
LOWEST := build/lowest/bin
DATA ?=
MODEL ?=
OUT ?=

settings = $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)")

.PHONY: report web appendix test check bench soak lowest licences lab clean

report: $(STAMP)
	$(BIN)/python report/build.py $(settings)

web: $(STAMP)
	$(BIN)/python report/build.py --web $(settings)

appendix: $(STAMP)
	$(BIN)/python report/build.py --appendix $(settings)

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: build/bench/installed
	build/bench/bin/python tests/benchmarks $(if $(DATA),--data "$(DATA)")

soak: $(STAMP)
	$(BIN)/python tests/soak.py --rounds 200

lowest:
	test -x $(LOWEST)/python || $(PYTHON) -m venv build/lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --requirement requirements.txt --editable .
	$(LOWEST)/python -m pytest

licences: $(STAMP)
	$(BIN)/python report/licences.py

lab: $(STAMP)
	$(if $(DATA),CLIPLIB_DATA="$(or $(realpath $(DATA)),$(DATA))") $(if $(MODEL),CLIPLIB_MODEL="$(or $(realpath $(MODEL)),$(MODEL))") $(BIN)/jupyter lab notebooks

clean:
	rm -rf build

$(STAMP): requirements.txt pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt $(LOCK:%=--constraint %) --editable .
	touch $@

# The peers of the benchmarks, which cliplib needs none of, get an environment of their own.
build/bench/installed: $(STAMP) tests/benchmarks/requirements.txt
	test -x build/bench/bin/python || $(PYTHON) -m venv build/bench
	build/bench/bin/python -m pip install --quiet --requirement requirements.txt --requirement tests/benchmarks/requirements.txt $(LOCK:%=--constraint %) --editable .
	touch $@
