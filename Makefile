# make report | web | appendix | lab | test | check     each installs what it needs first, once
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
LOCK := $(wildcard requirements.lock)
DATA ?=
MODEL ?=
OUT ?=

settings = $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)")

.PHONY: report web appendix test check lab clean

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

lab: $(STAMP)
	$(if $(DATA),CLIPLIB_DATA="$(or $(realpath $(DATA)),$(DATA))") $(if $(MODEL),CLIPLIB_MODEL="$(or $(realpath $(MODEL)),$(MODEL))") $(BIN)/jupyter lab notebooks

clean:
	rm -rf build

$(STAMP): requirements.txt pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt $(LOCK:%=--constraint %) --editable .
	touch $@
