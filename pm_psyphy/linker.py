"""A PyTensor graph in; a JAX function of the same inputs comes out, with host callbacks for ops that JAX lacks."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.mode import get_mode
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.link.utils import fgraph_to_python
from pytensor.scalar.math import Softplus
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.subtensor import AdvancedSubtensor
from pytensor.tensor.type import TensorType

from pm_psyphy.graph import Tensor
from pm_psyphy.rows import RUN_ONCE, RowFunction

# A row may have a hundred intermediate numbers; so many rows of them fill a core's second-level cache.
ROWS_OF_BLOCK = 1024


class OpNotInJAX(NotImplementedError):
    """An op could not be translated; `op` is its name."""

    def __init__(self, op: str, cause: Exception):
        super().__init__(f"{op}: {type(cause).__name__}: {cause}")
        self.op = op


def translate(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    check_bounds: bool = True,
    on_host: set[str] | None = None,
    index_limits: dict[str, int] | None = None,
) -> Callable:
    """Translate a graph into a JAX function, rewritten by PyTensor's JAX mode first.

    Parameters
    ----------
    inputs, outputs : sequence of Tensor
    check_bounds : bool
        Whether parameters outside their domain give a log probability of -inf, as `pm.Model(check_bounds=True)` says.
    on_host : set of str, optional
        Given, ops without a JAX translation run on the host through ``jax.pure_callback``, and their names are added
        to this set when the function is traced.
    index_limits : dict of str to int, optional
        Given, it receives, when the function is traced, the name of each integer input that indexes an axis, and the
        length of that axis. JAX takes the last element for an index beyond it; the caller can check.

    Returns
    -------
    callable
        Takes the inputs' values, returns a tuple of the outputs'.

    Raises
    ------
    OpNotInJAX
        Here or when the result is traced, if `on_host` is None.
    """
    from pytensor.link.jax.dispatch.basic import jax_funcify

    fgraph = FunctionGraph(list(inputs), list(outputs), clone=True)
    # Left alone, PyMC's parameter checks are dropped by JAX, and a negative sigma gives NaN instead of -inf.
    checks = "local_check_parameter_to_ninf_switch" if check_bounds else "local_remove_check_parameter"
    mode = get_mode("JAX").including(checks)
    mode.optimizer.rewrite(fgraph)

    def convert(op, node: Any, **kwargs) -> Callable:
        def fall_back(error: Exception) -> Callable:
            if on_host is None:
                raise OpNotInJAX(name_op(op), error) from error
            on_host.add(name_op(op))
            return _run_on_host(node)

        try:
            in_jax = _find_cheaper(node) or jax_funcify(op, node=node, **kwargs)
            if isinstance(op, RowFunction):
                in_jax = _run_rows(in_jax, jax_funcify(op.scales))
        except Exception as error:
            return fall_back(error)

        def run(*args):
            if index_limits is not None:
                _note_limits(node, args, fgraph, index_limits)
            try:
                results = in_jax(*args)
            except Exception as error:
                results = fall_back(error)(*args)
            return _as_declared(results, node)

        return run

    with warnings.catch_warnings():
        # Assertions have no place in a compiled program; the start is checked instead.
        warnings.filterwarnings("ignore", message="Skipping .* Op .assertion")
        return fgraph_to_python(fgraph, convert, type_conversion_fn=_typify)


def _find_cheaper(node: Any) -> Callable | None:
    """Return a translation of ours that takes less time than PyTensor's, if there is one."""
    if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Softplus):
        return _softplus
    return _multiply_transposed if _is_transposed_times_column(node) else None


def _softplus(x):
    """Return log(1 + exp(x)), to two units in the last place, in a third of the time a logarithm of XLA's takes."""
    import jax.numpy as jnp

    small = jnp.exp(-jnp.abs(x))
    # log(1 + e) = 2 artanh(e / (2 + e)); its series' terms fall by 9 each.
    ratio = small / (2 + small)
    n_terms = int(np.ceil(-np.log(jnp.finfo(small.dtype).eps) / np.log(9)))
    series = jnp.zeros_like(ratio)
    for k in reversed(range(n_terms)):
        series = series * ratio**2 + 1 / (2 * k + 1)
    # JAX takes the derivative of |x| at 0 to be 1.
    return jnp.where(x >= 0, x, 0) + 2 * ratio * series


def _is_transposed_times_column(node: Any) -> bool:
    if not isinstance(node.op, Dot):
        return False
    matrix, column = node.inputs
    transpose = matrix.owner.op if matrix.owner is not None else None
    is_transposed = isinstance(transpose, DimShuffle) and transpose.new_order == (1, 0)
    return is_transposed and column.type.ndim == 2 and column.type.shape[1] == 1


def _multiply_transposed(matrix: Any, column: Any) -> Any:
    """Multiply x.T by a column, as every regression's gradient does, so that XLA reads x by its rows."""
    return (column.T @ matrix.T).T


def _run_rows(function: Callable[..., Sequence[Any]], find_scales: Callable) -> Callable:
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


def _note_limits(node: Any, args: Sequence[Any], fgraph: FunctionGraph, limits: dict[str, int]) -> None:
    if not isinstance(node.op, AdvancedSubtensor):
        return
    indices = {axis: 1 + entry for axis, entry in enumerate(node.op.idx_list) if isinstance(entry, int)}
    for axis, position in indices.items():
        index = node.inputs[position]
        if index in fgraph.inputs and index.name and index.dtype.startswith(("int", "uint")):
            length = args[0].shape[axis]
            limits[index.name] = min(limits.get(index.name, length), length)


def name_op(op: Op) -> str:
    """Return what a person calls an op: an elementwise op by its scalar function."""
    scalar_op = getattr(op, "scalar_op", op)
    return getattr(scalar_op, "name", None) or type(scalar_op).__name__


def _typify(value: Any, **kwargs) -> Any:
    """Give a constant to JAX with its own type: a Python float would let float32 partners win."""
    import jax
    from pytensor.link.jax.dispatch.basic import jax_typify

    if isinstance(value, np.ndarray) and value.ndim:
        return jax.device_put(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind == "f" else jax_typify(value, **kwargs)


def _as_declared(results: Any, node: Any) -> Any:
    """Keep floats in the type that PyTensor declares for them; JAX's promotion may choose a smaller one."""
    import jax

    compares_floats = any(str(getattr(v, "dtype", "")).startswith("float") for v in node.inputs)

    def cast(result, variable):
        if not isinstance(result, jax.Array):
            return result
        if variable.dtype == "bool" and result.ndim and compares_floats:
            # XLA may compute a comparison twice, fused into two kernels that round differently: a gradient then takes
            # both sides of a clip at once. Behind the barrier there is one mask for all.
            return jax.lax.optimization_barrier(result)
        if not variable.dtype.startswith("float"):
            return result
        dtype = jax.dtypes.canonicalize_dtype(variable.dtype)
        return result if result.dtype == dtype and not result.weak_type else jax.lax.convert_element_type(result, dtype)

    if len(node.outputs) > 1:
        return [cast(r, v) if isinstance(v.type, TensorType) else r for r, v in zip(results, node.outputs, strict=True)]
    return cast(results, node.outputs[0]) if isinstance(node.outputs[0].type, TensorType) else results


def _run_on_host(node: Any) -> Callable:
    """Wrap one node, compiled by PyTensor, in a callback whose output shapes follow from its input shapes."""
    import jax

    free = [i for i, v in enumerate(node.inputs) if not isinstance(v, Constant)]
    if not all(isinstance(v.type, TensorType) for v in [*(node.inputs[i] for i in free), *node.outputs]):
        raise NotImplementedError(f"{node.op} has inputs or outputs that are not arrays.")
    compiled: list[Callable] = []

    def call(shapes, *values):
        if not compiled:
            inputs = {i: node.inputs[i].type() for i in free}
            outputs = _rebuild(node, inputs)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Numba will use object mode")
                # Scalar functions need a compiler to be fast; ops on whole arrays are NumPy's and SciPy's already, and
                # some take minutes to compile.
                mode = None if isinstance(node.op, Elemwise) else RUN_ONCE
                compiled.append(pytensor.function(list(inputs.values()), outputs, mode, on_unused_input="ignore"))
        results = compiled[0](*(np.asarray(v, node.inputs[i].dtype) for i, v in zip(free, values, strict=True)))
        return tuple(np.asarray(r, s.dtype).reshape(s.shape) for r, s in zip(results, shapes, strict=True))

    def on_host(*args):
        inputs = {i: TensorType(node.inputs[i].dtype, shape=np.shape(args[i]))() for i in free}
        shapes = tuple(
            jax.ShapeDtypeStruct(_static_shape(v), jax.dtypes.canonicalize_dtype(v.dtype))
            for v in _rebuild(node, inputs)
        )
        arrays = (args[i] for i in free)
        results = jax.pure_callback(partial(call, shapes), shapes, *arrays, vmap_method="sequential")
        return results if len(results) > 1 else results[0]

    return on_host


def _rebuild(node: Any, inputs: dict[int, Tensor]) -> list[Tensor]:
    return node.clone_with_new_inputs([inputs.get(i, v) for i, v in enumerate(node.inputs)], strict=False).outputs


def _static_shape(variable: Tensor) -> tuple[int, ...]:
    if None not in variable.type.shape:
        return variable.type.shape
    shape = rewrite_graph(variable.shape, include=("canonicalize", "ShapeOpt"), clone=True)
    if not isinstance(shape, Constant):
        raise NotImplementedError(f"{variable.owner.op} has an output whose shape depends on values.")
    return tuple(int(n) for n in shape.data)
