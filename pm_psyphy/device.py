"""A device's name in; the device, or a clear error, comes out, and an objective's data on it."""

from dataclasses import replace
from typing import Any

import jax

from pm_psyphy.objective import Objective


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
    if name is None:
        return jax.config.jax_default_device or jax.local_devices()[0]
    try:
        return jax.local_devices(backend=name)[0]
    except RuntimeError as error:
        found = ", ".join(sorted({d.platform for d in jax.local_devices()}))
        raise ValueError(
            f"JAX has no device {name!r} here; it has {found}. "
            "Install pm_psyphy[cuda13] or pm_psyphy[cuda12] for a GPU, or leave `device` out."
        ) from error


def move(objective: Objective, device: Any) -> Objective:
    """Return the objective with its data on a device.

    Parameters
    ----------
    objective : Objective
    device : jax.Device

    Returns
    -------
    Objective
    """
    if all(array.devices() == {device} for array in objective.data.values()):
        return objective
    placed = objective.program.compiled.setdefault("moved", {})
    for name, array in objective.data.items():
        if placed.get((name, device), (None,))[0] is not array:
            placed[name, device] = array, jax.device_put(array, device)
    return replace(objective, data={name: placed[name, device][1] for name in objective.data})
