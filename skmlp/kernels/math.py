"""exp, tanh and the logistic function in plain arithmetic, which compilers vectorise.

Numba calls the C library for each number, unless Intel's vector library is installed.
These are the rational approximations of the Cephes library (S. L. Moshier, "Methods and
Programs for Mathematical Functions", 1989), without branches: within two units in the
last place for float64 and float32. Infinities and NaN come out as they should.

They are compiled without reassociation: the argument is reduced in two steps whose
order carries the precision.
"""

# mypy cannot see what numba infers; every function takes and gives one number.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

_OPTIONS: Any = {
    "no_cfunc_wrapper": True,
    "error_model": "numpy",
    "fastmath": {"contract"},
    "forceinline": True,  # or tanh and erf become calls for each number
}


@register_jitable(**_OPTIONS)
def _reduced64(c):
    """The whole number n and the small one v of ``exp(c) = 2^n (1 + v)``."""
    n = np.floor(1.4426950408889634 * c + 0.5)
    r = c - n * 6.93145751953125e-1
    r -= n * 1.42860682030941723212e-6
    s = r * r
    p = r * (
        (1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s
        + 9.99999999999999999910e-1
    )
    q = (
        (3.00198505138664455042e-6 * s + 2.52448340349684104192e-3) * s
        + 2.27265548208155028766e-1
    ) * s + 2.00000000000000000005
    return n, 2.0 * (p / (q - p))


@register_jitable(**_OPTIONS)
def _reduced32(c):
    """As `_reduced64`."""
    f = np.float32
    n = np.floor(f(1.44269504088896341) * c + f(0.5))
    r = c - n * f(0.693359375)
    r -= n * f(-2.12194440e-4)
    p = f(1.9875691500e-4) * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    return n, p * (r * r) + r


def _exp64(x):
    top, low = 709.782712893384, -745.2
    c = x if x > low else low  # also of NaN, of which there is no integer
    n, value = _reduced64(c if c < top else top)
    value += 1.0
    # 2^n in two factors, so that neither overflows at the ends of the range.
    half = np.int64(n) >> 1
    rest = np.int64(n) - half
    value *= np.int64((half + 1023) << 52).view(np.float64)
    value *= np.int64((rest + 1023) << 52).view(np.float64)
    value = np.inf if x > top else value
    value = 0.0 if x < low else value
    return x if x != x else value


def _exp32(x):
    f = np.float32
    top, low = f(88.72283), f(-103.972)
    c = x if x > low else low  # also of NaN, of which there is no integer
    n, value = _reduced32(c if c < top else top)
    value += f(1.0)
    half = np.int32(np.int32(n) >> np.int32(1))
    rest = np.int32(np.int32(n) - half)
    value *= np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    value *= np.int32((rest + np.int32(127)) << np.int32(23)).view(np.float32)
    value = f(np.inf) if x > top else value
    value = f(0.0) if x < low else value
    return x if x != x else value


def exp_value(x):
    """``exp(x)`` of one number."""
    return np.exp(x)


@overload(exp_value, jit_options=_OPTIONS, inline="never")
def _exp_value(x):
    return _exp32 if x == types.float32 else _exp64


def expit_value(x):
    """``1 / (1 + exp(-x))`` of one number."""
    return 1 / (1 + np.exp(-x))


@overload(expit_value, jit_options=_OPTIONS, inline="never")
def _expit_value(x):
    one = np.float32(1) if x == types.float32 else np.float64(1)
    return lambda x: one / (one + exp_value(-x))


def _tanh64(x):
    a = abs(x)
    big = 1.0 - 2.0 / (exp_value(2.0 * a) + 1.0)
    s = x * x
    p = (
        -9.64399179425052238628e-1 * s - 9.92877231001918586564e1
    ) * s - 1.61468768441708447952e3
    q = (
        (s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3
    ) * s + 4.84406305325125486048e3
    small = x + x * s * (p / q)
    return small if a < 0.625 else (-big if x < 0 else big)


def _tanh32(x):
    f = np.float32
    a = abs(x)
    big = f(1.0) - f(2.0) / (exp_value(a + a) + f(1.0))
    s = x * x
    p = f(-5.70498872745e-3) * s + f(2.06390887954e-2)
    p = p * s + f(-5.37397155531e-2)
    p = p * s + f(1.33314422036e-1)
    p = p * s + f(-3.33332819422e-1)
    small = x + x * s * p
    return small if a < f(0.625) else (-big if x < f(0.0) else big)


def tanh_value(x):
    """``tanh(x)`` of one number."""
    return np.tanh(x)


@overload(tanh_value, jit_options=_OPTIONS, inline="never")
def _tanh_value(x):
    return _tanh32 if x == types.float32 else _tanh64


def _expm1_64(x):
    # As `_exp64`, but without a 1 that swallows the last bits.
    n, value = _reduced64(x if x > -745.2 else -745.2)
    # Below -1022 the scale is 0, of which nothing is seen beside 1.
    power = np.int64(n if n > -1023.0 else -1023.0)
    scale = np.int64((power + 1023) << 52).view(np.float64)
    value = scale * value + (scale - 1.0)
    return x if x != x else value


def _expm1_32(x):
    f = np.float32
    n, value = _reduced32(x if x > f(-103.972) else f(-103.972))
    power = np.int32(n if n > f(-127.0) else f(-127.0))
    scale = np.int32((power + np.int32(127)) << np.int32(23)).view(np.float32)
    value = scale * value + (scale - f(1.0))
    return x if x != x else value


def expm1_value(x):
    """``exp(x) - 1`` of one number that is not positive, also close to 0."""
    return math.expm1(x)


@overload(expm1_value, jit_options=_OPTIONS, inline="never")
def _expm1_value(x):
    return _expm1_32 if x == types.float32 else _expm1_64


def _log1p64(x):
    s = x / (2.0 + x)
    t = s * s
    p = 1.0 / 33.0
    p = p * t + 1.0 / 31.0
    p = p * t + 1.0 / 29.0
    p = p * t + 1.0 / 27.0
    p = p * t + 1.0 / 25.0
    p = p * t + 1.0 / 23.0
    p = p * t + 1.0 / 21.0
    p = p * t + 1.0 / 19.0
    p = p * t + 1.0 / 17.0
    p = p * t + 1.0 / 15.0
    p = p * t + 1.0 / 13.0
    p = p * t + 1.0 / 11.0
    p = p * t + 1.0 / 9.0
    p = p * t + 1.0 / 7.0
    p = p * t + 1.0 / 5.0
    p = p * t + 1.0 / 3.0
    return 2.0 * (s + s * (t * p))


def _log1p32(x):
    f = np.float32
    s = x / (f(2.0) + x)
    t = s * s
    p = f(1.0 / 15.0)
    p = p * t + f(1.0 / 13.0)
    p = p * t + f(1.0 / 11.0)
    p = p * t + f(1.0 / 9.0)
    p = p * t + f(1.0 / 7.0)
    p = p * t + f(1.0 / 5.0)
    p = p * t + f(1.0 / 3.0)
    return f(2.0) * (s + s * (t * p))


def log1p_value(x):
    """``log(1 + x)`` of one number between 0 and 1.

    The series of the inverse hyperbolic tangent of ``x / (2 + x)``, which is at most a
    third.
    """
    return math.log1p(x)


@overload(log1p_value, jit_options=_OPTIONS, inline="never")
def _log1p_value(x):
    return _log1p32 if x == types.float32 else _log1p64


def _erf64(x):
    a = abs(x)
    s = x * x
    p = (
        (
            (9.60497373987051638749 * s + 9.00260197203842689217e1) * s
            + 2.23200534594684319226e3
        )
        * s
        + 7.00332514112805075473e3
    ) * s + 5.55923013010394962768e4
    q = (
        (((s + 3.35617141647503099647e1) * s + 5.21357949780152679795e2) * s)
        + 4.59432382970980127987e3
    ) * s + 2.26290000613890934246e4
    q = q * s + 4.92673942608635921086e4
    small = x * (p / q)
    # Beyond 6 the rest is below the last bit of 1.
    c = a if a < 6.0 else 6.0
    p = 2.46196981473530512524e-10 * c + 5.64189564831068821977e-1
    p = p * c + 7.46321056442269912687
    p = p * c + 4.86371970985681366614e1
    p = p * c + 1.96520832956077098242e2
    p = p * c + 5.26445194995477358631e2
    p = p * c + 9.34528527171957607540e2
    p = p * c + 1.02755188689515710272e3
    p = p * c + 5.57535335369399327526e2
    q = c + 1.32281951154744992508e1
    q = q * c + 8.67072140885989742329e1
    q = q * c + 3.54937778887819891062e2
    q = q * c + 9.75708501743205489753e2
    q = q * c + 1.82390916687909736289e3
    q = q * c + 2.24633760818710981792e3
    q = q * c + 1.65666309194161350182e3
    q = q * c + 5.57535340817727675546e2
    big = 1.0 - exp_value(-a * a) * (p / q)
    return small if a < 1.0 else (-big if x < 0 else big)


def _erf32(x):
    # Abramowitz and Stegun, "Handbook of mathematical functions", 7.1.26.
    f = np.float32
    a = abs(x)
    t = f(1.0) / (f(1.0) + f(0.3275911) * a)
    p = f(1.061405429) * t + f(-1.453152027)
    p = p * t + f(1.421413741)
    p = p * t + f(-0.284496736)
    p = p * t + f(0.254829592)
    big = f(1.0) - p * t * exp_value(-a * a)
    return -big if x < f(0.0) else big


def erf_value(x):
    """The error function of one number.

    Its absolute error is within two units in the last place of 1, and 1.5e-7 in
    float32: for what 1 is added to.
    """
    return math.erf(x)


@overload(erf_value, jit_options=_OPTIONS, inline="never")
def _erf_value(x):
    return _erf32 if x == types.float32 else _erf64
