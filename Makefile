# make demo, make test: all that is needed is a Python >= 3.12; the rest is installed into .venv from the lock.
PYTHON := .venv/bin/python
EXAMPLES := $(sort $(wildcard examples/*.py))

.PHONY: demo test check docs bench examples lock clean

demo: .venv/ready
	$(PYTHON) examples/hierarchical_regression.py

test: .venv/ready
	$(PYTHON) -m pytest -n 2 --dist worksteal

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

docs: .venv/ready
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

examples: .venv/ready
	for example in $(EXAMPLES); do echo "== $$example"; \
	    case $$example in *wppm_field*) size=400;; *) size=;; esac; \
	    $(PYTHON) -W error::UserWarning $$example $$size || exit 1; done

bench: .venv/ready .venv-peers/ready
	$(PYTHON) benchmarks/run.py
	.venv-peers/bin/python benchmarks/observers.py
	.venv-peers/bin/python benchmarks/uncertainty.py
	$(PYTHON) benchmarks/calibration.py
	$(PYTHON) benchmarks/accuracy.py

lock:
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.12 --no-emit-index-url \
	    --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.12 --no-emit-index-url \
	    --group peers pyproject.toml -o requirements/peers.txt

clean:
	rm -rf .venv .venv-peers docs/_build docs/gallery

.venv/ready: requirements/dev.txt pyproject.toml
	"$$(.ci/find-python)" -m venv .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

.venv-peers/ready: requirements/peers.txt pyproject.toml
	"$$(.ci/find-python)" -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/peers.txt
	.venv-peers/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
