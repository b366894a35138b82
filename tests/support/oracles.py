"""Every published rule once more, one token at a time, written from its definition and from nothing else.

No import from the library: plain Python over lists of numbers, floats or exact fractions. In the formulas p is the
draft's law, q the target's, x the drafted token, b its acceptance probability, P the law of its replacement. A token
that is never drafted has no acceptance; 1 stands there. A residual without mass is the law it aims at.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

Law = Sequence[Any]


def both(first: Law, second: Law) -> zip:
    return zip(first, second, strict=True)


@dataclass(frozen=True)
class Decision:
    """What a rule does with each token x: acceptance b[x], replacement law replace(x), law after a full block."""

    accept: Law
    replace: Callable[[int], Law]
    bonus: Law


def enumerate_token(decision: Decision, sampled: Law) -> tuple[Any, list]:
    """Rejection probability and output law: draw x from `sampled`, toss the coin, draw the replacement."""
    rejection: Any = 0
    output: list[Any] = [0] * len(sampled)
    for x, chance in enumerate(sampled):
        lost = chance * (1 - decision.accept[x])
        output[x] += chance * decision.accept[x]
        rejection += lost
        if lost > 0:
            for y, share in enumerate(decision.replace(x)):
                output[y] += lost * share
    return rejection, output


def enumerate_round(decision: Decision, sampled: Law, draft_length: int) -> tuple[list, Any]:
    """Expected number of times a round emits each token, and how many of its tokens are bonus tokens."""
    counts: list[Any] = [0] * len(sampled)
    bonus: Any = 0

    def emit(chance: Any, kept: Sequence[int], last: Law) -> None:
        for x in kept:
            counts[x] += chance
        for y, share in enumerate(last):
            counts[y] += chance * share

    for block in product(range(len(sampled)), repeat=draft_length):
        chance = math.prod(sampled[x] for x in block)
        for place, x in enumerate(block):
            emit(chance * (1 - decision.accept[x]), block[:place], decision.replace(x))
            chance = chance * decision.accept[x]
        emit(chance, block, decision.bonus)
        bonus += chance
    return counts, bonus


def total_variation(first: Law, second: Law) -> Any:
    """Half the sum of absolute differences."""
    return sum(abs(a - b) for a, b in both(first, second)) / 2


def kl_divergence(first: Law, second: Law) -> float:
    """Sum of first log(first / second), in nats."""
    return math.fsum(a * math.log(a / b) if b > 0 else math.inf for a, b in both(first, second) if a > 0)


def chi_square(first: Law, second: Law) -> float:
    """Sum of (first - second)^2 / second."""
    return math.fsum((a - b) ** 2 / b if b > 0 else math.inf for a, b in both(first, second) if a > 0 or b > 0)


# --- pieces of definitions ---


def normal(masses: Law, otherwise: Law) -> Law:
    total = sum(masses)
    return [mass / total for mass in masses] if total > 0 else otherwise


def surplus(p: Law, wanted: Law, otherwise: Law | None = None) -> Law:
    """[wanted - p]_+, normalised."""
    return normal([max(w - a, 0) for a, w in both(p, wanted)], wanted if otherwise is None else otherwise)


def without(law: Law, x: int) -> Law:
    """The law's other tokens, normalised; a token that is certain cannot be replaced by another."""
    return normal([0 if y == x else mass for y, mass in enumerate(law)], law)


def softmax(logits: Law) -> Law:
    return normal([math.exp(each - max(logits)) for each in logits], logits)


def coins(p: Law, q: Law, acceptance: Callable[[Any, Any], Any]) -> Law:
    """min(1, acceptance(p(x), q(x))), for every token that can be drafted."""
    return [min(1, acceptance(a, b)) if a > 0 else 1 for a, b in both(p, q)]


def relaxed(p: Law, q: Law, acceptance: Callable[[Any, Any], Any]) -> Decision:
    """An acceptance with lossless sampling's residual."""
    residual = surplus(p, q)
    return Decision(coins(p, q, acceptance), lambda x: residual, q)


def speculative_towards(p: Law, law: Law) -> Decision:
    """Speculative sampling of any law."""
    return relaxed(p, law, lambda a, w: w / a)


def greedy(accepted: Sequence[bool], q: Law) -> Decision:
    """A set of tokens is accepted; what replaces the others, and the bonus token, is the target's best."""
    best = [int(y == list(q).index(max(q))) for y in range(len(q))]
    return Decision([int(each) for each in accepted], lambda x: best, best)


def crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a nondecreasing function becomes positive, by bisection to the last digit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if function(middle) <= 0 else (low, middle)
    return low


def floor_for(p: Law, q: Law, amount: Any) -> Any:
    """c with sum [c q - p]_+ = amount: no set takes more than that, and the tokens lowest in p / q take it all."""
    order = sorted((a / b, a, b) for a, b in both(p, q) if b > 0)
    sets = (order[:count] for count in range(1, len(order) + 1))
    return min((amount + sum(a for _, a, _ in each)) / sum(b for _, _, b in each) for each in sets)


def ceiling_for(p: Law, q: Law, amount: Any) -> Any:
    """C with sum [p - C q]_+ = amount; infinite if the draft has more than that off the target's support."""
    off = sum(a for a, b in both(p, q) if b == 0)
    order = sorted(((a / b, a, b) for a, b in both(p, q) if b > 0), reverse=True)
    sets = (order[:count] for count in range(1, len(order) + 1))
    highest = max((off - amount + sum(a for _, a, _ in each)) / sum(b for _, _, b in each) for each in sets)
    return math.inf if off > amount else highest


def clip(p: Law, q: Law, floor: Any, ceiling: Any) -> Decision:
    """Output clip(p, floor q, ceiling q); of a mass L > R off the target's support, the share R / L is refused."""
    refused, off = sum(max(floor * b - a, 0) for a, b in both(p, q)), sum(a for a, b in both(p, q) if b == 0)
    spared = 1 - refused / off if off > refused * (1 + 1e-12) else 0  # a rounding must not leak
    accept = coins(p, q, lambda a, b: (1 if math.isinf(ceiling) else ceiling * b / a) if b > 0 else spared)
    return Decision(accept, lambda x: surplus(p, [floor * b for b in q], q), q)


def clip_at(p: Law, q: Law, amount: Any) -> Decision:
    return clip(p, q, floor_for(p, q, amount), ceiling_for(p, q, amount))


# --- lossless rules and looser ratios ---


def speculative_sampling(p: Law, q: Law) -> Decision:
    return speculative_towards(p, q)


def sample_match(p: Law, q: Law) -> Decision:
    return Decision(q, lambda x: without(q, x), q)


def openvino(p: Law, q: Law) -> Decision:
    return relaxed(p, q, lambda a, b: sum(face / 100 <= min(1, b / a) for face in range(101)) / 101)


def lenience(p: Law, q: Law, *, factor: Any) -> Decision:
    return relaxed(p, q, lambda a, b: b / (factor * a) if factor > 0 else b > 0)


def distillspec(p: Law, q: Law, *, function: str = "linear", epsilon: Any) -> Decision:
    made = {"linear": lambda b: b / epsilon, "square": lambda b: b / epsilon**2, "exponential": lambda b: b**epsilon}
    return relaxed(p, q, lambda a, b: made[function](b) / a)


def lossy_speculative(p: Law, q: Law, *, alpha: Any, beta: Any = None) -> Decision:
    residual = surplus(p, [b / (1 - alpha if beta is None else beta) for b in q], q)
    return Decision(coins(p, q, lambda a, b: b / ((1 - alpha) * a)), lambda x: residual, q)


def decoding_opt(p: Law, q: Law, *, epsilon: Any) -> Decision:
    accept = coins(p, q, lambda a, b: (b + epsilon) / a)
    return Decision(accept, lambda x: surplus([a * b for a, b in both(p, accept)], q), q)


def decoding_uno(p: Law, q: Law, *, epsilon: Any, residual: str = "target") -> Decision:
    accept = coins(p, q, lambda a, b: (b + epsilon) / a)
    return Decision(accept, lambda x: {"target": q, "draft": p}[residual], q)


def ears(p: Law, q: Law, *, beta: Any = 0) -> Decision:
    return relaxed(p, q, lambda a, b: b / a + beta * (1 - max(q)))


def additive_slack(p: Law, q: Law, *, epsilon: Any) -> Decision:
    return relaxed(p, q, lambda a, b: b / a + epsilon)


def ensemble(p: Law, q: Law, *, target_weight: Any) -> Decision:
    mixture = [target_weight * b + (1 - target_weight) * a for a, b in both(p, q)]
    residual = surplus(p, q)  # for a positive weight the mixture's own, and exact where that is a rounding
    return Decision(coins(p, mixture, lambda a, w: w / a), lambda x: residual, q)


def synthetic(p: Law, q: Law, *, rate: Any) -> Decision:
    return relaxed(p, q, lambda a, b: rate)


# --- a law of its own ---


def contrastive(p: Law, q: Law, *, alpha: Any) -> Decision:
    def logit(a: Any, b: Any) -> float:  # a token the draft never proposes counts as the smallest float64
        return math.log(b) + alpha * (math.log(b) - math.log(max(a, 2.0**-1022))) if b > 0 else -math.inf

    law = softmax([logit(a, b) for a, b in both(p, q)]) if alpha else q
    return speculative_towards(p, law)


def fuzzy(p: Law, q: Law, *, divergence: str = "js", threshold: Any, fallback: str = "target") -> Decision:
    middle = [(a + b) / 2 for a, b in both(p, q)]
    shannon = (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2
    distances = {"kl": kl_divergence(q, p), "js": shannon, "tv": total_variation(p, q)}
    if distances[divergence] < threshold:
        return Decision([1] * len(p), lambda x: q, q)
    return speculative_sampling(p, q) if fallback == "speculative" else Decision([0] * len(p), lambda x: q, q)


def cascade(p: Law, q: Law, *, variant: str = "opt", alpha: Any) -> Decision:
    bars = {"chow": 1 - alpha, "diff": max(q) - alpha, "opt": max(q) - alpha * total_variation(p, q)}
    sets = {
        "tok1": [a >= max(q) - alpha for a in p],
        "tok2": [b >= max(q) - alpha for b in q],
        "tok3": [b >= (1 - alpha) * max(q) for b in q],
    }
    if variant in bars:
        law = q if max(p) < bars[variant] else p
    else:
        kept = [a if trusted else 0 for a, trusted in both(p, sets[variant])]
        law = [a + sum(b - c for b, c in both(p, kept)) * w for a, w in both(kept, q)]
    return speculative_towards(p, law)


def cactus(p: Law, q: Law, *, delta: float, exact: bool = False) -> Decision:
    def boosted(b: Any) -> Any:
        if b == 0 or b == 1 or delta == 0:
            return b
        if not exact:
            return min(1, b + math.sqrt(2 * delta * b * (1 - b)))
        if -math.log(b) <= delta:
            return 1
        return crossing(lambda g: g * math.log(g / b) + (1 - g) * math.log((1 - g) / (1 - b)) - delta, b, 1)

    def replace(x: int) -> Law:
        rest = (1 - boosted(q[x])) / (1 - q[x]) if q[x] < 1 else 0
        virtual = [boosted(b) if y == x else b * rest for y, b in enumerate(q)]
        return surplus(p, virtual, q)

    return Decision(coins(p, q, lambda a, b: boosted(b) / a), replace, q)


# --- sets of tokens, and data from outside ---


def top_k_gate(p: Law, q: Law, *, k: int = 5) -> Decision:
    accept = [int(b >= min(sorted(q)[-k:])) for b in q]
    return Decision(accept, lambda x: surplus(p, accept, q), q)


def typical(p: Law, q: Law, *, threshold: float = 0.09, alpha: float | None = None) -> Decision:
    entropy = -math.fsum(b * math.log(b + 1e-5) for b in q)
    bar = min(threshold, (math.sqrt(threshold) if alpha is None else alpha) * math.exp(-entropy))
    return greedy([b > bar for b in q], q)


def tensorrt_relaxed(p: Law, q: Law, *, top_k: int = 1, delta: Any = 0.0, target_logits: Law | None = None) -> Decision:
    read = q if target_logits is None else softmax(target_logits)
    best = sorted(range(len(read)), key=lambda x: -read[x])[:top_k]  # stable: the lower index of equal ones
    return greedy([x in best and b >= max(read) - delta for x, b in enumerate(read)], read)


def bild(p: Law, q: Law, *, rollback: float = 5.0, target_logits: Law | None = None) -> Decision:
    read = q if target_logits is None else softmax(target_logits)
    return greedy([b > 0 and not -math.log(b) > rollback for b in read], read)


def sglang(p: Law, q: Law, *, single: Any = 1.0, acc: Any = 1.0) -> Decision:
    accept = [1 if b >= single else min(1, b / max(acc, 1e-9)) for b in q]
    return Decision(accept, lambda x: without(q, x), q)


def mars(p: Law, q: Law, *, theta: float = 0.9, target_logits: Law) -> Decision:
    ranked = sorted(range(len(q)), key=lambda x: -target_logits[x])
    accepted = ranked[:1]
    if len(q) > 1 and math.isfinite(target_logits[ranked[1]]) and target_logits[ranked[0]] != 0:
        accepted = ranked[: 1 + (target_logits[ranked[1]] / target_logits[ranked[0]] > theta)]
    return greedy([x in accepted for x in range(len(q))], q)


def logit_comparison(p: Law, q: Law, *, draft_logits: Law, target_logits: Law) -> Decision:
    return Decision([int(a <= b + 1e-5) for a, b in both(draft_logits, target_logits)], lambda x: q, q)


def judge(p: Law, q: Law, *, scores: Law, threshold: Any) -> Decision:
    strict = speculative_sampling(p, q)
    return Decision([1 if score > threshold else b for score, b in both(scores, strict.accept)], strict.replace, q)


def reward_guided(p: Law, q: Law, *, rewards: Law, weighting: str = "clip", threshold: Any = 0.5) -> Decision:
    def weight(r: Any) -> Any:
        kinds = {"clip": min(1, max(0, r)), "threshold": int(r >= threshold), "ratio": max(r, 0) / (1 + max(r, 0))}
        return kinds.get(weighting, 1 / (1 + math.exp(-r)))  # or logistic

    return Decision([weight(r) for r in rewards], lambda x: q, q)


def csd(p: Law, q: Law, *, frequencies: Sequence[Law], frequency: Any, ratio: Any) -> Decision:
    strict, residual = coins(p, q, lambda a, b: b / a), surplus(p, q)

    def rescued(x: int, t: int) -> bool:
        return frequencies[x][t] >= frequency and q[x] >= ratio * q[t]

    def replace(x: int) -> Law:
        return normal([0 if rescued(x, t) else mass for t, mass in enumerate(residual)], residual)

    spared = [sum(mass for t, mass in enumerate(residual) if rescued(x, t)) for x in range(len(q))]
    return Decision([b + (1 - b) * s for b, s in both(strict, spared)], replace, q)


def lantern(p: Law, q: Law, *, neighbours: Sequence[Sequence[int]], delta: Any, k: int | None = None) -> Decision:
    def gathered(x: int) -> list:
        law, moved = list(q), 0
        for y in list(neighbours[x])[:k]:
            moved += q[y]
            if moved > delta:
                break
            law[x], law[y] = law[x] + law[y], 0
        return law

    accept = [min(1, gathered(x)[x] / a) if a > 0 else 1 for x, a in enumerate(p)]
    return Decision(accept, lambda x: surplus(p, gathered(x), q), q)


# --- the front ---


def ratio_clip(p: Law, q: Law, *, ceiling: Any = None, rejection: Any = None) -> Decision:
    if ceiling is None:
        return clip_at(p, q, min(rejection, total_variation(p, q)))
    refused = sum(max(a - ceiling * b, 0) if b > 0 else a for a, b in both(p, q))
    return clip(p, q, floor_for(p, q, refused), ceiling)


def common_price(p: Law, q: Law, *, price: float, divergence: str = "kl") -> Decision:
    """f'(C) - f'(c) = price and the clipped law sums to 1."""
    # 1 / C is what reverse KL is plain in; a price that no C can reach leaves the law without a ceiling
    ceilings: dict[str, Callable[[float], float]] = {
        "kl": lambda c: c * math.exp(price) if price < 700 else math.inf,
        "reverse_kl": lambda c: 1 / (1 / c - price) if 1 / c > price else math.inf,
        "chi2": lambda c: c + price / 2,
    }

    def excess(c: float) -> float:
        ceiling = ceilings[divergence](c)
        leaks = divergence == "reverse_kl" and math.isinf(ceiling)
        return -1 + math.fsum(
            (max(c * b, a) if math.isinf(ceiling) else min(max(c * b, a), ceiling * b)) if b > 0 else leaks * a
            for a, b in both(p, q)
        )

    floor = crossing(excess, 0.0, 1.0) if price > 0 else 1.0
    return clip(p, q, floor, ceilings[divergence](floor))


def mentored(p: Law, q: Law, *, kl: float) -> Decision:
    """The least rejection within KL(q, output) <= kl."""
    apart = total_variation(p, q)
    if kl == 0 or kl_divergence(q, p) <= kl:
        return clip_at(p, q, 0 if kl > 0 else apart)

    def spare(rejection: float) -> float:
        return kl - kl_divergence(q, enumerate_token(clip_at(p, q, rejection), p)[1])

    return clip_at(p, q, crossing(spare, 0.0, apart))


_ALL = (
    *(speculative_sampling, sample_match, openvino, lenience, distillspec, lossy_speculative, decoding_opt),
    *(decoding_uno, ears, additive_slack, ensemble, synthetic, contrastive, fuzzy, cascade, cactus, top_k_gate),
    *(typical, tensorrt_relaxed, bild, sglang, mars, logit_comparison, judge, reward_guided, csd, lantern),
    *(ratio_clip, common_price, mentored),
)
ORACLES: dict[str, Callable[..., Decision]] = {oracle.__name__: oracle for oracle in _ALL}
