# make demo, make test: all that is needed is a Python >= 3.12; the rest is installed into .venv from the lock.
PYTHON := .venv/bin/python
LOCK := uv pip compile -q --universal --generate-hashes --no-header --python-version 3.12 --no-emit-index-url pyproject.toml

.PHONY: demo test check docs bench lock clean

demo: .venv/ready
	$(PYTHON) examples/hierarchical_regression.py

test: .venv/ready
	$(PYTHON) -m pytest -n 2 --dist worksteal

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

docs: .venv-docs/ready
	.venv-docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/ready .venv-peers/ready
	$(PYTHON) benchmarks/run.py
	.venv-peers/bin/python benchmarks/observers.py
	.venv-peers/bin/python benchmarks/uncertainty.py
	$(PYTHON) benchmarks/scale.py
	$(PYTHON) benchmarks/calibration.py
	$(PYTHON) benchmarks/accuracy.py

lock:
	$(LOCK) --group dev -o requirements/dev.txt
	$(LOCK) --group docs -c requirements/dev.txt -o requirements/docs.txt
	$(LOCK) --group peers -o requirements/peers.txt

clean:
	rm -rf .venv .venv-docs .venv-peers docs/_build docs/gallery docs/pictures

.venv/ready: requirements/dev.txt
.venv-docs/ready: requirements/docs.txt
.venv-peers/ready: requirements/peers.txt
%/ready: pyproject.toml
	"$$(.ci/find-python)" -m venv $*
	$*/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $(filter requirements/%,$^)
	$*/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
