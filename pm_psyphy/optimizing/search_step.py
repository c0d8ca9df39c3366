"""A search and the loss at its point in; the search one evaluation on, and whether it has converged, come out."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pm_psyphy.optimizing.lbfgs import LBFGSState, Line
from pm_psyphy.optimizing.map_kernel import update_params

# The step of a search that has not begun.
UNSTARTED = np.int32(-1)
# So many steps of a first-order method in a row promise little where it has converged.
QUIET = 50
# By so much each derivative has to have fallen; or, after many quiet steps, be smaller than the largest of all.
REDUCED, SMALL = 0.1, 1e-3


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


def init_search(transformation, n_starts: int, dtype: Any, watched: bool, params: Any) -> Search:
    """Return the states of searches at their parameters; `watched`: whether they may converge."""

    def init(params):
        infinite = jnp.asarray(jnp.inf, dtype)
        state, zero = transformation.init(params), jnp.int32(0)
        zeros = jax.tree.map(jnp.zeros_like, params)
        own = Peaks(zeros, zero) if isinstance(state, LBFGSState) else Watch(params, zeros, zero)
        watch = own if watched else ()
        return Search(params, state, zero, zero, params, infinite, infinite, infinite, watch)

    return (jax.vmap(init) if n_starts > 1 else init)(params)


def take_step(
    evaluate: tuple[Callable, Callable], transformation, stochastic: bool, search: Search, data, key, tolerance
) -> tuple[Search, jax.Array]:
    """Evaluate the loss once; return the search at its next point, and the loss and gradient norm to be shown.

    Parameters
    ----------
    evaluate : tuple of callables
        The loss at parameters, data and a key; the same with its gradient.
    transformation : optax.GradientTransformationExtraArgs
    stochastic : bool
        Whether losses of two steps cannot be compared, so that the latest point is the best.
    search : Search
        The search from one start.
    data, key, tolerance
        As the loop has them.
    """
    value, value_and_grad = evaluate
    loss, grads = value_and_grad(search.params, data, key)
    norm = jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0) for g in jax.tree.leaves(grads)])).astype(loss.dtype)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    params, opt_state = update_params(
        transformation, search.params, search.opt_state, loss, grads, lambda p: value(p, data, key)
    )
    line = opt_state.line if isinstance(opt_state, LBFGSState) else None
    promise, watch, settled = _look_back(search, line, loss, grads, norm, tolerance)
    little = finite & (tolerance >= 0) & (promise <= find_limit(tolerance, loss))
    # The trial points of a line search may be worse, or outside the domain: that is its business.
    failed = ~finite if line is None else ~finite & (search.step == 0)
    stalled = jnp.zeros_like(finite) if line is None else line.stalled > 0
    converged = little & settled
    better = converged | (finite & (stochastic | (loss < search.best_loss)))
    best_loss = jnp.where(better, loss, search.best_loss)
    best_norm = jnp.where(better, norm, search.best_gradient_norm)
    code = jnp.where(failed, Code.DIVERGED, jnp.where(stalled, Code.STALLED, Code.RUNNING))
    new = Search(
        params=params,
        opt_state=opt_state,
        step=search.step + 1,
        code=jnp.where(converged, Code.CONVERGED, code).astype(jnp.int32),
        best_params=jax.tree.map(lambda p, q: jnp.where(better, p, q), search.params, search.best_params),
        best_loss=best_loss,
        best_gradient_norm=best_norm,
        promise=promise,
        watch=watch,
    )
    return new, jnp.stack((loss, norm) if line is None else (best_loss, best_norm))


def find_limit(tolerance: Any, loss: Any) -> Any:
    """Return by how much a step has to lower a loss to be worth taking: the tolerance, or the rounding of the loss."""
    return jnp.maximum(tolerance, jnp.finfo(loss.dtype).eps * jnp.abs(loss))


def _look_back(search: Search, line: Line | None, loss, grads, norm, tolerance) -> tuple[Any, Any, Any]:
    """Return what a step promises, what is kept to tell whether it has converged, and whether it may have."""
    if line is None:
        if isinstance(search.watch, Watch):
            return *_look_along(search, search.watch, loss, grads, tolerance), True
        return jnp.asarray(jnp.inf, loss.dtype), (), True
    # A trial point that is not accepted has no promise of its own.
    is_point = line.value == loss
    promise = jnp.where(is_point, line.worst, jnp.inf)
    if not isinstance(search.watch, Peaks):
        return promise, search.watch, True
    return promise, *_compare(search.watch, is_point, promise, loss, grads, norm, tolerance)


def _compare(watch: Peaks, is_point, promise, loss, grads, norm, tolerance) -> tuple[Peaks, jax.Array]:
    """Return the largest derivatives, and whether all have become small beside them.

    Where scales differ widely, the pairs know nothing yet of the smaller ones, whose derivatives stay.
    """
    sizes = jnp.where(is_point, jnp.maximum(watch.sizes, jnp.abs(grads)), watch.sizes)
    noise = jnp.finfo(loss.dtype).eps * jnp.max(sizes, initial=0)
    counted = jnp.where(promise <= find_limit(tolerance, loss), watch.n_quiet + 1, 0)
    n_quiet = jnp.where(is_point, counted, watch.n_quiet)
    reduced = REDUCED * sizes + noise
    # What has long promised little may keep small derivatives, which are rounding.
    reduced = jnp.where(n_quiet >= QUIET, jnp.maximum(reduced, SMALL * jnp.max(sizes, initial=0)), reduced)
    return Peaks(sizes, n_quiet), jnp.all(jnp.abs(grads) <= reduced) | (norm == 0)


def _look_along(search: Search, watch: Watch, loss, grads, tolerance) -> tuple[jax.Array, Watch]:
    """Return what is to be gained along the last step, of a method that keeps no curvature.

    Near the optimum its steps follow the directions that are the slowest. A step or two may miss them by chance, so
    that several in a row have to agree.
    """
    change = jax.tree.map(jnp.subtract, search.params, watch.params)
    curvature = _multiply_trees(change, jax.tree.map(jnp.subtract, grads, watch.grads))
    slope = _multiply_trees(change, grads)
    gain = jnp.where(curvature > 0, slope**2 / (2 * jnp.where(curvature > 0, curvature, 1)), jnp.inf)
    gain = jnp.where(_multiply_trees(grads, grads) == 0, 0, gain).astype(loss.dtype)
    n_quiet = jnp.where(gain <= find_limit(tolerance, loss), watch.n_quiet + 1, 0)
    promise = jnp.where((n_quiet >= QUIET) | (gain == 0), gain, jnp.inf)
    return promise, Watch(search.params, grads, n_quiet)


def _multiply_trees(a: Any, b: Any) -> jax.Array:
    return sum((jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(()))
