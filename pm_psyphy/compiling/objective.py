"""A Program and data in; an Objective comes out: negative log posterior and gradient as functions of parameters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import pymc as pm
import pytensor
from pytensor.graph.traversal import ancestors

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.identity import ByIdentity
from pm_psyphy.common.row_function import RUN_ONCE, RowFunction
from pm_psyphy.compiling.constrain import Constrain, build_constrain
from pm_psyphy.compiling.jax_linker import IndexLimit
from pm_psyphy.compiling.model_graph import OWN, LiftedGraph, compile_checks, lift, read_data
from pm_psyphy.compiling.placing import place
from pm_psyphy.compiling.program import Params, Program, list_shapes, trace


class Coords(dict[str, tuple]):
    """Labels of dims, as they were. To JAX, which compiles nothing for labels, all of them are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coords)

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(Coords)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Objective(ByIdentity):
    """Negative log posterior of a model, its gradient, and the data they are evaluated on.

    Parameters live in PyMC's unconstrained space: dicts from value-variable names (``"sigma_log__"``) to arrays, as
    ``model.initial_point()`` gives. With ``jacobian=False``, the default, the value is the density of the user's own
    variables, whose mode is the MAP estimate of `pm.find_MAP`; with ``jacobian=True`` it is the density in the
    unconstrained space, which Laplace approximations and samplers need.

    An Objective is a JAX pytree with the leaves `start` and `data`: pass it to your own jitted function as an
    argument, and new data of the same shape compile nothing.

    Attributes
    ----------
    model : pm.Model
    start : dict of str to ndarray
        Where a fit starts: the model's initial point, unconstrained.
    data : dict of str to jax.Array
        What the model held: `pm.Data` and observed arrays by their names, dim lengths, large constants. Nothing that
        is done to the model or its arrays later changes them.
    coords : dict of str to tuple
        The labels of its dims then.
    device : jax.Device or None
        Where it is computed.
    route : str
        Where the gradient comes from. ``"pytensor"``: PyTensor's gradient, compiled to JAX. ``"jax"``: JAX's own
        gradient of the compiled graph. ``"callback"``: as the first, with ops that JAX lacks run on the host. Each
        of them with ``"-frozen"``: data that decide shapes stay inside the program.
    stochastic : bool
        Whether the loss draws random numbers (`pm.Minibatch`); it then needs a fresh ``key`` at each call.
    """

    model: pm.Model = field(metadata={"static": True})
    program: Program = field(metadata={"static": True}, repr=False)
    start: dict[str, np.ndarray]
    data: dict[str, jax.Array]
    coords: Coords = field(metadata={"static": True}, repr=False, default_factory=Coords)
    device: Any = field(metadata={"static": True}, repr=False, default=None)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}{list(np.shape(value))}" for name, value in self.start.items())
        shown = {name: np.shape(array) for name, array in self.data.items() if not name.startswith(OWN)}
        held = ", ".join(f"{name}{list(shape)}" for name, shape in shown.items())
        return f"Objective(route={self.route!r}, parameters: {sizes}; data: {held or 'none'})"

    @property
    def route(self) -> str:
        """Where the gradient comes from."""
        return self.program.route

    @property
    def row_code(self) -> dict[str, str]:
        """What computes each likelihood of rows on the CPU: machine code, or XLA, and then why."""
        roots = [*self.model.basic_RVs, *self.model.potentials]
        ops = [v.owner.op for v in ancestors(roots) if v.owner is not None and isinstance(v.owner.op, RowFunction)]
        return {op.maker[0].__name__: op.describe_road() for op in ops}

    @property
    def stochastic(self) -> bool:
        """Whether the loss draws random numbers."""
        return self.program.stochastic

    def value(self, params: Mapping[str, Any], key: Any = None) -> jax.Array:
        """Return the negative log posterior at unconstrained parameters.

        Parameters
        ----------
        params : dict of str to array
            Unconstrained values by value-variable name, shaped as `start`.
        key : jax.Array, optional
            JAX random key, needed by a stochastic objective.

        Returns
        -------
        jax.Array
            A scalar.
        """
        return self.program.jitted_value(self._check(params), self.data, self._check_key(key))

    def value_and_grad(self, params: Mapping[str, Any], key: Any = None) -> tuple[jax.Array, Params]:
        """Return the negative log posterior and its gradient at unconstrained parameters.

        Parameters
        ----------
        params : dict of str to array
            Unconstrained values by value-variable name, shaped as `start`.
        key : jax.Array, optional
            JAX random key, needed by a stochastic objective.

        Returns
        -------
        loss : jax.Array
            A scalar.
        grads : dict of str to jax.Array
            Shaped as `params`.
        """
        return self.program.jitted_value_and_grad(self._check(params), self.data, self._check_key(key))

    def constrain(self, params: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the model's own variables and deterministics at unconstrained parameters.

        Parameters
        ----------
        params : dict of str to array
            Unconstrained values by value-variable name, shaped as `start`.
        names : sequence of str, optional
            Names of the variables wanted. Default: all.

        Returns
        -------
        dict of str to jax.Array
            One entry for each free variable and each deterministic, by the user's names. What JAX cannot compute, as
            where a shape depends on values, is NumPy's.
        """
        names = self.list_names() if names is None else list(names)
        if not names:
            return {}
        found = self.find_constrain(names)
        values = dict(found.function(self._check(params), self.values_of(found.graph)))
        if found.on_host:
            values |= dict(zip(found.on_host, self.evaluate(params, found.on_host), strict=True))
        return {name: values[name] for name in names}

    def list_names(self) -> list[str]:
        """Return the names of the model's free variables and deterministics."""
        return [v.name for v in [*self.model.free_RVs, *self.model.deterministics]]

    def find_constrain(self, names: Sequence[str]) -> Constrain:
        """Return what computes variables by their names, compiled once for all data that it does not hold itself."""
        kept = self.program.remember(("constrain", *names), list)
        values = self.values
        for found in kept:
            baked = {str(i): source for i, (source, _) in enumerate(found.graph.baked)}
            present = read_data(baked, values).values()
            if all(np.array_equal(a, b) for a, (_, b) in zip(present, found.graph.baked, strict=True)):
                return found
        kept.append(build_constrain(self.model, names, self.program.freeze, values, self.start))
        return kept[-1]

    def evaluate(self, params: Mapping[str, Any], expressions: Sequence[Any]) -> list[np.ndarray]:
        """Compute variables of the model, by name, or any tensors of them, on the host.

        Parameters
        ----------
        params : dict of str to array
            Unconstrained values by value-variable name.
        expressions : sequence of str or TensorVariable

        Returns
        -------
        list of ndarray

        Raises
        ------
        ValueError
            If an expression draws random numbers of its own.
        """
        variables = [self.model[e] if isinstance(e, str) else e for e in expressions]
        graph = lift(self.model, self.model.replace_rvs_by_values(variables))
        if graph.generators:
            raise ValueError(
                "The expression draws random numbers, which have no single value at the estimate. "
                "Use pm.sample_posterior_predictive(fit.to_datatree()) for predictions."
            )
        held = self.values_of(graph)
        # An expression is computed once: to compile it for speed would cost more than it saves.
        function: Any = pytensor.function(graph.inputs, graph.outputs, mode=RUN_ONCE, on_unused_input="ignore")
        return function(*(params[p.name] for p in graph.parameters), *(np.asarray(held[name]) for name in graph.data))

    def values_of(self, graph: LiftedGraph) -> dict[str, Any]:
        """Return the data of another graph of the same model, as this objective holds them.

        Parameters
        ----------
        graph : LiftedGraph

        Returns
        -------
        dict of str to array
        """
        return read_data(graph.sources, self.values)

    @property
    def values(self) -> dict[Any, Any]:
        """The data by the shared variable or constant that held them, and those that are part of the program."""
        return self.program.frozen | {v: self.data[name] for name, v in self.program.graph.sources.items()}

    def names_in(self, graph: LiftedGraph) -> dict[str, str]:
        """Return what this objective calls the data of another graph of the same model, where it holds them."""
        ours = {source: name for name, source in self.program.graph.sources.items()}
        return {name: ours[source] for name, source in graph.sources.items() if source in ours}

    def with_data(self, **arrays: Any) -> "Objective":
        """Return the same objective on other data, without compiling.

        Parameters
        ----------
        **arrays : array
            New values by name: of `pm.Data`, or of a variable that was observed as a plain array. Lengths may change
            where the model allows it; the number of dimensions may not.

        Returns
        -------
        Objective

        Raises
        ------
        ValueError
            If a name is unknown or part of the program, or the shapes do not fit the model.
        """
        for name in arrays:
            if name in {source.name for source in self.program.frozen}:
                raise ValueError(
                    f"{name!r} decides a shape and is part of the compiled program. "
                    "Use pm.set_data on the model and compile_objective again."
                )
            if name not in self.data:
                known = ", ".join(name for name in self.data if not name.startswith(OWN))
                raise ValueError(f"{name!r} is no data of this model. It has {known or 'none'}.")
        values = {name: place(self.convert(name, array), self.device) for name, array in arrays.items()}
        rebound = replace(self, data=self.data | self._follow_lengths(values))
        check_data(rebound, {name: np.shape(array) for name, array in arrays.items()})
        return rebound

    def replace_data(self, arrays: Mapping[str, Any]) -> "Objective":
        """Return the objective with other data, of which the log density need not make sense: to predict.

        Parameters
        ----------
        arrays : dict of str to array
            By the names of `pm.Data`. Lengths of dims follow.

        Returns
        -------
        Objective
        """
        known = {v.name for v in self.model.data_vars} & self.data.keys()
        for name in arrays:
            if name not in known:
                raise ValueError(f"{name!r} is no data of this model. It has {', '.join(sorted(known)) or 'none'}.")
        values = {name: place(self.convert(name, array), self.device) for name, array in arrays.items()}
        return replace(self, data=self.data | self._follow_lengths(values))

    def find_changed(self, expressions: Sequence[Any]) -> list[str]:
        """Return the names of `pm.Data` whose values the model has changed since, of those that expressions need."""
        needed = set(ancestors(expressions, blockers=self.model.free_RVs))
        # Observed variables stand for their data.
        needed |= set(ancestors([self.model.rvs_to_values[rv] for rv in self.model.observed_RVs if rv in needed]))
        own = {v.name: v for v in self.model.data_vars if v.name in self.data and v in needed}
        present = read_data(own)
        return [name for name in own if not _are_equal(present[name], np.asarray(self.data[name]))]

    def _follow_lengths(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add the lengths of the dims that new values have."""
        lengths = {}
        for name, array in values.items():
            for dim, length in zip(self.model.named_vars_to_dims.get(name) or (), array.shape, strict=False):
                if dim in self.data and dim not in values:
                    lengths[dim] = place(np.asarray(length, self.data[dim].dtype), self.device)
        return values | lengths

    def convert(self, name: str, array: Any, *, stacked: bool = False) -> np.ndarray:
        """Return new data of the model's type, checked; a stack of them has a leading axis more.

        Parameters
        ----------
        name : str
        array : array
        stacked : bool

        Returns
        -------
        ndarray
        """
        expected = self.program.graph.data[name].type
        dims = self.model.named_vars_to_dims.get(name)
        given = read_array(name, array, dims=None if stacked else dims)
        own_shape = given.shape[stacked:]
        if given.ndim != expected.ndim + stacked or any(
            n not in (None, m) for n, m in zip(expected.shape, own_shape, strict=True)
        ):
            wanted = tuple(np.shape(self.data[name]))
            raise ValueError(
                f"{name!r} was given with shape {own_shape}, the model has {wanted}. "
                "Pass the same shape, or declare it with pm.Data, whose lengths may change."
            )
        if not given.size and np.size(self.data[name]):
            raise ValueError(f"{name!r} was given without any row. Pass at least one.")
        return convert_array(name, given, expected.dtype)

    def _check(self, params: Mapping[str, Any]) -> Params:
        if set(params) != set(self.start):
            raise ValueError(
                f"Parameters are named {', '.join(params) or 'nothing'}, expected {', '.join(self.start)}. "
                "Pass a dict of unconstrained values, as `objective.start`."
            )
        return dict(params)

    def _check_key(self, key: Any) -> Any:
        if self.stochastic and key is None:
            raise ValueError(
                "This objective draws random numbers. Pass a fresh key, as jax.random.key(0), at each call."
            )
        return key


def _are_equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


def check_data(objective: Objective, given: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Raise if the data of an objective do not fit its model.

    JAX would take the last element for an index that is out of range, and drops assertions.

    Parameters
    ----------
    objective : Objective
    given : dict of str to tuple of int, optional
        The shapes of what is new among the data.

    Raises
    ------
    ValueError
        If lengths do not fit each other, or indices are beyond their axis.
    Exception
        Whatever the model asserts of its data.
    """
    program, data = objective.program, objective.data
    try:
        trace(program, objective.start, data)
    except Exception as error:
        shapes = {name: np.shape(array) for name, array in data.items() if np.ndim(array) and not name.startswith(OWN)}
        held = ", ".join(f"{name} {shape}" for name, shape in (given or shapes).items())
        raise ValueError(
            f"The shapes of the data do not fit the model: {held}. Give every array that shares a changed length its "
            f"new one. ({error})"
        ) from error
    check_values(objective, data)


def check_values(objective: Objective, data: Mapping[str, Any], changed: Collection[str] | None = None) -> None:
    """Raise if data, of shapes that fit, hold indices that do not, or what the model asserts is not so.

    Parameters
    ----------
    objective : Objective
    data : dict of str to array
        In place of the objective's own.
    changed : collection of str, optional
        What has changed since the last look; the rest is taken to be right.
    """
    check_limits(objective, data)
    for op, names, function in objective.program.remember("checks", lambda: compile_checks(objective.program.graph)):
        is_settled = changed is not None and not any(n in changed for n in names)
        if not is_settled and not all(np.all(found) for found in function(*(np.asarray(data[n]) for n in names))):
            raise op.exc_type(op.msg)


def check_limits(objective: Objective, arrays: Mapping[str, Any], first: int = 0) -> None:
    """Raise if indices are beyond their axis, of those that follow from these arrays; `first` is their first row."""
    for limit in objective.program.compiled.index_limits.get(list_shapes(objective.start, objective.data), []):
        if all(name in arrays for name in limit.names):
            _check_indices(limit, limit.find(arrays), first)


def _check_indices(limit: IndexLimit, indices: Any, first: int) -> None:
    indices = np.asarray(indices)
    wrong = np.argwhere((indices >= limit.length) | (indices < -limit.length))
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        what = " and ".join(map(repr, limit.names)) or "An array of the model"
        where = f" at row {first + at[0]}" if len(at) == 1 else ""
        raise ValueError(
            f"{what} holds or gives the index {indices[at]}{where}, into an axis of length {limit.length}. "
            f"Indices run from 0 to {limit.length - 1}."
        )
