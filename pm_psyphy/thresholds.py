"""A fitted field in; the stimuli that are told apart in a given proportion of trials, in every direction, come out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytensor
import xarray as xr
from pytensor.graph.traversal import walk
from scipy import special

from pm_psyphy.draws import Draws
from pm_psyphy.linker import translate
from pm_psyphy.psychophysics.covariances import check_covariances
from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.oddity import oddity_log_odds
from pm_psyphy.psychophysics.tensor import pt
from pm_psyphy.psychophysics.wishart import WishartProcess, check_points
from pm_psyphy.result import MAPResult
from pm_psyphy.rows import RUN_ONCE

# So many pairs of points are evaluated at once.
PAIRS = 20_000
# Where a first crossing is looked for, in units of the distance at which a locally constant field would have it.
SCAN = np.array([0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.35, 1.6, 2.0, 2.6, 3.5, 5.0, 8.0, 13.0, 25.0, 60.0, 200.0])


@dataclass(frozen=True, eq=False)
class ThresholdContours:
    """Thresholds around R references in n directions, for one estimate or S posterior draws.

    Attributes
    ----------
    references : ndarray, (R, D)
    directions : ndarray, (n, D)
        Of unit length.
    radii : ndarray, (R, n) or (S, R, n)
        Distance from the reference at which the proportion correct reaches the criterion for the first time; NaN where
        it does not inside the domain.
    ellipses : ndarray, (R, D, D) or (S, R, D, D)
        Matrices M of the best ellipses (ellipsoids), x' M^-1 x = 1 around the reference: by least squares of
        x' M^-1 x - 1 over the contour's points. NaN where too few points exist.
    criterion : float
        Proportion correct at the contour.
    """

    references: np.ndarray
    directions: np.ndarray
    radii: np.ndarray
    ellipses: np.ndarray
    criterion: float

    @property
    def points(self) -> np.ndarray:
        """The comparisons at threshold, (R, n, D) or (S, R, n, D)."""
        return self.references[:, None] + self.radii[..., None] * self.directions

    @property
    def n_missing(self) -> int:
        """How many directions have no threshold inside the domain."""
        return int(np.isnan(self.radii).sum())

    def quantile(self, q: float) -> "ThresholdContours":
        """Return the contours at a quantile of the draws, direction by direction.

        Parameters
        ----------
        q : float
            In [0, 1]. Where a draw has no threshold it lies beyond the border: a direction has none if so many draws
            have none that the quantile does.
        """
        if self.radii.ndim != 3:
            raise ValueError("These contours have no draws. Pass a posterior to threshold_contours for quantiles.")
        # As large as can be, but not infinite, of which 0 times is no number.
        beyond = 1e300
        radii = np.quantile(np.where(np.isnan(self.radii), beyond, self.radii), q, axis=0)
        radii = np.where(radii < 1e-20 * beyond, radii, np.nan)
        return replace(self, radii=radii, ellipses=fit_ellipses(self.directions, radii))

    def restore(self, domain: Domain) -> "ThresholdContours":
        """Return the contours in stimulus units, from those of the model.

        Parameters
        ----------
        domain : Domain
            As `Trials.domain` holds it.
        """
        step = self.directions * (domain.high - domain.low) / 2
        length = np.linalg.norm(step, axis=-1)
        return replace(
            self,
            references=domain.restore(self.references),
            directions=step / length[:, None],
            radii=self.radii * length,
            ellipses=domain.restore_covariance(self.ellipses),
        )

    def __repr__(self) -> str:
        *draws, n_references, n_directions = self.radii.shape
        missing = f", {self.n_missing} without a threshold inside the domain" if self.n_missing else ""
        return (
            f"ThresholdContours({self.criterion:.1%} correct, {f'{draws[0]} draws, ' if draws else ''}"
            f"{n_references} references x {n_directions} directions{missing})"
        )


def threshold_contours(
    fit: Any,
    field: WishartProcess,
    references: Any,
    *,
    criterion: float = 2 / 3,
    n_directions: int = 16,
    directions: Any = None,
    task: Callable[[Any, Any, Any], Any] = oddity_log_odds,
    chance: float = 1 / 3,
    lapse_rate: float = 0.0,
) -> ThresholdContours:
    """Find how far a comparison must be from its reference to be told apart, in every direction.

    By root-finding (Chandrupatla's method) on the exact probability, to the first crossing within [-1, 1]^D, for all
    references and directions at once.

    Parameters
    ----------
    fit : MAPResult, LaplacePosterior, DataTree, mapping of str to array, or None
        The estimate; or posterior draws, a DataTree with a ``posterior`` or draws (S, ...) by the names of the model's
        variables; or None for a field with known weights.
    field : WishartProcess
    references : array, (R, D)
        In [-1, 1].
    criterion : float
        Proportion correct, above `chance` and below 1 - `lapse_rate`.
    n_directions : int
        Evenly spaced on the circle or (D > 2) the sphere. In one dimension there are two.
    directions : array, (n, D), optional
        Given, used instead; any length but 0.
    task : callable
        Takes field, reference and comparison, returns the log-odds of a correct response.
    chance, lapse_rate : float
        See `Response`.

    Returns
    -------
    ThresholdContours

    Raises
    ------
    ValueError
        If the criterion is out of range, a reference outside the domain, or its covariance singular.
    """
    if not chance < criterion < 1 - lapse_rate:
        raise ValueError(
            f"criterion is {criterion:.4g}. Pass a proportion correct between chance, {chance:.4g}, and the best "
            f"performance, {1 - lapse_rate:.4g}."
        )
    references = np.atleast_2d(np.asarray(references, float))
    check_points(references, field.input_dim)
    directions = spread_directions(field.input_dim, n_directions) if directions is None else _normalise(directions)
    # Without lapses the observer is at this proportion, and these are its log-odds.
    p = chance + (criterion - chance) * (1 - chance) / (1 - chance - lapse_rate)
    weights, diag_term, has_draws = _read_field(fit, field)
    evaluate = _compile_field(task, field.input_dim, field.basis_degree, field.extra_dims, pytensor.config.floatX)
    starts = np.broadcast_to(references[:, None], (len(references), *directions.shape))
    border = _reach_border(starts, directions)

    def find(weights, diag_term):
        longest = np.broadcast_to(border, (len(weights), *border.shape))
        pairs = (len(weights), starts.size // field.input_dim, field.input_dim)

        def exceed(radius):
            comparisons = starts + np.clip(radius, 0, longest)[..., None] * directions
            here = np.broadcast_to(starts, comparisons.shape).reshape(pairs)
            log_odds, _ = evaluate(weights, diag_term, here, comparisons.reshape(pairs))
            return log_odds.reshape(longest.shape) - special.logit(p)

        places = np.broadcast_to(references, (len(weights), *references.shape))
        _, covariances = evaluate(weights, diag_term, places, places)
        known = check_covariances(covariances if has_draws else covariances[0]).reshape(covariances.shape)
        return _find_first_root(exceed, _guess(known, directions, p), longest)

    # All calls have one shape, so that they share what is compiled.
    size = min(max(PAIRS // border.size, 1), len(weights))
    parts = [np.minimum(np.arange(i, i + size), len(weights) - 1) for i in range(0, len(weights), size)]
    radii = np.concatenate([find(weights[part], diag_term[part]) for part in parts])[: len(weights)]
    radii = radii if has_draws else radii[0]
    return ThresholdContours(references, directions, radii, fit_ellipses(directions, radii), float(criterion))


def spread_directions(input_dim: int, n: int) -> np.ndarray:
    """Return n unit vectors, evenly spaced on the circle, nearly so on spheres.

    Parameters
    ----------
    input_dim : int
        D.
    n : int

    Returns
    -------
    ndarray, (n, D)
        For D = 1 always -1 and 1.
    """
    if input_dim == 1:
        return np.array([[-1.0], [1.0]])
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n_directions is {n!r}. Pass a whole number of at least 1.")
    if input_dim == 2:
        angle = 2 * np.pi * np.arange(n) / n
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if input_dim == 3:
        # Fibonacci's lattice
        height = 1 - (2 * np.arange(n) + 1) / n
        angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
        width = np.sqrt(1 - height**2)
        return np.stack([width * np.cos(angle), width * np.sin(angle), height], axis=1)
    from scipy import stats  # slow to import

    sobol = stats.qmc.MultivariateNormalQMC(np.zeros(input_dim), rng=np.random.default_rng(0))
    return _normalise(sobol.random(2 ** int(np.ceil(np.log2(max(n, 2)))))[:n])


def fit_ellipses(directions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the ellipsoids through points around the origin; see `ThresholdContours.ellipses`.

    Parameters
    ----------
    directions : ndarray, (n, D)
        Unit vectors.
    radii : ndarray, (..., n)

    Returns
    -------
    ndarray, (..., D, D)
    """
    d = directions.shape[1]
    rows, columns = np.triu_indices(d)
    products = directions[:, rows] * directions[:, columns] * np.where(rows == columns, 1, 2)
    ellipses = np.full((*radii.shape[:-1], d, d), np.nan)
    for index in np.ndindex(radii.shape[:-1]):
        known = np.isfinite(radii[index])
        # Scaled to order one, so that the solution does not depend on the unit.
        scale = np.median(radii[index][known]) if known.any() else 1.0
        design = products[known] * ((radii[index][known] / scale) ** 2)[:, None]
        entries, _, rank, _ = np.linalg.lstsq(design, np.ones(len(design)))
        if rank < len(rows):
            continue
        inverse = np.zeros((d, d))
        inverse[rows, columns] = inverse[columns, rows] = entries
        if np.linalg.eigvalsh(inverse)[0] > 0:
            ellipses[index] = np.linalg.inv(inverse) * scale**2
    return ellipses


@lru_cache
def _compile_field(task: Callable, input_dim: int, basis_degree: int, extra_dims: int, floatx: str) -> Callable:
    """Return a compiled function of S fields and pairs of points: log-odds (S, N), references' covariances."""
    weights = pt.tensor(
        "weights", dtype=floatx, shape=(*[basis_degree + 1] * input_dim, input_dim, input_dim + extra_dims)
    )
    diag_term = pt.scalar("diag_term", dtype=floatx)
    reference, comparison = (
        pt.matrix(name, dtype=floatx, shape=(None, input_dim)) for name in ("reference", "comparison")
    )
    field = WishartProcess(
        "field",
        input_dim=input_dim,
        basis_degree=basis_degree,
        extra_dims=extra_dims,
        diag_term=diag_term,
        weights=weights,
    )
    outputs = [task(field, reference, comparison), field.covariance(reference)]
    function = jax.jit(jax.vmap(translate([weights, diag_term, reference, comparison], outputs, on_host=set())))
    return lambda *arrays: [np.asarray(out, float) for out in function(*(np.asarray(a, floatx) for a in arrays))]


def _read_field(fit: Any, field: WishartProcess) -> tuple[Any, Any, bool]:
    """Return weights and diag_term with a leading axis of draws, and whether there are draws."""
    if field.weights.ndim != field.input_dim + 2:
        raise ValueError(
            f"The weights of {field.name!r} have {field.weights.ndim} axes, one field has {field.input_dim + 2}. "
            "Declare a WishartProcess with the weights of one observer."
        )
    expressions = [pt.as_tensor(field.weights), pt.as_tensor(field.diag_term)]
    if fit is None or isinstance(fit, MAPResult):
        values: Any = pytensor.function([], expressions, mode=RUN_ONCE)() if fit is None else fit.evaluate(expressions)
        return np.asarray(values[0])[None], np.asarray(values[1])[None], False
    if isinstance(fit, Draws):
        return *fit.evaluate(expressions), True
    if isinstance(fit, xr.DataTree):
        posterior = fit["posterior"].dataset
        stacked = posterior.stack(sample=("chain", "draw")).transpose("sample", ...)
        fit = {str(name): stacked[name].to_numpy() for name in posterior.data_vars}
    weights, diag_term = _evaluate_draws(fit, expressions)
    return weights, diag_term, True


def _evaluate_draws(draws: Mapping[str, Any], expressions: list[Any]) -> list[np.ndarray]:
    known: dict[str, Any] = {}

    def expand(variable):
        if variable.name in draws:
            known[variable.name] = variable
            return None
        return variable.owner.inputs if variable.owner is not None else None

    for _ in walk(expressions, expand):
        pass
    if not known:
        raise ValueError(f"The draws hold {', '.join(draws)}, and no variable on which this field's weights depend.")
    inputs = list(known.values())
    function = pytensor.function(inputs, expressions, mode=RUN_ONCE, on_unused_input="ignore")
    n = len(draws[next(iter(known))])
    results = [function(*(np.asarray(draws[name][i], v.dtype) for name, v in known.items())) for i in range(n)]
    return [np.stack(column) for column in zip(*results, strict=True)]


def _guess(covariances: np.ndarray, directions: np.ndarray, p: float) -> np.ndarray:
    """Return about the distances (S, R, n) of thresholds if each reference's covariance held everywhere."""
    # What matters is the order of this d'.
    d_prime = np.sqrt(2) * (special.ndtri((1 + p) / 2) + 0.3)
    return d_prime / np.sqrt(np.einsum("nd,srde,ne->srn", directions, np.linalg.inv(covariances), directions))


def _reach_border(starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.min(np.where(directions == 0, np.inf, (np.sign(directions) - starts) / directions), axis=-1)


def _find_first_root(exceed: Callable, guess: np.ndarray, longest: np.ndarray) -> np.ndarray:
    low, high, found = np.zeros_like(longest), np.full_like(longest, np.nan), np.zeros(longest.shape, bool)
    for factor in (*SCAN, np.inf):
        radius = np.minimum(factor * guess, longest)
        above = exceed(radius) > 0
        high = np.where(above & ~found, radius, high)
        found |= above
        low = np.where(found, low, radius)
        if np.all(found | (radius == longest)):
            break
    if not found.any():
        return high
    from scipy.optimize import elementwise  # slow to import

    flat = np.flatnonzero(found)

    def exceed_at(radius, index):
        # The search drops what has converged; the compiled function wants its full shape.
        padded = low.copy()
        padded.flat[index.astype(int)] = radius
        return exceed(padded).ravel()[index.astype(int)]

    bracket = (low.ravel()[flat], high.ravel()[flat])
    solution = elementwise.find_root(exceed_at, bracket, args=(flat.astype(float),))
    radii = np.full(longest.shape, np.nan)
    radii.flat[flat] = solution.x
    return radii


def _normalise(directions: Any) -> np.ndarray:
    directions = np.atleast_2d(np.asarray(directions, float))
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    if not np.all(length > 0):
        raise ValueError("A direction has length 0. Pass vectors of any other length.")
    return directions / length
