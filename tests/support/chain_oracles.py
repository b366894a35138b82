"""Every text two short chains can write and every way to reject on it: plain loops over tokens, no states, no moments.

Laws are arrays with one axis per remembered token: `[time] + [vocab] * order + [vocab]`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tradeoff.chains import MarkovChain

Text = tuple[int, ...]
Step = Callable[[np.ndarray, np.ndarray, Text, tuple[int, ...]], Iterator[tuple[int, int, float]]]
"""(draft law, target law, text so far, flags so far) -> (token, whether it replaced a rejected one, probability)."""


@dataclass(frozen=True)
class Laws:
    """Two chains and the prompt, in the oracle's form."""

    draft: np.ndarray
    target: np.ndarray
    initial: np.ndarray

    @property
    def order(self):
        return self.initial.ndim

    def chains(self) -> tuple[MarkovChain, MarkovChain]:
        """The same as the library's chains."""
        draft, target = (
            MarkovChain.of_order(self.order, transitions=law, initial=self.initial) for law in (self.draft, self.target)
        )
        return draft, target

    def after(self, step: int, text: Text) -> tuple[np.ndarray, np.ndarray]:
        place = (step, *text[len(text) - self.order :])
        return self.draft[place], self.target[place]


def random_laws(seed: int, *, vocab: int = 3, order: int = 1, time: int = 3, zeros: bool = False) -> Laws:
    """Dirichlet laws that change with time; `zeros` removes a third of the tokens from either side."""
    rng = np.random.default_rng(seed)
    shape = (time,) + (vocab,) * order
    draft, target = (rng.dirichlet(np.full(vocab, 0.7), size=shape) for _ in range(2))
    if zeros:
        draft, target = (np.where(rng.random(law.shape) < 1 / 3, 0.0, law) + 1e-300 for law in (draft, target))
        draft[..., 0] += 0.1
        target[..., -1] += 0.1
        draft, target = (np.where(law < 1e-200, 0.0, law) for law in (draft, target))
        draft, target = (law / law.sum(axis=-1, keepdims=True) for law in (draft, target))
    initial = rng.dirichlet(np.ones(vocab**order)).reshape((vocab,) * order)
    return Laws(draft, target, initial)


@dataclass(frozen=True)
class Enumeration:
    """Probability of every text with every pattern of rejections."""

    paths: dict[tuple[Text, tuple[int, ...]], float]
    order: int

    @property
    def mean(self):
        return sum(chance * sum(flags) for (_, flags), chance in self.paths.items())

    @property
    def variance(self):
        return sum(chance * (sum(flags) - self.mean) ** 2 for (_, flags), chance in self.paths.items())

    @property
    def per_step(self):
        return sum(chance * np.array(flags) for (_, flags), chance in self.paths.items())

    def state_law(self, step: int, vocab: int) -> np.ndarray:
        """Law of the last tokens before a step, flattened."""
        law = np.zeros((vocab,) * self.order)
        for (text, _), chance in self.paths.items():
            law[text[step : step + self.order]] += chance
        return law.ravel()


def enumerate_texts(laws: Laws, step: Step, horizon: int) -> Enumeration:
    """Follow every token, kept or replacing, from every prompt."""
    paths: dict[tuple[Text, tuple[int, ...]], float] = {}
    for prompt in np.ndindex(*laws.initial.shape):
        paths[prompt, ()] = float(laws.initial[prompt])
    for number in range(horizon):
        longer: dict[tuple[Text, tuple[int, ...]], float] = {}
        for (text, flags), chance in paths.items():
            for token, flag, probability in step(*laws.after(number, text), text, flags):
                if probability > 0:
                    key = (*text, token), (*flags, flag)
                    longer[key] = longer.get(key, 0.0) + chance * probability
        paths = longer
    return Enumeration(paths, laws.order)


def algorithm_2(rule: Any) -> Step:
    """Draft, accept with b, else replace: one row at a time."""

    def step(p, q, text, flags):
        accept = rule.acceptance(p[None], q[None])[0]
        residual = rule.residual(p[None], q[None])
        for x in np.flatnonzero(p):
            yield int(x), 0, p[x] * accept[x]
            if hasattr(residual, "after"):
                law = residual.after(np.array([x]))[0]
            else:
                law = residual[0, x] if residual.ndim == 3 else residual[0]
            for y in range(len(p)):
                yield y, 1, p[x] * (1 - accept[x]) * law[y]

    return step


def left(p, q):
    masses = [max(b - a, 0.0) for a, b in zip(p, q, strict=True)]
    total = sum(masses)
    return [mass / total for mass in masses] if total > 1e-14 else list(q)


def algorithm_4(drafts: int, *, else_inside: bool = False, subtract_again: bool = False) -> Step:
    """The published pseudo-code's batch; the two switches are its two slips."""

    def candidates(p, q, number):
        """Judge the sequences' first tokens from the `number`-th on; q is what is left of the target."""
        law, beaten = q, left(p, q)
        for x in np.flatnonzero(p):
            kept = min(1.0, law[x] / p[x])
            yield int(x), 0, p[x] * kept
            refused = p[x] * (1 - kept)
            if number < drafts and not else_inside:
                for token, flag, chance in candidates(p, beaten, number + 1):
                    yield token, flag, refused * chance
            else:
                for y, mass in enumerate(left(p, beaten) if subtract_again else beaten):
                    yield y, 1, refused * mass

    def step(p, q, text, flags):
        if not flags or flags[-1] == 1:
            yield from candidates(p, q, 1)
            return
        for x in range(len(p)):
            yield x, 0, min(p[x], q[x])
            yield x, 1, max(q[x] - p[x], 0.0)

    return step
