"""Functions, optimisers and graphs in; a text that is the same for equal ones, in every process, comes out."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any

import jax
import numpy as np
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.type import Type

# Functions of these packages are what their names say.
LIBRARIES = ("optax", "jax", "jaxlib", "numpy", "chex", "builtins", "math", "functools", "operator")


class Unsigned(Exception):
    """Something whose meaning is not known here."""


def sign(value: Any) -> str | None:
    """Return a text that equal values share: functions by their code and all that they refer to.

    Parameters
    ----------
    value : object
        For instance an optax transformation, which consists of functions with what they enclose.

    Returns
    -------
    str or None
        None if it has a part that is known by its identity only.
    """
    try:
        return _digest(_list_parts(value, ()))
    except Unsigned:
        return None


def sign_graph(outputs: list[Any]) -> str:
    """Return a text that equal graphs share: the same ops, constants, and inputs of the same names.

    Parameters
    ----------
    outputs : list of Variable

    Returns
    -------
    str
    """
    known: dict[Any, str] = {}
    return _digest([_sign_variable(output, known) for output in outputs])


def _digest(parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _list_parts(value: Any, above: tuple[int, ...]) -> Any:
    """Return nested tuples of texts; `above` are the functions within which this one is found."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | np.dtype):
        return type(value).__name__, repr(value)
    if isinstance(value, np.ndarray | jax.Array):
        return _sign_array(np.asarray(value))
    if isinstance(value, type):
        return value.__module__, value.__qualname__
    if isinstance(value, Enum | types.ModuleType | types.BuiltinFunctionType | np.ufunc):
        return repr(value)
    if isinstance(value, tuple | list):
        return type(value).__qualname__, *(_list_parts(part, above) for part in value)
    if isinstance(value, Mapping):
        return tuple((repr(key), _list_parts(part, above)) for key, part in value.items())
    if isinstance(value, functools.partial):
        return "partial", *(_list_parts(part, above) for part in (value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        return _list_parts(value.__func__, above), _list_parts(value.__self__, above)
    if isinstance(value, types.FunctionType):
        return _list_parts_of_function(value, above)
    if hasattr(value, "__wrapped__"):
        return _list_parts(value.__wrapped__, above)
    if dataclasses.is_dataclass(value):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return type(value).__qualname__, *(_list_parts(part, above) for part in fields)
    raise Unsigned(type(value).__qualname__)


def _list_parts_of_function(function: types.FunctionType, above: tuple[int, ...]) -> Any:
    name = function.__module__, function.__qualname__
    is_known = (function.__module__ or "").partition(".")[0] in LIBRARIES
    if id(function) in above or (is_known and not function.__closure__):
        return name
    above = (*above, id(function))
    enclosed = [_open(cell) for cell in function.__closure__ or ()]
    used = (
        []
        if is_known
        else [function.__globals__[n] for n in _list_names(function.__code__) if n in function.__globals__]
    )
    parts = [function.__defaults__, function.__kwdefaults__, enclosed, used]
    return *name, _list_parts_of_code(function.__code__), *(_list_parts(part, above) for part in parts)


def _open(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty, as of a name that is deleted or not set yet
        return None


def _list_names(code: types.CodeType) -> list[str]:
    """Return the names that code, and code inside it, may look up among globals."""
    inside = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _list_names(const)]
    return [*code.co_names, *inside]


def _list_parts_of_code(code: types.CodeType) -> Any:
    constants = (_list_parts_of_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts)
    return code.co_code.hex(), code.co_names, *constants


def _sign_array(array: np.ndarray) -> Any:
    return str(array.dtype), array.shape, hashlib.blake2b(np.ascontiguousarray(array).tobytes()).hexdigest()


def _sign_variable(variable: Variable, known: dict[Any, str]) -> str:
    """Sign the nodes behind a variable, the first ones first, so that no stack overflows."""
    waiting: list[Any] = [variable]
    while waiting:
        last = waiting[-1]
        if last in known:
            waiting.pop()
        elif last.owner is None:
            known[waiting.pop()] = _sign_source(last)
        elif missing := [v for v in last.owner.inputs if v not in known]:
            waiting.extend(missing)
        else:
            node = last.owner
            parts = [_sign_op(node), *(known[v] for v in node.inputs)]
            known |= {output: _digest([*parts, i]) for i, output in enumerate(node.outputs)}
    return known[variable]


def _sign_source(variable: Any) -> str:
    if isinstance(variable, Constant):
        data = variable.data
        return _digest(_sign_array(np.asarray(data)) if isinstance(data, np.ndarray | np.generic) else repr(data))
    return _digest([variable.name, str(variable.type)])


def _sign_op(node: Apply) -> Any:
    op = node.op
    inside = sign_inner(op)
    return *_list_op_parts(op), inside, *(str(output.type) for output in node.outputs)


def sign_inner(op: Any) -> str:
    """Return a text for the graph inside an op, if it has one."""
    if not hasattr(op, "inner_outputs"):
        return ""
    inputs = {v: f"inner input {i}" for i, v in enumerate(op.inner_inputs)}
    return _digest([_sign_variable(output, dict(inputs)) for output in op.inner_outputs])


def _list_op_parts(op: Any) -> tuple[Any, ...]:
    props = getattr(op, "__props__", None) or ()
    return type(op).__module__, type(op).__qualname__, *(_sign_prop(getattr(op, name)) for name in props)


def _sign_prop(value: Any) -> Any:
    if isinstance(value, Op):
        return *_list_op_parts(value), str(value), sign_inner(value)
    if isinstance(value, tuple | list):
        return tuple(_sign_prop(part) for part in value)
    if isinstance(value, Type):
        return str(value)
    return sign(value) or type(value).__qualname__
