"""Settings that a caller has passed in; an error that says what to pass instead, where one is no whole number, out."""

from typing import Any

import numpy as np


def check_whole(least: int = 1, **settings: Any) -> None:
    """Raise if a setting is no whole number, or below the least that is allowed.

    Parameters
    ----------
    least : int
    **settings
        Each by the name under which it was passed.

    Raises
    ------
    ValueError
    """
    for name, number in settings.items():
        if not isinstance(number, int | np.integer) or number < least:
            raise ValueError(f"{name} is {number!r}. Pass a whole number of at least {least}.")
