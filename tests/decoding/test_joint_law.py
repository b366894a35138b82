"""The text's law is the law we say: two-token joint laws of the loop against enumeration, both entry points."""

import numpy as np
import pytest
import torch
from tiny import DRAFT, FALSE_ALARM, PROMPT, RULES, TARGET, VOCAB, FavourEven, chi_square_p_value, joint_law, law_after
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import decoding
from tradeoff.rules import (
    MARS,
    Cactus,
    Cascade,
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    RatioClip,
    SampleMatch,
    SGLang,
    SpeculativeSampling,
    Typical,
)

TEXTS = 1200
PLAIN = {"do_sample": True, "max_new_tokens": 2, "top_k": 0}
PROMPTS = PROMPT.repeat(TEXTS, 1)
"""Texts of one prompt are rows of one batch: what a row draws is independent of the others."""


def through_generate(rule, **arguments):
    generator = torch.Generator().manual_seed(0)
    return decoding.generate(PROMPTS, target=TARGET, draft=DRAFT, rule=rule, generator=generator, **arguments).sequences


def through_front_door(rule, **arguments):
    torch.manual_seed(0)
    return TARGET.generate(PROMPTS, custom_generate=decoding.speculative, draft=DRAFT, rule=rule, **arguments)


def counts(entry, rule, **arguments):
    table = np.zeros((VOCAB, VOCAB), dtype=int)
    np.add.at(table, tuple(entry(rule, **PLAIN | arguments)[:, -2:].numpy().T), 1)
    return table


@pytest.mark.parametrize("entry", [through_generate, through_front_door])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_two_token_law_is_the_exact_law(rule, entry):
    # the two entry points draw from different streams, so both are samples of their own
    assert chi_square_p_value(counts(entry, rule), joint_law(rule, PROMPT, draft_length=4)) > FALSE_ALARM


@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5)], ids=repr)
def test_a_bonus_token_follows_the_target(rule):
    law = joint_law(rule, PROMPT, draft_length=1)
    assert chi_square_p_value(counts(through_generate, rule, draft_length=1), law) > FALSE_ALARM


def test_lossless_decoding_has_the_target_law():
    first = law_after(TARGET, PROMPT)[0].numpy()
    second = np.stack([law_after(TARGET, torch.cat([PROMPT, torch.tensor([[x]])], 1))[0].numpy() for x in range(VOCAB)])
    law = first[:, None] * second
    np.testing.assert_allclose(joint_law(SpeculativeSampling(), PROMPT, draft_length=4), law, atol=1e-12)
    assert chi_square_p_value(counts(through_generate, SpeculativeSampling()), law) > FALSE_ALARM


def test_a_residual_that_depends_on_the_rejected_token_is_honoured():
    law = joint_law(SpeculativeSampling(), PROMPT, draft_length=4)
    np.testing.assert_allclose(joint_law(SampleMatch(), PROMPT, draft_length=4), law, atol=1e-12)
    assert chi_square_p_value(counts(through_generate, SampleMatch()), law) > FALSE_ALARM


@pytest.mark.parametrize(
    "rule",
    [
        Cactus(delta=0.2),
        SGLang(single=0.4, acc=0.4),
        Typical(threshold=0.2),
        Cascade(variant="tok3", alpha=0.6),
        MARS(),
    ],
    ids=repr,
)
def test_kernels_bonus_laws_and_raw_logits_reach_the_text(rule):
    # one drafted token a round, so that accepted ones are followed by the rule's own bonus
    law = joint_law(rule, PROMPT, draft_length=1)
    table = counts(through_generate, rule, draft_length=1)
    assert chi_square_p_value(table, law) > FALSE_ALARM
    plain = joint_law(SpeculativeSampling(), PROMPT, draft_length=1)
    assert chi_square_p_value(table, plain) < FALSE_ALARM


def test_warpers_and_custom_processors_apply_once_to_both_laws():
    processors = LogitsProcessorList(
        [FavourEven(), TemperatureLogitsWarper(0.6), TopKLogitsWarper(4), TopPLogitsWarper(0.95)]
    )
    rule = RatioClip(ceiling=1.5)
    arguments = {"temperature": 0.6, "top_k": 4, "top_p": 0.95, "logits_processor": LogitsProcessorList([FavourEven()])}
    table = counts(through_front_door, rule, **arguments)
    law = joint_law(rule, PROMPT, draft_length=4, processors=processors)
    assert chi_square_p_value(table, law) > FALSE_ALARM
    twice = LogitsProcessorList([*processors, TemperatureLogitsWarper(0.6)])
    assert chi_square_p_value(table, joint_law(rule, PROMPT, draft_length=4, processors=twice)) < FALSE_ALARM


def test_the_chi_square_check_rejects_a_wrong_law():
    table = counts(through_generate, DecodingUNO(epsilon=0.1))
    assert chi_square_p_value(table, joint_law(DecodingOPT(epsilon=0.1), PROMPT, draft_length=4)) < FALSE_ALARM
    assert chi_square_p_value(np.array([1, 9]), np.array([0.0, 1.0])) == 0.0
