# Everything runs in .venv at the root; a second call reinstalls nothing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: env demo test test-fast breaks check clean

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

# what a change of a formula or of the loop breaks first
test-fast: env
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto tests/solvers/test_closed_form.py tests/solvers/test_roots.py \
		tests/tradeoff/test_outcome.py tests/tradeoff/test_chains.py tests/tradeoff/test_printing.py \
		tests/decoding/test_loop.py tests/decoding/test_joint_law.py tests/decoding/test_door.py tests/test_imports.py

# breaks the library on purpose, one line at a time in a copy, and says which test notices; ONLY=name for one of them
breaks: env
	$(BIN)/python tests/support/breaks.py $(ONLY)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
