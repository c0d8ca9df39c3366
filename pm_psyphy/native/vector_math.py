"""Vectors of numbers in LLVM's language in; elementary functions of them, in the same language, come out."""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

BITS = {"float64": 64, "float32": 32}
WIDTH = {"float64": 8, "float32": 16}
"""Numbers in a vector: what a register of AVX-512 holds. Where registers are smaller, LLVM takes several."""
INT32, INT64 = ir.IntType(32), ir.IntType(64)

# log 2 and pi / 2 in parts, of which the first times a whole number of moderate size is exact.
LOG_2 = {"float64": (6.93147180369123816490e-01, 1.90821492927058770002e-10), "float32": (0.693359375, -2.12194440e-4)}
HALF_PI = {
    "float64": (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21),
    "float32": (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8),
}
# Terms of series that reach the last digit.
EXP_DEGREE = {"float64": 11, "float32": 6}
LOG_TERMS = {"float64": 11, "float32": 5}
SIN_TERMS = {"float64": 9, "float32": 5}
# Beyond these exp is 0 or infinite.
EXP_ENDS = {"float64": (-746.0, 710.0), "float32": (-104.0, 89.0)}
# Arc tangents of |x| < 0.66 (Moshier, Cephes): x + x^3 P(x^2) / Q(x^2), highest power first.
ATAN_P = (-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
          -1.228866684490136173410e2, -6.485021904942025371773e1)  # fmt: skip
ATAN_Q = (1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
          4.853903996359136964868e2, 1.945506571482613964425e2)  # fmt: skip
TAN_3_PI_8, PI_2_REST = 2.41421356237309504880, 6.123233995736765886130e-17


class VectorMath:
    """Instructions on vectors of numbers, at the place where a builder stands.

    Reciprocals and roots begin with the processor's estimate where it has one (AVX-512), and take Newton's steps to
    the last digits.
    """

    def __init__(self, builder: Any, module: ir.Module, dtype: str, features: frozenset[str]):
        self.builder, self.module, self.dtype, self.width = builder, module, dtype, WIDTH[dtype]
        self.number = ir.DoubleType() if dtype == "float64" else ir.FloatType()
        self.integer = INT64 if dtype == "float64" else INT32
        self.type = ir.VectorType(self.number, self.width)
        self.integers = ir.VectorType(self.integer, self.width)
        self.mask = ir.VectorType(ir.IntType(1), self.width)
        self.has_estimates = "avx512f" in features
        # Where the processor lacks the instruction, llvm.fma calls a slow function.
        self.fma_name = "fma" if "fma" in features or self.has_estimates else "fmuladd"

    def constant(self, value: Any) -> Any:
        """Return a vector of the same number."""
        return ir.Constant(self.type, [float(np.asarray(value, self.dtype))] * self.width)

    def whole(self, value: int) -> Any:
        """Return a vector of the same whole number."""
        return ir.Constant(self.integers, [int(value)] * self.width)

    def spread(self, number: Any) -> Any:
        """Return a vector of a number that is known when it runs."""
        undefined = ir.Constant(self.type, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def as_number(self, x: Any) -> Any:
        """Return 1 for true and 0 for false; numbers as they are."""
        return self.select(x, self.constant(1), self.constant(0)) if x.type == self.mask else x

    def as_mask(self, x: Any) -> Any:
        """Return whether numbers differ from 0; masks as they are."""
        return x if x.type == self.mask else self.builder.fcmp_unordered("!=", x, self.constant(0))

    # Sums and products may be contracted to fused ones.
    def add(self, x: Any, y: Any) -> Any:  # noqa: D102
        return self.builder.fadd(x, y, flags=("contract",))

    def sub(self, x: Any, y: Any) -> Any:  # noqa: D102
        return self.builder.fsub(x, y, flags=("contract",))

    def mul(self, x: Any, y: Any) -> Any:  # noqa: D102
        return self.builder.fmul(x, y, flags=("contract",))

    def neg(self, x: Any) -> Any:  # noqa: D102
        return self.builder.fneg(x)

    def div(self, x: Any, y: Any) -> Any:
        """Divide, correctly rounded."""
        return self.builder.fdiv(x, y)

    def compare(self, how: str, x: Any, y: Any) -> Any:
        """Return a mask; false where one is NaN."""
        return self.builder.fcmp_ordered(how, x, y)

    def select(self, mask: Any, x: Any, y: Any) -> Any:
        """Return x where the mask is true, else y."""
        return self.builder.select(mask, x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        """Return the larger; NaN where x or y is."""
        return self.select(self._or_nan(self.compare(">", x, y), x), x, y)

    def minimum(self, x: Any, y: Any) -> Any:
        """Return the smaller; NaN where x or y is."""
        return self.select(self._or_nan(self.compare("<", x, y), x), x, y)

    def _or_nan(self, mask: Any, x: Any) -> Any:
        return self.builder.or_(mask, self.builder.fcmp_unordered("!=", x, x))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x y + z, rounded once where the processor can."""
        return self._call(f"llvm.{self.fma_name}.{self._suffix}", self.type, x, y, z)

    def abs(self, x: Any) -> Any:  # noqa: D102
        return self._call(f"llvm.fabs.{self._suffix}", self.type, x)

    def sqrt(self, x: Any) -> Any:
        """Return the root, correctly rounded."""
        return self._call(f"llvm.sqrt.{self._suffix}", self.type, x)

    def round(self, x: Any) -> Any:
        """Return the nearest whole number of moderate x, which a number just large enough leaves no digits beyond."""
        large = self.constant(1.5 * 2.0**self._mantissa_bits)
        return self.builder.fsub(self.builder.fadd(x, large), large)

    def reciprocal(self, x: Any) -> Any:
        """Return 1 / x, to the last digit."""
        if not self.has_estimates:
            return self.div(self.constant(1), x)
        estimate = self._estimate("rcp14", x)
        r = estimate
        for _ in range(2 if self.dtype == "float64" else 1):
            r = self.fma(self.fma(self.neg(x), r, self.constant(1)), r, r)
        # Of 0, infinity and numbers without a reciprocal the estimate is right, and the steps are not.
        return self.select(self.compare("==", r, r), r, estimate)

    def reciprocal_root(self, x: Any) -> Any:
        """Return 1 / sqrt(x), to the last digit."""
        if not self.has_estimates:
            return self.div(self.constant(1), self.sqrt(x))
        estimate = self._estimate("rsqrt14", x)
        r = estimate
        for _ in range(2 if self.dtype == "float64" else 1):
            error = self.fma(self.mul(self.neg(x), r), r, self.constant(1))
            r = self.fma(self.mul(r, error), self.fma(error, self.constant(0.375), self.constant(0.5)), r)
        return self.select(self.compare("==", r, r), r, estimate)

    def root_from_reciprocal(self, x: Any, reciprocal_root: Any) -> Any:
        """Return sqrt(x) from 1 / sqrt(x), rounded well."""
        s = self.mul(x, reciprocal_root)
        error = self.fma(self.neg(s), s, x)
        s = self.fma(self.mul(error, self.constant(0.5)), reciprocal_root, s)
        # Of 0 and infinity it is x itself.
        end = self.select(self.compare(">=", x, self.constant(0)), x, self.constant(np.nan))
        return self.select(self.compare("==", s, s), s, end)

    def exp(self, x: Any) -> Any:
        """Return exp(x): 2^n exp(r) with |r| <= log(2) / 2."""
        low, high = EXP_ENDS[self.dtype]
        y = self.select(self.compare("<", x, self.constant(low)), self.constant(low), x)
        y = self.select(self.compare(">", y, self.constant(high)), self.constant(high), y)
        n = self.round(self.mul(y, self.constant(1 / math.log(2))))
        r = y
        for part in LOG_2[self.dtype]:
            r = self.fma(n, self.constant(-part), r)
        p = self._polynomial(fit_exp(EXP_DEGREE[self.dtype]), r)
        if self.has_estimates:
            return self._masked("mask.scalef", p, n)
        k = self.builder.fptosi(n, self.integers)
        half = self.builder.ashr(k, self.whole(1))
        for part in (half, self.builder.sub(k, half)):
            p = self.mul(p, self._power_of_two(part))
        return p

    def log(self, x: Any) -> Any:
        """Return log(x): k log(2) + log(m) with m in [sqrt(1/2), sqrt(2)), by the series of artanh."""
        b, infinity = self.builder, self.constant(np.inf)
        n_bits = self._mantissa_bits
        is_small, up = self.compare("<", x, self.constant(np.finfo(self.dtype).tiny)), n_bits + 2
        bits = b.bitcast(self.select(is_small, self.mul(x, self.constant(2.0**up)), x), self.integers)
        root = np.sqrt(0.5).astype(self.dtype).view(f"int{BITS[self.dtype]}").item()
        k = b.ashr(b.sub(bits, self.whole(root)), self.whole(n_bits))
        m = b.bitcast(b.sub(bits, b.shl(k, self.whole(n_bits))), self.type)
        exponent = self.add(b.sitofp(k, self.type), self.select(is_small, self.constant(-up), self.constant(0)))
        f = self.sub(m, self.constant(1))
        s = self.div(f, self.add(m, self.constant(1)))
        square = self.mul(s, s)
        p = self._polynomial([2 / (2 * j + 1) for j in reversed(range(1, LOG_TERMS[self.dtype]))], square)
        # log m = 2 s + s^3 p = f - s (f - s^2 p), for 2 s = f - s f.
        r = self.sub(f, self.mul(s, self.sub(f, self.mul(square, p))))
        high, low = LOG_2[self.dtype]
        r = self.fma(exponent, self.constant(high), self.fma(exponent, self.constant(low), r))
        r = self.select(self.compare("==", x, self.constant(0)), self.neg(infinity), r)
        r = self.select(b.fcmp_unordered("<", x, self.constant(0)), self.constant(np.nan), r)
        return self.select(self.compare("==", x, infinity), x, r)

    def sin_cos(self, x: Any) -> tuple[Any, Any]:
        """Return sine and cosine of moderate x, to about 1e6."""
        b = self.builder
        n = self.round(self.mul(x, self.constant(2 / np.pi)))
        r = x
        for part in HALF_PI[self.dtype]:
            r = self.fma(n, self.constant(-part), r)
        square, n_terms = self.mul(r, r), SIN_TERMS[self.dtype]
        of_sin = [(-1) ** j / math.factorial(2 * j + 1) for j in reversed(range(1, n_terms))]
        of_cos = [(-1) ** j / math.factorial(2 * j) for j in reversed(range(n_terms))]
        sin = self.fma(self.mul(r, square), self._polynomial(of_sin, square), r)
        cos = self._polynomial(of_cos, square)
        quarter = b.fptosi(n, self.integers)
        is_odd = self._has_bit(quarter, 1)
        found = self.select(is_odd, cos, sin), self.select(is_odd, sin, cos)
        signs = self._has_bit(quarter, 2), self._has_bit(b.add(quarter, self.whole(1)), 2)
        sin, cos = (self.select(sign, self.neg(v), v) for sign, v in zip(signs, found, strict=True))
        return sin, cos

    def arctan(self, x: Any) -> Any:
        """Return the arc tangent."""
        one, zero, a = self.constant(1), self.constant(0), self.abs(x)
        is_large, is_middle = self.compare(">", a, self.constant(TAN_3_PI_8)), self.compare(">", a, self.constant(0.66))

        def choose(large: Any, middle: Any, small: Any) -> Any:
            return self.select(is_large, large, self.select(is_middle, middle, small))

        y = choose(self.div(self.neg(one), a), self.div(self.sub(a, one), self.add(a, one)), a)
        base = choose(self.constant(np.pi / 2), self.constant(np.pi / 4), zero)
        rest = choose(self.constant(PI_2_REST), self.constant(PI_2_REST / 2), zero)
        square = self.mul(y, y)
        p = self.mul(square, self.div(self._polynomial(ATAN_P, square), self._polynomial(ATAN_Q, square)))
        r = self.add(base, self.add(self.fma(y, p, y), rest))
        return self.select(self.compare("<", x, zero), self.neg(r), r)

    @property
    def _suffix(self) -> str:
        return f"v{self.width}f{BITS[self.dtype]}"

    @cached_property
    def _mantissa_bits(self) -> int:
        return np.finfo(self.dtype).nmant

    def _call(self, name: str, result: ir.Type, *args: Any) -> Any:
        """Call a function of LLVM or of the processor."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.builder.call(function, args)

    def _estimate(self, name: str, x: Any) -> Any:
        kind = "pd" if self.dtype == "float64" else "ps"
        return self._call(f"llvm.x86.avx512.{name}.{kind}.512", self.type, x, self.constant(0), self._all)

    def _masked(self, name: str, *args: Any) -> Any:
        kind = "pd" if self.dtype == "float64" else "ps"
        # The 4 keeps the rounding that is set.
        more = self.constant(0), self._all, ir.Constant(INT32, 4)
        return self._call(f"llvm.x86.avx512.{name}.{kind}.512", self.type, *args, *more)

    @property
    def _all(self) -> Any:
        return ir.Constant(ir.IntType(self.width), -1)

    def _has_bit(self, x: Any, bit: int) -> Any:
        return self.builder.icmp_signed("!=", self.builder.and_(x, self.whole(bit)), self.whole(0))

    def _power_of_two(self, k: Any) -> Any:
        bias = np.finfo(self.dtype).maxexp - 1
        shifted = self.builder.shl(self.builder.add(k, self.whole(bias)), self.whole(self._mantissa_bits))
        return self.builder.bitcast(shifted, self.type)

    def _polynomial(self, coefficients: Sequence[float], x: Any) -> Any:
        """Evaluate a polynomial, highest power first."""
        first, *others = coefficients
        r = self.constant(first)
        for coefficient in others:
            r = self.fma(r, x, self.constant(coefficient))
        return r


@lru_cache
def fit_exp(degree: int) -> list[float]:
    """Return a polynomial of exp on |r| <= log(2) / 2, highest power first, whose first two terms are exact."""
    n, half = degree - 1, math.log(2) / 2 * 1.001
    # (exp r - 1 - r) / r^2 by interpolation at Chebyshev's nodes.
    x = np.cos((np.arange(n) + 0.5) * np.pi / n)
    y = [sum((half * v) ** j / math.factorial(j + 2) for j in range(28)) for v in x]
    found = np.linalg.solve(np.vander(x, n, increasing=True), y) / half ** np.arange(n)
    return [*found[::-1].tolist(), 1.0, 1.0]
