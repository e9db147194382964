# Two commands on a fresh machine: `make play` and `make test`. ARGS go to the program: make play ARGS="--list-devices"
BIN := .venv/bin
SETUP := pyproject.toml scripts/setup-venv scripts/setup-system scripts/apt-install
.DEFAULT_GOAL := help

.PHONY: help
help: ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

.PHONY: play
play: .venv/.ready-to-play ## set up what playing needs, and play (ARGS="MODEL --device NAME")
	@$(BIN)/streamer play $(ARGS)

.PHONY: test
test: check ## set up what testing needs, check, and run the tests (ARGS="-k tape")
	@$(BIN)/pytest $(ARGS)

.PHONY: check
check: .venv/.ready-to-test ## formatting, lint and types
	@scripts/check

.PHONY: bench
bench: .venv/.ready-to-test ## measure the steppers beside torch on this machine
	@$(BIN)/streamer bench $(ARGS)

.PHONY: models
MODELS ?= $(basename $(notdir $(wildcard models/*.safetensors)))
models: .venv/.ready-to-test ## make the shipped models again: fetch, train for hours, ship (MODELS="metal")
	@set -e; for name in $(MODELS); do \
		$(BIN)/python scripts/fetch-corpus $$name; \
		$(BIN)/streamer train corpora/$$name --recipe $$name; \
		$(BIN)/python scripts/ship $$name; \
	done

.PHONY: clean
clean: ## remove what set-up and checks made; recordings, corpora and trained models stay
	rm -rf .venv .typecheck .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find streamer kernels models tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is older than its reasons when pyproject.toml or the set-up has changed; then set-up runs again.
.venv/.ready-to-play: $(SETUP)
	@scripts/setup-venv
	@scripts/setup-system play
	@touch $@

.venv/.ready-to-test: $(SETUP)
	@scripts/setup-venv test
	@scripts/setup-system test
	@touch $@ .venv/.ready-to-play
