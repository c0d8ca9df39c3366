"""Options of the test suite, and what makes it fast."""

import os
from pathlib import Path

import pytest

# A PyTensor cache of the tests' own, one for each of their processes, so that none waits for another's lock.
FOLDER = Path(__file__).parents[1] / ".pytest_cache" / f"pytensor-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
# Compilers are most of the time, and few numbers are computed by what they make: no C++, numba for the tests that
# ask for it, and the least that LLVM can do for XLA. Of these flags the last one counts, so that those set outside do.
ASKED = os.environ.get("PYTENSOR_FLAGS", "")
os.environ["PYTENSOR_FLAGS"] = ",".join(filter(None, ["cxx=,mode=FAST_COMPILE", ASKED, f"base_compiledir={FOLDER}"]))
# What one test or process has compiled, or the last run has, no other one compiles again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER.with_name("jax")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".rstrip()


@pytest.fixture
def users_mode():
    """Let PyTensor compile by numba, as it does for users."""
    import pytensor

    with pytensor.config.change_flags(mode="Mode"):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-tables", action="store_true", help="write the tables of docs/ from what the tests find")
