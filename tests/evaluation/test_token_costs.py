"""What single tokens cost: their mean is the divergence of the position, their sum the log-ratio of texts."""

import numpy as np
import pytest
import torch
from tiny import DRAFT, PROMPT, TARGET, kept_at, law_after

import decoding
from decoding.evaluation.study.token_costs import pieces, token_costs
from decoding.huggingface.pair import Pair
from decoding.sampling.parameters import PLAIN, Sampling
from tradeoff import evaluate
from tradeoff.rules import CommonPrice, DecodingOPT, DecodingUNO, SpeculativeSampling


class Letters:
    """A tokenizer of one letter a token."""

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return "".join("abcdefgh"[token] for token in tokens)


PAIR = Pair(target=TARGET, draft=DRAFT, tokenizer=Letters(), name="tiny")


def generated(rule, sampling=PLAIN, tokens=12, seed=0):
    output = decoding.generate(
        PROMPT,
        target=TARGET,
        draft=DRAFT,
        rule=rule,
        generator=torch.Generator().manual_seed(seed),
        max_new_tokens=tokens,
        do_sample=True,
        **vars(sampling),
    )
    written = output.sequences[0, PROMPT.shape[1] :].tolist()
    return written, output.statistics, token_costs(PAIR, PROMPT, written, output.statistics, rule, sampling)


@pytest.mark.parametrize(
    "sampling", [PLAIN, Sampling(temperature=0.6), Sampling(temperature=1.4, top_p=0.8, top_k=4)], ids=str
)
@pytest.mark.parametrize(
    "rule",
    [DecodingOPT(epsilon=0.2), DecodingUNO(epsilon=0.2, residual="draft"), CommonPrice(price=0.5)],
    ids=["OPT", "UNO", "price"],
)
def test_costs_are_the_log_ratios_of_laws_computed_one_position_at_a_time(rule, sampling):
    tokens, statistics, costs = generated(rule, sampling)
    text = torch.cat([PROMPT, torch.tensor([tokens])], dim=1)
    for place, (token, cost) in enumerate(zip(tokens, costs, strict=True)):
        before = text[:, : PROMPT.shape[1] + place]
        draft, target = (law_after(model, before, kept_at(sampling))[0].numpy() for model in (DRAFT, TARGET))
        outcome = evaluate(rule, draft, target)
        if cost.fate == "bonus":
            assert (cost.cost, cost.divergence) == pytest.approx((0.0, 0.0), abs=1e-6)
            continue
        with np.errstate(divide="ignore"):
            assert cost.cost == pytest.approx(np.log(outcome.output_law[token] / target[token]), abs=1e-5)
        assert cost.divergence == pytest.approx(float(outcome.kl), abs=1e-5)
    assert [cost.text for cost in costs] == ["abcdefgh"[token] for token in tokens]
    # what the loop itself charged on the way
    charged = [cost.divergence for cost in costs if cost.fate != "bonus"]
    assert charged == pytest.approx(statistics.divergences["kl"], abs=1e-5)


def test_fates_are_the_loop_s_own():
    _, statistics, costs = generated(DecodingOPT(epsilon=0.02), tokens=30)
    fates = [cost.fate for cost in costs]
    assert fates.count("replaced") == statistics.rejected > 0
    assert fates.count("bonus") == statistics.bonus > 0
    assert fates.count("accepted") == statistics.verified - statistics.rejected > 0
    assert [fates[place] == "accepted" for place in statistics.position] == statistics.accepted.tolist()


def test_a_replaced_token_stands_beside_the_one_that_was_rejected_with_the_cost_that_it_would_have_had():
    rule = DecodingOPT(epsilon=0.02)
    tokens, statistics, costs = generated(rule, tokens=30)
    text = torch.cat([PROMPT, torch.tensor([tokens])], dim=1)
    drafted = dict(zip(statistics.position, statistics.drafted_token, strict=True))
    for place, cost in enumerate(costs):
        if cost.fate != "replaced":
            assert (cost.rejected, cost.rejected_cost) == (None, None)
            assert drafted.get(place, tokens[place]) == tokens[place]
            continue
        before = text[:, : PROMPT.shape[1] + place]
        draft, target = (law_after(model, before)[0].numpy() for model in (DRAFT, TARGET))
        outcome = evaluate(rule, draft, target)
        assert cost.rejected == "abcdefgh"[drafted[place]]
        assert outcome.acceptance[drafted[place]] < 1
        ratio = outcome.output_law[drafted[place]] / target[drafted[place]]
        assert cost.rejected_cost == pytest.approx(np.log(ratio), abs=1e-5)


@pytest.mark.parametrize("sampling", [PLAIN, Sampling(top_k=2)], ids=str)
def test_lossless_tokens_cost_nothing_nor_do_rejected_ones_that_the_target_never_writes(sampling):
    _, _, costs = generated(SpeculativeSampling(), sampling, tokens=24)
    assert max(abs(cost.cost) for cost in costs) < 1e-6
    rejected = [cost.rejected_cost for cost in costs if cost.rejected_cost is not None]
    assert rejected
    assert max(map(abs, rejected)) < 1e-6


def test_a_text_without_tokens_has_no_costs():
    _, statistics, _ = generated(SpeculativeSampling())
    assert token_costs(PAIR, PROMPT, [], statistics, SpeculativeSampling(), PLAIN) == []


def test_pieces_join_to_the_text_and_wait_for_the_last_part_of_a_character():
    pair = decoding.load_pair()
    for text in ("One day, a small  dragon", "naïve café: 🐉 and 東京!"):
        tokens = pair.tokenizer(text).input_ids
        found = pieces(pair, tokens)
        assert len(found) == len(tokens)
        assert "".join(found) == pair.tokenizer.decode(tokens, skip_special_tokens=True)
        assert not any("\ufffd" in piece for piece in found)
