# make demo, make test: all that is needed is a Python >= 3.12; the rest is installed into .venv from the lock.
PYTHON := .venv/bin/python
TEST := -m pytest -n 2 --dist worksteal
LOCK := uv pip compile -q --universal --generate-hashes --no-header --python-version 3.12 --no-emit-index-url pyproject.toml

.PHONY: demo quick test test-xla test-lowest check wheel-check docs bench bench-gpu lock clean

demo: .venv/ready
	$(PYTHON) examples/psychometric_function.py
	$(PYTHON) examples/wppm_quickstart.py
	$(PYTHON) examples/hierarchical_regression.py

test: .venv/ready
	$(PYTHON) $(TEST)

# Likelihoods of rows without machine code, as where it is not to be had.
test-xla: .venv/ready
	PM_PSYPHY_NATIVE=0 $(PYTHON) $(TEST) tests/psychophysics/test_oddity.py tests/psychophysics/test_evaluation.py \
	    tests/psychophysics/test_psyphy.py tests/reports/test_thresholds.py

# What is fast, for people at work: a minute or so.
quick: .venv/ready
	$(PYTHON) $(TEST) -m "not slow" tests/fitting/test_find_map.py tests/fitting/test_errors.py tests/results \
	    tests/compiling/test_values.py tests/psychophysics/test_tasks.py tests/psychophysics/test_psychometric.py \
	    tests/psychophysics/test_trials.py

# The same with the oldest version of each dependency that pyproject.toml allows, and all that XLA and numba do for users:
# the tests otherwise ask compilers for little.
test-lowest: export XLA_FLAGS = --xla_backend_optimization_level=3
test-lowest: export PYTENSOR_FLAGS = mode=Mode
test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python $(TEST)

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

wheel-check: .venv/ready
	.ci/check-wheel

docs: .venv-docs/ready
	.venv-docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/ready .venv-peers/ready
	$(PYTHON) benchmarks/run.py
	.venv-peers/bin/python benchmarks/observers.py
	.venv-peers/bin/python benchmarks/uncertainty.py
	$(PYTHON) benchmarks/scale.py
	$(PYTHON) benchmarks/calibration.py
	$(PYTHON) benchmarks/accuracy.py

# Where there is a GPU, and .venv has JAX for it.
bench-gpu: .venv/ready
	$(PYTHON) benchmarks/gpu.py

# uv keeps the versions of a lock as long as they are allowed. `--upgrade` makes it follow a lower bound that was lowered.
lock:
	$(LOCK) --group dev -o requirements/dev.txt
	$(LOCK) --group build --group test --resolution lowest-direct --upgrade -o requirements/lowest.txt
	$(LOCK) --group docs -c requirements/dev.txt -o requirements/docs.txt
	$(LOCK) --group peers -o requirements/peers.txt

clean:
	rm -rf .venv .venv-lowest .venv-docs .venv-peers .venv-wheel docs/_build docs/gallery docs/pictures .pytest_cache

.venv/ready: requirements/dev.txt
.venv-lowest/ready: requirements/lowest.txt
.venv-docs/ready: requirements/docs.txt
.venv-peers/ready: requirements/peers.txt
%/ready: pyproject.toml
	"$$(.ci/find-python)" -m venv $*
	$*/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $(filter requirements/%,$^)
	$*/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
