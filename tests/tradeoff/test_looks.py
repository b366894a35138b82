"""A rule looks the same in every figure, and no two rules of one figure look alike."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tradeoff import solve_pareto
from tradeoff.fronts.looks import FAMILIES, MARKS, OWN, look_of, looks_of
from tradeoff.rules import DecodingOPT, DecodingUNO, SpeculativeSampling, available
from tradeoff.rules.registry import families


def test_a_rule_its_spec_and_its_spec_with_a_knob_have_one_look():
    for rule, *specs in (
        (DecodingOPT(epsilon=0.1), "decoding_opt", "decoding_opt:epsilon=0.3"),
        (DecodingUNO(epsilon=0.1), "decoding_uno", "decoding_uno:epsilon=0.3", "decoding_uno:residual=target"),
        (
            DecodingUNO(epsilon=0.1, residual="draft"),
            "decoding_uno:residual=draft",
            "decoding_uno:epsilon=1,residual=draft",
        ),
        (SpeculativeSampling(), "speculative_sampling"),
    ):
        assert len({(look.colour, look.marker) for look in map(look_of, (rule, *specs))}) == 1


def test_shipped_rules_have_a_family_and_others_too():
    assert all(look_of(info.name).family in dict(FAMILIES.values()) for info in available())
    assert {look_of(name).family for name in ("r" * 90, "laws:nothing", "\ud800", "a:b:c=1")} == {OWN[0]}


def test_no_two_rules_of_a_figure_look_alike():
    named = looks_of(family.spec for family in families())
    shared = Counter(look.colour for look in named)
    different = {(look.colour, look.marker) for look in named}
    assert len(different) == sum(min(count, len(MARKS)) for count in shared.values())  # 15 mixtures have 11 marks
    steps = looks_of(f"decoding_opt:epsilon=0.{digit}" for digit in range(1, 10))
    assert {look.colour for look in steps} == {look_of("decoding_opt").colour}
    assert len({look.marker for look in steps}) == 9 <= len(MARKS)


@pytest.mark.parametrize("first", ["decoding_uno:epsilon=0.2", "ratio_clip:ceiling=1.5"])
def test_a_figure_draws_a_rule_in_its_look_whatever_stands_before_it(first):
    front = solve_pareto(np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2]))
    try:
        ax = front.plot(rules=[first, "decoding_opt:epsilon=0.1"])
        (line,) = (each for each in ax.get_lines() if each.get_label() == "decoding_opt:epsilon=0.1")
        look = look_of("decoding_opt")
        assert (line.get_color(), line.get_marker()) == (look.colour, look.marker)
    finally:
        plt.close("all")
