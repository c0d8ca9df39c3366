"""A Gaussian near a posterior in; draws of a heavy-tailed t that was fitted to it, and their weights, come out.

Adaptive importance sampling: each round draws from a t, weighs the draws by the posterior, and fits the next t to what
they say of its mean and covariance. All rounds count, each draw as one of the mixture of all their t (Cornuet, Marin,
Mira and Robert, 2012). Pareto smoothing tempers the largest weights and says by k-hat whether they can be trusted
(Vehtari, Simpson, Gelman, Yao and Gabry, 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg, special

from pm_psyphy.compiling.flat_parameters import Layout, find_layout
from pm_psyphy.compiling.program import Program
from pm_psyphy.results.draws import over_draws
from pm_psyphy.rows.spare_rows import arrange_rows
from pm_psyphy.uncertainty.laplace import Gaussian
from pm_psyphy.uncertainty.pareto_smoothing import smooth_weights
from pm_psyphy.uncertainty.refit_from_mode import FACTOR, MODE, whiten_program
from pm_psyphy.uncertainty.whitened_density import FLAT, span, write_log_density

# Rounds, and the draws of each but the last; that has `OF_LAST` times as many.
ROUNDS, DRAWS_OF_ROUND, OF_LAST = 4, 500, 4
# Degrees of freedom of the t, of few coordinates; a t of many is far from a Gaussian unless they are more.
TAIL, FEW, TAIL_OF_MANY = 5.0, 10, 10.0
# Weights of the first round with a larger k-hat are not mended by further ones, of many coordinates.
HOPELESS = 1.0
# The first t is wider than the Gaussian by this factor.
WIDER = 1.2


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of all rounds."""

    vectors: np.ndarray
    """(n, P), unconstrained."""
    losses: np.ndarray
    """(n,), on the plane across the rotations."""
    weights: np.ndarray
    """(n,); their sum is 1."""
    pareto_k: float
    """Inf where no weights are usable."""

    @property
    def ess(self) -> float:
        """For how many independent draws the weighted ones count."""
        return float(1 / np.sum(self.weights**2))


@dataclass(frozen=True)
class _T:
    """A multivariate t in the Gaussian's coordinates."""

    mean: np.ndarray
    root: np.ndarray
    """(Q, Q), lower triangle: the scale is ``root @ root.T``."""

    @property
    def tail(self) -> float:
        """Its degrees of freedom."""
        return TAIL if len(self.mean) <= FEW else TAIL_OF_MANY * len(self.mean)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        normal = rng.standard_normal((n, len(self.mean)))
        return self.mean + normal @ self.root.T * np.sqrt(self.tail / rng.chisquare(self.tail, n))[:, None]

    def log_density(self, y: np.ndarray) -> np.ndarray:
        q, tail = len(self.mean), self.tail
        z = linalg.solve_triangular(self.root, (y - self.mean).T, lower=True)
        constant = special.gammaln((tail + q) / 2) - special.gammaln(tail / 2) - q / 2 * np.log(tail * np.pi)
        return constant - np.log(np.diag(self.root)).sum() - (tail + q) / 2 * np.log1p(np.sum(z**2, axis=0) / tail)


def draw_weighted(near: Gaussian, rng: np.random.Generator, *, persist: bool = True) -> WeightedDraws:
    """Draw from t distributions near a posterior, and weigh the draws by it.

    Parameters
    ----------
    near : Gaussian
        The Gaussian of the density in the unconstrained space.
    rng : numpy.random.Generator
    persist : bool
        Go on where the weights of many coordinates are hopeless after the first round.

    Returns
    -------
    WeightedDraws
    """
    layout = find_layout(near.mode)
    across, flat = span(near)
    laid, n_coordinates = arrange_rows(near.objective, DRAWS_OF_ROUND), across.shape[1]
    rotating = near.left_out
    program = laid.program
    run = program.remember(("losses on a plane", layout, rotating), lambda: _compile(program, layout, rotating))
    mode = np.asarray(layout.join(near.mode))
    placed = {MODE: mode, FACTOR: across.astype(mode.dtype), FLAT: flat.astype(mode.dtype)}
    proposals = [_T(np.zeros(n_coordinates), WIDER * np.eye(n_coordinates))]
    positions, losses, weights, pareto_k = np.zeros((0, n_coordinates)), np.zeros(0), np.zeros(0), np.inf
    for i in range(ROUNDS):
        drawn = proposals[-1].draw(DRAWS_OF_ROUND * (OF_LAST if i == ROUNDS - 1 else 1), rng)
        found = np.asarray(run({"position": drawn}, laid.data | placed), float)
        positions, losses = np.concatenate([positions, drawn]), np.concatenate([losses, found])
        log_weights = _weigh(proposals, positions, losses)
        weights, pareto_k = smooth_weights(log_weights)
        if n_coordinates > FEW and pareto_k > HOPELESS and not persist:
            break
        if i < ROUNDS - 1:
            proposals.append(_fit(positions, weights))
    vectors = mode + np.asarray(across @ positions.T).T
    return WeightedDraws(vectors, losses, weights, pareto_k)


def _compile(program: Program, layout: Layout, rotating: tuple[str, ...]) -> Callable:
    whitened = whiten_program(program, layout)
    make_log_density = write_log_density(whitened, layout, rotating)
    return over_draws(lambda params, data: -make_log_density(data)(params["position"]))


def _weigh(proposals: list[_T], positions: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the logarithms of the weights of draws, each of which counts as one of the mixture of all proposals."""
    counts = np.full(len(proposals), float(DRAWS_OF_ROUND))
    counts[-1] = len(positions) - DRAWS_OF_ROUND * (len(proposals) - 1)
    parts = np.stack([t.log_density(positions) for t in proposals])
    log_mixture = special.logsumexp(parts, axis=0, b=(counts / counts.sum())[:, None])
    return -losses - log_mixture


def _fit(positions: np.ndarray, weights: np.ndarray) -> _T:
    """Return a t with the mean and covariance of weighted draws, nearer to the Gaussian's where the draws are few."""
    q, ess = positions.shape[1], 1 / np.sum(weights**2)
    mean = weights @ positions
    centred = positions - mean
    # As if as many draws as coordinates had come from the Gaussian.
    covariance = (ess * (centred.T * weights) @ centred + q * np.eye(q)) / (ess + q)
    return _T(ess / (ess + q) * mean, np.linalg.cholesky(covariance))
