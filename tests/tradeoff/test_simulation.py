"""Algorithms 1 to 4 at random against the exact numbers: every theorem, several rules, and the checks' own power.

A check rejects the truth with probability `FALSE_ALARM` at most (normal approximation over 20,000 runs); there are
about 40 seeded checks, so all of them pass a correct library with probability 0.9999.
"""

from typing import Any

import numpy as np
import pytest
from chain_oracles import random_laws
from scipy import stats
from tolerances import assert_close

from tradeoff import InputError
from tradeoff.chains import (
    MarkovChain,
    batch_algorithm,
    batch_expected_rejections,
    expected_rejections,
    output_chain,
    published_chains,
    rejection_lower_bound,
    simulate,
    simulate_autoregressive,
    simulate_batch,
)
from tradeoff.chains.simulation import _Texts
from tradeoff.rules import (
    Cactus,
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    SampleMatch,
    SpeculativeSampling,
    Typical,
)

FALSE_ALARM = 2e-6
RUNS = 20_000
RULES = [
    SpeculativeSampling(),
    SampleMatch(),
    DecodingOPT(epsilon=0.1),
    DecodingUNO(epsilon=0.1),
    DecodingUNO(epsilon=0.1, residual="draft"),
    Typical(threshold=0.3),
    Cactus(delta=0.3),
    CommonPrice(price=0.5),
]
CHAINS = published_chains(50)


def wrong(value: Any) -> Any:
    """What the type checker would have refused."""
    return value


def mean_p_value(simulation, mean):
    """Two-sided: the mean of a sum over the runs."""
    return 2 * stats.norm.sf(abs(simulation.mean - mean) / simulation.standard_error)


def variance_p_value(simulation, variance):
    """Two-sided: a sample variance has standard error sqrt((m4 - s^4) / runs)."""
    fourth = ((simulation.rejections - simulation.mean) ** 4).mean()
    error = np.sqrt((fourth - simulation.variance**2) / simulation.runs)
    return 2 * stats.norm.sf(abs(simulation.variance - variance) / error)


def per_step_p_value(simulation, per_step):
    """The worst step, times the number of steps."""
    error = np.sqrt(np.maximum(per_step * (1 - per_step), 1e-12) / simulation.runs)
    worst = (np.abs(simulation.per_step - per_step) / error).max()
    return min(1.0, 2 * stats.norm.sf(worst) * len(per_step))


def token_p_value(simulation, laws):
    """Chi-square of the tokens at the worst step, times the number of steps."""
    p_values = []
    for counts, law in zip(simulation.counts, laws, strict=True):
        possible = law > 1e-12
        if counts[~possible].any():
            return 0.0
        if possible.sum() > 1:
            expected = law[possible] / law[possible].sum() * counts.sum()
            p_values.append(stats.chisquare(counts[possible], expected).pvalue)
    return min([1.0, *(p * len(p_values) for p in p_values)])


def check(simulation, exact):
    assert mean_p_value(simulation, exact.mean) > FALSE_ALARM
    assert variance_p_value(simulation, exact.variance) > FALSE_ALARM
    assert per_step_p_value(simulation, exact.per_step) > FALSE_ALARM
    assert token_p_value(simulation, exact.state_laws[1:]) > FALSE_ALARM


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_algorithm_2_rejects_and_writes_as_theorem_1_says(rule):
    check(simulate(*CHAINS, rule, runs=RUNS, seed=1), expected_rejections(*CHAINS, rule))


def test_algorithm_1_writes_the_targets_text_at_the_lower_bound():
    draft, target = CHAINS
    simulation = simulate(draft, target, runs=RUNS, seed=2)
    assert mean_p_value(simulation, rejection_lower_bound(draft, target)) > FALSE_ALARM
    assert token_p_value(simulation, target.state_laws()[1:]) > FALSE_ALARM
    assert abs(simulation.mean - 16.405) < 5 * simulation.standard_error < 0.13


def test_algorithm_3_writes_the_targets_text_and_calls_it_for_every_token():
    target = CHAINS[1]
    simulation = simulate_autoregressive(target, runs=RUNS, seed=3)
    assert token_p_value(simulation, target.state_laws()[1:]) > FALSE_ALARM
    assert (simulation.rejections == 50).all()
    assert (simulation.acceleration, simulation.standard_error) == (1.0, 0.0)


@pytest.mark.parametrize("drafts", [1, 2, 4, 5])
def test_algorithm_4_rejects_as_theorem_3_says_and_writes_the_targets_text(drafts):
    draft, target = CHAINS
    simulation = simulate_batch(draft, target, drafts=drafts, runs=RUNS, seed=4)
    check(simulation, batch_algorithm(draft, target, drafts=drafts))
    assert mean_p_value(simulation, batch_expected_rejections(draft, target, drafts=drafts).mean) > FALSE_ALARM
    assert token_p_value(simulation, target.state_laws()[1:]) > FALSE_ALARM


@pytest.mark.parametrize("version", ["late residual", "printed"])
def test_algorithm_4_as_printed_does_what_its_programme_says_and_not_what_theorem_3_says(version):
    draft, target = random_laws(31, vocab=4, time=20).chains()
    simulation = simulate_batch(draft, target, drafts=2, runs=RUNS, seed=5, version=version)
    check(simulation, batch_algorithm(draft, target, drafts=2, version=version))
    assert token_p_value(simulation, target.state_laws()[1:]) < FALSE_ALARM


@pytest.mark.parametrize("rule", [SpeculativeSampling(), SampleMatch(), Cactus(delta=0.2)], ids=repr)
def test_chains_of_order_2_and_laws_with_zeros(rule):
    for laws in (random_laws(32, order=2, time=8), random_laws(33, vocab=5, time=8, zeros=True)):
        draft, target = laws.chains()
        simulation, exact = simulate(draft, target, rule, runs=RUNS, seed=6), expected_rejections(draft, target, rule)
        assert mean_p_value(simulation, exact.mean) > FALSE_ALARM
        assert variance_p_value(simulation, exact.variance) > FALSE_ALARM
        # the token is the last digit of the state
        tokens = exact.state_laws[1:].reshape(8, -1, draft.tokens).sum(axis=1)
        assert token_p_value(simulation, tokens) > FALSE_ALARM


def test_unchanging_chains_go_on_as_long_as_asked():
    laws = random_laws(34, time=1)
    draft, target = (MarkovChain(transitions=law[0], initial=laws.initial) for law in (laws.draft, laws.target))
    check(simulate(draft, target, runs=RUNS, seed=7, horizon=12), expected_rejections(draft, target, horizon=12))
    check(
        simulate_batch(draft, target, drafts=3, runs=RUNS, seed=7, horizon=12),
        batch_algorithm(draft, target, drafts=3, horizon=12),
    )
    written = simulate_autoregressive(target, runs=RUNS, seed=7, horizon=3)
    assert token_p_value(written, target.state_laws(3)[1:]) > FALSE_ALARM


def test_the_checks_reject_neighbouring_hypotheses():
    draft, target = CHAINS
    lossless = simulate(draft, target, runs=RUNS, seed=8)
    assert mean_p_value(lossless, 16.54) < FALSE_ALARM
    # a state that rejects often and seldom ends: independent steps would have another variance
    draft_laws, target_laws = [[0.95, 0.05], [0.6, 0.4]], [[0.95, 0.05], [0.1, 0.9]]
    start = np.array([0.5, 0.5])
    slow, long = (MarkovChain(transitions=np.array(laws), initial=start) for laws in (draft_laws, target_laws))
    stuck = simulate(slow, long, runs=RUNS, seed=8, horizon=20)
    exact = expected_rejections(slow, long, horizon=20)
    check(stuck, exact)
    assert variance_p_value(stuck, (exact.per_step * (1 - exact.per_step)).sum()) < FALSE_ALARM
    batch = simulate_batch(draft, target, drafts=4, runs=RUNS, seed=8)
    assert mean_p_value(batch, batch_expected_rejections(draft, target, drafts=4, first_root=0.0).mean) < FALSE_ALARM
    uno = simulate(draft, target, DecodingUNO(epsilon=0.1, residual="draft"), runs=RUNS, seed=8)
    assert token_p_value(uno, target.state_laws()[1:]) < FALSE_ALARM
    opt = output_chain(draft, target, DecodingOPT(epsilon=0.1)).state_laws()[1:]
    assert token_p_value(uno, opt) < FALSE_ALARM


def test_a_seed_repeats_a_simulation_and_a_generator_goes_on():
    first, again, other = (simulate(*CHAINS, runs=100, seed=seed) for seed in (1, 1, 2))
    assert (first.rejections == again.rejections).all()
    assert (first.counts == again.counts).all()
    assert (first.rejections != other.rejections).any()
    generator = np.random.default_rng(1)
    one, two = (simulate_batch(*CHAINS, drafts=2, runs=100, seed=generator) for _ in range(2))
    assert (one.rejections != two.rejections).any()


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_a_token_without_mass_is_never_drawn_however_extreme_the_uniform(uniform):
    class Fixed:
        def random(self, shape):
            return np.full(shape, uniform)

    laws = np.tile([[0.0, 0.25, 0.0, 0.25, 0.5, 0.0], [0.0, 0.0, 0.1, 0.2, 0.7, 0.0]], (500, 1))
    rows = np.arange(1000)
    texts = _Texts(np.ones(1), 1, 0)
    texts.generator = wrong(Fixed())
    drawn = texts.draw(laws, rows)
    assert (laws[rows, drawn] > 0).all()
    assert (drawn[::2] == {0.0: 1, 0.25: 3, 0.5: 4}.get(uniform, 4)).all()


def test_progress_is_told_after_every_step():
    told = []
    simulate_batch(*CHAINS, drafts=2, runs=10, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 50) for step in range(1, 51)]


def test_a_result_adds_up():
    result = simulate(*CHAINS, runs=500, seed=0)
    assert result.runs == 500
    assert_close(result.per_step.sum(), result.mean, "mass")
    assert_close(result.token_laws.sum(axis=-1), np.ones(50), "mass")
    assert_close(result.acceleration, 50 / result.mean, "mass")
    assert_close(result.standard_error**2, result.rejections.var(ddof=1) / 500, "mass")
    assert_close(result.per_step_error[3] ** 2 * 500, result.per_step[3] * (1 - result.per_step[3]), "mass")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(*CHAINS, runs=1, seed=0), "runs: expected a whole number, at least 2"),
        (lambda: simulate(*CHAINS, runs=wrong(2.5), seed=0), "runs: expected a whole number"),
        (lambda: simulate(*CHAINS, runs=10, seed=0, horizon=51), "at most 50 tokens"),
        (lambda: simulate_autoregressive(wrong("text"), runs=10, seed=0), "expected a MarkovChain; got str"),
        (lambda: simulate_batch(*CHAINS, drafts=0, runs=10, seed=0), "drafts: expected a whole number"),
        (lambda: simulate_batch(*CHAINS, drafts=2, runs=10, seed=0, version=wrong("x")), "version: expected"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
