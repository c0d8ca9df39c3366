"""A PyMC model and shapes in; what `find_map` runs on data of these shapes is compiled."""

from collections.abc import Mapping, Sequence

import numpy as np
import optax
import pymc as pm

from pm_psyphy.compiling.devices import compute_plainly, find_device
from pm_psyphy.compiling.from_model import prepare_objective
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.compiled_loop import get_loop
from pm_psyphy.optimizing.optimizers import LearningRate, make_transformation
from pm_psyphy.rows.spare_rows import arrange_rows


@compute_plainly
def precompile(
    model: pm.Model | Objective | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    optimizer: str | optax.GradientTransformation | None = None,
    learning_rate: LearningRate | None = None,
    momentum: float | None = None,
    starts: int = 1,
    device: str | None = None,
) -> None:
    """Compile what `find_map` runs on data of some shapes, before there are any data.

    A fit of the model with these settings compiles nothing then. Nor does a fit in another process, if both have called
    `cache_compilation` first. With minibatches and `shard` other programs run, which are not compiled here.

    Parameters
    ----------
    model : pm.Model or Objective, optional
        Default: the model in context.
    shapes : dict of str to tuple of int, optional
        By the names of the data. Default, also for those that are not named: the shapes of the model's own data.
    optimizer, learning_rate, momentum, starts, device
        As of `find_map`.

    Raises
    ------
    ValueError
        If a name is unknown, or the shapes do not fit the model.
    """
    objective = prepare_objective(model, device=find_device(device))
    arrays = {n: np.resize(np.asarray(objective.data.get(n, 0)), shape) for n, shape in (shapes or {}).items()}
    objective = objective.with_data(**arrays)
    transformation = make_transformation(
        optimizer, stochastic=objective.stochastic, learning_rate=learning_rate, momentum=momentum
    )
    placed = arrange_rows(objective, starts)
    points = {name: np.repeat(value[None], starts, axis=0) for name, value in objective.start.items()}
    get_loop(placed.program, transformation, points, placed.data)
    objective.constrain(objective.start)
