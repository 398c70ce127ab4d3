# `make lab` opens the explorer; `make test` proves the whole project, `make quick` its heart in two minutes,
# `make cases` tries thousands of random cases. Each sets up .venv when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: lab test quick cases check figures bench clean

lab: $(READY)
	$(BIN)/qdelta lab

test: check
	$(BIN)/python -m pytest

# The operation against its definition, transition, claims, inputs, traces, capture and figures' data; no
# browser, no compiler, no training, no second process.
QUICK := kernels/test_recurrence.py kernels/test_special_cases.py kernels/test_bad_input.py kernels/test_triton.py \
  analysis/test_transition.py analysis/test_guarantees.py analysis/test_guarantees_refuse.py analysis/test_inputs.py \
  analysis/test_tracing.py analysis/test_capture.py analysis/test_fingerprints.py learning/test_rules.py \
  learning/test_state.py

quick: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(QUICK:%=tests/%) -m "not browser and not gpu and not slow"

# The randomised checks, with TIMES as many cases as in `make test`.
TIMES := 10
cases: $(READY)
	QDELTA_CASES=$(TIMES) $(BIN)/python -m pytest -m cases --timeout 0

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/pyright

figures: $(READY)
	$(BIN)/python -m figures.build

bench: $(READY)
	$(BIN)/python -m benchmarks.run

# The stamp makes a second call install nothing; a change of the dependencies makes it install again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python >= 3.11 is needed, %s is Python %d.%d; name another with: make PYTHON=/path/to/python" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
