"""A PyMC model in; its negative log posterior as a PyTensor graph, with the data lifted out of it, comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
from pymc.logprob.utils import CheckParameterValue
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.type import TensorType

from pm_psyphy.rows import RUN_ONCE

# PyTensor's own variables; typed loosely, because it declares few of their attributes.
type Tensor = Any

# Constants above this size are lifted into arguments, so that XLA neither folds nor stores them.
LARGEST_CONSTANT = 64

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
    frozen: dict[str, SharedVariable]
    """Shared variables whose present value is part of the graph."""

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
    discrete = [v.name for v in model.free_RVs if v.dtype.startswith(("int", "uint", "bool"))]
    if discrete:
        raise ValueError(
            f"Discrete free variables have no gradient: {', '.join(discrete)}. Marginalise them out of the model "
            "(pymc_extras.marginalize), or give them `observed` values."
        )
    if not model.observed_RVs and not model.potentials:
        raise ValueError(
            "The model has no observed variable and no potential, so its posterior is its prior. "
            "Give a variable `observed=...`, or add a pm.Potential."
        )


def lift(
    model: pm.model.core.BaseModel, outputs: Sequence[Tensor], *, freeze: str = "nothing", n_rows: int | None = None
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
    n_rows : int, optional
        Arrays with axes of this length are lifted however small they are, and may have another length there.

    Returns
    -------
    LiftedGraph
    """
    observed = {id(value): rv.name for rv, value in model.rvs_to_values.items() if isinstance(value, Constant)}
    parameters = list(model.value_vars)
    replacements: dict[Tensor, Tensor] = {}
    data: dict[str, Tensor] = {}
    sources: dict[str, Tensor] = {}
    frozen: dict[str, SharedVariable] = {}
    generators = []
    for source in graph_inputs(outputs):
        if isinstance(source, SharedVariable) and isinstance(source.type, RandomType):
            replacements[source] = source.type()
            generators.append(replacements[source])
        elif isinstance(source, SharedVariable) and _is_frozen(source, freeze):
            replacements[source] = source.type.constant_type(source.type, _read(source), name=source.name)
            frozen[_unused_name(source.name, frozen)] = source
        elif isinstance(source, SharedVariable) or (
            _is_liftable(source, is_observed=id(source) in observed, n_rows=n_rows) and not _is_frozen(source, freeze)
        ):
            name = _unused_name(observed.get(id(source), source.name), data)
            replacements[source] = _loosen(source.type, n_rows)(name=name)
            data[name], sources[name] = replacements[source], source
    if replacements:
        outputs = clone_replace(list(outputs), replace=replacements, rebuild_strict=False)
    while n_rows is not None and (asserted := _find_asserted(outputs, n_rows)):
        outputs = clone_replace(list(outputs), replace=asserted, rebuild_strict=False)
    return LiftedGraph(parameters, data, generators, list(outputs), sources, frozen)


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


def read_data(sources: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the present value of everything that was lifted, without copying it."""
    return {name: _read(source) for name, source in sources.items()}


def _read(source: Tensor) -> np.ndarray:
    value = source.get_value(borrow=True) if isinstance(source, SharedVariable) else source.data
    # pm.set_data turns NaN into a mask; a fit must see the NaN.
    return value.filled(np.nan) if isinstance(value, np.ma.MaskedArray) else value


def _loosen(kind: Any, n_rows: int | None) -> Any:
    """Return a type that leaves the lengths open which are that of the rows."""
    if n_rows is None or n_rows not in getattr(kind, "shape", ()):
        return kind
    return TensorType(kind.dtype, shape=tuple(None if n == n_rows else n for n in kind.shape))


def _find_asserted(outputs: Sequence[Tensor], n_rows: int) -> dict[Tensor, Tensor]:
    """Return what PyTensor, which knew how many rows there are, asserts to have so many, and what it is without."""
    return {
        variable: variable.owner.inputs[0]
        for variable in ancestors(outputs)
        if variable.owner and isinstance(variable.owner.op, SpecifyShape) and n_rows in variable.type.shape
    }


def _is_liftable(source: Tensor, *, is_observed: bool, n_rows: int | None) -> bool:
    # Boolean constants are masks: what they index has a shape that JAX must know when it compiles.
    if not isinstance(source, Constant) or not isinstance(source.type, TensorType) or source.type.dtype == "bool":
        return False
    has_rows = n_rows is not None and n_rows > 1 and n_rows in np.shape(source.data)
    return is_observed or has_rows or np.size(source.data) > LARGEST_CONSTANT


def _is_frozen(source: Tensor, freeze: str) -> bool:
    level = FREEZING.index(freeze)
    dtype, ndim = getattr(source, "dtype", ""), getattr(source, "ndim", None)
    is_integer = dtype.startswith(("int", "uint"))
    decides_shape = isinstance(source, SharedVariable) and (dtype == "bool" or ndim == 0)
    return (level >= 1 and decides_shape) or (level >= 2 and is_integer) or level >= 3


def _unused_name(name: str | None, taken: Mapping[str, Tensor]) -> str:
    if name and name not in taken:
        return name
    stem = name or "constant"
    return next(f"{stem}_{i}" for i in range(len(taken) + 1) if f"{stem}_{i}" not in taken)
