"""L-BFGS as an optax transformation: value and gradient at a trial point in, the way to the next trial point out."""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from pm_psyphy.compiling.flat_parameters import VectorTransformation

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
MAX_TRIALS = 20
MAX_IDLE = 5
SMALL = 64
# So many numbers may all pairs hold, unless that is fewer than 30 pairs.
STORED = 100_000


class Line(NamedTuple):
    """Where the search along a line stands, in numbers; counts and flags are floats too, so that one array holds all.

    Every array of a loop's state is a kernel of its own, which costs 10 ms to compile and 0.1 us a step.
    """

    value: Any  # loss at the last accepted point
    length: Any  # of the gradient there
    slope: Any  # directional derivative there
    stepsize: Any  # of the trial now evaluated
    low: Any  # bracket's lower end: step size, value, slope
    low_value: Any
    low_slope: Any
    high: Any  # bracket's upper end: step size
    n_trials: Any  # rejected on this line
    n_pairs: Any  # stored since the last restart
    scale: Any  # s . y / y . y of the newest pair
    n_idle: Any  # accepted points in a row that lowered the loss by rounding only
    stalled: Any  # nothing lower is left to working precision
    promise: Any  # by how much a quasi-Newton step would lower the loss from the last accepted point
    worst: Any  # the larger of the last two promises: one alone may come from a direction that is not known yet


class Trial(NamedTuple):
    """A trial point, and what becomes of it."""

    value: Any  # loss
    slope: Any  # directional derivative along the line
    vectors: jax.Array  # (4, P) gradient, the differences y and s from the last point, direction of the line
    products: jax.Array  # (4, 4) of these with each other
    finite: Any
    decreased: Any  # enough to be the lower end of the bracket
    is_first: Any  # of all: there is no line yet
    exhausted: Any  # no further trial on this line
    accepted: Any  # it is the next point


class LBFGSState(NamedTuple):
    """What L-BFGS remembers between two evaluations, of P parameters and m pairs."""

    point: jax.Array  # (P,) the last accepted point
    grad: jax.Array  # (P,) gradient there
    direction: jax.Array  # (P,) the line now searched
    numbers: jax.Array  # a Line
    pairs: jax.Array  # (2 m + 2, P) differences of points s and of gradients y in turn; the last two are zero
    r_inverse: jax.Array  # (m + 1, m + 1) inverse of R, R_ij = s_i . y_j for i not newer than j
    y_y: jax.Array  # (m + 1, m + 1) y_i . y_j
    s_y: jax.Array  # (m + 1,) s_i . y_i

    @property
    def line(self) -> Line:
        """The numbers by their names."""
        return Line(*(self.numbers[..., i] for i in range(len(Line._fields))))


def lbfgs(memory_size: int | None = None, *, first_step: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Minimise by L-BFGS with one evaluation of value and gradient per update.

    ``optax.lbfgs`` searches its line inside ``update``: the compiled program holds the model three times, and a batch
    of fits waits at every step for its longest search. Here the search is part of the state: each update receives
    value and gradient at a trial point and returns the difference to the next one, so the model is compiled once and
    each fit of a batch walks at its own pace.

    The search brackets a weak Wolfe point with safeguarded cubic steps; near the optimum, where rounding hides the
    decrease, it takes the approximate condition of Hager and Zhang (2005, eq. 4.1). The direction comes from the
    compact representation of Byrd, Nocedal and Schnabel (1994, eq. 3.1), with R inverted as pairs come and go, so that
    it costs two products with the stored pairs and no chain of vector operations.

    Parameters
    ----------
    memory_size : int, optional
        Number of pairs m that are kept; they take 2 m P numbers. Default: as many as make 100,000 numbers, at least 30,
        at most 2 P. With as many as there are steps it is BFGS, which takes the fewest steps where parameters are badly
        scaled.
    first_step : float
        How long the first step may be. It is the gradient where that is shorter, so that ``numpy.inf`` suits
        parameters in which the loss has about the curvature 1.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grad, state, params, value=loss)``, on any pytree of parameters.
    """

    def init(params: Any) -> Any:
        zeros = jnp.zeros_like(params)
        m = memory_size or min(max(STORED // max(2 * params.size, 1), 30), 2 * params.size)
        line = Line(*[0.0] * len(Line._fields))
        line = line._replace(value=jnp.inf, high=jnp.inf, scale=1.0, promise=jnp.inf, worst=jnp.inf)
        square = jnp.zeros((m + 1, m + 1), params.dtype)
        return LBFGSState(
            point=params,
            grad=zeros,
            direction=zeros,
            numbers=jnp.asarray(line, params.dtype),
            pairs=jnp.zeros((2 * m + 2, params.size), params.dtype),
            r_inverse=square,
            y_y=square,
            s_y=square[0],
        )

    def update(grads: Any, state: Any, params: Any, *, value: Any, **_: Any) -> tuple[Any, Any]:
        trial = _judge(state, params, grads, value)
        kept, line, products = _keep_pair(state, trial)
        quasi_newton = -line.scale * grads - _weigh(kept, products, line.scale) @ kept.pairs
        turned, direction = _turn(state, trial, line, quasi_newton, first_step)
        turns = trial.accepted | trial.exhausted
        point = jnp.where(trial.accepted, params, state.point)
        new = kept._replace(
            point=point,
            grad=jnp.where(trial.accepted, grads, state.grad),
            direction=jnp.where(turns, direction, state.direction),
            numbers=jnp.where(turns, _pack(turned, value.dtype), _pack(_narrow(state.line, trial), value.dtype)),
        )
        return point + new.line.stepsize * new.direction - params, new

    flat = optax.flatten(optax.GradientTransformationExtraArgs(init, cast(Any, update)))
    return VectorTransformation(*flat)


def _judge(state: LBFGSState, params, grads, value) -> Trial:
    line = state.line
    vectors = jnp.stack([grads, grads - state.grad, params - state.point, state.direction])
    products = _multiply(vectors, vectors)
    slope = products[0, 3]
    finite = jnp.isfinite(value) & jnp.isfinite(slope)
    decreased = finite & _is_decrease(line, value, slope)
    is_first, exhausted = jnp.isinf(line.value), line.n_trials + 1 >= MAX_TRIALS
    accepted = is_first | (decreased & ((slope >= CURVATURE * line.slope) | exhausted))
    return Trial(value, slope, vectors, products, finite, decreased, is_first, exhausted, accepted)


def _keep_pair(state: LBFGSState, trial: Trial) -> tuple[LBFGSState, Line, jax.Array]:
    """Return the state with the pair of an accepted point, its line, and the pairs' products with the gradient."""
    line, m = state.line, state.s_y.size - 1
    y_y, s_y = trial.products[1, 1], trial.products[1, 2]
    # Along a pair, the gradient must grow.
    stored = trial.accepted & ~trial.is_first & (s_y > jnp.finfo(s_y.dtype).eps * y_y)
    slot = jnp.where(stored, jax.lax.rem(line.n_pairs.astype(jnp.int32), jnp.int32(m)), m)
    pair = jnp.where(stored, trial.vectors[2:0:-1], 0.0)
    pairs = jax.lax.dynamic_update_slice_in_dim(state.pairs, pair, 2 * slot, 0)
    products = _multiply(pairs, trial.vectors).reshape(m + 1, 2, -1)
    kept = _remember(state, slot, jnp.where(stored, products[..., 1], 0.0), jnp.where(stored, s_y, 0.0))
    line = line._replace(n_pairs=line.n_pairs + stored, scale=jnp.where(stored, s_y / y_y, line.scale))
    return kept._replace(pairs=pairs), line, products[..., 0]


def _turn(state: LBFGSState, trial: Trial, known: Line, quasi_newton, first_step: float) -> tuple[Line, jax.Array]:
    """Return the next line from an accepted point, or from the last one if no trial was, and its direction."""
    line, accepted, grads, g_g = state.line, trial.accepted, trial.vectors[0], trial.products[0, 0]
    quasi_slope = (trial.vectors @ quasi_newton)[0]
    sound = (known.n_pairs > 0) & (quasi_slope < 0) & accepted
    # Without pairs the curvature is unknown, unless the parameters were scaled to have about 1.
    unknown = jnp.where(g_g == 0, 0.0, g_g / 2 if math.isinf(first_step) else jnp.inf)
    promise = jnp.where(sound, -quasi_slope / 2, unknown)
    # Neither this bound of the length of a gradient nor what is made of it overflows where its square does.
    length = jnp.minimum(jnp.sqrt(g_g), jnp.sqrt(1.0 * grads.size) * jnp.max(jnp.abs(grads), initial=0))
    length = jnp.where(accepted, length, line.length)
    steepest = -jnp.where(accepted, grads, state.grad) / jnp.maximum(1.0, length / first_step)
    slope = jnp.where(sound, quasi_slope, -length * jnp.minimum(length, first_step))
    value = jnp.where(accepted, trial.value, line.value)
    rounding = 2 * jnp.finfo(value.dtype).eps * jnp.abs(line.value)
    is_idle = (trial.value >= line.value - rounding) & (length >= line.length)
    n_idle = jnp.where(is_idle, line.n_idle + 1, 0)
    turned = Line(
        value=value, length=length, slope=slope, stepsize=1.0,
        low=0.0, low_value=value, low_slope=slope, high=jnp.inf, n_trials=0.0,
        n_pairs=jnp.where(sound, known.n_pairs, 0.0), scale=jnp.where(sound, known.scale, 1.0),
        n_idle=n_idle, stalled=jnp.where(accepted, n_idle >= MAX_IDLE, line.n_pairs == 0),
        promise=jnp.where(accepted, promise, line.promise),
        worst=jnp.where(accepted, jnp.where(g_g == 0, 0.0, jnp.maximum(promise, line.promise)), line.worst),
    )  # fmt: skip
    return turned, jnp.where(sound, quasi_newton, steepest)


def _multiply(rows, vectors):
    """Return rows @ vectors.T, written so that XLA's CPU compiler makes the best of it.

    It compiles a loop of small operations to one kernel, unless there is a product of matrices among them.
    """
    if rows.shape[1] > SMALL:
        return rows @ vectors.T
    return jnp.stack([rows @ vector for vector in vectors], axis=1)


def _pack(line: Line, dtype: Any) -> jax.Array:
    return jnp.stack([jnp.asarray(number, dtype) for number in line])


def _is_decrease(line: Line, value, slope):
    armijo = value <= line.value + SUFFICIENT_DECREASE * line.stepsize * line.slope
    # A sum of terms that are computed with condition numbers up to a thousand errs by so much.
    rounding = jnp.finfo(value.dtype).eps ** 0.8 * jnp.abs(line.value)
    approximate = (value <= line.value + rounding) & (slope <= (2 * SUFFICIENT_DECREASE - 1) * line.slope)
    return armijo | approximate


def _narrow(line: Line, trial: Trial) -> Line:
    """Choose the next trial on the same line."""
    t, value, slope, decreased, finite = line.stepsize, trial.value, trial.slope, trial.decreased, trial.finite
    high = jnp.where(decreased, line.high, t)
    # Minimiser of the cubic through both ends (Nocedal and Wright, 2006, eq. 3.59).
    width = t - line.low
    d1 = line.low_slope + slope - 3 * (value - line.low_value) / width
    d2 = jnp.sqrt(jnp.maximum(d1**2 - line.low_slope * slope, 0.0))
    cubic = t - width * (slope + d2 - d1) / (slope - line.low_slope + 2 * d2)
    low = jnp.where(decreased, t, line.low)
    room = high - low
    usable = jnp.isfinite(cubic) & finite
    share = jnp.where(usable, jnp.clip((cubic - low) / room, 0.1, 0.9), jnp.where(finite, 0.5, 0.1))
    beyond = jnp.clip(jnp.where(usable, cubic, 4 * t), 2 * t, 10 * t)
    return line._replace(
        low=low,
        low_value=jnp.where(decreased, value, line.low_value),
        low_slope=jnp.where(decreased, slope, line.low_slope),
        high=high,
        stepsize=jnp.where(jnp.isinf(high), beyond, low + share * room),
        n_trials=line.n_trials + 1,
    )


def _remember(state: LBFGSState, slot, new, s_y) -> LBFGSState:
    """Put the products of a new pair's y with all s and y, `new`, in the oldest pair's place."""
    slots = jnp.arange(state.s_y.size)
    is_slot = slots == slot
    in_slot = is_slot[:, None] | is_slot
    # After a restart the old pairs' products stand there still.
    is_old = slots >= state.line.n_pairs
    kept = jnp.where(in_slot | is_old[:, None] | is_old, 0.0, state.r_inverse)
    column = jnp.where(s_y > 0, jnp.where(is_slot, 1.0, -(kept @ new[:, 0])) / s_y, 0.0)
    return state._replace(
        r_inverse=jnp.where(is_slot, column[:, None], kept),
        y_y=jnp.where(in_slot, jnp.where(is_slot, new[:, 1, None], new[:, 1]), state.y_y),
        s_y=jnp.where(is_slot, s_y, state.s_y),
    )


def _weigh(state: LBFGSState, products, scale):
    """Return the share of each s and y in the quasi-Newton direction, from their products with the gradient."""
    inner = state.r_inverse @ products[:, 0]
    middle = state.s_y * inner + scale * (state.y_y @ inner - products[:, 1])
    return jnp.stack([middle @ state.r_inverse, -scale * inner], axis=1).reshape(-1)
