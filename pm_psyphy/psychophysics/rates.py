"""Settings of an observer in; the same come out, or an error where known numbers are out of their range."""

from typing import Any

import numpy as np

from pm_psyphy.psychophysics.tensor import read_known


def check_rates(guess_rate: Any, lapse_rate: Any, *, guess_name: str = "guess_rate") -> None:
    """Raise if probabilities of guesses and lapses are known, and none.

    Parameters
    ----------
    guess_rate, lapse_rate : tensor, number or array
    guess_name : str
        For messages.
    """
    guess, lapse = read_known(guess_rate, guess_name), read_known(lapse_rate, "lapse_rate")
    for name, rate in ((guess_name, guess), ("lapse_rate", lapse)):
        if rate is not None and (wrong := rate[~((rate >= 0) & (rate < 1))]).size:
            raise ValueError(f"{name} is {wrong[0]:.4g}. Pass a probability from 0 up to, not including, 1.")
    if guess is not None and lapse is not None and np.any(guess + lapse >= 1):
        raise ValueError(
            f"lapse_rate is {np.max(lapse):.4g}. Pass a number from 0 up to, not including, {1 - np.max(guess):.4g}, "
            f"which is 1 - {guess_name}."
        )


def check_positive(name: str, value: Any) -> None:
    """Raise if numbers are known and not all of them positive."""
    known = read_known(value, name)
    if known is not None and (wrong := known[~((known > 0) & (known < np.inf))]).size:
        raise ValueError(f"{name} is {wrong[0]:.4g}. Pass a positive number.")


def is_zero(rate: Any) -> bool:
    """Whether a rate is given as the number 0; of data, which may change, never."""
    return isinstance(rate, int | float | np.number) and rate == 0
