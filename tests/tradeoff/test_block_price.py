"""The block price rule against enumeration of every block, and its clip against plain bisection."""

import itertools
import math

import numpy as np
import pytest
import torch
from prefixes import prefix_laws
from tolerances import assert_close, assert_law

from solvers.closed_form import block_clip
from solvers.errors import InputError
from tradeoff.outcome.block import joint_law
from tradeoff.rule import Block
from tradeoff.rules import BlockPrice, BlockVerification, CommonPrice, from_spec

CASES = [(0, 0.0), (1, 0.3), (2, 0.5)]


def trees(seed, zeros, horizon=4):
    return prefix_laws(seed, zeros=zeros, horizon=horizon), prefix_laws(50 + seed, zeros=zeros, horizon=horizon)


def blocks_of(draft, target, length):
    """Every block that can be drafted, with its probability."""
    for drafted in itertools.product(range(len(draft[0])), repeat=length):
        path = [drafted[:kept] for kept in range(length + 1)]
        chance = math.prod(float(draft[i][drafted[: i + 1]]) for i in range(length))
        if chance > 0:
            laws = (np.stack([t[len(each)][each] for each in path[: length + n]]) for t, n in ((draft, 0), (target, 1)))
            p, q = laws
            yield chance, Block(drafted=drafted, draft=p, target=q)


def bisected(p, q, w, price):
    """The same law by bisection on log c."""
    offered = np.where(p > 0, np.inf if w == 0 else p / max(w, 1e-300), 0.0)
    low, high, law = -price, 0.0, q
    for _ in range(200):
        c = math.exp((low + high) / 2)
        law = np.minimum(np.maximum(offered, c * q), c * math.exp(price) * q)
        low, high = (low, (low + high) / 2) if law.sum() > 1 else ((low + high) / 2, high)
    return law


def pairs():
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.full(6, 0.4), size=(2, 8))
    p[0], q[0] = np.eye(6)[0], np.eye(6)[1]  # disjoint
    p[1], q[1] = np.eye(6)[2], np.eye(6)[2]
    p[2] = q[2]
    q[3, 3:] = 0.0
    p[4, :2] = 0.0
    return p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-7, 1e-310, 0.0])
@pytest.mark.parametrize("price", [0.0, 0.2, 3.0, 40.0])
def test_the_clip_is_the_one_found_by_bisection(weight, price):
    p, q = pairs()
    law = block_clip(p, q, np.full(8, weight), price)
    expected = np.stack([bisected(*row, weight, price) for row in zip(p, q, strict=True)])
    assert_close(law, expected, "price root")
    assert_law(law, "price root")
    assert_close(
        block_clip(torch.asarray(p), torch.asarray(q), torch.full((8,), weight, dtype=torch.float64), price),
        law,
        "price root",
    )
    if price == 0:
        assert np.array_equal(law, q)


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_clip_of_an_infinite_price_is_the_limit_in_float32_too(weight):
    p, q = pairs()
    law = block_clip(p, q, np.full(8, weight), math.inf)
    assert_law(law, "price root")
    assert_close(law, block_clip(p, q, np.full(8, weight), 200.0), "search")
    assert np.asarray(law[q == 0] == 0).all()
    small = block_clip(p.astype(np.float32), q.astype(np.float32), np.full(8, weight, np.float32), 2.0)
    assert small.dtype == np.float32
    assert_close(small, block_clip(p, q, np.full(8, weight), 2.0), "price level", "float32")
    assert_law(
        block_clip(p.astype(np.float32), q.astype(np.float32), np.float32(weight), math.inf), "price level", "float32"
    )


@pytest.mark.parametrize(("seed", "zeros"), CASES)
def test_price_zero_is_block_verification_verdict_for_verdict(seed, zeros):
    for _, block in blocks_of(*trees(seed, zeros), 3):
        free, exact = (rule.verdict(block, ()) for rule in (BlockPrice(price=0.0), BlockVerification()))
        assert (free.accepted == exact.accepted).all()
        assert (free.following == exact.following).all()


@pytest.mark.parametrize(("seed", "zeros"), CASES)
@pytest.mark.parametrize("price", [0.3, 2.0, math.inf])
def test_a_block_of_one_token_is_the_common_price(seed, zeros, price):
    draft, target = trees(seed, zeros, horizon=3)
    block, token = (
        joint_law(rule(price=price), draft, target, draft_length=1, horizon=3) for rule in (BlockPrice, CommonPrice)
    )
    assert_close(block.law, token.law, "price root")
    assert_close(block.accepted, token.accepted, "price root")


@pytest.mark.parametrize(("seed", "zeros"), CASES)
def test_the_laws_along_a_block_are_those_of_the_definition(seed, zeros):
    for _, block in blocks_of(*trees(seed, zeros), 3):
        weight = 1.0
        for place, (token, law) in enumerate(zip(block.drafted, BlockPrice(price=1.5).shaped(block), strict=True)):
            p, q = block.draft[place], block.target[place]
            assert_close(law, bisected(p, q, weight, 1.5), "price root")
            weight = min(1.0, weight * float(law[token]) / float(p[token]))


@pytest.mark.parametrize(("seed", "zeros"), CASES)
@pytest.mark.parametrize("price", [0.0, 0.4, (2.0, 0.5), math.inf])
def test_tokens_after_a_kept_prefix_have_the_shaped_law_and_nats_add_up(seed, zeros, price):
    length, rule = 3, BlockPrice(price=price)
    draft, target = trees(seed, zeros)
    kept, follows, drafted_next, shaped, owed = {}, {}, {}, {}, {}
    lengths = nats = total = 0.0
    for chance, block in blocks_of(draft, target, length):
        verdict, laws, weight = rule.verdict(block, ()), rule.shaped(block), 1.0
        assert_law(verdict.accepted, "price root")
        total += chance * float(verdict.accepted @ np.arange(length + 1))
        for place, (token, law) in enumerate(zip(block.drafted, laws, strict=True)):
            prefix = block.drafted[:place]
            shaped[prefix], owed[prefix] = law, weight
            later = float(verdict.accepted[place + 1 :].sum())
            kept[prefix] = kept.get(prefix, 0.0) + chance * float(verdict.accepted[place:].sum())
            stopped = chance * float(verdict.accepted[place]) * verdict.following[place]
            follows[prefix] = follows.get(prefix, 0.0) + stopped
            drafted_next.setdefault(prefix, np.zeros(len(draft[0])))[token] += chance * later
            q = block.target[place]
            used = law > 0
            nats += chance * weight * float((law[used] * np.log(law[used] / q[used])).sum())
            weight = min(1.0, weight * float(law[token]) / float(block.draft[place, token]))
            lengths += chance * weight
    for prefix, law in shaped.items():
        reach = math.prod(float(draft[i][prefix[: i + 1]]) for i in range(len(prefix)))
        assert_close(kept[prefix], reach * owed[prefix], "price root")
        assert_close(follows[prefix] + drafted_next[prefix], kept[prefix] * law, "price root")
    assert_close(total, lengths, "price root")
    if price == 0.0:
        assert_close(nats, 0.0, "price root")


def test_a_spec_takes_one_price_and_a_tuple_repeats_its_last():
    assert from_spec("block_price:price=2") == BlockPrice(price=2.0)
    assert from_spec("block_price:price=inf") == BlockPrice(price=math.inf)
    for _, block in blocks_of(*trees(5, 0.0), 3):
        short, full = (BlockPrice(price=each).shaped(block) for each in ((1.0, 0.5), (1.0, 0.5, 0.5)))
        assert np.array_equal(short, full)


@pytest.mark.parametrize("price", [-1.0, math.nan, (), (1.0, -1.0), "high", [1.0]])
def test_prices_that_are_none_are_refused(price):
    with pytest.raises(InputError, match="price: expected a number >= 0"):
        BlockPrice(price=price)
