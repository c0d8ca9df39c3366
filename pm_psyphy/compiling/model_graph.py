"""A PyMC model in; its negative log posterior as a PyTensor graph, with the data lifted out of it, comes out."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
from pymc.logprob.utils import CheckParameterValue
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.raise_op import CheckAndRaise
from pytensor.sparse.type import SparseTensorType
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.type import TensorType

from pm_psyphy.common.row_function import RUN_ONCE

# PyTensor's own variables; typed loosely, because it declares few of their attributes.
type Tensor = Any

# Constants above this size are lifted into arguments, so that XLA neither folds nor stores them.
LARGEST_CONSTANT = 64

# With this begin the names of what an objective holds beside the model's own data.
OWN = "pm_psyphy: "

# What a second attempt keeps inside the program, each level on top of the one before.
FREEZING = ("nothing", "shapes", "integers", "everything")


@dataclass(frozen=True, eq=False)
class LiftedGraph:
    """Outputs of a model as functions of parameters, data and random generators, all of them graph inputs."""

    parameters: list[Tensor]
    data: dict[str, Tensor]
    generators: list[Tensor]
    outputs: list[Tensor]
    sources: dict[str, Tensor]
    """The shared variable or constant that holds the value of each entry of `data`."""
    baked: list[tuple[Tensor, np.ndarray]]
    """Shared variables and arrays whose value is part of the graph, and a copy of that value."""

    @property
    def inputs(self) -> list[Tensor]:
        """All inputs, in the order of the functions compiled from this graph."""
        return [*self.parameters, *self.data.values(), *self.generators]


def check_model(model: pm.model.core.BaseModel) -> None:
    """Raise a clear error for a model that has no maximum to look for."""
    if not isinstance(model, pm.model.core.BaseModel):
        raise TypeError(
            f"Expected a pm.Model, got {type(model).__name__}. Pass the model, or call inside `with model:`."
        )
    if not model.free_RVs:
        raise ValueError("The model has no free variables. Declare at least one prior without `observed`.")
    trees = [v.name for v in model.free_RVs if any("BART" in kind.__name__ for kind in type(v.owner.op).__mro__)]
    if trees:
        raise ValueError(
            f"{', '.join(trees)} is a sum of trees (BART), which has neither a gradient nor a mode to search for. "
            "Sample the model by pm.sample."
        )
    discrete = [v.name for v in model.free_RVs if v.dtype.startswith(("int", "uint", "bool"))]
    if discrete:
        raise ValueError(
            f"Discrete free variables have no gradient: {', '.join(discrete)}. Marginalise them out of the model "
            "(pymc_extras.marginalize), or give them `observed` values."
        )
    reserved = [name for name in model.named_vars if name.startswith(OWN)]
    if reserved:
        raise ValueError(f"{reserved[0]!r} begins with {OWN!r}, as our own names do. Give the variable another name.")


def lift(
    model: pm.model.core.BaseModel,
    outputs: Sequence[Tensor],
    *,
    freeze: str = "nothing",
    values: Mapping[Tensor, Any] | None = None,
    rows: Mapping[Tensor, int] | None = None,
    unfrozen: Collection[Tensor] = (),
    extra: Iterable[SharedVariable] = (),
) -> LiftedGraph:
    """Replace everything that holds data by graph inputs.

    Parameters
    ----------
    model : pm.Model
    outputs : sequence of Tensor
        Graphs in terms of the model's value variables.
    freeze : {"nothing", "shapes", "integers", "everything"}
        What stays a constant: scalars and masks, which may decide a shape; all integers; all data. JAX needs
        to know shapes when it compiles.
    values : dict of Tensor to ndarray, optional
        Values of shared variables that stay constants, where they differ from their present ones.
    rows : dict of Tensor to int, optional
        Shared variables and constants with rows, and the axis along which these are. They are lifted however small
        they are, and may have another length there.
    unfrozen : collection of SharedVariable
        They never stay constants.
    extra : iterable of SharedVariable
        They are lifted too, whether the graphs need them or not.

    Returns
    -------
    LiftedGraph
    """
    values, rows = values or {}, rows or {}
    sources = list(dict.fromkeys([*graph_inputs(outputs), *extra]))
    names = _name_sources(model, sources)
    replacements: dict[Tensor, Tensor] = {}
    data: dict[str, Tensor] = {}
    lifted: dict[str, Tensor] = {}
    baked, generators = [], []
    for source in sources:
        is_shared, name = isinstance(source, SharedVariable), names.get(source)
        if is_shared and isinstance(source.type, RandomType):
            replacements[source] = source.type()
            generators.append(replacements[source])
        elif is_shared and _is_frozen(source, freeze) and source not in rows and source not in unfrozen:
            value = np.array(values[source] if source in values else _read(source))
            replacements[source] = source.type.constant_type(source.type, value, name=source.name)
            baked.append((source, value))
        elif _can_be_data(source) and (is_shared or _is_liftable(model, source, rows, freeze)):
            name = name or _unused_name(None, {*names.values(), *data})
            replacements[source] = _loosen(source.type, rows.get(source))(name=name)
            data[name], lifted[name] = replacements[source], source
        elif isinstance(source, Constant) and np.ndim(source.data):
            baked.append((source, source.data.copy()))
    lengths = {_length(source, axis) for source, axis in rows.items()}
    while opened := _open_graphs(outputs, lengths):
        outputs = clone_replace(list(outputs), replace=opened, rebuild_strict=False)
    used = {old: new for old, new in replacements.items() if old in set(graph_inputs(outputs))}
    if used:
        outputs = clone_replace(list(outputs), replace=used, rebuild_strict=False)
    while asserted := _find_asserted(outputs, lengths):
        outputs = clone_replace(list(outputs), replace=asserted, rebuild_strict=False)
    return LiftedGraph(list(model.value_vars), data, generators, list(outputs), lifted, baked)


def find_shared(model: pm.model.core.BaseModel) -> list[SharedVariable]:
    """Return all shared arrays of a model: its data, the lengths of its dims, and any other on which it depends.

    Parameters
    ----------
    model : pm.Model

    Returns
    -------
    list of SharedVariable
    """
    values = [v for v in model.rvs_to_values.values() if v not in model.value_vars]
    outputs = [*model.basic_RVs, *values, *model.deterministics, *model.potentials, *model.data_vars]
    outputs += [length for length in model.dim_lengths.values() if isinstance(length, Variable)]
    return [v for v in graph_inputs(outputs) if isinstance(v, SharedVariable) and isinstance(v.type, TensorType)]


def _name_sources(model: pm.model.core.BaseModel, sources: Sequence[Tensor]) -> dict[Tensor, str]:
    """Return the names of the sources of data that have one."""
    observed = {v: rv.name for rv, v in model.rvs_to_values.items() if isinstance(v, Constant)}
    own = {**{v: v.name for v in model.data_vars}, **observed}
    candidates = [v for v in sources if _can_be_data(v) and (v in own or v.name)]
    names: dict[Tensor, str] = {}
    taken: set[str] = set()
    # The user's names come first, so that none of his data has to be called otherwise.
    for source in sorted(candidates, key=lambda v: v not in own):
        names[source] = _unused_name(own.get(source) or source.name, taken)
        taken.add(names[source])
    return names


def _can_be_data(source: Tensor) -> bool:
    kind = getattr(source, "type", None)
    return isinstance(source, SharedVariable | Constant) and isinstance(kind, TensorType | SparseTensorType)


def _length(source: Tensor, axis: int) -> int:
    return np.shape(_read(source))[axis]


def compile_checks(graph: LiftedGraph) -> list[tuple[CheckAndRaise, list[str], Callable[..., list[np.ndarray]]]]:
    """Return what the graph asserts of its data alone: the op that raises, the data's names, and its conditions.

    JAX drops assertions; of parameters they are PyMC's checks, which become log probabilities of -inf.
    """
    names = {variable: name for name, variable in graph.data.items()}
    checks = []
    for variable in ancestors(graph.outputs):
        if variable.owner is None:
            continue
        op, conditions = variable.owner.op, variable.owner.inputs[1:]
        if isinstance(op, CheckAndRaise) and not isinstance(op, CheckParameterValue):
            inputs = [v for v in graph_inputs(conditions) if not isinstance(v, Constant)]
            if all(v in names for v in inputs):
                function = pytensor.function(inputs, conditions, mode=RUN_ONCE)
                checks.append((op, [names[v] for v in inputs], function))
    return checks


def list_rotating(model: Any) -> tuple[str, ...]:
    """Return the value variables whose last axis may be rotated without a change of the density, as a field's weights.

    Their random variables have ``tag.rotates``.
    """
    return tuple(model.rvs_to_values[rv].name for rv in model.free_RVs if getattr(rv.tag, "rotates", False))


def read_data(sources: Mapping[str, Tensor], values: Mapping[Tensor, Any] | None = None) -> dict[str, Any]:
    """Return the value of everything that was lifted, without copying it: one of `values`, or the present one."""
    values = values or {}
    return {name: values[source] if source in values else _read(source) for name, source in sources.items()}


def _read(source: Tensor) -> Any:
    value = source.get_value(borrow=True) if isinstance(source, SharedVariable) else source.data
    # pm.set_data turns NaN into a mask; a fit must see the NaN.
    return value.filled(np.nan) if isinstance(value, np.ma.MaskedArray) else value


def _loosen(kind: Any, axis: int | None) -> Any:
    """Return a type that leaves the length along an axis open."""
    if axis is None:
        return kind
    return TensorType(kind.dtype, shape=tuple(None if i == axis else n for i, n in enumerate(kind.shape)))


def _open_graphs(outputs: Sequence[Tensor], lengths: set[int]) -> dict[Tensor, Tensor]:
    """Return the results of ops with a graph inside that knows how many rows there are, and that graph in their place.

    Such an op takes no other number of rows. Built anew, its graph does.
    """
    opened: dict[Tensor, Tensor] = {}
    nodes = {v.owner for v in ancestors(outputs) if v.owner and isinstance(v.owner.op, OpFromGraph)} if lengths else ()
    for node in nodes:
        op: Any = node.op
        if lengths & {length for kind in op.input_types for length in getattr(kind, "shape", ())}:
            opened |= zip(node.outputs, op.fgraph.bind(node.inputs), strict=True)
    return opened


def _find_asserted(outputs: Sequence[Tensor], lengths: set[int]) -> dict[Tensor, Tensor]:
    """Return what PyTensor, which knew how many rows there are, asserts to have so many, and what it is without."""
    return {
        variable: variable.owner.inputs[0]
        for variable in ancestors(outputs)
        if variable.owner and isinstance(variable.owner.op, SpecifyShape) and lengths & set(variable.type.shape)
    }


def _is_liftable(model: Any, source: Tensor, rows: Mapping[Tensor, int], freeze: str) -> bool:
    # Boolean constants are masks: what they index has a shape that JAX must know when it compiles.
    if not isinstance(source, Constant) or not isinstance(source.type, TensorType):
        return False
    if source in rows:
        return True
    is_observed = any(source is v for v in model.rvs_to_values.values())
    is_large = is_observed or np.size(source.data) > LARGEST_CONSTANT
    return is_large and source.type.dtype != "bool" and not _is_frozen(source, freeze)


def _is_frozen(source: Tensor, freeze: str) -> bool:
    level = FREEZING.index(freeze)
    dtype, ndim = getattr(source, "dtype", ""), getattr(source, "ndim", None)
    is_integer = dtype.startswith(("int", "uint"))
    decides_shape = isinstance(source, SharedVariable) and (dtype == "bool" or ndim == 0)
    return (level >= 1 and decides_shape) or (level >= 2 and is_integer) or level >= 3


def _unused_name(name: str | None, taken: set[str]) -> str:
    if name and name not in taken:
        return name
    stem = name or "constant"
    return next(f"{stem}_{i}" for i in range(len(taken) + 1) if f"{stem}_{i}" not in taken)


def name_op(op: Any) -> str:
    """Return what a person calls an op: an elementwise op by its scalar function."""
    scalar_op = getattr(op, "scalar_op", op)
    return getattr(scalar_op, "name", None) or type(scalar_op).__name__
