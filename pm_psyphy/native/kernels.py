"""A graph of rows in; its machine code comes out, once it has been compared with NumPy, or why there is none.

LLVM comes with numba, and that with PyTensor. Where it is missing, rows are computed by XLA and NumPy, as wherever
something else is not as expected.
"""

import ctypes
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable

from pm_psyphy.native.row_graph import NotSupportedError, evaluate_by_numpy

# How far numbers may be from NumPy's: of their own size, and of the largest of an output.
NEAR = {"float64": (1e-8, 1e-11), "float32": (1e-2, 1e-3)}
SWITCH = "PM_PSYPHY_NATIVE"
"""Set to 0, this environment variable leaves all to XLA and NumPy."""


# Where machine code is kept, if anywhere.
_FOLDER: list[Path] = []
# What has been compiled, by the keys of its code.
_KERNELS: dict[str, "Kernel"] = {}


@dataclass(frozen=True, eq=False)
class Kernel:
    """Machine code of the first outputs of a function of rows."""

    n_inputs: int
    n_outputs: int
    dtype: str
    rows_address: int
    handler_address: int
    engine: Any
    """Owns the code."""
    key: str
    """Identifies the code and the processor."""

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Compute rows of NumPy arrays, (N,) each."""
        arrays = [np.ascontiguousarray(array, self.dtype) for array in inputs]
        outputs = [np.empty_like(arrays[0]) for _ in range(self.n_outputs)]
        tables = [(ctypes.c_void_p * len(part))(*(a.ctypes.data for a in part)) for part in (arrays, outputs)]
        self._rows(*tables, 0, len(arrays[0]))
        return outputs

    def call_by_jax(self, *rows: Any) -> list[Any]:
        """Compute rows of JAX's arrays, (N,) each, on the CPU; also where it traces."""
        import jax

        if any(array.dtype != self.dtype for array in rows):
            raise TypeError(f"The rows are {[str(array.dtype) for array in rows]}. Pass {self.dtype}.")
        shape = jax.ShapeDtypeStruct(rows[0].shape, self.dtype)
        return list(jax.ffi.ffi_call(self._target, [shape] * self.n_outputs)(*rows))

    def works_in_jax(self, rows: Sequence[np.ndarray]) -> bool:
        """Whether JAX finds for some rows what NumPy does."""
        import jax

        device = jax.local_devices(backend="cpu")[0]
        with jax.ensure_compile_time_eval(), jax.enable_x64(self.dtype == "float64"), jax.default_device(device):
            found = jax.jit(self.call_by_jax)(*rows)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, self(*rows), strict=True))

    @cached_property
    def _target(self) -> str:
        """The name by which XLA knows it."""
        import jax

        name = f"pm_psyphy_rows_{self.key}"
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(self.handler_address), platform="cpu")
        return name

    @cached_property
    def _rows(self) -> Any:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        return kind(self.rows_address)


@dataclass(frozen=True)
class Processor:
    """For which machine code is made."""

    name: str
    features: str
    """As LLVM writes them."""

    @property
    def present(self) -> frozenset[str]:
        """The features that it has."""
        return frozenset(part[1:] for part in self.features.split(",") if part.startswith("+"))


@cache
def find_processor() -> Processor:
    """Return what this process runs on."""
    import llvmlite.binding as llvm

    return Processor(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


def compile_kernel(
    inputs: Sequence[Variable],
    outputs: Sequence[Variable],
    dtype: str,
    processor: Processor | None = None,
) -> Kernel:
    """Compile a graph of rows.

    Parameters
    ----------
    inputs, outputs : sequence of vector
    dtype : {"float64", "float32"}
    processor : Processor, optional
        Default: the one this runs on.

    Returns
    -------
    Kernel

    Raises
    ------
    NotSupportedError
        If something of the graph, the processor or JAX is not known.
    """
    import llvmlite.binding as llvm
    from llvmlite import ir

    from pm_psyphy.native.machine_code import VectorFunction, write_rows
    from pm_psyphy.native.row_graph import read_graph, schedule
    from pm_psyphy.native.shared_rows import SharedRows
    from pm_psyphy.native.xla_interface import write_handler

    processor = processor or find_processor()
    steps = read_graph(inputs, outputs)
    module = ir.Module("rows")
    group = VectorFunction(module, schedule(steps), steps, dtype, processor.present)
    rows = write_rows(module, group, len(inputs), len(outputs))
    shared = SharedRows(module, rows, len(inputs), len(outputs))
    write_handler(module, shared.share, len(inputs), len(outputs))
    text = str(module)
    key = hashlib.sha256(f"{text}{processor}{llvm.llvm_version_info}".encode()).hexdigest()[:24]
    if key in _KERNELS:
        return _KERNELS[key]
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()

    def make_machine() -> Any:
        return target.create_target_machine(cpu=processor.name, features=processor.features, opt=3, jit=True)

    path = _FOLDER[0] / f"{key}.o" if _FOLDER else None
    code = path.read_bytes() if path and path.exists() else _emit(llvm, text, make_machine())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), make_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    if path and not path.exists():
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_bytes(code)
        whole.replace(path)
    rows_at, handler_at = (engine.get_function_address(name) for name in ("rows", "handler"))
    kernel = Kernel(len(inputs), len(outputs), dtype, rows_at, handler_at, engine, key)
    return _KERNELS.setdefault(key, kernel)


def _emit(llvm: Any, text: str, machine: Any) -> bytes:
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    # All that LLVM's optimisation does here beyond this takes minutes, and gains nothing.
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return machine.emit_object(module)


def keep_kernels(folder: Path) -> None:
    """Keep machine code in a folder from now on, for other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    _FOLDER[:] = [folder]


def is_switched_off() -> bool:
    """Whether the user does without machine code."""
    return os.environ.get(SWITCH) == "0"


def try_kernel(inputs: Sequence[Variable], outputs: Sequence[Variable], rows: Sequence[np.ndarray]) -> Kernel:
    """Compile a graph of rows, and compare what it gives with NumPy, and by JAX.

    Parameters
    ----------
    inputs, outputs : sequence of vector
    rows : sequence of ndarray, (N,)
        On which to try it, one array for each input.

    Returns
    -------
    Kernel

    Raises
    ------
    NotSupportedError
        If there is none, or it does not agree.
    """
    dtype = str(rows[0].dtype)
    try:
        kernel = compile_kernel(inputs, outputs, dtype)
        works = kernel.works_in_jax(rows)
    except NotSupportedError:
        raise
    except Exception as error:  # whatever another version of llvmlite or JAX says
        raise NotSupportedError(f"{type(error).__name__}: {error}") from error
    if not works:
        raise NotSupportedError("JAX's CPU does not call it as expected.")
    relative, absolute = NEAR[dtype]
    with np.errstate(all="ignore"):
        for mine, right in zip(kernel(*rows), evaluate_by_numpy(inputs, outputs, rows), strict=True):
            bound = relative * np.abs(right) + absolute * np.max(np.abs(right), initial=0)
            if not np.all((np.abs(mine - right) <= bound) | (np.isnan(mine) & np.isnan(right))):
                raise NotSupportedError(f"its numbers are not those of NumPy: {mine[:3]} and {right[:3]}.")
    return kernel
