"""A fitted field in; the stimuli that are told apart in a given proportion of trials, in every direction, come out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from pm_psyphy.common.arrays import convert_array, read_array
from pm_psyphy.common.settings import check_whole
from pm_psyphy.common.tables import MOST_ROWS, ShownAsTable, Table, say_left_out
from pm_psyphy.psychophysics.covariances import check_covariances
from pm_psyphy.psychophysics.domain import Domain
from pm_psyphy.psychophysics.oddity import oddity_log_odds
from pm_psyphy.psychophysics.rates import check_rates
from pm_psyphy.psychophysics.wishart import WishartProcess, check_points
from pm_psyphy.reports.first_crossings import find_first_crossings
from pm_psyphy.reports.task_function import TaskFunction, compile_task
from pm_psyphy.reports.tested_range import ShownRange, find_range, read_tested

# Steps of a ray, for the task whose smoothness is that of the field, and for others.
SMOOTH, UNKNOWN = 64, 128
# At quantiles a missing threshold is as large as can be, but not infinite, of which 0 times is no number.
BEYOND = 1e300


@dataclass(frozen=True, repr=False, eq=False)
class ThresholdContours(ShownAsTable):
    """Thresholds around R references in n directions, for one estimate or S posterior draws.

    Attributes
    ----------
    references : ndarray, (R, D)
    directions : ndarray, (n, D)
        Unit vectors.
    radii : ndarray, (R, n) or (S, R, n)
        Distance from the reference at which the proportion correct reaches the criterion for the first time; NaN where
        it does not inside the domain. Of an estimate, bounds stand where `status` says so.
    ellipses : ndarray, (R, D, D) or (S, R, D, D)
        Matrices M of the best ellipses (ellipsoids), x' M^-1 x = 1 around the reference: by least squares of
        x' M^-1 x - 1 over the contour's points. NaN where too few points exist.
    criterion : float
        Proportion correct at the contour.
    status : ndarray of str, (R, n), or None
        What the trials say of each threshold; None where they are not known. ``"measured"``; ``"below"``: no response
        nearby was incorrect, and the radius is an upper bound, the smallest distance that was tested or the model's
        threshold where that is larger; ``"above"``: no more responses nearby were correct than by guessing, and the
        radius is a lower bound, the largest distance that was tested or the model's threshold where that is smaller;
        ``"unknown"``: too few trials to tell; ``"extrapolated"``: the model's threshold is less than half the smallest
        distance that was tested nearby, more than twice the largest, or outside the domain, so that it comes from the
        prior, or from the field's shape. Of draws, which stay as they are, it is that of their medians; `quantile`
        gives bounds. Nearby are the trials within two cells of the field, 2 / (basis_degree + 1) of the domain each,
        and within 45 degrees of the direction or its opposite; where they are fewer than 20, all.
    tested : ShownRange or None
        The distances that were tested nearby, ``smallest`` and ``largest``, (R, n) each.
    """

    references: np.ndarray
    directions: np.ndarray
    radii: np.ndarray
    ellipses: np.ndarray
    criterion: float
    status: np.ndarray | None = None
    tested: ShownRange | None = None

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
        radii = np.quantile(np.where(np.isnan(self.radii), BEYOND, self.radii), q, axis=0)
        radii = np.where(radii < 1e-20 * BEYOND, radii, np.nan)
        return _make_contours(self.references, self.directions, radii, self.criterion, self.tested)

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
            tested=None if self.tested is None else self.tested.scale(length),
        )

    def _tabulate(self) -> Table:
        *draws, n_references, n_directions = self.radii.shape
        missing = f", {self.n_missing} without a threshold inside the domain" if self.n_missing else ""
        middle = self.quantile(0.5).radii if draws else self.radii
        rows = [
            [", ".join(f"{x:.3g}" for x in reference), *_show_range(radii)]
            for reference, radii in zip(self.references[:MOST_ROWS], middle, strict=False)
        ]
        return Table(
            f"ThresholdContours: {self.criterion:.1%} correct, {f'{draws[0]} draws, ' if draws else ''}"
            f"{n_references} references x {n_directions} directions{missing}{self._describe_status()}",
            rows,
            ["reference", "smallest threshold", "largest"],
            say_left_out(n_references),
        )

    def _describe_status(self) -> str:
        if self.status is None:
            return ""
        known = np.full(self.status.shape, True) if self.radii.ndim == 3 else np.isfinite(self.radii)
        bounds = {"below": "upper bounds", "above": "lower bounds", "unknown": "not measured"}
        names = bounds | {"extrapolated": "extrapolated"}
        counts = {what: int(np.sum(known & (self.status == status))) for status, what in names.items()}
        return "".join(f", {count} {what}" for what, count in counts.items() if count)


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
    resolution: int | None = None,
    tested: Any = "fit",
) -> ThresholdContours:
    """Find how far a comparison must be from its reference to be told apart, in every direction.

    By root-finding (Chandrupatla's method) on the exact probability, to the first crossing within [-1, 1]^D, for all
    references and directions at once. Each way from a reference to the border is first divided into steps, and these
    are halved where the probability does not run smoothly or has a maximum near the criterion.

    Parameters
    ----------
    fit : MAPResult, LaplacePosterior, DataTree, mapping of str to array, or None
        The estimate; or posterior draws, a DataTree with a ``posterior`` or draws (S, ...) by the names of the model's
        variables; or None for a field with known weights. Variables of the model that the task uses have their values
        from here, too.
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
    resolution : int, optional
        In how many steps a way to the border is divided at least; they are smaller near the reference. Default: 64 for
        `oddity_log_odds`, which is as smooth as the field, 128 for a task of your own. A smooth rise above the
        criterion and fall back is found if it is wider than a step; a narrower one only if the log-odds at the ends of
        a step show something of it.
    tested : Trials, (reference, comparison), (reference, comparison, response), "fit" or None
        What was shown to the observer, by which `ThresholdContours.status` tells thresholds from bounds. Default: the
        trials of the model that was fitted, if its responses are Bernoulli or binomial and depend on this field by a
        difference ``comparison - reference``, as in `Oddity` and `discriminability`. None: thresholds stay as the
        model has them.

    Returns
    -------
    ThresholdContours

    Raises
    ------
    ValueError
        If the criterion is out of range, a reference outside the domain, its covariance singular, the task is NaN
        somewhere, or it uses variables whose values are not known.
    """
    check_rates(chance, lapse_rate, guess_name="chance")
    if resolution is None:
        resolution = SMOOTH if getattr(task, "func", task) is oddity_log_odds else UNKNOWN
    check_whole(resolution=resolution)
    if not chance < criterion < 1 - lapse_rate:
        raise ValueError(
            f"criterion is {criterion:.4g}. Pass a proportion correct between chance, {chance:.4g}, and the best "
            f"performance, {1 - lapse_rate:.4g}."
        )
    references = np.atleast_2d(convert_array("references", read_array("references", references), float)).copy()
    check_points(references, field.input_dim)
    directions = spread_directions(field.input_dim, n_directions) if directions is None else _normalise(directions)
    if directions.shape[1] != field.input_dim:
        raise ValueError(
            f"Directions have {directions.shape[1]} dimensions, the field has {field.input_dim}. Pass (n, D)."
        )
    # Without lapses the observer is at this proportion, and these are its log-odds.
    p = chance + (criterion - chance) * (1 - chance) / (1 - chance - lapse_rate)
    shown = read_tested(tested, fit, field)
    function, has_draws = compile_task(task, field, fit)
    radii = _find_radii(function, references, directions, float(p), resolution, has_draws=has_draws)
    near = None if shown is None else find_range(shown, references, directions, field.basis_degree, chance)
    return _make_contours(references, directions, radii, float(criterion), near)


def _find_radii(
    function: TaskFunction,
    references: np.ndarray,
    directions: np.ndarray,
    p: float,
    resolution: int,
    *,
    has_draws: bool,
) -> np.ndarray:
    """Return the thresholds without lapses, (R, n) or, of draws, (S, R, n)."""
    shape = (function.n_draws, len(references), len(directions))
    criterion = special.logit(p)

    # At the references first: each ray begins at one.
    draw, place = (index.ravel() for index in np.indices(shape[:2]))
    starts = function(draw, references[place], references[place])
    covariances = function.find_covariances(draw, references[place])
    covariances = covariances.reshape(*shape[:2], *covariances.shape[1:])
    known = check_covariances(covariances if has_draws else covariances[0]).reshape(covariances.shape)
    # What a task says of equal stimuli may be no number.
    starts = np.where(np.isnan(starts), -np.inf, starts - criterion).reshape(shape[:2])

    def exceed(rays, radius):
        draw, place, way = np.unravel_index(rays, shape)
        comparison = references[place] + radius[:, None] * directions[way]
        log_odds = function(draw, references[place], comparison)
        missing = np.flatnonzero(np.isnan(log_odds))
        if len(missing):
            raise ValueError(
                f"The task returns NaN for the reference {references[place[missing[0]]]} and the comparison "
                f"{comparison[missing[0]]}. Let it return log-odds everywhere in the domain."
            )
        return log_odds - criterion

    border = _reach_border(np.broadcast_to(references[:, None], (*shape[1:], directions.shape[1])), directions)
    radii = find_first_crossings(
        exceed,
        np.broadcast_to(starts[..., None], shape).ravel(),
        _guess(known, directions, p).ravel(),
        np.broadcast_to(border, shape).ravel(),
        resolution=resolution,
        precision=float(np.finfo(function.floatx).eps),
    ).reshape(shape)
    return radii if has_draws else radii[0]


def _make_contours(
    references: np.ndarray, directions: np.ndarray, radii: np.ndarray, criterion: float, near: ShownRange | None
) -> ThresholdContours:
    """Return contours, of an estimate with bounds where it has no thresholds."""
    status = None
    if near is not None:
        middle = radii
        if radii.ndim == 3:
            median = np.median(np.where(np.isnan(radii), BEYOND, radii), axis=0)
            middle = np.where(median < 1e-20 * BEYOND, median, np.nan)
        bounded, status = near.bound(middle)
        radii = bounded if radii.ndim == 2 else radii
    return ThresholdContours(
        references, directions, radii, fit_ellipses(directions, radii), criterion, status=status, tested=near
    )


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
    check_whole(n_directions=n)
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
    flat = radii.reshape(-1, radii.shape[-1])
    ellipses = np.full((len(flat), d, d), np.nan)
    known = np.isfinite(flat)
    enough = np.flatnonzero(known.sum(axis=1) >= len(rows))
    flat, known = flat[enough], known[enough]
    # Scaled to order one, so that the solution does not depend on the unit. A missing point is an equation 0 = 0.
    scale = np.median(np.where(known, flat, 0), axis=1)
    for i in np.flatnonzero(~known.all(axis=1)):
        scale[i] = np.median(flat[i][known[i]])
    scale = np.where(scale > 0, scale, 1.0)
    square = (np.where(known, flat, 0) / scale[:, None]) ** 2
    u, s, v = np.linalg.svd(products * square[..., None], full_matrices=False)
    has_rank = s[:, -1] > np.finfo(float).eps * max(products.shape) * s[:, 0]
    part = (np.einsum("bnk,bn->bk", u, known.astype(float)) / np.where(has_rank[:, None], s, 1))[..., None]
    entries = np.einsum("bkj,bk->bj", v, part[..., 0])
    inverse = np.zeros((len(flat), d, d))
    inverse[:, rows, columns] = inverse[:, columns, rows] = entries
    good = has_rank & (np.linalg.eigvalsh(inverse)[:, 0] > 0)
    ellipses[enough[good]] = np.linalg.inv(inverse[good]) * scale[good, None, None] ** 2
    return ellipses.reshape(*radii.shape[:-1], d, d)


def _guess(covariances: np.ndarray, directions: np.ndarray, p: float) -> np.ndarray:
    """Return about the distances (S, R, n) of thresholds if each reference's covariance held everywhere."""
    # What matters is the order of this d'.
    d_prime = np.sqrt(2) * (special.ndtri((1 + p) / 2) + 0.3)
    return d_prime / np.sqrt(np.einsum("nd,srde,ne->srn", directions, np.linalg.inv(covariances), directions))


def _reach_border(starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.min(np.where(directions == 0, np.inf, (np.sign(directions) - starts) / directions), axis=-1)


def _normalise(directions: Any) -> np.ndarray:
    directions = np.atleast_2d(convert_array("directions", read_array("directions", directions), float))
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    if not np.all((length > 0) & (length < np.inf)):
        raise ValueError("A direction has length 0, or is not finite. Pass vectors of any other length.")
    return directions / length


def _show_range(radii: np.ndarray) -> list[str]:
    known = radii[np.isfinite(radii)]
    return [f"{f(known):.3g}" if known.size else "none" for f in (np.min, np.max)]
