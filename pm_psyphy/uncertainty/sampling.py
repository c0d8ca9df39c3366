"""A fit in; draws of the posterior by NUTS, in the coordinates of its Laplace approximation, come out."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.progress import Progress

from pm_psyphy.common.settings import check_whole
from pm_psyphy.compiling.devices import compute_plainly, count_cores
from pm_psyphy.compiling.flat_parameters import Layout, find_layout
from pm_psyphy.compiling.program import Program
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.rows.memory_blocks import find_place
from pm_psyphy.uncertainty.laplace import LaplacePosterior, find_gaussian
from pm_psyphy.uncertainty.refit_from_mode import MODE, whiten
from pm_psyphy.uncertainty.whitened_density import FLAT, span, write_log_density

# So many draws are made between two looks at the progress bar.
DRAWS_OF_CHUNK = 100
# By PyMC's names.
STATS = {
    "acceptance_rate": "acceptance_rate",
    "diverging": "is_divergent",
    "energy": "energy",
    "n_steps": "num_integration_steps",
    "tree_depth": "num_trajectory_expansions",
}


@compute_plainly
def sample(
    fit: MAPResult | LaplacePosterior,
    *,
    draws: int = 1000,
    tune: int = 500,
    chains: int = 4,
    target_accept: float = 0.8,
    init: str = "laplace",
    random_seed: Any = None,
    progressbar: bool = True,
) -> xr.DataTree:
    """Sample the posterior by NUTS, from a fit.

    BlackJAX's NUTS runs on the compiled density, in coordinates of the Laplace approximation at the mode, in which
    the posterior is about a standard normal. So little is left to tune: the step size, and a diagonal metric.

    Rotations of a Wishart process's weights change no covariance, and the chains do not walk along them: they stay on a
    plane across them, and each point there is weighted by the volume of its rotations. Everything that does not depend
    on the rotation (covariances, thresholds, predictions) has the same posterior as under `pm.sample`. The weights
    themselves all have the rotation of the fit.

    Parameters
    ----------
    fit : MAPResult or LaplacePosterior
        Converged.
    draws, tune : int
        For each chain: how many draws to keep, and how many steps of tuning come before them.
    chains : int
    target_accept : float
        In (0, 1); larger is slower, with fewer divergences.
    init : {"laplace", "pathfinder"}
        Where chains begin: at draws of the Laplace approximation, or of a variational one that Pathfinder finds from
        there.
    random_seed : int or numpy.random.Generator, optional
    progressbar : bool

    Returns
    -------
    xarray.DataTree
        As of `pm.sample`: groups ``posterior``, ``sample_stats``, ``observed_data``, ``constant_data``, and
        ``unconstrained_posterior``.

    Raises
    ------
    ImportError
        If BlackJAX is not installed.
    ValueError
        If the fit did not converge or has no mode near it, or a setting is out of range.

    References
    ----------
    Hoffman and Gelman (2014), The No-U-Turn Sampler. Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder.
    """
    _check_settings(draws, tune, chains, target_accept, init)
    blackjax = _import_blackjax()
    near = find_gaussian(fit)
    layout = find_layout(near.mode)
    across, flat = span(near)
    whitened = whiten(near.laid, layout, near.mode, across)
    data = whitened.data | {FLAT: flat.astype(whitened.data[MODE].dtype)}
    settings = target_accept, init, near.left_out
    run_tuning, run_draws = whitened.program.remember(
        ("nuts", *settings), lambda: _compile(blackjax, whitened.program, layout, *settings)
    )
    rng = np.random.default_rng(random_seed)
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), chains)
    # The sampler's own numbers are of the highest precision that JAX has; the model's may not be.
    origins = jnp.asarray(rng.standard_normal((chains, across.shape[1])))
    # A loop of XLA runs on one core of a CPU, so each core gets a loop, of as many chains as the others.
    cores = count_cores() if find_place(near.objective).platform == "cpu" else 1
    groups = np.split(np.arange(chains), max(n for n in range(1, cores + 1) if chains % n == 0))

    def walk(group: np.ndarray, tell: Callable[[int], None], stop: threading.Event) -> Any:
        chunk_keys = jax.vmap(lambda key: jax.random.split(key, 1 + -(-draws // DRAWS_OF_CHUNK)))(keys[group])
        state, tuned = jax.block_until_ready(run_tuning(chunk_keys[:, 0], origins[group], data, tune))
        tell(tune * len(group))
        chunks = []
        for i, begin in enumerate(range(0, draws, DRAWS_OF_CHUNK)):
            if stop.is_set():
                break
            length = min(DRAWS_OF_CHUNK, draws - begin)
            state, found = run_draws(chunk_keys[:, i + 1], state, tuned, data, length)
            chunks.append(jax.tree.map(np.asarray, found))
            tell(length * len(group))
        positions, stats = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *chunks)
        return positions, stats | {"step_size": np.repeat(np.asarray(tuned["step_size"])[:, None], draws, axis=1)}

    positions, stats = _walk_together(walk, groups, chains * (tune + draws), progressbar)
    _warn_of_divergences(stats["diverging"])
    vectors = layout.join(near.mode) + np.asarray(across @ positions.reshape(chains * draws, -1).T).T
    return _describe(Draws(near.objective, layout.split(vectors), n_chains=chains), stats)


def _walk_together(walk: Callable, groups: list[np.ndarray], total: int, progressbar: bool) -> Any:
    """Return what all groups of chains have found, each on a core of its own."""
    stop, run = threading.Event(), compute_plainly(walk)
    with Progress(transient=True, disable=not progressbar) as bar, ThreadPoolExecutor(len(groups)) as pool:
        task = bar.add_task("sampling", total=total)
        try:
            found = list(pool.map(lambda group: run(group, lambda n: bar.advance(task, n), stop), groups))
        finally:
            stop.set()
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _describe(posterior: Draws, stats: dict[str, np.ndarray]) -> xr.DataTree:
    """Return draws as a DataTree, with the sampler's statistics, each (chain, draw)."""
    chains, draws = stats["lp"].shape
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    arrays = {name: (("chain", "draw"), values) for name, values in stats.items()}
    tree = posterior.to_datatree()
    tree["sample_stats"] = xr.DataTree(xr.Dataset(arrays, coords=coords))
    return tree


def _compile(
    blackjax: Any, program: Program, layout: Layout, target_accept: float, init: str, rotating: tuple[str, ...]
) -> tuple[Callable, Callable]:
    """Return the functions that tune chains and that draw from them, all with a leading axis for the chains."""
    make_log_density = write_log_density(program, layout, rotating)

    def tune(key, origin, data, n):
        log_density, (init_key, key) = make_log_density(data), jax.random.split(key)
        # At the mode the density is finite.
        origin = jax.lax.while_loop(lambda y: ~jnp.isfinite(log_density(y)), lambda y: y / 2, origin)
        if init == "pathfinder":
            found, _ = blackjax.vi.pathfinder.approximate(init_key, log_density, origin)
            origin = blackjax.vi.pathfinder.sample(init_key, found)[0]
        adaptation = blackjax.window_adaptation(
            blackjax.nuts, log_density, target_acceptance_rate=target_accept, adaptation_info_fn=lambda *_: None
        )
        (state, tuned), _ = adaptation.run(key, origin, n)
        return state, tuned

    def draw(key, state, tuned, data, n):
        kernel = blackjax.nuts(make_log_density(data), **tuned)

        def advance(state, key):
            state, info = kernel.step(key, state)
            stats = {ours: getattr(info, theirs) for ours, theirs in STATS.items()}
            return state, (state.position, stats | {"lp": state.logdensity})

        return jax.lax.scan(advance, state, jax.random.split(key, n))

    tune_all = jax.jit(
        lambda keys, origins, data, n: jax.vmap(lambda k, o: tune(k, o, data, n))(keys, origins), static_argnums=3
    )
    draw_all = jax.jit(
        lambda keys, states, tuned, data, n: jax.vmap(lambda k, s, t: draw(k, s, t, data, n))(keys, states, tuned),
        static_argnums=4,
    )
    return tune_all, draw_all


def _import_blackjax() -> Any:
    try:
        import blackjax
        import blackjax.vi.pathfinder
    except ImportError as error:
        raise ImportError("sample needs BlackJAX. Install it: pip install 'pm_psyphy[nuts]'.") from error
    return blackjax


def _check_settings(draws: int, tune: int, chains: int, target_accept: float, init: str) -> None:
    check_whole(draws=draws, chains=chains)
    check_whole(20, tune=tune)
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept is {target_accept}. Pass a number between 0 and 1.")
    if init not in ("laplace", "pathfinder"):
        raise ValueError(f"init is {init!r}. Pass 'laplace' or 'pathfinder'.")


def _warn_of_divergences(diverging: np.ndarray) -> None:
    if diverging.any():
        warnings.warn(
            f"{diverging.sum():,} of {diverging.size:,} draws diverged: some of the posterior was not reached. Raise "
            "target_accept, or reparameterise the model (for example non-centred).",
            stacklevel=3,
        )
