"""generate() behaves as users of generate() expect, and its statistics are the truth about the text."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DRAFT, PROMPT, TARGET, VOCAB, FavourEven, law_after, tiny_model
from transformers import (
    DynamicCache,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

import decoding
from solvers.errors import InputError
from tradeoff import evaluate
from tradeoff.rules import (
    BlockVerification,
    CommonPrice,
    Consultant,
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
    return decoding.generate(TARGET, DRAFT, prompt, generator=generator, **defaults | arguments)


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
    statistics = decoding.generate(TARGET, TARGET, PROMPT, do_sample=True, max_new_tokens=3, draft_length=8).statistics
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
    output = decoding.generate(TARGET, DRAFT, PROMPT, generation_config=config)
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
            np.testing.assert_allclose(values[place], outcome.divergence(name)[0], atol=1e-5)
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
    statistics = decoding.generate(target, draft, PROMPT, rule=RatioClip(ceiling=1.5), **arguments).statistics
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
        decoding.generate(TARGET, tiny_model(0, vocab=7), PROMPT, max_new_tokens=2)


def test_a_model_that_writes_nan_is_a_clear_error():
    broken = tiny_model.__wrapped__(5)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="draft model: expected at least one finite logit"):
        decoding.generate(TARGET, broken, PROMPT, do_sample=True, max_new_tokens=2)


def test_a_draft_of_another_dtype_is_verified_by_the_law_it_was_drawn_from():
    draft = copy.deepcopy(DRAFT).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    output = decoding.generate(TARGET, draft, PROMPT, do_sample=True, max_new_tokens=20, top_k=0, generator=generator)
    statistics = output.statistics
    for place, position in enumerate(statistics.position):
        prefix = output.sequences[:, : PROMPT.shape[1] + position]
        with torch.no_grad():
            law = draft(prefix).logits[:, -1].double().softmax(-1)
        outcome = evaluate(SpeculativeSampling(), law, law_after(TARGET, prefix))
        # bfloat16 has 3 digits, and a cached pass rounds otherwise than a whole one
        np.testing.assert_allclose(statistics.rejection[place], outcome.rejection[0], atol=0.02)
    assert statistics.divergences["kl"].max() < 1e-9


def test_padded_vocabularies_are_cut_to_the_common_part_with_a_warning():
    target, draft = tiny_model(28, vocab=40), tiny_model(2, vocab=40)
    arguments = {"rule": CommonPrice(price=0.5), "do_sample": True, "max_new_tokens": 20, "top_k": 0}

    def run(draft):
        return decoding.generate(target, draft, PROMPT, generator=torch.Generator().manual_seed(0), **arguments)

    with pytest.warns(UserWarning, match="differ by padding: tokens from 40 on"):
        output = run(_wider(draft, 41))
    assert torch.equal(output.sequences, run(draft).sequences)


def _wider(model, vocab):
    """The same model with more tokens, likelier than any other: they must not be drawn."""
    config = copy.deepcopy(model.config)
    config.vocab_size = vocab
    wide = type(model)(config).eval()
    old = model.state_dict()
    with torch.no_grad():
        for name, values in wide.state_dict().items():
            values[: len(old[name])] = old[name]
            values[len(old[name]) :] = 100.0
    return wide


class PoisonAfter:
    """A logits processor that gives NaN to one row of the batch once its text is long enough."""

    def __init__(self, row: int, length: int) -> None:
        self.row, self.length = row, length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        if input_ids.shape[1] >= self.length:
            scores[self.row] = float("nan")
        return scores


@pytest.mark.parametrize("kind", [None, "static"])
@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5), BlockVerification(), Consultant()])
def test_a_row_without_a_law_ends_and_leaves_the_others_alone(rule, kind):
    def run(processors):
        return decoding.generate(
            TARGET,
            DRAFT,
            torch.tensor([[1, 3], [2, 1], [3, 3]]),
            rule=rule,
            generator=[torch.Generator().manual_seed(row) for row in range(3)],
            logits_processor=LogitsProcessorList(processors),
            cache_implementation=kind,
            do_sample=True,
            max_new_tokens=20,
            top_k=0,
        )

    whole = run([])
    with pytest.warns(RuntimeWarning, match=r"rows \[1\] of the batch ended early: draft model: expected"):
        broken = run([PoisonAfter(1, 9)])
    assert [error is None for error in broken.errors] == [True, False, True]
    for row in (0, 2):
        assert torch.equal(broken.sequences[row], whole.sequences[row])
    kept = broken.texts[1].generated
    assert 0 < kept < 9
    assert torch.equal(broken.sequences[1, 2 : 2 + kept], whole.sequences[1, 2 : 2 + kept])


class Interrupt:
    """A stopping criterion that presses Ctrl-C."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] >= self.length:
            raise KeyboardInterrupt
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_ctrl_c_returns_what_was_generated_with_its_account():
    whole = generate(seed=1)
    output = generate(seed=1, stopping_criteria=StoppingCriteriaList([Interrupt(12)]))
    assert output.interrupted
    assert not whole.interrupted
    statistics = output.statistics
    assert 0 < statistics.generated == output.sequences.shape[1] - PROMPT.shape[1] < 12
    assert torch.equal(output.sequences, whole.sequences[:, : output.sequences.shape[1]])
    np.testing.assert_array_equal(statistics.rejection, whole.statistics.rejection[: statistics.verified])


def test_ctrl_c_is_not_swallowed_where_only_tokens_are_returned():
    with pytest.raises(KeyboardInterrupt):
        TARGET.generate(
            PROMPT,
            custom_generate=decoding.speculative,
            draft=DRAFT,
            do_sample=True,
            max_new_tokens=20,
            stopping_criteria=StoppingCriteriaList([Interrupt(12)]),
        )


class Collect(BaseStreamer):
    """What a streamer is told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.ended = False

    def put(self, value: Any) -> None:
        self.told += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_is_told_the_prompt_and_every_token():
    streamer = Collect()
    output = generate(streamer=streamer)
    assert streamer.told == output.sequences[0].tolist()
    assert streamer.ended
    with pytest.raises(InputError, match="streamer: expected a batch of one"):
        generate(prompt=PROMPT.repeat(2, 1), streamer=Collect())


def test_scores_are_the_targets_logits_at_every_token():
    ids = torch.tensor([[1, 3], [2, 1]])
    arguments = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.5, "eos_token_id": 2}
    expected = TARGET.generate(ids, output_scores=True, output_logits=True, return_dict_in_generate=True, **arguments)
    output = decoding.generate(TARGET, DRAFT, ids, output_scores=True, output_logits=True, **arguments)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.scores is not None
    assert output.logits is not None
    for row, text in enumerate(output.texts):
        for place in range(text.generated):
            np.testing.assert_allclose(output.scores[place][row], expected.scores[place][row], atol=1e-5)
            np.testing.assert_allclose(output.logits[place][row], expected.logits[place][row], atol=1e-5)
    sampled = generate(output_scores=True, temperature=0.5)
    plain = law_after(TARGET, PROMPT)[0].log() / 0.5
    assert sampled.scores is not None
    np.testing.assert_allclose(sampled.scores[0][0].double().softmax(-1), plain.softmax(-1), atol=1e-6)
    assert generate().scores is None


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_that_knows_the_prompt_is_taken_over(kind):
    prompt = torch.tensor([[1, 3, 2, 4, 3, 1]])
    expected = generate(prompt=prompt)
    cache = DynamicCache(config=TARGET.config)
    if kind == "static":
        cache = StaticCache(config=TARGET.config, max_cache_len=30)
    with torch.no_grad():
        TARGET(prompt[:, :4], past_key_values=cache)
    calls = []
    hook = TARGET.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        output = generate(prompt=prompt, past_key_values=cache)
    finally:
        hook.remove()
    assert torch.equal(output.sequences, expected.sequences)
    assert calls[0] == 1  # the fifth token; the sixth comes with the first block


def test_the_time_is_split_into_parts_that_add_up():
    seconds = generate().seconds
    assert min(seconds.draft, seconds.target, seconds.verify, seconds.rest) > 0
    assert seconds.total == pytest.approx(seconds.draft + seconds.target + seconds.verify + seconds.rest)


def test_counts_only_leave_exact_columns_empty_and_all_counts_in_place():
    exact, counts = generate(seed=2).statistics, generate(seed=2, account="counts").statistics
    assert np.isnan(counts.rejection).all()
    assert np.isnan(counts.log_likelihood).all()
    np.testing.assert_array_equal(counts.accepted, exact.accepted)
    assert counts.verified == exact.verified
    assert exact.spent["kl"] == pytest.approx(exact.divergences["kl"].sum())


@pytest.mark.parametrize("kind", [None, "static"])
def test_drafts_behind_the_last_position_of_a_model_are_harmless(kind):
    # learned positions: a token at position 12 would be an index error
    def model(seed):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=VOCAB, n_positions=12, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
        config.bos_token_id = config.eos_token_id = None
        return GPT2LMHeadModel(config).eval()

    target, draft = model(0), model(1)
    ids = torch.tensor([[1, 3, 2, 4], [0, 0, 0, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    arguments: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": 8,
        "draft_length": 5,
        "pad_token_id": 0,
    }

    def write(rows, **more):
        return decoding.generate(
            target,
            draft,
            ids[rows],
            attention_mask=mask[rows],
            generator=[torch.Generator().manual_seed(row) for row in rows],
            **arguments | more,
        ).sequences

    together = write([0, 1], cache_implementation=kind)
    for row in (0, 1):
        assert torch.equal(together[row : row + 1], write([row]))
