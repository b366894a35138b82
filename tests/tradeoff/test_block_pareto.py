"""The front of one block: proved points, its lossless end, and questions that have no answer."""

import numpy as np
import pytest
from prefixes import prefix_laws
from tolerances import assert_at_most, assert_close

from solvers.errors import InputError
from tradeoff import joint_law, solve_block_pareto
from tradeoff.rules import BlockVerification


def test_points_are_proved_and_start_at_block_verifications_length():
    draft, target = prefix_laws(0, vocab=3, horizon=2), prefix_laws(70, vocab=3, horizon=2)
    front = solve_block_pareto(draft, target, draft_length=2)
    points = [front.at(length=each) for each in (0.5, 1.0, 1.5)]
    assert all(-1e-6 <= each.optimum.gap < 1e-3 for each in points)
    assert_at_most([each.nats for each in points[:-1]], [each.nats for each in points[1:]], "interior point objective")
    priced = front.at(price=points[1].optimum.price)
    assert_close(priced.length, points[1].length, "interior point multiplier")
    assert priced.to_dict()["tokens_per_call"] == priced.length + 1.0
    assert "accepted tokens" in repr(priced)
    assert joint_law(BlockVerification(), draft, target, draft_length=2, horizon=2).kl < 1e-9


@pytest.mark.parametrize("asked", [{}, {"length": 1.0, "price": 1.0}, {"length": 3.0}, {"price": -1.0}])
def test_questions_without_an_answer_are_refused(asked):
    front = solve_block_pareto(prefix_laws(0, horizon=2), prefix_laws(1, horizon=2), draft_length=2)
    with pytest.raises(InputError, match="expected"):
        front.at(**asked)


def test_the_longest_length_is_what_the_target_may_write_of_the_draft():
    front = solve_block_pareto(
        [np.array([0.6, 0.4]), np.array([[0.5, 0.5], [0.1, 0.9]])],
        [np.array([1.0, 0.0]), np.array([[0.3, 0.7], [0.5, 0.5]])],
        draft_length=2,
    )
    assert front.longest == pytest.approx(0.6 + 0.6)
    assert_close(front.at(length=1.19).length, 1.19, "interior point objective")
    with pytest.raises(InputError, match=r"length: expected a number from 0 to 1\.2; got 1\.3"):
        front.at(length=1.3)
    assert repr(front) == (
        "BlockFront (2 drafted, 2 tokens): least nats of a round at any accepted length\n"
        "  up to 1.2 accepted tokens; .at(length= or price=)"
    )
