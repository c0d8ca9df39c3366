"""A model and one of its dims in; its log density, with weights for the rows along the dim, comes out."""

from typing import Any

import numpy as np
import pytensor

from pm_psyphy.graph import Tensor

# The names under which an objective holds the weights of rows, and that of all else; no variable can have them, for
# their space.
WEIGHTS, REST = "row weights", "weight of the rest"


def write_weighted_log_density(model: Any, dim: str, *, jacobian: bool) -> Tensor:
    """Return the log density in which each row's log likelihood is multiplied by its weight.

    The weights are a shared vector, named `WEIGHTS`, all 1. A weight of 0 leaves a row out, one of 2 counts it twice.
    What is not a row, such as the prior, is multiplied by a shared scalar, named `REST`, also 1.

    Parameters
    ----------
    model : pm.Model
    dim : str
    jacobian : bool

    Returns
    -------
    TensorVariable
    """
    axes, length = find_rows(model, dim)
    weights: Any = pytensor.shared(np.ones(length, pytensor.config.floatX), name=WEIGHTS)
    rest: Any = pytensor.shared(np.asarray(1, pytensor.config.floatX), name=REST)
    terms = [*model.free_RVs, *model.observed_RVs, *model.potentials]
    total: Any = 0.0
    for term, graph in zip(terms, model.logp(vars=terms, jacobian=jacobian, sum=False), strict=True):
        if term.name in axes:
            axis = axes[term.name]
            if axis >= graph.ndim:
                raise ValueError(f"{term.name!r} has one log likelihood for all of {dim!r}, not one for each row.")
            graph = graph * weights.dimshuffle(*(0 if i == axis else "x" for i in range(graph.ndim)))
            total += graph.sum()
        else:
            total += rest * graph.sum()
    return total


def find_rows(model: Any, dim: str) -> tuple[dict[str, int], int]:
    """Return which observed variables and potentials have a dim, along which axis, and its length.

    Parameters
    ----------
    model : pm.Model
    dim : str

    Returns
    -------
    axes : dict of str to int
    length : int

    Raises
    ------
    ValueError
        If none has it, or a parameter has it.
    """
    named = {name: tuple(dims) for name, dims in model.named_vars_to_dims.items() if dim in dims}
    with_dim = [v.name for v in model.free_RVs if v.name in named]
    if with_dim:
        raise ValueError(
            f"{', '.join(with_dim)} has the dim {dim!r}: there is a parameter for each of its rows, which cannot be "
            "drawn apart from it. Pass another dim."
        )
    terms = [*model.observed_RVs, *model.potentials]
    axes = {v.name: named[v.name].index(dim) for v in terms if v.name in named}
    if not axes:
        known = sorted({d for v in terms for d in model.named_vars_to_dims.get(v.name) or () if d})
        raise ValueError(
            f"No observed variable has the dim {dim!r}; theirs are {', '.join(known) or 'none'}. "
            f"Declare it, as in pm.Normal(..., observed=..., dims={dim!r})."
        )
    return axes, int(model.dim_lengths[dim].eval())
