"""Functions along rays, as values at any of their points, in; where each rises above 0 for the first time, out."""

from collections.abc import Callable
from typing import Any

import numpy as np

# So many rays are searched together, which bounds the memory.
RAYS = 16_384
# So many points of each ray are evaluated at a time; those beyond a crossing are for nothing. Of few rays they are
# more, up to so many points in all.
POINTS, FULL = 4, 2048
# Near its start a ray is divided more finely: steps grow in proportion to the distance, of which they are this part,
# from this part of where a crossing is expected.
RELATIVE_STEP, NEAREST = 1 / 4, 1 / 2
# A point is unlike its neighbours if a cubic through two on each side misses it by this part of their range.
UNLIKE = 0.02
# An interval is halved so many times at most, and so many of a ray at a time.
HALVINGS, MOST_HALVED = 12, 8
# In so many parts rays are looked at after the scan.
SLABS = 16
# Of a root, relative to the bracket it was looked for in.
TOLERANCE = 1e-11
MOST_STEPS = 100
# Values beyond it are as good as infinite; log-odds of it are those of a probability of 1.
LARGEST = 1e3


def find_first_crossings(
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    at_start: np.ndarray,
    guess: np.ndarray,
    longest: np.ndarray,
    *,
    resolution: int,
    precision: float,
) -> np.ndarray:
    """Return the smallest distance at which each of M functions rises above 0.

    Each ray is divided into `resolution` steps, more near its start. Where the values do not lie on a smooth curve, or
    a local maximum comes near 0, steps are halved until they do, or do not. What rises and falls within one step and
    leaves no trace at its ends is missed.

    Parameters
    ----------
    evaluate : callable
        Takes numbers of rays, (P,), in ascending order, and distances, (P,); returns the functions' values, (P,).
    at_start : ndarray, (M,)
        The values at distance 0.
    guess : ndarray, (M,)
        Where crossings are expected.
    longest : ndarray, (M,)
        How far each ray goes.
    resolution : int
    precision : float
        Precision of the values: the smallest number that added to 1 makes a difference.

    Returns
    -------
    ndarray, (M,)
        NaN where a function stays below 0.
    """
    radii = np.full(len(guess), np.nan)
    for first in range(0, len(guess), RAYS):
        part = np.arange(first, min(first + RAYS, len(guess)))

        def call(rays, r, part=part):
            return np.clip(evaluate(part[rays], r), -LARGEST, LARGEST)

        r, f = _scan(call, at_start[part], guess[part], longest[part], resolution)
        r, f = _halve_steps(call, r, f, longest[part] / resolution, precision)
        radii[part] = _find_roots(call, r, f)
    return radii


def _scan(call, at_start, guess, longest, resolution) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and values (M, T) from 0 to the first step that ends above 0; NaN beyond."""
    nearest, widest = NEAREST * np.minimum(guess, longest), longest / resolution
    blocks: list[Any] = [(np.zeros((len(guess), 1)), np.clip(at_start, -LARGEST, LARGEST)[:, None])]
    last, active = np.zeros(len(guess)), np.flatnonzero(~(at_start > 0) & (longest > 0))
    while len(active):
        n_points = max(POINTS, min(FULL // len(active), resolution))
        r = np.full((len(guess), n_points), np.nan)
        for i in range(n_points):
            here = last[active]
            step = np.minimum(widest[active], RELATIVE_STEP * np.maximum(here, nearest[active]))
            # The last step is not made to be a tiny one.
            there = np.where(here + 1.5 * step < longest[active], here + step, longest[active])
            r[active, i] = np.where(here < longest[active], there, np.nan)
            last[active] = there
        f = np.full(r.shape, np.nan)
        wanted = np.nonzero(np.isfinite(r))
        f[wanted] = call(wanted[0], r[wanted])
        blocks.append((r, f))
        active = active[~np.any(f[active] > 0, axis=1) & (last[active] < longest[active])]
    return np.concatenate([r for r, _ in blocks], axis=1), np.concatenate([f for _, f in blocks], axis=1)


def _halve_steps(call, r, f, widest, precision) -> tuple[np.ndarray, np.ndarray]:
    """Return the same with more points where a crossing may hide, sorted."""
    shortest = widest / 2**HALVINGS
    rows, wanted = _list_doubtful(r, f, shortest, precision)
    for _ in range(HALVINGS):
        if not len(rows):
            break
        # The first ones, for a crossing makes what lies beyond it irrelevant.
        wanted &= np.cumsum(wanted, axis=1) <= MOST_HALVED
        row, step = np.nonzero(wanted)
        middle = (r[rows[row], step] + r[rows[row], step + 1]) / 2
        slot = np.cumsum(wanted, axis=1)[row, step] - 1
        both = np.full((2, len(r), MOST_HALVED), np.nan)
        both[0, rows[row], slot], both[1, rows[row], slot] = middle, call(rows[row], middle)
        r, f = np.concatenate([r, both[0]], axis=1), np.concatenate([f, both[1]], axis=1)
        order = np.argsort(r[rows], axis=1, kind="stable")
        r[rows], f[rows] = (np.take_along_axis(values[rows], order, axis=1) for values in (r, f))
        wanted = _find_doubtful(r[rows], f[rows], shortest[rows], precision)
        rows, wanted = rows[wanted.any(axis=1)], wanted[wanted.any(axis=1)]
    return r, f


def _list_doubtful(r, f, shortest, precision) -> tuple[np.ndarray, np.ndarray]:
    """Return the rays with steps that may hide a crossing, (A,), and which steps these are, (A, T - 1)."""
    count = np.isfinite(r).sum(axis=1)
    rows, steps = [], []
    # Few rays have many points; those with as many are looked at together.
    for part in np.array_split(np.argsort(count, kind="stable"), min(SLABS, len(r))):
        n = count[part].max()
        wanted = _find_doubtful(r[part, :n], f[part, :n], shortest[part], precision)
        found = wanted.any(axis=1)
        rows.append(part[found])
        steps.append(np.pad(wanted[found], ((0, 0), (0, r.shape[1] - n))))
    rows, steps = np.concatenate(rows), np.concatenate(steps)
    order = np.argsort(rows)
    return rows[order], steps[order]


def _find_doubtful(r, f, shortest, precision) -> np.ndarray:
    """Return which of the steps (M, T - 1) up to the first crossing may hide another."""
    n_steps = r.shape[1] - 1
    unlike = _find_unlike(r, f, precision)
    gap = np.diff(r, axis=1)
    peak = np.zeros(r.shape, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        up, down = f[:, 1:-1] - f[:, :-2], f[:, 1:-1] - f[:, 2:]
        # How far a parabola through three points rises above the middle one, at most.
        rise = np.maximum(up, down)
        peak[:, 1:-1] = (up >= 0) & (down >= 0) & (f[:, 1:-1] + rise > 0)
        long = gap > shortest[:, None]
    doubtful = unlike | peak
    steps = (doubtful[:, :-1] | doubtful[:, 1:]) & long & np.isfinite(f[:, 1:])
    above = f > 0
    end = np.where(above.any(axis=1), above.argmax(axis=1), n_steps + 1)
    return steps & (np.arange(n_steps) < end[:, None])


def _find_unlike(r, f, precision) -> np.ndarray:
    """Return which points (M, T) lie off the curve through their neighbours."""
    found = np.zeros(r.shape, bool)
    if r.shape[1] < 5:
        return found
    around = [0, 1, 3, 4]
    x = np.stack([r[:, i : r.shape[1] - 4 + i] for i in range(5)])
    y = np.stack([f[:, i : f.shape[1] - 4 + i] for i in range(5)])
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted = np.zeros(y.shape[1:])
        for i in around:
            others = [j for j in around if j != i]
            predicted += y[i] * np.prod([(x[2] - x[j]) / (x[i] - x[j]) for j in others], axis=0)
        error = np.abs(predicted - y[2])
        spread = y.max(axis=0) - y.min(axis=0)
        noise = precision**0.6 * (1 + np.abs(y).max(axis=0))
        found[:, 2:-2] = error > np.maximum(UNLIKE * spread, noise)
    return found


def _find_roots(call, r, f) -> np.ndarray:
    """Return the root in the first step from below to above 0, by Chandrupatla's method."""
    radii = np.full(len(r), np.nan)
    above = f > 0
    radii[above[:, 0]] = 0.0
    rays = np.flatnonzero(above.any(axis=1) & ~above[:, 0])
    end = above[rays].argmax(axis=1)
    a, fa, b, fb = r[rays, end - 1], f[rays, end - 1], r[rays, end], f[rays, end]
    width = b - a
    t = np.clip(fa / (fa - fb), 0.05, 0.95)
    for _ in range(MOST_STEPS):
        if not len(rays):
            break
        x = a + t * (b - a)
        fx = call(rays, x)
        same = (fx > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best, other = np.where(np.abs(fa) < np.abs(fb), a, b), np.abs(b - a)
        tolerance = TOLERANCE * width + 4 * np.finfo(float).eps * np.abs(best)
        done = (other < 2 * tolerance) | (fa == 0) | (fb == 0)
        radii[rays[done]] = best[done]
        rays, a, b, c, fa, fb, fc, width, tolerance = (v[~done] for v in (rays, a, b, c, fa, fb, fc, width, tolerance))
        t = _choose_step(a, b, c, fa, fb, fc, tolerance)
    radii[rays] = a
    return radii


def _choose_step(a, b, c, fa, fb, fc, tolerance) -> np.ndarray:
    """Return where between a and b to look next: by inverse quadratic interpolation if that is safe, or halfway."""
    with np.errstate(invalid="ignore", divide="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        quadratic = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), quadratic, 0.5)
        least = 0.5 * tolerance / np.abs(b - a)
    return np.clip(np.where(np.isfinite(t), t, 0.5), least, 1 - least)
