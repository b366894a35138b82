"""Laws from logits and draws by inverse CDF, on a CPU and as other devices do it."""

import numpy as np
import pytest
import torch

from decoding.sampling import draw
from decoding.sampling.draw import inverse_cdf, law, unusable, unusable_rows

BELOW_ONE = 1 - 2**-53
places = pytest.mark.parametrize("host", [True, False], ids=["host", "device"])


@pytest.fixture
def elsewhere(request, monkeypatch):
    """With `host` False: CPU tensors on the path of other devices."""
    monkeypatch.setattr(draw, "on_host", lambda values: request.getfixturevalue("host"))


def uniforms(*values):
    return torch.tensor(values, dtype=torch.float64)


@places
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "masses", [[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.3, 0.3, 0.3, 0.1], [1.0], [0, 7, 0], [0, 1e-40, 0]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_without_mass_is_never_drawn_and_none_beyond_the_end(host, masses, dtype):
    masses = torch.tensor(masses, dtype=dtype)
    extremes = uniforms(0.0, 2**-53, 0.25, 0.5, 0.75, BELOW_ONE)
    drawn = inverse_cdf(masses.expand(len(extremes), -1), extremes)
    assert (masses[drawn] > 0).all()
    assert masses[: int(drawn[0])].sum() == 0
    assert masses[int(drawn[-1]) + 1 :].sum() == 0


@places
@pytest.mark.usefixtures("elsewhere")
def test_a_row_without_mass_is_token_0(host):
    assert inverse_cdf(torch.zeros(2, 3), uniforms(0.0, BELOW_ONE)).tolist() == [0, 0]


@places
@pytest.mark.usefixtures("elsewhere")
def test_each_token_is_drawn_on_an_interval_as_long_as_its_share(host):
    masses = torch.tensor([0.2, 0.0, 1.2, 0.6], dtype=torch.float64)
    drawn = inverse_cdf(masses.expand(1000, -1), (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert np.bincount(drawn, minlength=4).tolist() == [100, 0, 600, 300]


@places
@pytest.mark.usefixtures("elsewhere")
def test_float32_masses_are_added_in_float64(host):
    # in float32 the masses after the first would be lost
    masses = torch.tensor([1.0] + [1e-9] * 9)
    given = (1.0 + (torch.arange(9, dtype=torch.float64) + 0.5) * 1e-9) / (1.0 + 9e-9)
    assert inverse_cdf(masses.expand(9, -1), given).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_sums_that_were_not_added_in_order_are_searched_all_the_same(monkeypatch):
    masses = torch.tensor([0.0, 0.6, 0.0, 0.0, 0.4, 0.0])
    # tokens without mass reach further than those before them, or less far, and the last sum is not the largest
    sums = torch.tensor([1e-17, 0.6, 0.6 + 2e-16, 0.6 - 1e-16, 1.0, 1.0 - 2e-16], dtype=torch.float64)
    monkeypatch.setattr(draw, "on_host", lambda values: False)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_, **__: sums.expand(5, -1).clone())
    given = uniforms(0.0, 0.5, 0.6, 0.7, BELOW_ONE)
    assert inverse_cdf(masses.expand(5, -1), given).tolist() == [1, 1, 4, 4, 4]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0, 2e-38, 1e30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_law_is_the_softmax_of_logits_over_the_temperature(temperature, dtype):
    logits = (torch.randn(4, 50, generator=torch.manual_seed(1)) * 5).to(dtype)
    logits[:, ::7] = -torch.inf
    exact = logits.double().numpy() - logits.double().amax(-1, keepdim=True).numpy()
    exact = np.exp(exact / temperature)
    exact /= exact.sum(-1, keepdims=True)
    # an exponent of 40 rounded to 24 bits is off by 2e-6
    for kind, tolerance in ((torch.float32, 5e-6), (torch.float64, 1e-13)):
        found = law(logits, temperature, kind)
        assert found.dtype == kind
        np.testing.assert_allclose(found.numpy(), exact, rtol=tolerance, atol=1e-30)


def test_temperature_0_is_the_point_mass_on_the_first_largest_logit():
    logits = torch.tensor([[1.0, 3.0, 3.0], [-torch.inf, -2.0, -torch.inf]])
    assert law(logits, 0.0).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert law(logits, 0.0, torch.float64).dtype == torch.float64


def test_the_logits_stay_as_they_were():
    logits = torch.randn(2, 5)
    before = logits.clone()
    for temperature in (0.0, 0.5, 1.0):
        law(logits, temperature)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_unusable_logits_are_nan_or_infinite_or_masked_altogether(dtype):
    inf, nan = torch.inf, torch.nan
    rows = [[1, nan], [nan, -inf], [inf, 0], [-inf, -inf], [0, -inf], [0, 1]]
    assert unusable(torch.tensor(rows, dtype=dtype)).tolist() == [True, True, True, True, False, False]


def test_a_row_is_unusable_where_a_needed_position_is():
    logits = torch.zeros(3, 2, 4)
    logits[:, 1, 0] = torch.nan
    assert unusable_rows(logits, torch.tensor([0, 1, 2])).tolist() == [False, False, True]
