"""A PyTensor graph in; a JAX function of the same inputs comes out, with host callbacks for ops that JAX lacks."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import get_mode
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.traversal import graph_inputs
from pytensor.link.utils import fgraph_to_python
from pytensor.scalar.math import PolyGamma, Softplus
from pytensor.tensor.basic import AllocEmpty, ARange
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.subtensor import AdvancedIncSubtensor, BaseSubtensor, IncSubtensor
from pytensor.tensor.type import TensorType

from pm_psyphy.common.row_function import RUN_ONCE, Hold, RowFunction
from pm_psyphy.compiling.host_ops import run_on_host
from pm_psyphy.compiling.model_graph import Tensor, name_op
from pm_psyphy.compiling.row_loops import run_rows


@dataclass(frozen=True, eq=False)
class IndexLimit:
    """An index into an axis of known length: JAX takes the last element for one beyond it, where NumPy raises."""

    names: tuple[str, ...]
    """Names of the data that the index is, or is computed from."""
    length: int
    find: Callable[[Mapping[str, Any]], Any]
    """Returns the index, of data by name."""


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
    index_limits: list[IndexLimit] | None = None,
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
    index_limits : list of IndexLimit, optional
        Given, it receives, when the function is traced, what indexes an axis: data, or what follows from data alone.

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
    with keep_quiet():
        mode.optimizer.rewrite(fgraph)

    def convert(op, node: Any, **kwargs) -> Callable:
        def fall_back(error: Exception) -> Callable:
            if on_host is None:
                raise OpNotInJAX(name_op(op), error) from error
            on_host.add(name_op(op))
            return run_on_host(node)

        try:
            if isinstance(op, RowFunction):
                # Of a node inside another op it is not known who asks for what.
                derivatives = node.outputs[1:] if node in fgraph.apply_nodes else None
                only_value = derivatives is not None and not any(fgraph.clients[v] for v in derivatives)
                in_jax = run_rows(op, only_value=only_value)
            else:
                in_jax = _find_own(node) or jax_funcify(op, node=node, **kwargs)
        except Exception as error:
            return fall_back(error)

        def run(*args):
            if index_limits is not None:
                _note_limits(node, args, fgraph, index_limits)
            args = _as_floats(args, node)
            try:
                results = _compute_now(in_jax, args) if _is_known(node, args) else in_jax(*args)
            except Exception as error:
                results = fall_back(error)(*args)
            return _as_declared(results, node)

        return run

    with keep_quiet():
        return fgraph_to_python(fgraph, convert, type_conversion_fn=_typify)


@contextmanager
def keep_quiet() -> Iterator[None]:
    """Keep to PyTensor what it says of rewrites that do not apply, and of assertions, which have no place in JAX."""
    logger = logging.getLogger("pytensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytensor")
            warnings.filterwarnings("ignore", message="Skipping .* Op .assertion")
            yield
    finally:
        logger.setLevel(level)


def _find_own(node: Any) -> Callable | None:
    """Return a translation of ours that knows more or takes less time than PyTensor's, if there is one."""
    import jax

    if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Softplus):
        return _softplus
    if isinstance(node.op, Hold):
        return _hold
    if isinstance(node.op, Shape):
        return lambda x: np.array(np.shape(x), np.int64)
    if isinstance(node.op, Shape_i):
        return lambda x: np.int64(np.shape(x)[node.op.i])
    if isinstance(node.op, ARange):
        # PyTensor's wants constants, or shapes themselves.
        return lambda *bounds: np.arange(*map(int, bounds), dtype=node.op.dtype)
    if isinstance(node.op, AllocEmpty):
        return lambda *shape: jax.numpy.zeros(tuple(map(int, shape)), node.op.dtype)
    return _multiply_transposed if _is_transposed_times_column(node) else None


def _is_known(node: Any, args: Sequence[Any]) -> bool:
    """Whether integers are computed of what is known already when JAX traces, such as lengths."""
    from jax.core import Tracer

    are_integers = all(str(getattr(v, "dtype", "")).startswith(("int", "uint", "bool")) for v in node.outputs)
    return are_integers and not any(isinstance(arg, Tracer) for arg in args)


def _compute_now(function: Callable, args: Sequence[Any]) -> Any:
    """Compute when JAX traces. The results are NumPy's, for what is done to arrays of JAX's own is traced."""
    import jax

    with jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, function(*args))


def _as_floats(args: Sequence[Any], node: Any) -> list[Any]:
    """Give integers to functions of floats in the type that PyTensor declares for the result.

    JAX takes the logarithm of an int32 in float32, and that of an int64 in float64.
    """
    import jax

    gives_floats = any(str(getattr(v, "dtype", "")).startswith("float") for v in node.outputs)
    if not gives_floats or not isinstance(node.op, Elemwise | CAReduce | Blockwise | Dot | OpFromGraph):
        return list(args)
    if isinstance(getattr(node.op, "scalar_op", None), PolyGamma):
        return list(args)  # its order is an integer in JAX, too
    # What an op with a graph inside does with its integers is not known here.
    inside = isinstance(node.op, OpFromGraph)
    dtype = jax.dtypes.canonicalize_dtype("int64" if inside else node.outputs[0].dtype)

    def convert(arg: Any, variable: Any) -> Any:
        declared = str(getattr(variable, "dtype", ""))
        is_integer = declared.startswith(("int", "uint"))
        if not is_integer or not isinstance(arg, jax.Array | np.ndarray | np.generic) or arg.dtype.kind not in "iu":
            return arg
        return arg if inside and arg.dtype.itemsize == 8 else arg.astype(dtype)

    return [convert(arg, variable) for arg, variable in zip(args, node.inputs, strict=True)]


def _softplus(x):
    """Return log(1 + exp(x)), to two units in the last place, in a third of the time a logarithm of XLA's takes."""
    import jax.numpy as jnp

    x = _hold(x)
    small = jnp.exp(-jnp.abs(x))
    # log(1 + e) = 2 artanh(e / (2 + e)); its series' terms fall by 9 each.
    ratio = small / (2 + small)
    n_terms = int(np.ceil(-np.log(jnp.finfo(small.dtype).eps) / np.log(9)))
    series = jnp.zeros_like(ratio)
    for k in reversed(range(n_terms)):
        series = series * ratio**2 + 1 / (2 * k + 1)
    # JAX takes the derivative of |x| at 0 to be 1.
    return _hold(jnp.where(x >= 0, x, 0) + 2 * ratio * series)


def _hold(x):
    """Let XLA write x to memory on a CPU, where it would else compute it anew in each loop that needs it."""
    import jax

    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


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


def _note_limits(node: Any, args: Sequence[Any], fgraph: FunctionGraph, limits: list[IndexLimit]) -> None:
    """Note what indexes the axes of a node's first input, unless it is known here to be in range."""
    from jax.core import Tracer

    if not isinstance(node.op, BaseSubtensor):
        return
    n_operands = 2 if isinstance(node.op, IncSubtensor | AdvancedIncSubtensor) else 1
    for axis, entry in enumerate(node.op.idx_list):
        if not isinstance(entry, int):
            continue
        variable, index, length = node.inputs[n_operands + entry], args[n_operands + entry], np.shape(args[0])[axis]
        if not str(getattr(variable, "dtype", "")).startswith(("int", "uint")):
            continue
        if not isinstance(index, Tracer):
            values = np.asarray(index)
            if np.any((values >= length) | (values < -length)):
                limits.append(IndexLimit((), length, lambda _, values=values: values))
        elif (found := _find_index(variable, fgraph)) is not None:
            limits.append(IndexLimit(found[0], length, found[1]))


def _find_index(variable: Any, fgraph: FunctionGraph) -> tuple[tuple[str, ...], Callable] | None:
    """Return how an index follows from inputs, and the names of these; None if it depends on more."""
    if variable in fgraph.inputs and variable.name:
        return (variable.name,), lambda data: data[variable.name]
    inputs: list[Any] = [v for v in graph_inputs([variable]) if not isinstance(v, Constant)]
    if any(not v.name or not isinstance(v.type, TensorType) for v in inputs):
        return None
    compiled: list[Callable] = []

    def find(data: Mapping[str, Any]) -> Any:
        if not compiled:
            compiled.append(pytensor.function(inputs, variable, mode=RUN_ONCE, on_unused_input="ignore"))
        return compiled[0](*(np.asarray(data[v.name]) for v in inputs))

    return tuple(v.name for v in inputs), find


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
