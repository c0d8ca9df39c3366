"""Random small models whose rows are independent, or not: built anew from a number, with all of their rows or some."""

from collections.abc import Callable, Sequence

import numpy as np
import pymc as pm
import pytensor.tensor as pt

DIM = "trial"
N_GROUPS, N_FEATURES = 3, 2


class Rows:
    """Data of N rows, given as pm.Data or as arrays, with dims or without."""

    def __init__(self, rng: np.random.Generator, n: int, rows: Sequence[int] | slice):
        self.rng, self.n, self.rows = rng, n, rows
        self.count = 0
        self.constant = True

    def give(self, values: np.ndarray, *more: str, how: int | None = None) -> pt.TensorVariable:
        self.count += 1
        how, chosen = self.rng.integers(3) if how is None else how, values[self.rows]
        self.constant &= how == 0
        if how == 0:
            return pt.as_tensor(chosen)
        dims = (DIM, *more) if how == 1 else None
        return pm.Data(f"data_{self.count}", chosen, dims=dims)

    def vector(self) -> pt.TensorVariable:
        return self.give(self.rng.normal(size=self.n))

    def matrix(self) -> pt.TensorVariable:
        return self.give(self.rng.normal(size=(self.n, N_FEATURES)), "feature")

    def group(self) -> pt.TensorVariable:
        return self.give(self.rng.integers(0, N_GROUPS, self.n))


type Term = Callable[[Rows, str], pt.TensorVariable]


def real(name: str, **kwargs) -> pt.TensorVariable:
    return pm.Normal(name, 0, 1, **kwargs)


# Each row from itself.
APART: dict[str, Term] = {
    "slope": lambda d, p: real(p) * d.vector(),
    "regression": lambda d, p: d.matrix() @ real(p, dims="feature"),
    "dot": lambda d, p: pt.dot(d.matrix(), real(p, shape=N_FEATURES)),
    "gather": lambda d, p: real(p, shape=N_GROUPS)[d.group()],
    "gather of a computed index": lambda d, p: real(p, shape=N_GROUPS)[(d.group() + 1) % N_GROUPS],
    "gather of two": lambda d, p: real(p, shape=(N_GROUPS, N_GROUPS))[d.group(), d.group()],
    "slopes of groups": lambda d, p: (real(p, shape=(N_GROUPS, N_FEATURES))[d.group()] * d.matrix()).sum(axis=-1),
    "saturating": lambda d, p: pt.tanh(real(p) * d.vector()),
    "offset": lambda d, p: real(p) + pt.zeros_like(d.vector()),
    "interaction": lambda d, p: real(p) * d.vector() * d.vector(),
    "threshold": lambda d, p: pt.switch(d.vector() > real(p), np.array(1.0), np.array(-1.0)),
    "squares by row": lambda d, p: real(p) * (d.matrix() ** 2).sum(axis=1),
    "softmax over features": lambda d, p: pm.math.softmax(real(p) * d.matrix(), axis=1)[:, 0],
    "sums over features": lambda d, p: pt.cumsum(real(p) * d.matrix(), axis=1)[:, -1],
    "columns joined": lambda d, p: pt.concatenate([d.matrix(), d.vector()[:, None]], axis=1).sum(axis=1) * real(p),
    "stacked": lambda d, p: pt.stack([d.vector(), d.vector()], axis=1) @ real(p, shape=2),
    "largest of two": lambda d, p: pt.maximum(real(p) * d.vector(), d.vector()),
    "polynomial": lambda d, p: real(p) * d.vector() ** 2,
    "transposed": lambda d, p: (d.matrix().T * real(p)).sum(axis=0),
    "reshaped": lambda d, p: real(p) * d.matrix().reshape((-1, N_FEATURES, 1)).sum(axis=(1, 2)),
}

# Some row from others, or from how many there are.
MIXED: dict[str, Term] = {
    "lag": lambda d, p: real(p) * pt.concatenate([pt.zeros(1), (v := d.vector())[:-1]]) + 0 * v,
    "lead": lambda d, p: real(p) * pt.concatenate([d.vector()[1:], pt.zeros(1)]),
    "cumulative sum": lambda d, p: pt.cumsum(real(p) * d.vector()),
    "cumulative product": lambda d, p: pt.cumprod(1 + 0.1 * real(p) * d.vector()),
    "reversed": lambda d, p: real(p) * (d.vector() * 1.5 + real(f"{p}_shift"))[::-1],
    "centred": lambda d, p: real(p) * ((v := d.vector()) - v.mean()),
    "standardised": lambda d, p: real(p) * ((v := d.vector()) / v.std()),
    "scaled by the largest": lambda d, p: real(p) * ((v := d.vector()) / pt.abs(v).max()),
    "softmax over rows": lambda d, p: pm.math.softmax(real(p) * d.vector()),
    "ranks": lambda d, p: real(p) * pt.argsort(pt.argsort(d.vector() * 1.0 + 0 * real(f"{p}_shift"))),
    "sorted": lambda d, p: real(p) * pt.sort(real(f"{p}_scale") * d.vector()),
    "share of the sum": lambda d, p: (e := pt.exp(real(p) * d.vector())) / e.sum(),
    "number of rows": lambda d, p: real(p) * (v := d.vector()) / v.shape[0],
    "row number": lambda d, p: real(p) * pt.arange((v := d.vector()).shape[0]) + 0 * v,
    "distances": lambda d, p: real(p) * pt.abs((v := d.vector())[:, None] - v[None, :]).sum(axis=1),
    "differences": lambda d, p: real(p) * pt.concatenate([pt.zeros(1), pt.diff(d.vector())]),
    "the first row": lambda d, p: real(p) * ((v := d.vector()) - v[0]),
    "the last row": lambda d, p: real(p) * ((v := d.vector()) + v[-1]),
    "covariance of features": lambda d, p: (m := d.matrix()) @ (m.T @ m) @ real(p, shape=N_FEATURES) / 10,
    "rolled": lambda d, p: real(p) * pt.roll(real(f"{p}_scale") * d.vector(), 1),
    "gathered from rows": lambda d, p: (real(p) * d.give(d.rng.normal(size=d.n), how=1))[d.group()],
}


def declare_likelihood(kind: int, data: Rows, eta: pt.TensorVariable) -> None:
    rng, n, rows = data.rng, data.n, data.rows
    if kind == 0:
        pm.Normal("y", eta, pm.HalfNormal("sigma", 1), observed=rng.normal(size=n)[rows], dims=DIM)
    elif kind == 1:
        pm.Bernoulli("y", logit_p=eta, observed=rng.integers(0, 2, n)[rows], dims=DIM)
    elif kind == 2:
        counts = pm.Data("counts", rng.poisson(2, n)[rows], dims=DIM)
        pm.Poisson("y", pt.exp(pt.clip(eta, -5, 5)), observed=counts, dims=DIM)
    elif kind == 3:
        pm.StudentT("y", nu=4, mu=eta, sigma=1, observed=rng.normal(size=n)[rows], dims=DIM)
    elif kind == 4:
        means = pt.stack([eta, -eta], axis=1)
        weights = pm.Dirichlet("w", np.ones(2))
        pm.NormalMixture("y", weights, means, sigma=1, observed=rng.normal(size=n)[rows], dims=DIM)
    elif kind == 5:
        cuts = np.array([-1.0, 0.5])
        pm.OrderedLogistic("y", eta=eta, cutpoints=cuts, observed=rng.integers(0, 3, n)[rows], dims=DIM)
    elif kind == 6:
        trials = np.full(n, 6)[rows]
        pm.Binomial("y", n=trials, logit_p=eta, observed=rng.integers(0, 7, n)[rows], dims=DIM)
    else:
        mean = pt.stack([eta, 2 * eta], axis=1)
        pairs = rng.normal(size=(n, 2))[rows]
        pm.MvNormal("y", mean, cov=np.array([[1.0, 0.3], [0.3, 2.0]]), observed=pairs, dims=(DIM, "feature"))


def build(seed: int, rows: Sequence[int] | slice = slice(None)) -> tuple[pm.Model, str, bool]:
    """Return the model of a number, what mixes its rows, or nothing, and whether that is made of constants alone."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 12))
    mixed = rng.choice(list(MIXED)) if seed % 2 else ""
    apart = [str(name) for name in rng.choice(list(APART), size=rng.integers(1, 3), replace=False)]
    coords = {DIM: np.arange(n)[rows], "feature": range(N_FEATURES)}
    with pm.Model(coords=coords) as model:
        data = Rows(rng, n, rows)
        terms = [APART[name](data, f"b{i}") for i, name in enumerate(apart)]
        data.constant = True
        terms += [MIXED[str(mixed)](data, "m")] if mixed else []
        constant = data.constant
        declare_likelihood(int(rng.integers(8)), data, sum(terms))
    return model, str(mixed), constant
