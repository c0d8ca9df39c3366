"""Settings of a caller in; an error that says what to pass instead, where one is out of range, comes out."""

from typing import Any

import numpy as np


def check_whole(least: int = 1, /, **settings: Any) -> None:
    """Raise if a setting is no whole number, or below the least that is allowed.

    Parameters
    ----------
    least : int
    **settings
        Each by the name under which it was passed.
    """
    for name, number in settings.items():
        if not isinstance(number, int | np.integer) or number < least:
            raise ValueError(f"{name} is {number!r}. Pass a whole number of at least {least}.")


def check_interval(interval: float) -> None:
    """Raise if the width of an interval is no share of the probability."""
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval}. Pass a share between 0 and 1, such as 0.95.")
