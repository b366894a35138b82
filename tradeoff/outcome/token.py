"""What a rule does to the output law of one position: exact, from the laws, no sampling."""

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from solvers.arrays import Array, mass, positive_part, to_numpy, without_gradient
from solvers.closed_form import ratio_clip_at_rejection
from solvers.divergences import DIVERGENCES, Divergence, divergence_named, total_variation
from solvers.errors import InputError
from solvers.printing import MOST_ENTRIES, html_table, lines, sized, spread
from tradeoff.problem import SUM_TOLERANCE, validated
from tradeoff.rule import LogitRule, ResidualKernel, Rule, bonus_law
from tradeoff.rules.registry import as_rule

MOST_DRAFTED = 100_000
"""Tokens of a round: its expected length is a sum over them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The exact effect of one rule on one pair of laws, or on a batch of pairs.

    Parameters
    ----------
    draft, target
        The laws the rule was told, `[..., vocab]`, float64.
    sampled_draft
        The law the drafted token really came from, `[..., vocab]`: `draft`, unless a sampler draws from another.
    acceptance
        b(x), `[..., vocab]`.
    residual
        The law after a rejection, `[..., vocab]`, or one law per rejected token, `[..., vocab, vocab]` or a
        `ResidualKernel`.
    rejection
        Probability that the drafted token is rejected, 1 - sum b sampled_draft, `[...]`.
    output_law
        Law of the token that is emitted, `[..., vocab]`.
    bonus_law
        Law of the token after a fully accepted block, were the laws there the same, `[..., vocab]`.
    """

    draft: Array
    target: Array
    sampled_draft: Array
    acceptance: Array
    residual: Array
    rejection: Array
    output_law: Array
    bonus_law: Array

    def divergence_in(self, divergence: str | Divergence) -> Array:
        """Divergence of the output from the target, `[...]`: any of `solve_pareto`'s; infinite where it is."""
        return divergence_named(divergence).value(self.output_law, self.target)

    def optimum(self, divergence: str | Divergence) -> Array:
        """Least divergence of any rule at the same rejection, `[...]`: the front below this outcome (T1)."""
        draft, xp = self.sampled_draft, array_namespace(self.target)
        best = ratio_clip_at_rejection(draft, self.target, self.rejection)
        # not rejection * residual: a rejection of 1e-16 is lost in 1 - sum
        replaced = positive_part(xp.expand_dims(best.floor, axis=-1) * self.target - draft)
        return divergence_named(divergence).value(best.acceptance * draft + replaced, self.target)

    def excess(self, divergence: str | Divergence) -> Array:
        """Divergence above the optimum at the same rejection, `[...]`; 0 where the optimum itself is infinite."""
        xp = array_namespace(self.target)
        own, best = self.divergence_in(divergence), self.optimum(divergence)
        known = xp.isfinite(best)
        return xp.where(known, own - xp.where(known, best, xp.zeros_like(best)), xp.zeros_like(best))

    @property
    def tv(self) -> Array:
        """TV(output, target), `[...]`: the paper's bias."""
        return self.divergence_in("tv")

    @property
    def kl(self) -> Array:
        """KL(output, target) in nats, `[...]`; infinite where the rule leaks."""
        return self.divergence_in("kl")

    @property
    def gap(self) -> Array:
        """R + TV(output, target) - TV(sampled draft, target) >= 0, `[...]`: distance to the TV front (Theorem 5)."""
        return self.rejection + self.tv - total_variation(self.sampled_draft, self.target)

    @property
    def leak(self) -> Array:
        """Output mass on tokens to which the target gives none, `[...]`."""
        xp = array_namespace(self.target)
        return mass(xp.where(self.target > 0, xp.zeros_like(self.output_law), self.output_law))

    def to_dict(self) -> dict[str, list]:
        """Everything as columns, one entry per position: rejection, gap, leak, divergences and their excess."""
        columns = {"rejection": self.rejection, "gap": self.gap, "leak": self.leak}
        for name in DIVERGENCES:
            columns |= {name: self.divergence_in(name), f"{name}_excess": self.excess(name)}
        return {name: to_numpy(values).ravel().tolist() for name, values in columns.items()}

    def __repr__(self) -> str:
        where = "" if self.rejection.ndim == 0 else f" ({sized(self.draft.shape)})"
        head = f"{type(self).__name__}{where}: rejection {spread(self.rejection)}"
        if math.prod(self.draft.shape) > MOST_ENTRIES:
            return lines(head, ".divergence_in('kl'), .excess('kl'), .leak, .round(draft_length) tell the rest")
        return lines(
            f"{head}, TV {spread(self.tv)}, KL {spread(self.kl)} nats from the target, leak {spread(self.leak)}",
            f"above the best rule at this rejection: KL {spread(self.excess('kl'))} nats, TV {spread(self.gap)}",
            ".divergence_in(name), .optimum(name), .round(draft_length), .to_dict()",
        )

    def _repr_html_(self) -> str:
        caption = repr(self).splitlines()[0]
        if math.prod(self.draft.shape) > MOST_ENTRIES:
            return html_table(["", "rejection"], [["", spread(self.rejection)]], caption=caption)
        rows = [
            [each.label, *(spread(of(name)) for of in (self.divergence_in, self.optimum, self.excess))]
            for name, each in DIVERGENCES.items()
        ]
        return html_table(["divergence", "this rule", "best at this rejection", "excess"], rows, caption=caption)

    def residual_after(self, rejected: Array) -> Array:
        """Law of the replacement once the tokens `[...]` (indices) were rejected, `[..., vocab]`."""
        if isinstance(self.residual, ResidualKernel):
            return self.residual.after(rejected)
        if self.residual.ndim == self.draft.ndim:
            return self.residual
        xp = array_namespace(self.residual)
        index = xp.broadcast_to(rejected[..., None, None], (*self.draft.shape[:-1], 1, self.draft.shape[-1]))
        return xp.squeeze(xp.take_along_axis(self.residual, index, axis=-2), axis=-2)

    def round(self, draft_length: int) -> "RoundMixture":
        """What one round of `draft_length` drafted tokens emits, were every position like this one.

        Raises
        ------
        InputError
            A draft length that is no whole number, below 1 or above `MOST_DRAFTED`.
        """
        whole = isinstance(draft_length, int | np.integer) and not isinstance(draft_length, bool)
        if not (whole and 1 <= draft_length <= MOST_DRAFTED):
            raise InputError(f"draft_length: expected a whole number from 1 to {MOST_DRAFTED}; got {draft_length!r}")
        reached = sum((1.0 - self.rejection) ** place for place in range(draft_length))
        bonus = (1.0 - self.rejection) ** draft_length
        xp = array_namespace(self.target)
        share = xp.expand_dims(bonus / (reached + bonus), axis=-1)
        return RoundMixture(
            target=self.target,
            tokens=reached + bonus,
            bonus_share=bonus / (reached + bonus),
            output_law=(1.0 - share) * self.output_law + share * self.bonus_law,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundMixture:
    """What a round of drafted tokens and the token after them emits, on average over its tokens.

    Bonus tokens of most rules follow the target exactly, so a text looks better than its verified positions: by
    their share. Every position is taken to have the same pair of laws.

    Parameters
    ----------
    target
        `[..., vocab]`.
    tokens
        Expected tokens per target call, sum over i = 0..k of (1 - R)^i, `[...]`.
    bonus_share
        Expected share of bonus tokens among them, `[...]`.
    output_law
        Law of a token drawn at random from all tokens, `[..., vocab]`.
    """

    target: Array
    tokens: Array
    bonus_share: Array
    output_law: Array

    def divergence_in(self, divergence: str | Divergence) -> Array:
        """Divergence of the mixture from the target, `[...]`."""
        return divergence_named(divergence).value(self.output_law, self.target)

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__}: {spread(self.tokens)} tokens per target call",
            f"bonus tokens among them {spread(self.bonus_share)}; .divergence_in(name)",
        )


def apply_rule(rule: Rule, draft: Array, target: Array) -> Outcome:
    """Compute the outcome of a rule on trusted float64 laws; `evaluate` is the checked door to it."""
    return outcome_of(
        draft, target, rule.acceptance(draft, target), rule.residual(draft, target), bonus_law(rule, draft, target)
    )


def outcome_of(
    draft: Array,
    target: Array,
    acceptance: Array,
    residual: "Array | ResidualKernel",
    bonus: Array,
    sampled_draft: Array | None = None,
) -> Outcome:
    """Compute the outcome of an acceptance, a residual of any of the three kinds and a bonus law, all trusted."""
    sampled = draft if sampled_draft is None else sampled_draft
    rejection, output_law = _output(sampled, acceptance, residual)
    return Outcome(
        draft=draft,
        target=target,
        sampled_draft=sampled,
        acceptance=acceptance,
        residual=residual,
        rejection=rejection,
        output_law=output_law,
        bonus_law=bonus,
    )


def _output(sampled: Array, acceptance: Array, residual: "Array | ResidualKernel") -> tuple[Array, Array]:
    """Rejection, `[...]`, and output law, `[..., vocab]`."""
    xp = array_namespace(sampled)
    accepted = acceptance * sampled
    rejection = positive_part(mass(sampled - accepted))  # nothing where all is accepted, not a rounding of 1 - sum
    if isinstance(residual, ResidualKernel):
        replaced = residual.mixture(sampled - accepted)
    elif residual.ndim == sampled.ndim:
        replaced = xp.expand_dims(rejection, axis=-1) * residual
    else:
        replaced = xp.squeeze(xp.expand_dims(sampled - accepted, axis=-2) @ residual, axis=-2)
    return rejection, accepted + replaced


def evaluate(
    rule: Rule | str,
    draft: Array,
    target: Array,
    *,
    sampled_draft: Array | None = None,
    draft_logits: Array | None = None,
    target_logits: Array | None = None,
    normalise: bool = False,
) -> Outcome:
    """Evaluate a verification rule exactly.

    output(y) = b(y) s(y) + sum_x s(x) (1 - b(x)) P(y | x), with P(y | x) = P(y) for most rules and s the law the
    drafted token really came from.

    Parameters
    ----------
    rule
        Any `Rule`, such as those of `tradeoff.rules`, or its spec, "lenience:factor=0.8".
    draft, target
        Laws `[..., vocab]`, numpy or torch; results come back as the same kind, in float64.
    sampled_draft
        The law s, `[..., vocab]`; by default `draft`. A sampler that draws its drafts from another law than the one
        it verifies with (other temperature, other masks, greedy) is lossy however lossless its rule: here is how much.
    draft_logits, target_logits
        Raw logits, `[..., vocab]`, for rules that compare those (`LogitRule`); others do not look at them.
    normalise
        Accept rows of any positive sum and divide by it.

    Raises
    ------
    InputError
        What is no rule of one token at a time, laws that are not laws, or a rule whose acceptance, residual or bonus is
        not one.

    Notes
    -----
    The bound behind `Outcome.gap`: docs/theory.md T6.
    """
    rule = as_rule(rule, kind="token", taken_by="evaluate")
    problem = validated(draft, target, normalise=normalise)
    draft, target = problem.draft, problem.target
    sampled = None
    if sampled_draft is not None:
        sampled = validated(sampled_draft, target, normalise=normalise, draft_name="sampled draft").draft
    if isinstance(rule, LogitRule):
        logits = {"draft_logits": draft_logits, "target_logits": target_logits}
        rule = rule.with_logits(*(_checked_logits(array, name, draft) for name, array in logits.items()))
    acceptance, residual, bonus = (
        rule.acceptance(draft, target),
        rule.residual(draft, target),
        bonus_law(rule, draft, target),
    )
    _check_rule(rule, draft, acceptance, residual, bonus)
    return outcome_of(draft, target, acceptance, residual, bonus, sampled)


def _checked_logits(given: Array | None, name: str, draft: Array) -> Array | None:
    if given is None:
        return None
    logits: Array = given
    if type(logits) is not type(draft) or tuple(logits.shape) != tuple(draft.shape) or device(logits) != device(draft):
        raise InputError(
            f"{name}: expected the laws' own array type, device and shape {tuple(draft.shape)}; got "
            f"{type(logits).__name__} of shape {tuple(getattr(logits, 'shape', ()))}"
        )
    logits = without_gradient(logits)
    xp = array_namespace(logits)
    if not xp.isdtype(logits.dtype, ("real floating", "integral")):
        raise InputError(f"{name}: expected real numbers; got {logits.dtype}")
    if bool(xp.any(xp.isnan(logits))):
        raise InputError(f"{name}: expected numbers or -inf; got NaN; check the model's weights and dtype")
    return xp.astype(logits, xp.float64)


def _check_rule(rule: Rule, draft: Array, acceptance: Array, residual: "Array | ResidualKernel", bonus: Array) -> None:
    """A rule is the user's own code: its output is input to us."""
    xp, shape = array_namespace(draft), tuple(draft.shape)
    _check_shape(rule, draft, "an acceptance", acceptance, shape)
    if not bool(xp.all((acceptance >= 0) & (acceptance <= 1))):
        raise InputError(f"{rule!r}: expected acceptance probabilities in [0, 1]; clip them in the rule")
    _check_shape(rule, draft, "a bonus law", bonus, shape)
    _check_law(rule, "a bonus law", bonus, 1.0)
    if isinstance(residual, ResidualKernel):
        rejected = draft * (1.0 - acceptance)
        residual = residual.mixture(rejected)
        _check_shape(rule, draft, "a residual kernel's mixture", residual, shape)
        _check_law(rule, "a residual kernel's mixture", residual, mass(rejected, keepdims=True))
    else:
        _check_shape(rule, draft, "a residual", residual, shape, (*shape, shape[-1]))
        _check_law(rule, "a residual law", residual, 1.0)


def _check_shape(rule: Rule, draft: Array, name: str, array: Array, *shapes: tuple[int, ...]) -> None:
    if type(array) is not type(draft) or tuple(array.shape) not in shapes:
        wanted = " or ".join(str(each) for each in shapes)
        raise InputError(
            f"{rule!r}: expected {name} of shape {wanted}, of the laws' own array type; "
            f"got {type(array).__name__} of shape {tuple(getattr(array, 'shape', ()))}"
        )
    # complex numbers compare, and would go on into every result
    if array_namespace(array).isdtype(array.dtype, "complex floating"):
        raise InputError(
            f"{rule!r}: expected {name} of real numbers; got {array.dtype}; take its real part in the rule"
        )


def _check_law(rule: Rule, name: str, law: Array, total: Array | float) -> None:
    xp = array_namespace(law)
    if not bool(xp.all((law >= 0) & (xp.abs(mass(law, keepdims=True) - total) <= SUM_TOLERANCE))):
        wanted = "1" if isinstance(total, float) else "the weights' own sum"
        raise InputError(f"{rule!r}: expected {name}, >= 0 and summing to {wanted}; normalise it in the rule")
