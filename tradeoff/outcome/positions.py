"""Real positions: many pairs of laws, kept small, on which knobs are set and rules are compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

from solvers.arrays import Array, mass, positive_part, to_numpy, without_gradient
from solvers.divergences import total_variation
from solvers.errors import InputError
from solvers.printing import counted, lines, sized
from tradeoff.outcome.token import Outcome, apply_rule
from tradeoff.problem import validated
from tradeoff.rule import LogitRule, Rule

CHUNK = 128
"""Rows evaluated at once: in float64 at a vocabulary of 150k, two laws and their temporaries are about 1 GB."""


class Chunk(NamedTuple):
    """Some rows, `[rows, vocab]`: laws in float64, logits as they were stored, None if unknown."""

    draft: Array
    target: Array
    draft_logits: Array | None
    target_logits: Array | None

    def outcome(self, rule: Rule) -> Outcome:
        """The exact effect of a rule here."""
        return apply_rule(self._informed(rule), self.draft, self.target)

    def rejection(self, rule: Rule) -> Array:
        """Rejection probability of a rule, `[rows]`: its acceptance alone, which costs less than an outcome."""
        return positive_part(1.0 - mass(self._informed(rule).acceptance(self.draft, self.target) * self.draft))

    def _informed(self, rule: Rule) -> Rule:
        if not isinstance(rule, LogitRule):
            return rule
        return rule.with_logits(*(None if each is None else _float64(each) for each in self[2:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """Draft and target laws at real positions.

    Parameters
    ----------
    draft, target
        Laws `[positions, vocab]` of any floating type; `chunks` gives them in float64, renormalised.
    prompt
        Which prompt each position belongs to, `[positions]`: positions of one text are not independent. By default
        every position is a text of its own.
    prompts
        How many prompts there are.
    draft_logits, target_logits
        Raw logits there, `[positions, vocab]`, for rules that compare those.
    """

    draft: Array
    target: Array
    prompt: np.ndarray
    prompts: int
    draft_logits: Array | None = None
    target_logits: Array | None = None

    @classmethod
    def of(cls, draft: Array, target: Array, *, normalise: bool = False) -> "Positions":
        """Check laws `[..., vocab]` and take every row as a position.

        Raises
        ------
        InputError
            Laws that are not laws.
        """
        problem = validated(draft, target, normalise=normalise)
        xp, vocab = array_namespace(problem.draft), problem.draft.shape[-1]
        rows = [xp.reshape(law, (-1, vocab)) for law in (problem.draft, problem.target)]
        count = rows[0].shape[0]
        return cls(draft=rows[0], target=rows[1], prompt=np.arange(count), prompts=count)

    @classmethod
    def from_logits(
        cls,
        draft_logits: Array,
        target_logits: Array,
        *,
        temperature: float = 1.0,
        greedy_draft: bool = False,
        prompt: np.ndarray | None = None,
    ) -> "Positions":
        """Make laws of logits `[positions, vocab]`, in float64.

        Parameters
        ----------
        temperature
            Of both softmaxes, > 0.
        greedy_draft
            Draft the likeliest token, as engines without draft sampling do: point masses as draft laws.
        prompt
            Which prompt each position belongs to.

        Raises
        ------
        InputError
            A temperature that is not positive, or shapes that differ.
        """
        if not isinstance(temperature, int | float | np.number) or not 0 < temperature < 1e300:
            raise InputError(f"temperature: expected a number > 0; got {repr(temperature)[:80]}")
        for name, logits in (("draft_logits", draft_logits), ("target_logits", target_logits)):
            if not is_array_api_obj(logits):
                raise InputError(f"{name}: expected an array [positions, vocab]; got {type(logits).__name__}")
        draft_logits, target_logits = (without_gradient(logits) for logits in (draft_logits, target_logits))
        if draft_logits.shape != target_logits.shape or draft_logits.ndim != 2:
            raise InputError(
                "logits: expected equal shapes [positions, vocab]; got "
                f"{tuple(draft_logits.shape)} and {tuple(target_logits.shape)}"
            )
        draft, target = _softmax(draft_logits, temperature), _softmax(target_logits, temperature)
        if greedy_draft:
            xp = array_namespace(draft)
            tokens = xp.arange(draft.shape[-1], device=device(draft))
            draft = xp.astype(tokens == xp.argmax(draft, axis=-1, keepdims=True), draft.dtype)
        owner = np.arange(draft.shape[0]) if prompt is None else _checked_owner(prompt, draft.shape[0])
        return cls(
            draft=draft,
            target=target,
            prompt=owner,
            prompts=int(owner.max()) + 1,
            draft_logits=draft_logits,
            target_logits=target_logits,
        )

    def __repr__(self) -> str:
        known = [each for each in ("draft_logits", "target_logits") if getattr(self, each) is not None]
        return lines(
            f"{type(self).__name__}: {sized((len(self), self.draft.shape[-1]))} from {counted(self.prompts, 'prompt')}",
            f"{self.draft.dtype} laws{' with ' + ' and '.join(known) if known else ', no logits'}; .chunks(), "
            ".total_variation",
        )

    def __len__(self) -> int:
        """Number of positions."""
        return self.draft.shape[0]

    def chunks(self) -> Iterator[Chunk]:
        """Yield the laws, and the logits if known, in float64, at most `CHUNK` rows at a time."""
        xp = array_namespace(self.draft)
        for start in range(0, len(self), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self)))
            draft, target = (xp.astype(law[rows, :], xp.float64) for law in (self.draft, self.target))
            logits = (
                None if each is None else xp.astype(each[rows, :], xp.float64)
                for each in (self.draft_logits, self.target_logits)
            )
            yield Chunk(draft / mass(draft, keepdims=True), target / mass(target, keepdims=True), *logits)

    @property
    def total_variation(self) -> np.ndarray:
        """TV(draft, target) at every position, `[positions]`: where lossless decoding rejects."""
        return np.concatenate([to_numpy(total_variation(chunk.draft, chunk.target)) for chunk in self.chunks()])


def _checked_owner(prompt: Any, count: int) -> np.ndarray:
    """One whole number to a position."""
    try:
        owner = to_numpy(prompt) if is_array_api_obj(prompt) else np.asarray(prompt)
    except ValueError:
        owner = np.zeros(0)  # ragged lists; told below
    if owner.shape != (count,) or owner.dtype.kind not in "iu" or (owner < 0).any():
        raise InputError(f"prompt: expected {count} whole numbers >= 0, one to a position; got {repr(prompt)[:80]}")
    return owner


def _float64(array: Array) -> Array:
    xp = array_namespace(array)
    return xp.astype(array, xp.float64, copy=False)


def _softmax(logits: Array, temperature: float) -> Array:
    """In float64: at a low temperature float32 underflows to a support the model does not have."""
    xp = array_namespace(logits)
    logits = _float64(logits)
    with np.errstate(over="ignore"):  # a tiny temperature makes -inf of what is not the highest
        scores = (logits - xp.max(logits, axis=-1, keepdims=True)) / temperature
    masses = xp.exp(scores)
    return masses / mass(masses, keepdims=True)


def rejections(rule: Rule, positions: Positions) -> np.ndarray:
    """Exact rejection probability of a rule at every position, `[positions]`."""
    return np.concatenate([to_numpy(chunk.rejection(rule)) for chunk in positions.chunks()])


def measure(rule: Rule, positions: Positions, divergences: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Measure a rule at every position: "rejection", "gap", "leak" and the divergences, each `[positions]`."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("rejection", "gap", "leak", *divergences)}
    for chunk in positions.chunks():
        outcome = chunk.outcome(rule)  # five laws a row: kept for one chunk only
        columns = {"rejection": outcome.rejection, "gap": outcome.gap, "leak": outcome.leak}
        columns |= {name: outcome.divergence_in(name) for name in divergences}
        for name, values in columns.items():
            parts[name].append(to_numpy(values))
    return {name: np.concatenate(values) for name, values in parts.items()}
