"""Unconstrained draws in; the user's variables, any expression of them and a DataTree come out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
import xarray as xr
from pytensor.graph.basic import Variable

from pm_psyphy.datatree import describe_draws
from pm_psyphy.graph import lift
from pm_psyphy.linker import translate
from pm_psyphy.objective import Objective

# So many numbers a batch of draws may make at once.
NUMBERS_OF_BATCH = 1_000_000


@dataclass(frozen=True, repr=False, eq=False)
class Draws(Mapping[str, np.ndarray]):
    """Draws of a model's variables: a mapping from the model's names to arrays (S, ...).

    Attributes
    ----------
    objective : Objective
        The model and its data.
    unconstrained : dict of str to ndarray
        By value-variable name, each (S, ...).
    n_chains : int
        Of equal length, one after the other.
    """

    objective: Objective = field(repr=False)
    unconstrained: dict[str, np.ndarray]
    n_chains: int = field(default=1, kw_only=True)

    @property
    def n_draws(self) -> int:
        """S, of all chains together."""
        return len(next(iter(self.unconstrained.values())))

    @cached_property
    def values_by_name(self) -> dict[str, np.ndarray]:
        """Free variables and deterministics, each (S, ...)."""
        model = self.objective.model
        variables = [*model.free_RVs, *model.deterministics]
        return dict(zip((v.name for v in variables), self.evaluate(variables), strict=True))

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.values_by_name[name]
        except KeyError:
            raise KeyError(f"{name!r} is not in these draws, which have {', '.join(self)}.") from None

    def __iter__(self) -> Iterator[str]:
        model = self.objective.model
        return iter(v.name for v in [*model.free_RVs, *model.deterministics])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def evaluate(self, expression: Any) -> Any:
        """Compute any tensor of the model for every draw.

        Parameters
        ----------
        expression : TensorVariable, or sequence of them
            In terms of the model's variables; observed variables stand for their data.

        Returns
        -------
        ndarray (S, ...), or list of them

        Raises
        ------
        ValueError
            If the expression draws random numbers of its own.
        """
        expressions: list[Any] = [expression] if isinstance(expression, Variable) else list(expression)
        results = evaluate_draws(
            self.objective, self.unconstrained, self.objective.model.replace_rvs_by_values(expressions)
        )
        return results[0] if isinstance(expression, Variable) else results

    def log_likelihood(self) -> dict[str, np.ndarray]:
        """Return the log likelihood of each observation for every draw, (S, ...), by observed variable."""
        observed = self.objective.model.observed_RVs
        terms: Any = self.objective.model.logp(vars=observed, sum=False)
        return dict(
            zip((v.name for v in observed), evaluate_draws(self.objective, self.unconstrained, terms), strict=True)
        )

    def to_datatree(self, *, log_likelihood: bool = False) -> xr.DataTree:
        """Return the draws as an ArviZ DataTree.

        Parameters
        ----------
        log_likelihood : bool
            Add the group that ``az.loo`` needs: a number for each draw and observation.

        Returns
        -------
        xarray.DataTree
            Groups ``posterior``, ``unconstrained_posterior``, ``observed_data``, ``constant_data``, and
            ``log_likelihood`` if asked for.
        """
        held = {"posterior": dict(self), "unconstrained_posterior": self.unconstrained}
        if log_likelihood:
            held["log_likelihood"] = self.log_likelihood()
        chains = {group: {n: self._split(a) for n, a in arrays.items()} for group, arrays in held.items()}
        return xr.DataTree.from_dict(describe_draws(self.objective, chains))

    def _split(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array).reshape(self.n_chains, -1, *array.shape[1:])


def evaluate_draws(objective: Objective, unconstrained: Mapping[str, np.ndarray], outputs: Any) -> list[np.ndarray]:
    """Compute tensors for many draws at once, on the device.

    Parameters
    ----------
    objective : Objective
    unconstrained : dict of ndarray, each (S, ...)
    outputs : sequence of TensorVariable
        In terms of the model's value variables.

    Returns
    -------
    list of ndarray, each (S, ...)
    """
    graph = lift(objective.model, outputs, freeze=objective.program.freeze)
    if graph.generators:
        raise ValueError(
            "The expression draws random numbers, which are not of the draws. "
            "Use pm.sample_posterior_predictive(draws.to_datatree()) for predictions."
        )
    function = translate(graph.inputs, graph.outputs, on_host=set())
    data = list(objective.values_of(graph).values())
    results = map_draws(
        lambda params, *data: tuple(function(*(params[p.name] for p in graph.parameters), *data)), unconstrained, *data
    )
    return [np.asarray(r) for r in results]


def map_draws(function: Callable[..., Any], draws: Mapping[str, np.ndarray], *data: Any) -> Any:
    """Call a JAX function of (parameters, data) for each draw, as many at once as fit.

    Parameters
    ----------
    function : callable
    draws : dict of ndarray, each (S, ...)
    *data : arrays

    Returns
    -------
    pytree of arrays, each (S, ...)
    """
    first = {name: stack[0] for name, stack in draws.items()}
    made = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(function, first, *data)))
    size = int(np.clip(NUMBERS_OF_BATCH // max(made, 1), 1, len(next(iter(draws.values())))))
    return jax.jit(lambda d, *a: jax.lax.map(lambda p: function(p, *a), d, batch_size=size))(dict(draws), *data)
