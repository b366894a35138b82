"""What a rule does to the output law of one position: exact, from the laws, no sampling."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from solvers.arrays import Array, mass
from solvers.divergences import Divergence, divergence_named, total_variation
from solvers.errors import InputError
from tradeoff.problem import SUM_TOLERANCE, validated
from tradeoff.rule import Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The exact effect of one rule on one pair of laws, or on a batch of pairs.

    Parameters
    ----------
    draft, target
        The laws, `[..., vocab]`, float64.
    acceptance
        b(x), `[..., vocab]`.
    residual
        The law after a rejection, `[..., vocab]`, or one law per rejected token, `[..., vocab, vocab]`.
    rejection
        Probability that the drafted token is rejected, 1 - sum b draft, `[...]`.
    output_law
        Law of the token that is emitted, `[..., vocab]`.
    """

    draft: Array
    target: Array
    acceptance: Array
    residual: Array
    rejection: Array
    output_law: Array

    def divergence(self, divergence: str | Divergence) -> Array:
        """Divergence of the output from the target, `[...]`: any of `solve_pareto`'s; infinite where it is."""
        return divergence_named(divergence).value(self.output_law, self.target)

    @property
    def tv(self) -> Array:
        """TV(output, target), `[...]`: the paper's bias."""
        return self.divergence("tv")

    @property
    def kl(self) -> Array:
        """KL(output, target) in nats, `[...]`; infinite where the rule leaks."""
        return self.divergence("kl")

    @property
    def gap(self) -> Array:
        """R + TV(output, target) - TV(draft, target) >= 0, `[...]`: distance to the TV front (Theorem 5)."""
        return self.rejection + self.tv - total_variation(self.draft, self.target)

    @property
    def leak(self) -> Array:
        """Output mass on tokens to which the target gives none, `[...]`."""
        xp = array_namespace(self.target)
        return mass(xp.where(self.target > 0, xp.zeros_like(self.output_law), self.output_law))


def apply_rule(rule: Rule, draft: Array, target: Array) -> Outcome:
    """Compute the outcome of a rule on trusted float64 laws; `evaluate` is the checked door to it."""
    return outcome_of(draft, target, rule.acceptance(draft, target), rule.residual(draft, target))


def outcome_of(draft: Array, target: Array, acceptance: Array, residual: Array) -> Outcome:
    """Compute the outcome of an acceptance and a residual, `[..., vocab]` or `[..., vocab, vocab]`, trusted float64."""
    xp = array_namespace(draft, target)
    accepted = acceptance * draft
    rejection = 1.0 - mass(accepted)
    rejection = xp.where(rejection > 0, rejection, xp.zeros_like(rejection))
    if residual.ndim == draft.ndim:
        replaced = xp.expand_dims(rejection, axis=-1) * residual
    else:
        replaced = xp.squeeze(xp.expand_dims(draft - accepted, axis=-2) @ residual, axis=-2)
    return Outcome(
        draft=draft,
        target=target,
        acceptance=acceptance,
        residual=residual,
        rejection=rejection,
        output_law=accepted + replaced,
    )


def evaluate(rule: Rule, draft: Array, target: Array, *, normalise: bool = False) -> Outcome:
    """Evaluate a verification rule exactly.

    output(y) = b(y) draft(y) + sum_x draft(x) (1 - b(x)) P(y | x), with P(y | x) = P(y) for most rules.

    Parameters
    ----------
    rule
        Any `Rule`, such as those of `tradeoff.rules`.
    draft, target
        Laws `[..., vocab]`, numpy or torch; results come back as the same kind, in float64.
    normalise
        Accept rows of any positive sum and divide by it.

    Raises
    ------
    InputError
        Laws that are not laws, or a rule whose acceptance or residual is not one.

    Notes
    -----
    The bound behind `Outcome.gap`: docs/theory.md T6.
    """
    problem = validated(draft, target, normalise=normalise)
    draft, target = problem.draft, problem.target
    acceptance, residual = rule.acceptance(draft, target), rule.residual(draft, target)
    _check_rule(rule, draft, acceptance, residual)
    return outcome_of(draft, target, acceptance, residual)


def _check_rule(rule: Rule, draft: Array, acceptance: Array, residual: Array) -> None:
    """A rule is the user's own code: its output is input to us."""
    xp, shape = array_namespace(draft), tuple(draft.shape)
    for name, array, shapes in (
        ("an acceptance", acceptance, (shape,)),
        ("a residual", residual, (shape, (*shape, shape[-1]))),
    ):
        if type(array) is not type(draft) or tuple(array.shape) not in shapes:
            wanted = " or ".join(str(each) for each in shapes)
            raise InputError(
                f"{rule!r}: expected {name} of shape {wanted}, of the laws' own array type; "
                f"got {type(array).__name__} of shape {tuple(getattr(array, 'shape', ()))}"
            )
    if not bool(xp.all((acceptance >= 0) & (acceptance <= 1))):
        raise InputError(f"{rule!r}: expected acceptance probabilities in [0, 1]; clip them in the rule")
    lawful = (residual >= 0) & (xp.abs(mass(residual, keepdims=True) - 1.0) <= SUM_TOLERANCE)
    if not bool(xp.all(lawful)):
        raise InputError(f"{rule!r}: expected a residual law, >= 0 and summing to 1; normalise it in the rule")
