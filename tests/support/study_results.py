"""Made-up results of a study: the numbers are invented, but agree with each other."""

from dataclasses import replace

import numpy as np
from scipy.stats import beta, binomtest

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.study.results import (
    CellResult,
    Comparison,
    Example,
    JudgeAccount,
    Published,
    Results,
    TokenCost,
)
from decoding.evaluation.study.win_rates import WinRate

RULES = ("decoding_opt", "decoding_uno", "decoding_uno:residual=draft")
LEVELS = (0.1, 0.4)
PROMPTS = 200
WON = {"RM-Mistral-7B": (106, 131, 115, 60), "gpt-4": (109, 107, 106, 100)}
"""Prompts won by the first rule, comparison by comparison: settled either way, within noise, and one half."""

PUBLISHED = {"RM-Mistral-7B": (0.53, 0.535), "gpt-4": (0.545, 0.55)}
SOURCE = "Somebody et al., Table 1"
FATES = ("accepted", "replaced", "bonus")
HOSTILE = (
    "</title></select></script><script>alert(1)</script>\"'><img src=x onerror=alert(2)> {title} | `x` _y_ **b** $5 $6"
    "\n\n# heading [a](b) &amp; ~~c~~ \\| \U0001f642 \u05e9\u05dc\u05d5\u05dd --> ]]>"
)
"""Text that wants to be markup."""

STEERING = "\x1b[31m\u202ead\u2066\ud800\x00"
"""Characters that no report may hold as they are."""


def estimate(value, half=0.01):
    return Estimate(value=value, low=value - half, high=value + half)


def win_rate(won, prompts=PROMPTS, tied=0, pairwise=True):
    """Wins with their exact interval and sign test, by scipy; `prompts_needed` by the normal approximation."""
    value = (won + tied / 2) / prompts
    low = beta.ppf(0.025, won, prompts - won + 1) if won else 0.0
    high = beta.ppf(0.975, won + tied + 1, prompts - won - tied) if won + tied < prompts else 1.0
    lost = prompts - won - tied
    return WinRate(
        prompts=prompts,
        comparisons=5 * prompts,
        won=won,
        tied=tied,
        majority=Estimate(value=value, low=float(low), high=float(high)),
        pairwise=estimate(0.5 + 0.6 * (value - 0.5), 0.03) if pairwise else None,
        p_value=float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        prompts_needed=None if value == 0.5 else int(np.ceil((1.96 + 0.84) ** 2 / 4 / (value - 0.5) ** 2)),
    )


def holm(p_values):
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1)).clip(max=1)
    return adjusted.tolist()


def label(rule, level):
    return rule if level is None else f"{rule} at {level}"


def cell(rule, level, rejection=0.2, kl=0.05):
    means = {
        "rejection": estimate(rejection, 0.012),
        "total_variation": estimate(0.41, 0.02),
        "tv": estimate(kl / 2, 0.002),
        "kl": estimate(kl, kl / 10),
        "kl_per_token": estimate(0.8 * kl, kl / 12),
        "log_likelihood": estimate(-1.9 - kl, 0.11),
        "tokens_per_target_call": estimate(1 / (rejection + 0.2), 0.05),
        "length": estimate(23.5, 0.5),
    }
    knob = {} if level is None else {"epsilon": float(level.split()[1])}
    return CellResult(
        cell=label(rule, level),
        rule=rule,
        level=level,
        knob=knob,
        calibrated=rejection - 0.004,
        kl_over_best=None if level is None else Estimate(value=1 + 10 * kl, low=1 + 9 * kl, high=1 + 12 * kl),
        texts=1000,
        errors=0,
        means=means,
    )


def tokens(seed, count=24):
    """Text of every fate, with costs of both signs, the first free and the second the dearest."""
    rng = np.random.default_rng(seed)
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "and", "then", "while", "green", ",", "."]
    drawn = []
    for place in range(count):
        cost = float(rng.choice([0.0, *rng.normal(scale=0.7, size=3)]))
        cost = {0: 0.0, 1: 2.5, 2: -2.0}.get(place, cost)
        fate = FATES[place % 7 if place % 7 < 3 else 0]
        word = " " + str(rng.choice(words))
        rejected = {"rejected": " wrong", "rejected_cost": 0.7} if fate == "replaced" else {}
        drawn.append(TokenCost(text=word, fate=fate, cost=cost, divergence=0.3 * abs(cost), **rejected))
    return drawn


def comparisons(judge, levels, rules, won, published):
    pairs = [(level, second) for level in levels for second in rules[1:]]
    wins = [won[place % len(won)] for place in range(len(pairs))]
    found = [win_rate(each, tied=min(place % 3, PROMPTS - each)) for place, each in enumerate(wins)]
    adjusted = holm([each.p_value for each in found])
    rates = [published[place // (len(rules) - 1)] for place in range(len(pairs))] if published else []
    theirs = [win_rate(round(rate * PROMPTS), pairwise=False) for rate in rates]
    their_adjusted = holm([each.p_value for each in theirs])
    return [
        Comparison(
            judge=judge,
            level=level,
            first=label(rules[0], level),
            second=label(second, level),
            mismatch=estimate(0.003, 0.006),
            refused=None,
            found=found[place],
            difference=None if judge.startswith("gpt") else estimate(0.12, 0.2),
            adjusted_p=adjusted[place],
            published=Published(
                win_rate=rates[place],
                prompts=PROMPTS,
                source=SOURCE,
                found=theirs[place],
                adjusted_p=their_adjusted[place],
            )
            if rates
            else None,
        )
        for place, (level, second) in enumerate(pairs)
    ]


def made_up(rules=RULES, levels=LEVELS, won=None, published=None, prompts=("Tell a story.", "What is a fjord?")):
    """Results of rules at levels of epsilon, judged by a reward model and a chat model, beside published rates."""
    won = WON if won is None else won
    published = PUBLISHED if published is None else published
    named = [f"epsilon {level:g}" for level in levels]
    cells = [
        cell(rule, level, 0.4 / (1 + 3 * value), (0.02 + value / 8) * (1 + place / 3))
        for level, value in zip(named, levels, strict=True)
        for place, rule in enumerate(rules)
    ]
    cells.append(cell("speculative_sampling", None, 0.41, 0.0))
    shown = [cell.cell for cell in cells]
    return Results(
        title="embedded pair, 200 prompts x 5 texts",
        configuration={"rules": list(rules), "at": {"epsilon": list(levels)}, "seed": 0, "hash": "0123456789abcdef"},
        provenance=[{"commit": "abc1234", "versions": {"torch": "2.11.0", "python": "3.11"}}],
        calibration={"positions": 1500, "tolerance": 0.02, "forced": False},
        cells=cells,
        comparisons=[
            each for judge in won for each in comparisons(judge, named, rules, won[judge], published.get(judge))
        ],
        judges=[
            JudgeAccount(
                name=judge,
                pairwise=judge.startswith("gpt"),
                judgements=1000,
                unreadable=3,
                missing=2,
                details={"calls": 2000.0, "prompt_tokens": 1234567.0, "cost": 12.345}
                if judge.startswith("gpt")
                else {},
            )
            for judge in won
        ],
        examples=[
            Example(
                prompt=prompt,
                level=level,
                texts={
                    name: tokens(100 * place + shown.index(name))
                    for name in shown
                    if name.endswith(level) or name == "speculative_sampling"
                },
            )
            for level in named
            for place, prompt in enumerate(prompts)
        ],
    )


def shapes():
    """Results of every odd kind by name."""
    full = made_up()
    first, *others = full.cells
    endless = Estimate(value=np.inf, low=0.3, high=np.inf)
    unknown = Estimate(value=0.1, low=np.nan, high=np.nan)
    means = first.means | {"kl": endless, "kl_per_token": endless, "tv": unknown}
    odd = replace(first, errors=3, means=means, kl_over_best=endless)
    open_ended = replace(others[0], means=others[0].means | {"kl_per_token": replace(unknown, low=0.08, high=np.inf)})
    return {
        "no comparisons": replace(full, comparisons=[]),
        "all refused": replace(full, comparisons=[refused(each) for each in full.comparisons]),
        "nothing judged": replace(
            full, comparisons=[replace(refused(each), refused=None) for each in full.comparisons]
        ),
        "one cell": replace(full, cells=full.cells[:1], comparisons=[], judges=[], examples=full.examples[:1]),
        "no judges": replace(full, judges=[]),
        "no examples": replace(full, examples=[]),
        "text of no tokens": replace(full, examples=[replace(full.examples[0], texts={first.cell: []})]),
        "infinite and unknown": replace(full, cells=[odd, open_ended, *others[1:]]),
        "only rules without a knob": replace(
            full, cells=full.cells[-1:], comparisons=[], examples=[replace(full.examples[0], level=None)]
        ),
    }


def refused(comparison):
    return replace(
        comparison, refused="rejections are too far apart", found=None, difference=None, adjusted_p=None, published=None
    )
