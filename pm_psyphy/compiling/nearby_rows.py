"""A program in; the same one, of the cheap functions that are near its row functions, comes out."""

from dataclasses import replace

import pytensor
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors

from pm_psyphy.common.row_function import RowFunction
from pm_psyphy.compiling.program import Program, compile_route


def approximate_rows(program: Program) -> Program:
    """Return a program of the cheap functions near its row functions, for samplers; itself, if it has none.

    Parameters
    ----------
    program : Program

    Returns
    -------
    Program
        Of the same parameters and data.
    """

    def make() -> Program:
        if program.is_derived:
            return program
        nodes = [v.owner for v in ancestors(program.graph.outputs) if v.owner is not None]
        near = {
            old: new
            for node in dict.fromkeys(nodes)
            if isinstance(node.op, RowFunction) and node.op.find_nearby is not None
            for old, new in zip(node.outputs, node.op.find_nearby().make_node(*node.inputs).outputs, strict=True)
        }
        if not near:
            return program
        outputs = clone_replace(program.graph.outputs, replace=near, rebuild_strict=False)
        graph, on_host = replace(program.graph, outputs=outputs), set(program.on_host)
        with pytensor.config.change_flags(traceback__limit=0):
            compiled = compile_route(program.route, graph, program.freeze, on_host, program.check_bounds)
        functions = {"value": compiled.value, "value_and_grad": compiled.value_and_grad}
        return replace(program, graph=graph, compiled=compiled.compiled, **functions)

    return program.remember("approximate rows", make)
