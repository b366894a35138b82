"""The summands y f(x / y) of the divergences, accurate for laws that nearly agree.

Written out, x log(x / y) - x + y subtracts numbers of the size of x that leave one of the size of (x - y)^2: at
x = y (1 + 1e-8) no digit survives. Near x = y each term is therefore a series in the difference, which floating
point subtracts exactly there, and elsewhere the formula itself; both have at least twelve digits.
"""

from array_api_compat import array_namespace

from solvers.arrays import Array

NEAR = 2.0**-5
"""Series are used where |x - y| <= NEAR (x + y): there five terms leave 1e-15, and outside cancellation costs 1e-13."""

ALPHA_TERMS = 14
"""Terms of the binomial series, each at most a twelfth of the one before: 1e-13 is left."""


def exp(array: Array) -> Array:
    """Elementwise e^u, in the array's own library."""
    return array_namespace(array).exp(array)


def expm1(array: Array) -> Array:
    """Elementwise e^u - 1."""
    return array_namespace(array).expm1(array)


def log(array: Array) -> Array:
    """Elementwise logarithm."""
    return array_namespace(array).log(array)


def log1p(array: Array) -> Array:
    """Elementwise log(1 + u)."""
    return array_namespace(array).log1p(array)


def sqrt(array: Array) -> Array:
    """Elementwise square root."""
    return array_namespace(array).sqrt(array)


def kl(x: Array, y: Array) -> Array:
    """X log(x / y) - x + y = (x - y) s + 2 x (artanh s - s), s = (x - y) / (x + y)."""
    xp = array_namespace(x, y)
    s = (x - y) / (x + y)
    near = xp.abs(s) <= NEAR
    # one array at a time: rows may be as large as memory
    series = _polynomial(s * s, (1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11)) * s
    series = 2 * x * series * s + (x - y)
    series = series * s
    del s
    return xp.where(near, series, x * xp.log(x / y) - (x - y))


def js(x: Array, y: Array) -> Array:
    """Half the sum of both KL terms to the mean m: m ((1 + s) log(1 + s) + (1 - s) log(1 - s)) / 2."""
    xp = array_namespace(x, y)
    mean = (x + y) / 2
    s = (x - y) / (x + y)
    square = s * s
    series = mean * square * _polynomial(square, (1 / 2, 1 / 12, 1 / 30, 1 / 56, 1 / 90))
    # both logarithms are of ratios to the mean, which do not overflow
    return xp.where(xp.abs(s) <= NEAR, series, (x * xp.log(x / mean) + y * xp.log(y / mean)) / 2)


def alpha(x: Array, y: Array, order: float) -> Array:
    """Y ((x / y)^a - a x / y + a - 1) / (a (a - 1)) for an order a that is neither 0 nor 1."""
    a, xp = order, array_namespace(x, y)
    difference = x - y
    d = difference / y
    near = xp.abs(d) <= 2 * NEAR / max(1.0, abs(a) / 2)
    coefficients = [0.5]
    for k in range(2, ALPHA_TERMS):
        coefficients.append(coefficients[-1] * (a - k) / (k + 1))
    series = difference * d * _polynomial(xp.where(near, d, xp.zeros_like(d)), coefficients)
    log_ratio = xp.log(x / y)
    # each form is exact where the other cancels: at order 0 and at order 1
    if a < 0.5:
        direct = (y * xp.expm1(a * log_ratio) / a - difference) / (a - 1)
    else:
        direct = (x * xp.expm1((a - 1) * log_ratio) / (a - 1) - difference) / a
    return xp.where(near, series, direct)


def _polynomial(variable: Array, coefficients: "tuple[float, ...] | list[float]") -> Array:
    total = variable * coefficients[-1] + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        total = total * variable
        total = total + coefficient
    return total
