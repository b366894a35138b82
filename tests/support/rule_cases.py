"""Cases of every published rule of one position, pairs of laws of every kind, and data for the rules that need some."""

import math
from typing import Any

import numpy as np
import pytest
from laws import EXTREME_PAIRS
from oracles import ORACLES, Decision, enumerate_token

from tradeoff import evaluate
from tradeoff.rules import as_rule, available

RULES = {info.name: info for info in available() if info.kind == "token"}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("speculative_sampling", {}),
    ("sample_match", {}),
    ("openvino", {}),
    *(("lenience", {"factor": factor}) for factor in (1.0, 0.5, 0.05, 0.0)),
    ("distillspec", {"epsilon": 1.0}),
    ("distillspec", {"epsilon": 0.3}),
    ("distillspec", {"function": "square", "epsilon": 0.5}),
    ("distillspec", {"function": "exponential", "epsilon": 0.4}),
    ("lossy_speculative", {"alpha": 0.0}),
    ("lossy_speculative", {"alpha": 0.4}),
    *(("lossy_speculative", {"alpha": 0.4, "beta": beta}) for beta in (0.8, 1.0, 1.5)),
    *(("mentored", {"kl": kl}) for kl in (0.0, 0.02, 0.3, 700.0)),
    *(("decoding_opt", {"epsilon": epsilon}) for epsilon in (0.0, 0.1, 0.8)),
    *(("decoding_uno", {"epsilon": epsilon}) for epsilon in (0.0, 0.1)),
    ("decoding_uno", {"epsilon": 0.1, "residual": "draft"}),
    *(("ears", {"beta": beta}) for beta in (0.0, 0.4, 1e6)),
    *(("additive_slack", {"epsilon": epsilon}) for epsilon in (0.0, 0.2, 1.0)),
    *(("ensemble", {"target_weight": weight}) for weight in (1.0, 0.6, 0.0)),
    *(("contrastive", {"alpha": alpha}) for alpha in (0.0, 0.5, 2.0)),
    *(("cactus", {"delta": delta}) for delta in (0.0, 0.1, 0.75, 1e6)),
    *(("cactus", {"delta": delta, "exact": True}) for delta in (0.0, 0.1, 0.75, 1e6)),
    *(("top_k_gate", {"k": k}) for k in (1, 2, 5)),
    *(("synthetic", {"rate": rate}) for rate in (0.0, 0.6, 1.0)),
    ("typical", {}),
    *(("typical", {"threshold": threshold}) for threshold in (1.0, 0.3, 0.0)),
    ("typical", {"threshold": 0.3, "alpha": 0.1}),
    ("tensorrt_relaxed", {}),
    *(("tensorrt_relaxed", {"top_k": top_k, "delta": delta}) for top_k, delta in ((2, 0.3), (10, 0.6), (3, 1.0))),
    ("sglang", {}),
    *(("sglang", each) for each in ({"acc": 0.4}, {"single": 0.3}, {"single": 0.5, "acc": 0.7}, {"acc": 0.0})),
    ("sglang", {"single": 0.0}),
    *(("bild", {"rollback": rollback}) for rollback in (5.0, 1.2, 0.0, 1000.0)),
    *(("mars", {"theta": theta}) for theta in (0.9, 0.3, 0.0)),
    ("logit_comparison", {}),
    *(
        ("fuzzy", {"divergence": divergence, "threshold": threshold, "fallback": fallback})
        for fallback in ("target", "speculative")
        for divergence, threshold in (("js", 0.1), ("kl", 0.5), ("tv", 0.4))
    ),
    ("fuzzy", {"threshold": 0.0}),
    *(
        ("cascade", {"variant": variant, "alpha": alpha})
        for variant in ("chow", "diff", "opt", "tok1", "tok2", "tok3")
        for alpha in (-1.001, 0.0, 0.3)
    ),
    ("judge", {"threshold": 0.6}),
    ("judge", {"threshold": 1.0}),
    *(("reward_guided", {"weighting": weighting}) for weighting in ("clip", "threshold", "ratio", "logistic")),
    ("csd", {"frequency": 3.0, "ratio": 0.2}),
    ("lantern", {"delta": 0.4}),
    ("lantern", {"delta": 0.4, "k": 1}),
    ("lantern", {"delta": 0.0}),
    *(("ratio_clip", {"ceiling": ceiling}) for ceiling in (1.0, 1.4, math.inf)),
    *(("ratio_clip", {"rejection": rejection}) for rejection in (0.0, 0.1, 1.0)),
    *(("common_price", {"price": price}) for price in (0.0, 0.7, math.inf)),
    *(("common_price", {"price": price, "divergence": "reverse_kl"}) for price in (0.7, 3.0)),
    ("common_price", {"price": 0.7, "divergence": "chi2"}),
)


def spec_of(name: str, params: dict[str, Any]) -> str:
    """The text `from_spec` reads; for a rule that needs arrays, a name of the case."""
    return f"{name}:" * bool(params) + ",".join(f"{key}={value}" for key, value in params.items()) or name


def case(name: str, **params: Any) -> Any:
    return pytest.param(name, params, id=spec_of(name, params))


def once(name: str) -> Any:
    """The case in the middle of a rule's own."""
    own = [params for each, params in CASES if each == name]
    return case(name, **own[len(own) // 2])


every_case = pytest.mark.parametrize(("name", "params"), [case(name, **params) for name, params in CASES])
every_rule_once = pytest.mark.parametrize(("name", "params"), [once(name) for name in RULES])


def random_pairs(seed: int, shape: tuple[int, ...], *, masks: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Peaked to flat laws `[*shape]`; by turns of five, a target with zeros and a one-hot draft."""
    rng = np.random.default_rng(seed)
    flat = np.array(
        [rng.dirichlet(np.full(shape[-1], (0.3, 0.6, 3.0)[i % 3]), 2) for i in range(math.prod(shape[:-1]))]
    )
    draft, target = flat[:, 0], flat[:, 1]
    for i in range(1, len(flat) if masks else 0, 5):
        target[i] *= rng.random(shape[-1]) < 0.6
        target[i, rng.integers(shape[-1])] += 0.1
        target[i] /= target[i].sum()
    for i in range(3, len(flat) if masks else 0, 5):
        draft[i] = np.eye(shape[-1])[rng.integers(shape[-1])]
    return draft.reshape(shape), target.reshape(shape)


def _extremes() -> list[tuple[np.ndarray, np.ndarray]]:
    sizes = sorted({len(draft) for draft, _ in EXTREME_PAIRS.values()})
    groups = [[pair for pair in EXTREME_PAIRS.values() if len(pair[0]) == size] for size in sizes]
    return [(np.stack([p for p, _ in group]), np.stack([q for _, q in group])) for group in groups]


BATCHES = [*(random_pairs(seed, (10, vocab)) for seed, vocab in enumerate((2, 3, 5, 8))), *_extremes()]


class Judged:
    """A rule on laws `[..., vocab]` with data made up for it; `outcome` by the library, `decision(i)` by its oracle."""

    def __init__(self, name: str, params: dict[str, Any], draft: Any, target: Any, sampled: Any = None) -> None:
        rng, vocab = np.random.default_rng(len(name)), draft.shape[-1]
        others = [[y for y in range(vocab) if y != x] for x in range(vocab)]
        made = {
            "scores": lambda: rng.random(draft.shape),
            "rewards": lambda: rng.normal(0.5, 1.0, draft.shape),
            "frequencies": lambda: rng.integers(0, 6, (vocab, vocab)).astype(float),
            "neighbours": lambda: rng.permuted(np.array(others, dtype=int).reshape(vocab, vocab - 1), axis=-1),
        }
        needs = RULES[name].needs
        self.name, self.params, self.data = name, params, {key: made[key]() for key in needs if key in made}
        with np.errstate(divide="ignore"):
            logits = {"draft_logits": np.log(draft) + 3.2, "target_logits": np.log(target) + 3.0}
        self.logits = {key: logits[key] for key in needs if key in logits}
        made_of = RULES[name].rule(**params, **self.data) if self.data else spec_of(name, params)
        self.rule = as_rule(made_of, kind="token", taken_by="a test")
        self.outcome = evaluate(self.rule, draft, target, sampled_draft=sampled, **self.logits)

    def row(self, i: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Data and logits of row i; tables serve all rows."""
        data = {key: each[i] if key in ("scores", "rewards") else each for key, each in self.data.items()}
        return data, {key: each[i] for key, each in self.logits.items()}

    def decision(self, i: Any) -> Decision:
        """The oracle's for row i; on the laws as the library normalised them, so that ties stay ties."""
        data, logits = self.row(i)
        lists = {key: each.tolist() for key, each in (data | logits).items()}
        laws = self.outcome.draft[i].tolist(), self.outcome.target[i].tolist()
        return ORACLES[self.name](*laws, **self.params, **lists)

    def enumerated(self) -> tuple[np.ndarray, np.ndarray]:
        """Rejections and output laws by the oracle."""
        sampled = self.outcome.sampled_draft
        found = [enumerate_token(self.decision(i), sampled[i].tolist()) for i in range(len(sampled))]
        return np.array([each for each, _ in found], float), np.array([each for _, each in found], float)
