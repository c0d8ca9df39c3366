"""The trials of a fit in; which thresholds they measure, and which ones they only bound, comes out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pytensor.graph.basic import equal_computations
from pytensor.graph.traversal import ancestors
from pytensor.scalar.basic import Sub
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.random.basic import BernoulliRV, BinomialRV

from pm_psyphy.psychophysics.trials import Trials
from pm_psyphy.psychophysics.wishart import WishartProcess
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult

# A threshold is judged by so many trials at least; where fewer are near it, by all.
FEWEST = 20
# Polynomials of degree n have n + 1 coefficients along the domain, of length 2. Near are so many such shares of it.
SHARES = 2
# The cosine of the angle within which directions are near.
NEAR = np.sqrt(0.5)
# A threshold that is so many times beyond what was tested is far out of its range.
FAR = 2.0
# In standard errors of a proportion: what is so little above chance may be chance.
CHANCE = 1.64


@dataclass(frozen=True, eq=False)
class ShownTrials:
    """What was shown and answered: N rows of one trial or several."""

    reference: np.ndarray
    comparison: np.ndarray
    n_trials: np.ndarray
    """(N,)"""
    n_correct: np.ndarray | None
    """(N,)"""


@dataclass(frozen=True, eq=False)
class ShownRange:
    """What was tested near each of R references in each of n directions.

    Attributes
    ----------
    smallest, largest : ndarray, (R, n)
        Distances of the nearest and the farthest comparison from its reference.
    always_right, at_chance : ndarray of bool, (R, n)
        Whether no response was incorrect, and whether no more were correct than by guessing.
    """

    smallest: np.ndarray
    largest: np.ndarray
    always_right: np.ndarray
    at_chance: np.ndarray

    def scale(self, length: np.ndarray) -> "ShownRange":
        """Return the same with distances times `length`, (n,)."""
        return replace(self, smallest=self.smallest * length, largest=self.largest * length)

    def bound(self, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return thresholds, bounds in place of those that the responses only bound, and what they are.

        Parameters
        ----------
        radii : ndarray, (R, n)
            NaN for thresholds beyond the border of the domain.

        Returns
        -------
        radii : ndarray, (R, n)
        status : ndarray of str, (R, n)
            See `ThresholdContours`.
        """
        unsure = np.isnan(radii) | (radii < self.smallest / FAR) | (radii > FAR * self.largest)
        # Few trials may be both.
        both = self.always_right & self.at_chance
        cases = [both, self.always_right, self.at_chance, unsure]
        status = np.select(cases, ["unknown", "below", "above", "extrapolated"], "measured")
        bounded = np.where(status == "below", np.maximum(radii, self.smallest), radii)
        return np.where(status == "above", np.minimum(bounded, self.largest), bounded), status


def read_tested(tested: Any, fit: Any, field: WishartProcess) -> ShownTrials | None:
    """Return what was tested, if it is known.

    Parameters
    ----------
    tested : Trials, (reference, comparison), (reference, comparison, response), "fit" or None
    fit : MAPResult, Draws, or anything else
        For ``"fit"``: where the trials are looked for.
    field : WishartProcess

    Raises
    ------
    ValueError
        If what is given is nothing of these, or of other dimensions than the field.
    """
    if tested is None:
        return None
    if isinstance(tested, str):
        if tested != "fit":
            raise ValueError(f"tested is {tested!r}. Pass trials, (reference, comparison), 'fit' or None.")
        return _find_trials(fit, field)
    table, has_responses = tested, True
    if not isinstance(table, Trials):
        if not isinstance(table, tuple | list) or len(table) not in (2, 3):
            raise ValueError("tested is neither a table of trials nor arrays. Pass Trials, or (reference, comparison).")
        reference, comparison, *responses = table
        has_responses = bool(responses)
        table = Trials.from_arrays(reference, comparison, responses[0] if responses else np.ones(len(reference)))
    if table.reference.shape[1] != field.input_dim:
        raise ValueError(
            f"What was tested has {table.reference.shape[1]} dimensions, the field {field.input_dim}. Pass the trials "
            "of this field."
        )
    n_correct = table.response if has_responses else None
    return ShownTrials(table.reference, table.comparison, np.ones(len(table)), n_correct)


def find_range(
    trials: ShownTrials, references: np.ndarray, directions: np.ndarray, basis_degree: int, chance: float
) -> ShownRange | None:
    """Return what was tested near each reference in each direction, None if nothing was.

    Parameters
    ----------
    trials : ShownTrials
    references : ndarray, (R, D)
    directions : ndarray, (n, D)
    basis_degree : int
        Degree of the field's polynomials.
    chance : float
        Probability of a correct response by guessing.
    """
    step = trials.comparison - trials.reference
    distance = np.linalg.norm(step, axis=1)
    # Where comparison and reference are the same, nothing is to be told apart.
    used = (distance > 0) & (trials.n_trials > 0)
    if not used.any():
        return None
    step, distance, n_trials = step[used] / distance[used, None], distance[used], trials.n_trials[used]
    n_correct = None if trials.n_correct is None else trials.n_correct[used]
    places, reach = trials.reference[used], SHARES * 2 / (basis_degree + 1)
    # By symmetry of the noise a direction is near if its opposite is.
    along = [np.flatnonzero(np.abs(step @ direction) >= NEAR) for direction in directions]
    smallest, largest = np.empty((2, len(references), len(directions)))
    always_right, at_chance = np.zeros((2, len(references), len(directions)), bool)
    for i, reference in enumerate(references):
        here = np.all(np.abs(places - reference) <= reach, axis=1)
        for j, everywhere in enumerate(along):
            near = everywhere[here[everywhere]]
            for wider in (everywhere, np.arange(len(distance))):
                near = near if n_trials[near].sum() >= FEWEST else wider
            smallest[i, j], largest[i, j] = distance[near].min(), distance[near].max()
            if n_correct is not None:
                n, k = n_trials[near].sum(), n_correct[near].sum()
                always_right[i, j] = k == n
                at_chance[i, j] = k / n <= chance + CHANCE * np.sqrt(chance * (1 - chance) / n)
    return ShownRange(smallest, largest, always_right, at_chance)


def _find_trials(fit: Any, field: WishartProcess) -> ShownTrials | None:
    """Return the trials of a fit's model: differences of two points at which its responses evaluate the field."""
    if not isinstance(fit, MAPResult | Draws) or (isinstance(fit, Draws) and fit.own):
        return None
    model = fit.objective.model
    params = fit.unconstrained
    if isinstance(fit, Draws):
        params = {name: stack[0] for name, stack in params.items()}
    found: list[ShownTrials] = []
    for response in model.observed_RVs:
        pair = _find_pair(response, field)
        if pair is not None and isinstance(response.owner.op, BernoulliRV | BinomialRV):
            *counts, _ = response.owner.op.dist_params(response.owner)
            values = fit.objective.evaluate(params, [*pair, model.rvs_to_values[response], *counts])
            trials = _read_trials(*(np.asarray(value) for value in values))
            found += [trials] if trials is not None else []
    if not found:
        return None
    columns: Any = (
        [getattr(trials, name) for trials in found] for name in ("reference", "comparison", "n_trials", "n_correct")
    )
    reference, comparison, n_trials, n_correct = map(np.concatenate, columns)
    return ShownTrials(reference, comparison, n_trials, n_correct)


def _find_pair(response: Any, field: WishartProcess) -> tuple[Any, Any] | None:
    """Return reference and comparison of responses, if these depend on the field by one difference of its points."""
    graph = list(ancestors([response]))
    if field.weights not in graph:
        return None
    points = [v.tag.points for v in graph if hasattr(v.tag, "points")]

    def is_point(variable):
        return any(_is_equal(variable, p) for p in points)

    pairs = [
        node.inputs
        for node in dict.fromkeys(v.owner for v in graph if v.owner is not None)
        if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Sub) and all(map(is_point, node.inputs))
    ]
    if not pairs or not all(_is_equal(a, b) for pair in pairs for a, b in zip(pair, pairs[0], strict=True)):
        return None
    comparison, reference = pairs[0]
    return reference, comparison


def _is_equal(first: Any, second: Any) -> bool:
    return first is second or (first.type == second.type and equal_computations([first], [second]))


def _read_trials(reference, comparison, responses, n_trials: Any = 1) -> ShownTrials | None:
    shapes = {reference.ndim, comparison.ndim}
    n = len(responses) if responses.ndim == 1 else 0
    if shapes != {2} or not n or {len(reference), len(comparison)} - {1, n}:
        return None
    reference, comparison = (np.broadcast_to(x, (n, x.shape[1])).astype(float) for x in (reference, comparison))
    return ShownTrials(reference, comparison, np.broadcast_to(n_trials, n).astype(float), responses.astype(float))
