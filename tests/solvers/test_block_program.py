"""The block program: proved by its bound, above block verification nowhere, and below every rule."""

import itertools

import numpy as np
import pytest
from prefixes import prefix_laws
from tolerances import assert_at_most, assert_close

from solvers.block_program import BlockPolicy, BlockTree, block_bound, solve_block
from tradeoff.rule import Block
from tradeoff.rules import BlockPrice

CASES = list(itertools.product(range(8), [(2, 2), (3, 2), (2, 3)], [0.0, 0.3]))


def tree_of(seed, shape, zeros):
    vocab, length = shape
    laws = (prefix_laws(each, vocab=vocab, horizon=length, zeros=zeros) for each in (seed, 70 + seed))
    draft, target = laws
    return BlockTree(draft=draft, target=list(draft) if seed == 7 else target)


def policy_of(rule, tree):
    """Masses of a rule by enumeration of all blocks."""
    vocab, length = len(tree.draft[0]), len(tree.draft)
    kept, stopped = ([np.zeros((vocab,) * (i + 1)) for i in range(length)] for _ in range(2))
    for drafted in itertools.product(range(vocab), repeat=length):
        chance = float(tree.reach[-1][drafted])
        if chance > 0:
            rows = [np.stack([law[drafted[:i]] for i, law in enumerate(laws)]) for laws in (tree.draft, tree.target)]
            block = Block(drafted=drafted, draft=rows[0], target=np.concatenate([rows[1], rows[1][-1:]]))
            verdict = rule.verdict(block, ())
            for i in range(length):
                kept[i][drafted[: i + 1]] += chance * float(verdict.accepted[i + 1 :].sum())
                stopped[i][drafted[:i]] += chance * float(verdict.accepted[i]) * verdict.following[i]
    return BlockPolicy(accepted=kept, stopped=stopped)


@pytest.mark.parametrize(("seed", "shape", "zeros"), CASES)
def test_the_optimum_is_proved_and_below_the_block_price(seed, shape, zeros):
    tree = tree_of(seed, shape, zeros)
    rule = policy_of(BlockPrice(price=0.8), tree)
    assert_close(rule.infeasibility(tree), 0.0, "price root")
    best = solve_block(tree, length=rule.length - 1e-7)
    assert_at_most(best.nats, rule.nats(tree), "interior point objective")
    assert_close(best.policy.infeasibility(tree), 0.0, "interior point objective")
    assert -1e-6 <= best.gap < 5e-3
    priced = solve_block(tree, price=0.8)
    # where the solver leaves masses of 1e-11 its multipliers have three digits; the bound stays a bound
    assert -1e-6 <= priced.gap < 1e-3
    assert_at_most(priced.bound, rule.nats(tree) - 0.8 * rule.length, "interior point objective")


def test_no_slopes_lift_the_bound_above_the_optimum():
    rng = np.random.default_rng(0)
    for seed in range(4):
        tree = tree_of(seed, (3, 2), 0.0)
        best = solve_block(tree, price=0.8)
        for size in (0.1, 1.0, 5.0):
            slopes = [size * rng.random(law.shape) for law in tree.target]
            assert block_bound(tree, slopes, 0.8) <= best.nats - 0.8 * best.length + 1e-7


@pytest.mark.parametrize(("seed", "shape", "zeros"), CASES)
def test_the_lossless_end_is_block_verification(seed, shape, zeros):
    tree = tree_of(seed, shape, zeros)
    exact = policy_of(BlockPrice(price=0.0), tree)
    assert_close(exact.nats(tree), 0.0, "divergence")
    if zeros == 0 and exact.length < len(tree.draft) - 0.02:
        assert solve_block(tree, length=exact.length + 1e-2).nats > 0
    assert_close(solve_block(tree, length=exact.length - 1e-7).nats, 0.0, "interior point objective")
