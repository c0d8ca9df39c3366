"""Products with a Hessian in; its eigenvalues, Newton's step and a factor of the covariance come out.

A Hessian of few parameters is decomposed whole. One of many is a diagonal plus what a few directions add, for example
when the prior is independent and the data inform few combinations of the parameters. Those directions are found by
products alone, in block Krylov spaces (Golub and Underwood, 1977; Musco and Musco, 2015).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from pm_psyphy.compiling.flat_parameters import Layout
from pm_psyphy.uncertainty.curvature import DIRECTIONS, MOST_DIRECTIONS, Curvature

# A Hessian of more parameters is not decomposed whole: it takes gigabytes, and its eigenvalues an hour.
MOST_PARAMETERS = 10_000
# So many numbers may the directions hold that are added to a diagonal.
MOST_NUMBERS = MOST_PARAMETERS**2
# What is left out of a Hessian, scaled to a diagonal of ones, has eigenvalues below this.
LEFT_OUT = 0.01
# Of each block of directions one half is random and one half where the last were least exact.
DEPTH = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankFactor:
    """A matrix F (P, Q) for which ``F @ F.T`` is a covariance, as its products with vectors.

    ``F @ y`` is ``scale * (z + vectors @ (shrink * (vectors.T @ z)))`` without its part along `flat`, where z are the
    coordinates y (Q,) of what is orthogonal to the flat ones among `vectors`.
    """

    scale: Any
    vectors: Any
    shrink: Any
    flat: Any
    reflectors: Any
    triangle: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(P, Q)."""
        p, n_flat = self.flat.shape
        return p, p - n_flat

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(np.size(leaf) for leaf in jax.tree.leaves(self))

    def __matmul__(self, y: Any) -> Any:
        """Return F y, of y (Q,) or (Q, n)."""
        padded = jnp.pad(y, [(self.flat.shape[1], 0)] + [(0, 0)] * (y.ndim - 1))
        z = padded - self.reflectors @ (self.triangle @ (self.reflectors.T @ padded))
        z = z + self.vectors @ (_stretch(self.shrink, z) * (self.vectors.T @ z))
        z = _stretch(self.scale, z) * z
        return z - self.flat @ (self.flat.T @ z)

    @property
    def T(self) -> "_Transposed":  # noqa: N802, as of an array
        """What ``F.T @ x`` is written with."""
        return _Transposed(self)

    def astype(self, dtype: Any) -> "LowRankFactor":
        """Return it in another floating type."""
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self)


@dataclass(frozen=True)
class _Transposed:
    factor: LowRankFactor

    def __matmul__(self, x: Any) -> Any:
        """Return the transpose of F times x, of x (P,) or (P, n)."""
        f = self.factor
        z = _stretch(f.scale, x) * (x - f.flat @ (f.flat.T @ x))
        z = z + f.vectors @ (_stretch(f.shrink, z) * (f.vectors.T @ z))
        return (z - f.reflectors @ (f.triangle.T @ (f.reflectors.T @ z)))[f.flat.shape[1] :]


def sum_over_columns(factor: Any, function: Callable[[Any], Any]) -> Any:
    """Return the sum of a quadratic function's values at the columns of a factor, or at terms of the same covariance.

    Parameters
    ----------
    factor : array or LowRankFactor, (P, Q)
    function : callable
        A function of a vector (P,), in JAX. Its results, a pytree, grow with the square of the vector.

    Returns
    -------
    pytree
    """

    def add(sums, term):
        weight, column = term
        return jax.tree.map(lambda total, value: total + weight * value, sums, function(column)), None

    if not isinstance(factor, LowRankFactor):
        zeros = jax.tree.map(jnp.zeros_like, function(factor[:, 0]))
        return jax.lax.scan(add, zeros, (jnp.ones(factor.shape[1], factor.dtype), factor.T))[0]
    zeros = jax.tree.map(jnp.zeros_like, function(factor.scale))

    def add_own(sums, i):
        alone = -factor.flat @ factor.flat[i]
        return add(sums, (factor.scale[i] ** 2, alone.at[i].add(1)))

    own, _ = jax.lax.scan(add_own, zeros, jnp.arange(len(factor.scale)))
    shared = factor.scale[:, None] * factor.vectors
    shared -= factor.flat @ (factor.flat.T @ shared)
    return jax.lax.scan(add, own, ((factor.shrink + 1) ** 2 - 1, shared.T))[0]


def _stretch(numbers: Any, like: Any) -> Any:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a Hessian that is scaled by a diagonal: all of them, or those that are not 1."""

    scale: np.ndarray
    """(P,); the square root of the reciprocal of the diagonal."""
    values: np.ndarray
    """(k,), ascending."""
    vectors: np.ndarray
    """(P, k)"""
    zero: float
    """The eigenvalue below which a direction is flat."""
    log_rest: float = 0.0
    """Logarithm of the determinant of what is not among `values`."""

    @property
    def is_flat(self) -> np.ndarray:
        """Which directions change nothing."""
        return np.abs(self.values) <= self.zero

    @property
    def is_saddle(self) -> bool:
        """Whether the density grows along some direction."""
        return bool(len(self.values)) and self.values[0] < 0 and not self.is_flat[0]

    @property
    def is_whole(self) -> bool:
        """Whether all eigenvalues are there."""
        return len(self.values) == len(self.scale)

    def find_step(self, gradient: np.ndarray) -> tuple[np.ndarray, float]:
        """Return Newton's step, downhill also where the curvature is negative, and its decrement."""
        scaled = self.scale * gradient
        along = self.vectors.T @ scaled
        rest = 0.0 if self.is_whole else scaled - self.vectors @ along
        along[self.is_flat] = 0.0
        curvatures = np.where(self.is_flat, 1.0, np.abs(self.values))
        with np.errstate(over="ignore"):
            decrement = float(np.sum(along**2 / curvatures) + np.sum(np.square(rest)))
        return -self.scale * (self.vectors @ (along / curvatures) + rest), decrement

    def find_flat(self) -> np.ndarray:
        """Return an orthonormal basis of the flat directions, (P, n_flat)."""
        return np.linalg.qr(self.scale[:, None] * self.vectors[:, self.is_flat])[0]

    def stays_flat(self, curvature: Curvature, vector: np.ndarray, zero: float) -> bool:
        """Whether all flat directions are flat by a stricter measure, at another point."""
        if not self.is_flat.any():
            return True
        along = (self.scale[:, None] * self.vectors[:, self.is_flat]).T
        curvatures = along @ curvature.multiply_hessian(vector, along).T
        return bool(np.all(np.abs(np.linalg.eigvalsh(curvatures)) <= zero))

    def check(self, layout: Layout) -> None:
        """Raise if the density grows along some direction."""
        if not self.is_saddle:
            return
        direction = layout.split(np.abs(self.scale * self.vectors[:, 0]))
        name = max(direction, key=lambda n: np.max(direction[n], initial=0))
        raise ValueError(
            f"The fit is at a saddle: the density grows from there along {name!r} (curvature {self.values[0]:.2g}, "
            "scaled so that each parameter's own is 1). Fit again from elsewhere: find_map(model, starts=8), or other "
            "initvals."
        )

    def factorise(self) -> tuple[np.ndarray | LowRankFactor, float]:
        """Return a factor (P, P - n_flat) of the covariance, and the logarithm of the Gaussian's volume."""
        is_flat, flat = self.is_flat, self.find_flat()
        steep, null = self.values[~is_flat], self.vectors[:, is_flat]
        # The determinant across the flat directions, which stand askew to the scaled ones.
        log_det = np.log(steep).sum() + self.log_rest - 2 * np.log(self.scale).sum()
        log_det += np.linalg.slogdet(null.T @ (self.scale[:, None] ** 2 * null))[1]
        log_volume = 0.5 * (len(self.scale) - flat.shape[1]) * np.log(2 * np.pi) - 0.5 * log_det
        if self.is_whole:
            factor = self.scale[:, None] * self.vectors[:, ~is_flat] / np.sqrt(steep)
            return factor - flat @ (flat.T @ factor), log_volume
        shrink = np.where(is_flat, 1.0, np.abs(self.values)) ** -0.5 - 1
        return LowRankFactor(self.scale, self.vectors, shrink, flat, *_reflect(null)), log_volume


def _reflect(null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V, T of the rotation ``I - V T V'`` whose first columns span `null`, the others what is orthogonal."""
    n = null.shape[1]
    if not n:
        return null, np.zeros((0, 0))
    packed: Any = linalg.qr(null, mode="raw")
    stored, tau = packed[0]
    reflectors = np.tril(stored[:, :n], -1)
    reflectors[np.arange(n), np.arange(n)] = 1.0
    return reflectors, np.linalg.inv(np.triu(reflectors.T @ reflectors, 1) + np.diag(1 / tau))


def decompose(curvature: Curvature, vector: np.ndarray, zero: float) -> Spectrum:
    """Return the spectrum of the Hessian at a point.

    Raises
    ------
    ValueError
        If there are too many parameters for a whole Hessian, and it is not close to a diagonal plus a low rank.
    """
    if vector.size <= MOST_PARAMETERS:
        return _decompose_whole(curvature.find_hessian(vector), zero)
    for diagonal in _find_diagonals(curvature, vector):
        found = _decompose_low_rank(curvature, vector, 1 / np.sqrt(diagonal), zero)
        if found is not None:
            return found
    raise ValueError(
        f"The model has {vector.size:,} parameters. A whole Hessian is computed for at most {MOST_PARAMETERS:,}, and "
        f"this one is not close to a diagonal plus a matrix of rank {_count_most(vector.size):,}. Marginalise some "
        "parameters out of the model, or use pm.sample."
    )


def _decompose_whole(hessian: np.ndarray, zero: float) -> Spectrum:
    scale = 1 / np.sqrt(_make_positive(np.abs(np.diag(hessian))))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    return Spectrum(scale, values, vectors, zero)


def _make_positive(diagonal: np.ndarray) -> np.ndarray:
    return np.where(diagonal > 0, diagonal, 1.0)


def _find_diagonals(curvature: Curvature, vector: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the diagonal of the prior's Hessian, then that of all.

    The first suits few data of many parameters, the second parameters that have data of their own.
    """
    prior = _find_diagonal(lambda block: curvature.multiply_prior(vector, block), vector.size)
    if np.all(prior > 0):
        yield prior
    whole = _make_positive(_find_diagonal(lambda block: curvature.multiply_hessian(vector, block), vector.size))
    if 0 < np.mean(prior > 0) < 1:
        yield np.where(prior > 0, prior, whole)
    yield whole


def _find_diagonal(multiply: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2, size))
    first, second = signs * multiply(signs)
    if np.allclose(first, second, rtol=1e-8, atol=0):
        # There is nothing beside the diagonal.
        return first
    diagonal = []
    for begin in range(0, size, MOST_DIRECTIONS):
        block = np.eye(min(MOST_DIRECTIONS, size - begin), size, begin)
        diagonal.append(np.einsum("ij,ij->i", block, multiply(block)))
    return np.concatenate(diagonal)


def _count_most(n_parameters: int) -> int:
    return min(MOST_NUMBERS // n_parameters, n_parameters // 4)


def _decompose_low_rank(curvature: Curvature, vector: np.ndarray, scale: np.ndarray, zero: float) -> Spectrum | None:
    """Return the eigenvalues of the scaled Hessian that are not 1; None if they are too many."""
    rng = np.random.default_rng(1)

    def multiply(block: np.ndarray) -> np.ndarray:
        """Return what the scaled Hessian adds to columns (P, n)."""
        return (scale * curvature.multiply_hessian(vector, scale * block.T)).T - block

    basis = images = np.zeros((vector.size, 0))
    doubtful = rng.standard_normal((vector.size, DIRECTIONS // 2))
    while True:
        known = basis.shape[1]
        block = np.concatenate([doubtful, rng.standard_normal((vector.size, DIRECTIONS - doubtful.shape[1]))], axis=1)
        for _ in range(DEPTH):
            block = _orthonormalise(block, basis)
            image = multiply(block)
            basis, images = np.concatenate([basis, block], axis=1), np.concatenate([images, image], axis=1)
            block = image
        inner = basis.T @ images
        new = np.linalg.eigvalsh(_symmetrise(inner[known:, known:]))
        values, rotation = np.linalg.eigh(_symmetrise(inner))
        kept = np.abs(values) > LEFT_OUT / 2
        values, basis, images = values[kept], basis @ rotation[:, kept], images @ rotation[:, kept]
        errors = images - basis * values
        # An entry off the diagonal counts for as much as it is of the two entries on the diagonal.
        doubts = np.linalg.norm(errors, axis=0) / np.sqrt(np.maximum(np.abs(1 + values), zero))
        if np.abs(new).max() <= LEFT_OUT and np.all(doubts <= LEFT_OUT):
            probes = _orthonormalise(rng.choice([-1.0, 1.0], (vector.size, DIRECTIONS)), basis)
            trace = np.sum(probes * multiply(probes)) / DIRECTIONS * (vector.size - len(values))
            return Spectrum(scale, 1 + values, basis, zero, float(trace))
        if len(values) > _count_most(vector.size):
            return None
        worst = np.argsort(-doubts)[: DIRECTIONS // 2]
        doubtful = errors[:, worst[doubts[worst] > LEFT_OUT]]


def _symmetrise(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _orthonormalise(block: np.ndarray, basis: np.ndarray) -> np.ndarray:
    for _ in range(2):
        block, _ = np.linalg.qr(block - basis @ (basis.T @ block))
    return block
