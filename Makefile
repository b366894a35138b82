# Everything runs in .venv at the root; a second call reinstalls nothing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: env demo test check clean

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tradeoff needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: env
	$(BIN)/tradeoff compare --out runs/demo

test: env
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadgroup

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
