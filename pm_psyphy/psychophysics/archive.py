"""A path in; the arrays of the NumPy archive there come out, or an error that says why not."""

import zipfile
import zlib
from pathlib import Path

import numpy as np


def read_archive(path: str | Path, advice: str) -> dict[str, np.ndarray]:
    """Return the arrays of an archive (``.npz``).

    Parameters
    ----------
    path : path
    advice : str
        What to do, for messages.

    Raises
    ------
    ValueError
        If the file is none, or is cut off.
    """
    with Path(path).open("rb") as file:
        try:
            with np.load(file) as archive:
                return dict(archive)
        except (ValueError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is no NumPy archive, or is damaged ({error}). {advice}") from None
