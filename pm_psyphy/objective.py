"""A Program and data in; an Objective comes out: negative log posterior and gradient as functions of parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm

from pm_psyphy.graph import LiftedGraph, compile_checks, read_data
from pm_psyphy.program import (
    Params,
    Program,
    build_constrain,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Objective:
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
        What the model holds: `pm.Data` and observed arrays by their names, dim lengths, large constants.
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

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}{list(np.shape(value))}" for name, value in self.start.items())
        held = ", ".join(f"{name}{list(np.shape(value))}" for name, value in self.data.items())
        return f"Objective(route={self.route!r}, parameters: {sizes}; data: {held or 'none'})"

    @property
    def route(self) -> str:
        """Where the gradient comes from."""
        return self.program.route

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

    def constrain(self, params: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Return the model's own variables and deterministics at unconstrained parameters.

        Parameters
        ----------
        params : dict of str to array
            Unconstrained values by value-variable name, shaped as `start`.

        Returns
        -------
        dict of str to jax.Array
            One entry for each free variable and each deterministic, by the user's names.
        """
        function, graph = self.find_constrain()
        values = function(self._check(params), self.values_of(graph))
        return {v.name: values[v.name] for v in [*self.model.free_RVs, *self.model.deterministics]}

    def find_constrain(self) -> tuple[Callable[[Params, Any], Params], LiftedGraph]:
        """Return the function of parameters and data behind `constrain`, compiled once, and its graph."""
        key = "constrain", tuple(v.name for v in self.model.deterministics)
        return self.program.remember(key, lambda: build_constrain(self.model, self.program.freeze))

    def values_of(self, graph: LiftedGraph) -> dict[str, Any]:
        """Return the data of another graph of the same model, as this objective holds them.

        Parameters
        ----------
        graph : LiftedGraph

        Returns
        -------
        dict of str to array
        """
        ours = self.names_in(graph)
        return read_data({n: s for n, s in graph.sources.items() if n not in ours}) | {
            name: self.data[own] for name, own in ours.items()
        }

    def names_in(self, graph: LiftedGraph) -> dict[str, str]:
        """Return what this objective calls the data of another graph of the same model, where it holds them."""
        ours = {id(source): name for name, source in self.program.graph.sources.items()}
        return {name: ours[id(source)] for name, source in graph.sources.items() if id(source) in ours}

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
            if name in self.program.graph.frozen:
                raise ValueError(
                    f"{name!r} decides a shape and is part of the compiled program. "
                    "Use pm.set_data on the model and compile_objective again."
                )
            if name not in self.data:
                raise ValueError(f"{name!r} is no data of this model. It has {', '.join(self.data) or 'none'}.")
        values = {name: jax.device_put(self.convert(name, array)) for name, array in arrays.items()}
        for name, array in list(values.items()):
            for dim, length in zip(self.model.named_vars_to_dims.get(name) or (), array.shape, strict=False):
                if dim in self.data:
                    values[dim] = jnp.asarray(length, self.data[dim].dtype)
        rebound = replace(self, data=self.data | values)
        if any(jnp.shape(self.data[name]) != jnp.shape(value) for name, value in values.items()):
            _check_shapes(rebound, {name: np.shape(array) for name, array in arrays.items()})
        check_data(self.program, self.data | values)
        return rebound

    def compile(
        self,
        shapes: Mapping[str, Sequence[int]] | None = None,
        *,
        optimizer: Any = None,
        learning_rate: Any = None,
        momentum: float | None = None,
        starts: int = 1,
        device: str | None = None,
    ) -> None:
        """Compile what `find_map` runs on data of some shapes, before there are any.

        A fit of the model with these settings compiles nothing then; nor does one in another process, if both have
        called `cache_compilation` first. With `batch_size` and `shard` other programs run, which are not compiled here.

        Parameters
        ----------
        shapes : dict of str to tuple of int, optional
            By the names of the data. Default, also for those that are not named: the shapes of the data it has.
        optimizer, learning_rate, momentum, starts, device
            As of `find_map`.

        Raises
        ------
        ValueError
            If a name is unknown, or the shapes do not fit the model.
        """
        from pm_psyphy.fit import compile_fit

        arrays = {name: np.resize(np.asarray(self.data.get(name, 0)), shape) for name, shape in (shapes or {}).items()}
        settings = {"optimizer": optimizer, "learning_rate": learning_rate, "momentum": momentum}
        compile_fit(self.with_data(**arrays), starts=starts, device=device, **settings)

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
        given = np.asarray(array)
        own_shape = given.shape[stacked:]
        if given.ndim != expected.ndim + stacked or any(
            n not in (None, m) for n, m in zip(expected.shape, own_shape, strict=True)
        ):
            wanted = tuple(np.shape(self.data[name]))
            raise ValueError(
                f"{name!r} was given with shape {own_shape}, the model has {wanted}. "
                "Pass the same shape, or declare it with pm.Data, whose lengths may change."
            )
        if (
            expected.dtype.startswith(("int", "uint"))
            and given.dtype.kind == "f"
            and not np.all(given == np.round(given))
        ):
            raise ValueError(f"{name!r} was given with fractions, the model has {expected.dtype}. Pass whole numbers.")
        return given.astype(expected.dtype, copy=False)

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


def check_data(program: Program, data: Mapping[str, Any]) -> None:
    """Raise what the model asserts of its data, and ValueError for indices beyond their axis; JAX would do neither."""
    checked = program.compiled.setdefault("checked", {})
    changed = {name for name, values in data.items() if checked.get(name) is not values}
    for name in changed & program.index_limits.keys():
        _check_indices(name, data[name], program.index_limits[name])
    for op, names, function in program.remember("checks", lambda: compile_checks(program.graph)):
        is_new = not names or changed.intersection(names)
        if is_new and not all(np.all(condition) for condition in function(*(np.asarray(data[n]) for n in names))):
            raise op.exc_type(op.msg)
    checked.update(data)


def _check_indices(name: str, indices: Any, length: int) -> None:
    if not np.size(indices):
        return
    low, high = np.min(indices), np.max(indices)
    if high >= length or low < -length:
        raise ValueError(
            f"{name!r} holds {high if high >= length else low} and indexes an axis of length {length}. "
            f"Indices run from 0 to {length - 1}."
        )


def _check_shapes(objective: Objective, given: dict[str, tuple[int, ...]]) -> None:
    try:
        jax.eval_shape(objective.program.value, objective.start, objective.data, jax.random.key(0))
    except Exception as error:
        shapes = ", ".join(f"{name}{list(shape)}" for name, shape in given.items())
        raise ValueError(
            f"The new shapes do not fit the model: {shapes}. Pass every array that shares the changed length. ({error})"
        ) from error
