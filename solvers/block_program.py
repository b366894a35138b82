"""The block problem on a small tree: what joint verification of a drafted block can do at best, as a convex program.

Letters, as in docs/theory.md T15: P draft law of the whole block, q target law of the next token, c_i(x^i) mass that
is accepted through prefix x^i (c_0 = 1), e_i(x^i) mass that is stopped after i - 1 tokens and corrected by x_i. With
m = c + e,

    sum over x of m_{i+1}(x^i x) = c_i(x^i),   0 <= c_i <= P,   e_i >= 0,

and the nats of a round are sum over i < k and x^i of c_i KL(m_{i+1} / c_i, q), jointly convex. They are at least the
KL of the text of k tokens, in which the end of a round is hidden.
"""

from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np

from solvers.arrays import positive_part
from solvers.convex_program import run_solver
from solvers.errors import Status


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockTree:
    """A draft's and a target's laws after every prefix shorter than k, entry i `[vocab] * i + [vocab]`; trusted."""

    draft: list[np.ndarray]
    target: list[np.ndarray]

    @property
    def reach(self) -> list[np.ndarray]:
        """P(x^i) for i = 0 .. k: entry i `[vocab] * i`."""
        masses = [np.ones(())]
        for law in self.draft:
            masses.append(masses[-1][..., None] * law)
        return masses

    @property
    def written(self) -> list[np.ndarray]:
        """Whether the target may write x^i, for i = 1 .. k: entry i - 1 `[vocab] * i`."""
        found, before = [], np.ones((), dtype=bool)
        for law in self.target:
            before = before[..., None] & (law > 0)
            found.append(before)
        return found

    @property
    def longest(self) -> float:
        """Most tokens a policy of finite nats accepts: the drafted prefixes that the target may write."""
        return float(sum(most[free].sum() for most, free in zip(self.reach[1:], self.written, strict=True)))


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockPolicy:
    """What a policy does with a block: c_i and e_i for i = 1 .. k, entry i - 1 `[vocab] * i`."""

    accepted: list[np.ndarray]
    stopped: list[np.ndarray]

    @property
    def length(self) -> float:
        """Expected accepted tokens."""
        return float(sum(each.sum() for each in self.accepted))

    def nats(self, tree: BlockTree) -> float:
        """Sum of c_i KL(m_{i+1} / c_i, q); infinite where the policy emits what the target never would."""
        total, before = 0.0, np.ones(())
        for kept, corrected, law in zip(self.accepted, self.stopped, tree.target, strict=True):
            emitted, base = kept + corrected, before[..., None] * law
            used = emitted > 0
            if (base[used] <= 0).any():
                return float("inf")
            total += float((emitted[used] * np.log(emitted[used] / base[used])).sum())
            before = kept
        return total

    def infeasibility(self, tree: BlockTree) -> float:
        """The most by which a constraint of the program is broken."""
        worst, before = 0.0, np.ones(())
        for kept, corrected, most in zip(self.accepted, self.stopped, tree.reach[1:], strict=True):
            flow = np.abs((kept + corrected).sum(axis=-1) - before).max()
            worst = max(worst, flow, (kept - most).max(), -kept.min(), -corrected.min())
            before = kept
        return float(worst)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockOptimum:
    """An optimum as the solver found it, and a bound that trusts no solver."""

    policy: BlockPolicy
    nats: float
    length: float
    price: float  # nats per accepted token
    bound: float  # of nats - price * length
    status: Status

    @property
    def gap(self) -> float:
        """Nats - price * length above the bound: the policy is proved optimal at its price up to this."""
        return self.nats - self.price * self.length - self.bound


def solve_block(tree: BlockTree, *, price: float | None = None, length: float | None = None) -> BlockOptimum:
    """Minimise nats - price * length, or nats at an expected accepted length; give one of them.

    Raises
    ------
    SolverError
        The solver failed, or no policy reaches the length.
    """
    accepted, stopped, flows, bounds, nats = _program(tree)
    total = cp.sum(cp.hstack([cp.sum(each) for each in accepted]))
    if length is None:
        assert price is not None, "one of the two is given"
        problem = cp.Problem(cp.Minimize(nats - price * total), [*flows, *bounds])
        status = run_solver(problem, nats)
    else:
        enough: Any = total >= length
        problem = cp.Problem(cp.Minimize(nats), [*flows, *bounds, enough])
        status = run_solver(problem, nats)
        price = float(enough.dual_value)
    policy = _policy(tree, accepted, stopped)
    return BlockOptimum(
        policy=policy,
        nats=policy.nats(tree),
        length=policy.length,
        price=price,
        bound=block_bound(tree, _multipliers(tree, policy, flows), price),
        status=status,
    )


def _multipliers(tree: BlockTree, policy: BlockPolicy, flows: list[cp.Constraint]) -> list[np.ndarray]:
    """The y >= 0 of T15: log m / (c q), above the dual value of the flow through the node."""
    found, before = [], np.ones(())
    for kept, corrected, law, flow in zip(policy.accepted, policy.stopped, tree.target, flows, strict=True):
        base = before[..., None] * law
        known = base > 1e-14
        ratio = np.where(known, (kept + corrected) / np.where(known, base, 1.0), 1.0)
        level = np.asarray(flow.dual_value).reshape(law.shape[:-1])[..., None]
        # cvxpy's x log(x / y) has slope 1 + log(x / y) in x
        found.append(positive_part(np.log(np.maximum(ratio, 1e-12)) + 1.0 + level))
        before = kept
    return found


def block_bound(tree: BlockTree, slopes: list[np.ndarray], price: float) -> float:
    """A number that nats - price * length of no policy is below, whatever the slopes y >= 0 (T15).

    -L_0 - sum over i >= 1 of P(x^i) [price + L_i(x^i) - y_i(x^i)]_+, L_i = log sum q e^y over the next token, L_k = 0.
    Prefixes that the target never writes cannot be accepted at a finite cost, and are left out.
    """
    shifts = [_log_mean(law, each) for law, each in zip(tree.target, slopes, strict=True)]
    bound = -float(shifts[0])
    for i, (most, slope, written) in enumerate(zip(tree.reach[1:], slopes, tree.written, strict=True), start=1):
        later = shifts[i] if i < len(shifts) else 0.0
        bound -= float((np.where(written, most, 0.0) * positive_part(price + later - slope)).sum())
    return bound


def _log_mean(law: np.ndarray, slope: np.ndarray) -> np.ndarray:
    highest = slope.max(axis=-1, keepdims=True)
    return highest[..., 0] + np.log((law * np.exp(slope - highest)).sum(axis=-1))


def _policy(tree: BlockTree, accepted: list[cp.Variable], stopped: list[cp.Variable]) -> BlockPolicy:
    """The variables' values, without the rounding that an interior point leaves where nothing may be."""
    found, before = ([], []), np.ones(())
    for variables in zip(accepted, stopped, strict=True):
        law = tree.target[len(found[0])]
        written = before[..., None] * law > 0
        for variable, tables in zip(variables, found, strict=True):
            values = np.asarray(variable.value).reshape(law.shape)
            tables.append(np.where(written & (values > 0), values, 0.0))
        before = found[0][-1]
    return BlockPolicy(accepted=found[0], stopped=found[1])


def _program(tree: BlockTree) -> tuple[list[Any], list[Any], list[Any], list[Any], Any]:
    """Variables `[prefixes, vocab]` a place, flow and other constraints, and nats."""
    accepted, stopped, flows, constraints, nats = [], [], [], [], []
    before = cp.Constant(np.ones(1))
    for most, law in zip(tree.reach[1:], tree.target, strict=True):
        rows = law.reshape(-1, law.shape[-1])
        kept, corrected = (cp.Variable(rows.shape, nonneg=True) for _ in range(2))
        emitted, written = kept + corrected, rows > 0
        flows.append(cp.sum(emitted, axis=1) == before)
        constraints.append(kept <= most.reshape(rows.shape))
        at = np.nonzero(written)
        nats.append(cp.sum(cp.rel_entr(emitted[at], cp.multiply(before[at[0]], rows[at]))))
        if not written.all():
            constraints.append(emitted[np.nonzero(~written)] == 0)
        accepted.append(kept)
        stopped.append(corrected)
        before = cp.reshape(kept, (rows.size,), order="C")
    return accepted, stopped, flows, constraints, cp.sum(cp.hstack(nats))
