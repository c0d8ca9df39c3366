"""A function of rows in LLVM's language in; one that XLA's own threads share comes out.

The rows are cut into chunks. The thread that XLA calls asks the others of XLA's pool to help, and takes chunk after
chunk like them, so that it ends also if none of them ever comes. It waits only for chunks that another one is at.
"""

from typing import Any

from llvmlite import ir

from pm_psyphy.native.vector_math import INT64
from pm_psyphy.native.xla_interface import BYTE, POINTER, read_interface

VOID = ir.VoidType()
# Rows of a chunk, which take some 50 us; with fewer than so many chunks no other thread is asked.
CHUNK, LEAST_CHUNKS = 256, 4
# What the threads share, in numbers of 8 bytes: the next row, rows that are done, threads that look, rows in all; then
# the pointers to the rows' numbers.
NEXT, DONE, USERS, ROWS, POINTERS = range(5)


class SharedRows:
    """Adds ``share(api, context, pointers, n)`` to a module: it computes n rows, with the help of XLA's threads."""

    def __init__(self, module: ir.Module, rows: ir.Function, n_inputs: int, n_outputs: int):
        self.rows, self.n_inputs, self.n_arrays = rows, n_inputs, n_inputs + n_outputs
        self.table = rows.args[0].type
        self.malloc = ir.Function(module, ir.FunctionType(POINTER, [INT64]), "malloc")
        self.free = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "free")
        self.take = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "take_chunks")
        self.leave = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "leave")
        self.help = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "help")
        kind = ir.FunctionType(VOID, [POINTER, POINTER, self.table, INT64])
        self.share = ir.Function(module, kind, "share")
        self._write_take()
        self._write_leave()
        b = ir.IRBuilder(self.help.append_basic_block())
        b.call(self.take, self.help.args)
        b.call(self.leave, self.help.args)
        b.ret_void()
        self._write_share()

    def _write_take(self) -> None:
        (state,) = self.take.args
        entry, head, work, end = (self.take.append_basic_block(n) for n in ("entry", "head", "work", "end"))
        b = ir.IRBuilder(entry)
        n = b.load(_find(b, state, ROWS))
        inputs = b.bitcast(_find(b, state, POINTERS), self.table)
        outputs = b.gep(inputs, [INT64(self.n_inputs)])
        b.branch(head)
        b.position_at_end(head)
        start = b.atomic_rmw("add", _find(b, state, NEXT), INT64(CHUNK), "seq_cst")
        b.cbranch(b.icmp_signed("<", start, n), work, end)
        b.position_at_end(work)
        stop = b.add(start, INT64(CHUNK))
        stop = b.select(b.icmp_signed("<", stop, n), stop, n)
        b.call(self.rows, [inputs, outputs, start, stop])
        b.atomic_rmw("add", _find(b, state, DONE), b.sub(stop, start), "seq_cst")
        b.branch(head)
        b.position_at_end(end)
        b.ret_void()

    def _write_leave(self) -> None:
        """Whoever leaves last gives the memory back."""
        (state,) = self.leave.args
        b = ir.IRBuilder(self.leave.append_basic_block())
        users = b.atomic_rmw("sub", _find(b, state, USERS), INT64(1), "seq_cst")
        with b.if_then(b.icmp_signed("==", users, INT64(1))):
            b.call(self.free, [state])
        b.ret_void()

    def _write_share(self) -> None:
        api, context, pointers, n = self.share.args
        names = "entry", "alone", "asked", "ask", "work", "wait", "end"
        entry, alone, asked, ask, work, wait, end = (self.share.append_basic_block(name) for name in names)
        b = ir.IRBuilder(entry)
        arguments = b.alloca(BYTE, size=INT64(read_interface().sizes["ThreadPool_Schedule_Args"]))
        n_threads = b.alloca(INT64)
        b.store(INT64(1), n_threads)
        b.cbranch(b.icmp_signed("<", n, INT64(LEAST_CHUNKS * CHUNK)), alone, asked)
        b.position_at_end(alone)
        b.call(self.rows, [pointers, b.gep(pointers, [INT64(self.n_inputs)]), INT64(0), n])
        b.ret_void()

        b.position_at_end(asked)
        _call(b, api, arguments, "ThreadPool_NumThreads", ctx=context, num_threads=n_threads)
        n_helpers = b.sub(b.load(n_threads), INT64(1))
        most = b.sub(b.udiv(n, INT64(CHUNK)), INT64(1))
        n_helpers = b.select(b.icmp_signed("<", n_helpers, most), n_helpers, most)
        state = b.call(self.malloc, [INT64(8 * (POINTERS + self.n_arrays))])
        for place, number in ((NEXT, INT64(0)), (DONE, INT64(0)), (USERS, b.add(n_helpers, INT64(1))), (ROWS, n)):
            b.store(number, _find(b, state, place))
        kept = b.bitcast(_find(b, state, POINTERS), self.table)
        for k in range(self.n_arrays):
            b.store(b.load(b.gep(pointers, [INT64(k)])), b.gep(kept, [INT64(k)]))
        before = b.block
        b.cbranch(b.icmp_signed(">", n_helpers, INT64(0)), ask, work)
        b.position_at_end(ask)
        i = b.phi(INT64)
        i.add_incoming(INT64(0), before)
        task: Any = b.bitcast(self.help, POINTER)
        error = _call(b, api, arguments, "ThreadPool_Schedule", ctx=context, task=task, data=state)
        with b.if_then(b.icmp_unsigned("!=", error, ir.Constant(POINTER, None))):
            # It will not come.
            b.call(self.leave, [state])
        following = b.add(i, INT64(1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, n_helpers), ask, work)

        b.position_at_end(work)
        b.call(self.take, [state])
        b.branch(wait)
        b.position_at_end(wait)
        done = b.load_atomic(_find(b, state, DONE), "seq_cst", 8)
        b.cbranch(b.icmp_signed("<", done, n), wait, end)
        b.position_at_end(end)
        b.call(self.leave, [state])
        b.ret_void()


def _find(b: ir.IRBuilder, state: ir.Value, place: int) -> ir.Value:
    return b.gep(b.bitcast(state, INT64.as_pointer()), [INT64(place)])


def _call(b: ir.IRBuilder, api: ir.Value, arguments: ir.Value, name: str, **fields: ir.Value) -> ir.Value:
    """Call a function of XLA with its structure of arguments; return what it says of errors."""
    interface = read_interface()
    structure = f"{name}_Args"
    values = {"struct_size": INT64(interface.sizes[structure]), "extension_start": ir.Constant(POINTER, None), **fields}
    for field, value in values.items():
        place = b.gep(arguments, [INT64(interface.offsets[structure][field])])
        b.store(value, b.bitcast(place, value.type.as_pointer()))
    kind = ir.FunctionType(POINTER, [POINTER]).as_pointer()
    function = b.gep(api, [INT64(interface.offsets["Api"][f"XLA_FFI_{name}"])])
    return b.call(b.load(b.bitcast(function, kind.as_pointer())), [arguments])
