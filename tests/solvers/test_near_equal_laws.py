"""Laws that nearly agree: every digit against fifty-digit arithmetic."""

from math import inf

import mpmath as mp
import numpy as np
import pytest
import torch

from solvers.arrays import to_numpy
from solvers.divergences import DIVERGENCES, alpha_divergence, divergence_named
from solvers.errors import InputError
from tradeoff import evaluate
from tradeoff.rules import CommonPrice

ORDERS = (-2.5, -1e-30, 1e-12, 0.3, 0.999999999, 1.000000000001, 3.0, 40.0)
MEASURES = {**DIVERGENCES, **{f"alpha {order}": alpha_divergence(order) for order in ORDERS}}
mp.mp.dps = 110


def exact(name, output, target):
    """The definition, token by token, in 110 digits."""
    generators = {
        "tv": lambda t: max(t - 1, mp.mpf(0)),
        "kl": lambda t: t * mp.log(t) - t + 1,
        "reverse_kl": lambda t: t - 1 - mp.log(t),
        "chi2": lambda t: (t - 1) ** 2,
        "reverse_chi2": lambda t: (t - 1) ** 2 / t,
        "hellinger": lambda t: (mp.sqrt(t) - 1) ** 2 / 2,
        "js": lambda t: (t * mp.log(2 * t / (1 + t)) + mp.log(2 / (1 + t))) / 2,
    }
    if name.startswith("alpha"):
        a = mp.mpf(float(name.split()[1]))
        f = lambda t: (t**a - a * t + a - 1) / (a * (a - 1))  # noqa: E731
    else:
        f = generators[name]
    pairs = [(mp.mpf(float(x)), mp.mpf(float(y))) for x, y in zip(output, target, strict=True)]
    return sum(y * f(x / y) for x, y in pairs)


def near(distance, seed):
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.ones(8))
    return target * (1 + distance * rng.uniform(-1, 1, 8)), target


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_twelve_digits_are_right_however_near_the_laws(name, convert):
    for distance in (0.9, 0.3, 0.1, 0.065, 0.06, 0.01, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12):
        for seed in range(2):
            output, target = near(distance, seed)
            value = float(MEASURES[name].value(convert(output), convert(target)))
            assert abs(value / exact(name, output, target) - 1) <= 1e-12, (distance, seed)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "tv"])
def test_slopes_and_their_inverses_near_one_lose_no_digits(name):
    measure = MEASURES[name]
    for step in (1e-3, -1e-6, 1e-9, -1e-12):
        ratio = 1 + step
        slope = float(measure.slope(np.asarray(ratio)))
        # f''(1) (t - 1) to first order; the quadratic term is at most 40 |t - 1| of it
        curvature = {"chi2": 2, "reverse_chi2": 2, "hellinger": 0.25, "js": 0.25}.get(name, 1)
        assert abs(slope / (curvature * (ratio - 1)) - 1) <= 40 * abs(step) + 1e-12
        assert abs(float(measure.ratio_at(np.asarray(slope))) - ratio) <= 1e-15


def test_float32_laws_keep_six_digits():
    for name in ("kl", "reverse_kl", "js", "hellinger", "chi2"):
        output, target = (torch.asarray(law.astype(np.float32)) for law in near(1e-4, 0))
        value = float(MEASURES[name].value(output, target))
        assert abs(value / exact(name, to_numpy(output), to_numpy(target)) - 1) <= 1e-5


@pytest.mark.parametrize("order", ["alpha=1.000000000001", "alpha=0.999999999999", "alpha=1.0000000001"])
def test_a_common_price_at_an_order_near_one_is_that_of_kl(order):
    draft, target = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    for price in (0.05, 0.3, 2.0):
        ours, kl = (
            float(evaluate(CommonPrice(price=price, divergence=each), draft, target).rejection)
            for each in (order, "kl")
        )
        assert abs(ours - kl) <= 1e-9  # the orders differ by 1e-10 at most, and R moves in proportion


def test_orders_are_named_by_all_their_digits():
    assert alpha_divergence(1.000000000001).name == "alpha=1.000000000001"
    assert divergence_named(alpha_divergence(3).name).name == "alpha=3"
    assert alpha_divergence(1e-250) is DIVERGENCES["reverse_kl"]
    assert alpha_divergence(1e-12).at_zero == 1e12
    assert alpha_divergence(1.000000000001).slope_at_infinity == inf
    assert alpha_divergence(1.000000000001).program is None
    for order in (None, "one", [1.0], 10**400):
        with pytest.raises(InputError, match="alpha: expected a finite order; got"):
            alpha_divergence(order)  # type: ignore[arg-type]
