"""Rounds of texts whose laws are given, for controllers to steer: no model, every acceptance drawn."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from decoding.policies.price import Controller, PricedRows, Spent
from tradeoff.outcome.token import apply_rule

Pair = tuple[np.ndarray, np.ndarray]


def spent(
    rejection: Sequence[Sequence[float]] | np.ndarray,
    kl: Sequence[Sequence[float]] | np.ndarray | None = None,
    *,
    rows: Sequence[int] = (0,),
    verified: Sequence[int] | np.ndarray | None = None,
    emitted: Sequence[int] | np.ndarray | None = None,
) -> Spent:
    """A round in which every place was verified, without bonus token, unless said otherwise."""
    rejected = np.array(rejection, dtype=np.float64)
    tested = np.full(len(rejected), rejected.shape[1]) if verified is None else np.array(verified)
    return Spent(
        rows=rows,
        rejection=rejected,
        kl=np.zeros_like(rejected) if kl is None else np.array(kl, dtype=np.float64),
        verified=tested,
        emitted=tested if emitted is None else np.array(emitted),
    )


class Ledger:
    """What a simulated batch of texts really spent."""

    def __init__(self, batch: int) -> None:
        self.kl, self.rejection = np.zeros(batch), np.zeros(batch)
        self.verified, self.emitted = np.zeros(batch, dtype=int), np.zeros(batch, dtype=int)
        self.prices: list[np.ndarray] = []

    def take(self, rows: list[int], round_: Spent) -> None:
        for name in ("kl", "rejection"):
            values = getattr(round_, name)
            getattr(self, name)[rows] += [row[:n].sum() for row, n in zip(values, round_.verified, strict=True)]
        self.verified[rows] += round_.verified
        self.emitted[rows] += round_.emitted


def write(
    controller: Controller,
    laws: Callable[[int, int], Pair],
    *,
    batch: int,
    new_tokens: int,
    lengths: Callable[[], int],
    seed: int = 0,
) -> Ledger:
    """Run a controller over laws given per text and position; every acceptance is drawn."""
    rng, ledger = np.random.default_rng(seed), Ledger(batch)
    controller.start(batch, new_tokens)
    while rows := [row for row in range(batch) if ledger.emitted[row] < new_tokens]:
        k = lengths()
        pairs = [[laws(row, ledger.emitted[row] + place) for place in range(k)] for row in rows]
        draft, target = (torch.tensor(np.array([[pair[i] for pair in row] for row in pairs])) for i in range(2))
        rule = controller.rule(rows, k)
        outcome = apply_rule(rule, draft, target)
        rejected = rng.random((len(rows), k)) < outcome.rejection.numpy()
        kept = np.where(rejected.any(1), rejected.argmax(1), k)
        room = new_tokens - ledger.emitted[rows]
        emitted = np.minimum(kept + 1, room)
        round_ = spent(
            outcome.rejection.numpy(), outcome.kl.numpy(), rows=rows, verified=np.minimum(emitted, k), emitted=emitted
        )
        controller.observe(round_)
        ledger.take(rows, round_)
        assert isinstance(rule, PricedRows)
        ledger.prices.append(rule.price.numpy().copy())
    return ledger


def random_laws(seed: int, *, vocab: int = 12, distance: float = 1.5) -> Callable[[int, int], Pair]:
    """Laws that differ from position to position, some of them sharply peaked."""

    def laws(row: int, position: int) -> Pair:
        rng = np.random.default_rng([seed, row, position])
        scores = rng.normal(size=vocab) * rng.choice([1.0, 4.0])
        both = np.exp([scores + distance * rng.normal(size=vocab), scores])
        draft, target = both / both.sum(1, keepdims=True)
        return draft, target

    return laws
