"""Published rules that verify several drafts of one position."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from solvers.arrays import normalised, positive_part, safe_divide
from solvers.errors import InputError
from solvers.multi_draft import left_after
from solvers.roots import monotone_root
from tradeoff.rule import Selection

Proposals = Iterable[tuple[tuple[int, ...], float]]

SMALLEST_ACC = 1e-9
"""SGLang's kernel divides by no less."""


@dataclass(frozen=True)
class RecursiveRejection:
    """Recursive rejection sampling: drafts are judged in turn, each against what is left of the target. Lossless.

    With q_1 = target and p_1 = draft, draft x_m is kept with probability min(1, q_m(x_m) / p_m(x_m)), else
    q_{m+1} = [q_m - p_m]_+ normalised; the replacement has the law q_{K+1}.

    Parameters
    ----------
    replacement
        True: all drafts are drawn from the draft, p_m = draft, and all are rejected with probability
        prod_m TV(q_m, draft). Multi-step speculative sampling of SpecInfer (Miao et al., ASPLOS 2024, arXiv
        2305.09781; recalled, not read), and what the root of Algorithm 4 of Yin et al., arXiv 2411.00841, intends: as
        printed it updates the residual once too often and is lossy. False: every draft is drawn from the
        draft without those before it, p_{m+1} = p_m off x_m, normalised; fewer are proposed where the draft has fewer
        tokens. Jeon et al., arXiv 2402.14160; the trees of Sequoia and of EAGLE's code.

    Notes
    -----
    Pitfall: without replacement, p must be divided anew by what is left of its mass at every rejection; a ratio with
    the draft's own p is lossy.
    """

    replacement: bool = True

    def proposals(self, draft: np.ndarray, drafts: int) -> Proposals:
        """Enumerate the tuples that can be drawn."""
        return _draws(draft, drafts, self.replacement)

    def selection(self, draft: np.ndarray, target: np.ndarray, tokens: tuple[int, ...]) -> Selection:
        """Return where the judged drafts and the last residual put the mass."""
        accepted, reached = np.zeros_like(target), 1.0
        p, q = draft, target
        for token in tokens:
            kept = float(np.minimum(q[token], p[token]) / p[token])
            accepted[token] += reached * kept
            reached *= 1.0 - kept
            q = left_after(p, q)
            p = p if self.replacement else _off(p, (token,))
        return Selection(accepted=accepted, replaced=q * reached)


def _draws(law: np.ndarray, count: int, replacement: bool) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every tuple of `count` draws from a law with its probability; fewer draws where no token is left."""
    support = np.flatnonzero(law).tolist()
    if count == 0 or not support:
        yield (), 1.0
        return
    for token in support:
        for rest, probability in _draws(law if replacement else _off(law, (token,)), count - 1, replacement):
            yield (token, *rest), float(law[token]) * probability


@dataclass(frozen=True)
class KSeq:
    """K-SEQ: independent drafts are judged in turn at one inflated ratio.

    A draft x is kept with probability min(1, q(x) / (rho p(x))), so each of K is kept with probability
    beta = sum min(p, q / rho) and one of them with A = 1 - (1 - beta)^K. The replacement has the law
    [q - min(p, q / rho) A / beta]_+ normalised. At the root rho* of A = rho beta in [1, K], which is the default, this
    is [q - rho p]_+, the output is the target, and A is at least 1 - (1 - 1/K)^K > 1 - 1/e of what is possible.

    Parameters
    ----------
    rho
        At least 1; solved for each pair of laws if None. Any rho >= rho*, such as K, is lossless and accepts less;
        below rho* the rule accepts more than the target can cover, and is lossy.

    Notes
    -----
    Sun et al., SpecTr, NeurIPS 2023, arXiv 2310.15141; formulas recalled and then checked by enumeration.
    """

    rho: float | None = None

    def __post_init__(self) -> None:
        if self.rho is not None and not 1 <= self.rho < np.inf:
            raise InputError(f"rho: expected a finite number >= 1, or None to solve for it; got {self.rho}")

    def proposals(self, draft: np.ndarray, drafts: int) -> Proposals:
        """Enumerate the tuples of independent draws."""
        return _draws(draft, drafts, replacement=True)

    def selection(self, draft: np.ndarray, target: np.ndarray, tokens: tuple[int, ...]) -> Selection:
        """Return where the judged drafts and the residual put the mass."""
        rho = _k_seq_root(draft, target, len(tokens)) if self.rho is None else self.rho
        common = np.minimum(draft, target / rho)
        kept = safe_divide(common, draft, 1.0)
        accepted, reached = np.zeros_like(target), 1.0
        for token in tokens:
            accepted[token] += reached * kept[token]
            reached *= 1.0 - float(kept[token])
        if self.rho is None:
            taken = rho * common  # A / beta = rho at the root, exactly where the quotient would be 0/0
        else:
            beta = float(common.sum())
            taken = common * (-np.expm1(len(tokens) * np.log1p(-min(beta, 1.0))) / beta) if 0 < beta < 1 else common
        return Selection(accepted=accepted, replaced=normalised(positive_part(target - taken), target) * reached)


def _k_seq_root(draft: np.ndarray, target: np.ndarray, count: int) -> float:
    """The rho in [1, K] with 1 - (1 - beta)^K = rho beta; the difference is nondecreasing in rho."""

    def excess(rho: np.ndarray) -> np.ndarray:
        beta = np.minimum(draft, target / rho[:, None]).sum(axis=-1)
        return rho * beta - (1.0 - np.maximum(1.0 - beta, 0.0) ** count)

    return float(monotone_root(excess, low=np.ones(1), high=np.full(1, float(count))).value[0])


@dataclass(frozen=True)
class GreedyMultiDraft:
    """The draft's K - 1 most likely tokens, and one drawn from the rest. Lossless.

    Let T be those tokens and p' the draft off T, normalised. The drawn token is verified by speculative sampling with
    p' as the draft: kept with probability min(1, q / p'), else replaced from [q - p']_+ normalised. That residual holds
    all of the target's mass on T, where p' has none, and a replacement in T is one of the drafts. So one of the
    drafts is emitted with probability sum_T q + sum_{off T} min(q, p'), and as no output can be a draft more
    often, this is the best selection from these drafts.

    Hu et al., ICLR 2025, arXiv 2502.18779, as described in arXiv 2605.04543; the selection is derived here. Ties in the
    draft go to the lower token. Where T holds all of the draft's mass nothing is drawn, and the target is sampled.
    """

    def proposals(self, draft: np.ndarray, drafts: int) -> Proposals:
        """Enumerate the last token; those before it are certain."""
        top = _most_likely(draft, drafts - 1)
        for last, probability in _draws(_off(draft, top), 1, replacement=True):
            yield (*top, *last), probability

    def selection(self, draft: np.ndarray, target: np.ndarray, tokens: tuple[int, ...]) -> Selection:
        """Return where the drawn token and the residual put the mass."""
        accepted, replaced = np.zeros_like(target), target.copy()
        off = _off(draft, tokens[:-1])
        # no mass off the other drafts: nothing was drawn, and the last one is a top token too. If the top tokens
        # end with the draft's last mass, it is taken for drawn from a point mass there, which selects alike.
        if off.any():
            drawn = tokens[-1]
            kept = float(min(target[drawn], off[drawn]) / off[drawn])
            accepted[drawn] = kept
            replaced = normalised(positive_part(target - off), target) * (1.0 - kept)
        accepted[list(tokens)] += replaced[list(tokens)]
        replaced[list(tokens)] = 0.0
        return Selection(accepted=accepted, replaced=replaced)


def _off(law: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    """The law given that none of `tokens` is drawn; no mass at all if nothing else can be."""
    rest = law.copy()
    rest[list(tokens)] = 0.0
    return normalised(rest, rest)


def _most_likely(draft: np.ndarray, count: int) -> tuple[int, ...]:
    """The draft's most likely tokens, ties to the lower one; all there are if `count` is more."""
    return tuple(np.argsort(-draft, kind="stable")[:count].tolist())


@dataclass(frozen=True)
class SGLangTree:
    """SGLang's tree verification at one node: one coin, scanned over the draft's K most likely tokens.

    With Q_i the target's mass on the first i siblings and u one uniform for the node, sibling i is kept if it is the
    first with u <= Q_i / acc or q(x_i) >= single. If none is, the target is sampled with all siblings taken out. The
    draft's probabilities play no part beyond the choice of siblings; from a chain (K = 1) with a certain draft this is
    lenient sampling, b = min(1, q / acc).

    Parameters
    ----------
    single
        A sibling of at least this target probability is kept whatever the coin, `speculative_accept_threshold_single`.
    acc
        Divides the cumulated mass, `speculative_accept_threshold_acc`; values below 1e-9 count as that. Both are 1 by
        default, where the output is the target, and between 0 and 1.

    Notes
    -----
    sgl-project/sglang, sgl-kernel speculative_sampling.cuh, `TreeSpeculativeSamplingTargetOnly`. Pitfalls: the order of
    the siblings matters at `single` below 1, because an earlier one is scanned first; a node of SGLang's tree may hold
    fewer siblings than its top-k, where the tree's budget of tokens cut some.
    """

    single: float = 1.0
    acc: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("single", self.single), ("acc", self.acc)):
            if not 0 <= value <= 1:
                raise InputError(f"{name}: expected a threshold in [0, 1]; got {value}; 1 is lossless")

    def proposals(self, draft: np.ndarray, drafts: int) -> Proposals:
        """Return the one tuple there is: the draft's most likely tokens, the likeliest first."""
        return [(_most_likely(draft, drafts), 1.0)]

    def selection(self, draft: np.ndarray, target: np.ndarray, tokens: tuple[int, ...]) -> Selection:
        """Return the stretch of the coin that keeps each sibling, and the target off the siblings."""
        accepted, passed, cumulated = np.zeros_like(target), 0.0, 0.0
        for token in tokens:
            cumulated += float(target[token])
            kept = 1.0 if target[token] >= self.single else min(1.0, cumulated / max(self.acc, SMALLEST_ACC))
            # a sibling above `single` leaves those after it nothing, whatever their cumulated mass
            accepted[token] = max(0.0, kept - passed)
            passed = max(passed, kept)
        off = target.copy()
        off[list(tokens)] = 0.0
        return Selection(accepted=accepted, replaced=normalised(off, target) * (1.0 - passed))
