"""One cold fit in a process of its own: `cold.py CASE METHOD` prints the seconds from model to answer, and the loss."""

import json
import sys
import time
import warnings
from collections.abc import Callable

import jax  # noqa: F401
import numpy as np
import optax  # noqa: F401
import pymc as pm
import pytensor.link.jax.dispatch  # noqa: F401
from models import CASES

warnings.simplefilter("ignore")


def load_method(name: str) -> Callable[[pm.Model], dict[str, np.ndarray]]:
    """Import a package and return its fit, from a model to a dict of unconstrained parameters."""
    if name == "pm_psyphy":
        import pm_psyphy as psy

        return lambda model: psy.find_map(model, progressbar=False).unconstrained
    if name == "pm.find_MAP":
        return lambda model: pm.find_MAP(model=model, progressbar=False)
    import pymc_extras as pmx

    def fit_with_extras(model):
        found = pmx.find_MAP(model=model, gradient_backend="jax", compile_kwargs={"mode": "JAX"}, progressbar=False)
        groups = [found[name] for name in ("posterior", "unconstrained_posterior") if name in found.children]
        return {name: values.values[0, 0] for group in groups for name, values in group.data_vars.items()}

    return fit_with_extras


if __name__ == "__main__":
    model = CASES[sys.argv[1]]().build()
    fit = load_method(sys.argv[2])
    begun = time.perf_counter()
    point = fit(model)
    seconds = time.perf_counter() - begun
    logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
    loss = -float(
        logp({v.name: np.reshape(point[v.name], model.initial_point()[v.name].shape) for v in model.value_vars})
    )
    print(json.dumps({"seconds": seconds, "loss": loss}))
