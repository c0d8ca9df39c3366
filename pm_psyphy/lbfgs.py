"""L-BFGS as an optax transformation: value and gradient at a trial point in, the way to the next trial point out."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
MAX_TRIALS = 20
MAX_IDLE = 5


class LBFGSState(NamedTuple):
    """What L-BFGS remembers between two evaluations, of P parameters and m pairs."""

    point: jax.Array  # (P,) the last accepted point
    value: jax.Array  # loss there
    grad: jax.Array  # (P,) gradient there
    direction: jax.Array  # (P,) the line now searched
    slope: jax.Array  # directional derivative at `point`
    stepsize: jax.Array  # of the trial now evaluated
    low: jax.Array  # (3,) bracket's lower end: step size, value, slope
    high: jax.Array  # bracket's upper end: step size
    n_trials: jax.Array  # rejected on this line
    s: jax.Array  # (m, P) differences of points
    y: jax.Array  # (m, P) differences of gradients
    r_inverse: jax.Array  # (m, m) inverse of R, R_ij = s_i . y_j for i not newer than j
    y_y: jax.Array  # (m, m) y_i . y_j
    s_y: jax.Array  # (m,) s_i . y_i
    scale: jax.Array  # s . y / y . y of the newest pair
    n_pairs: jax.Array  # stored since the last restart
    n_idle: jax.Array  # accepted points in a row that lowered the loss by rounding only
    stalled: jax.Array  # nothing lower is left to working precision


def lbfgs(memory_size: int = 30) -> optax.GradientTransformationExtraArgs:
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
    memory_size : int
        Number of pairs m that are kept, at most P; they take 2 m P numbers.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grad, state, params, value=loss)``, on any pytree of parameters.
    """

    def init(params: Any) -> Any:
        zero, zeros = jnp.zeros((), params.dtype), jnp.zeros_like(params)
        m = min(memory_size, params.size)
        pairs = jnp.zeros((m, params.size), params.dtype)
        small = jnp.zeros((m, m), params.dtype)
        count = jnp.zeros((), jnp.int32)
        return LBFGSState(
            point=params, value=zero + jnp.inf, grad=zeros, direction=zeros, slope=zero,
            stepsize=zero, low=jnp.zeros(3, params.dtype), high=zero + jnp.inf, n_trials=count,
            s=pairs, y=pairs, r_inverse=small, y_y=small, s_y=small[0], scale=zero + 1.0,
            n_pairs=count, n_idle=count, stalled=count > 0,
        )  # fmt: skip

    def update(grads: Any, state: Any, params: Any, *, value: Any, **_: Any) -> tuple[Any, Any]:
        slope = grads @ state.direction
        finite = jnp.isfinite(value) & jnp.isfinite(slope)
        decreased = finite & _is_decrease(state, value, slope)
        is_first = jnp.isinf(state.value)
        exhausted = state.n_trials + 1 >= MAX_TRIALS
        accepted = is_first | (decreased & ((slope >= CURVATURE * state.slope) | exhausted))
        remembered = _remember(state, params - state.point, grads - state.grad, accepted & ~is_first)
        moved = _set_out(remembered, params, value, grads)
        restarted = _restart(state._replace(stalled=state.n_pairs == 0))
        narrowed = _narrow(state, value, slope, decreased, finite)
        turned = _select(exhausted, restarted, narrowed)
        small = _select(accepted, moved._replace(s=state.s, y=state.y), turned)
        new = small._replace(s=remembered.s, y=remembered.y)
        return new.point + new.stepsize * new.direction - params, new

    return optax.flatten(optax.GradientTransformationExtraArgs(init, cast(Any, update)))


def _select(condition, if_true: LBFGSState, if_false: LBFGSState) -> LBFGSState:
    return LBFGSState(*(a if a is b else jnp.where(condition, a, b) for a, b in zip(if_true, if_false, strict=True)))


def _is_decrease(state: LBFGSState, value, slope):
    armijo = value <= state.value + SUFFICIENT_DECREASE * state.stepsize * state.slope
    rounding = 10 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    approximate = (value <= state.value + rounding) & (slope <= (2 * SUFFICIENT_DECREASE - 1) * state.slope)
    return armijo | approximate


def _narrow(state: LBFGSState, value, slope, decreased, finite) -> LBFGSState:
    """Choose the next trial on the same line."""
    t, (low, low_value, low_slope) = state.stepsize, state.low
    high = jnp.where(decreased, state.high, t)
    # Minimiser of the cubic through both ends (Nocedal and Wright, 2006, eq. 3.59).
    width = t - low
    d1 = low_slope + slope - 3 * (value - low_value) / width
    d2 = jnp.sqrt(jnp.maximum(d1**2 - low_slope * slope, 0.0))
    cubic = t - width * (slope + d2 - d1) / (slope - low_slope + 2 * d2)
    new_low = jnp.where(decreased, jnp.stack([t, value, slope]), state.low)
    room = high - new_low[0]
    usable = jnp.isfinite(cubic) & finite
    share = jnp.where(usable, jnp.clip((cubic - new_low[0]) / room, 0.1, 0.9), jnp.where(finite, 0.5, 0.1))
    beyond = jnp.clip(jnp.where(usable, cubic, 4 * t), 2 * t, 10 * t)
    stepsize = jnp.where(jnp.isinf(high), beyond, new_low[0] + share * room)
    return state._replace(low=new_low, high=high, stepsize=stepsize, n_trials=state.n_trials + 1)


def _remember(state: LBFGSState, s, y, accepted) -> LBFGSState:
    """Put the pair (s, y) in the oldest pair's place, if the loss curves upwards along it."""
    s_y, y_y = s @ y, y @ y
    stored = accepted & (s_y > jnp.finfo(s.dtype).eps * y_y)
    slot = state.n_pairs % state.s_y.size
    is_slot = jnp.arange(state.s_y.size) == slot
    new_s = jnp.where((stored & is_slot)[:, None], s, state.s)
    new_y = jnp.where((stored & is_slot)[:, None], y, state.y)
    kept = jnp.where(is_slot[:, None] | is_slot, 0.0, state.r_inverse)
    column = jnp.where(is_slot, 1.0, -(kept @ (new_s @ y))) / s_y
    against_y = new_y @ y
    return state._replace(
        s=new_s,
        y=new_y,
        r_inverse=jnp.where(stored, jnp.where(is_slot, column[:, None], kept), state.r_inverse),
        y_y=jnp.where(
            stored & (is_slot[:, None] | is_slot), jnp.where(is_slot, against_y[:, None], against_y), state.y_y
        ),
        s_y=jnp.where(stored & is_slot, s_y, state.s_y),
        scale=jnp.where(stored, s_y / y_y, state.scale),
        n_pairs=state.n_pairs + stored,
    )


def _set_out(state: LBFGSState, params, value, grads) -> LBFGSState:
    """Accept the trial point and turn to the quasi-Newton direction there."""
    inner = state.r_inverse @ (state.s @ grads)
    middle = state.s_y * inner + state.scale * (state.y_y @ inner - state.y @ grads)
    direction = state.scale * (inner @ state.y - grads) - (middle @ state.r_inverse) @ state.s
    is_idle = value >= state.value - 2 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    n_idle = jnp.where(is_idle, state.n_idle + 1, 0)
    at = state._replace(point=params, value=value, grad=grads, n_idle=n_idle, stalled=n_idle >= MAX_IDLE)
    quasi_newton = _aim(at, direction, grads @ direction)
    return _select((state.n_pairs > 0) & (quasi_newton.slope < 0), quasi_newton, _restart(at))


def _restart(state: LBFGSState) -> LBFGSState:
    """Forget the pairs and turn to steepest descent, with a first step no longer than 1."""
    largest = jnp.maximum(jnp.max(jnp.abs(state.grad)), jnp.finfo(state.grad.dtype).tiny)
    scaled = state.grad / largest
    # Neither the length of a huge gradient nor its square overflows this way.
    direction = -scaled / jnp.maximum(1 / largest, jnp.sqrt(scaled @ scaled))
    return _aim(state, direction, state.grad @ direction)._replace(
        r_inverse=jnp.zeros_like(state.r_inverse),
        scale=jnp.ones_like(state.scale),
        n_pairs=jnp.zeros_like(state.n_pairs),
    )


def _aim(state: LBFGSState, direction, slope) -> LBFGSState:
    return state._replace(
        direction=direction,
        slope=slope,
        stepsize=jnp.ones_like(slope),
        low=jnp.stack([jnp.zeros_like(slope), state.value, slope]),
        high=jnp.full_like(state.high, jnp.inf),
        n_trials=jnp.zeros_like(state.n_trials),
    )
