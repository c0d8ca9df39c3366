"""A row function in; a function of JAX's arrays, by machine code or XLA, with second derivatives, comes out."""

from collections.abc import Callable, Sequence
from typing import Any

from pm_psyphy.common.row_function import RowFunction

# A row may have a hundred intermediate numbers; so many rows of them fill a core's second-level cache.
ROWS_OF_BLOCK = 1024
# A GPU is fed by many more at once. With more inputs than those of two dimensions a row takes far more memory.
ROWS_OF_GPU_BLOCK, ROWS_OF_WIDE_GPU_BLOCK, WIDE = 1 << 16, 1 << 14, 8


def run_rows(op: RowFunction, *, only_value: bool) -> Callable[..., list[Any]]:
    """Return a function of vectors (N,) that computes a row function, and that JAX can map and differentiate twice.

    With `only_value`, zeros stand for the derivatives, which nothing asks for.
    """
    import jax
    import jax.numpy as jnp
    from pytensor.link.jax.dispatch.basic import jax_funcify

    find_scales = jax_funcify(op.scales)
    whole = _choose_road(op, len(op.output_types))

    def differentiate(*rows):
        """Return value and derivatives, (1 + n, N), and second derivatives, (n, n, N)."""
        n, dtype = len(rows), rows[0].dtype
        steps = jnp.finfo(dtype).eps ** (1 / 3) * jnp.stack(find_scales(*rows))
        # The function is compiled once: for the row itself, and for one step up and down from each input.
        shifts = jnp.concatenate([jnp.zeros((1, n), dtype), jnp.eye(n, dtype=dtype), -jnp.eye(n, dtype=dtype)])
        found = jax.lax.map(lambda e: jnp.stack(whole(*(jnp.stack(rows) + e[:, None] * steps))), shifts)
        up, down = found[1 : n + 1, 1:], found[n + 1 :, 1:]
        return found[0], jnp.moveaxis(up - down, 0, 1) / (2 * steps)

    run = jax.custom_jvp(_map_rows(whole))
    twice = _by_platform(_run_in_blocks(differentiate), _run_on_gpu(differentiate))

    @run.defjvp
    def run_along(vectors, tangents):
        found, second = twice(*vectors)
        # Written out, since a product of small matrices for each row is slow.
        changes = [sum(entry * d for entry, d in zip(row, tangents, strict=True)) for row in (found[1:], *second)]
        return list(found), changes

    if not only_value:
        return run
    value = jax.custom_jvp(_map_rows(_choose_road(op, 1)))

    @value.defjvp
    def value_along(vectors, tangents):
        found, *derivatives = run(*vectors)
        return [found], [sum(derivative * d for derivative, d in zip(derivatives, tangents, strict=True))]

    def run_value(*vectors):
        (found,) = value(*vectors)
        return [found, *[jnp.zeros_like(found)] * len(vectors)]

    return run_value


def _choose_road(op: RowFunction, n_outputs: int) -> Callable[..., list[Any]]:
    """Return a function of vectors that computes the first outputs: by machine code on the CPU, if there is any."""
    from pytensor.link.jax.dispatch.basic import jax_funcify

    kernel = op.find_kernel(n_outputs)

    def by_xla(*vectors):
        # JAX computes some of what PyTensor declares as float32 in float64, where it has that.
        found = zip(jax_funcify(op)(*vectors)[:n_outputs], op.output_types, strict=False)
        return [v.astype(kind.dtype) for v, kind in found]

    def run(*vectors):
        on_cpu = _run_in_blocks(by_xla)
        if kernel is not None and all(v.dtype == kernel.dtype for v in vectors):
            on_cpu = kernel.call_by_jax
        return _by_platform(on_cpu, _run_on_gpu(by_xla))(*vectors)

    return run


def _by_platform(on_cpu: Callable[..., list[Any]], elsewhere: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Return what a function is on the platform it is compiled for; where there is only one, nothing else is traced."""
    import jax
    from jax.extend.backend import backends

    if len(backends()) == 1:
        return on_cpu
    return lambda *vectors: jax.lax.platform_dependent(*vectors, cpu=on_cpu, default=elsewhere)


def _map_rows(function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Let a batch of rows be computed as one long column."""
    import jax
    import jax.numpy as jnp

    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def run_batch(n_batch, is_batched, *vectors):
        stacks = [
            v if batched else jnp.broadcast_to(v, (n_batch, *v.shape))
            for v, batched in zip(vectors, is_batched, strict=True)
        ]
        results = mapped(*(stack.reshape(-1) for stack in stacks))
        return [r.reshape(n_batch, -1) for r in results], [True] * len(results)

    return mapped


def _run_on_gpu(function: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
    """Wrap a function so that it takes rows in blocks that a GPU has memory for."""

    def run(*vectors):
        rows = ROWS_OF_GPU_BLOCK if len(vectors) <= WIDE else ROWS_OF_WIDE_GPU_BLOCK
        return _run_in_blocks(function, rows)(*vectors)

    return run


def _run_in_blocks(
    function: Callable[..., Sequence[Any]], rows_of_block: int = ROWS_OF_BLOCK
) -> Callable[..., list[Any]]:
    """Wrap a function of arrays (N,), to arrays (..., N), so that it takes them in blocks that fit a cache."""
    import jax
    import jax.numpy as jnp

    def run(*vectors):
        n = vectors[0].shape[0]
        if n <= rows_of_block:
            return list(function(*vectors))
        n_blocks = -(-n // rows_of_block)
        size = -(-n // n_blocks)
        # Copies of the last row fill the last block: they are as finite as that is.
        blocks = [jnp.pad(v, (0, n_blocks * size - n), mode="edge").reshape(n_blocks, size) for v in vectors]
        results = jax.lax.map(lambda rows: tuple(function(*rows)), blocks)
        joined = [jnp.moveaxis(r, 0, -2) for r in results]
        return [r.reshape(*r.shape[:-2], -1)[..., :n] for r in joined]

    return run
