"""An optimiser's name and settings in; an optax transformation comes out."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import optax

from pm_psyphy.compiling.flat_parameters import VectorTransformation
from pm_psyphy.optimizing.lbfgs import lbfgs

type LearningRate = float | Callable[[int], float]

NAMES = ("lbfgs", "adam", "sgd", "adamw")
LEARNING_RATES = {"adam": 1e-2, "adamw": 1e-2, "sgd": 1e-3}


def make_transformation(
    optimizer: str | optax.GradientTransformation | None,
    *,
    stochastic: bool,
    learning_rate: LearningRate | None = None,
    momentum: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation for a name, or the one given.

    Parameters
    ----------
    optimizer : {"lbfgs", "adam", "sgd", "adamw"}, optax.GradientTransformation or None
        None is ``"lbfgs"`` for a deterministic loss and ``"adam"`` for a stochastic one.
    stochastic : bool
        Whether the loss draws random numbers.
    learning_rate : float or optax schedule, optional
        Default: 1e-2 for Adam and AdamW, 1e-3 for SGD. L-BFGS finds its own.
    momentum : float, optional
        For SGD, in [0, 1); default 0.

    Raises
    ------
    TypeError, ValueError
        For an unknown optimiser, or settings that it does not have.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        if learning_rate is not None or momentum is not None:
            raise ValueError("An optax transformation carries its own learning_rate and momentum. Set them there.")
        return optax.with_extra_args_support(optimizer)
    name = optimizer or ("adam" if stochastic else "lbfgs")
    if not isinstance(name, str):
        raise TypeError(
            f"optimizer is a {type(name).__name__}. Pass {_list_names()} or an optax.GradientTransformation."
        )
    name = _simplify(name)
    if name not in NAMES:
        raise ValueError(
            f"There is no optimizer {optimizer!r}. Pass {_list_names()} or an optax.GradientTransformation."
        )
    if name == "lbfgs" and learning_rate is not None:
        raise ValueError("L-BFGS finds its step sizes itself. Drop learning_rate, or choose optimizer='sgd' or 'adam'.")
    if momentum is not None and name != "sgd":
        raise ValueError(f"optimizer={name!r} has no momentum. Drop it, or choose optimizer='sgd'.")
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}. Pass a number from 0 up to, not including, 1.")
    if learning_rate is not None and not callable(learning_rate) and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}. Pass a positive number or an optax schedule.")
    return _make(name, LEARNING_RATES.get(name) if learning_rate is None else learning_rate, momentum)


def name_optimizer(
    optimizer: str | optax.GradientTransformation | None,
    stochastic: bool,
    learning_rate: LearningRate | None,
    momentum: float | None,
) -> str:
    """Return what a person calls this optimiser, with its settings."""
    if isinstance(optimizer, optax.GradientTransformation):
        return "optax transformation"
    name = _simplify(optimizer or ("adam" if stochastic else "lbfgs"))
    if name == "lbfgs":
        return "L-BFGS"
    rate = LEARNING_RATES[name] if learning_rate is None else learning_rate
    settings = ["scheduled learning rate" if callable(rate) else f"learning rate {rate:g}"]
    settings += [f"momentum {momentum:g}"] if momentum else []
    return f"{ {'adam': 'Adam', 'adamw': 'AdamW', 'sgd': 'SGD'}[name] } ({', '.join(settings)})"


# One object per setting: the compiled loops of a model are found again by the identity of their transformation.
@lru_cache(maxsize=64)
def _make(name: str, learning_rate: Any, momentum: float | None) -> optax.GradientTransformationExtraArgs:
    if name == "lbfgs":
        return lbfgs()
    if name == "sgd":
        transformation = optax.sgd(learning_rate, momentum)
    else:
        transformation = {"adam": optax.adam, "adamw": optax.adamw}[name](learning_rate)
    return VectorTransformation(*optax.with_extra_args_support(transformation))


def _simplify(name: str) -> str:
    return name.lower().replace("-", "")


def _list_names() -> str:
    return ", ".join(repr(name) for name in NAMES)
