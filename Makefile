# make report | quick | web | appendix | lab | test | check | bench | lowest     each installs what it needs first, once
#   DATA=folder or hub    images (default: CLIPLIB_DATA, else the committed features)
#   MODEL=folder or id    CLIP (default: CLIPLIB_MODEL, else the embedded one)
#   OUT=file              where the PDF goes
#   FLAGS="--port 9999"   more options for JupyterLab, or for report/build.py
#   COMMIT=1              with DATA, for maintainers: write what needs images into figures/ and report/, to commit it
# With DATA, MODEL or parameters everything goes below build/; figures/ and report/ stay as they are committed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
LOCK := $(wildcard requirements.lock)
LOWEST := build/lowest/bin

settings = $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)") $(if $(COMMIT),--commit) $(FLAGS)
# A folder with its whole path, since notebooks run in another one; anything else as it is.
whole = "$$(if [ -d "$(1)" ]; then cd "$(1)" && pwd; else printf %s "$(1)"; fi)"

.PHONY: report quick web appendix lab test check bench lowest clean

report: $(STAMP)
	$(BIN)/python report/build.py $(settings)

# Two notebooks and the summary on a tenth of the rows, below build/quick: about a minute.
quick: $(STAMP)
	$(BIN)/python report/build.py --quick

web: $(STAMP)
	$(BIN)/python report/build.py --web $(settings)

appendix: $(STAMP)
	$(BIN)/python report/build.py --appendix $(settings)

# On copies in build/lab: saving them leaves the repository as it is.
lab: $(STAMP)
	$(BIN)/python report/build.py --lab
	CLIPLIB_DATA=$(call whole,$(or $(DATA),$(CLIPLIB_DATA))) CLIPLIB_MODEL=$(call whole,$(or $(MODEL),$(CLIPLIB_MODEL))) \
	$(BIN)/jupyter lab build/lab $(if $(filter 0,$(shell id -u)),--allow-root) $(FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: build/bench/installed
	PYTHONPATH=notebooks build/bench/bin/python tests/benchmarks $(if $(DATA),--data "$(DATA)")

lowest:
	test -x $(LOWEST)/python || $(PYTHON) -m venv build/lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --requirement requirements.txt --editable .
	$(LOWEST)/python -m pytest

clean:
	rm -rf build

# Into an environment, the CPU build of torch where there is no NVIDIA GPU: by itself pip would take the one for GPUs on
# Linux, of 4 GB more. That one has to do where the index of the other cannot be reached.
define cpu_torch
test "$$(uname)" != Linux || command -v nvidia-smi > /dev/null || $(1)/python -m pip install --quiet --no-deps \
--timeout 10 --retries 0 --index-url https://download.pytorch.org/whl/cpu $(LOCK:%=--constraint %) torch 2> /dev/null \
|| echo "No CPU build of torch can be had here: the one for GPUs takes its place."
endef

$(STAMP): requirements.txt pyproject.toml $(LOCK)
	@echo "Installing into .venv, once: about 2 GB on the disk, 2 to 3 minutes, in which pip is silent."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(call cpu_torch,$(BIN))
	$(BIN)/python -m pip install --quiet --requirement requirements.txt $(LOCK:%=--constraint %) --editable .
	@# From any folder, notebooks find the package that they share.
	@echo "$(CURDIR)/notebooks" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/study.pth"
	touch $@

# The peers of the benchmarks, which cliplib needs none of, get an environment of their own.
build/bench/installed: $(STAMP) tests/benchmarks/requirements.txt
	test -x build/bench/bin/python || $(PYTHON) -m venv build/bench
	@$(call cpu_torch,build/bench/bin)
	build/bench/bin/python -m pip install --quiet --requirement requirements.txt --requirement tests/benchmarks/requirements.txt $(LOCK:%=--constraint %) --editable .
	touch $@
