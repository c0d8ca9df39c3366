"""Options of the test suite."""

import os
from pathlib import Path

import pytest

# A PyTensor cache of the tests' own, one for each of their processes, so that none waits for another's lock.
FOLDER = Path(__file__).parents[1] / ".pytest_cache" / f"pytensor-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
os.environ["PYTENSOR_FLAGS"] = f"{os.environ.get('PYTENSOR_FLAGS', '')},base_compiledir={FOLDER}".lstrip(",")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-tables", action="store_true", help="write the tables of docs/ from what the tests find")
