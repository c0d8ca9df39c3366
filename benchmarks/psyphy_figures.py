"""Write what psyphy computes for some fields and stimuli to tests/psychophysics/psyphy.npz.

Run it by .venv-peers/bin/python.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from psyphy.model import WPPM, Prior
from psyphy.model.likelihood import OddityTask, OddityTaskConfig
from psyphy.model.noise import GaussianNoise, StudentTNoise

DRAWS, BANDWIDTH, DEGREES_OF_FREEDOM, DIAG_TERM = 200_000, 1e-2, 3.0, 1e-4

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
task = OddityTask(config=OddityTaskConfig(num_samples=DRAWS, bandwidth=BANDWIDTH))
figures = {"draws": DRAWS, "bandwidth": BANDWIDTH, "degrees_of_freedom": DEGREES_OF_FREEDOM, "diag_term": DIAG_TERM}
for d in (1, 2, 3):
    prior = Prior(input_dim=d, basis_degree=3, extra_embedding_dims=1)
    reference = rng.uniform(-0.7, 0.7, (8, d))
    comparison = np.clip(reference + rng.normal(size=(8, d)) * 0.15, -1, 1)
    for name, noise in {"gaussian": GaussianNoise(), "student": StudentTNoise(df=DEGREES_OF_FREEDOM)}.items():
        model = WPPM(input_dim=d, prior=prior, likelihood=task, noise=noise, diag_term=DIAG_TERM)
        params = model.init_params(jax.random.key(d))
        pairs = enumerate(zip(reference, comparison, strict=True))
        p = [task.predict(params, jnp.stack(pair), model, key=jax.random.key(i))[0] for i, pair in pairs]
        figures[f"p_{name}_{d}"] = np.array(p)
    figures |= {
        f"weights_{d}": np.array(params["W"]),
        f"reference_{d}": reference,
        f"comparison_{d}": comparison,
        f"u_{d}": np.array([model._compute_sqrt(params, x) for x in reference]),
        f"covariance_{d}": np.array([model.local_covariance(params, x) for x in reference]),
    }
np.savez(Path(__file__).parents[1] / "tests" / "psychophysics" / "psyphy.npz", **figures)
