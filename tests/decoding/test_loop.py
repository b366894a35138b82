"""generate() behaves as users of generate() expect, and its statistics are the truth about the text."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DRAFT, PROMPT, TARGET, VOCAB, FavourEven, law_after, tiny_model
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

import decoding
from solvers.errors import InputError
from tradeoff import evaluate
from tradeoff.rules import (
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    RatioClip,
    SpeculativeSampling,
)


def generate(seed=0, prompt=PROMPT, **arguments):
    defaults = {"do_sample": True, "max_new_tokens": 20, "top_k": 0, "rule": CommonPrice(price=0.5)}
    generator = torch.Generator().manual_seed(seed)
    if "generator_list" in arguments:
        generator = [generator] * arguments.pop("generator_list")
    return decoding.generate(prompt, target=TARGET, draft=DRAFT, generator=generator, **defaults | arguments)


@pytest.mark.parametrize("draft_length", [1, 2, 5, 30])
@pytest.mark.parametrize("rule", [SpeculativeSampling(), RatioClip(ceiling=2.0), CommonPrice(price=1.0)], ids=repr)
def test_greedy_text_is_the_targets_greedy_text(rule, draft_length):
    expected = TARGET.generate(PROMPT, do_sample=False, max_new_tokens=25)
    output = generate(do_sample=False, max_new_tokens=25, rule=rule, draft_length=draft_length)
    assert torch.equal(output.sequences, expected)
    assert 0 < output.statistics.rejected < output.statistics.verified  # both paths were walked


def test_greedy_decoding_applies_the_rule_to_point_masses():
    # one-hot laws that differ: Decoding-OPT accepts the draft's token with probability epsilon
    statistics = generate(do_sample=False, max_new_tokens=25, rule=DecodingOPT(epsilon=0.25)).statistics
    assert set(np.round(statistics.rejection, 12)) <= {0.0, 0.75}
    assert 0.75 in np.round(statistics.rejection, 12)


def test_repetition_penalty_reaches_both_models():
    expected = TARGET.generate(PROMPT, do_sample=False, max_new_tokens=12, repetition_penalty=1.5)
    plain = TARGET.generate(PROMPT, do_sample=False, max_new_tokens=12)
    assert not torch.equal(expected, plain)
    output = generate(do_sample=False, max_new_tokens=12, repetition_penalty=1.5, rule=SpeculativeSampling())
    assert torch.equal(output.sequences, expected)


def test_equal_seeds_give_equal_text_and_unequal_ones_do_not():
    assert torch.equal(generate(seed=3).sequences, generate(seed=3).sequences)
    assert not torch.equal(generate(seed=3).sequences, generate(seed=4).sequences)


def test_both_entry_points_write_the_same_text_from_the_same_generator():
    arguments = {"do_sample": True, "max_new_tokens": 20, "top_k": 0}
    rule, generator = RatioClip(ceiling=1.5), torch.Generator().manual_seed(7)
    front = TARGET.generate(
        PROMPT, custom_generate=decoding.speculative, draft=DRAFT, rule=rule, generator=generator, **arguments
    )
    assert torch.equal(front, generate(seed=7, rule=rule).sequences)


def test_the_front_door_returns_what_generate_returns():
    arguments = {"custom_generate": decoding.speculative, "draft": DRAFT, "do_sample": True, "max_new_tokens": 3}
    assert isinstance(TARGET.generate(PROMPT, **arguments), torch.Tensor)
    output = TARGET.generate(PROMPT, **arguments, return_dict_in_generate=True)
    assert isinstance(output, decoding.SpeculativeOutput)
    assert output.statistics.generated == output.sequences.shape[1] - PROMPT.shape[1] == 3


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_max_new_tokens_is_exact(count):
    assert generate(max_new_tokens=count).sequences.shape[1] == PROMPT.shape[1] + count


def test_a_block_is_no_longer_than_the_room_left():
    statistics = decoding.generate(
        PROMPT, target=TARGET, draft=TARGET, do_sample=True, max_new_tokens=3, draft_length=8
    ).statistics
    assert (statistics.drafted.tolist(), statistics.target_calls, statistics.bonus) == ([3], 1, 0)


def test_an_end_token_inside_a_block_ends_the_text():
    for seed in range(20):
        text = generate(seed=seed, eos_token_id=[0, 4], draft_length=8, max_new_tokens=25).sequences[
            0, PROMPT.shape[1] :
        ]
        ends = [index for index, token in enumerate(text.tolist()) if token in (0, 4)]
        assert ends == [len(text) - 1] or (not ends and len(text) == 25)


class StopAfterPair(StoppingCriteria):
    """Stop once the last two tokens are equal: a criterion that must be asked after every token."""

    def __call__(self, input_ids, scores, **kwargs) -> Any:
        return input_ids[:, -1] == input_ids[:, -2]


def test_stopping_criteria_are_asked_after_every_token():
    for seed in range(20):
        output = generate(
            seed=seed, stopping_criteria=StoppingCriteriaList([StopAfterPair()]), draft_length=6, max_new_tokens=25
        )
        text = output.sequences[0].tolist()
        pairs = [i for i in range(PROMPT.shape[1], len(text)) if text[i] == text[i - 1]]
        assert pairs == [len(text) - 1] or (not pairs and len(text) == PROMPT.shape[1] + 25)
        assert output.statistics.generated == len(text) - PROMPT.shape[1]


def test_a_generation_config_is_honoured():
    config = GenerationConfig(do_sample=True, max_new_tokens=7, top_k=1)
    output = decoding.generate(PROMPT, target=TARGET, draft=DRAFT, generation_config=config)
    assert torch.equal(output.sequences, TARGET.generate(PROMPT, do_sample=False, max_new_tokens=7))


@pytest.mark.parametrize("draft_length", [1, 3, 7])
@pytest.mark.parametrize("rule", [DecodingUNO(epsilon=0.1), CommonPrice(price=0.5)], ids=repr)
@pytest.mark.parametrize(
    "processors", [[], [FavourEven(), RepetitionPenaltyLogitsProcessor(1.5)]], ids=["plain", "processed"]
)
def test_statistics_are_the_exact_values_along_the_text(rule, draft_length, processors):
    processors = LogitsProcessorList(processors)
    output = generate(rule=rule, draft_length=draft_length, seed=11, logits_processor=processors)
    statistics, text = output.statistics, output.sequences
    start = PROMPT.shape[1]
    for place, position in enumerate(statistics.position):
        prefix = text[:, : start + position]
        outcome = evaluate(rule, law_after(DRAFT, prefix, processors), law_after(TARGET, prefix, processors))
        np.testing.assert_allclose(statistics.rejection[place], outcome.rejection[0], atol=1e-6)
        for name, values in statistics.divergences.items():
            np.testing.assert_allclose(values[place], outcome.divergence_in(name)[0], atol=1e-5)
    scores = [float(law_after(TARGET, text[:, : start + i])[0, text[0, start + i]].log()) for i in range(20)]
    np.testing.assert_allclose(statistics.log_likelihood, scores, atol=1e-5)


def test_counts_add_up():
    for seed in range(10):
        statistics = generate(seed=seed, draft_length=3).statistics
        assert statistics.generated == 20
        assert statistics.verified + statistics.bonus == statistics.generated
        assert statistics.accepted.sum() + statistics.rejected == statistics.verified
        assert statistics.drafted.sum() >= statistics.verified
        assert statistics.kept.sum() == statistics.accepted.sum()
        assert statistics.kept_histogram.sum() == statistics.target_calls == len(statistics.drafted)
        assert statistics.rejected + statistics.bonus <= statistics.target_calls
        assert statistics.tokens_per_target_call == 20 / statistics.target_calls
        # everything tested at place i+1 of a block was accepted at place i
        tested, kept = np.bincount(statistics.draft_index), np.bincount(statistics.draft_index[statistics.accepted])
        assert all(later <= earlier for later, earlier in zip(tested[1:], kept, strict=False))
        np.testing.assert_allclose(statistics.acceptance_by_draft_index[0], kept[0] / tested[0])


def test_mean_exact_rejection_agrees_with_the_counted_fraction():
    # 1200 tokens; a correct implementation is more than 4.5 standard errors away with probability below 1e-5
    exact, counted, verified = 0.0, 0, 0
    for seed in range(60):
        statistics = generate(seed=seed, rule=DecodingOPT(epsilon=0.05)).statistics
        exact, counted = exact + statistics.rejection.sum(), counted + statistics.rejected
        verified += statistics.verified
    assert abs(exact - counted) < 4.5 * np.sqrt(verified * 0.25)
    assert counted > 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_decode_with_exact_accounts(dtype):
    target, draft = (copy.deepcopy(model).to(dtype) for model in (TARGET, DRAFT))
    generator = torch.Generator().manual_seed(0)
    arguments = {"do_sample": True, "max_new_tokens": 20, "top_k": 0, "generator": generator}
    statistics = decoding.generate(
        PROMPT, target=target, draft=draft, rule=RatioClip(ceiling=1.5), **arguments
    ).statistics
    assert statistics.generated == 20
    # the account is in float64 whatever the models compute in: on the front, R + TV bias = TV(draft, target)
    front = statistics.rejection + statistics.divergences["tv"] - statistics.total_variation
    assert np.abs(front).max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 0]])}, "expected prompts padded on the left"),
        ({"attention_mask": torch.tensor([[0, 0]])}, "expected at least one token"),
        ({"num_beams": 2}, "expected no beams"),
        ({"cache_implementation": "offloaded"}, "expected 'dynamic' or 'static'"),
        ({"generator_list": 2}, "expected one, or one per row; got 2 for 1 rows"),
        ({"draft_length": 0}, "draft_length: expected at least 1"),
        ({"max_new_tokens": 31}, "context of 32"),
        ({"prompt": torch.ones((1, 40), dtype=torch.long), "max_new_tokens": 1}, "context of 32"),
    ],
)
def test_what_cannot_be_decoded_is_a_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        generate(**arguments)


def test_unlike_vocabularies_are_a_clear_error():
    with pytest.raises(InputError, match=f"got {VOCAB} tokens in the target and 7 in the draft"):
        decoding.generate(PROMPT, target=TARGET, draft=tiny_model(0, vocab=7), max_new_tokens=2)


def test_a_model_that_writes_nan_is_a_clear_error():
    broken = tiny_model.__wrapped__(5)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="draft model: expected at least one finite logit"):
        decoding.generate(PROMPT, target=TARGET, draft=broken, do_sample=True, max_new_tokens=2)


def test_a_draft_of_another_dtype_is_verified_by_the_law_it_was_drawn_from():
    draft = copy.deepcopy(DRAFT).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    output = decoding.generate(
        PROMPT, target=TARGET, draft=draft, do_sample=True, max_new_tokens=20, top_k=0, generator=generator
    )
    statistics = output.statistics
    for place, position in enumerate(statistics.position):
        prefix = output.sequences[:, : PROMPT.shape[1] + position]
        with torch.no_grad():
            law = draft(prefix).logits[:, -1].double().softmax(-1)
        outcome = evaluate(SpeculativeSampling(), law, law_after(TARGET, prefix))
        # bfloat16 has 3 digits, and a cached pass rounds otherwise than a whole one
        np.testing.assert_allclose(statistics.rejection[place], outcome.rejection[0], atol=0.02)
    assert statistics.divergences["kl"].max() < 1e-9
