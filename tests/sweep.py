"""Small PyMC models of every kind, each with a group and a name: what `test_sweep` compiles and compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions import transforms
from pytensor import sparse
from pytensor.conditional.op import ifelse
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.fft import rfft
from scipy.sparse import csr_matrix

FREE = "Continuous, free"
OBSERVED = "Continuous, observed"
DISCRETE = "Discrete, observed"
MULTIVARIATE = "Multivariate"
MIXTURES = "Mixtures, truncation, censoring"
SERIES = "Time series and scans"
PROCESSES = "Gaussian processes"
STRUCTURE = "Transforms and structure"
FUNCTIONS = "Special functions and linear algebra"

REALS = np.array([-1.2, 0.3, 0.8, 2.1])
POSITIVES = np.array([0.4, 1.1, 2.3, 0.7])
FRACTIONS = np.array([0.15, 0.4, 0.6, 0.85])
COUNTS = np.array([0, 1, 3, 2, 5])
GROUPS_OF_TRIALS = np.array([0, 1, 1, 2, 0, 2, 2])
LINE = np.linspace(0, 2, 7)[:, None]
PLANE = np.array([[0.0, 0.1], [0.9, 0.3], [0.4, 1.2], [1.5, 0.8], [1.1, 1.9]])
NEIGHBOURS = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]])
COVARIANCE = np.array([[1.5, 0.4, 0.1], [0.4, 1.0, -0.2], [0.1, -0.2, 0.8]])
TRIPLES = np.array([[0.2, -0.5, 1.0], [1.1, 0.3, -0.7], [-0.9, 0.8, 0.4], [0.0, 1.3, 0.6]])
MASK = np.array([True, False, True, True, False])


@dataclass(frozen=True)
class Case:
    """A model to be built: `declare` declares its variables in the model in context."""

    group: str
    name: str
    declare: Callable[[], Any]

    def build(self) -> pm.Model:
        with pm.Model() as model:
            self.declare()
        return model


CASES: dict[str, Case] = {}


def add(group: str, name: str, declare: Callable[[], Any]) -> None:
    key = f"{group}: {name}"
    if key in CASES:
        raise ValueError(f"There are two cases {key!r}. Give them different names.")
    CASES[key] = Case(group, name, declare)


def add_all(group: str, table: Mapping[str, Callable[[], Any]]) -> None:
    for name, declare in table.items():
        add(group, name, declare)


def case(group: str, name: str) -> Callable:
    def register(declare: Callable[[], Any]) -> Callable[[], Any]:
        add(group, name, declare)
        return declare

    return register


# Free parameters, by what they may be.


def real(name: str, **kwargs) -> pt.TensorVariable:
    return pm.Normal(name, 0, 1, **kwargs)


def positive(name: str, **kwargs) -> pt.TensorVariable:
    return pm.LogNormal(name, 0, 0.5, **kwargs)


def fraction(name: str, **kwargs) -> pt.TensorVariable:
    return pm.Beta(name, 2, 3, **kwargs)


def near(value: Any, spread: float = 0.1) -> Callable[..., pt.TensorVariable]:
    return lambda name, **kwargs: pm.Normal(name, value, spread, **kwargs)


def between(lower: float, upper: float) -> Callable[..., pt.TensorVariable]:
    return lambda name, **kwargs: pm.Uniform(name, lower, upper, **kwargs)


def triple(name: str, **kwargs) -> pt.TensorVariable:
    """Start from different values, so that neither their order nor their largest is a tie."""
    return pm.Normal(name, [0.3, -0.8, 1.1], 0.1, **kwargs)


def simplex(name: str) -> pt.TensorVariable:
    return pm.Dirichlet(name, np.array([1.5, 2.0, 2.5]))


def cutpoints(name: str) -> pt.TensorVariable:
    return pm.Normal(name, [-1, 0, 1], 1, transform=transforms.ordered, initval=[-1.0, 0.1, 0.9])


def observe(x: Any, name: str = "y") -> pt.TensorVariable:
    """Observe x with unit noise, at data that differ in each element."""
    shape = x.type.shape if None not in x.type.shape else tuple(x.shape.eval(mode="FAST_COMPILE"))
    return pm.Normal(name, x, 1, observed=np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape))


# One table of distributions serves as priors and as likelihoods: parameters are priors by name, or fixed values.

BOUNDS = {"lower": near(-3), "upper": near(4)}
CONTINUOUS: list[tuple[str, dict[str, Any], np.ndarray]] = [
    ("AsymmetricLaplace", {"kappa": positive, "mu": real, "b": positive}, REALS),
    ("Beta", {"alpha": positive, "beta": positive}, FRACTIONS),
    ("Beta", {"mu": fraction, "sigma": between(0.05, 0.3)}, FRACTIONS),
    ("Beta", {"mu": fraction, "nu": positive}, FRACTIONS),
    ("Cauchy", {"alpha": real, "beta": positive}, REALS),
    ("ChiSquared", {"nu": positive}, POSITIVES),
    ("ExGaussian", {"mu": real, "sigma": positive, "nu": positive}, REALS),
    ("Exponential", {"lam": positive}, POSITIVES),
    ("Exponential", {"scale": positive}, POSITIVES),
    ("Gamma", {"alpha": positive, "beta": positive}, POSITIVES),
    ("Gamma", {"mu": positive, "sigma": positive}, POSITIVES),
    ("Gumbel", {"mu": real, "beta": positive}, REALS),
    ("HalfCauchy", {"beta": positive}, POSITIVES),
    ("HalfNormal", {"sigma": positive}, POSITIVES),
    ("HalfNormal", {"tau": positive}, POSITIVES),
    ("HalfStudentT", {"nu": positive, "sigma": positive}, POSITIVES),
    ("InverseGamma", {"alpha": near(3), "beta": positive}, POSITIVES),
    ("InverseGamma", {"mu": positive, "sigma": positive}, POSITIVES),
    ("Kumaraswamy", {"a": positive, "b": positive}, FRACTIONS),
    ("Laplace", {"mu": real, "b": positive}, REALS),
    ("LogNormal", {"mu": real, "sigma": positive}, POSITIVES),
    ("Logistic", {"mu": real, "s": positive}, REALS),
    ("LogitNormal", {"mu": real, "sigma": positive}, FRACTIONS),
    ("Moyal", {"mu": real, "sigma": positive}, REALS),
    ("Normal", {"mu": real, "sigma": positive}, REALS),
    ("Normal", {"mu": real, "tau": positive}, REALS),
    ("Pareto", {"alpha": near(3), "m": between(0.1, 0.3)}, POSITIVES),
    ("Rice", {"nu": positive, "sigma": positive}, POSITIVES),
    ("Rice", {"b": positive, "sigma": positive}, POSITIVES),
    ("SkewNormal", {"mu": real, "sigma": positive, "alpha": real}, REALS),
    ("SkewStudentT", {"a": near(3), "b": near(4), "mu": real, "sigma": positive}, REALS),
    ("StudentT", {"nu": positive, "mu": real, "sigma": positive}, REALS),
    ("StudentT", {"nu": 4, "mu": real, "lam": positive}, REALS),
    ("Triangular", {"lower": near(-3), "c": real, "upper": near(4)}, REALS),
    ("TruncatedNormal", {"mu": real, "sigma": positive, **BOUNDS}, REALS),
    ("TruncatedNormal", {"mu": real, "sigma": positive, "lower": 0}, POSITIVES),
    ("Uniform", BOUNDS, REALS),
    ("VonMises", {"mu": real, "kappa": positive}, REALS),
    ("Wald", {"mu": positive, "lam": positive, "alpha": between(0.0, 0.3)}, POSITIVES),
    ("Wald", {"mu": positive, "phi": positive}, POSITIVES),
    ("Weibull", {"alpha": positive, "beta": positive}, POSITIVES),
]

DISCRETES: list[tuple[str, dict[str, Any], np.ndarray]] = [
    ("Bernoulli", {"p": fraction}, COUNTS > 1),
    ("Bernoulli", {"logit_p": real}, COUNTS > 1),
    ("BetaBinomial", {"alpha": positive, "beta": positive, "n": 6}, COUNTS),
    ("Binomial", {"n": 6, "p": fraction}, COUNTS),
    ("Binomial", {"n": 6, "logit_p": real}, COUNTS),
    ("Categorical", {"p": simplex}, np.array([0, 2, 1, 1])),
    ("Categorical", {"logit_p": near(np.array([0.1, 0.5, -0.4]))}, np.array([0, 2, 1, 1])),
    ("DirichletMultinomial", {"n": 7, "a": partial(positive, shape=3)}, np.array([[1, 4, 2], [0, 7, 0]])),
    ("DiscreteWeibull", {"q": fraction, "beta": positive}, COUNTS),
    ("Geometric", {"p": fraction}, COUNTS + 1),
    ("HurdleNegativeBinomial", {"psi": fraction, "mu": positive, "alpha": positive}, COUNTS),
    ("HurdlePoisson", {"psi": fraction, "mu": positive}, COUNTS),
    ("Multinomial", {"n": 7, "p": simplex}, np.array([[1, 4, 2], [0, 7, 0]])),
    ("NegativeBinomial", {"mu": positive, "alpha": positive}, COUNTS),
    ("NegativeBinomial", {"n": positive, "p": fraction}, COUNTS),
    ("OrderedLogistic", {"eta": real, "cutpoints": cutpoints}, np.array([0, 1, 3, 2])),
    ("OrderedMultinomial", {"eta": real, "cutpoints": cutpoints, "n": 9}, np.array([[1, 2, 4, 2], [0, 3, 3, 3]])),
    ("OrderedProbit", {"eta": real, "cutpoints": cutpoints}, np.array([0, 1, 3, 2])),
    ("Poisson", {"mu": positive}, COUNTS),
    ("ZeroInflatedBinomial", {"psi": fraction, "n": 6, "p": fraction}, COUNTS),
    ("ZeroInflatedNegativeBinomial", {"psi": fraction, "mu": positive, "alpha": positive}, COUNTS),
    ("ZeroInflatedNegativeBinomial", {"psi": fraction, "n": positive, "p": fraction}, COUNTS),
    ("ZeroInflatedPoisson", {"psi": fraction, "mu": positive}, COUNTS),
]


def name_case(distribution: str, parameters: Mapping[str, Any]) -> str:
    fixed = {k: f"{k}={v}" for k, v in parameters.items() if not callable(v)}
    return f"{distribution}({', '.join(fixed.get(k, k) for k in parameters)})"


def declare_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value(name) if callable(value) else value for name, value in parameters.items()}


def declare_free(distribution: str, parameters: Mapping[str, Any]) -> None:
    observe(getattr(pm, distribution)("x", **declare_parameters(parameters), shape=3))


def declare_observed(distribution: str, parameters: Mapping[str, Any], data: np.ndarray) -> None:
    getattr(pm, distribution)("y", **declare_parameters(parameters), observed=data)


# Priors take each distribution once: with other parameters its density has the same ops.
FIRST_ROWS = [row for i, row in enumerate(CONTINUOUS) if row[0] not in {other[0] for other in CONTINUOUS[:i]}]
for distribution, parameters, _ in FIRST_ROWS:
    add(FREE, name_case(distribution, parameters), partial(declare_free, distribution, parameters))
for distribution, parameters, data in CONTINUOUS:
    add(OBSERVED, name_case(distribution, parameters), partial(declare_observed, distribution, parameters, data))
for distribution, parameters, data in DISCRETES:
    add(DISCRETE, name_case(distribution, parameters), partial(declare_observed, distribution, parameters, data))

DENSITY_ON_GRID = (np.linspace(-4, 4, 30), np.exp(-(np.linspace(-4, 4, 30) ** 2) / 3))
add_all(
    FREE,
    {
        "Flat": lambda: observe(pm.Flat("x", shape=3)),
        "HalfFlat": lambda: observe(pm.HalfFlat("x", shape=3)),
        "Interpolated": lambda: observe(pm.Interpolated("x", *DENSITY_ON_GRID, shape=3)),
    },
)
add(
    OBSERVED,
    "Interpolated, of shifted data",
    lambda: pm.Potential("y", pm.logp(pm.Interpolated.dist(*DENSITY_ON_GRID), REALS - real("mu"))),
)


# These have no parameter with a gradient: they stand beside a variable that has one.
@case(DISCRETE, "DiscreteUniform, HyperGeometric and DiracDelta, with fixed parameters")
def discrete_with_fixed_parameters():
    observe(real("mu", shape=2))
    pm.DiscreteUniform("uniform", 0, 9, observed=COUNTS)
    pm.HyperGeometric("hypergeometric", N=20, k=8, n=6, observed=COUNTS)
    pm.DiracDelta("dirac", 3, observed=np.array([3, 3]))


# Multivariate


@case(MULTIVARIATE, "MvNormal observed, LKJCholeskyCov")
def mv_normal_of_lkj_cholesky():
    chol, _, _ = pm.LKJCholeskyCov("chol", n=3, eta=2, sd_dist=pm.HalfNormal.dist(1, shape=3))
    pm.MvNormal("y", real("mu", shape=3), chol=chol, observed=TRIPLES)


@case(MULTIVARIATE, "MvNormal free and not centred, LKJCholeskyCov")
def varying_intercepts_and_slopes():
    chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=positive("eta"), sd_dist=pm.Exponential.dist(1, shape=2))
    effects = pm.MvNormal("effects", real("mu", shape=2), chol=chol, shape=(3, 2))
    offsets = real("offsets", shape=(3, 2)) @ chol.T
    observe((effects + offsets)[GROUPS_OF_TRIALS].sum(-1))


def lkj_corr(n: int = 3):
    chol = pm.LKJCorr("chol", n=n, eta=2)
    pm.MvNormal("y", np.zeros(n), chol=positive("scale", shape=n)[:, None] * chol, observed=TRIPLES)


def car(neighbours: Any, **observed: Any):
    x = pm.CAR("x", real("mu", shape=4), neighbours, alpha=fraction("alpha"), tau=positive("tau"), **observed)
    if not observed:
        observe(x)


def wishart_bartlett():
    precision = pm.WishartBartlett("precision", COVARIANCE, nu=5)
    pm.MvNormal("y", np.zeros(3), tau=precision, observed=TRIPLES)


def kronecker_normal(**noise: Callable):
    distances = np.abs(np.arange(3)[:, None] - np.arange(3))
    covs = [pt.exp(-distances / positive("ell")), pt.exp(-distances[:2, :2] / positive("ell2"))]
    pm.KroneckerNormal("y", mu=np.zeros(6), covs=covs, **declare_parameters(noise), observed=TRIPLES.reshape(2, 6))


def matrix_normal():
    chol, _, _ = pm.LKJCholeskyCov("rows", n=4, eta=2, sd_dist=pm.HalfNormal.dist(1, shape=4))
    scale = pt.diag(positive("scale", shape=3))
    pm.MatrixNormal("y", mu=np.zeros((4, 3)), rowchol=chol, colcov=scale, observed=TRIPLES)


add_all(
    MULTIVARIATE,
    {
        "MvNormal(mu, cov), cov scaled": lambda: pm.MvNormal(
            "y", real("mu", shape=3), cov=COVARIANCE * positive("scale"), observed=TRIPLES
        ),
        "MvNormal(mu, tau), tau scaled": lambda: pm.MvNormal(
            "y", real("mu", shape=3), tau=COVARIANCE * positive("scale"), observed=TRIPLES
        ),
        "MvNormal, a batch of covariances": lambda: pm.MvNormal(
            "y", 0, cov=COVARIANCE * positive("scale", shape=4)[:, None, None], observed=TRIPLES
        ),
        "MvNormal, with missing values": lambda: pm.MvNormal(
            "y", real("mu", shape=3), cov=COVARIANCE, observed=np.where(TRIPLES > 1.2, np.nan, TRIPLES)
        ),
        "MvStudentT free": lambda: observe(
            pm.MvStudentT("x", nu=positive("nu"), mu=real("mu", shape=3), scale=COVARIANCE)
        ),
        "MvStudentT observed": lambda: pm.MvStudentT(
            "y", nu=positive("nu"), mu=real("mu", shape=3), scale=COVARIANCE * positive("scale"), observed=TRIPLES
        ),
        "LKJCorr": lkj_corr,
        "Dirichlet free, hyperparameters free": lambda: observe(pm.Dirichlet("x", positive("a", shape=(2, 3)))),
        "Dirichlet observed": lambda: pm.Dirichlet(
            "y", positive("a", shape=3), observed=np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
        ),
        "StickBreakingWeights free": lambda: observe(pm.StickBreakingWeights("x", alpha=positive("alpha"), K=3)),
        "StickBreakingWeights observed": lambda: pm.StickBreakingWeights(
            "y", alpha=positive("alpha"), K=3, observed=np.array([0.4, 0.3, 0.2, 0.1])
        ),
        "Wishart observed": lambda: pm.Wishart("y", nu=5, V=COVARIANCE * positive("scale"), observed=COVARIANCE),
        "WishartBartlett": wishart_bartlett,
        "MatrixNormal observed": matrix_normal,
        "KroneckerNormal": kronecker_normal,
        "KroneckerNormal with noise": partial(kronecker_normal, sigma=positive),
        "CAR free": partial(car, NEIGHBOURS),
        "CAR observed": partial(car, NEIGHBOURS, observed=REALS),
        "CAR observed, sparse adjacency": partial(
            car, sparse.as_sparse_variable(csr_matrix(NEIGHBOURS)), observed=REALS
        ),
        "ICAR": lambda: observe(pm.ICAR("x", W=NEIGHBOURS, sigma=positive("sigma"))),
        "ZeroSumNormal": lambda: observe(pm.ZeroSumNormal("x", sigma=positive("sigma"), shape=4)),
        "ZeroSumNormal, two axes": lambda: observe(
            pm.ZeroSumNormal("x", sigma=positive("sigma"), shape=(2, 3, 4), n_zerosum_axes=2)
        ),
    },
)


# Mixtures, truncation, censoring


def mixture(*components: Any, data: np.ndarray = REALS, weights: Callable = simplex):
    """Each component is a distribution's name and its parameters, named apart by their index."""
    dists = [
        getattr(pm, distribution).dist(**{k: v(f"{k}{i}") if callable(v) else v for k, v in parameters.items()})
        for i, (distribution, parameters) in enumerate(components)
    ]
    pm.Mixture("y", weights("w"), dists, observed=data)


def pair(name: str) -> pt.TensorVariable:
    return pm.Dirichlet(name, np.array([2.0, 3.0]))


def truncated(distribution: str, parameters: Mapping[str, Any], data: np.ndarray, **bounds: Any):
    dist = getattr(pm, distribution).dist(**declare_parameters(parameters))
    pm.Truncated("y", dist, **declare_parameters(bounds), observed=data)


def censored(distribution: str, parameters: Mapping[str, Any], data: np.ndarray, **bounds: Any):
    dist = getattr(pm, distribution).dist(**declare_parameters(parameters))
    pm.Censored("y", dist, **{"lower": None, "upper": None, **bounds}, observed=data)


def custom_with_logp():
    def logp(value, mu, sigma):
        return -0.5 * ((value - mu) / sigma) ** 2 - pt.log(sigma)

    pm.CustomDist("y", real("mu"), positive("sigma"), logp=logp, observed=REALS)


def custom_with_dist():
    def dist(mu, sigma, size):
        return pm.math.exp(mu + sigma * pm.StudentT.dist(nu=5, size=size)) + 1

    pm.CustomDist("y", real("mu"), positive("sigma"), dist=dist, observed=POSITIVES + 1)


def custom_free():
    def dist(rate, size):
        return pm.math.clip(pm.Exponential.dist(rate, size=size), 0, 3)

    observe(
        pm.CustomDist("x", positive("rate"), logp=lambda x, r: pt.log(r) - r * x, shape=3, transform=transforms.log)
    )
    pm.CustomDist("z", positive("rate2"), dist=dist, observed=np.array([0.5, 3.0, 3.0]))


def survival():
    logcdf = pm.logcdf(pm.Weibull.dist(positive("alpha"), positive("beta")), POSITIVES)
    pm.Potential("y", pt.log1mexp(logcdf).sum())


NORMAL = ("Normal", {"mu": real, "sigma": positive})
STUDENT = ("StudentT", {"nu": 4, "mu": real, "sigma": positive})
GAMMA = ("Gamma", {"alpha": positive, "beta": positive})
WEIBULL = ("Weibull", {"alpha": positive, "beta": positive})
POISSON = ("Poisson", {"mu": positive})
add_all(
    MIXTURES,
    {
        "Mixture of three Normals": partial(mixture, NORMAL, NORMAL, NORMAL),
        "Mixture of Normal and StudentT": partial(mixture, NORMAL, STUDENT, weights=pair),
        "Mixture of Poissons": partial(mixture, POISSON, POISSON, data=COUNTS, weights=pair),
        "Mixture of MvNormals": lambda: pm.Mixture(
            "y",
            pair("w"),
            [pm.MvNormal.dist(real(f"mu{i}", shape=3), cov=COVARIANCE * (i + 1)) for i in range(2)],
            observed=TRIPLES,
        ),
        "Mixture, components as one batch": lambda: pm.Mixture(
            "y", simplex("w"), pm.Normal.dist(real("mu", shape=3), positive("sigma", shape=3)), observed=REALS
        ),
        "Mixture of Normals, free": lambda: observe(
            pm.Mixture("x", pair("w"), [pm.Normal.dist(real("mu"), 1), pm.Normal.dist(2, 0.5)], shape=3)
        ),
        "Mixture, ordered means": lambda: pm.NormalMixture("y", simplex("w"), cutpoints("mu"), 0.5, observed=REALS),
        "NormalMixture": lambda: pm.NormalMixture(
            "y", simplex("w"), real("mu", shape=3), positive("sigma", shape=3), observed=REALS
        ),
        "HurdleGamma": lambda: pm.HurdleGamma(
            "y", fraction("psi"), positive("alpha"), positive("beta"), observed=np.array([0.0, 0.4, 2.1])
        ),
        "HurdleLogNormal": lambda: pm.HurdleLogNormal(
            "y", fraction("psi"), real("mu"), positive("sigma"), observed=np.array([0.0, 0.4, 2.1])
        ),
        "Truncated Normal": partial(truncated, *NORMAL, REALS, lower=-2, upper=3),
        "Truncated Normal, free bounds": partial(truncated, *NORMAL, REALS, **BOUNDS),
        "Truncated StudentT": partial(truncated, *STUDENT, REALS, lower=-2, upper=3),
        "Truncated Gamma": partial(truncated, *GAMMA, POSITIVES, lower=0.1, upper=5),
        "Truncated LogNormal": partial(truncated, "LogNormal", {"mu": real, "sigma": positive}, POSITIVES, upper=5),
        "Truncated Poisson": partial(truncated, *POISSON, COUNTS + 1, lower=1),
        "Truncated NegativeBinomial": partial(
            truncated, "NegativeBinomial", {"mu": positive, "alpha": positive}, COUNTS, upper=9
        ),
        "Truncated Normal, free": lambda: observe(
            pm.Truncated("x", pm.Normal.dist(real("mu"), positive("sigma")), lower=-1, upper=2, shape=3)
        ),
        "Censored Normal": partial(censored, *NORMAL, np.clip(REALS, -1, 2), lower=-1, upper=2),
        "Censored Weibull": partial(censored, *WEIBULL, np.clip(POSITIVES, 0, 2), upper=2),
        "Censored Exponential, bounds by trial": partial(
            censored, "Exponential", {"lam": positive}, np.minimum(POSITIVES, [1, 1, 3, 1]), upper=[1, 1, 3, 1]
        ),
        "Censored Gamma": partial(censored, *GAMMA, np.clip(POSITIVES, 0.5, 2), lower=0.5, upper=2),
        "Censored Poisson": partial(censored, *POISSON, np.minimum(COUNTS, 3), upper=3),
        "CustomDist(logp)": custom_with_logp,
        "CustomDist(dist)": custom_with_dist,
        "CustomDist free, and clipped": custom_free,
        "Potential of a Weibull survival function": survival,
    },
)


# Time series and scans

WALK = np.cumsum(REALS)


def euler_maruyama(**observed: Any):
    def drift_and_noise(x, rate, noise):
        return -rate * x, noise

    x = pm.EulerMaruyama(
        "x",
        dt=0.1,
        sde_fn=drift_and_noise,
        sde_pars=(positive("rate"), positive("noise")),
        init_dist=pm.Normal.dist(0, 1),
        **({} if observed else {"steps": 5}),
        **observed,
    )
    if not observed:
        observe(x)


def scan_autoregression():
    def step(y, before, rho, sigma):
        return pm.logp(pm.Normal.dist(rho * before, sigma), y)

    data = pm.Data("data", WALK)
    terms = pytensor.scan(
        step, sequences=[data[1:], data[:-1]], non_sequences=[real("rho"), positive("sigma")], return_updates=False
    )
    pm.Potential("y", terms.sum())


def kalman_filter():
    def step(y, mean, variance, drift, noise):
        predicted, spread = mean, variance + drift**2
        gain = spread / (spread + noise**2)
        term = pm.logp(pm.Normal.dist(predicted, pt.sqrt(spread + noise**2)), y)
        return predicted + gain * (y - predicted), (1 - gain) * spread, term

    _, _, terms = pytensor.scan(
        step,
        sequences=[pt.as_tensor(WALK)],
        outputs_info=[real("start"), positive("spread"), None],
        non_sequences=[positive("drift"), positive("noise")],
        return_updates=False,
    )
    pm.Potential("y", terms.sum())


def matrix_kalman_filter():
    def step(y, mean, covariance, transition, noise):
        covariance = transition @ covariance @ transition.T + 0.1 * pt.eye(2)
        mean = transition @ mean
        spread = covariance[0, 0] + noise**2
        gain = pt.linalg.solve(spread * pt.eye(2), covariance[:, 0])
        term = -0.5 * (y - mean[0]) ** 2 / spread - 0.5 * pt.log(spread)
        return mean + gain * (y - mean[0]), covariance - pt.outer(gain, covariance[0]), term

    _, _, terms = pytensor.scan(
        step,
        sequences=[pt.as_tensor(WALK)],
        outputs_info=[real("mean", shape=2), pt.diag(positive("variance", shape=2)), None],
        non_sequences=[pt.stack([pt.stack([1.0, fraction("damping")]), pt.stack([0.0, 1.0])]), positive("noise")],
        return_updates=False,
    )
    pm.Potential("y", terms.sum())


def learning_by_trials():
    """Rescorla-Wagner: values of two options, learnt from choices and rewards."""
    choices, rewards = pm.Data("choices", np.array([0, 1, 1, 0, 1])), pm.Data("rewards", np.array([1.0, 0, 1, 1, 0]))

    def step(choice, reward, values, rate):
        return pt.set_subtensor(values[choice], values[choice] + rate * (reward - values[choice]))

    values = pytensor.scan(
        step, [choices, rewards], outputs_info=pt.zeros(2), non_sequences=fraction("rate"), return_updates=False
    )
    preference = positive("temperature") * (values[:-1, 1] - values[:-1, 0])
    pm.Bernoulli("y", logit_p=preference, observed=np.array([1, 1, 0, 1]))


def latent_scan():
    start, rho = real("start"), fraction("rho")
    path = pytensor.scan(
        lambda shock, before, rho: pt.tanh(rho * before + shock),
        sequences=real("shocks", shape=6),
        outputs_info=start,
        non_sequences=rho,
        return_updates=False,
    )
    observe(path)


def scan_of_two_lags():
    path = pytensor.scan(
        lambda before2, before1, rho: rho[0] * before1 + rho[1] * before2,
        outputs_info={"initial": real("start", shape=2), "taps": [-2, -1]},
        non_sequences=real("rho", shape=2),
        n_steps=5,
        return_updates=False,
    )
    observe(path)


def nested_scan():
    def damp(x, rate):
        return x * rate + 0.1

    def repeat(x, rate):
        return pytensor.scan(damp, outputs_info=x, non_sequences=rate, n_steps=3, return_updates=False)[-1]

    observe(pytensor.scan(repeat, real("x", shape=3), non_sequences=fraction("rate"), return_updates=False))


def scan_within_custom_dist():
    def dist(rho, sigma, size):
        def step(before, rho, sigma):
            after = pm.Normal.dist(rho * before, sigma)
            return after, pm.pytensorf.collect_default_updates([after])

        path, _ = pytensor.scan(step, outputs_info=pt.zeros(()), non_sequences=[rho, sigma], n_steps=4, strict=True)
        return path

    pm.CustomDist("y", fraction("rho"), positive("sigma"), dist=dist, observed=WALK)


def scan_over_a_dim():
    pm.modelcontext(None).add_coord("trial", np.arange(4), length=None)
    path = pytensor.scan(
        lambda before, rate: before * rate,
        outputs_info=pt.ones(()),
        non_sequences=[fraction("rate")],
        n_steps=pm.modelcontext(None).dim_lengths["trial"],
        return_updates=False,
    )
    pm.Normal("y", path, 1, observed=REALS, dims="trial")


def walk(distribution: str, **innovations: Any):
    observe(getattr(pm, distribution)("x", **declare_parameters(innovations), init_dist=pm.Normal.dist(0, 1), steps=4))


add_all(
    SERIES,
    {
        "GaussianRandomWalk free": partial(walk, "GaussianRandomWalk", mu=real, sigma=positive),
        "GaussianRandomWalk observed": lambda: pm.GaussianRandomWalk(
            "y", mu=real("mu"), sigma=positive("sigma"), init_dist=pm.Normal.dist(0, 2), observed=WALK
        ),
        "RandomWalk with StudentT innovations": lambda: observe(
            pm.RandomWalk(
                "x", init_dist=pm.Normal.dist(0, 1), innovation_dist=pm.StudentT.dist(positive("nu")), steps=4
            )
        ),
        "MvGaussianRandomWalk": lambda: observe(
            pm.MvGaussianRandomWalk(
                "x", mu=real("mu", shape=3), cov=COVARIANCE * positive("scale"),
                init_dist=pm.MvNormal.dist(np.zeros(3), np.eye(3)), steps=3,
            )
        ),
        "MvStudentTRandomWalk": lambda: observe(
            pm.MvStudentTRandomWalk(
                "x", nu=positive("nu"), mu=real("mu", shape=3), scale=COVARIANCE,
                init_dist=pm.MvNormal.dist(np.zeros(3), np.eye(3)), steps=3,
            )
        ),
        "AR of order 1, free": lambda: observe(
            pm.AR("x", rho=real("rho", shape=1), sigma=positive("sigma"), init_dist=pm.Normal.dist(0, 1), steps=5)
        ),
        "AR of order 2 with constant, observed": lambda: pm.AR(
            "y", rho=real("rho", shape=3), sigma=positive("sigma"), constant=True,
            init_dist=pm.Normal.dist(0, 1, shape=2), observed=np.concatenate([WALK, REALS]),
        ),
        "GARCH11 free": lambda: observe(
            pm.GARCH11(
                "x", omega=positive("omega"), alpha_1=fraction("alpha_1"), beta_1=fraction("beta_1"),
                initial_vol=positive("initial_vol"), steps=5,
            )
        ),
        "GARCH11 observed": lambda: pm.GARCH11(
            "y", omega=positive("omega"), alpha_1=fraction("alpha_1"), beta_1=fraction("beta_1"),
            initial_vol=positive("initial_vol"), observed=np.concatenate([REALS, REALS[::-1]]),
        ),
        "EulerMaruyama free": euler_maruyama,
        "EulerMaruyama observed": lambda: euler_maruyama(observed=WALK),
        "scan: log densities of an autoregression": scan_autoregression,
        "scan: Kalman filter": kalman_filter,
        "scan: Kalman filter with matrices": matrix_kalman_filter,
        "scan: learning by trials, indexed": learning_by_trials,
        "scan: latent path of free shocks": latent_scan,
        "scan: two lags": scan_of_two_lags,
        "scan: within scan": nested_scan,
        "scan: within CustomDist(dist)": scan_within_custom_dist,
        "scan: as many steps as a dim is long": scan_over_a_dim,
    },
)  # fmt: skip


# Gaussian processes


def marginal(make_cov: Callable, X: np.ndarray = LINE):
    gp = pm.gp.Marginal(cov_func=make_cov())
    gp.marginal_likelihood("y", X=X, y=np.sin(X.sum(-1)), sigma=positive("sigma"))


def latent(process: type = pm.gp.Latent, **kwargs: Any):
    observe(process(cov_func=exp_quad()).prior("f", X=LINE, **kwargs))


def exp_quad(d: int = 1) -> Any:
    return positive("eta") ** 2 * pm.gp.cov.ExpQuad(d, ls=positive("ell", shape=d))


def stationary(name: str, **kwargs: Any) -> Callable:
    return lambda: getattr(pm.gp.cov, name)(1, ls=positive("ell"), **declare_parameters(kwargs))


def approximate(kind: str):
    gp = pm.gp.MarginalApprox(cov_func=exp_quad(), approx=kind)
    gp.marginal_likelihood("y", X=LINE, Xu=LINE[::3] + 0.1, y=np.sin(LINE[:, 0]), sigma=positive("sigma"))


def hsgp(cov: Callable, **kwargs: Any):
    observe(pm.gp.HSGP(m=[6], c=1.5, cov_func=cov(), **kwargs).prior("f", X=LINE))


def hsgp_periodic():
    cov = pm.gp.cov.Periodic(1, period=2, ls=positive("ell"))
    observe(pm.gp.HSGPPeriodic(m=5, scale=positive("eta"), cov_func=cov).prior("f", X=LINE))


def hsgp_as_basis():
    gp = pm.gp.HSGP(m=[3, 3], L=[4, 4], cov_func=exp_quad(d=2))
    basis, root_density = gp.prior_linearized(X=pm.Data("X", PLANE))
    observe(basis @ (real("weights", shape=9) * root_density))


def coregionalised():
    X = np.column_stack([LINE, np.arange(7) % 2])
    tasks = pm.gp.cov.Coregion(2, active_dims=[1], W=real("W", shape=(2, 2)), kappa=positive("kappa", shape=2))
    gp = pm.gp.Marginal(cov_func=pm.gp.cov.ExpQuad(2, ls=positive("ell"), active_dims=[0]) * tasks)
    gp.marginal_likelihood("y", X=X, y=np.sin(LINE[:, 0]), sigma=positive("sigma"))


def kronecker_process(process: type):
    covs = [pm.gp.cov.ExpQuad(1, ls=positive("ell")), pm.gp.cov.Matern32(1, ls=positive("ell2"))]
    gp = process(cov_funcs=covs)
    Xs = [LINE[:3], LINE[:2]]
    if process is pm.gp.MarginalKron:
        gp.marginal_likelihood("y", Xs=Xs, y=np.sin(np.arange(6)), sigma=positive("sigma"))
    else:
        observe(gp.prior("f", Xs=Xs))


def warped() -> Any:
    return pm.gp.cov.WarpedInput(
        1, pm.gp.cov.Matern52(1, ls=0.5), warp_func=lambda x, a, b: x + a * pt.tanh(b * x), args=(real("a"), real("b"))
    )


def gibbs() -> Any:
    return pm.gp.cov.Gibbs(
        1,
        lengthscale_func=lambda x, a: 0.3 + a * x**2,
        args=(positive("a"),),
    )


def scaled() -> Any:
    cov = pm.gp.cov.ExpQuad(1, ls=0.7)
    return pm.gp.cov.ScaledCov(1, cov, scaling_func=lambda x, a: 1 + a * x, args=(positive("a"),))


add_all(
    PROCESSES,
    {
        "Marginal, ExpQuad with a length scale by dimension": lambda: marginal(lambda: exp_quad(2), PLANE),
        "Marginal, Matern12": partial(marginal, stationary("Matern12")),
        "Marginal, Matern32": partial(marginal, stationary("Matern32")),
        "Marginal, Matern52": partial(marginal, stationary("Matern52")),
        "Marginal, Exponential": partial(marginal, stationary("Exponential")),
        "Marginal, RatQuad": partial(marginal, stationary("RatQuad", alpha=positive)),
        "Marginal, Cosine": partial(marginal, stationary("Cosine")),
        "Marginal, Periodic": partial(marginal, stationary("Periodic", period=positive)),
        "Marginal, Linear and Polynomial and Constant": lambda: marginal(
            lambda: pm.gp.cov.Linear(1, c=real("c")) + pm.gp.cov.Polynomial(1, c=real("c2"), d=2, offset=positive("o"))
            + pm.gp.cov.Constant(positive("k"))
        ),
        "Marginal, Gibbs": partial(marginal, gibbs),
        "Marginal, WarpedInput": partial(marginal, warped),
        "Marginal, ScaledCov": partial(marginal, scaled),
        "Marginal, product of kernels with WhiteNoise": lambda: marginal(
            lambda: pm.gp.cov.ExpQuad(1, ls=positive("ell")) * pm.gp.cov.Cosine(1, ls=positive("period"))
            + pm.gp.cov.WhiteNoise(positive("white"))
        ),
        "Marginal, Coregion": coregionalised,
        "MarginalApprox DTC": partial(approximate, "DTC"),
        "MarginalApprox FITC": partial(approximate, "FITC"),
        "MarginalApprox VFE": partial(approximate, "VFE"),
        "MarginalKron": partial(kronecker_process, pm.gp.MarginalKron),
        "Latent, not centred": latent,
        "Latent, centred": partial(latent, reparameterize=False),
        "LatentKron": partial(kronecker_process, pm.gp.LatentKron),
        "TP": lambda: observe(pm.gp.TP(scale_func=exp_quad(), nu=positive("nu")).prior("f", X=LINE)),
        "HSGP, ExpQuad": partial(hsgp, exp_quad),
        "HSGP, Matern52, centred": partial(hsgp, stationary("Matern52"), parametrization="centered"),
        "HSGP, its basis in two dimensions, X as pm.Data": hsgp_as_basis,
        "HSGPPeriodic": hsgp_periodic,
    },
)  # fmt: skip


# Transforms and structure


def transformed(transform: Any, shape: Any = 3, **kwargs: Any) -> Callable:
    return lambda: observe(pm.Normal("x", 0.4, 1, shape=shape, transform=transform, **kwargs))


def regression_on_data():
    X, y = pm.Data("X", TRIPLES), pm.Data("y_data", REALS)
    pm.Normal("y", X @ real("beta", shape=3) + real("intercept"), positive("sigma"), observed=y)


def groups_by_index():
    group = pm.Data("group", GROUPS_OF_TRIALS)
    effects = pm.Normal("effects", real("mu"), positive("tau"), shape=3)
    observe(effects[group] * real("slopes", shape=3)[group])


def groups_by_dims():
    model = pm.modelcontext(None)
    model.add_coords({"subject": ["a", "b", "c"], "trial": np.arange(7)})
    effects = real("effects", dims="subject")
    pm.Deterministic("centred", effects - effects.mean(), dims="subject")
    pm.Bernoulli("y", logit_p=effects[GROUPS_OF_TRIALS], observed=GROUPS_OF_TRIALS > 0, dims="trial")


def masked_by(mask: Any):
    x = real("x", shape=5)
    pm.Normal("y", x[mask], 1, observed=np.array([0.3, 1.2, -0.5]))
    pm.Normal("z", pt.switch(mask, x, x**2), 1, observed=np.zeros(5))


def mask_from_data():
    masked_by(pm.Data("mask", MASK))


def set_by_mask():
    x = pt.set_subtensor(real("x", shape=5)[pm.Data("mask", MASK)], 0.5)
    observe(x * real("scale"))


def arange_of_a_dim():
    model = pm.modelcontext(None)
    model.add_coord("trial", np.arange(5), length=None)
    pm.Data("response", COUNTS, dims="trial")
    drift = pt.arange(model.dim_lengths["trial"]) * real("slope")
    pm.Poisson("y", pt.exp(drift), observed=model["response"], dims="trial")


def zeros_of_a_dim():
    model = pm.modelcontext(None)
    stimuli = pm.Data("stimuli", REALS, dims="trial")
    padded = pt.concatenate([pt.zeros(model.dim_lengths["trial"]), real("x") * stimuli])
    observe(padded)


def repeats_from_data():
    repeats = pm.Data("repeats", np.array([2, 1, 3]))
    pm.Normal("y", pt.repeat(real("x", shape=3), repeats), 1, observed=np.arange(6.0))


def sums_by_group():
    x = real("x", shape=7)
    observe(pt.inc_subtensor(pt.zeros(3)[pm.Data("group", GROUPS_OF_TRIALS)], x**2))


def imputation():
    pm.Normal("y", real("mu"), positive("sigma"), observed=np.array([0.3, np.nan, 1.2, np.nan]))


def imputed_covariate():
    x = pm.Gamma("x", positive("alpha"), positive("beta"), observed=np.ma.masked_invalid([0.5, np.nan, 1.5, 2.0]))
    pm.Normal("y", real("slope") * x, 1, observed=REALS)


def square_root_in_a_switch():
    x = real("x", shape=3)
    observe(pt.switch(x > 0.5, pt.sqrt(pt.maximum(x - 0.5, 0)), x))


def poisson_of_nothing():
    exposure = np.array([0.0, 1.0, 2.0])
    pm.Poisson("y", exposure * positive("rate"), observed=np.array([0, 1, 3]))


def branch_by_data():
    x = real("x")
    observe(ifelse(pm.Data("switch", np.array(1)) > 0, pt.exp(x), x**2) + pt.zeros(2))


def nested_models():
    with pm.Model("inner"):
        mu = real("mu")
    observe(mu + real("a name, with spaces") + pt.zeros(2))


def data_of_other_types():
    small = pm.Data("small", REALS.astype("float32"))
    byte = pm.Data("byte", np.array([1, 2, 3, 255], dtype="uint8"))
    zero_dimensional = pm.Data("zero_dimensional", 2)
    pm.Normal("y", real("x") * small + byte * real("z") / zero_dimensional, positive("sigma"), observed=COUNTS[:4])


def empty_variable():
    x = real("x", shape=0)
    observe(pt.concatenate([x, real("z", shape=2)]))


def observed_after_the_fact():
    x, sigma = real("x"), positive("sigma")
    y = pm.Normal("later", x, sigma, shape=4)
    pm.Potential("y", pm.logp(pm.Normal.dist(x, sigma), REALS).sum() + pm.logp(pm.Normal.dist(0, 2), y).sum())


def psychometric_function():
    """Weibull psychometric function with guess and lapse rates, subjects partially pooled."""
    intensity = pm.Data("intensity", np.array([0.5, 1.0, 2.0, 4.0, 0.5, 2.0, 8.0]))
    threshold = pm.LogNormal("threshold", real("mu"), positive("tau"), shape=3)
    lapse = pm.Beta("lapse", 1, 19)
    curve = 1 - pt.exp(-((intensity / threshold[GROUPS_OF_TRIALS]) ** positive("slope")))
    pm.Binomial("y", 10, 0.5 + (0.5 - lapse) * curve, observed=np.array([5, 6, 8, 10, 4, 7, 10]))


def outer_indexing():
    x = real("x", shape=(3, 4))
    rows, columns = pm.Data("rows", np.array([2, 0, 0])), pm.Data("columns", np.array([3, 1, 1]))
    observe(x[rows, columns] + x[::-1, 1] + x[rows[:, None], columns[None, :]].sum(1) + x[1, -3:])


def sparse_design():
    design = sparse.as_sparse_variable(csr_matrix(NEIGHBOURS.astype(float)))
    observe(sparse.structured_dot(design, real("x", shape=(4, 1))))


class SquareOnHost(Op):
    """x squared, by a custom op that only NumPy can compute and that has a gradient."""

    __props__ = ()

    def make_node(self, x):
        x = pt.as_tensor(x)
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.square(inputs[0])

    def infer_shape(self, node, shapes):
        return shapes

    def pullback(self, inputs, outputs, cotangents):
        (x,), (g,) = inputs, cotangents
        return [x.type.filter_variable(2 * x * g)] if not isinstance(g.type, DisconnectedType) else [g]


def custom_op():
    observe(SquareOnHost()(real("x", shape=3)))


def root_of_an_equation():
    x, a = real("guess"), positive("a")
    root, _ = pt.optimize.root(equations=x**3 + a * x - 2, variables=x, method="hybr", optimizer_kwargs={"tol": 1e-14})
    observe(root + pt.zeros(2))


add_all(
    STRUCTURE,
    {
        "Ordered": transformed(transforms.ordered, initval=np.array([-1.0, 0.2, 1.0])),
        "Ordered and positive": transformed(
            transforms.Chain([transforms.log, transforms.ordered]), initval=np.array([0.4, 1.0, 1.5])
        ),
        "Log": transformed(transforms.log),
        "Softplus (log_exp_m1)": transformed(transforms.log_exp_m1),
        "Log odds": transformed(transforms.logodds),
        "Interval, both bounds": transformed(transforms.Interval(-1, 2)),
        "Interval, lower bound": transformed(transforms.Interval(-1, None)),
        "Interval, upper bound": transformed(transforms.Interval(None, 2)),
        "Circular": lambda: observe(
            pm.VonMises("x", real("mu"), 1.5, shape=3, default_transform=None, transform=transforms.circular)
        ),
        "Simplex": lambda: observe(pm.Dirichlet("x", np.ones(4), default_transform=None, transform=transforms.simplex)),
        "Sum to zero (ZeroSumTransform)": transformed(
            transforms.ZeroSumTransform([-1]), initval=np.array([0.5, -0.2, -0.3])
        ),
        "No transform": lambda: observe(pm.HalfNormal("x", 1, shape=3, default_transform=None)),
        "Regression on pm.Data": regression_on_data,
        "Groups by an index in pm.Data": groups_by_index,
        "Groups by dims": groups_by_dims,
        "Rows and columns by index": outer_indexing,
        "Mask, constant": partial(masked_by, MASK),
        "Mask in pm.Data": mask_from_data,
        "Mask in pm.Data, set_subtensor": set_by_mask,
        "arange of a dim's length": arange_of_a_dim,
        "zeros of a dim's length": zeros_of_a_dim,
        "Repeats in pm.Data": repeats_from_data,
        "Sums by group (inc_subtensor)": sums_by_group,
        "set_subtensor of a free variable": lambda: observe(pt.set_subtensor(real("x", shape=4)[1:3], real("z") ** 2)),
        "Imputation": imputation,
        "Imputation of a covariate": imputed_covariate,
        "switch around a square root": square_root_in_a_switch,
        "Poisson with no exposure and no count": poisson_of_nothing,
        "softplus and log of a sum at 700": lambda: observe(pt.softplus(near(700, 1)("x", shape=2))),
        "Bernoulli with logits near 700": lambda: pm.Bernoulli(
            "y", logit_p=near([-700, 700, 700], 1)("x"), observed=np.array([0, 1, 0])
        ),
        "Normal log survival far out": lambda: pm.Potential(
            "y", pm.logccdf(pm.Normal.dist(0, 1), near([5, 20, 35], 1)("x")).sum()
        ),
        "ifelse on pm.Data": branch_by_data,
        "Nested models, and a name with spaces": nested_models,
        "float32, uint8 and scalar pm.Data": data_of_other_types,
        "A variable without elements": empty_variable,
        "Potential of a log density": observed_after_the_fact,
        "Psychometric function": psychometric_function,
        "Sparse design matrix": sparse_design,
        "Custom op with a gradient": custom_op,
        "Root of an equation (pt.optimize.root)": root_of_an_equation,
    },
)


# Special functions and linear algebra


def apply(function: Callable, *arguments: Callable):
    observe(function(*(argument(f"x{i}", shape=3) for i, argument in enumerate(arguments))))


def apply_to_matrix(function: Callable):
    """Take a positive definite matrix of free entries."""
    entries = real("x", shape=(3, 3))
    observe(pt.as_tensor(function(entries @ entries.T + COVARIANCE + pt.diag([1.0, 2.0, 3.0]))))


for name, function, *arguments in [
    ("gamma, gammaln, digamma", lambda x: pt.gamma(x) + pt.gammaln(x) * pt.digamma(x), positive),
    ("polygamma", lambda x: pt.polygamma(1, x) + pt.polygamma(2, x), positive),
    ("betainc", pt.betainc, positive, positive, fraction),
    ("betaincinv of a fraction", lambda p: pt.betaincinv(2.0, 3.0, p), fraction),
    ("betaln", pt.special.betaln, positive, positive),
    ("gammainc", pt.gammainc, positive, positive),
    ("gammaincc", pt.gammaincc, positive, positive),
    ("gammaincinv of a fraction", lambda p: pt.gammaincinv(2.0, p), fraction),
    ("gammaincc of an argument far larger than its shape", pt.gammaincc, positive, near(40, 2)),
    ("erf, erfc, erfcx", lambda x: pt.erf(x) + pt.erfc(2 * x) + pt.erfcx(x), real),
    ("erfinv, erfcinv", lambda x: pt.erfinv(x) + pt.erfcinv(x), fraction),
    ("i0, i1", lambda x: pt.i0(x) + pt.i1(x), positive),
    ("iv, ive, order fixed", lambda x: pt.iv(1.5, x) + pt.ive(2, x), positive),
    ("j0, j1", lambda x: pt.j0(x) + pt.j1(x), positive),
    ("jv, order fixed", lambda x: pt.jv(1.5, x), positive),
    ("kv, kve, order fixed", lambda x: pt.kv(1.5, x) + pt.kve(2, x), positive),
    ("kv, order free", pt.kv, positive, positive),
    ("hyp2f1", pt.hyp2f1, positive, positive, near(3), fraction),
    ("owens_t", pt.owens_t, real, real),
    ("probit, invprobit", lambda p: pm.math.probit(p) + pm.math.invprobit(p), fraction),
    ("logit, sigmoid, log1mexp", lambda x: pm.math.logit(pt.sigmoid(x)) + pt.log1mexp(-pt.softplus(x)), real),
    ("logaddexp, logdiffexp", lambda a, b: pm.math.logaddexp(a, b) + pm.math.logdiffexp(a + 2, b - 2), real, real),
    ("logsumexp, softmax", lambda x: pt.special.logsumexp(x) + pt.special.softmax(x), real),
    ("log_softmax", pt.special.log_softmax, real),
    ("xlogy, xlog1py", lambda a, b: pt.special.xlogy(a, b) + pt.special.xlog1py(a, b), positive, positive),
    ("trigonometry", lambda x: pt.sin(x) + pt.tan(x) + pt.arctan2(x, 2) + pt.arcsin(x / 9), real),
    ("powers", lambda x, y: x**y + pt.abs(x) ** 1.5 + pt.sqrt(x) + 2**x, positive, positive),
    ("rounding and modulo", lambda x: x * pt.floor(x) + pt.mod(x + 0.3, 0.7) + pt.sign(x) * pt.round(2 * x), real),
    ("sort, cumsum, cumprod, diff", lambda x: pt.sort(x) + pt.cumsum(x) * pt.cumprod(x) + pt.diff(x).sum(), triple),
    ("max, min, clip, median", lambda x: x.max() * x.min() + pt.clip(x, -0.5, 0.5) + pt.median(x), triple),
    ("var, std, prod, norm", lambda x: x.var() + x.std() + x.prod() + pt.linalg.norm(x), triple),
    ("argsort as an index", lambda x, z: z[pt.argsort(x)] * x, triple, real),
    ("searchsorted", lambda x: x * pt.searchsorted(np.array([-1.0, 0.0, 1.0]), x), triple),
    ("einsum, outer", lambda x, z: pt.einsum("i,j,jk->k", x, z, COVARIANCE) + pt.outer(x, z).sum(0), real, real),
    ("convolve1d", lambda x, z: pt.signal.convolve1d(x, z, mode="full"), real, real),
    ("fft", lambda x: rfft(pt.concatenate([x, x**2])[None]), real),
]:  # fmt: skip
    add(FUNCTIONS, name, partial(apply, function, *arguments))

for name, function in {
    "inverse": pt.linalg.inv,
    "pseudoinverse": pt.linalg.pinv,
    "solve": lambda A: pt.linalg.solve(A, pt.as_tensor(TRIPLES.T) * A[0, 0]),
    "solve, positive definite": lambda A: pt.linalg.solve(A, pt.as_tensor(TRIPLES.T), assume_a="pos"),
    "cholesky, solve_triangular": lambda A: pt.linalg.solve_triangular(pt.linalg.cholesky(A), TRIPLES.T, lower=True),
    "cho_solve": lambda A: pt.linalg.cho_solve((pt.linalg.cholesky(A), True), pt.as_tensor(TRIPLES.T)),
    "determinant": lambda A: pt.linalg.det(A) / 10,
    "slogdet": lambda A: pt.linalg.slogdet(A)[1],
    "log of the determinant": lambda A: pt.log(pt.linalg.det(A)),
    "eigh": lambda A: pt.linalg.eigh(A)[0],
    "eigvalsh": lambda A: pt.linalg.eigvalsh(A, None),
    "svd": lambda A: pt.linalg.svd(A, compute_uv=False),
    "qr": lambda A: pt.abs(pt.linalg.qr(A)[1]),
    "lu_factor": lambda A: pt.linalg.lu_solve(pt.linalg.lu_factor(A), pt.as_tensor(TRIPLES.T)),
    "matrix exponential": lambda A: pt.linalg.expm(A / 10),
    "matrix power": lambda A: pt.linalg.matrix_power(A / 10, 3),
    "kron and block_diag": lambda A: pt.linalg.kron(A, A[:2, :2]).sum(0) + pt.linalg.block_diag(A, A).sum(1),
    "continuous Lyapunov equation": lambda A: pt.linalg.solve_continuous_lyapunov(A, pt.as_tensor(COVARIANCE)),
    "discrete Lyapunov equation": lambda A: pt.linalg.solve_discrete_lyapunov(A / 20, pt.as_tensor(COVARIANCE)),
    "discrete Riccati equation": lambda A: pt.linalg.solve_discrete_are(
        A / 10, pt.eye(3), pt.as_tensor(COVARIANCE), pt.eye(3)
    ),
    "Sylvester equation": lambda A: pt.linalg.solve_sylvester(A, A, pt.as_tensor(COVARIANCE)),
    "diag, trace, tril, triu": lambda A: pt.diag(A) * pt.trace(A) + pt.tril(A).sum(0) - pt.triu(A, 1).sum(1),
}.items():
    add(FUNCTIONS, f"matrix: {name}", partial(apply_to_matrix, function))
