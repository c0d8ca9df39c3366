"""A function of rows, in JAX, in; the same in blocks that fit a cache, with second derivatives, comes out."""

from collections.abc import Callable, Sequence
from typing import Any

# A row may have a hundred intermediate numbers; so many rows of them fill a core's second-level cache.
ROWS_OF_BLOCK = 1024


def run_rows(function: Callable[..., Sequence[Any]], find_scales: Callable) -> Callable:
    """Wrap a row function, so that it runs in blocks, and a Hessian differentiates it once for all its directions."""
    import jax
    import jax.numpy as jnp

    blocked = _run_in_blocks(function)

    @jax.custom_batching.custom_vmap
    def run_once(*vectors):
        return blocked(*vectors)

    @run_once.def_vmap
    def run_batch(n_batch, is_batched, *vectors):
        """Run the rows of a batch as one long column, in blocks that are no larger than before."""
        stacks = [
            v if batched else jnp.broadcast_to(v, (n_batch, *v.shape))
            for v, batched in zip(vectors, is_batched, strict=True)
        ]
        results = run_once(*(stack.reshape(-1) for stack in stacks))
        return [r.reshape(n_batch, -1) for r in results], [True] * len(results)

    @jax.custom_jvp
    def run(*vectors):
        return run_once(*vectors)

    def differentiate(*rows):
        """Return value and derivatives, (1 + n, N), and second derivatives, (n, n, N)."""
        n, dtype = len(rows), rows[0].dtype
        steps = jnp.finfo(dtype).eps ** (1 / 3) * jnp.stack(find_scales(*rows))
        # The function is compiled once: for the row itself, and for one step up and down from each input.
        shifts = jnp.concatenate([jnp.zeros((1, n), dtype), jnp.eye(n, dtype=dtype), -jnp.eye(n, dtype=dtype)])
        found = jax.lax.map(lambda e: jnp.stack(function(*(jnp.stack(rows) + e[:, None] * steps))), shifts)
        up, down = found[1 : n + 1, 1:], found[n + 1 :, 1:]
        return found[0], jnp.moveaxis(up - down, 0, 1) / (2 * steps)

    twice = _run_in_blocks(differentiate)

    @run.defjvp
    def run_along(vectors, tangents):
        found, second = twice(*vectors)
        # Written out, since a product of small matrices for each row is slow.
        changes = [sum(entry * d for entry, d in zip(row, tangents, strict=True)) for row in (found[1:], *second)]
        return list(found), changes

    return run


def _run_in_blocks(function: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
    """Wrap a function of arrays (N,), to arrays (..., N), so that it takes them in blocks that fit a cache."""
    import jax
    import jax.numpy as jnp

    def run(*vectors):
        n = vectors[0].shape[0]
        if n <= ROWS_OF_BLOCK:
            return list(function(*vectors))
        n_blocks = -(-n // ROWS_OF_BLOCK)
        size = -(-n // n_blocks)
        # Copies of the last row fill the last block: they are as finite as that is.
        blocks = [jnp.pad(v, (0, n_blocks * size - n), mode="edge").reshape(n_blocks, size) for v in vectors]
        results = jax.lax.map(lambda rows: tuple(function(*rows)), blocks)
        joined = [jnp.moveaxis(r, 0, -2) for r in results]
        return [r.reshape(*r.shape[:-2], -1)[..., :n] for r in joined]

    return run
