"""Weights in; a field of covariance matrices over the stimulus space comes out."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor
from pytensor.graph.basic import Constant
from pytensor.raise_op import CheckAndRaise

from pm_psyphy.common.settings import check_whole
from pm_psyphy.psychophysics.basis import chebyshev_products, total_degrees
from pm_psyphy.psychophysics.tensor import as_tensor, pt, read_known

# Rescaling to [-1, 1] may round this far beyond.
MARGIN = 1e-6


class WishartProcess:
    r"""A smooth random field of covariance matrices: how an observer's noise varies over the stimulus space.

    .. math::
        U(x) &= \sum_{a, b, \ldots} W_{ab \ldots} T_a(x_1) T_b(x_2) \cdots \\
        \Sigma(x) &= U(x) U(x)^T + \text{diag\_term} \cdot I

    with Chebyshev polynomials T of degrees 0 to `basis_degree` and weights
    :math:`W_{ab \ldots ij} \sim N(0, \text{variance\_scale} \cdot \text{decay\_rate}^{a + b + \ldots})` (a variance).
    In the model, the free variable is ``name + "_z"``, which is standard normal, and the weights are the deterministic
    `name`, which is ``name + "_z"`` times their standard deviation. W is determined only up to a rotation or reflection
    of its last axis, which changes no :math:`\Sigma(x)`.

    Parameters
    ----------
    name : str
        Name of the weights.
    input_dim : int
        Dimensions D of the stimulus space.
    basis_degree : int
        Highest degree of the polynomials in each dimension, at least 0: K = `basis_degree` + 1.
    extra_dims : int
        How many columns U has beyond D, at least 0: E = D + `extra_dims`.
    variance_scale : float or tensor
        Prior variance of the weights of degree 0, in squared units of the stimulus space.
    decay_rate : float or tensor
        Factor of the prior variance for each degree, in (0, 1] for a smooth field.
    diag_term : float or tensor
        Added to the diagonal of each covariance matrix, at least 0: one number, or one for each point, (...).
    weights : tensor or array, optional
        (K, ..., K, D, E) with D axes of length K, used instead of declaring any: for hierarchies and other priors, or
        a known field. Leading axes belong to the leading axes of the points: ``weights=W[observer]``, with one
        observer per trial, gives each trial its observer's field.

    Attributes
    ----------
    weights : TensorVariable, (..., K, ..., K, D, E)

    References
    ----------
    Hong et al. (2025), eLife, "Comprehensive characterization of human color discrimination thresholds".

    Examples
    --------
    >>> import numpy as np
    >>> field = WishartProcess("W", input_dim=2, basis_degree=0, extra_dims=0, weights=[[np.eye(2) / 10]])
    >>> field.covariance([0.5, -0.5]).eval().round(4)
    array([[0.01, 0.  ],
           [0.  , 0.01]])
    """

    def __init__(
        self,
        name: str,
        *,
        input_dim: int,
        basis_degree: int = 4,
        extra_dims: int = 1,
        variance_scale: Any = 4e-3,
        decay_rate: Any = 0.4,
        diag_term: Any = 1e-6,
        weights: Any = None,
    ):
        check_whole(input_dim=input_dim)
        check_whole(0, basis_degree=basis_degree, extra_dims=extra_dims)
        for label, number in {"variance_scale": variance_scale, "decay_rate": decay_rate}.items():
            known = read_known(number, label)
            if known is not None and not np.all((known > 0) & (known < np.inf)):
                raise ValueError(f"{label} is {number}. Pass a positive number or a random variable.")
        known = read_known(diag_term, "diag_term")
        if known is not None and not np.all((known >= 0) & (known < np.inf)):
            raise ValueError(f"diag_term is {diag_term}. Pass a number of at least 0.")
        self.name, self.input_dim, self.basis_degree, self.extra_dims = name, input_dim, basis_degree, extra_dims
        self.diag_term = diag_term
        degrees = total_degrees(basis_degree, input_dim)
        shape = (*degrees.shape, input_dim, input_dim + extra_dims)
        if weights is None:
            sd = pt.sqrt(variance_scale * pt.power(decay_rate, degrees.astype(pytensor.config.floatX)))
            z = pm.Normal(f"{name}_z", 0, 1, shape=shape, initval=_start(shape))
            # Any rotation of the last axis gives the same field, which the evidence of a model counts.
            z.tag.rotates = True
            self.weights: Any = pm.Deterministic(name, z * sd[..., None, None])
        else:
            self.weights = as_tensor(weights, "weights")
            _check_weights(self.weights, shape)

    def __repr__(self) -> str:
        return (
            f"WishartProcess({self.name!r}, input_dim={self.input_dim}, basis_degree={self.basis_degree}, "
            f"extra_dims={self.extra_dims})"
        )

    def sqrt_covariance(self, x: Any) -> Any:
        """Return U(x).

        Parameters
        ----------
        x : tensor, (..., D)
            Points in [-1, 1]^D.

        Returns
        -------
        TensorVariable, (..., D, E)

        Raises
        ------
        ValueError
            If x has another last dimension, or points are NaN or outside [-1, 1]: at once where they are known, else
            when the model is evaluated.
        """
        rows = self._evaluate_rows(x)
        return pt.stack([pt.stack(row, axis=-1) for row in rows], axis=-2)

    def covariance(self, x: Any) -> Any:
        r"""Return :math:`\Sigma(x)`.

        Parameters
        ----------
        x : tensor, (..., D)
            Points in [-1, 1]^D.

        Returns
        -------
        TensorVariable, (..., D, D)
        """
        x = as_tensor(x, "points")
        rows = self._evaluate_rows(x)
        # Entry by entry, what takes the matrix apart again meets whole arrays of entries, without copies of matrices.
        entries: Any = [[sum(a * b for a, b in zip(left, right, strict=True)) for right in rows] for left in rows]
        for i in range(self.input_dim):
            entries[i][i] = entries[i][i] + self.diag_term
        covariances = pt.stack([pt.stack(row, axis=-1) for row in entries], axis=-2)
        # What takes the matrix apart finds the entries here: they and their gradients need not be stacked.
        covariances.tag.entries = entries
        # By it `threshold_contours` finds what was tested.
        for tensor in (covariances, *(entry for row in entries for entry in row)):
            tensor.tag.points = x
        return covariances

    def _evaluate_rows(self, x: Any) -> list[list[Any]]:
        """Return the entries of U(x), D lists of E tensors (...)."""
        x = check_points(x, self.input_dim)
        products = chebyshev_products(x, self.basis_degree, self.input_dim)
        d, e = self.input_dim, self.input_dim + self.extra_dims
        lead = [self.weights.shape[i] for i in range(self.weights.ndim - d - 2)]
        n_products = (self.basis_degree + 1) ** d
        flat = self.weights.reshape((*lead, n_products, d * e))
        if lead:
            u = pt.moveaxis(pt.sum(products[..., :, None] * flat, axis=-2), -1, 0)
        else:
            shape = [products.shape[i] for i in range(products.ndim - 1)]
            u = flat.T @ products.reshape((-1, n_products)).T
            # The gradient of a split is a join, of which XLA makes one pass; that of slices is a chain of updates.
            parts = pt.split(u, [1] * (d * e), n_splits=d * e, axis=0) if d * e > 1 else [u]
            u = [part.reshape(shape) for part in parts]
        return [[u[i * e + j] for j in range(e)] for i in range(d)]


def check_points(x: Any, input_dim: int) -> Any:
    """Return points as a tensor that raises where one is outside [-1, 1] or NaN.

    Parameters
    ----------
    x : tensor, (..., D)
    input_dim : int
        D.
    """
    x = as_tensor(x, "points")
    known = read_known(x)
    shape = x.type.shape if known is None else known.shape
    if not shape or shape[-1] not in (None, input_dim):
        raise ValueError(
            f"The points have shape {shape}, but the field has {input_dim} dimensions. "
            f"Pass an array of shape (..., {input_dim})."
        )
    advice = "Rescale the stimuli to it, as Trials does given a domain."
    if known is not None:
        outside = np.argwhere(~(np.abs(known) <= 1 + MARGIN))
        if len(outside):
            at = tuple(map(int, outside[0]))
            raise ValueError(f"The point at index {at[:-1]} holds {known[at]}, outside [-1, 1]. {advice}")
    if isinstance(x, Constant):
        return x
    inside = pt.all(pt.abs(x) <= 1 + MARGIN)
    return CheckAndRaise(ValueError, f"Points of a Wishart process are NaN or outside [-1, 1]. {advice}")(x, inside)


def _check_weights(weights: Any, shape: tuple[int, ...]) -> None:
    found = weights.type.shape[weights.ndim - len(shape) :]
    if weights.ndim < len(shape) or any(n not in (None, m) for n, m in zip(found, shape, strict=True)):
        raise ValueError(
            f"weights has shape {weights.type.shape}, but the field needs (..., {', '.join(map(str, shape))})."
        )


def _start(shape: tuple[int, ...]) -> np.ndarray:
    """Return where searches begin: near a field of circles, and off the saddle that W = 0 and its symmetries are."""
    start = np.random.default_rng(0).normal(scale=0.3, size=shape)
    d = shape[-2]
    start[(0,) * (len(shape) - 2)] += np.eye(d, shape[-1])
    return start.astype(pytensor.config.floatX)
