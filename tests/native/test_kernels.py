"""Machine code of row functions against NumPy and XLA, on this processor and as if it were older ones."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_psyphy as psy
from pm_psyphy.common.row_function import RowFunction, make_row_function
from pm_psyphy.compiling.row_loops import run_rows
from pm_psyphy.native import kernels, xla_interface
from pm_psyphy.native.kernels import Processor, compile_kernel, find_processor, try_kernel
from pm_psyphy.native.row_graph import NotSupportedError, evaluate_by_numpy
from pm_psyphy.psychophysics.covariances import draw_examples
from pm_psyphy.psychophysics.oddity_line import line_op
from pm_psyphy.psychophysics.oddity_plane import plane_op
from pm_psyphy.psychophysics.oddity_space import space_op

# What older processors lack.
OLDER = {"this": (), "AVX2": ("avx512", "amx"), "SSE2": ("avx", "amx", "fma", "f16c", "sse3", "ssse3", "sse4", "gfni")}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def make_op(d: int, dtype: str = "float64") -> RowFunction:
    return {1: lambda: line_op(16, dtype), 2: lambda: plane_op(8, 7, dtype), 3: lambda: space_op(3, 8, 14, dtype)}[d]()


def list_outputs(op: RowFunction) -> list:
    return [op.value, *op.derivatives]


def make_processor(kind: str) -> Processor:
    lacks = (*OLDER[kind], "vaes", "vpcl") if OLDER[kind] else ()
    here = find_processor()
    features = [f"-{f[1:]}" if f[1:].startswith(lacks) and lacks else f for f in here.features.split(",")]
    return Processor({"this": here.name, "AVX2": "haswell", "SSE2": "x86-64"}[kind], ",".join(features))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", OLDER)
def test_value_and_derivatives_are_those_of_numpy(d: int, kind: str):
    if kind != "this" and not find_processor().present >= {"avx2", "fma"}:
        pytest.skip("an x86 processor with AVX2 is needed")
    op, rows = make_op(d), draw_examples(d, "float64")
    kernel = compile_kernel(op.arguments, list_outputs(op), "float64", make_processor(kind))
    (value, *derivatives), right = kernel(*rows), evaluate_by_numpy(op.arguments, list_outputs(op), rows)
    np.testing.assert_allclose(value, right[0], rtol=1e-12)
    for mine, theirs in zip(derivatives, right[1:], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10 * np.max(np.abs(theirs)))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_single_precision_agrees_to_single_precision(d: int):
    op, rows = make_op(d, "float32"), draw_examples(d, "float32")
    right = evaluate_by_numpy(*(lambda o: (o.arguments, list_outputs(o)))(make_op(d)), [r.astype(float) for r in rows])
    found = compile_kernel(op.arguments, list_outputs(op), "float32")(*rows)
    by_numpy = evaluate_by_numpy(op.arguments, list_outputs(op), rows)
    for mine, theirs, exact in zip(found, by_numpy, right, strict=True):
        # As near to the exact numbers as NumPy's single precision, give or take a factor of 2.
        assert np.max(np.abs(mine - exact)) <= 2 * np.max(np.abs(theirs - exact)) + 1e-6 * np.max(np.abs(exact))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 61])
def test_any_number_of_rows(n: int):
    op, rows = make_op(2), [v[:n] for v in draw_examples(2, "float64")]
    kernel = op.find_kernel(9)
    assert kernel is not None
    everything = kernel(*draw_examples(2, "float64"))
    for part, whole in zip(kernel(*rows), everything, strict=True):
        np.testing.assert_array_equal(part, whole[:n])
    for part, whole in zip(jax.jit(kernel.call_by_jax)(*rows), everything, strict=True):
        np.testing.assert_array_equal(part, whole[:n])


@pytest.mark.parametrize(
    ("function", "make", "x"),
    [
        ("exp", pt.exp, [-800, -745, -708, -1e-9, 0, 1e-300, 1, 88, 709.5, 710, np.inf, -np.inf, np.nan]),
        ("log", pt.log, [5e-324, 1e-310, 1e-300, 0.5, 0.7, 0.71, 1, 1 + 1e-15, 2, 1e300, 0, -1, np.inf, np.nan]),
        ("sin", pt.sin, [-1e5, -3, -1e-8, 0, 0.7, 0.8, np.pi / 2, np.pi, 100, 1e5, np.nan]),
        ("cos", pt.cos, [-1e5, -3, -1e-8, 0, 0.7, 0.8, np.pi / 2, np.pi, 100, 1e5, np.nan]),
        ("arctan", pt.arctan, [-1e300, -2.5, -1, -0.6, 0, 1e-9, 0.66, 0.67, 2.41, 2.42, 1e9, np.inf, np.nan]),
        ("sqrt", pt.sqrt, [0, 1e-300, 5e-324, 0.3, 2, 1e300, np.inf, -1, np.nan]),
        ("reciprocal", lambda x: 1 / x, [-3, 0, 1e-300, 7, 1e300, np.inf, np.nan]),
        ("reciprocal root", lambda x: 1 / pt.sqrt(x), [0, 1e-300, 7, 1e300, np.inf, -1, np.nan]),
        ("power", lambda x: x**0.125, [0, 1e-10, 0.5, 3, 1e9]),
        ("maximum", lambda x: pt.maximum(x, 1), [-1, 0, 2, np.inf, np.nan]),
        ("minimum", lambda x: pt.minimum(1, x), [-1, 0, 2, np.inf, np.nan]),
        ("switch", lambda x: pt.switch(x > 0, x, -3 * x), [-1, 0, 2, np.inf, np.nan]),
        ("mask", lambda x: x * (x >= 1), [-1, 0, 1, 2]),
        ("absolute", lambda x: abs(x), [-1, 0, 2, -np.inf]),
    ],
)
@pytest.mark.parametrize("nodes", [1, 3])
def test_elementary_functions_are_right_to_the_last_digits_and_at_the_edges(function, make, x, nodes: int):
    """Once for each row, and in a loop over nodes, where division and roots take other roads."""
    rows, variable = np.array(x, float), pt.vector("x")
    scale = 1.0 + np.arange(nodes)
    output = make(variable) if nodes == 1 else pt.sum(make(variable[None, :] * scale[:, None]), axis=0)
    (found,) = compile_kernel([variable], [output], "float64")(rows)
    with np.errstate(all="ignore"):
        (right,) = evaluate_by_numpy([variable], [output], [rows])
    # Numbers below the smallest normal one may be rounded to zero.
    np.testing.assert_allclose(found, right, rtol=4e-15, atol=1e-15 if function in ("sin", "cos") else 1e-307)


def both_ways(function, *args, monkeypatch):
    """Return what a function gives with machine code, and without."""
    with_code = jax.jit(function)(*args)
    monkeypatch.setenv(kernels.SWITCH, "0")
    jax.clear_caches()
    return with_code, jax.jit(function)(*args)


@pytest.mark.parametrize("d", [1, 2])
def test_jax_maps_loops_and_differentiates_twice_as_with_xla(d: int, monkeypatch: pytest.MonkeyPatch):
    rows = [jnp.asarray(v[:24]) for v in draw_examples(d, "float64")]

    def compute(*rows):
        run = run_rows(make_op(d), only_value=True)

        def total(scale):
            return jnp.sum(run(rows[0] * scale, *rows[1:])[0])

        def step(carry):
            return carry[0] + 1, carry[1] + 0.01 * jax.grad(total)(carry[1])

        along = jax.lax.while_loop(lambda carry: carry[0] < 3, step, (0, 1.0))[1]
        mapped = jax.vmap(lambda s: run(rows[0] * s, *rows[1:])[0])(jnp.array([0.5, 1.0, 2.0]))
        return along, mapped, jax.hessian(total)(1.0), jax.grad(total)(1.0)

    mine, xla = both_ways(compute, *rows, monkeypatch=monkeypatch)
    for a, b in zip(mine, xla, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(mine[1], xla[1], rtol=1e-12)


def test_threads_compute_at_the_same_time():
    op, rows = make_op(2), [np.tile(v, 40) for v in draw_examples(2, "float64")]
    kernel = op.find_kernel(9)
    assert kernel is not None
    right, by_jax = kernel(*rows), jax.jit(kernel.call_by_jax)

    def run(i: int):
        with jax.enable_x64(True):
            return by_jax(*rows) if i % 2 else kernel(*rows)

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(run, range(32))]
    for outputs in found:
        np.testing.assert_array_equal(outputs, right)


def make_function(compute, examples=lambda: [np.linspace(0.1, 2, 9)]) -> RowFunction:
    def function(x):
        return compute(x), lambda: [pt.grad(pt.sum(compute(x)), x)]

    return make_row_function(function, 1, "float64", lambda x: [x], examples, (make_function,))


def test_what_has_no_machine_code_takes_the_other_road_and_says_why():
    op = make_function(pt.gammaln)
    assert op.find_kernel(1) is None
    assert op.describe_road() == "XLA: GammaLn has no machine code."
    x = np.linspace(0.2, 3, 5)
    (value,) = run_rows(op, only_value=True)(jnp.asarray(x))[:1]
    np.testing.assert_allclose(value, pt.gammaln(x).eval(), rtol=1e-12)
    with pytest.raises(NotSupportedError, match="no reduction over nodes"):
        compile_kernel([x := pt.vector("x")], [x - pt.sum(x)], "float64")
    with pytest.raises(NotSupportedError, match="stands beside that of the rows"):
        compile_kernel([x := pt.vector("x")], [x * np.arange(3.0)], "float64")


def test_a_kernel_whose_numbers_are_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch):
    op = make_function(pt.exp)
    monkeypatch.setattr(kernels, "evaluate_by_numpy", lambda inputs, outputs, rows: [np.exp(rows[0]) * (1 + 1e-7)])
    assert op.find_kernel(1) is None
    assert "its numbers are not those of NumPy" in str(op.kernels[1])


def test_a_frame_of_another_size_is_not_read(monkeypatch: pytest.MonkeyPatch):
    interface = xla_interface.read_interface()
    larger = {name: size + 8 for name, size in interface.sizes.items()}
    other = xla_interface.Interface(interface.offsets, larger, interface.version)
    monkeypatch.setattr(xla_interface, "read_interface", lambda: other)
    x = pt.vector("x")
    with pytest.raises(NotSupportedError, match="JAX's CPU does not call it as expected"):
        try_kernel([x], [pt.exp(x)], [np.linspace(0.5, 1, 9)])


def test_the_switch_leaves_all_to_xla(monkeypatch: pytest.MonkeyPatch):
    op, rows = make_op(2), draw_examples(2, "float64")
    lowered = jax.jit(run_rows(op, only_value=True)).lower(*rows).as_text()
    assert "pm_psyphy_rows" in lowered
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert op.find_kernel(1) is None
    assert op.describe_road() == "XLA: PM_PSYPHY_NATIVE is 0"
    assert "pm_psyphy_rows" not in jax.jit(run_rows(op, only_value=True)).lower(*rows).as_text()


SCRIPT = """
import sys
import numpy as np
import pm_psyphy as psy
from pm_psyphy.native import kernels
from pm_psyphy.psychophysics.covariances import draw_examples
from pm_psyphy.psychophysics.oddity_line import line_op

psy.cache_compilation(sys.argv[1])
if sys.argv[2:]:
    kernels._emit = None  # must not be wanted
kernel = line_op(16, "float64").find_kernel(4)
print(kernel(*draw_examples(1, "float64"))[0].sum())
"""


def test_machine_code_is_kept_for_other_processes(tmp_path):
    def run(*args: str) -> str:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout

    assert run() == run("again")
    assert len(list((tmp_path / "machine_code").glob("*.o"))) == 1


def test_an_objective_says_which_road_its_likelihood_takes(monkeypatch: pytest.MonkeyPatch):
    with pm.Model() as model:
        field = psy.WishartProcess("W", input_dim=2, basis_degree=1)
        psy.Oddity("correct", field, np.zeros((3, 2)), np.full((3, 2), 0.2), observed=[1, 0, 1])
    objective = psy.compile_objective(model)
    assert objective.row_code == {"plane_op": "machine code"}
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert objective.row_code == {"plane_op": "XLA: PM_PSYPHY_NATIVE is 0"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_beside_a_gpu_each_platform_gets_its_own_road(dtype: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jax.extend.backend.backends", lambda: {"cpu": None, "cuda": None})
    op, rows = make_op(2, dtype), draw_examples(2, dtype)
    run = jax.jit(run_rows(op, only_value=True))
    for platform in ("cuda", "tpu"):
        there = jax.export.export(run, platforms=[platform])(*rows)
        assert "pm_psyphy_rows" not in there.mlir_module()
    assert "pm_psyphy_rows" in run.lower(*rows).as_text()
    kernel = op.find_kernel(1)
    assert kernel is not None
    np.testing.assert_array_equal(run(*rows)[0], kernel(*rows)[0])
