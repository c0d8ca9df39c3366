"""A Program and an optax transformation in; a search for the minimum, compiled into one loop, comes out."""

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pm_psyphy.compiling.flat_parameters import Layout, VectorTransformation, find_layout
from pm_psyphy.compiling.program import Data, Program
from pm_psyphy.compiling.signatures import sign
from pm_psyphy.optimizing.lbfgs import LBFGSState
from pm_psyphy.optimizing.map_kernel import update_params

# Rows of history that one chunk can hold, shared among the starts; a chunk ends when they are full.
HISTORY_ROWS = 16384
# Python looks at the search about this often, in seconds.
CHUNK_SECONDS = 0.25
# Steps of the first chunk, while nobody knows yet what a step costs.
FIRST_CHUNK = 16
# Steps of each chunk where several processes search together.
STEPS_TOGETHER = 64
# The step of a search that has not begun.
UNSTARTED = np.int32(-1)
# So many steps of a first-order method in a row promise little where it has converged.
QUIET = 50
# By so much each derivative has to have fallen; or, after many quiet steps, be smaller than the largest of all.
REDUCED, SMALL = 0.1, 1e-3
# Loops kept compiled for one model.
MAX_LOOPS = 16
# What transformations are known by, by their ids.
MAX_KEYS = 64
_KEYS: dict[int, tuple[Any, Hashable]] = {}


class Code(IntEnum):
    """Where a search stands, as the compiled loop writes it."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    DIVERGED = 3


class Search(NamedTuple):
    """State of a search; with several starts, each field has a leading axis for them."""

    params: Any
    """One vector for a `VectorTransformation`, else a dict by name."""
    opt_state: Any
    step: jax.Array
    """Evaluations of the loss so far; those of a search that has ended are no longer counted."""
    code: jax.Array
    best_params: Any
    best_loss: jax.Array
    best_gradient_norm: jax.Array
    promise: jax.Array
    """By how much, at most, a further step promised to lower the loss."""
    watch: Any
    """What else tells whether it has converged: `Peaks` of L-BFGS, a `Watch` of a first-order method."""

    @property
    def furthest(self) -> int:
        """The step of the search that came furthest, on the host."""
        return int(np.max(np.asarray(self.step)))


class Peaks(NamedTuple):
    """The largest size of each derivative so far, and how many steps in a row have promised little."""

    sizes: jax.Array
    n_quiet: jax.Array


class Watch(NamedTuple):
    """The point before, its gradient, and how many steps in a row have promised little."""

    params: Any
    grads: Any
    n_quiet: jax.Array


@dataclass(frozen=True)
class Loop:
    """A compiled search: advances a `Search` by some steps, and returns their history."""

    advance: Callable[..., tuple[Search, jax.Array]]
    unstarted: Search
    """A search whose step asks `advance` to begin at its parameters."""
    layout: Layout | None
    """How the parameters stand in one vector, if they do."""
    seconds_per_step: list[float]
    """The latest measurement, empty before the first."""

    def arrange(self, starts: dict[str, np.ndarray]) -> Any:
        """Return starts, (B, ...) by name, as the parameters of a search."""
        return _arrange(starts, self.layout)

    def name(self, params: Any) -> dict[str, np.ndarray]:
        """Return the parameters of a search on the host by their names."""
        if self.layout is not None:
            return self.layout.split(np.asarray(params))
        return {name: np.asarray(value) for name, value in params.items()}


@dataclass(frozen=True)
class Settings:
    """What a search is told beside its objective and its transformation."""

    steps: int
    tolerance: float
    """Converged where a further step promises to lower the loss by at most so much, in nats; negative: never."""
    log_every: int
    chunk_steps: int | None = None
    """Steps between two looks from Python; None adapts to the clock."""


def get_loop(
    program: Program,
    transformation: optax.GradientTransformationExtraArgs,
    starts: dict[str, np.ndarray],
    data: Data,
    batched: frozenset[str] = frozenset(),
    stream: Data | None = None,
) -> tuple[Loop, Search, float]:
    """Return the compiled search for a program, its state at the starts, and the seconds it took to compile.

    Parameters
    ----------
    program : Program
    transformation : optax.GradientTransformationExtraArgs
    starts : dict of ndarray, each (B, ...)
        Several starts run at once; one start (B = 1) runs without the batch axis.
    data : dict of arrays
    batched : frozenset of str
        Data that have a leading axis for the starts: each search its own.
    stream : dict of arrays, optional
        An example of the data that have a leading axis for the steps: each step its own.
    """
    stream = stream or {}
    begun = time.perf_counter()
    n_starts = len(next(iter(starts.values())))
    leaves, structure = jax.tree.flatten((starts, data, stream))
    signature = structure, *((np.shape(a), a.dtype, getattr(a, "sharding", None)) for a in leaves)
    loops = program.compiled.loops
    loop_id = find_key(transformation), n_starts, signature, batched
    is_new = loop_id not in loops
    if is_new:
        loops[loop_id] = _compile_loop(program, transformation, starts, data, batched, stream)
        if len(loops) > MAX_LOOPS:
            loops.pop(next(iter(loops)))
    loop = loops[loop_id] = loops.pop(loop_id)
    return loop, loop.unstarted._replace(params=loop.arrange(starts)), (time.perf_counter() - begun) * is_new


def find_key(transformation: Any) -> Hashable:
    """Return what equal transformations have in common, so that an equal one is not compiled again."""
    key = id(transformation)
    if key not in _KEYS:
        if len(_KEYS) >= MAX_KEYS:
            _KEYS.pop(next(iter(_KEYS)))
        # The transformation is held too, so that no other one gets its id.
        _KEYS[key] = transformation, (type(transformation), sign(transformation) or key)
    return _KEYS[key][1]


def _compile_loop(
    program: Program,
    transformation,
    starts: dict[str, np.ndarray],
    data: Data,
    batched: frozenset[str],
    stream: Data,
) -> Loop:
    n_starts = len(next(iter(starts.values())))
    as_vector = isinstance(transformation, VectorTransformation)
    layout = find_layout({name: stack[0] for name, stack in starts.items()}) if as_vector else None
    params = _arrange(starts, layout)
    stochastic = program.stochastic or bool(stream)
    init = partial(_init_search, transformation, n_starts, np.result_type(*jax.tree.leaves(params)), not stochastic)
    shapes = jax.eval_shape(init, params)
    unstarted = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    unstarted = unstarted._replace(step=np.full_like(unstarted.step, UNSTARTED))
    evaluate = (program.value, program.value_and_grad) if layout is None else _on_vector(program, layout)
    advance = jax.jit(
        _make_advance(evaluate, transformation, init, n_starts, stochastic, batched),
        out_shardings=_find_replicated(data),
    )
    tolerance = unstarted.best_loss.reshape(-1)[0]
    arguments = unstarted, data, stream, *np.zeros(4, np.int32), np.int32(1), tolerance
    return Loop(advance.lower(*arguments).compile(), unstarted, layout, [])


def _find_replicated(data: Data) -> Any:
    """Return where a search lies if its data are on several devices: on each of them."""
    shardings = (getattr(array, "sharding", None) for array in data.values())
    meshes = [s.mesh for s in shardings if isinstance(s, jax.NamedSharding)]
    return jax.NamedSharding(meshes[0], jax.P()) if meshes else None


def _arrange(starts: dict[str, np.ndarray], layout: Layout | None) -> Any:
    n_starts = len(next(iter(starts.values())))
    params = starts if n_starts > 1 else {name: stack[0] for name, stack in starts.items()}
    return params if layout is None else layout.join(params)


def _on_vector(program: Program, layout: Layout) -> tuple[Callable, Callable]:
    """Return a program's value, and its value and gradient, as functions of one vector."""

    def value(vector, data, key):
        return program.value(layout.split(vector), data, key)

    def value_and_grad(vector, data, key):
        loss, grads = program.jitted_value_and_grad(layout.split(vector), data, key)
        return loss, layout.join(grads)

    return value, value_and_grad


def _init_search(transformation, n_starts: int, dtype: Any, watched: bool, params: Any) -> Search:
    def init(params):
        infinite = jnp.asarray(jnp.inf, dtype)
        state, zero = transformation.init(params), jnp.int32(0)
        zeros = jax.tree.map(jnp.zeros_like, params)
        own = Peaks(zeros, zero) if isinstance(state, LBFGSState) else Watch(params, zeros, zero)
        watch = own if watched else ()
        return Search(params, state, zero, zero, params, infinite, infinite, infinite, watch)

    return (jax.vmap(init) if n_starts > 1 else init)(params)


def _make_advance(
    evaluate: tuple[Callable, Callable],
    transformation,
    init: Callable,
    n_starts: int,
    stochastic: bool,
    batched: frozenset[str],
) -> Callable:
    """Return the function that takes a search some steps on, all of it inside one compiled loop."""
    value, value_and_grad = evaluate

    def take_step(search: Search, data, key, tolerance) -> tuple[Search, jax.Array]:
        loss, grads = value_and_grad(search.params, data, key)
        norm = jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0) for g in jax.tree.leaves(grads)])).astype(loss.dtype)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, opt_state = update_params(
            transformation, search.params, search.opt_state, loss, grads, lambda p: value(p, data, key)
        )
        is_lbfgs = isinstance(opt_state, LBFGSState)
        dealt_with: Any = True
        if is_lbfgs:
            # A trial point that is not accepted has no promise of its own.
            is_point = opt_state.line.value == loss
            promise, watch = jnp.where(is_point, opt_state.line.worst, jnp.inf), search.watch
            if isinstance(watch, Peaks):
                # Where scales differ widely, the pairs know nothing yet of the smaller ones, whose derivatives stay.
                sizes = jnp.where(is_point, jnp.maximum(watch.sizes, jnp.abs(grads)), watch.sizes)
                noise = jnp.finfo(loss.dtype).eps * jnp.max(sizes, initial=0)
                counted = jnp.where(promise <= find_limit(tolerance, loss), watch.n_quiet + 1, 0)
                n_quiet = jnp.where(is_point, counted, watch.n_quiet)
                watch = Peaks(sizes, n_quiet)
                reduced = REDUCED * sizes + noise
                # What has long promised little may keep small derivatives, which are rounding.
                reduced = jnp.where(n_quiet >= QUIET, jnp.maximum(reduced, SMALL * jnp.max(sizes, initial=0)), reduced)
                dealt_with = jnp.all(jnp.abs(grads) <= reduced) | (norm == 0)
        elif isinstance(search.watch, Watch):
            promise, watch = _look_back(search, loss, grads, tolerance)
        else:
            promise, watch = jnp.asarray(jnp.inf, loss.dtype), ()
        little = finite & (tolerance >= 0) & (promise <= find_limit(tolerance, loss))
        # The trial points of a line search may be worse, or outside the domain: that is its business.
        failed = (~finite & (search.step == 0)) if is_lbfgs else ~finite
        stalled = opt_state.line.stalled > 0 if is_lbfgs else jnp.zeros_like(finite)
        converged = little & dealt_with
        better = converged | (finite & (stochastic | (loss < search.best_loss)))
        best_loss = jnp.where(better, loss, search.best_loss)
        best_norm = jnp.where(better, norm, search.best_gradient_norm)
        code = jnp.where(
            converged, Code.CONVERGED, jnp.where(failed, Code.DIVERGED, jnp.where(stalled, Code.STALLED, Code.RUNNING))
        )
        new = Search(
            params=params,
            opt_state=opt_state,
            step=search.step + 1,
            code=code.astype(jnp.int32),
            best_params=jax.tree.map(lambda p, q: jnp.where(better, p, q), search.params, search.best_params),
            best_loss=best_loss,
            best_gradient_norm=best_norm,
            promise=promise,
            watch=watch,
        )
        shown = (best_loss, best_norm) if is_lbfgs else (loss, norm)
        return new, jnp.stack(shown)

    def choose(flag, new: Search, old: Search) -> Search:
        return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(flag, range(flag.ndim, a.ndim)), a, b), new, old)

    rows = _history_rows(n_starts)

    def advance(search: Search, data, stream, at, seed, n_steps, evaluations, log_every, tolerance):
        fresh = search.step == UNSTARTED
        search = jax.lax.cond(jnp.any(fresh), lambda: choose(fresh, init(search.params), search), lambda: search)
        # Searches that have not ended are all at this step, unless some began later than others.
        first, key = jnp.max(search.step), jax.random.key(seed) if stochastic else None
        skipped = jax.lax.rem(first, log_every)

        def find_active(search: Search):
            return (search.code == Code.RUNNING) & (search.step < evaluations)

        def take_steps(search: Search, data, key, tolerance):
            own = {name: 0 if name in batched else None for name in data}
            new, shown = jax.vmap(take_step, (0, own, None, None))(search, data, key, tolerance)
            return choose(find_active(search), new, search), shown

        def proceed(carry):
            search, _, taken = carry
            return (taken < n_steps) & jnp.any(find_active(search))

        def body(carry):
            search, history, taken = carry
            folded = None if key is None else jax.random.fold_in(key, first + taken)
            own = {n: jax.lax.dynamic_index_in_dim(a, at + taken, keepdims=False) for n, a in stream.items()}
            search, shown = (take_steps if n_starts > 1 else take_step)(search, data | own, folded, tolerance)
            # Both are not negative, so that the plain quotients of the machine do.
            offset = taken + skipped
            row = jnp.where(jax.lax.rem(offset, log_every) == 0, jax.lax.div(offset, log_every), rows)
            return search, jax.lax.dynamic_update_index_in_dim(history, shown, row, 0), taken + 1

        shape = (rows + 1, n_starts, 2) if n_starts > 1 else (rows + 1, 2)
        history = jnp.zeros(shape, search.best_loss.dtype)
        return jax.lax.while_loop(proceed, body, (search, history, jnp.int32(0)))[:2]

    return advance


def find_limit(tolerance: Any, loss: Any) -> Any:
    """Return by how much a step has to lower a loss to be worth taking: the tolerance, or the rounding of the loss."""
    return jnp.maximum(tolerance, jnp.finfo(loss.dtype).eps * jnp.abs(loss))


def _look_back(search: Search, loss, grads, tolerance) -> tuple[jax.Array, Watch]:
    """Return what is to be gained along the last step, of a method that keeps no curvature.

    Near the optimum its steps follow the directions that are the slowest. A step or two may miss them by chance, so
    that several in a row have to agree.
    """
    change = jax.tree.map(jnp.subtract, search.params, search.watch.params)
    curvature = _multiply_trees(change, jax.tree.map(jnp.subtract, grads, search.watch.grads))
    slope = _multiply_trees(change, grads)
    gain = jnp.where(curvature > 0, slope**2 / (2 * jnp.where(curvature > 0, curvature, 1)), jnp.inf)
    gain = jnp.where(_multiply_trees(grads, grads) == 0, 0, gain).astype(loss.dtype)
    n_quiet = jnp.where(gain <= find_limit(tolerance, loss), search.watch.n_quiet + 1, 0)
    promise = jnp.where((n_quiet >= QUIET) | (gain == 0), gain, jnp.inf)
    return promise, Watch(search.params, grads, n_quiet)


def _multiply_trees(a: Any, b: Any) -> jax.Array:
    return sum((jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(()))


def run_chunks(
    loop: Loop,
    search: Search,
    data: Data,
    seed: int,
    settings: Settings,
    chunks: Iterator[tuple[Data, int]] | None = None,
) -> Iterator[tuple[Search, np.ndarray, np.ndarray]]:
    """Advance a search chunk by chunk; yield its state, and the logged steps and their losses and gradient norms.

    A search that runs all its steps has evaluated the loss once more than it has stepped, so that what it returns is
    what its last step reached. With `chunks` of data for the next steps, and how many these are, it ends where they do.
    """
    every, tolerance = np.int32(settings.log_every), np.asarray(settings.tolerance, search.best_loss.dtype)
    evaluations, rows = settings.steps + 1, _history_rows(search.code.size)
    step = begin = end = max(search.furthest, 0)
    stream: Data = {}
    while step < evaluations and np.any(np.asarray(search.code) == Code.RUNNING):
        if chunks is not None and step == end:
            stream, n_steps = next(chunks, ({}, 0))
            begin, end = end, end + n_steps
            if not n_steps:
                return
        # A fixed chunk ends behind a multiple of its length, so that a callback sees the steps that are logged.
        fixed = settings.chunk_steps and -(-step // settings.chunk_steps) * settings.chunk_steps + 1
        limit = min(fixed or step + _pace(loop), step + (rows - 1) * settings.log_every, evaluations)
        limit = limit if chunks is None else min(limit, end)
        begun = time.perf_counter()
        numbers = (np.int32(n) for n in (step - begin, seed, limit - step, evaluations))
        search, history = loop.advance(search, data, stream, *numbers, every, tolerance)
        reached = search.furthest
        loop.seconds_per_step[:] = [(time.perf_counter() - begun) / max(reached - step, 1)]
        logged = np.arange(-(-step // settings.log_every) * settings.log_every, reached, settings.log_every)
        at = (logged - step + step % settings.log_every) // settings.log_every
        yield search, logged, np.asarray(history)[at]
        step = reached


def evaluate_loss(loop: Loop, starts: dict[str, np.ndarray], data: Data) -> float:
    """Return the loss at the first of some starts, by a search that takes no step."""
    search = loop.unstarted._replace(params=loop.arrange(starts))
    zero, one, tolerance = np.int32(0), np.int32(1), np.asarray(-1, search.best_loss.dtype)
    search, _ = loop.advance(search, data, {}, zero, zero, one, one, one, tolerance)
    return float(np.ravel(search.best_loss)[0])


def _pace(loop: Loop) -> int:
    """Return how many steps the next chunk takes, from what a step took in the last one."""
    if jax.process_count() > 1:
        # Clocks differ, and all must stop at the same step.
        return STEPS_TOGETHER
    if not loop.seconds_per_step:
        return FIRST_CHUNK
    return max(1, int(CHUNK_SECONDS / max(loop.seconds_per_step[0], 1e-9)))


def _history_rows(n_starts: int) -> int:
    return max(HISTORY_ROWS // n_starts, 64)
