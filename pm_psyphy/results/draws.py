"""Unconstrained draws in; the user's variables, any expression of them and a DataTree come out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from pytensor.graph.basic import Constant, Variable

from pm_psyphy.common.identity import ByIdentity
from pm_psyphy.common.tables import ShownAsTable, Table, abridge
from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.compiling.model_graph import LiftedGraph, lift
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import call_by_name
from pm_psyphy.results.datatree import describe_draws

# So many numbers a batch of draws may make at once.
NUMBERS_OF_BATCH = 1_000_000
# So many expressions stay compiled for a model.
MOST_EXPRESSIONS = 32


@dataclass(frozen=True, repr=False, eq=False)
class Draws(ShownAsTable, ByIdentity, Mapping[str, np.ndarray]):
    """Draws of a model's variables: a mapping from the model's names to arrays (S, ...).

    Attributes
    ----------
    objective : Objective
        The model and its data.
    unconstrained : dict of str to ndarray
        By value-variable name, each (S, ...).
    n_chains : int
        Chains of equal length, one after the other.
    own : dict of str to ndarray
        Data that differ among the draws, (S, ...), for example when each draw belongs to another data set.
    """

    objective: Objective = field(repr=False)
    unconstrained: dict[str, np.ndarray]
    n_chains: int = field(default=1, kw_only=True)
    own: dict[str, np.ndarray] = field(default_factory=dict, kw_only=True, repr=False)

    def _tabulate(self) -> Table:
        return Table(
            f"{type(self).__name__}: {self.n_draws:,} draws, mean ± standard deviation",
            [(name, f"{abridge(v.mean(axis=0))} ± {abridge(v.std(axis=0))}") for name, v in self.items()],
        )

    @classmethod
    def from_datatree(cls, objective: Objective, tree: xr.DataTree) -> "Draws":
        """Read draws back from a tree of `sample` or of `to_datatree`, to evaluate expressions of them.

        Parameters
        ----------
        objective : Objective
            As a fit holds it: ``fit.objective``.
        tree : DataTree
            With the group ``unconstrained_posterior``.
        """
        if "unconstrained_posterior" not in tree.children:
            raise ValueError(
                f"The tree has the groups {', '.join(tree.children)}, and no unconstrained_posterior. Pass one of "
                "sample or of to_datatree."
            )
        group = tree["unconstrained_posterior"].dataset
        arrays = {name: group[name].to_numpy() for name in objective.start}
        if "chain" not in group.sizes:
            return cls(objective, arrays)
        return cls(
            objective, {n: a.reshape(-1, *a.shape[2:]) for n, a in arrays.items()}, n_chains=group.sizes["chain"]
        )

    @property
    def n_draws(self) -> int:
        """S, of all chains together."""
        return len(next(iter(self.unconstrained.values())))

    @cached_property
    def values_by_name(self) -> dict[str, np.ndarray]:
        """Free variables and deterministics, each (S, ...)."""
        names = self.objective.list_names()
        found = self.objective.find_constrain(names)
        run = self.objective.program.remember(("draws", found.function), lambda: over_draws(found.function))
        values = {name: np.asarray(values) for name, values in self._run(run, found.graph).items()}
        on_host = dict(zip(found.on_host, self._compute_on_host(found.on_host), strict=True))
        return {name: (values | on_host)[name] for name in names}

    def _compute_on_host(self, names: Sequence[str]) -> list[np.ndarray]:
        """Compute what JAX cannot, draw by draw; where shapes differ among draws, as arrays of objects."""
        if not names:
            return []
        columns: list[list[np.ndarray]] = [[] for _ in names]
        for i in range(self.n_draws):
            own = {name: stack[i] for name, stack in self.own.items()}
            objective = replace(self.objective, data=self.objective.data | own)
            point = {name: stack[i] for name, stack in self.unconstrained.items()}
            for column, value in zip(columns, objective.evaluate(point, names), strict=True):
                column.append(value)
        return [_stack_ragged(column) for column in columns]

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
        model = self.objective.model
        key = tuple(e.signature() if isinstance(e, Constant) else e for e in expressions)
        results = self._compute(key, lambda: model.replace_rvs_by_values(expressions))
        return results[0] if isinstance(expression, Variable) else results

    def log_likelihood(self) -> dict[str, np.ndarray]:
        """Return the log likelihood of each observation for every draw, (S, ...), by observed variable."""
        model = self.objective.model
        observed = tuple(model.observed_RVs)
        if not observed:
            return {}
        terms = self._compute(("log likelihood", *observed), lambda: model.logp(vars=list(observed), sum=False))
        return dict(zip((v.name for v in observed), terms, strict=True))

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
        return xr.DataTree.from_dict(self._describe(log_likelihood))

    def save(self, path: str | Path) -> None:
        """Save `to_datatree` as netCDF; `load` reads it, and so does ``xarray.open_datatree``.

        Parameters
        ----------
        path : path
        """
        self.to_datatree().to_netcdf(path)

    def describe_along(self, dim: str, *, log_likelihood: bool = False) -> dict[str, xr.Dataset]:
        """Return the groups of `to_datatree` with one dim in place of chains and draws.

        Parameters
        ----------
        dim : str
        log_likelihood : bool

        Returns
        -------
        dict of xarray.Dataset
        """
        return {
            name: group.squeeze("chain", drop=True).rename(draw=dim).drop_vars(dim) if "draw" in group.dims else group
            for name, group in self._describe(log_likelihood).items()
        }

    def _describe(self, log_likelihood: bool) -> dict[str, xr.Dataset]:
        held = {"posterior": dict(self), "unconstrained_posterior": self.unconstrained}
        if log_likelihood:
            held["log_likelihood"] = self.log_likelihood()
        chains = {group: {n: self._split(a) for n, a in arrays.items()} for group, arrays in held.items()}
        return describe_draws(self.objective, chains)

    def _compute(self, key: tuple, write: Callable[[], Any]) -> list[np.ndarray]:
        """Compute what `write` writes in terms of the model's value variables, for every draw."""
        program = self.objective.program

        def compile_graph():
            graph = lift(self.objective.model, write(), freeze=program.freeze, values=program.frozen)
            if graph.generators:
                raise ValueError(
                    "The expression draws random numbers, which are not of the draws. "
                    "Use pm.sample_posterior_predictive(draws.to_datatree()) for predictions."
                )
            function = call_by_name(translate(graph.inputs, graph.outputs, on_host=set()), graph, list)
            return graph, lambda params, data: function(params, data, None)

        # An expression that is written anew at each call is new each time; only so many are kept.
        kept = program.remember("expressions", dict)
        if key not in kept:
            graph, compute = compile_graph()
            if len(kept) == MOST_EXPRESSIONS:
                del kept[next(iter(kept))]
            kept[key] = graph, over_draws(compute)
        graph, run = kept[key]
        return [np.asarray(values) for values in self._run(run, graph)]

    def _run(self, run: Callable[..., Any], graph: LiftedGraph) -> Any:
        own = {n: self.own[name] for n, name in self.objective.names_in(graph).items() if name in self.own}
        return run(self.unconstrained, self.objective.values_of(graph), own)

    def _split(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array).reshape(self.n_chains, -1, *array.shape[1:])


def _stack_ragged(arrays: list[np.ndarray]) -> np.ndarray:
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    stack = np.empty(len(arrays), object)
    stack[:] = arrays
    return stack


def over_draws(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function that calls one of (parameters, data) for each draw, as many at once as fit.

    Parameters
    ----------
    function : callable
        A function of parameters by name and data, in JAX.

    Returns
    -------
    callable
        A function of draws of the parameters, each (S, ...), data, and data that differ among the draws, each
        (S, ...). Its results are (S, ...).
    """

    @jax.jit
    def run(draws, data, own=None):
        def call(both):
            params, theirs = both
            return function(params, data | theirs)

        first = jax.tree.map(lambda stack: stack[0], (draws, own or {}))
        made = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(call, first)))
        n_draws = len(next(iter(draws.values())))
        size = int(np.clip(NUMBERS_OF_BATCH // max(made, 1), 1, n_draws))
        return jax.lax.map(call, (draws, own or {}), batch_size=size)

    return run
