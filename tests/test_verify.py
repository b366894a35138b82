"""One verification step as a function of its uniforms."""

import numpy as np
import pytest
import torch
from tiny import RULES

from decoding.verify import inverse_cdf, verify
from tradeoff.outcome import apply_rule
from tradeoff.rules import CommonPrice, RatioClip, SpeculativeSampling

DRAFT = torch.tensor([[0.7, 0.2, 0.1, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([[0.4, 0.4, 0.1, 0.1]], dtype=torch.float64)
BELOW_ONE = 1 - 2**-53


def uniforms(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("law", [[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.3, 0.3, 0.3, 0.1], [1.0]])
@pytest.mark.parametrize("uniform", [0.0, 2**-53, 0.25, 0.5, 0.75, BELOW_ONE])
def test_inverse_cdf_never_draws_a_token_without_mass(law, uniform):
    law = torch.tensor(law, dtype=torch.float64)
    assert law[inverse_cdf(law, uniforms(uniform))] > 0


def test_inverse_cdf_draws_each_token_on_an_interval_as_long_as_its_mass():
    law = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    drawn = [int(inverse_cdf(law, uniforms((i + 0.5) / 1000))) for i in range(1000)]
    assert np.bincount(drawn, minlength=4).tolist() == [100, 0, 600, 300]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_emitted_law_over_a_grid_of_uniforms_is_the_rules_output_law(rule):
    # midpoints integrate a step function of u to within one cell per step: 4 steps in each variable
    cells = 120
    grid = [(i + 0.5) / cells for i in range(cells)]
    emitted = np.zeros(4)
    law = apply_rule(rule, DRAFT, TARGET).output_law[0]
    for token in range(3):
        step = verify(rule, DRAFT, TARGET, torch.tensor([token]), uniforms(0.0, 0.0), bonus_law=None)
        chance = float(step.outcome.acceptance[0, token])
        accepted = [
            verify(rule, DRAFT, TARGET, torch.tensor([token]), uniforms(u, 0.5), bonus_law=None).accepted for u in grid
        ]
        assert abs(np.mean(accepted) - chance) <= 1 / cells
        emitted[token] += float(DRAFT[0, token]) * chance
        if chance < 1:
            replaced = [
                verify(rule, DRAFT, TARGET, torch.tensor([token]), uniforms(BELOW_ONE, u), bonus_law=None).next_token
                for u in grid
            ]
            emitted += (
                float(DRAFT[0, token]) * (1 - chance) * np.bincount(np.array(replaced, dtype=int), minlength=4) / cells
            )
    np.testing.assert_allclose(emitted, law, atol=4 / cells)


def test_the_first_rejection_ends_the_block():
    draft, target = DRAFT.repeat(3, 1), TARGET.repeat(3, 1)
    # token 0 is accepted with probability 4/7
    step = verify(
        SpeculativeSampling(), draft, target, torch.tensor([0, 0, 1]), uniforms(0.5, 0.6, 0.0, 0.0), bonus_law=None
    )
    assert step.accepted == 1
    assert step.next_token == 1  # the residual has mass on tokens 1 and 3 only


@pytest.mark.parametrize("bonus", [None, torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)])
def test_a_full_block_is_followed_by_the_bonus_or_by_nothing(bonus):
    step = verify(SpeculativeSampling(), DRAFT, TARGET, torch.tensor([1]), uniforms(BELOW_ONE, 0.3), bonus_law=bonus)
    assert step.accepted == 1
    assert step.next_token == (None if bonus is None else 3)


def test_equal_laws_accept_everything():
    step = verify(SpeculativeSampling(), TARGET, TARGET, torch.tensor([3]), uniforms(BELOW_ONE, 0.0), bonus_law=None)
    assert step.accepted == 1
    assert float(step.outcome.rejection[0]) == 0.0


def test_a_token_unknown_to_the_target_is_rejected_even_at_uniform_zero():
    target = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    for rule in (SpeculativeSampling(), RatioClip(ceiling=2.0), CommonPrice(price=3.0)):
        step = verify(rule, DRAFT, target, torch.tensor([0]), uniforms(0.0, 0.0), bonus_law=None)
        assert step.accepted == 0
        assert float(target[0, step.next_token]) > 0


def test_a_drafted_token_the_claimed_draft_law_excludes_is_accepted_only_if_the_target_knows_it():
    # the claimed law gives token 3 nothing: whoever drew it did not draw from that law
    step = verify(SpeculativeSampling(), DRAFT, TARGET, torch.tensor([3]), uniforms(BELOW_ONE, 0.0), bonus_law=None)
    assert step.accepted == 1
