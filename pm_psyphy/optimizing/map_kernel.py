"""An Objective and an optax transformation in; pure `init` and `step` for a loop of your own come out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pm_psyphy.compiling.objective import Objective
from pm_psyphy.compiling.program import Data, Params


class MAPState(NamedTuple):
    """State of `map_kernel`: a pytree to jit, scan, donate or save; replace its fields as you like."""

    params: Params
    """Unconstrained parameters."""
    opt_state: Any
    step: jax.Array
    loss: jax.Array
    """At the parameters before the last step; infinite at first."""
    key: jax.Array
    """Random key, for a stochastic objective; `step` folds the step number in."""
    data: Data
    extra: Any = None
    """Yours: any pytree; the kernel leaves it alone."""


def map_kernel(
    objective: Objective, transformation: optax.GradientTransformation
) -> tuple[Callable[..., MAPState], Callable[[MAPState], MAPState]]:
    """Return the pure functions of a MAP fit, for people who write their own loop.

    Parameters
    ----------
    objective : Objective
    transformation : optax.GradientTransformation

    Returns
    -------
    init : callable
        ``init(params=objective.start, *, random_seed=0, extra=None) -> MAPState``.
    step : callable
        ``step(state) -> state``: one value and gradient, one update. Pure: jit it, scan it. The data are in the state,
        so a jitted step takes new data (``state._replace(data=other.data)``) without compiling.

    Examples
    --------
    >>> import jax, optax, pymc as pm
    >>> import pm_psyphy as psy
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0, 10)
    ...     y = pm.Normal("y", mu, 1, observed=[1.0, 3.0])
    >>> init, step = psy.map_kernel(psy.compile_objective(model), optax.sgd(0.1, momentum=0.5))
    >>> state, losses = jax.lax.scan(lambda s, _: (step(s), s.loss), init(), length=200)
    >>> round(float(state.params["mu"]), 3)
    1.99
    """
    transformation = optax.with_extra_args_support(transformation)
    program = objective.program

    def init(params: Params | None = None, *, random_seed: int = 0, extra: Any = None) -> MAPState:
        params = {name: jnp.asarray(value) for name, value in (params or objective.start).items()}
        dtype = jax.eval_shape(program.value, params, objective.data, jax.random.key(0)).dtype
        return MAPState(
            params=params,
            opt_state=transformation.init(params),
            step=jnp.zeros((), jnp.int32),
            loss=jnp.asarray(jnp.inf, dtype),
            key=jax.random.key(random_seed),
            data=objective.data,
            extra=extra,
        )

    def step(state: MAPState) -> MAPState:
        key = jax.random.fold_in(state.key, state.step)

        def value_fn(params):
            return program.value(params, state.data, key)

        loss, grads = program.value_and_grad(state.params, state.data, key)
        params, opt_state = update_params(transformation, state.params, state.opt_state, loss, grads, value_fn)
        return state._replace(params=params, opt_state=opt_state, step=state.step + 1, loss=loss)

    return init, step


def update_params(transformation, params, opt_state, loss, grads, value_fn):
    """Take one optax update; line searches get the loss, its gradient and the function."""
    updates, opt_state = transformation.update(grads, opt_state, params, value=loss, grad=grads, value_fn=value_fn)
    return optax.apply_updates(params, updates), opt_state
