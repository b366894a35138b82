"""What a verification rule is."""

from typing import Protocol

from solvers.arrays import Array


class Rule(Protocol):
    """Accept a drafted token x with probability acceptance[x], else sample the residual law.

    Both methods take trusted laws `[..., vocab]` (float64, summing to 1, any array library) and run on every
    drafted position alike. The law after a fully accepted block, the bonus token's, is the target's for every
    rule: the decoding loop samples it without asking the rule.
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Probability of accepting each token, `[..., vocab]`, in [0, 1]."""
        ...

    def residual(self, draft: Array, target: Array) -> Array:
        """Law of the replacement after a rejection, `[..., vocab]`.

        A rule whose replacement depends on the rejected token returns `[..., vocab, vocab]`: row x is the law
        after rejecting x.
        """
        ...
