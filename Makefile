# Everything runs in .venv at the root; a second call reinstalls nothing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: env demo test test-fast breaks snapshots check clean

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

# what a change of a formula or of the loop breaks first: from every room the files that take least and tell most
FAST := $(addprefix tests/solvers/test_,$(addsuffix .py,closed_form roots divergences certificate_attacks)) \
	$(addprefix tests/tradeoff/test_,$(addsuffix .py,outcome blocks chains registry own_rules conversion printing)) \
	$(addprefix tests/decoding/test_,$(addsuffix .py,loop joint_law door verify block_verify sampling drafting cache)) \
	$(addprefix tests/evaluation/test_,$(addsuffix .py,win_rates findings chat_replies position_file)) \
	tests/test_imports.py

test-fast: env
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto $(FAST)

# breaks the library on purpose, one line at a time in a copy, and says which test notices; ONLY=name for one of them
breaks: env
	$(BIN)/python tests/support/breaks.py $(ONLY)

# takes the pages that reports write as they are now: look at the difference before you commit it
snapshots: env
	RENEW_SNAPSHOTS=1 $(BIN)/pytest tests/evaluation/test_study_page.py tests/evaluation/test_map_page.py -k snapshot

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
