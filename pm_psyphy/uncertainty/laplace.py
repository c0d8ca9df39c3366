"""A fit in; the Gaussian that has its mode and curvature, its draws and its evidence come out."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pm_psyphy.common.settings import check_whole
from pm_psyphy.common.tables import Table
from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.flat_parameters import Layout, find_layout
from pm_psyphy.compiling.from_model import change_density
from pm_psyphy.compiling.objective import Objective
from pm_psyphy.optimizing.compiled_loop import Settings
from pm_psyphy.optimizing.lbfgs import lbfgs
from pm_psyphy.optimizing.minimise import minimise
from pm_psyphy.optimizing.status import Status
from pm_psyphy.results.draws import Draws, over_draws
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.rows.spare_rows import arrange_rows
from pm_psyphy.uncertainty.curvature import DIRECTIONS, Curvature, measure_curvature
from pm_psyphy.uncertainty.hessian_spectrum import Spectrum, decompose, sum_over_columns
from pm_psyphy.uncertainty.pareto_smoothing import POOR_K, smooth_weights
from pm_psyphy.uncertainty.rotations import find_orbit

MAX_HESSIANS = 50
MAX_HALVINGS = 40
# Of Newton's decrement, twice what a step would lower the loss by: below it the mode is near.
CLOSE = 1e-8
# An eigenvalue of the Hessian, scaled to a diagonal of ones, is zero below eps ** FLAT. With a Hessian that is not yet
# the mode's, it may be below eps ** SUSPECT.
FLAT, SUSPECT = 0.6, 0.3
# Weighted draws of a Gaussian near the posterior count for at least this share of their number.
NEAR = 0.9
# An unconstrained value beyond it is at the edge of its support, or very near; so many steps lead back from there.
FAR, STEPS_BACK = 10.0, 2000
OPTIMIZER = lbfgs()


@dataclass(frozen=True, repr=False, eq=False)
class Gaussian:
    """What a mode and the Hessian there define; see `LaplacePosterior`."""

    objective: Objective
    laid: Objective
    """The same density, as it is computed: in blocks of rows, or with rows to spare."""
    mode: dict[str, np.ndarray]
    loss: float
    factor: Any
    flat: np.ndarray
    log_evidence: float
    rotating: tuple[str, ...]
    method: str

    @property
    def n_flat(self) -> int:
        """How many directions change nothing, such as the orthogonal freedom of a Wishart process."""
        return self.flat.shape[1]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Value variables whose rotations are flat, and which the coordinates across them leave out."""
        return self.rotating if self.n_flat else ()


@dataclass(frozen=True, repr=False, eq=False)
class LaplacePosterior(Draws, Gaussian):
    """A Gaussian approximation of a posterior: a mapping from the model's names to draws, (S, ...).

    It is Gaussian in PyMC's unconstrained space, around the mode of the density there, which has the transforms'
    Jacobian and so is not quite the MAP estimate. The draws are transformed to the user's variables.

    Attributes
    ----------
    mode : dict of str to ndarray
        By value-variable name.
    loss : float
        Negative log density at the mode, with the Jacobian.
    factor : ndarray, (P, P - n_flat), or LowRankFactor
        The covariance is ``factor @ factor.T``. Parameters stand one after the other as in `mode`. Of more than 10,000
        parameters it is a diagonal plus a few directions, which has ``factor @ y`` only.
    flat : ndarray, (P, n_flat)
        An orthonormal basis of the directions that change nothing, such as the orthogonal freedom of a Wishart
        process; the draws leave them out.
    log_evidence : float
        Log marginal likelihood of the data. All rotations of a Wishart process's weights are integrated over. Other
        flat directions are not, because their length is unknown.
    rotating : tuple of str
        Value variables, the weights of Wishart processes, whose rotations are those directions; empty if others are.
    method : str
        How the Hessian was computed: ``"exact"`` or ``"central differences"``, and of how many directions if not whole.
    noise : ndarray, (S, P - n_flat)
        The standard normal numbers of which `factor` made the draws.
    """

    noise: np.ndarray = field(repr=False)

    @property
    def covariance(self) -> np.ndarray:
        """(P, P), of the unconstrained parameters."""
        return np.asarray(self.factor @ (self.factor.T @ np.eye(len(self.flat))))

    @cached_property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard errors of free variables and deterministics, by the delta method."""
        layout = find_layout(self.mode)
        found = self.objective.find_constrain(self.objective.list_names())
        function, graph = found.function, found.graph

        def add_squares(mode, factor, data):
            _, along = jax.linearize(lambda v: function(layout.split(v), data), mode)
            return sum_over_columns(factor, lambda column: jax.tree.map(jnp.square, along(column)))

        mode = layout.join(self.mode)
        run = self.objective.program.remember(("standard errors", layout, function), lambda: jax.jit(add_squares))
        sums = run(mode, self.factor.astype(mode.dtype), self.objective.values_of(graph))
        return {name: np.sqrt(np.asarray(sums[name])) for name in self if name in sums}

    @property
    def pareto_k(self) -> float:
        """k-hat of the draws as an importance sample of the posterior; above 0.7 the approximation is poor.

        It evaluates the density at each draw. Flat directions play no part. -inf where the posterior is this Gaussian,
        inf where no weights are usable.
        """
        return self._weights[1]

    @property
    def efficiency(self) -> float:
        """The share of the draws for which they would count as an importance sample: 1 if this is the posterior."""
        weights, _ = self._weights
        return float(1 / np.sum(weights**2) / len(weights))

    @cached_property
    def _weights(self) -> tuple[np.ndarray, float]:
        """Weights of the draws as a sample of the posterior, and k-hat."""
        program = self.laid.program
        run = program.remember(
            "losses of draws", lambda: over_draws(lambda params, data: program.value_alone(params, data, None))
        )
        losses = run(self.unconstrained, self.laid.data)
        return smooth_weights(0.5 * np.sum(self.noise**2, axis=1) - np.asarray(losses, float))

    @property
    def message(self) -> str:
        """What `pareto_k` and `efficiency` say of the approximation, in a sentence."""
        if self.is_near:
            return f"k-hat is {self.pareto_k:.2f}: the posterior is near this Gaussian."
        found = f"k-hat is {self.pareto_k:.2f}, above {POOR_K}"
        if self.pareto_k <= POOR_K:
            found = (
                f"k-hat is {self.pareto_k:.2f}, but weighted by the posterior the draws count for only "
                f"{self.efficiency:.0%} of their number"
            )
        return (
            f"{found}: the posterior is not near this Gaussian in all of its directions, and intervals and evidence "
            "may mislead. Use draws by psy.posterior(fit)."
        )

    @property
    def is_near(self) -> bool:
        """Whether the posterior is near this Gaussian."""
        return self.pareto_k <= POOR_K and self.efficiency >= NEAR

    def _tabulate(self) -> Table:
        flat = f", {self.n_flat} flat direction{'s' * (self.n_flat != 1)} left out" if self.n_flat else ""
        return replace(
            super()._tabulate(),
            foot=f"log evidence {self.log_evidence:.6g}, {self.method} Hessian of {len(self.flat):,} parameters{flat}",
        )


@compute_plainly
def laplace(fit: MAPResult, *, draws: int = 1000, random_seed: Any = None) -> LaplacePosterior:
    """Approximate the posterior by a Gaussian around its mode.

    The MAP estimate is the mode of the density of the user's variables. Newton steps go from there to the mode of the
    density in PyMC's unconstrained space, with the transforms' Jacobian. The exact Hessian there gives the Gaussian;
    of more than 10,000 parameters it is approximated by a diagonal plus as many directions as it takes.

    Parameters
    ----------
    fit : MAPResult
        Converged.
    draws : int
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    LaplacePosterior

    Raises
    ------
    TypeError
        If `fit` is not a MAPResult.
    ValueError
        If the fit did not converge, is of a stochastic objective, or has no mode near it; if more than 10,000
        parameters have a Hessian that is not close to a diagonal plus a low rank; or if `draws` is below 1.
    """
    check_fit(fit)
    check_whole(draws=draws)
    return draw_gaussian(find_gaussian(fit), draws, random_seed)


def draw_gaussian(near: Gaussian, draws: int, random_seed: Any) -> LaplacePosterior:
    """Return draws of a Gaussian.

    Parameters
    ----------
    near : Gaussian
    draws : int
    random_seed : int or numpy.random.Generator, optional

    Returns
    -------
    LaplacePosterior
    """
    layout = find_layout(near.mode)
    noise = np.random.default_rng(random_seed).standard_normal((draws, near.factor.shape[1]))
    steps = np.asarray(near.factor @ noise.T).T
    held = {f.name: getattr(near, f.name) for f in fields(Gaussian)}
    return LaplacePosterior(unconstrained=layout.split(layout.join(near.mode) + steps), noise=noise, **held)


def find_gaussian(fit: MAPResult | Gaussian) -> Gaussian:
    """Return the Gaussian around the mode in the unconstrained space near a fit."""
    if isinstance(fit, Gaussian):
        return fit
    check_fit(fit)
    return approximate(add_jacobian(fit.objective), fit.unconstrained)


def approximate(objective: Objective, unconstrained: dict[str, np.ndarray]) -> Gaussian:
    """Go to the mode of an objective by Newton's steps, and return the Gaussian there.

    Parameters
    ----------
    objective : Objective
    unconstrained : dict of str to ndarray
        Near the mode.

    Returns
    -------
    Gaussian
    """
    laid, layout = arrange_rows(objective, DIRECTIONS), find_layout(unconstrained)
    curvature = measure_curvature(laid, layout, np.asarray(layout.join(unconstrained)))
    mode, loss, spectrum = _find_mode(curvature, _leave_edges(laid, layout, curvature, unconstrained))
    spectrum.check(layout)
    factor, log_volume = spectrum.factorise()
    flat, split = spectrum.find_flat(), layout.split(mode)
    rotating, log_orbit = find_orbit(
        objective.model, split, flat.shape[1], lambda params: curvature.find_slope(np.asarray(layout.join(params)))[0]
    )
    log_evidence = log_volume + log_orbit - loss
    method = (
        curvature.method if spectrum.is_whole else f"{curvature.method}, diagonal plus rank {len(spectrum.values)},"
    )
    return Gaussian(objective, laid, split, loss, factor, flat, log_evidence, rotating, method)


def _leave_edges(
    objective: Objective, layout: Layout, curvature: Curvature, unconstrained: dict[str, np.ndarray]
) -> np.ndarray:
    """Return a point from which Newton's steps lead to the mode.

    A MAP estimate at the edge of its support, such as a scale of 0, lies anywhere far out in the unconstrained space,
    where the log Jacobian slopes evenly and the Hessian is uninformative. A search by gradients comes back from there.
    """
    vector = np.asarray(layout.join(unconstrained))
    model = objective.model
    changed = {model.rvs_to_values[rv].name for rv, transform in model.rvs_to_transforms.items() if transform}
    far = {n: (np.abs(v) > FAR) & (n in changed) for n, v in unconstrained.items()}
    if not objective.program.jacobian or not any(mask.any() for mask in far.values()):
        return vector
    settings = Settings(STEPS_BACK, tolerance=CLOSE, log_every=STEPS_BACK)
    begins = {n: np.where(far[n], objective.start[n], v).astype(v.dtype) for n, v in unconstrained.items()}
    for begin in (begins, unconstrained):
        loss, _ = curvature.find_slope(np.asarray(layout.join(begin)))
        if np.isfinite(loss):
            found = minimise(objective, OPTIMIZER, {n: np.asarray(v)[None] for n, v in begin.items()}, settings)
            return np.asarray(layout.join({name: stack[0] for name, stack in found.params.items()}))
    return vector


def check_fit(fit: Any) -> None:
    """Raise if there is no mode to expand around."""
    if not isinstance(fit, MAPResult):
        raise TypeError(f"Expected a MAPResult, got {type(fit).__name__}. Pass what find_map returns.")
    if fit.objective.stochastic:
        raise ValueError(
            "The objective draws random numbers (pm.Minibatch), and a minibatch does not have the curvature of the "
            "full data. Fit the model with all its data, from this estimate: "
            "find_map(model, initvals=fit.unconstrained)."
        )
    if fit.status in (Status.UNBOUNDED, Status.PLATEAU):
        raise ValueError(f"There is no mode to expand around. {fit.message}")
    if fit.status not in (Status.CONVERGED, Status.STALLED):
        raise ValueError(
            f"The fit has not converged, so there is no mode to expand around. {fit.message} "
            "Continue from it with find_map(model, initvals=fit.unconstrained)."
        )


def add_jacobian(objective: Objective) -> Objective:
    """Return the density in the unconstrained space, on the same data."""
    has_transforms = any(transform is not None for transform in objective.model.rvs_to_transforms.values())
    return change_density(objective, jacobian=True) if has_transforms else objective


def _find_mode(curvature: Curvature, vector: np.ndarray) -> tuple[np.ndarray, float, Spectrum]:
    """Return the mode that Newton's steps lead to, the loss there and the Hessian's spectrum."""
    precision = float(np.finfo(vector.dtype).eps)
    loss, gradient = curvature.find_slope(vector)
    # Off the mode, flat directions are not quite flat, and a step along them would have no end.
    zero = precision**SUSPECT
    for _ in range(MAX_HESSIANS):
        spectrum = decompose(curvature, vector, zero)
        _, decrement = spectrum.find_step(gradient)
        limit = max(CLOSE, precision * abs(loss))
        close = decrement <= limit
        vector, loss, gradient = _descend(curvature, spectrum, vector, loss, gradient, limit)
        # So near the mode, what curves down may be a flat direction, by what is left of the gradient.
        is_settled = not spectrum.is_saddle and spectrum.stays_flat(curvature, vector, precision**FLAT)
        if close and (zero == precision**FLAT or is_settled):
            return vector, loss, spectrum
        zero = precision**FLAT if close else zero
    raise ValueError(
        f"No mode of the density in the unconstrained space was found within {MAX_HESSIANS} Newton steps from the "
        f"fit; the largest derivative is {np.max(np.abs(gradient)):.2g}. There may be none, for example when a scale "
        "goes to zero: give it a prior that is 0 at 0, or sample the posterior."
    )


def _descend(curvature, spectrum, vector, loss, gradient, limit):
    """Take steps with one Hessian for as long as each is much shorter than the last.

    With a decrement below `limit`, rounding hides what the loss decreases by, and the slope decides.
    """
    step, decrement = spectrum.find_step(gradient)
    while decrement > 0:
        for halving in range(MAX_HALVINGS):
            trial = (vector + step * 0.5**halving).astype(vector.dtype)
            new_loss, new_gradient = curvature.find_slope(trial)
            if not np.isfinite([new_loss, *new_gradient]).all():
                continue
            new_step, new_decrement = spectrum.find_step(new_gradient)
            if new_loss <= loss - 1e-4 * 0.5**halving * decrement or new_decrement < 0.25 * decrement < limit:
                break
        else:
            return vector, loss, gradient
        vector, loss, gradient, step = trial, new_loss, new_gradient, new_step
        if new_decrement > 0.0625 * decrement:
            return vector, loss, gradient
        decrement = new_decrement
    return vector, loss, gradient
