"""A device's name in; the device, or a clear error, comes out."""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

# The process in which JAX was first asked for its devices.
_OWNER: list[int] = []


def check_process() -> None:
    """Raise if JAX cannot compute in this process.

    Raises
    ------
    RuntimeError
        If the process was forked from one that has computed, or the devices that JAX is told to use are not there.
    """
    if _OWNER and _OWNER[0] != os.getpid():
        raise RuntimeError(
            "This process was forked from one that has computed with JAX already, and would wait for its threads for "
            "ever. Start processes by multiprocessing.get_context('spawn'), or fit many data sets by find_maps."
        )
    if not _OWNER:
        try:
            jax.local_devices()
        except (RuntimeError, AssertionError) as error:  # what JAX raises first, and then
            wanted = jax.config.jax_platforms
            raise RuntimeError(
                f"JAX finds none of the devices that it is told to use, {wanted!r} ({error}). Unset JAX_PLATFORMS, or "
                "install pm_psyphy[cuda13] or pm_psyphy[cuda12] for a GPU."
            ) from error
        _OWNER.append(os.getpid())


def compute_plainly[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """Let JAX compile what a function does, and let NaN and inf be: searches go to where these are, and come back."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
            return function(*args, **kwargs)

    return call


def find_device(name: str | None) -> Any:
    """Return the first device of a platform, or the best device there is.

    Parameters
    ----------
    name : {"cpu", "gpu"} or None
        Any platform that JAX knows; None is JAX's own choice, a GPU before the CPU.

    Returns
    -------
    jax.Device

    Raises
    ------
    ValueError
        If JAX has no such device.
    """
    check_process()
    chosen = jax.config.jax_default_device if name is None else name
    if chosen is None:
        return jax.local_devices()[0]
    if not isinstance(chosen, str):
        return chosen
    try:
        return jax.local_devices(backend=chosen)[0]
    except RuntimeError as error:
        found = ", ".join(sorted({d.platform for d in jax.local_devices()}))
        raise ValueError(
            f"JAX has no device {chosen!r} here; it has {found}. "
            "Install pm_psyphy[cuda13] or pm_psyphy[cuda12] for a GPU, or leave `device` out."
        ) from error


def name_device(device: Any) -> str:
    """Return the name of a device for people."""
    return device.device_kind if device.platform != "cpu" else "cpu"


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
