"""A Program and an optax transformation in; a search for the minimum, compiled into one loop, comes out."""

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pm_psyphy.compiling.flat_parameters import Layout, VectorTransformation, find_layout
from pm_psyphy.compiling.program import Data, Program
from pm_psyphy.compiling.signatures import sign
from pm_psyphy.optimizing.search_step import UNSTARTED, Code, Search, init_search, take_step

# Rows of history that one chunk can hold, shared among the starts; a chunk ends when they are full.
HISTORY_ROWS = 16384
# Python looks at the search about this often, in seconds.
CHUNK_SECONDS = 0.25
# Steps of the first chunk, while nobody knows yet what a step costs.
FIRST_CHUNK = 16
# Steps of each chunk where several processes search together.
STEPS_TOGETHER = 64
# Loops kept compiled for one model.
MAX_LOOPS = 16
# What transformations are known by, by their ids.
MAX_KEYS = 64
_KEYS: dict[int, tuple[Any, Hashable]] = {}


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
    """Converged where a further step is predicted to lower the loss by at most so much, in nats; negative: never."""
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
    init = partial(init_search, transformation, n_starts, np.result_type(*jax.tree.leaves(params)), not stochastic)
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


def _make_advance(
    evaluate: tuple[Callable, Callable],
    transformation,
    init: Callable,
    n_starts: int,
    stochastic: bool,
    batched: frozenset[str],
) -> Callable:
    """Return the function that takes a search some steps on, all of it inside one compiled loop."""
    step, rows = partial(take_step, evaluate, transformation, stochastic), _history_rows(n_starts)

    def advance(search: Search, data, stream, at, seed, n_steps, evaluations, log_every, tolerance):
        fresh = search.step == UNSTARTED
        search = jax.lax.cond(jnp.any(fresh), lambda: _choose(fresh, init(search.params), search), lambda: search)
        # Searches that have not ended are all at this step, unless some began later than others.
        first, key = jnp.max(search.step), jax.random.key(seed) if stochastic else None
        skipped = jax.lax.rem(first, log_every)

        def find_active(search: Search):
            return (search.code == Code.RUNNING) & (search.step < evaluations)

        def take_steps(search: Search, data, key, tolerance):
            own = {name: 0 if name in batched else None for name in data}
            new, shown = jax.vmap(step, (0, own, None, None))(search, data, key, tolerance)
            return _choose(find_active(search), new, search), shown

        def proceed(carry):
            search, _, taken = carry
            return (taken < n_steps) & jnp.any(find_active(search))

        def body(carry):
            search, history, taken = carry
            folded = None if key is None else jax.random.fold_in(key, first + taken)
            own = {n: jax.lax.dynamic_index_in_dim(a, at + taken, keepdims=False) for n, a in stream.items()}
            search, shown = (take_steps if n_starts > 1 else step)(search, data | own, folded, tolerance)
            # Both are not negative, so that the plain quotients of the machine do.
            offset = taken + skipped
            row = jnp.where(jax.lax.rem(offset, log_every) == 0, jax.lax.div(offset, log_every), rows)
            return search, jax.lax.dynamic_update_index_in_dim(history, shown, row, 0), taken + 1

        shape = (rows + 1, n_starts, 2) if n_starts > 1 else (rows + 1, 2)
        history = jnp.zeros(shape, search.best_loss.dtype)
        return jax.lax.while_loop(proceed, body, (search, history, jnp.int32(0)))[:2]

    return advance


def _choose(flag, new: Search, old: Search) -> Search:
    """Return the new state of the searches that are flagged, the old one of the others."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(flag, range(flag.ndim, a.ndim)), a, b), new, old)


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
