"""Chains fitted to a pair's laws: classes, lumping, averages, states that never occur."""

import numpy as np
from tolerances import assert_close

from benchmarks.pair_chain import averages, chosen, classes_of, lumped

LAST = np.array([5, 5, 5, 2, 2, 0, 3, 3])
LAWS = np.random.default_rng(0).dirichlet(np.ones(6), size=8)


def test_the_most_frequent_tokens_are_classes_of_their_own_and_ties_go_to_the_smaller():
    assert classes_of(LAST, 6, 2).tolist() == [2, 2, 1, 2, 2, 0]


def test_lumping_adds_the_masses_of_a_class():
    masses = lumped(LAWS.astype(np.float32), classes_of(LAST, 6, 2))
    assert masses.dtype == np.float64
    assert_close(masses.sum(axis=1), np.ones(8), "mass")
    expected = np.stack([LAWS[:, 5], LAWS[:, 2], LAWS[:, [0, 1, 3, 4]].sum(axis=1)], axis=1)
    np.testing.assert_allclose(masses, expected, rtol=1e-6)  # float32 laws


def test_a_state_has_the_mean_of_its_laws_and_of_all_laws_where_it_never_occurs():
    laws, states = LAWS[:, :3] / LAWS[:, :3].sum(axis=1, keepdims=True), np.array([0, 0, 2, 0, 2, 2, 2, 2])
    found = averages(laws, states)
    assert_close(found[0], laws[[0, 1, 3]].mean(axis=0), "mass")
    assert_close(found[1], laws.mean(axis=0), "mass")
    assert_close(found[2], laws[[2, 4, 5, 6, 7]].mean(axis=0), "mass")


def test_averages_are_the_chain_of_least_kl():
    laws, states = LAWS[:, :3] / LAWS[:, :3].sum(axis=1, keepdims=True), np.array([0, 0, 2, 0, 2, 2, 2, 1])

    def missed(chain):
        return (laws * np.log(laws / chain[states])).sum()

    best, others = averages(laws, states), np.random.default_rng(1).dirichlet(np.ones(3), size=(50, 3))
    assert all(missed(0.99 * best + 0.01 * other) > missed(best) for other in others)


def test_one_position_is_chosen_for_every_state_that_occurs():
    states = np.array([0, 0, 2, 0, 2, 2, 2, 2])
    assert sorted(states[chosen(states, 1, 0)]) == [0, 2]
    assert chosen(states, 2, None).tolist() == [True] * 4 + [False] * 4
    assert chosen(states, 1, None).all()
