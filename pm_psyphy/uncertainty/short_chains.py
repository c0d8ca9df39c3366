"""A Gaussian near a posterior in; draws by many short Hamiltonian chains, which share a step and a metric, come out.

The chains run in the Gaussian's coordinates, as a batch on each of two cores. While they tune, they share what they
learn: the step by their mean acceptance, the metric by the covariance of all of them. All trajectories of a batch are
equally long, so that no chain waits for another. Where a likelihood has a cheap function near it, trajectories follow
that one, and the exact one decides whether they are accepted: the draws are of the exact posterior.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.flat_parameters import Layout, find_layout
from pm_psyphy.compiling.nearby_rows import approximate_rows
from pm_psyphy.compiling.program import Program
from pm_psyphy.rows.memory_blocks import find_place
from pm_psyphy.rows.spare_rows import arrange_rows
from pm_psyphy.uncertainty.hessian_spectrum import LowRankFactor
from pm_psyphy.uncertainty.laplace import Gaussian
from pm_psyphy.uncertainty.refit_from_mode import FACTOR, MODE, whiten_program
from pm_psyphy.uncertainty.whitened_density import FLAT, span, write_log_density

# Transitions before the metric is measured, and again, and before the step is kept.
WINDOWS = 20, 40, 20
# What the chains begin with, in standard deviations of the Gaussian.
SPREAD = 0.6
# The mean acceptance aimed at, the length of a trajectory in standard deviations, its steps at most.
ACCEPTANCE, LENGTH, MOST_STEPS = 0.85, 3.0, 64
FIRST_STEP = 0.25
# Of a CPU, on one core of which a loop of XLA runs; on fewer cores they take turns, with the same draws.
BATCHES = 2
# Transitions of one call to the device.
OF_CHUNK = 20
# Halvings of a first step from a mode to where the density is not finite; at the mode it is.
MOST_HALVINGS = 60
# An error of the energy beyond it is a divergence.
DIVERGED = 1000.0


class Walkers(NamedTuple):
    """Where B chains stand, and how they step."""

    position: Any  # (B, Q)
    loss: Any  # (B,), by which is decided
    gradient: Any  # (B, Q), which is followed
    log_step: Any  # of the next trajectory while tuning
    log_mean_step: Any  # averaged over the window
    shortfall: Any  # mean of how far acceptance fell short of what is aimed at
    log_first_step: Any  # of the window
    count: Any  # of transitions in the window


class Trace(NamedTuple):
    """What n transitions have left behind."""

    position: Any  # (n, B, Q)
    loss: Any  # (n, B)
    diverged: Any  # (n, B)


class Steps(NamedTuple):
    """What is compiled."""

    follow: Callable  # of positions and data: losses and gradients that are followed
    decide: Callable  # of positions and data: losses by which is decided
    move: Callable  # of a seed, walkers, data, and whether they tune: walkers and a trace of `OF_CHUNK` transitions


@dataclass(frozen=True)
class Walked:
    """What the chains have left behind."""

    vectors: np.ndarray
    """(n, B, P), unconstrained."""
    losses: np.ndarray
    """(n, B), on the plane across the rotations."""
    n_divergent: int
    interrupted: bool


def walk(
    near: Gaussian,
    rng: np.random.Generator,
    origins: np.ndarray,
    is_enough: Callable[[np.ndarray, np.ndarray], bool],
    most: int,
    tell: Callable[[int], None] = lambda n: None,
) -> Walked:
    """Let chains walk until that is enough.

    Parameters
    ----------
    near : Gaussian
        The Gaussian of the density in the unconstrained space.
    rng : numpy.random.Generator
    origins : ndarray, (B, Q)
        Near which the chains begin, in the Gaussian's coordinates.
    is_enough : callable
        Given the vectors (n, B, P) and losses (n, B) of each chunk, says whether there are enough.
    most : int
        Transitions of each chain, after tuning.
    tell : callable
        Called with the number of transitions that each chain has made since.

    Returns
    -------
    Walked
        After Ctrl-C what there is by then, if that is past tuning.
    """
    chains = _Chains(near, rng, len(origins), tell)
    positions = chains.find_finite(origins, SPREAD * rng.standard_normal(origins.shape))
    step = FIRST_STEP
    for i, n in enumerate(WINDOWS):
        batches, made = chains.repeat(chains.stand(positions, step), n, tuning=True)
        step, positions = float(np.exp(np.mean([walkers.log_mean_step for walkers in batches]))), made.position[-1]
        if i < len(WINDOWS) - 1 and chains.is_whole:
            positions = chains.measure(made.position[n // 3 :], positions)
            step = float(np.clip(2 * step, 0.15, 0.6))
    batches = chains.stand(positions, step, exactly=True)
    vectors, parts, interrupted = [], [], False
    while len(parts) * OF_CHUNK < most:
        try:
            batches, made = chains.repeat(batches, OF_CHUNK, tuning=False)
            parts.append(made)
            vectors.append(chains.place.find_vectors(made.position))
            if is_enough(vectors[-1], made.loss):
                break
        except KeyboardInterrupt:
            if not vectors:
                raise
            interrupted = True
            break
    every = Trace(*map(np.concatenate, zip(*parts, strict=True)))
    return Walked(
        np.concatenate(vectors),
        every.loss,
        int(every.diverged.sum()),
        interrupted,
    )


class _Chains:
    """Chains of one posterior: where their coordinates are, and how they move."""

    def __init__(self, near: Gaussian, rng: np.random.Generator, n_chains: int, tell: Callable[[int], None]):
        self.layout, self.rng, self.tell = find_layout(near.mode), rng, tell
        across, flat = span(near)
        self.is_whole = not isinstance(across, LowRankFactor)
        self.place = Place(np.asarray(self.layout.join(near.mode), float), across)
        laid = arrange_rows(near.objective, n_chains)
        self.device = find_place(laid)
        rotating = near.left_out
        self.steps: Steps = laid.program.remember(
            ("short chains", self.layout, rotating), lambda: _compile(laid.program, self.layout, rotating)
        )
        self.dtype = np.asarray(self.layout.join(near.mode)).dtype
        self.data = laid.data | {FLAT: jax.device_put(flat.astype(self.dtype), self.device)} | self._write()
        self.n_batches = BATCHES if self.device.platform == "cpu" and n_chains % BATCHES == 0 else 1

    def _write(self) -> dict[str, Any]:
        """Return the coordinates as a whitened program wants them."""
        placed = {MODE: self.place.center.astype(self.dtype), FACTOR: self.place.across.astype(self.dtype)}
        return jax.device_put(placed, self.device)

    def measure(self, positions: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Take coordinates in which positions (n, B, Q) have about covariance 1; return where (B, Q) are in them."""
        self.place, now = self.place.measure(positions, present)
        self.data = self.data | self._write()
        return now

    def find_finite(self, origins: np.ndarray, ways: np.ndarray) -> np.ndarray:
        """Return positions, (B, Q), halfway back to their origins as often as it takes for a finite density."""
        for _ in range(MOST_HALVINGS):
            parts = np.split(origins + ways, self.n_batches)
            finite = np.isfinite(np.concatenate([self._follow(part)[0] for part in parts]))
            if finite.all():
                break
            ways = np.where(finite[:, None], ways, ways / 2)
        return origins + ways

    def _follow(self, positions: Any) -> tuple[Any, Any]:
        return self.steps.follow(jax.device_put(positions, self.device), self.data)

    def stand(self, positions: np.ndarray, step: float, *, exactly: bool = False) -> list[Walkers]:
        """Return walkers at the beginning of a window, by batches."""
        batches = []
        for part in np.split(positions, self.n_batches):
            own = jax.device_put(part, self.device)
            losses, gradients = self._follow(own)
            losses = self.steps.decide(own, self.data) if exactly else losses
            zero, log_step = np.zeros((), part.dtype), np.log(np.asarray(step, part.dtype))
            walkers = Walkers(own, losses, gradients, log_step, log_step, zero, log_step, zero)
            batches.append(jax.device_put(walkers, self.device))
        return batches

    def repeat(self, batches: list[Walkers], n: int, *, tuning: bool) -> tuple[list[Walkers], Trace]:
        """Make n transitions, a multiple of those of a chunk."""

        @compute_plainly
        def move(seed: int, walkers: Walkers) -> tuple[Walkers, Trace]:
            walkers, trace = self.steps.move(np.int32(seed), walkers, self.data, tuning)
            return walkers, jax.tree.map(np.asarray, trace)

        traces = []
        with ThreadPoolExecutor(len(batches)) as pool:
            for seeds in self.rng.integers(2**31, size=(n // OF_CHUNK, len(batches))):
                moved = list(pool.map(move, seeds, batches))
                batches = [walkers for walkers, _ in moved]
                traces.append(Trace(*(np.concatenate(p, axis=1) for p in zip(*(t for _, t in moved), strict=True))))
                self.tell(OF_CHUNK)
        return batches, Trace(*map(np.concatenate, zip(*traces, strict=True)))


@dataclass(frozen=True)
class Place:
    """The coordinates y of the chains: ``center + across @ y`` are parameters."""

    center: np.ndarray
    across: Any

    def find_vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return parameters (n, B, P) at positions (n, B, Q)."""
        flat = positions.reshape(-1, positions.shape[-1])
        return (self.center + np.asarray(self.across @ flat.T).T).reshape(*positions.shape[:-1], -1)

    def measure(self, positions: np.ndarray, present: np.ndarray) -> tuple["Place", np.ndarray]:
        """Return coordinates in which positions (n, B, Q) have about the covariance 1, and where (B, Q) are in them."""
        every = positions.reshape(-1, positions.shape[-1])
        # As if as many positions as coordinates had been drawn from the Gaussian.
        n, n_coordinates = every.shape
        covariance = np.cov(every.T).reshape(n_coordinates, -1)
        covariance = (n * covariance + n_coordinates * np.eye(n_coordinates)) / (n + n_coordinates)
        root, mean = np.linalg.cholesky(covariance), every.mean(axis=0)
        new = Place(self.center + self.across @ mean, self.across @ root)
        return new, linalg.solve_triangular(root, (present - mean).T, lower=True).T


def _compile(program: Program, layout: Layout, rotating: tuple[str, ...]) -> Steps:
    cheap, exact = whiten_program(approximate_rows(program), layout), whiten_program(program, layout)
    follow_density = write_log_density(cheap, layout, rotating)
    decide_density = write_log_density(exact, layout, rotating)
    is_exact = approximate_rows(program) is program

    def follow(position, data):
        log_density, gradient = jax.vmap(jax.value_and_grad(follow_density(data)))(position)
        return -log_density, -gradient

    def decide(position, data):
        return -jax.vmap(decide_density(data))(position)

    def advance(key, walkers: Walkers, data, tuning):
        """Let each chain make a trajectory, and keep its end or not."""
        step = jnp.exp(jnp.where(tuning, walkers.log_step, walkers.log_mean_step))
        of_length, of_momentum, of_choice = jax.random.split(key, 3)
        position, dtype = walkers.position, walkers.position.dtype
        length = LENGTH * jax.random.uniform(of_length, dtype=dtype, minval=0.1)
        n_steps = jnp.clip(jnp.ceil(length / step), 1, MOST_STEPS).astype(jnp.int32)
        momentum = jax.random.normal(of_momentum, position.shape, dtype)

        def leap(_, state):
            y, p, _, gradient = state
            p = p - step / 2 * gradient
            y = y + step * p
            loss, gradient = follow(y, data)
            return y, p - step / 2 * gradient, loss, gradient

        start = position, momentum, walkers.loss, walkers.gradient
        y, p, loss, gradient = jax.lax.fori_loop(0, n_steps, leap, start)
        if not is_exact:
            loss = jax.lax.cond(tuning, lambda: loss, lambda: decide(y, data))
        gained = walkers.loss + (momentum**2).sum(1) / 2 - loss - (p**2).sum(1) / 2
        gained = jnp.where(jnp.isnan(gained), -jnp.inf, gained)
        acceptance = jnp.exp(jnp.minimum(gained, 0))
        taken = jax.random.uniform(of_choice, gained.shape, dtype) < acceptance

        def choose(new, old):
            return jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        moved = walkers._replace(
            position=choose(y, position), loss=choose(loss, walkers.loss), gradient=choose(gradient, walkers.gradient)
        )
        adapted = jax.tree.map(partial(jnp.where, tuning), _adapt(moved, acceptance.mean()), moved)
        return adapted, Trace(moved.position, moved.loss, gained < -DIVERGED)

    def move(seed, walkers: Walkers, data, tuning):
        keys = jax.random.split(jax.random.key(seed), OF_CHUNK)
        return jax.lax.scan(lambda walkers, key: advance(key, walkers, data, tuning), walkers, keys)

    run_follow = jax.jit(follow)
    return Steps(run_follow, (lambda *both: run_follow(*both)[0]) if is_exact else jax.jit(decide), jax.jit(move))


def _adapt(walkers: Walkers, acceptance: Any) -> Walkers:
    """Average the logarithm of the step on the way to the acceptance that is aimed at (Hoffman and Gelman, 2014)."""
    count = walkers.count + 1
    share = 1 / (count + 10)
    shortfall = (1 - share) * walkers.shortfall + share * (ACCEPTANCE - acceptance)
    log_step = walkers.log_first_step + jnp.log(10.0) - jnp.sqrt(count) / 0.05 * shortfall
    log_step = jnp.clip(log_step, jnp.log(1e-4), jnp.log(3.0))
    weight = count**-0.75
    log_mean_step = weight * log_step + (1 - weight) * walkers.log_mean_step
    return walkers._replace(count=count, shortfall=shortfall, log_step=log_step, log_mean_step=log_mean_step)
