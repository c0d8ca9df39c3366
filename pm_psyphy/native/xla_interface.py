"""The header of XLA's foreign functions in; a handler that reads XLA's call frames, in LLVM's language, comes out.

Where the fields of XLA's structures lie is read from the header that comes with the installed JAX. The handler checks
the sizes that XLA writes into them before it reads a field.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir

from pm_psyphy.native.row_graph import NotSupportedError
from pm_psyphy.native.vector_math import INT32, INT64

BYTE = ir.IntType(8)
POINTER = BYTE.as_pointer()
# Bytes of what is no structure or pointer.
SIZES = {"size_t": 8, "int64_t": 8, "uint64_t": 8, "int32_t": 4, "uint32_t": 4, "int": 4}
PREFIX = "XLA_FFI_"
USED = (
    "Api", "Buffer", "CallFrame", "Metadata", "Metadata_Extension", "ThreadPool_NumThreads_Args",
    "ThreadPool_Schedule_Args",
)  # fmt: skip
# The kind of the extension by which XLA asks for a version.
METADATA = 1


@dataclass(frozen=True)
class Interface:
    """Where fields lie, by the names of structures without prefix, and the version of all that."""

    offsets: dict[str, dict[str, int]]
    sizes: dict[str, int]
    """Up to the last field that the header's version counts."""
    version: tuple[int, int]


@cache
def read_interface() -> Interface:
    """Read the header.

    Raises
    ------
    NotSupportedError
        If there is none, or it is not written as it was when this was written.
    """
    import jax

    try:
        text = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    except OSError as error:
        raise NotSupportedError(f"JAX's headers are not there ({error}).") from error
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\);", r"void* \1;", text)
    enums = set(re.findall(r"typedef enum \{[^}]*\} (\w+);", text))
    bodies = dict(re.findall(r"struct (\w+) \{([^}]*)\}", text))
    last = dict(re.findall(r"STRUCT_TRAITS\((\w+),\s*(\w+)\)", text))
    offsets: dict[str, dict[str, int]] = {}
    sizes: dict[str, int] = {}

    def measure(kind: str) -> int:
        if kind.endswith("*"):
            return 8
        if kind in enums or kind == f"{PREFIX}Handler_Traits":
            return 4
        if kind in SIZES:
            return SIZES[kind]
        if kind not in bodies:
            raise NotSupportedError(f"JAX's header has a type {kind} that is not known.")
        return lay_out(kind)

    def lay_out(name: str) -> int:
        """Note where the fields of a structure lie; return its size."""
        place, own = 0, offsets.setdefault(name.removeprefix(PREFIX), {})
        for kind, field in re.findall(r"(?:const )?(?:struct )?(\w+[\s*]+?)(\w+);", bodies[name]):
            size = measure(re.sub(r"\s", "", kind))
            place = -(-place // min(size, 8)) * min(size, 8)
            own[field] = place
            place += size
            if field == last.get(name):
                sizes[name.removeprefix(PREFIX)] = place
        return -(-place // 8) * 8

    try:
        for name in USED:
            lay_out(PREFIX + name)
        major, minor = (int(re.findall(rf"#define {PREFIX}API_{part} (\d+)", text)[0]) for part in ("MAJOR", "MINOR"))
    except (KeyError, IndexError) as error:
        raise NotSupportedError(f"JAX's header does not have {error}.") from error
    return Interface(offsets, sizes, (major, minor))


def write_handler(module: ir.Module, share: ir.Function, n_inputs: int, n_outputs: int) -> ir.Function:
    """Add ``handler(frame)``, which XLA calls to compute rows by ``share``.

    If a structure has not the size it should have, nothing is computed. Whoever tries the kernel finds that out.
    """
    interface = read_interface()
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "handler")
    (frame,) = function.args
    blocks = {n: function.append_basic_block(n) for n in ("entry", "asked", "told", "called", "sound", "end")}
    b = ir.IRBuilder(blocks["entry"])
    table: Any = share.args[2].type

    def find(base: ir.Value, structure: str, *fields: str) -> ir.Value:
        """Return a pointer to a field, or to a field of that field."""
        place = 0
        for field in fields:
            place += interface.offsets[structure][field]
            structure = {"args": "Args", "rets": "Rets", "api_version": "Api_Version"}.get(field, structure)
            structure = "InternalExtension" if field == "extension_base" else structure
        return b.gep(base, [INT64(place)])

    def load(base: ir.Value, kind: ir.Type, structure: str, *fields: str) -> ir.Value:
        return b.load(b.bitcast(find(base, structure, *fields), kind.as_pointer()))

    def has_size(base: ir.Value, structure: str, *fields: str) -> ir.Value:
        size = load(base, INT64, *(structure, *fields, "struct_size"))
        name = {"args": "Args", "rets": "Rets"}.get(fields[-1], structure) if fields else structure
        return b.icmp_unsigned(">=", size, INT64(interface.sizes[name]))

    # XLA asks with an extension what version the handler is of.
    extension = load(frame, POINTER, "CallFrame", "extension_start")
    b.cbranch(b.icmp_unsigned("!=", extension, ir.Constant(POINTER, None)), blocks["asked"], blocks["called"])
    b.position_at_end(blocks["asked"])
    kind = load(extension, INT32, "Metadata_Extension", "extension_base", "type")
    b.cbranch(b.icmp_unsigned("==", kind, INT32(METADATA)), blocks["told"], blocks["called"])
    b.position_at_end(blocks["told"])
    metadata = load(extension, POINTER, "Metadata_Extension", "metadata")
    for field, number in zip(("major_version", "minor_version"), interface.version, strict=True):
        place = find(metadata, "Metadata", "api_version", field)
        b.store(INT32(number), b.bitcast(place, INT32.as_pointer()))
    b.store(INT32(0), b.bitcast(find(metadata, "Metadata", "traits"), INT32.as_pointer()))
    b.ret(ir.Constant(POINTER, None))

    b.position_at_end(blocks["called"])
    pointers = b.alloca(table.pointee, size=INT64(n_inputs + n_outputs))
    sound = has_size(frame, "CallFrame")
    for field in ("args", "rets"):
        sound = b.and_(sound, has_size(frame, "CallFrame", field))
    api, context = (load(frame, POINTER, "CallFrame", field) for field in ("api", "ctx"))
    sound = b.and_(sound, has_size(api, "Api"))
    b.cbranch(sound, blocks["sound"], blocks["end"])
    b.position_at_end(blocks["sound"])
    buffers = [
        b.load(b.gep(load(frame, POINTER.as_pointer(), "CallFrame", field, field), [INT64(k)]))
        for field, count in (("args", n_inputs), ("rets", n_outputs))
        for k in range(count)
    ]
    for k, buffer in enumerate(buffers):
        b.store(load(buffer, table.pointee, "Buffer", "data"), b.gep(pointers, [INT64(k)]))
    n = b.load(load(buffers[0], INT64.as_pointer(), "Buffer", "dims"))
    b.call(share, [api, context, pointers, n])
    b.branch(blocks["end"])
    b.position_at_end(blocks["end"])
    b.ret(ir.Constant(POINTER, None))
    return function
