"""Rules whose output law is the target's, and OpenVINO's, which only comes close."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from solvers.arrays import Array
from solvers.closed_form import lenient_acceptance, optimal_residual
from tradeoff.rules.kernels import WithoutRejected
from tradeoff.rules.parts import capped, ordinary_residual, ratio


@dataclass(frozen=True)
class SpeculativeSampling:
    """Lossless speculative sampling: b = min(1, target / draft), residual [target - draft]_+ / R.

    R = TV(draft, target), the least of any lossless rule (Yin et al., Theorem 2). At temperature 0 both laws are one
    hot, and a token is accepted if it is the target's argmax.

    Notes
    -----
    Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318. In code: transformers
    `_speculative_sampling`, vLLM V1 `rejection_sampler.py` with draft probabilities. It is lossless only if both laws
    went through the same temperature and masks and the draft law is the one sampled (`evaluate(sampled_draft=)`).
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, target / draft), `[..., vocab]`."""
        return lenient_acceptance(draft, target, 1.0)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return optimal_residual(draft, target, self.acceptance(draft, target))


@dataclass(frozen=True)
class SampleMatch:
    """Draw the target's own token and keep the drafted one if it is the same: b = target, residual target without x.

    Lossless for every draft law, R = 1 - sum draft target >= TV(draft, target). With a greedy draft (one hot) it is
    speculative sampling; with a sampled draft it rejects more often, without being any better.

    Notes
    -----
    llama.cpp's default, vLLM's `strict` method, transformers where the candidates come without logits, and every
    engine that treats its draft as a point mass (b = target(x), residual without x): vLLM without draft
    probabilities, Bebop (arXiv 2606.12370). Wrong there only if the statistics assume min(1, target / draft).
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return the target's probability, `[..., vocab]`."""
        return target

    def residual(self, draft: Array, target: Array) -> WithoutRejected:
        """Return the target without the rejected token."""
        return WithoutRejected(target)


@dataclass(frozen=True)
class OpenVINO:
    """Speculative sampling with a random number of 101 values: b = (floor(100 min(1, target / draft)) + 1) / 101.

    Meant to be lossless. The random number k/100, k = 0..100, is compared with <=, so that b misses the ratio by up to
    a hundredth either way: a small bias. And every drafted token is accepted with at least 1/101, even where the target
    has no mass. It leaks through masks.

    Notes
    -----
    OpenVINO GenAI's speculative decoding.
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return the share of the 101 values at most the ratio, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        wanted = capped(ratio(draft, target))
        face = xp.floor(100.0 * wanted)
        # 100 * 0.29 is below 29, and 100 times the number below 0.05 is 5: compare faces as the sampler does
        face = xp.where((face + 1.0) / 100.0 <= wanted, face + 1.0, face)
        face = xp.where(face / 100.0 > wanted, face - 1.0, face)
        return (face + 1.0) / 101.0

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return ordinary_residual(draft, target)
