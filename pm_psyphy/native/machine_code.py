"""Nests of steps in; a module in LLVM's language with a function that computes rows from arrays comes out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from pm_psyphy.native.row_graph import COMPARISONS, Axis, Nest, NotSupportedError, Step
from pm_psyphy.native.vector_math import INT64, VectorMath

VOID = ir.VoidType()
# So many bytes lie next to each other in a register of AVX-512.
ALIGNED = 64
SIGNS = {"EQ": "==", "GE": ">=", "GT": ">", "LE": "<=", "LT": "<"}

type Place = Mapping[Axis, Any]
"""The numbers of the nodes at which the loops stand."""


class VectorFunction:
    """``group(inputs, outputs, i)`` in LLVM's language: it computes as many rows as a vector holds, from the i-th on.

    Inputs and outputs are arrays of pointers to the rows' numbers. Each step is an instruction, or a few, on a vector
    of rows. What other loops need is kept on the stack.
    """

    def __init__(
        self, module: ir.Module, nests: Sequence[Nest], outputs: Sequence[Step], dtype: str, features: frozenset[str]
    ):
        number = ir.DoubleType() if dtype == "float64" else ir.FloatType()
        table = number.as_pointer().as_pointer()
        self.function = ir.Function(module, ir.FunctionType(VOID, [table, table, INT64]), "group")
        self.function.linkage = "internal"
        self.entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.entry)
        self.module, self.math = module, VectorMath(self.builder, module, dtype, features)
        self.order = list(dict.fromkeys(axis for nest in nests for axis in nest.axes))
        self.nest_of = {step: nest for nest in nests for step in nest.steps}
        self.kept: dict[Step, Any] = {step: self._keep(step) for step in self.nest_of if self._is_kept(step)}
        self.rows: dict[Step, Any] = {}
        self.tables: dict[bytes, Any] = {}
        for nest in nests:
            self._write_nest(nest)
        for number_of_output, step in enumerate(outputs):
            value = self.math.as_number(self._look_up(step, {}, {}))
            self.builder.store(value, self._find_rows(1, number_of_output), align=number_size(dtype))
        self.builder.ret_void()

    def _is_kept(self, step: Step) -> bool:
        """Whether a step's numbers are needed in other loops than its own, or added to in them."""
        elsewhere = any(self.nest_of.get(user) is not self.nest_of[step] for user in step.users)
        return step.is_reduction or bool(step.axes and elsewhere)

    def _keep(self, step: Step) -> Any:
        size = math.prod(axis.size for axis in step.roots)
        space: Any = self.builder.alloca(self.math.type, size=ir.Constant(INT64, size))
        space.align = ALIGNED
        return space

    def _write_nest(self, nest: Nest) -> None:
        for step in nest.steps:
            if step.is_reduction:
                self._begin_reduction(step)
            for arg in step.args:
                if not arg.axes and self.nest_of.get(arg) is not nest:
                    # Before the loops, where all of them see it.
                    self._look_up(arg, {}, {})
        self._write_loops(nest, 0, {}, {})

    def _begin_reduction(self, step: Step) -> None:
        begin = self.math.constant(0 if step.op == "sum" else -np.inf)
        with self._loop(math.prod(axis.size for axis in step.roots)) as i:
            self.builder.store(begin, self.builder.gep(self.kept[step], [i]), align=ALIGNED)

    def _write_loops(self, nest: Nest, depth: int, at: Place, seen: dict[Step, Any]) -> None:
        """Write the loops from a depth on; `seen` is what has been computed or loaded inside of the outer ones."""
        if depth == len(nest.axes):
            seen = seen if at else self.rows
            for step in nest.steps:
                self._write_step(step, at, seen)
            return
        with self._loop(nest.axes[depth].size) as i:
            at, seen = {**at, nest.axes[depth]: i}, dict(seen)
            # What belongs to this loop is loaded before those inside begin.
            for arg in {arg: None for step in nest.steps for arg in step.args}:
                if arg.axes and arg.roots <= at.keys() and self.nest_of.get(arg) is not nest:
                    self._look_up(arg, at, seen)
            self._write_loops(nest, depth + 1, at, seen)

    def _write_step(self, step: Step, at: Place, seen: dict[Step, Any]) -> None:
        if step.is_reduction:
            place = self.builder.gep(self.kept[step], [self._count(step, at)])
            before, value = self.builder.load(place, align=ALIGNED), self._look_up(step.args[0], at, seen)
            combine = self.math.add if step.op == "sum" else self.math.maximum
            self.builder.store(combine(before, self.math.as_number(value)), place, align=ALIGNED)
            return
        seen[step] = value = self._compute(step, at, seen)
        if step in self.kept:
            place = self.builder.gep(self.kept[step], [self._count(step, at)])
            self.builder.store(self.math.as_number(value), place, align=ALIGNED)

    def _compute(self, step: Step, at: Place, seen: dict[Step, Any]) -> Any:
        op, v = step.op, self.math
        if op == "input":
            return self.builder.load(self._find_rows(0, step.detail), align=number_size(v.dtype))
        args = [self._look_up(arg, at, seen) for arg in step.args]
        if op == "Switch":
            return v.select(v.as_mask(args[0]), *map(v.as_number, args[1:]))
        if op == "Mul" and v.mask in (args[0].type, args[1].type):
            mask, number = sorted(args, key=lambda arg: arg.type != v.mask)
            return v.select(mask, v.as_number(number), v.constant(0))
        args = [v.as_number(arg) for arg in args]
        # Once a row the processor's own division and root cost little, and are right to the last digit.
        is_repeated = bool(step.axes)
        if op in COMPARISONS:
            return v.compare(SIGNS[op], *args)
        if op == "Rcp" and is_repeated:
            root = step.args[0]
            return v.reciprocal_root(seen[root.args[0]]) if self._has_root(root, seen) else v.reciprocal(*args)
        if op == "Sqrt" and is_repeated and v.has_estimates:
            return v.root_from_reciprocal(args[0], v.reciprocal_root(args[0]))
        if op in ("Sin", "Cos"):
            return v.sin_cos(*args)[op == "Cos"]
        if op == "Pow":
            return v.exp(v.mul(args[1], v.log(args[0])))
        simple = {
            "Abs": v.abs, "Add": v.add, "ArcTan": v.arctan, "Exp": v.exp, "Log": v.log, "Maximum": v.maximum,
            "Minimum": v.minimum, "Mul": v.mul, "Neg": v.neg, "Sqrt": v.sqrt, "Sub": v.sub,
            "Rcp": lambda x: v.div(v.constant(1), x),
        }  # fmt: skip
        if op not in simple:
            raise NotSupportedError(f"{op} has no machine code.")
        return simple[op](*args)

    def _has_root(self, step: Step, seen: Mapping[Step, Any]) -> bool:
        return self.math.has_estimates and step.op == "Sqrt" and step.args[0] in seen

    def _look_up(self, step: Step, at: Place, seen: dict[Step, Any]) -> Any:
        """Return the vector of a step inside the loops that stand at some nodes."""
        if step in seen:
            return seen[step]
        if step in self.rows:
            return self.rows[step]
        if step.op == "constant":
            if not step.axes:
                return self.math.constant(float(step.detail))
            seen[step] = self.math.spread(self._load_constant(step, at))
            return seen[step]
        value = self.builder.load(self.builder.gep(self.kept[step], [self._count(step, at)]), align=ALIGNED)
        (seen if step.axes else self.rows)[step] = value
        return value

    def _load_constant(self, step: Step, at: Place) -> Any:
        own = [axis.root for axis in step.axes]
        array = step.detail.transpose([own.index(axis) for axis in self.order if axis in own])
        key = array.tobytes()
        if key not in self.tables:
            kind = ir.ArrayType(self.math.number, array.size)
            table: Any = ir.GlobalVariable(self.module, kind, f"constants_{len(self.tables)}")
            table.global_constant, table.linkage = True, "internal"
            table.initializer = ir.Constant(kind, [float(x) for x in array.astype(self.math.dtype).ravel()])
            self.tables[key] = table
        return self.builder.load(self.builder.gep(self.tables[key], [INT64(0), self._count(step, at)]))

    def _count(self, step: Step, at: Place) -> Any:
        """Return which of the numbers of a step belongs to the nodes, in the order of the loops."""
        number = INT64(0)
        for axis in self.order:
            if axis in step.roots:
                number = self.builder.add(self.builder.mul(number, INT64(axis.size)), at[axis])
        return number

    def _find_rows(self, argument: int, number: int) -> Any:
        """Return a pointer to the vector of rows of an input or an output."""
        first = self.builder.load(self.builder.gep(self.function.args[argument], [INT64(number)]))
        place = self.builder.gep(first, [self.function.args[2]])
        return self.builder.bitcast(place, self.math.type.as_pointer())

    @contextmanager
    def _loop(self, size: int) -> Iterator[Any]:
        """Repeat what is written inside, for numbers from 0."""
        before, head = self.builder.block, self.function.append_basic_block("loop")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        i = self.builder.phi(INT64)
        i.add_incoming(INT64(0), before)
        yield i
        following = self.builder.add(i, INT64(1))
        i.add_incoming(following, self.builder.block)
        end = self.function.append_basic_block("end")
        self.builder.cbranch(self.builder.icmp_unsigned("<", following, INT64(size)), head, end)
        self.builder.position_at_end(end)


def number_size(dtype: str) -> int:
    """Return how many bytes a number takes."""
    return np.dtype(dtype).itemsize


def write_rows(module: ir.Module, group: VectorFunction, n_inputs: int, n_outputs: int) -> ir.Function:
    """Add ``rows(inputs, outputs, start, stop)``, which computes these rows vector by vector.

    The last rows, where they do not fill a vector, are copied beside copies of the last of them.
    """
    number, width, n_arrays = group.math.number, group.math.width, n_inputs + n_outputs
    table = number.as_pointer().as_pointer()
    function = ir.Function(module, ir.FunctionType(VOID, [table, table, INT64, INT64]), "rows")
    inputs, outputs, start, n = function.args
    blocks = {name: function.append_basic_block(name) for name in ("entry", "head", "full", "check", "rest", "end")}
    b = ir.IRBuilder(blocks["entry"])
    pointers = b.alloca(number.as_pointer(), size=INT64(n_arrays))
    space: Any = b.alloca(number, size=INT64(n_arrays * width))
    space.align = ALIGNED
    b.branch(blocks["head"])
    b.position_at_end(blocks["head"])
    i = b.phi(INT64)
    i.add_incoming(start, blocks["entry"])
    following = b.add(i, INT64(width))
    b.cbranch(b.icmp_signed("<=", following, n), blocks["full"], blocks["check"])
    b.position_at_end(blocks["full"])
    b.call(group.function, [inputs, outputs, i])
    i.add_incoming(following, blocks["full"])
    b.branch(blocks["head"])
    b.position_at_end(blocks["check"])
    b.cbranch(b.icmp_signed("<", i, n), blocks["rest"], blocks["end"])

    b.position_at_end(blocks["rest"])
    last = b.sub(n, INT64(1))
    for k in range(n_arrays):
        b.store(b.gep(space, [INT64(k * width)]), b.gep(pointers, [INT64(k)]))
    for k in range(n_inputs):
        source = b.load(b.gep(inputs, [INT64(k)]))
        for j in range(width):
            at = b.add(i, INT64(j))
            at = b.select(b.icmp_signed("<", at, last), at, last)
            b.store(b.load(b.gep(source, [at])), b.gep(space, [INT64(k * width + j)]))
    b.call(group.function, [pointers, b.gep(pointers, [INT64(n_inputs)]), INT64(0)])
    for j in range(width):
        at = b.add(i, INT64(j))
        with b.if_then(b.icmp_signed("<", at, n)):
            for k in range(n_outputs):
                found = b.load(b.gep(space, [INT64((n_inputs + k) * width + j)]))
                b.store(found, b.gep(b.load(b.gep(outputs, [INT64(k)])), [at]))
    b.branch(blocks["end"])
    b.position_at_end(blocks["end"])
    b.ret_void()
    return function
