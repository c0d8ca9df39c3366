"""A PyTensor graph in; a JAX function of the same inputs comes out, with host callbacks for ops that JAX lacks."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytensor
from pytensor.compile.mode import get_mode
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.link.utils import fgraph_to_python
from pytensor.tensor.type import TensorType


class OpNotInJAX(NotImplementedError):
    """An op could not be translated; `op` is its name."""

    def __init__(self, op: str, cause: Exception):
        super().__init__(f"{op}: {type(cause).__name__}: {cause}")
        self.op = op


def translate(inputs: Sequence[Variable], outputs: Sequence[Variable], *, on_host: set[str] | None = None) -> Callable:
    """Translate a graph into a JAX function, rewritten by PyTensor's JAX mode first.

    Parameters
    ----------
    inputs, outputs : sequence of Variable
    on_host : set of str, optional
        Given, ops without a JAX translation run on the host through ``jax.pure_callback``, and their names are added
        to this set when the function is traced.

    Returns
    -------
    callable
        Takes the inputs' values, returns a tuple of the outputs'.

    Raises
    ------
    OpNotInJAX
        Here or when the result is traced, if `on_host` is None.
    """
    from pytensor.link.jax.dispatch import jax_funcify
    from pytensor.link.jax.dispatch.basic import jax_typify

    fgraph = FunctionGraph(list(inputs), list(outputs), clone=True)
    # Without this rewrite JAX drops PyMC's parameter checks, and a negative sigma gives NaN instead of -inf.
    mode = get_mode("JAX").including("local_check_parameter_to_ninf_switch")
    mode.optimizer.rewrite(fgraph)

    def convert(op, node: Apply, **kwargs) -> Callable:
        def fall_back(error: Exception) -> Callable:
            if on_host is None:
                raise OpNotInJAX(str(op), error) from error
            on_host.add(str(op))
            return _run_on_host(node)

        try:
            in_jax = jax_funcify(op, node=node, **kwargs)
        except Exception as error:
            return fall_back(error)

        def run(*args):
            try:
                return in_jax(*args)
            except Exception as error:
                host = fall_back(error)
            return host(*args)

        return run

    with warnings.catch_warnings():
        # Assertions have no place in a compiled program; the start is checked instead.
        warnings.filterwarnings("ignore", message="Skipping .* Op .assertion")
        function = fgraph_to_python(fgraph, convert, type_conversion_fn=jax_typify)
    return function


def _run_on_host(node: Apply) -> Callable:
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
            compiled.append(pytensor.function(list(inputs.values()), outputs, on_unused_input="ignore"))
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


def _rebuild(node: Apply, inputs: dict[int, Variable]) -> list[Variable]:
    return node.clone_with_new_inputs([inputs.get(i, v) for i, v in enumerate(node.inputs)], strict=False).outputs


def _static_shape(variable: Variable) -> tuple[int, ...]:
    if None not in variable.type.shape:
        return variable.type.shape
    shape = rewrite_graph(variable.shape, include=("canonicalize", "ShapeOpt"), clone=True)
    if not isinstance(shape, Constant):
        raise NotImplementedError(f"{variable.owner.op} has an output whose shape depends on values.")
    return tuple(int(n) for n in shape.data)
