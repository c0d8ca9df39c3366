"""A PyMC model in; a Program, pure JAX functions of (parameters, data, key), by the first route that works, out."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor
from pytensor.graph.traversal import ancestors

from pm_psyphy.compiling.jax_linker import IndexLimit, OpNotInJAX, translate
from pm_psyphy.compiling.model_graph import FREEZING, LiftedGraph, find_shared, lift, name_op, read_data
from pm_psyphy.compiling.row_weights import WEIGHTS, WeightedDensity, write_weighted_log_density

type Params = dict[str, jax.Array]
type Data = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Compiled:
    """What was compiled from a program since; it depends on nothing but the shapes of data."""

    loops: dict[Hashable, Any] = field(default_factory=dict)
    """Searches, by their optimiser and the shapes of what they run on."""
    functions: dict[Hashable, Any] = field(default_factory=dict)
    """Functions, and programs made of this one, by what makes them."""
    index_limits: dict[Hashable, list[IndexLimit]] = field(default_factory=dict)
    """What indexes axes of known length, for the shapes with which the program was traced."""
    bytes_needed: dict[Hashable, int] = field(default_factory=dict)
    """By a gradient beside its data, for their shapes."""


@dataclass(frozen=True, eq=False)
class Program:
    """What is compiled once for a model and serves all its data sets."""

    route: str
    value: Callable[[Params, Data, Any], jax.Array]
    value_and_grad: Callable[[Params, Data, Any], tuple[jax.Array, Params]]
    graph: LiftedGraph
    freeze: str
    on_host: set[str]
    """Names of the ops that JAX lacks and the host runs."""
    variables: tuple[Any, ...] = ()
    """The model's variables, their values and transforms, when it was built."""
    jacobian: bool = False
    """Whether the log Jacobian of the transforms is a part of it."""
    weighted_dim: str | None = None
    """Along which each row has a weight."""
    check_bounds: bool = True
    """Whether parameters outside their support have the log probability -inf."""
    is_derived: bool = False
    """Whether its functions are made of another program's, and are not what the graph says."""
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """The axis of the rows, of each of the data that have them; proved from the graph."""
    compiled: Compiled = field(default_factory=Compiled)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` has compiled for a key, now or before."""
        functions = self.compiled.functions
        if key not in functions:
            functions[key] = make()
        return functions[key]

    @cached_property
    def value_alone(self) -> Callable[[Params, Data, Any], jax.Array]:
        """`value`, without computing derivatives on the way to it where that can be."""
        if self.is_derived:
            return self.value
        (loss,) = self.graph.outputs
        dtype = np.result_type(*(p.dtype for p in self.graph.parameters))
        # It may be asked for while JAX traces; its constants are numbers all the same.
        with jax.ensure_compile_time_eval():
            function = translate(self.graph.inputs, [loss], check_bounds=self.check_bounds, on_host=set(self.on_host))
        return call_by_name(function, self.graph, lambda out: out[0].astype(dtype))

    def derive(self, value: Callable, value_and_grad: Callable) -> "Program":
        """Return a program of the same model with other functions, of which nothing is compiled yet."""
        return replace(self, value=value, value_and_grad=value_and_grad, compiled=Compiled(), is_derived=True)

    @property
    def stochastic(self) -> bool:
        """Whether the loss draws random numbers."""
        return bool(self.graph.generators)

    @property
    def frozen(self) -> dict[Any, np.ndarray]:
        """The values that are part of the program, by the variable or array that held them."""
        return dict(self.graph.baked)

    @cached_property
    def jitted_value(self) -> Callable:
        """`value`, compiled by JAX for each shape of data."""
        return jax.jit(self.value)

    @cached_property
    def jitted_value_and_grad(self) -> Callable:
        """`value_and_grad`, compiled by JAX for each shape of data."""
        return jax.jit(self.value_and_grad)


class NoRoute(Exception):
    """No route gives a finite loss and gradient at the start; `errors` says for each what went wrong."""

    def __init__(self, errors: dict[str, Exception]):
        super().__init__("; ".join(f"{route}: {error}" for route, error in errors.items()))
        self.errors = errors

    @property
    def nonfinite(self) -> "NotFinite | None":
        """What the first route that compiled has found, if any did."""
        return next((error for error in self.errors.values() if isinstance(error, NotFinite)), None)


class NotFinite(Exception):
    """A route compiled, and its loss or gradient at the start is not finite."""

    def __init__(self, program: Program):
        super().__init__("loss or gradient not finite at the start")
        self.program = program


def build_program(
    model: pm.Model,
    start: Mapping[str, np.ndarray],
    *,
    jacobian: bool,
    accept: Callable[[Program, Mapping[str, np.ndarray], Mapping[str, Any]], None],
    weighted_dim: str | None = None,
    values: Mapping[Any, Any] | None = None,
) -> Program:
    """Compile -log p of a model and its gradient by the first route that passes.

    Parameters
    ----------
    model : pm.Model
    start : dict of str to ndarray
        Unconstrained parameters at which routes are tried.
    jacobian : bool
    accept : callable
        `check_finite`, or `check_trace` where the caller will see for himself whether the values are finite.
    weighted_dim : str, optional
        Along which each row of the likelihood gets a weight, among the data.
    values : dict of Tensor to ndarray, optional
        Values of shared variables and constants that differ from their present ones.

    Returns
    -------
    Program

    Raises
    ------
    NoRoute
        If none passes.
    ValueError
        If some row along `weighted_dim` needs others.
    """
    set_precision(model)
    if weighted_dim is None:
        density = WeightedDensity(model.logp(jacobian=jacobian), {})
    else:
        density = write_weighted_log_density(model, weighted_dim, jacobian=jacobian)
    errors: dict[str, Exception] = {}
    for route, graph, freeze in _list_routes(model, density, errors, values):
        on_host: set[str] | None = set() if route.startswith("callback") else None
        try:
            # Where a node of the gradient was made concerns nobody, and looking takes a sixth of the time.
            with pytensor.config.change_flags(traceback__limit=0):
                program = replace(
                    compile_route(route, graph, freeze, on_host, model.check_bounds),
                    variables=list_variables(model),
                    jacobian=jacobian,
                    weighted_dim=weighted_dim,
                    check_bounds=model.check_bounds,
                    row_axes={name: density.rows[v] for name, v in graph.sources.items() if v in density.rows},
                )
            accept(program, start, read_program_data(program, values))
        except Exception as error:
            errors[route] = error
            continue
        if program.on_host:
            warnings.warn(
                f"{', '.join(sorted(program.on_host))}: not in JAX, so the host runs it at each step, which is slow. "
                "Other ops run on the device.",
                stacklevel=2,
            )
        return program
    raise NoRoute(errors)


def read_program_data(program: Program, values: Mapping[Any, Any] | None = None) -> dict[str, Any]:
    """Return the data of a program: of each source one of `values`, or its present value. Rows have the weight 1."""
    data = read_data(program.graph.sources, values)
    for name, axis in list(program.row_axes.items())[:1]:
        data[WEIGHTS] = np.ones(np.shape(data[name])[axis], program.graph.data[WEIGHTS].dtype)
    return data


def list_variables(model: pm.Model) -> tuple[Any, ...]:
    """Return all that makes a model what it is, beside its data."""
    values, transforms = model.rvs_to_values.values(), model.rvs_to_transforms.values()
    return *model.basic_RVs, *values, *transforms, *model.potentials


def explain_no_route(model: pm.Model, errors: dict[str, Exception]) -> NotImplementedError:
    """Return the error that names the op and the variables for which no route works."""
    ops = {error.op: error for error in errors.values() if isinstance(error, OpNotInJAX)}
    if not ops:
        reasons = " ".join(f"{route}: {type(error).__name__}: {error}" for route, error in errors.items())
        return NotImplementedError(f"This model could not be compiled to JAX. {reasons}")
    op, error = next(reversed(ops.items()))
    terms = _name_terms_with(model, op)
    where = f"needed by {', '.join(terms)}" if terms else "in its log probability or gradient"
    reason = str(error.__cause__).partition("\n")[0]
    return NotImplementedError(
        f"JAX cannot run {op}, {where}, and the host cannot stand in for it ({reason}). "
        "Rewrite that variable with other ops."
    )


def _name_terms_with(model: pm.model.core.BaseModel, op_name: str) -> list[str]:
    """Return the names of the variables and potentials in whose log probability an op appears."""
    terms = [*model.free_RVs, *model.observed_RVs, *model.potentials]
    graphs = model.logp(vars=terms, sum=False)
    return [
        term.name
        for term, graph in zip(terms, graphs, strict=True)
        if any(v.owner is not None and name_op(v.owner.op) == op_name for v in ancestors([graph]))
    ]


def set_precision(model: pm.Model) -> None:
    """Let JAX keep the model's floats: PyTensor sets this when its JAX side is first imported, from floatX then."""
    import_module("pytensor.link.jax.dispatch")

    if any(v.dtype == "float64" for v in model.value_vars) and not jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", True)


def _list_routes(model, density: WeightedDensity, errors, values) -> Iterator[tuple[str, LiftedGraph, str]]:
    """Yield routes in the order of preference, leaving out those that cannot help after what went wrong so far."""
    tried = []
    for freeze in FREEZING:
        graph = lift(
            model,
            [-density.log_density],
            freeze=freeze,
            values=values,
            rows=density.rows,
            unfrozen=density.numbers,
            extra=find_shared(model),
        )
        if any(graph.data.keys() == other.data.keys() for _, other in tried):
            continue
        tried.append((freeze, graph))
        suffix = "" if freeze == "nothing" else "-frozen"
        yield f"pytensor{suffix}", graph, freeze
        yield f"jax{suffix}", graph, freeze
        if not any(_is_about_shapes(error) for error in errors.values()):
            break
    if any(isinstance(error, OpNotInJAX) for error in errors.values()):
        for freeze, graph in tried:
            yield "callback" if freeze == "nothing" else "callback-frozen", graph, freeze


def _is_about_shapes(error: Exception) -> bool:
    cause = error.__cause__ or error
    if isinstance(error, NotFinite) or isinstance(cause, ImportError):
        return False
    return "No JAX conversion" not in str(cause) and "No JAX implementation" not in str(cause)


def compile_route(route: str, graph: LiftedGraph, freeze: str, on_host: set[str] | None, check_bounds: bool) -> Program:
    """Return the program of a graph by a route; `on_host` takes the names of ops that the host runs, if it may."""
    (loss,) = graph.outputs
    dtypes = {p.name: p.dtype for p in graph.parameters}
    # PyTensor sums in float64; a float32 model keeps a float32 loss and gradient.
    dtype = np.result_type(*dtypes.values())
    compiled, noted = Compiled(), []
    if route.startswith("jax"):
        function = translate(graph.inputs, [loss], check_bounds=check_bounds, on_host=on_host, index_limits=noted)
        value = note_limits(call_by_name(function, graph, lambda out: out[0].astype(dtype)), compiled, noted)
        value_and_grad = jax.value_and_grad(value)
    else:
        grads: Any = pytensor.grad(loss, graph.parameters, disconnected_inputs="ignore")
        function = translate(
            graph.inputs, [loss, *grads], check_bounds=check_bounds, on_host=on_host, index_limits=noted
        )

        def unpack(out):
            grads = {n: g.astype(d) for (n, d), g in zip(dtypes.items(), out[1:], strict=True)}
            return out[0].astype(dtype), grads

        value_and_grad = note_limits(call_by_name(function, graph, unpack), compiled, noted)

        def value(params, data, key):
            return value_and_grad(params, data, key)[0]

    return Program(route, value, value_and_grad, graph, freeze, on_host or set(), compiled=compiled)


def note_limits(function: Callable, compiled: Compiled, noted: list[IndexLimit]) -> Callable:
    """Let a function keep, when it is traced, what indexes axes of known length, by the shapes it is traced with."""

    def call(params, data, key):
        noted.clear()
        found = function(params, data, key)
        compiled.index_limits[list_shapes(params, data)] = list(noted)
        return found

    return call


def list_shapes(params: Mapping[str, Any], data: Mapping[str, Any]) -> Hashable:
    """Return what tells the shapes of parameters and data from other ones."""
    return tuple((name, np.shape(array)) for arrays in (params, data) for name, array in sorted(arrays.items()))


def call_by_name(function: Callable, graph: LiftedGraph, unpack: Callable) -> Callable:
    """Turn a function of many arrays into one of dicts of parameters and data, and a key for its random draws."""
    parameters, data = [p.name for p in graph.parameters], list(graph.data)

    def call(params, arrays, key):
        draws = [{"jax_state": raw_key(key, i)} for i in range(len(graph.generators))]
        with warnings.catch_warnings():
            # Without x64 there is no float64 to sum in, which is what was asked for.
            warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            outputs = function(*(params[n] for n in parameters), *(arrays[n] for n in data), *draws)
        return unpack([jnp.asarray(out) for out in outputs])

    return call


def raw_key(key: Any, index: int) -> jax.Array:
    """Return the two numbers that PyTensor's JAX generators hold, for one of several generators."""
    folded = jax.random.fold_in(key, index)
    return jax.random.key_data(folded) if jnp.issubdtype(folded.dtype, jax.dtypes.prng_key) else folded


def trace(program: Program, start: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> None:
    """Raise if JAX cannot trace a program for data of these shapes; costs no compilation, and nothing the next time."""
    if list_shapes(start, data) not in program.compiled.index_limits:
        # The jitted function keeps its trace, which the loop finds again.
        key = jax.random.key(0) if program.stochastic else None
        jax.eval_shape(program.jitted_value_and_grad, dict(start), dict(data), key)


def check_trace(program: Program, start: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> None:
    """Raise if JAX cannot trace a program."""
    trace(program, start, data)


def check_finite(program: Program, start: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> None:
    """Raise if a program cannot be compiled, or its loss or gradient are not finite at the start."""
    key = jax.random.key(0) if program.stochastic else None
    loss, grads = program.jitted_value_and_grad(dict(start), dict(data), key)
    if not all(np.isfinite(v).all() for v in (loss, *grads.values())):
        raise NotFinite(program)
