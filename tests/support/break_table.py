"""The deliberate breaks: what is changed, why that must be noticed, and which test files should."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Break:
    """One changed line.

    Parameters
    ----------
    name
        What `make breaks ONLY=` calls it.
    file, old, new
        The file, a text that stands in it exactly once, and what is put in its place.
    why
        What is then wrong.
    tests
        The test files that should notice.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]


SOLVERS = (
    Break(
        name="leak-off-support",
        file="solvers/closed_form.py",
        old="acceptance = xp.where((q > 0) | (p <= 0), acceptance, xp.expand_dims(spared, axis=-1))",
        new="del spared",
        why="below the draft's mass off the target's support, tokens there must be accepted with one chance (T1)",
        tests=("tests/solvers/test_closed_form.py",),
    ),
    Break(
        name="rounded-ceiling",
        file="solvers/closed_form.py",
        old="whole = accepted > 1.0 - 4.0 * xp.finfo(accepted.dtype).eps",
        new="whole = accepted > 1.0",
        why="a rejection that is only a rounding makes an infinite divergence finite",
        tests=("tests/solvers/test_certificate.py",),
    ),
    Break(
        name="root-safeguard",
        file="solvers/roots.py",
        old="trusted = inside & ~(error > error_old / 2)",
        new="trusted = inside",
        why="secants that do not halve the error may creep for ever",
        tests=("tests/solvers/test_roots.py",),
    ),
    Break(
        name="certificate-nan",
        file="solvers/certificate.py",
        old="broken = xp.where(numbers, broken, xp.zeros_like(broken) + xp.inf)",
        new="del numbers",
        why="a maximum is silent about NaN: a rule that is none would be certified",
        tests=("tests/solvers/test_certificate_attacks.py", "tests/solvers/test_certificate.py"),
    ),
    Break(
        name="certificate-crossed",
        file="solvers/certificate.py",
        old="valid = (floor >= 0) & (floor <= ceiling) & (ceiling > 0)",
        new="valid = (floor >= 0) & (ceiling > 0)",
        why="with the floor above the ceiling the line is no bound",
        tests=("tests/solvers/test_certificate_attacks.py", "tests/solvers/test_certificate.py"),
    ),
    Break(
        name="kl-series",
        file="solvers/divergence_terms.py",
        old="series = 2 * x * series * s + (x - y)",
        new="series = x * series * s + (x - y)",
        why="KL of nearly equal laws, in which only the series has digits",
        tests=("tests/solvers/test_divergences.py",),
    ),
    Break(
        name="divergence-off-support",
        file="solvers/divergences.py",
        old="off = _times(target, self.at_zero) + _times(output, self.slope_at_infinity)",
        new="off = _times(target, self.at_zero)",
        why="output mass where the target has none costs f'(infinity)",
        tests=("tests/solvers/test_divergences.py",),
    ),
    Break(
        name="ceiling-of-a-leak",
        file="solvers/sort_free.py",
        old="return np.where(rows.off_support() > wanted + ROUNDING, np.inf, level)",
        new="return level",
        why="no finite ceiling loses as little as is asked where the draft leaks more",
        tests=("tests/solvers/test_sort_free.py",),
    ),
    Break(
        name="free-rejection",
        file="solvers/sorted_front.py",
        old="root = np.where(divergence > 0, np.minimum(root, self.free_rejection), self.free_rejection)",
        new="root = np.where(divergence > 0, root, self.total_variation)",
        why="where f is flat around 1, divergence 0 takes less rejection than TV",
        tests=("tests/tradeoff/test_flat_divergences.py", "tests/solvers/test_sorted_front.py"),
    ),
    Break(
        name="chain-future",
        file="solvers/chain_program.py",
        old="values[step] = kl[step] + price * rejection[step] + mass(law * later)",
        new="values[step] = kl[step] + price * rejection[step] + mass(draft * later)",
        why="the rest of the text starts where the output leads, not the draft",
        tests=("tests/solvers/test_chain_program.py",),
    ),
    Break(
        name="chain-bound",
        file="solvers/chain_program.py",
        old="divergence=_KL)[0] - log_total",
        new="divergence=_KL)[0]",
        why="without log Z the bound is on another target",
        tests=("tests/solvers/test_chain_program.py",),
    ),
    Break(
        name="pooled-weights",
        file="solvers/multi_draft.py",
        old="isotonic_regression(gains / target, weights=target, increasing=False)",
        new="isotonic_regression(gains / target, increasing=False)",
        why="the majorant's pools weigh tokens by the target (T10)",
        tests=("tests/solvers/test_multi_draft_program.py",),
    ),
    Break(
        name="call-bound",
        file="solvers/call_program.py",
        old="bound=cost - slack",
        new="bound=cost",
        why="a schedule that is not the best has a gap",
        tests=("tests/solvers/test_call_program.py",),
    ),
    Break(
        name="block-bound",
        file="solvers/block_program.py",
        old="later = shifts[i] if i < len(shifts) else 0.0",
        new="later = 0.0",
        why="a bound counts what a kept prefix still costs",
        tests=("tests/solvers/test_block_program.py",),
    ),
)


TRADEOFF = (
    Break(
        name="bonus-share",
        file="tradeoff/outcome/token.py",
        old="bonus = (1.0 - self.rejection) ** draft_length",
        new="bonus = (1.0 - self.rejection) ** (draft_length - 1)",
        why="a bonus token comes after all drafted ones",
        tests=("tests/tradeoff/test_published_rules.py",),
    ),
    Break(
        name="claimed-draft",
        file="tradeoff/outcome/token.py",
        old="rejection, output_law = _output(sampled, acceptance, residual)",
        new="rejection, output_law = _output(draft, acceptance, residual)",
        why="a sampler that draws from another law than it verifies with is lossy",
        tests=("tests/tradeoff/test_published_rules.py",),
    ),
    Break(
        name="block-rejections",
        file="tradeoff/outcome/block.py",
        old="rejections += probability * (kept < count)",
        new="rejections += probability",
        why="a block kept whole has no rejection",
        tests=("tests/tradeoff/test_blocks.py", "tests/tradeoff/test_block_rules.py"),
    ),
    Break(
        name="distillspec-square",
        file="tradeoff/rules/ratio.py",
        old='power = 1.0 if self.function == "linear" else 2.0',
        new="power = 1.0",
        why="two of its functions would be one",
        tests=("tests/tradeoff/test_published_rules.py",),
    ),
    Break(
        name="fly-window",
        file="tradeoff/rules/blocks.py",
        old="return position < len(matches) - self.window and all(",
        new="return position <= len(matches) - self.window and all(",
        why="the one mismatch whose window ends with the block is refused as published",
        tests=("tests/tradeoff/test_block_rules.py",),
    ),
    Break(
        name="greedy-multi-draft",
        file="tradeoff/rules/multi_draft.py",
        old="accepted[list(tokens)] += replaced[list(tokens)]",
        new="accepted[list(tokens[:-1])] += replaced[list(tokens[:-1])]",
        why="a replacement that is the drawn token is a draft too",
        tests=("tests/tradeoff/test_multi_draft.py",),
    ),
    Break(
        name="next-state",
        file="tradeoff/chains/chain.py",
        old="tokens, states).sum(axis=-2)",
        new="states, tokens).sum(axis=-1)",
        why="the next state drops the oldest token, not the newest",
        tests=("tests/tradeoff/test_chains.py",),
    ),
    Break(
        name="chain-rejections",
        file="tradeoff/chains/rejections.py",
        old="moments = kept + replaced",
        new="moments = kept",
        why="texts go on after a replacement too",
        tests=("tests/tradeoff/test_chains.py",),
    ),
    Break(
        name="conformance-impossible",
        file="tradeoff/conformance/checking.py",
        old="wrong = np.where(expected.possible, 0, counts)",
        new="wrong = np.zeros_like(counts)",
        why="one token of probability 0 is a failure",
        tests=("tests/tradeoff/test_conformance.py",),
    ),
    Break(
        name="conformance-level",
        file="tradeoff/conformance/checking.py",
        old="level = false_alarm / max(sum(case.p_value is not None for case in cases), 1)",
        new="level = false_alarm",
        why="the cases share the promised false alarm",
        tests=("tests/tradeoff/test_conformance.py", "tests/tradeoff/test_conformance_cases.py"),
    ),
    Break(
        name="rule-kind",
        file="tradeoff/rules/registry.py",
        old="if found not in kinds:",
        new="if not found:",
        why="a rule of another kind must be refused by the name of who takes it",
        tests=("tests/tradeoff/test_own_rules.py",),
    ),
    Break(
        name="conversion-nearest",
        file="tradeoff/conversion.py",
        old="dial = min(seen, key=lambda each: abs(seen[each] - wanted))",
        new="dial = max(seen, key=lambda each: abs(seen[each] - wanted))",
        why="the answer is the nearest dial met",
        tests=("tests/tradeoff/test_conversion.py",),
    ),
    Break(
        name="block-weight",
        file="tradeoff/rules/blocks.py",
        old="np.asarray(weight), price_at",
        new="np.asarray(1.0), price_at",
        why="the draft offers more where its prefix is kept less often",
        tests=("tests/tradeoff/test_block_price.py",),
    ),
)
