"""A fit in; draws of its posterior, by the cheapest method that its own diagnostics call right, come out."""

import warnings
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pm_psyphy.common.settings import check_whole
from pm_psyphy.common.tables import Table
from pm_psyphy.compiling.devices import compute_plainly
from pm_psyphy.compiling.flat_parameters import find_layout
from pm_psyphy.fitting.find_map import find_map
from pm_psyphy.results.draws import Draws
from pm_psyphy.results.map_result import MAPResult
from pm_psyphy.uncertainty.hessian_spectrum import LowRankFactor
from pm_psyphy.uncertainty.laplace import Gaussian, LaplacePosterior, draw_gaussian, find_gaussian
from pm_psyphy.uncertainty.modes import find_modes, locate
from pm_psyphy.uncertainty.pareto_smoothing import POOR_K, resample
from pm_psyphy.uncertainty.sampling import sample
from pm_psyphy.uncertainty.short_chains import OF_CHUNK, Walked, walk
from pm_psyphy.uncertainty.watch import LEAST_ESS, MOST_R_HAT, Watch
from pm_psyphy.uncertainty.weighted_draws import WeightedDraws, draw_weighted

METHODS = "auto", "laplace", "importance", "hmc", "nuts"
# Chains, the first of these numbers by which the draws can be divided; and how often each may move after tuning.
N_CHAINS, MOST_MOVES = (16, 20, 12, 24), 1000
# More of all moves than this diverge only where the chains cannot follow the posterior.
MOST_DIVERGENT = 0.01


@dataclass(frozen=True, repr=False, eq=False)
class Posterior(Draws):
    """Draws of a posterior, all of the same weight: a mapping from the model's names to arrays (S, ...).

    Attributes
    ----------
    method : {"laplace", "importance", "hmc", "nuts"}
        By which they were made.
    message : str
        Whether they are right, by what measure, and why this method was taken.
    is_good : bool
        Whether the method's own diagnostics are all right.
    r_hat, ess : float
        By chains: the largest r-hat of what was watched, and the least number of independent draws that they count
        for. By importance sampling: 1, and what the weights say. NaN for Laplace's approximation.
    pareto_k : float
        k-hat of the weights, by importance sampling and for Laplace's approximation; NaN for chains.
    n_divergent : int
    loss : ndarray, (S,)
        Negative log density in the unconstrained space; NaN where it was not computed.
    """

    method: str
    message: str
    is_good: bool
    loss: np.ndarray = field(repr=False)
    r_hat: float = np.nan
    ess: float = np.nan
    pareto_k: float = np.nan
    n_divergent: int = 0

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard deviations of the draws."""
        return {name: values.std(axis=0, ddof=1) for name, values in self.items()}

    def to_datatree(self, *, log_likelihood: bool = False) -> xr.DataTree:
        """Return the draws as an ArviZ DataTree.

        Parameters
        ----------
        log_likelihood : bool
            Add the group that ``az.loo`` needs.

        Returns
        -------
        xarray.DataTree
            Groups as `Draws.to_datatree`, and ``sample_stats`` with ``lp``; its attributes are the diagnostics.
        """
        tree = super().to_datatree(log_likelihood=log_likelihood)
        stats = xr.Dataset({"lp": (("chain", "draw"), -self._split(self.loss))}, tree["posterior"].coords)
        known = {"r_hat": self.r_hat, "ess": self.ess, "pareto_k": self.pareto_k}
        stats.attrs = {"method": self.method, "message": self.message, "n_divergent": self.n_divergent}
        stats.attrs |= {name: value for name, value in known.items() if not np.isnan(value)}
        tree["sample_stats"] = xr.DataTree(stats)
        return tree

    def _tabulate(self) -> Table:
        return replace(super()._tabulate(), foot=self.message)


@compute_plainly
def posterior(
    fit: MAPResult | LaplacePosterior | pm.Model,
    *,
    draws: int = 1000,
    method: str = "auto",
    of: Any = None,
    random_seed: Any = None,
    progressbar: bool = True,
) -> Posterior:
    """Draw from the posterior of a fit.

    ``"auto"`` takes the cheapest method whose own diagnostics say that it is right, and `message` says which and why:
    draws of a t distribution around the mode, weighted by the posterior and resampled to equal weights, while k-hat is
    at most 0.7; else many short chains of Hamiltonian Monte Carlo, until r-hat is below 1.02 and the draws count for
    400 independent ones. Of more than 10,000 parameters there is only Laplace's approximation.

    Parameters
    ----------
    fit : MAPResult, LaplacePosterior or pm.Model
        Converged; a model is fitted first.
    draws : int
        How many in all.
    method : {"auto", "laplace", "importance", "hmc", "nuts"}
        ``"nuts"`` is for posteriors on which the short chains fail; it needs BlackJAX.
    of : tensor, sequence of tensors, or callable, optional
        What the chains have to be long enough for: expressions of the model's variables, or a function of `Draws` that
        returns an array (S, ...), such as ``lambda draws: threshold_contours(draws, field, points).radii``. Default:
        all parameters, or, of the weights of a Wishart process, what does not depend on their rotation.
    random_seed : int or numpy.random.Generator, optional
    progressbar : bool

    Returns
    -------
    Posterior
        Returned even if the diagnostics are poor; a warning is issued as well. Ctrl-C ends the chains, and the draws
        made until then are returned.

    Raises
    ------
    ValueError
        If the fit did not converge or has no mode near it, or a setting is out of range.

    Examples
    --------
    >>> import pymc as pm
    >>> import pm_psyphy as psy
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0, 10)
    ...     y = pm.Normal("y", mu, 2, observed=[4.0, 5.0, 7.0, 8.0])
    >>> found = psy.posterior(psy.find_map(model), random_seed=1)
    >>> found.method, round(float(found["mu"].mean())), round(float(found["mu"].std()), 1)
    ('importance', 6, 1.0)
    """
    check_whole(draws=draws)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}. Pass one of {', '.join(map(repr, METHODS))}.")
    if isinstance(fit, pm.Model):
        fit = find_map(fit, progressbar=progressbar)
    rng = np.random.default_rng(random_seed)
    near = find_gaussian(fit)
    too_many = isinstance(near.factor, LowRankFactor)
    if method == "laplace" or (method == "auto" and too_many):
        found = _take_laplace(near, draws, rng)
    elif method == "nuts":
        found = _take_nuts(fit, near, draws, of, rng, progressbar)
    elif too_many:
        raise ValueError(f"The model has {len(near.flat):,} parameters, too many for {method!r}. Use method='laplace'.")
    else:
        found = _choose(fit, near, method, draws, of, rng, progressbar)
    if not found.is_good:
        warnings.warn(found.message, stacklevel=3)
    return found


def _choose(
    fit: Any, near: Gaussian, method: str, draws: int, of: Any, rng: np.random.Generator, progressbar: bool
) -> Posterior:
    """Return weighted draws if they are asked for or good, else those of chains."""
    reason, modes = "", find_modes(fit, near)
    if method == "importance" or (method == "auto" and len(modes[0]) == 1):
        weighted = draw_weighted(near, rng, persist=method == "importance")
        if method == "importance" or _is_usable(weighted):
            return _take_weighted(near, weighted, draws, rng, len(modes[0]))
        reason = f" Importance sampling was tried first, and its k-hat is {weighted.pareto_k:.2f}."
    return _take_chains(near, modes, draws, of, rng, progressbar, reason)


def _is_usable(weighted: WeightedDraws) -> bool:
    return weighted.pareto_k <= POOR_K and weighted.ess >= LEAST_ESS


def _take_laplace(near: Gaussian, draws: int, rng: np.random.Generator) -> Posterior:
    found = draw_gaussian(near, draws, rng)
    return Posterior(
        found.objective,
        found.unconstrained,
        method="laplace",
        message=f"Laplace's approximation. {found.message}",
        is_good=found.is_near,
        loss=np.full(draws, np.nan),
        pareto_k=found.pareto_k,
    )


def _take_weighted(
    near: Gaussian, weighted: WeightedDraws, draws: int, rng: np.random.Generator, n_modes: int
) -> Posterior:
    chosen, is_good = resample(weighted.weights, draws, rng), _is_usable(weighted)
    message = (
        f"Importance sampling around the mode: k-hat is {weighted.pareto_k:.2f}, and the weighted draws count for "
        f"{weighted.ess:,.0f} independent ones."
    )
    if n_modes > 1:
        is_good = False
        message += f" They are of one of the {n_modes} modes that the starts of the fit found: use method='hmc'."
    elif not is_good:
        message += f" At most {POOR_K} and at least {LEAST_ESS} would be right: use method='hmc'."
    return Posterior(
        near.objective,
        find_layout(near.mode).split(weighted.vectors[chosen]),
        method="importance",
        message=message,
        is_good=is_good,
        loss=weighted.losses[chosen],
        r_hat=1.0,
        ess=weighted.ess,
        pareto_k=weighted.pareto_k,
    )


def _take_chains(
    near: Gaussian,
    modes: tuple[list[Gaussian], np.ndarray],
    draws: int,
    of: Any,
    rng: np.random.Generator,
    progressbar: bool,
    reason: str,
) -> Posterior:
    n_chains = _choose_n_chains(draws)
    origins, counts = _spread(*modes, n_chains, rng)
    if len(counts) > 1:
        began = ", ".join(map(str, counts))
        reason = (
            f" The starts of the fit found {len(counts)} modes, at which {began} chains began, in proportion to the "
            "evidence of each by Laplace's approximation."
        )
    watch = Watch(near, of, least=ceil(draws / n_chains))
    most = OF_CHUNK * ceil(max(MOST_MOVES, draws / n_chains) / OF_CHUNK)
    columns = TextColumn("sampling"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, transient=True, disable=not progressbar) as bar:
        task = bar.add_task("tuning", total=most)
        walked = walk(
            near, rng, origins, watch.look, most, lambda n: bar.update(task, advance=n, description=str(watch))
        )
    watch.judge()
    share = walked.n_divergent / walked.losses.size
    message, is_good = _say_of_chains(f"{n_chains} short Hamiltonian chains", watch, share, walked.interrupted)
    vectors, losses, n_chains = _thin(walked, draws)
    return Posterior(
        near.objective,
        find_layout(near.mode).split(vectors),
        n_chains=n_chains,
        method="hmc",
        message=message + reason,
        is_good=is_good,
        loss=losses,
        r_hat=watch.r_hat,
        ess=watch.ess,
        n_divergent=walked.n_divergent,
    )


def _spread(
    modes: list[Gaussian], shares: np.ndarray, n_chains: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    """Return where chains begin, (B, Q), as many at each mode as its share says, and how many these are."""
    numbers = resample(shares, n_chains, rng)
    places = locate([mode.mode for mode in modes], modes[0])
    counts = np.bincount(numbers, minlength=len(modes))
    return places[numbers], counts[counts > 0].tolist()


def _take_nuts(fit: Any, near: Gaussian, draws: int, of: Any, rng: np.random.Generator, progressbar: bool) -> Posterior:
    chains = next(n for n in (4, 5, 3, 2, 1) if draws % n == 0)
    tree = sample(fit, draws=draws // chains, chains=chains, random_seed=rng, progressbar=progressbar)
    found = Draws.from_datatree(near.objective, tree)
    layout, stats = find_layout(near.mode), tree["sample_stats"]
    vectors, losses = np.asarray(layout.join(found.unconstrained)), -stats["lp"].to_numpy()
    watch = Watch(near, of)
    watch.add(np.swapaxes(vectors.reshape(chains, -1, vectors.shape[-1]), 0, 1), losses.T)
    watch.judge()
    n_divergent = int(stats["diverging"].to_numpy().sum())
    message, is_good = _say_of_chains(f"{chains} chains of NUTS", watch, n_divergent / draws, interrupted=False)
    return Posterior(
        near.objective,
        found.unconstrained,
        n_chains=chains,
        method="nuts",
        message=message,
        is_good=is_good,
        loss=losses.ravel(),
        r_hat=watch.r_hat,
        ess=watch.ess,
        n_divergent=n_divergent,
    )


def _say_of_chains(chains: str, watch: Watch, share: float, interrupted: bool) -> tuple[str, bool]:
    """Return whether the chains are good, as a sentence and as a boolean."""
    sentences = [
        f"{chains}: r-hat is at most {watch.r_hat:.3f}, and the draws count for at least {watch.ess:,.0f} "
        "independent ones."
    ]
    if interrupted:
        sentences.append("They were interrupted.")
    if not watch.is_good:
        sentences.append(
            f"That is not enough (r-hat up to {MOST_R_HAT} and {LEAST_ESS} draws are asked for), and intervals may "
            "mislead: the posterior may have several modes or a shape that the chains cannot follow. Reparameterise "
            "the model (for example non-centred), or use method='nuts'."
        )
    if share > MOST_DIVERGENT:
        sentences.append(
            f"{share:.1%} of the trajectories diverged: some of the posterior was not reached. Reparameterise the "
            "model (for example non-centred)."
        )
    return " ".join(sentences), watch.is_good and share <= MOST_DIVERGENT


def _choose_n_chains(draws: int) -> int:
    """Return a number of chains by which the draws can be divided, if there is one."""
    return next((n for n in N_CHAINS if draws % n == 0), N_CHAINS[0])


def _thin(walked: Walked, draws: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return so many draws (S, P) at even distances, chain after chain, their losses (S,), and how many chains."""
    n, n_chains = walked.losses.shape
    each = draws // n_chains if draws % n_chains == 0 else 0
    if 0 < each <= n:
        kept = np.linspace(0, n - 1, each).round().astype(int)
        vectors, losses = walked.vectors[kept], walked.losses[kept]
        return np.swapaxes(vectors, 0, 1).reshape(draws, -1), losses.T.ravel(), n_chains
    kept = np.linspace(0, n * n_chains - 1, min(draws, n * n_chains)).round().astype(int)
    vectors = np.swapaxes(walked.vectors, 0, 1).reshape(n * n_chains, -1)
    return vectors[kept], walked.losses.T.ravel()[kept], 1
