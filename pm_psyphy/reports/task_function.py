"""A task and a field in; a compiled function of pairs of stimuli and of draws of their variables comes out."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytensor
import xarray as xr
from pymc.distributions.distribution import SymbolicRandomVariable
from pytensor.graph.basic import Constant, equal_computations
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs, toposort, walk
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.row_function import RUN_ONCE
from pm_psyphy.compiling.jax_linker import translate
from pm_psyphy.psychophysics.tensor import pt, read_known
from pm_psyphy.psychophysics.wishart import WishartProcess
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult

# A call computes so many groups of so many pairs, each of one draw. All calls have this shape and share a compilation.
GROUPS, PAIRS = 32, 64
# So many tasks stay compiled.
MOST_TASKS = 32

_compiled: list[tuple["_Task", Callable[..., Any]]] = []
# Tasks of this package, which are the same at each call.
_written: dict[Any, "_Task"] = {}


@dataclass(frozen=True, eq=False)
class TaskFunction:
    """The log-odds of a task, and the covariances of a field, for S draws.

    Attributes
    ----------
    run : callable
        Takes the arrays of a group of pairs for each of G draws.
    varying : list of ndarray, (S, ...)
        Weights of the field, its diag_term, and what else the task takes from the model.
    fixed : list of ndarray
        What the task takes from data.
    floatx : str
    """

    run: Callable[..., Any]
    varying: list[np.ndarray]
    fixed: list[np.ndarray]
    floatx: str

    @property
    def n_draws(self) -> int:
        """S."""
        return len(self.varying[0])

    def __call__(self, draw: np.ndarray, reference: np.ndarray, comparison: np.ndarray) -> np.ndarray:
        """Compute log-odds.

        Parameters
        ----------
        draw : ndarray of int, (P,)
            The draw of each pair, in ascending order.
        reference, comparison : ndarray, (P, D)

        Returns
        -------
        ndarray, (P,)
        """
        log_odds = np.empty(len(draw))
        for chosen, found in self._run_groups(draw, reference, comparison):
            log_odds[chosen] = found[0]
        return log_odds

    def find_covariances(self, draw: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Compute the field at points, (P, D, D); see above."""
        covariances = np.empty((*reference.shape, reference.shape[1]))
        for chosen, found in self._run_groups(draw, reference, reference):
            covariances[chosen] = found[1]
        return covariances

    def _run_groups(self, draw, reference, comparison) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield the numbers of pairs, (GROUPS, PAIRS), and what was computed for them."""
        of_group, index = _group_pairs(draw)
        stimuli = [np.clip(points, -1, 1).astype(self.floatx) for points in (reference, comparison)]
        for first in range(0, len(of_group), GROUPS):
            # The last call repeats its last group.
            part = np.minimum(np.arange(first, first + GROUPS), len(of_group) - 1)
            chosen = index[part]
            pairs = (points[chosen] for points in stimuli)
            yield chosen, self.run(*pairs, *(v[of_group[part]] for v in self.varying), *self.fixed)


@dataclass(frozen=True, eq=False)
class _Task:
    """What the graph of a task takes, in the order of its inputs."""

    inputs: list[Any]
    outputs: list[Any]
    varying: list[Any]
    """Variables of a model."""
    fixed: list[Any]
    """Data, and what follows from data alone."""
    floatx: str


def compile_task(task: Callable[[Any, Any, Any], Any], field: WishartProcess, fit: Any) -> tuple[TaskFunction, bool]:
    """Return the compiled task with its arrays, and whether there are draws.

    Parameters
    ----------
    task : callable
        Takes field, reference and comparison, returns log-odds.
    field : WishartProcess
    fit : MAPResult, Draws, DataTree, mapping of str to array, or None
        Where weights, and variables that the task uses, come from.

    Raises
    ------
    ValueError
        If values of variables are missing, or the task draws random numbers.
    """
    _check_field(field)
    # Where draws have data of their own, what follows from data differs among them, too.
    written = _write_task(task, field, all_vary=isinstance(fit, Draws) and bool(fit.own))
    run = _find_compiled(written)
    own = [pt.as_tensor(field.weights), pt.as_tensor(field.diag_term)]
    varying, fixed, has_draws = _read_values(fit, [*own, *written.varying], written.fixed)
    arrays = [np.asarray(value, v.dtype) for value, v in zip(varying, written.inputs[2:], strict=False)]
    return TaskFunction(run, arrays, [np.asarray(value) for value in fixed], written.floatx), has_draws


def _group_pairs(draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the draw of each group, (G,), and which pairs it holds, (G, PAIRS); the last one of a draw repeats."""
    draws, start, count = np.unique(draw, return_index=True, return_counts=True)
    n_groups = -(-count // PAIRS)
    which = np.repeat(np.arange(len(draws)), n_groups)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(n_groups) - n_groups, n_groups)
    within = np.minimum(nth[:, None] * PAIRS + np.arange(PAIRS), count[which][:, None] - 1)
    return draws[which], start[which][:, None] + within


def _check_field(field: WishartProcess) -> None:
    if field.weights.ndim != field.input_dim + 2:
        raise ValueError(
            f"The weights of {field.name!r} have {field.weights.ndim} axes, one field has {field.input_dim + 2}. "
            "Declare a WishartProcess with the weights of one observer."
        )
    if pt.as_tensor(field.diag_term).ndim:
        raise ValueError(f"The diag_term of {field.name!r} has one number for each point. Pass a field that has one.")


def _write_task(task: Callable[[Any, Any, Any], Any], field: WishartProcess, *, all_vary: bool) -> _Task:
    """Return a task as a graph; of one's own tasks anew each time, for what they refer to may have changed."""
    if getattr(task, "__module__", "").partition(".")[0] != __package__:
        return _write_anew(task, field, all_vary=all_vary)
    key = task, field.input_dim, field.basis_degree, field.extra_dims, pytensor.config.floatX
    if key not in _written:
        _written[key] = _write_anew(task, field, all_vary=all_vary)
    return _written[key]


def _write_anew(task: Callable[[Any, Any, Any], Any], field: WishartProcess, *, all_vary: bool) -> _Task:
    """Return a task as a graph of its stimuli, and of whatever else it takes from a model."""
    floatx, d = pytensor.config.floatX, field.input_dim
    shape = (*[field.basis_degree + 1] * d, d, d + field.extra_dims)
    reference, comparison = (pt.matrix(name, dtype=floatx, shape=(None, d)) for name in ("reference", "comparison"))
    weights, diag_term = pt.tensor("weights", dtype=floatx, shape=shape), pt.scalar("diag_term", dtype=floatx)
    inner = WishartProcess(
        field.name,
        input_dim=d,
        basis_degree=field.basis_degree,
        extra_dims=field.extra_dims,
        diag_term=diag_term,
        weights=weights,
    )
    log_odds = pt.as_tensor(task(inner, reference, comparison))
    if log_odds.ndim != 1:
        raise ValueError(f"The task returns {log_odds.ndim} axes. Let it return log-odds (N,), one for each pair.")
    outputs = [log_odds, inner.covariance(reference)]
    own = [reference, comparison, weights, diag_term]
    varying, fixed = _find_outside(outputs, own)
    varying, fixed = (varying + fixed, []) if all_vary else (varying, fixed)
    inside = {v: v.type(name=f"outside_{i}") for i, v in enumerate([*varying, *fixed])}
    if inside:
        outputs = clone_replace(outputs, replace=inside, rebuild_strict=False)
    return _Task([*own, *inside.values()], list(outputs), varying, fixed, floatx)


def _find_outside(outputs: list[Any], own: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the largest parts of a graph that do not depend on its own inputs, of random variables and of data."""
    dependent = set(own)
    varying, fixed = [], []
    for node in toposort(outputs):
        if not dependent.isdisjoint(node.inputs):
            dependent.update(node.outputs)
    for node in toposort(outputs):
        for v in node.inputs if dependent.intersection(node.outputs) else ():
            if v in dependent or v in varying or v in fixed:
                continue
            sources = [s for s in graph_inputs([v]) if not isinstance(s, Constant)]
            is_random = any(isinstance(s.type, RandomType) for s in sources)
            if is_random and not _name_free([v], set()):
                raise ValueError(
                    "The task draws random numbers at each evaluation, so that it has no threshold. Draw them once, "
                    "or use an exact task."
                )
            if sources:
                (varying if is_random else fixed).append(v)
    if not dependent.intersection([outputs[0]]):
        raise ValueError("The task does not depend on its stimuli. Let it return log-odds that do.")
    return varying, fixed


def _find_compiled(written: _Task) -> Callable[..., Any]:
    """Return the compiled function of a graph, new or, of an equal one, from before."""
    for known, run in _compiled:
        if known is written or _is_equal(known, written):
            return run
    function = translate(written.inputs, written.outputs, on_host=set())

    def call(*arrays):
        with warnings.catch_warnings():
            # Without x64 there is no float64 to compute in, which is what was asked for.
            warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            return function(*arrays)

    axes = [0] * (len(written.inputs) - len(written.fixed)) + [None] * len(written.fixed)
    # Values of a model, which it may hold many of, need not be kept.
    lasting = replace(written, varying=[None] * len(written.varying), fixed=[None] * len(written.fixed))
    _compiled.append((lasting if written not in _written.values() else written, jax.jit(jax.vmap(call, axes))))
    if len(_compiled) > MOST_TASKS:
        del _compiled[0]
    return _compiled[-1][1]


def _is_equal(first: _Task, second: _Task) -> bool:
    sizes, types = (
        [(task.floatx, len(task.varying), len(task.fixed)) for task in (first, second)],
        [[v.type for v in task.inputs] for task in (first, second)],
    )
    return (
        sizes[0] == sizes[1]
        and types[0] == types[1]
        and equal_computations(first.outputs, second.outputs, in_xs=first.inputs, in_ys=second.inputs)
    )


def _read_values(fit: Any, varying: list[Any], fixed: list[Any]) -> tuple[list[Any], list[Any], bool]:
    """Return the values of variables, with a leading axis of draws, of data, and whether there are draws."""
    if isinstance(fit, MAPResult | Draws):
        unknown = _name_free([*varying, *fixed], set(fit.objective.model.basic_RVs))
        if unknown:
            raise ValueError(
                f"The field or the task uses {', '.join(unknown)}, not of the model that was fitted. Use variables of "
                "that model."
            )
    if isinstance(fit, MAPResult):
        # Only where data play a part it matters that the model may hold others now, of which the fit warns.
        found = fit.evaluate([*varying, *fixed]) if fixed else fit.objective.evaluate(fit.unconstrained, varying)
        return [np.asarray(value)[None] for value in found[: len(varying)]], found[len(varying) :], False
    if isinstance(fit, Draws):
        first = {name: stack[0] for name, stack in fit.unconstrained.items()}
        return fit.evaluate(varying), fit.objective.evaluate(first, fixed) if fixed else [], True
    data = [read_known(v) for v in fixed]
    if fit is None:
        free = _name_free(varying, set())
        if free:
            raise ValueError(
                f"The field or the task uses variables of a model whose values are not known: {', '.join(free)}. "
                "Pass a fit or draws."
            )
        return [np.asarray(read_known(v))[None] for v in varying], data, False
    return _evaluate_draws(_read_draws(fit), varying), data, True


def _name_free(expressions: list[Any], known: set[Any]) -> list[str]:
    """Return the names of the random variables, other than known ones, on which expressions depend."""
    kinds = RandomVariable | SymbolicRandomVariable
    found = (v for v in ancestors(expressions, blockers=known) if v.owner is not None and isinstance(v.owner.op, kinds))
    return list(
        dict.fromkeys(
            v.name or "a random variable without a name"
            for v in found
            if v not in known and not isinstance(v.type, RandomType)
        )
    )


def _read_draws(fit: Any) -> Mapping[str, Any]:
    """Return draws (S, ...) by name."""
    if isinstance(fit, xr.DataTree):
        if "posterior" not in fit.children:
            raise ValueError(
                f"The tree has the groups {', '.join(fit.children) or 'none'}, and no posterior. Pass one with it."
            )
        fit = fit["posterior"].dataset
    if isinstance(fit, xr.Dataset):
        if not {"chain", "draw"} <= set(fit.dims):
            raise ValueError(
                f"The posterior has the dims {', '.join(map(str, fit.dims))}, and no chain and draw. Pass arrays "
                "(S, ...) by name."
            )
        stacked = fit.stack(sample=("chain", "draw")).transpose("sample", ...)
        return {str(name): stacked[name].to_numpy() for name in fit.data_vars}
    if not isinstance(fit, Mapping):
        raise TypeError(
            f"fit is a {type(fit).__name__}. Pass a fit, draws, a DataTree, arrays (S, ...) by name, or None."
        )
    return fit


def _evaluate_draws(draws: Mapping[str, Any], expressions: Sequence[Any]) -> list[np.ndarray]:
    known: dict[str, Any] = {}

    def expand(variable):
        if variable.name in draws:
            known[variable.name] = variable
            return None
        return variable.owner.inputs if variable.owner is not None else None

    for _ in walk(expressions, expand):
        pass
    if not known:
        raise ValueError(f"The draws hold {', '.join(draws)}, and no variable on which this field's weights depend.")
    missing = _name_free(list(expressions), set(known.values()))
    if missing:
        raise ValueError(f"The draws hold {', '.join(draws)}, and not {', '.join(missing)}. Pass draws of these, too.")
    arrays = {name: _read_stack(name, draws[name], v) for name, v in known.items()}
    lengths = {name: len(stack) for name, stack in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"Numbers of draws differ: {', '.join(f'{k} {n}' for k, n in lengths.items())}. Pass as many of each."
        )
    n = next(iter(lengths.values()))
    computed = [e for e in expressions if e not in known.values()]
    function = pytensor.function(list(known.values()), computed, mode=RUN_ONCE, on_unused_input="ignore")
    results: Any = zip(*(function(*(stack[i] for stack in arrays.values())) for i in range(n)), strict=True)
    stacks = dict(zip(computed, map(np.stack, results), strict=True))
    return [arrays[e.name] if e not in stacks else stacks[e] for e in expressions]


def _read_stack(name: str, stack: Any, variable: Any) -> np.ndarray:
    found = convert_array(name, read_array(name, stack), variable.dtype)
    wanted = variable.type.shape
    if found.ndim != len(wanted) + 1 or any(n not in (None, m) for n, m in zip(wanted, found.shape[1:], strict=True)):
        raise ValueError(f"Draws of {name!r} have shape {found.shape}. Pass (S, {', '.join(map(str, wanted))}).")
    if not len(found):
        raise ValueError(f"There are no draws of {name!r}. Pass at least one.")
    return found
