"""The door of the verification step: every rule's law, both paths, broken rows, and what it refuses."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import RULES

from decoding.sampling.draw import inverse_cdf, law
from decoding.verification import verify
from decoding.verification.ratio import verify_ratio
from solvers.errors import InputError
from tradeoff.outcome.token import apply_rule
from tradeoff.rule import LogitRule
from tradeoff.rules import (
    MARS,
    BlockVerification,
    Cactus,
    CommonPrice,
    Consultant,
    Contrastive,
    Lantern,
    Lenience,
    RatioClip,
    SampleMatch,
    SGLang,
    SpeculativeSampling,
    Synthetic,
    TensorRTRelaxed,
    Typical,
)

DRAFT = torch.tensor([0.6, 0.2, 0.1, 0.1, 0.0], dtype=torch.float64)
TARGET = torch.tensor([0.3, 0.35, 0.0, 0.15, 0.2], dtype=torch.float64)
BELOW_ONE = 1 - 2**-53
EVERY = [
    *RULES,
    SampleMatch(),
    Cactus(delta=0.1),
    SGLang(single=0.25, acc=0.7),
    Typical(threshold=0.2),
    MARS(theta=0.5),
    TensorRTRelaxed(top_k=2, delta=0.1),
    Contrastive(alpha=0.5),
    Lenience(factor=0.5),
]
every_rule = pytest.mark.parametrize("rule", EVERY, ids=repr)
CELLS = 200


def logits_of(laws):
    return laws.log()


def judged(rule, drafted, uniforms, *, exact=False, **others):
    """Rows of `[DRAFT] * k` against `[TARGET] * (k + 1)`."""
    rows, k = drafted.shape
    draft, target = logits_of(DRAFT).expand(rows, k, -1), logits_of(TARGET).expand(rows, k + 1, -1)
    return verify(
        rule,
        draft,
        target,
        drafted,
        uniforms,
        bonus_draft_logits=logits_of(DRAFT).expand(rows, -1),
        exact=exact,
        **others,
    )


def known_outcome(rule):
    """By the rule's own methods on the laws; raw logits are their logarithms."""
    if isinstance(rule, LogitRule):
        rule = rule.with_logits(logits_of(DRAFT), logits_of(TARGET))
    return apply_rule(rule, DRAFT, TARGET)


def grid():
    return (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@every_rule
def test_the_emitted_law_over_a_grid_of_uniforms_is_the_rules_output_law(rule, exact):
    outcome, emitted = known_outcome(rule), np.zeros(5)
    for token in range(4):
        drafted = torch.full((CELLS, 1), token)
        accepted = judged(rule, drafted, torch.stack([grid(), grid()], dim=1), exact=exact).accepted
        chance = float(outcome.acceptance[token])
        # midpoints integrate a step function to within a cell per step, of which there are 5 in a law
        assert abs(float(accepted.double().mean()) - chance) <= 1 / CELLS
        emitted[token] += float(DRAFT[token]) * chance
        if chance < 1:
            uniforms = torch.stack([torch.full_like(grid(), BELOW_ONE), grid()], dim=1)
            replaced = judged(rule, drafted, uniforms, exact=exact)
            assert not replaced.accepted.any()
            emitted += float(DRAFT[token]) * (1 - chance) * np.bincount(replaced.next_token, minlength=5) / CELLS
    np.testing.assert_allclose(emitted, outcome.output_law, atol=5 / CELLS)


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@every_rule
def test_the_token_after_a_full_block_has_the_rules_bonus_law(rule, exact):
    outcome = known_outcome(rule)
    token = int(outcome.acceptance.argmax())
    for k in (0, 2):
        uniforms = torch.cat([torch.zeros(CELLS, k, dtype=torch.float64), grid()[:, None]], dim=1)
        step = judged(rule, torch.full((CELLS, k), token), uniforms, exact=exact)
        assert (step.accepted == k).all()
        np.testing.assert_allclose(np.bincount(step.next_token, minlength=5) / CELLS, outcome.bonus_law, atol=5 / CELLS)


@every_rule
def test_a_step_is_the_same_with_and_without_its_exact_outcome(rule):
    generator = torch.manual_seed(0)
    batch, k, vocab = 200, 3, 12
    target = torch.randn(batch, k + 1, vocab, generator=generator) * 2
    draft = torch.cat([target[:, :k] + torch.randn(batch, k, vocab, generator=generator), target[:, :1]], dim=1)
    target.masked_fill_(torch.rand(target.shape, generator=generator) < 0.2, -torch.inf)[..., 0] = 0.0
    drafted = inverse_cdf(law(draft[:, :k], 0.8), torch.rand(batch, k, dtype=torch.float64, generator=generator))
    uniforms = torch.rand(batch, k + 1, dtype=torch.float64, generator=generator)
    count = torch.arange(batch) % (k + 1)
    steps = [
        verify(
            rule,
            draft[:, :k],
            target,
            drafted,
            uniforms,
            count=count,
            temperature=0.8,
            bonus_draft_logits=draft[:, k],
            exact=exact,
        )
        for exact in (False, True)
    ]
    # 800 uniforms within 1e-6 of a boundary: none with probability 0.99, and the seed is fixed
    assert torch.equal(steps[0].accepted, steps[1].accepted)
    assert torch.equal(steps[0].next_token, steps[1].next_token)
    assert steps[0].outcome is None
    assert steps[1].outcome is not None
    assert steps[1].outcome.rejection.shape == (batch, k)
    assert steps[1].outcome.output_law.dtype == torch.float64


def test_the_exact_outcome_is_that_of_the_rule_at_every_position():
    step = judged(RatioClip(ceiling=1.5), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4).double(), exact=True)
    assert step.outcome is not None
    expected = known_outcome(RatioClip(ceiling=1.5))
    np.testing.assert_allclose(step.outcome.output_law, expected.output_law.expand(2, 3, -1), atol=1e-14)
    np.testing.assert_allclose(step.outcome.rejection, expected.rejection.expand(2, 3), atol=1e-14)


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_the_first_rejection_ends_the_block(exact):
    # token 0 is accepted with probability 1/2, token 1 always
    uniforms = torch.tensor([[0.4, 0.6, 0.0, 0.0], [0.6, 0.0, 0.0, 0.0], [0.4, 0.4, 0.9, 0.0]], dtype=torch.float64)
    step = judged(SpeculativeSampling(), torch.tensor([[0, 0, 1]] * 3), uniforms, exact=exact)
    assert step.accepted.tolist() == [1, 0, 3]
    # the residual has mass on tokens 1, 3 and 4 only
    assert step.next_token.tolist() == [1, 1, 0]


def test_positions_beyond_the_count_are_neither_tested_nor_looked_at():
    drafted, uniforms = torch.tensor([[1, 2, 1]] * 4), torch.zeros(4, 4, dtype=torch.float64)
    for exact in (False, True):
        step = judged(SpeculativeSampling(), drafted, uniforms, count=torch.arange(4), exact=exact)
        assert step.accepted.tolist() == [0, 1, 1, 1]  # the target masks token 2
        assert step.next_token.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("rule", [SpeculativeSampling(), RatioClip(ceiling=2.0), CommonPrice(price=3.0)], ids=repr)
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_a_token_unknown_to_the_target_is_rejected_even_at_uniform_zero(rule, exact):
    step = judged(rule, torch.tensor([[2]]), torch.zeros(1, 2, dtype=torch.float64), exact=exact)
    assert int(step.accepted) == 0
    assert TARGET[int(step.next_token)] > 0


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_zero_residuals_become_the_target(exact):
    same = logits_of(TARGET).expand(1, 2, -1)
    uniforms = torch.tensor([[0.9, 0.99]], dtype=torch.float64)
    step = verify(Synthetic(rate=0.5), same[:, :1], same, torch.tensor([[0]]), uniforms, exact=exact)
    assert (int(step.accepted), int(step.next_token)) == (0, 4)


def test_a_rule_whose_residual_is_empty_is_replaced_by_the_target():
    class Empty:
        def acceptance(self, draft, target):
            return 0.0 * target

        def residual(self, draft, target):
            return 0.0 * target

    step = judged(Empty(), torch.zeros(CELLS, 1, dtype=torch.int64), torch.stack([grid(), grid()], dim=1))
    np.testing.assert_allclose(np.bincount(step.next_token, minlength=5) / CELLS, TARGET, atol=1 / CELLS)


SPOILT = {"nan": math.nan, "inf": math.inf, "all masked": -math.inf}


@pytest.mark.parametrize("value", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("where", ["draft", "target", "last target", "raw draft", "raw target", "bonus"])
@pytest.mark.parametrize(
    "rule",
    [
        SpeculativeSampling(),
        CommonPrice(price=0.5),
        BlockVerification(),
        SGLang(),
        MARS(theta=0.5),
        Contrastive(alpha=0.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_a_row_without_a_law_is_named_and_the_others_stay_bit_identical(rule, where, value, exact):
    generator = torch.manual_seed(1)
    names = {"draft": 3, "target": 4, "raw draft": 3, "raw target": 4}
    logits = {name: torch.randn(4, n, 6, generator=generator) for name, n in names.items()}
    logits["bonus"] = torch.randn(4, 6, generator=generator)
    drafted = torch.randint(6, (4, 3), generator=generator)
    uniforms = torch.rand(4, 4, dtype=torch.float64, generator=generator)
    uniforms[:, -1] = 0.95  # never token 0
    count = torch.tensor([3, 2, 3, 1])

    def step():
        return verify(
            rule,
            logits["draft"],
            logits["target"],
            drafted,
            uniforms,
            count=count,
            raw_logits=(logits["raw draft"], logits["raw target"]),
            bonus_draft_logits=logits["bonus"],
            exact=exact,
        )

    clean = step()
    name, place = ("target", 3) if where == "last target" else (where, 1)
    spoilt = logits[name][2] if name == "bonus" else logits[name][2, place]
    spoilt[: 6 if value == -math.inf else 1] = value
    if name != "bonus":
        # beyond the count of row 3, where nothing is needed
        logits[name][3, 2] = math.nan
    dirty = step()
    matters = name in ("draft", "target") or (name == "bonus" and hasattr(rule, "bonus"))
    matters = matters or (name.startswith("raw") and isinstance(rule, LogitRule))
    assert clean.unusable.tolist() == [False] * 4
    assert dirty.unusable.tolist() == [False, False, matters, False]
    if matters:
        assert (int(dirty.accepted[2]), int(dirty.next_token[2])) == (0, 0)
    for b in (0, 1, 3):
        assert (clean.accepted[b], clean.next_token[b]) == (dirty.accepted[b], dirty.next_token[b])
        if clean.outcome is not None and dirty.outcome is not None:
            tested = slice(int(count[b]))
            assert torch.equal(clean.outcome.output_law[b, tested], dirty.outcome.output_law[b, tested])


def test_a_rule_that_compares_logits_gets_the_raw_ones_and_the_others_by_default():
    # MARS keeps the runner-up if its logit is at least theta times the best
    laws = torch.tensor([[[4.0, 3.0, -9.0]] * 2])
    raw = torch.tensor([[[4.0, 1.0, -9.0], [4.0, 3.0, -9.0]]])
    arguments = MARS(theta=0.5), laws[:, :1], laws, torch.tensor([[1]]), torch.full((1, 2), 0.5).double()
    assert int(verify(*arguments, bonus_draft_logits=laws[:, 0]).accepted) == 1
    assert int(verify(*arguments, raw_logits=(raw[:, :1], raw), bonus_draft_logits=laws[:, 0]).accepted) == 0


def test_the_bonus_of_a_rule_that_reads_raw_logits_is_theirs():
    masked = torch.tensor([[[-torch.inf, 1.0, 0.0]] * 2])
    raw = torch.tensor([[[9.0, 1.0, 0.0]] * 2])
    rule = TensorRTRelaxed(top_k=3, delta=1.0)
    arguments = rule, masked[:, :1], masked, torch.tensor([[1]]), torch.full((1, 2), 0.5).double()
    bonus = masked[:, 0]
    assert int(verify(*arguments, bonus_draft_logits=bonus).next_token) == 1
    assert int(verify(*arguments, raw_logits=(raw[:, :1], raw), bonus_draft_logits=bonus).next_token) == 0


def test_the_bonus_of_a_shorter_block_is_that_of_its_own_last_position():
    generator = torch.manual_seed(3)
    target = torch.randn(1, 4, 8, generator=generator)
    draft = torch.randn(1, 4, 8, generator=generator)
    rule, uniform = Contrastive(alpha=1.0), torch.tensor([[0.0, 0.0, 0.0, 0.37]], dtype=torch.float64)
    drafted = target[:, :3].argmax(-1)
    for count in range(4):
        step = verify(
            rule,
            draft[:, :3],
            target,
            drafted,
            uniform,
            count=torch.tensor([count]),
            bonus_draft_logits=draft[:, 3],
        )
        assert int(step.accepted) == count
        p, q = (each[0, count].double().softmax(-1) for each in (draft, target))
        assert int(step.next_token) == int(inverse_cdf(rule.bonus(p, q), torch.tensor(0.37, dtype=torch.float64)))


def test_a_residual_kernel_and_a_residual_per_rejected_token_are_looked_up_at_that_token():
    neighbours = np.array([[1], [0], [3], [2], [0]])
    for rule in (SampleMatch(), Lantern(neighbours=neighbours, delta=0.3, k=1)):
        outcome = known_outcome(rule)
        for token in (0, 1, 3):
            if float(outcome.acceptance[token]) < 1:
                uniforms = torch.stack([torch.full_like(grid(), BELOW_ONE), grid()], dim=1)
                replaced = judged(rule, torch.full((CELLS, 1), token), uniforms).next_token
                expected = outcome.residual_after(torch.tensor(token))
                np.testing.assert_allclose(np.bincount(replaced, minlength=5) / CELLS, expected, atol=5 / CELLS)


def good_arguments():
    return {
        "rule": SpeculativeSampling(),
        "draft_logits": torch.zeros(2, 3, 5),
        "target_logits": torch.zeros(2, 4, 5),
        "drafted": torch.zeros(2, 3, dtype=torch.int64),
        "uniforms": torch.zeros(2, 4, dtype=torch.float64),
    }


REFUSED = {
    "k": ({"target_logits": torch.zeros(2, 3, 5)}, r"target_logits: expected torch.float32 \(2, 4, 5\)"),
    "vocab": ({"target_logits": torch.zeros(2, 4, 6)}, r"target_logits: expected .* \(2, 4, 5\)"),
    "no batch": ({"draft_logits": torch.zeros(3, 5)}, r"draft_logits: expected .*got torch.float32 \(3, 5\)"),
    "integers": ({"draft_logits": torch.zeros(2, 3, 5, dtype=torch.int64)}, "draft_logits: expected floating"),
    "tokens": ({"drafted": torch.zeros(2, 3)}, "drafted: expected int64 tokens"),
    "flat tokens": ({"drafted": torch.zeros(3, dtype=torch.int64)}, "drafted: expected int64 tokens"),
    "uniforms": ({"uniforms": torch.zeros(2, 4)}, r"uniforms: expected torch.float64 \(2, 4\)"),
    "few uniforms": ({"uniforms": torch.zeros(2, 3).double()}, r"uniforms: expected torch.float64 \(2, 4\)"),
    "count": ({"count": torch.zeros(2)}, r"count: expected torch.int64 \(2,\)"),
    "device": ({"count": torch.zeros(2, dtype=torch.int64, device="meta")}, "on meta"),
    "temperature": ({"temperature": -0.1}, "temperature: expected a finite number >= 0; got -0.1"),
    "endless temperature": ({"temperature": math.inf}, "temperature: expected"),
    "backend": ({"backend": "cuda"}, "backend: expected 'auto', 'torch' or 'triton'; got 'cuda'"),
    "triton here": ({"backend": "triton"}, "backend='triton': expected"),
    "triton and any rule": ({"backend": "triton", "rule": SampleMatch()}, "backend='triton': expected"),
    "triton and exact": ({"backend": "triton", "exact": True}, "backend='triton': expected"),
    "block rule": ({"rule": Consultant()}, "call verify_block_rule"),
    "no bonus": ({"rule": Typical()}, "bonus_draft_logits: expected shape .*got None"),
    "bonus": ({"rule": Typical(), "bonus_draft_logits": torch.zeros(2, 6)}, "bonus_draft_logits: .*got .2, 6."),
    "raw": (
        {
            "rule": MARS(),
            "raw_logits": (torch.zeros(2, 3, 5), torch.zeros(2, 3, 5)),
            "bonus_draft_logits": torch.zeros(2, 5),
        },
        r"raw target_logits: expected .* \(2, 4, 5\)",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused(arguments, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=message):
        verify(**(good_arguments() | arguments))


def test_a_machine_without_triton_says_so_only_when_asked_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "decoding.verification.kernels", None)
    with pytest.raises(InputError, match="the package triton"):
        verify(**good_arguments(), backend="triton")
    assert verify(**good_arguments()).accepted.tolist() == [3, 3]


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_the_kernels_get_what_they_ask_for_and_no_temperature_0(temperature, monkeypatch):
    seen = []

    def kernel(form, draft_logits, target_logits, drafted, uniforms, *, count, temperature):
        assert temperature > 0
        seen.append(form)
        return verify_ratio(form, draft_logits, target_logits, drafted, uniforms, count=count, temperature=temperature)

    monkeypatch.setitem(sys.modules, "decoding.verification.kernels", SimpleNamespace(verify_ratio=kernel))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    generator = torch.manual_seed(4)
    draft, target = torch.randn(30, 2, 6, generator=generator), torch.randn(30, 3, 6, generator=generator)
    drafted = inverse_cdf(law(draft, temperature), torch.rand(30, 2, dtype=torch.float64, generator=generator))
    arguments = draft, target, drafted, torch.rand(30, 3, dtype=torch.float64, generator=generator)
    for rule in (SpeculativeSampling(), CommonPrice(price=0.5)):
        there = verify(rule, *arguments, temperature=temperature, backend="triton")
        here = verify(rule, *arguments, temperature=temperature)
        assert torch.equal(there.accepted, here.accepted)
        assert torch.equal(there.next_token, here.next_token)
    # on a CPU "auto" takes torch
    assert len(seen) == 2
