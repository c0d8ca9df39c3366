"""A Trajectory in; a MAPResult comes out: the estimate by the user's names, and how it was reached."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from pytensor.graph.basic import Variable

from pm_psyphy.common.identity import ByIdentity
from pm_psyphy.common.tables import ShownAsTable, Table, abridge
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.diagnosis import Diagnosis
from pm_psyphy.optimizing.minimise import Trajectory
from pm_psyphy.optimizing.status import Status, describe
from pm_psyphy.results.datatree import make_datatree


class History(NamedTuple):
    """The path of a fit, at every `log_every`-th step; T entries."""

    step: np.ndarray
    """(T,)"""
    loss: np.ndarray
    """(T,) For L-BFGS the lowest so far, else the loss at that step."""
    gradient_norm: np.ndarray
    """(T,) Largest absolute derivative."""


class Starts(NamedTuple):
    """How each of B starts ended."""

    loss: np.ndarray
    """(B,)"""
    status: tuple[Status, ...]
    n_steps: np.ndarray
    """(B,)"""
    gradient_norm: np.ndarray
    """(B,)"""
    unconstrained: dict[str, np.ndarray]
    """Best parameters of each start, (B, ...)."""


@dataclass(frozen=True, repr=False, eq=False)
class MAPResult(ShownAsTable, ByIdentity, Mapping[str, np.ndarray]):
    """A maximum a posteriori estimate: a mapping from the model's names to arrays.

    Attributes
    ----------
    values_by_name : dict of str to ndarray
        Free variables and deterministics at the estimate; ``fit["mu"]`` is ``fit.values_by_name["mu"]``.
    unconstrained : dict of str to ndarray
        The estimate by value-variable name, as ``model.initial_point()`` gives.
    loss : float
        Negative log posterior there, without the transforms' Jacobian.
    status : Status
    message : str
        How the fit ended, with figures.
    n_steps : int
        Steps until the fit ended.
    gradient_norm : float
        Largest absolute derivative of the loss at the estimate.
    history : History
    starts : Starts or None
        How each of several starts ended.
    optimizer : str
    route : str
        Where the gradient came from; see `Objective`.
    device : str
    compile_seconds, run_seconds : float
        Time to build and compile, and to run.
    objective : Objective
        What was minimised.
    """

    values_by_name: dict[str, np.ndarray]
    unconstrained: dict[str, np.ndarray]
    loss: float
    status: Status
    message: str
    n_steps: int
    gradient_norm: float
    history: History
    starts: Starts | None
    optimizer: str
    device: str
    compile_seconds: float
    run_seconds: float
    objective: Objective = field(repr=False)
    is_of_model: bool = field(default=False, repr=False)
    """Whether its data are those that the model held, and not others that were put in their place."""
    stochastic: bool = field(default=False, repr=False)
    """Whether the loss was random, for example because of minibatches."""

    @property
    def converged(self) -> bool:
        """Whether a further step is predicted to lower the loss by less than the tolerance."""
        return self.status is Status.CONVERGED

    @property
    def route(self) -> str:
        """Where the gradient came from; see `Objective`."""
        return self.objective.route

    @property
    def has_failed(self) -> bool:
        """Whether the fit ended otherwise than it was meant to: a random loss takes all its steps."""
        return not (self.converged or (self.stochastic and self.status is Status.MAX_STEPS))

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.values_by_name[name]
        except KeyError:
            raise KeyError(f"{name!r} is not in this fit, which has {', '.join(self)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def _tabulate(self) -> Table:
        runs = f"best of {len(self.starts.loss)} starts, " if self.starts else ""
        return Table(
            f"MAPResult: {self.message}",
            [(name, abridge(value)) for name, value in self.items()],
            foot=f"loss {self.loss:.6g}, {runs}{self.optimizer} on {self.device}, compiled in "
            f"{_format_seconds(self.compile_seconds)}, ran in {_format_seconds(self.run_seconds)}",
        )

    def evaluate(self, expression: Any, *, data: Mapping[str, Any] | None = None) -> Any:
        """Compute any tensor of the model at the estimate.

        Parameters
        ----------
        expression : TensorVariable, or sequence of them
            In terms of the model's variables; observed variables stand for their data.
        data : dict of str to array, optional
            New values of the model's data by name, of any length, to predict for. Default: those of the fit, whatever
            the model holds now.

        Returns
        -------
        ndarray, or list of ndarray

        Raises
        ------
        ValueError
            If the expression draws random numbers of its own, or a name is no data of the model.
        """
        objective = self.objective if data is None else self.objective.replace_data(data)
        expressions = [expression] if isinstance(expression, Variable) else list(expression)
        if data is None and self.is_of_model and (changed := self.objective.find_changed(expressions)):
            warnings.warn(
                f"The model has other values of {', '.join(map(repr, changed))} now. These results are of the data of "
                "the fit; pass data={...} for others.",
                stacklevel=2,
            )
        return evaluate(objective, self.unconstrained, expression if isinstance(expression, Variable) else expressions)

    def to_datatree(self) -> xr.DataTree:
        """Return the fit as an ArviZ DataTree.

        Groups: ``posterior`` with one chain and one draw, ``unconstrained_posterior``, ``observed_data``,
        ``constant_data``, ``fit`` (as `pm.find_MAP` names it), ``history``, and ``starts`` where there were several.

        Returns
        -------
        xarray.DataTree
        """
        return make_datatree(self)

    def save(self, path: str | Path) -> None:
        """Save `to_datatree` as netCDF; `load` reads it, and so does ``xarray.open_datatree``.

        Parameters
        ----------
        path : path
        """
        self.to_datatree().to_netcdf(path)


def make_result(
    objective: Objective,
    trajectory: Trajectory,
    *,
    optimizer: str,
    device: str,
    compile_seconds: float,
    var_names: Sequence[str] | None,
    stochastic: bool = False,
    diagnosis: Diagnosis | None = None,
    is_of_model: bool = False,
) -> MAPResult:
    """Describe the best of the searches.

    Parameters
    ----------
    objective : Objective
    trajectory : Trajectory
    optimizer : str
        Its name.
    device : str
    compile_seconds : float
    var_names : sequence of str, optional
    stochastic : bool
        Whether the loss was random.
    diagnosis : Diagnosis, optional
        What was found out about the end of the best search.
    is_of_model : bool
        Whether the data are those of the model.

    Returns
    -------
    MAPResult
    """
    best = int(np.nanargmin(trajectory.loss))
    params = {name: trajectory.params[name][best] for name in objective.start}
    values = {name: np.asarray(value) for name, value in objective.constrain(params, var_names).items()}
    found = diagnosis or Diagnosis()
    status, norm, step = trajectory.status[best], float(trajectory.gradient_norm[best]), int(trajectory.last_step[best])
    status = found.judge(status)
    message = describe(status, step=step, gradient_norm=norm, stochastic=stochastic, optimizer=optimizer)
    history = History(trajectory.logged_steps, *trajectory.logged[:, best].T)
    reached = history.step <= step
    starts = Starts(
        trajectory.loss, tuple(trajectory.status), trajectory.last_step, trajectory.gradient_norm, trajectory.params
    )
    return MAPResult(
        values_by_name=values,
        unconstrained=params,
        loss=float(trajectory.loss[best]),
        status=status,
        message=" ".join(filter(None, [message, found.describe(status, values)])),
        n_steps=step,
        gradient_norm=norm,
        history=History(*(column[reached] for column in history)),
        starts=starts if len(trajectory.loss) > 1 else None,
        optimizer=optimizer,
        device=device,
        compile_seconds=compile_seconds,
        run_seconds=trajectory.run_seconds,
        objective=objective,
        is_of_model=is_of_model,
        stochastic=stochastic,
    )


def evaluate(objective: Objective, params: Mapping[str, np.ndarray], expression: Any) -> Any:
    """Compute tensors of the model at unconstrained parameters, on the host.

    Parameters
    ----------
    objective : Objective
    params : dict of str to ndarray
    expression : TensorVariable, or sequence of them

    Returns
    -------
    ndarray, or list of ndarray
    """
    results = objective.evaluate(params, [expression] if isinstance(expression, Variable) else list(expression))
    return results[0] if isinstance(expression, Variable) else results


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"
