"""Rules whose output law is the target's."""

from dataclasses import dataclass

from solvers.arrays import Array
from solvers.closed_form import lenient_acceptance, optimal_residual


@dataclass(frozen=True)
class SpeculativeSampling:
    """Lossless speculative sampling: b = min(1, target / draft), residual [target - draft]_+ / R.

    R = TV(draft, target), the least of any lossless rule (Yin et al., Theorem 2). Leviathan et al., arXiv
    2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318.
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / draft), `[..., vocab]`."""
        return lenient_acceptance(draft, target, 1.0)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return optimal_residual(draft, target, self.acceptance(draft, target))
