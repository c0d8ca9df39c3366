r"""Percepts of three stimuli in; the probability that the odd one is found comes out, without simulation.

Two stimuli are the reference, one is the comparison: z0, z0' ~ N(x0, S0) and z1 ~ N(x1, S1). The observer measures
distances in the metric of the average covariance, A = ((2 S0 + S1) / 3)^-1, and is correct where z1 is farther from
both others than they are from each other. With u = z0 - z0' and w = z1 - (z0 + z0') / 2, which are independent,

    incorrect  <=>  |w|^2 < |<u, w>| + 3/4 |u|^2.

In whitened coordinates let S be the covariance of u, T that of w, and m the mean of w. Because u and w come from the
same three stimuli, T = 3 I - 3/4 S.
"""

from functools import partial
from typing import Any

from pm_psyphy.psychophysics.covariances import read_entry
from pm_psyphy.psychophysics.oddity_line import line_op
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.psychophysics.oddity_space import space_op
from pm_psyphy.psychophysics.tasks import Response, add_lapses
from pm_psyphy.psychophysics.tensor import as_tensor, pt


def Oddity(  # noqa: N802 (a distribution, as its users see it)
    name: str,
    field: Any,
    reference: Any,
    comparison: Any,
    *,
    observed: Any = None,
    lapse_rate: Any = 0.0,
    nodes: tuple[int, ...] | None = None,
    dims: Any = None,
) -> Any:
    """Declare responses to an oddity task, which of three stimuli was the odd one, in the model in context.

    Two stimuli are the reference and one is the comparison, shown in any order. The probability of a correct response
    is exact; see `oddity_probability`.

    Parameters
    ----------
    name : str
    field : WishartProcess
        Covariances of the percepts over the stimulus space; anything with ``covariance(x)`` will do.
    reference, comparison : tensor, (N, D)
        Stimuli of each trial, in the units of the field.
    observed : array of 0 and 1, (N,), optional
        1 for a correct response. Without it the responses are free, for prior predictive draws.
    lapse_rate : float or tensor
        By how much the best performance falls short of 1, in [0, 2/3).
    nodes : tuple of int, optional
        Nodes of the quadrature; see `oddity_probability`.
    dims : str or tuple of str, optional

    Returns
    -------
    TensorVariable
        The variable, Bernoulli distributed.

    Raises
    ------
    ValueError
        If a response is neither 0 nor 1, or a stimulus is outside the field's domain.
    """
    log_odds = oddity_log_odds(field, reference, comparison, nodes=nodes)
    return Response(name, log_odds, observed=observed, chance=1 / 3, lapse_rate=lapse_rate, dims=dims)


def oddity_probability(
    field: Any, reference: Any, comparison: Any, *, lapse_rate: Any = 0.0, nodes: tuple[int, ...] | None = None
) -> Any:
    r"""Return the probability of a correct response in the oddity task.

    The observer takes for odd the stimulus that is farther from both others than they are from each other, by
    Mahalanobis distance in the average covariance :math:`(2 \Sigma(x_0) + \Sigma(x_1)) / 3`.

    Parameters
    ----------
    field : WishartProcess
        Covariances of the percepts over the stimulus space; anything with ``covariance(x)`` will do.
    reference, comparison : tensor, (..., D)
        Any D from 1 up.
    lapse_rate : float or tensor
        In [0, 2/3).
    nodes : tuple of int, optional
        Nodes of the quadrature: (n,) in one dimension, default (16,); in two, directions of the comparison and angles
        between it and the references' difference, default (8, 7); in three and more, along the two contours of an
        inverse Laplace transform, default (8, 14). The default's error of log P, of correct and of incorrect
        responses, is below 1e-4 at d' = 4, 1e-3 at 8 and 1e-2 at 12 (95th percentile over covariances that differ by
        up to a half).

    Returns
    -------
    TensorVariable, (...)
        In [1/3, 1 - lapse_rate] for equal covariances.
    """
    return pt.sigmoid(add_lapses(oddity_log_odds(field, reference, comparison, nodes=nodes), 1 / 3, lapse_rate))


def oddity_log_odds(field: Any, reference: Any, comparison: Any, *, nodes: tuple[int, ...] | None = None) -> Any:
    """Return the log-odds of a correct response in the oddity task; right also where the probability rounds to 1.

    Parameters
    ----------
    field, reference, comparison, nodes
        As for `oddity_probability`.

    Returns
    -------
    TensorVariable, (...)
    """
    s0, s1 = as_tensor(field.covariance(reference)), as_tensor(field.covariance(comparison))
    log_q = log_incorrect(as_tensor(comparison) - as_tensor(reference), s0, s1, nodes)
    return pt.log1mexp(log_q) - log_q


def log_incorrect(difference: Any, s0: Any, s1: Any, nodes: tuple[int, ...] | None = None) -> Any:
    """Return the logarithm of the probability of an incorrect response in the oddity task.

    Parameters
    ----------
    difference : tensor, (..., D)
        Comparison minus reference.
    s0, s1 : tensor, (..., D, D)
        Covariances of the reference and of the comparison.
    nodes : tuple of int, optional

    Returns
    -------
    TensorVariable, (...)
    """
    d = s0.type.shape[-1]
    make_op, default = {1: (line_op, (16,)), 2: (plane_op, (8, 7))}.get(d, (partial(space_op, d), (8, 14)))
    chosen = default if nodes is None else tuple(nodes)
    if len(chosen) != len(default) or min(chosen) < 1:
        raise ValueError(
            f"nodes is {chosen}. Pass {len(default)} positive whole number{'s' * (d > 1)} for {d} dimensions."
        )
    entries = [difference[..., i] for i in range(d)]
    entries += [read_entry(s, i, j) for s in (s0, s1) for i in range(d) for j in range(i, d)]
    entries = pt.broadcast_arrays(*(pt.cast(entry, s0.dtype) for entry in entries))
    shape = [entries[0].shape[i] for i in range(entries[0].ndim)]
    op = make_op(*chosen, entries[0].dtype)
    return op(*(entry.reshape((-1,)) for entry in entries))[0].reshape(shape)
