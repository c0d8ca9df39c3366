"""Options of the test suite, and what makes it fast."""

import gc
import os
from pathlib import Path

import pytest

# A PyTensor cache of the tests' own, one for each of their processes, so that none waits for another's lock.
FOLDER = Path(__file__).parents[1] / ".pytest_cache" / f"pytensor-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
# Compilers are most of the time, and few numbers are computed by what they make: no C++, numba for the tests that
# ask for it, and the least that LLVM can do for XLA. What is set outside comes later in the list, and is stronger.
PYTENSOR = f"base_compiledir={FOLDER},cxx=,mode=FAST_COMPILE"
os.environ["PYTENSOR_FLAGS"] = f"{PYTENSOR},{os.environ.get('PYTENSOR_FLAGS', '')}".rstrip(",")
# What one test or process has compiled, or the last run has, no other one compiles again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER.with_name("jax")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".rstrip()


@pytest.fixture
def users_mode():
    """Let PyTensor compile as it does for users: by numba."""
    import pytensor

    with pytensor.config.change_flags(mode="NUMBA"):
        yield


# To look for garbage among all that is alive takes a tenth of the time: what is, is not looked at again.
gc.disable()
TESTS_BETWEEN_COLLECTIONS = 25
_finished = 0


def pytest_runtest_logfinish() -> None:
    global _finished
    _finished += 1
    if _finished % TESTS_BETWEEN_COLLECTIONS == 0:
        gc.collect()
        gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-tables", action="store_true", help="write the tables of docs/ from what the tests find")
