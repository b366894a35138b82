"""The verification step of rules in numbers against their own float64 methods, and its roots against bisection."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from decoding.sampling import draw
from decoding.sampling.draw import inverse_cdf, law
from decoding.verification import ratio, ratio_roots
from decoding.verification.block import verify_block
from decoding.verification.multi_draft import verify_drafts
from decoding.verification.ratio import verify_ratio
from decoding.verification.ratio_form import ratio_form
from decoding.verification.ratio_roots import floor_at_price, floor_for_loss
from tradeoff.outcome.token import apply_rule
from tradeoff.rules import (
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    Ensemble,
    Lenience,
    RatioClip,
    SpeculativeSampling,
    Synthetic,
)

RULES = [
    SpeculativeSampling(),
    Lenience(factor=0.4),
    Lenience(factor=0.0),
    DecodingOPT(epsilon=0.07),
    DecodingUNO(epsilon=0.07),
    DecodingUNO(epsilon=0.07, residual="draft"),
    Ensemble(target_weight=0.6),
    Synthetic(rate=0.7),
    RatioClip(ceiling=1.0),
    RatioClip(ceiling=1.5),
    RatioClip(ceiling=math.inf),
    *(RatioClip(rejection=rejection) for rejection in (0.0, 0.1, 0.5, 1.0)),
    *(CommonPrice(price=price) for price in (0.0, 0.3, 2.0, 30.0, math.inf)),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)
BELOW_ONE = 1 - 2**-53

NEAR = 4e-6
"""Float32 laws of logits below 30 are off by 2e-6 at most, relatively: a uniform this near a boundary may fall over."""


def form_of(rule):
    form = ratio_form(rule)
    assert form is not None
    return form


def random_case(seed, batch, k, vocab, *, masks=True):
    """Drafts that are near the target, far from it, equal to it, and masked; tokens drawn from them."""
    generator = torch.manual_seed(seed)
    target = torch.randn(batch, k + 1, vocab, generator=generator) * 3
    distance = torch.tensor([0.3, 1.0, 4.0, 0.0])[torch.arange(batch) % 4][:, None, None]
    draft = target[:, :k] + distance * torch.randn(batch, k, vocab, generator=generator)
    if masks and vocab > 2:
        for logits in (draft, target):
            hidden = torch.rand(logits.shape, generator=generator) < 0.3
            hidden[..., 0] = False
            hidden[::2] = False
            logits.masked_fill_(hidden, -torch.inf)
    drafted = inverse_cdf(law(draft, 1.0), torch.rand(batch, k, dtype=torch.float64, generator=generator))
    return draft, target, drafted, torch.rand(batch, k + 1, dtype=torch.float64, generator=generator)


def everything(k, drafted):
    return torch.full((len(drafted),), k)


@pytest.fixture
def elsewhere(monkeypatch):
    """CPU tensors on the path of other devices."""
    monkeypatch.setattr(draw, "on_host", lambda values: False)


@pytest.fixture(autouse=True)
def in_turn(monkeypatch):
    """Small vocabularies position by position, as a CPU takes large ones."""
    monkeypatch.setattr(ratio, "AT_ONCE", 0)


@pytest.mark.parametrize("vocab", [60])
@every_rule
def test_all_positions_at_once_and_in_turn_give_the_same_tokens(rule, vocab, monkeypatch):
    draft, target, drafted, uniforms = random_case(vocab, 200, 3, vocab)
    count = torch.arange(200) % 4
    arguments = (form_of(rule), draft, target, drafted, uniforms)
    in_turn = verify_ratio(*arguments, count=count, temperature=0.7)
    monkeypatch.setattr(ratio, "AT_ONCE", vocab)
    at_once = verify_ratio(*arguments, count=count, temperature=0.7)
    assert torch.equal(at_once[0], in_turn[0])
    assert (at_once[1] == in_turn[1]).float().mean() > 0.99  # roots of a batch stop together


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("vocab", [2, 5, 60])
@every_rule
def test_every_decision_is_that_of_the_rules_own_methods(rule, vocab):
    batch, k = 400, 3
    draft, target, drafted, uniforms = random_case(vocab, batch, k, vocab)
    accepted, token = verify_ratio(
        form_of(rule), draft, target, drafted, uniforms, count=everything(k, drafted), temperature=1.0
    )
    # the float32 laws are what is judged; as float64 they must sum to 1 before the exact rule sees them
    p, q = (each.double() / each.double().sum(-1, keepdim=True) for each in (law(draft, 1.0), law(target, 1.0)))
    outcome = apply_rule(rule, p, q[:, :k])
    chance = outcome.acceptance.gather(-1, drafted[..., None])[..., 0]
    expected = (uniforms[:, :k] < chance).long().cumprod(-1).sum(-1)
    doubtful = ((uniforms[:, :k] - chance).abs() < NEAR).any(-1)
    assert doubtful.double().mean() < 0.01
    assert ((accepted == expected) | doubtful).all()
    residual = outcome.residual_after(drafted)
    for b in torch.nonzero(~doubtful)[:, 0].tolist():
        n = int(accepted[b])
        masses = q[b, k] if n == k else residual[b, n]
        # how much of the law lies before and up to the token drawn: its uniform must be between
        before, upto = float(masses[: token[b]].sum()), float(masses[: token[b] + 1].sum())
        slack = 1e-4 if n < k and float(outcome.rejection[b, n]) < 1e-2 else 1e-5
        if n < k and float(outcome.rejection[b, n]) < 1e-5:
            continue
        assert before - slack <= uniforms[b, -1] <= upto + slack
        assert masses[token[b]] > 0 or upto - before < slack


@every_rule
def test_rows_one_by_one_and_all_at_once_agree_to_the_bit(rule, monkeypatch):
    draft, target, drafted, uniforms = random_case(3, 60, 4, 37)
    count = torch.arange(60) % 5
    knob = form_of(rule).knob
    one_by_one = verify_ratio(form_of(rule), draft, target, drafted, uniforms, count=count, temperature=0.8)
    monkeypatch.setattr(draw, "on_host", lambda values: False)
    at_once = verify_ratio(form_of(rule), draft, target, drafted, uniforms, count=count, temperature=0.8)
    assert isinstance(knob, float)
    for each, other in zip(one_by_one, at_once, strict=True):
        assert torch.equal(each, other)


@every_rule
def test_a_row_does_not_depend_on_its_batch_nor_on_positions_beyond_its_count(rule):
    draft, target, drafted, uniforms = random_case(5, 12, 4, 23)
    count = torch.arange(12) % 5
    accepted, token = verify_ratio(form_of(rule), draft, target, drafted, uniforms, count=count, temperature=1.0)
    for b, tested in enumerate(count.tolist()):
        alone = verify_ratio(
            form_of(rule),
            draft[b : b + 1, :tested],
            target[b : b + 1, : tested + 1],
            drafted[b : b + 1, :tested],
            torch.cat([uniforms[b : b + 1, :tested], uniforms[b : b + 1, -1:]], dim=1),
            count=torch.tensor([tested]),
            temperature=1.0,
        )
        assert [int(each) for each in alone] == [int(accepted[b]), int(token[b])]


def test_knobs_of_a_batch_are_those_of_its_rows():
    draft, target, drafted, uniforms = random_case(7, 9, 3, 30)
    count = everything(3, drafted)
    for rule, knobs in ((RatioClip(rejection=0.1), [0.0, 0.05, 0.3]), (CommonPrice(price=1.0), [0.1, 1.0, math.inf])):
        form = form_of(rule)
        knob = torch.tensor(knobs, dtype=torch.float64).repeat(3)
        together = verify_ratio(
            replace(form, knob=knob), draft, target, drafted, uniforms, count=count, temperature=1.0
        )
        for b, value in enumerate(knob.tolist()):
            first, second, token, coins = (each[b : b + 1] for each in (draft, target, drafted, uniforms))
            alone = verify_ratio(
                replace(form, knob=value), first, second, token, coins, count=count[:1], temperature=1.0
            )
            assert [int(each) for each in alone] == [int(each[b]) for each in together]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_rule
def test_small_floating_types_are_judged_as_the_float32_numbers_they_are(rule, dtype):
    draft, target, drafted, uniforms = random_case(11, 20, 3, 50)
    draft, target, count = draft.to(dtype), target.to(dtype), everything(3, drafted)
    given = verify_ratio(form_of(rule), draft, target, drafted, uniforms, count=count, temperature=0.9)
    wide = verify_ratio(form_of(rule), draft.float(), target.float(), drafted, uniforms, count=count, temperature=0.9)
    for each, other in zip(given, wide, strict=True):
        assert torch.equal(each, other)


ONE_HOT = torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf])
OTHER = ONE_HOT.roll(1)
FLAT = torch.zeros(4)
HALF = torch.tensor([-torch.inf, -torch.inf, 0.0, 0.0])


@pytest.mark.parametrize("host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("uniform", [0.0, 0.5, BELOW_ONE])
@pytest.mark.parametrize("next_uniform", [0.0, 0.5, BELOW_ONE])
@every_rule
def test_extreme_laws_at_extreme_uniforms(rule, uniform, next_uniform, host, monkeypatch):
    monkeypatch.setattr(draw, "on_host", lambda values: host)
    pairs = [(ONE_HOT, ONE_HOT, 0), (ONE_HOT, OTHER, 0), (FLAT, FLAT, 2), (FLAT, HALF, 0), (HALF, FLAT, 3)]
    draft = torch.stack([p for p, _, _ in pairs])[:, None]
    target = torch.stack([q for _, q, _ in pairs])[:, None].repeat(1, 2, 1)
    drafted = torch.tensor([[x] for _, _, x in pairs])
    uniforms = torch.tensor([[uniform, next_uniform]], dtype=torch.float64).repeat(5, 1)
    accepted, token = verify_ratio(
        form_of(rule), draft, target, drafted, uniforms, count=everything(1, drafted), temperature=1.0
    )
    outcome = apply_rule(rule, law(draft, 1.0, torch.float64)[:, 0], law(target, 1.0, torch.float64)[:, 0])
    for b in range(5):
        chance = float(outcome.acceptance[b, drafted[b, 0]])
        if chance in (0.0, 1.0):
            assert int(accepted[b]) == chance
        law_after = target[b, 0].softmax(-1) if int(accepted[b]) else outcome.residual[b]
        assert law_after[token[b]] > 0


def test_zero_residuals_fall_back_to_the_targets_law():
    # Synthetic rejects even where draft and target agree
    same = torch.randn(1, 2, 6)
    uniforms = torch.tensor([[0.95, 0.4]], dtype=torch.float64)
    accepted, token = verify_ratio(
        form_of(Synthetic(rate=0.5)),
        same[:, :1],
        same,
        torch.tensor([[2]]),
        uniforms,
        count=torch.tensor([1]),
        temperature=1.0,
    )
    assert int(accepted) == 0
    assert int(token) == int(inverse_cdf(law(same[:, 0], 1.0), uniforms[:, 1]))


def hard_pairs():
    """Laws `[1, vocab]` in float64 that were float32: near, far, masked, one-hot, disjoint, with ratios of 1e-30."""
    generator = torch.manual_seed(0)
    for vocab in (2, 5, 1000, 50_304):
        spread = torch.logspace(-30, 0, vocab)[None]
        one_hot = torch.zeros(1, vocab)
        one_hot[0, vocab // 2] = 1.0
        for scale in (0.01, 1.0, 10.0) if vocab <= 1000 else (1.0,):
            p, q = (torch.randn(2, 1, vocab, generator=generator) * scale).softmax(-1)
            half = p * (torch.arange(vocab) % 2)
            pairs = [(p, q), (0.99 * q + 0.01 * p, q), (half / half.sum(), q), (q, half / half.sum())]
            pairs += [(one_hot, q), (p, one_hot), (one_hot, one_hot.roll(1)), (spread / spread.sum(), q)]
            pairs += [(p, spread / spread.sum()), (spread / spread.sum(), spread.flip(-1) / spread.sum()), (p, p)]
            for first, second in pairs:
                yield first.double(), second.double()


def gained(p, q, floor):
    return float((floor * q - p).clamp(min=0).sum())


def lost(p, q, ceiling):
    return float((p - ceiling * q).clamp(min=0).sum())


@pytest.mark.parametrize("host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("loss", [0.0, 1e-12, 1e-3, 0.5])
def test_the_floor_of_a_loss_gains_it_or_all_there_is(loss, host, monkeypatch):
    monkeypatch.setattr(draw, "on_host", lambda values: host)
    for p, q in hard_pairs():
        floor = float(floor_for_loss(p, q, torch.tensor([loss], dtype=torch.float64)))
        assert 0 <= floor <= 1
        # the floor itself is a float64: its neighbours gain 1e-16 more or less
        assert abs(gained(p, q, floor) - min(loss, gained(p, q, 1.0))) <= 1e-12 * loss + 1e-15


@pytest.mark.parametrize("host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("price", [0.0, 1e-6, 0.1, 10.0, math.inf])
def test_the_floor_at_a_price_gains_what_the_ceiling_loses(price, host, monkeypatch):
    monkeypatch.setattr(draw, "on_host", lambda values: host)
    for p, q in hard_pairs():
        floor = float(floor_at_price(p, q, torch.tensor([price], dtype=torch.float64)))
        assert 0 <= floor <= 1
        ceiling = floor * min(math.exp(min(price, 709.0)), ratio_roots.BEYOND)
        # at a price near 0 the levels are 1, and what is left is the rounding of float32 sums to 1
        allowed = 1e-12 * gained(p, q, floor) + 1e-14 + abs(float(p.sum() - q.sum()))
        assert abs(gained(p, q, floor) - lost(p, q, ceiling)) <= allowed


def test_the_fixed_number_of_steps_is_enough_and_not_far_from_needed(monkeypatch):
    steps = []
    plain = ratio_roots._root

    def counted(sides, low):
        steps.append(0)

        def once_more(level):
            steps[-1] += 1
            return sides(level)

        return plain(once_more, low)

    monkeypatch.setattr(ratio_roots, "_root", counted)
    for p, q in hard_pairs():
        for price in (1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 100.0, 700.0):
            floor_at_price(p, q, torch.tensor([price], dtype=torch.float64))
    assert 20 < max(steps) <= ratio_roots.STEPS
    # a wrong slope leaves it to bisection: 10 steps
    assert np.mean(steps) < 6


def test_a_root_of_a_whole_vocabulary_and_a_step_at_its_size():
    vocab = 151_936
    generator = torch.manual_seed(1)
    target = torch.randn(1, 3, vocab, generator=generator) * 3
    draft = target[:, :2] + torch.randn(1, 2, vocab, generator=generator)
    drafted = law(draft, 1.0).argmax(-1)
    uniforms = torch.tensor([[BELOW_ONE, BELOW_ONE, 0.3]], dtype=torch.float64)
    for rule in (SpeculativeSampling(), RatioClip(ceiling=1.3), RatioClip(rejection=0.05), CommonPrice(price=0.5)):
        accepted, token = verify_ratio(
            form_of(rule), draft, target, drafted, uniforms, count=torch.tensor([2]), temperature=1.0
        )
        n = int(accepted)
        p, q = law(draft, 1.0, torch.float64), law(target, 1.0, torch.float64)
        masses = q[0, 2] if n == 2 else apply_rule(rule, p, q[:, :2]).residual[0, n]
        assert float(masses[: int(token)].sum()) - 1e-5 <= 0.3 <= float(masses[: int(token) + 1].sum()) + 1e-5


SYNCS = {
    "bool": lambda values: bool(values.sum() > 0),
    "item": lambda values: values[0, 0].item(),
    "tolist": lambda values: values.tolist(),
    "nonzero": lambda values: values.nonzero(),
    "mask": lambda values: values[values > 0.5],
    "masked_select": lambda values: values.masked_select(values > 0.5),
    "equal": lambda values: torch.equal(values, values),
}


@pytest.mark.parametrize("sync", SYNCS.values(), ids=SYNCS.keys())
def test_fake_tensors_have_no_values_for_the_host(sync):
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        sync(torch.rand(3, 4))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_nothing_waits_for_the_device(temperature, monkeypatch):
    monkeypatch.setattr(ratio_roots, "STEPS", 2)
    batch, k, vocab = 3, 4, 50
    with FakeTensorMode():
        draft, target = torch.randn(batch, k, vocab), torch.randn(batch, k + 1, vocab)
        drafted, count = torch.zeros(batch, k, dtype=torch.int64), torch.full((batch,), k)
        uniforms = torch.rand(batch, k + 1, dtype=torch.float64)
        for rule in RULES:
            results = verify_ratio(
                form_of(rule), draft, target, drafted, uniforms, count=count, temperature=temperature
            )
            assert [each.shape for each in results] == [(batch,), (batch,)]
        verify_block(draft, target, drafted, uniforms, count=count, temperature=temperature)
        verify_drafts(draft, target[:, 0], drafted, uniforms, temperature=temperature)
