"""What transformers' own verification step does, as `check` sees it: a record for the version in constraints.txt.

Findings marked VERSION are about transformers 5.23 with torch 2.13 on a CPU; a newer version may well repair them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import utils

from tradeoff.conformance.checking import Report, check
from tradeoff.rules import SpeculativeSampling

ERROR = "probability tensor contains either `inf`, `nan` or element < 0"


@dataclass(frozen=True)
class Ensemble:
    """Speculative sampling towards w target + (1 - w) draft: b = min(1, 1 - w + w target / draft)."""

    weight: float

    def acceptance(self, draft, target):
        ratio = np.divide(target, draft, out=np.ones_like(target), where=draft > 0)
        return np.minimum(1.0, 1 - self.weight + self.weight * ratio)

    def residual(self, draft, target):
        return SpeculativeSampling().residual(draft, target)


WEIGHTS: dict[str, tuple[float | None, Any]] = {
    "plain": (None, SpeculativeSampling()),
    "ensemble": (0.5, Ensemble(0.5)),
}


def logits_of(law: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    with np.errstate(divide="ignore"):  # a masked token has the logit -inf, as processors leave it
        return torch.from_numpy(np.log(law.astype(np.float64))).to(dtype)


def first_token(draft: torch.Tensor, target: torch.Tensor, drafted: int, weight: float | None) -> int:
    """One drafted token through transformers' step: logits `[vocab]`; what follows an accepted token is dropped."""
    tokens, _ = utils._speculative_sampling(
        torch.tensor([[drafted]]), draft[None, None], 1, torch.stack([target, target])[None], weight
    )
    return int(tokens[0, 0])


@dataclass(frozen=True)
class Transformers:
    """The step as a sampler; float32 is the type in which generate() hands over the logits of both models."""

    weight: float | None
    dtype: torch.dtype = torch.float32

    def __call__(self, draft, target, drafted, generator):
        torch.manual_seed(int(generator.integers(2**63)))
        return first_token(logits_of(draft, self.dtype), logits_of(target, self.dtype), drafted, self.weight)


class Injected:
    """torch's two random functions, returning what a test says."""

    uniforms: Any = (0.5, 0.5)

    def rand_like(self, like: torch.Tensor) -> torch.Tensor:
        return torch.full_like(like, self.uniforms[0])

    def multinomial(self, law: torch.Tensor, num_samples: int) -> torch.Tensor:
        # torch's own refuses these too, which the tests with a generator see
        if not bool(torch.isfinite(law).all()) or bool((law < 0).any()):
            raise RuntimeError(ERROR)
        cumulative = law.double().cumsum(-1)
        return torch.searchsorted(cumulative, self.uniforms[1] * cumulative[:, -1:], right=True)


@pytest.fixture
def injected(monkeypatch) -> Injected:
    source = Injected()
    monkeypatch.setattr(torch, "rand_like", source.rand_like)
    monkeypatch.setattr(torch, "multinomial", source.multinomial)
    return source


def checked_at_uniforms(name: str, injected: Injected) -> Report:
    weight, rule = WEIGHTS[name]

    def sampler(draft, target, drafted, uniforms):
        injected.uniforms = uniforms
        return first_token(logits_of(draft, torch.float32), logits_of(target, torch.float32), drafted, weight)

    return check(sampler, rule, randomness="uniforms", draws=100)


@pytest.mark.parametrize(("weight", "rule"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_its_tokens_follow_the_exact_law_and_nan_laws_raise(weight, rule):
    report = check(Transformers(weight), rule, draws=200)
    assert report.passed, str(report)
    passed = {each.name for each in report.cases if each.status == "passed"}
    # equal laws, masks of -inf, one-hot laws, laws that came in half precision, NaN in either law
    assert {
        "equal laws: possible tokens",
        "zero residual: possible tokens",
        "masked target: possible tokens",
        "one-hot laws apart: possible tokens",
        "float16 laws: possible tokens",
        "NaN target",
        "NaN draft",
        "NaN laws",
    } <= passed


@pytest.mark.parametrize("name", WEIGHTS)
def test_either_kind_is_told_from_the_other(name):
    weight, _ = WEIGHTS[name]
    (other,) = (rule for kind, (_, rule) in WEIGHTS.items() if kind != name)
    report = check(Transformers(weight), other, draws=150, pairs={})
    assert not report.passed
    assert any(each.kind == "chi-square" for each in report.failures)


def test_plain_accepts_a_token_of_target_probability_0_at_uniform_0(injected):
    report = checked_at_uniforms("plain", injected)
    # VERSION: r <= ratio where r < ratio is meant; one draw in 2^24 in float32
    assert [each.name for each in report.failures] == ["uniforms at 0"], str(report)
    (failure,) = report.failures
    assert failure.detail.startswith("one-hot laws apart, uniforms 0.0 and 0.0, drafted 1: emitted 1, expected never")


def test_the_ensemble_has_no_failure_at_the_ends_of_the_unit_interval(injected):
    # it accepts every token with at least 1 - w, so nothing is impossible at uniform 0
    report = checked_at_uniforms("ensemble", injected)
    assert report.passed, str(report)
    assert {each.name for each in report.cases if each.status == "skipped"} == {"uniforms at 1"}


@pytest.mark.parametrize(("dtype", "rarity"), [(torch.bfloat16, 512), (torch.float16, 4096)], ids=str)
def test_in_half_precision_torch_draws_the_uniform_0_once_in_hundreds(dtype, rarity):
    # VERSION: torch rounds the largest uniforms to 1 and returns 0 in their stead
    torch.manual_seed(0)
    zeros = float((torch.rand_like(torch.empty(2**20, dtype=dtype)) == 0).double().mean())
    # 256 zeros expected in float16, 2048 in bfloat16: six standard deviations of the rarer
    assert zeros * rarity == pytest.approx(1.0, abs=6 / 16)


def test_plain_in_bfloat16_therefore_emits_masked_tokens():
    masked, target = (logits_of(np.array(law), torch.bfloat16) for law in ([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]))
    torch.manual_seed(0)
    emitted = [first_token(masked, target, 0, None) for _ in range(6000)]
    # VERSION: generate() hands over the target's logits in float32, so this takes a caller of one's own.
    # 11.7 expected; Poisson has none with probability 8e-6, more than 40 with 1e-10
    assert 0 < emitted.count(0) < 40
    assert emitted.count(1) == 0


def logits_without_residual() -> tuple[torch.Tensor, torch.Tensor]:
    """Draft and target logits, float32, of one law: they differ by a constant, and the softmax rounds them apart."""
    for seed in range(200):
        draft = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        for shift in (0.1, 0.7, 1.3):
            laws = draft.softmax(-1), (draft + shift).softmax(-1)
            if bool((laws[1] <= laws[0]).all()) and float((laws[1] / laws[0]).min()) < 1 - 2.0**-24:
                return draft, draft + shift
    raise AssertionError("this machine's softmax forgives every shift")


def test_a_residual_of_zeros_raises_in_the_plain_step_and_is_the_target_in_the_ensemble(injected):
    draft, target = logits_without_residual()
    drafted = int((target.softmax(-1) / draft.softmax(-1)).argmin())
    # the largest float32 that torch.rand returns; the chance of one so near to 1 is about 1e-7 a token
    injected.uniforms = (1 - 2.0**-24, 0.0)
    # VERSION: 0 / 0 = NaN reaches torch.multinomial
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        first_token(draft, target, drafted, None)
    # the ensemble accepts there: half of the ratio's shortfall rounds away in float32
    assert first_token(draft, target, drafted, 0.5) in range(4)
    injected.uniforms = (2.0, 0.0)  # a uniform that nothing accepts
    assert first_token(draft, target, drafted, 0.5) == 0
    injected.uniforms = (2.0, 1 - 2.0**-53)
    assert first_token(draft, target, drafted, 0.5) == 3


def test_torch_refuses_nan_weights_as_the_injected_function_does():
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        torch.multinomial(torch.full((1, 3), torch.nan), num_samples=1)
