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
)

DECODING = (
    Break(
        name="room",
        file="decoding/loop/decode.py",
        old="step = torch.minimum(accepted + 1, self.room)",
        new="step = accepted + 1",
        why="a full text must not grow on the device",
        tests=("tests/decoding/test_batch.py",),
    ),
    Break(
        name="silent-drafter",
        file="decoding/verification/verifiers.py",
        old="torch.where(silent[..., None], scored.scores, proposal.logits).split",
        new="proposal.logits.split",
        why="a drafter that proposes nothing has no law of its own for a bonus",
        tests=("tests/decoding/test_batch.py",),
    ),
    Break(
        name="block-share",
        file="decoding/verification/block.py",
        old="gained / (gained + 1.0 - chance)",
        new="gained / (gained + 1.0)",
        why="the coin of a prefix in block verification",
        tests=("tests/decoding/test_block_verify.py",),
    ),
    Break(
        name="ratio-leak",
        file="decoding/verification/ratio.py",
        old="torch.where(q > 0, loss, (1.0 - uniforms) * loss) > knob",
        new="loss > knob",
        why="tokens off the support are accepted with the chance that is spared, not always",
        tests=("tests/decoding/test_ratio_verify.py",),
    ),
    Break(
        name="several-first",
        file="decoding/verification/multi_draft.py",
        old="rejection = rejection * total_variation(p, left)",
        new="rejection = total_variation(p, left)",
        why="several drafts are rejected with the product of their chances",
        tests=("tests/decoding/test_batch.py",),
    ),
    Break(
        name="nan-at-bonus",
        file="decoding/verification/step.py",
        old="needed = [(draft_logits, count), (target_logits, count + 1)]",
        new="needed = [(draft_logits, count), (target_logits, count)]",
        why="NaN at the bonus place would become a token",
        tests=("tests/decoding/test_verify.py",),
    ),
    Break(
        name="uniform-zero",
        file="decoding/sampling/draw.py",
        old="reach[..., -1:]), right=True)",
        new="reach[..., -1:]), right=False)",
        why="a token without mass must not be drawn, not even at uniform 0",
        tests=("tests/decoding/test_sampling.py",),
    ),
    Break(
        name="hold-rejection",
        file="decoding/policies/price.py",
        old="/ self._target - float(spent.verified.sum()))",
        new="/ self._target - float(spent.emitted.sum()))",
        why="the mean rejection is over verified positions",
        tests=("tests/decoding/test_control.py",),
    ),
    Break(
        name="budget-of-a-round",
        file="decoding/policies/price.py",
        old="safe = left / np.minimum(draft_length, tokens)",
        new="safe = left",
        why="every position of a round may cost its most",
        tests=("tests/decoding/test_sequence_budget.py",),
    ),
    Break(
        name="sliding-window",
        file="decoding/models/cached_model.py",
        old="hidden |= every <= own - window",
        new="hidden |= every < own - window",
        why="a window of w columns is not w + 1",
        tests=("tests/decoding/test_cache.py",),
    ),
    Break(
        name="scaled-scores",
        file="decoding/huggingface/request.py",
        old="tuple(each[None] / scale for each in logits)",
        new="tuple(each[None] for each in logits)",
        why="stopping criteria see scores after the temperature, as in generate",
        tests=("tests/decoding/test_door.py",),
    ),
    Break(
        name="longest-ngram",
        file="decoding/drafting/prompt_lookup.py",
        old="agreeing * width + ends, -1)",
        new="ends, -1)",
        why="the longest n-gram goes before the latest",
        tests=("tests/decoding/test_drafting.py",),
    ),
)

EVALUATION = (
    Break(
        name="bootstrap-infinite",
        file="decoding/evaluation/bootstrap.py",
        old="sums[place] += value",
        new="sums[place] += 0.0 * len(drawn)",
        why="a resample that draws an infinite prompt is infinite",
        tests=("tests/evaluation/test_summary.py", "tests/evaluation/test_findings.py"),
    ),
    Break(
        name="holm-steps",
        file="decoding/evaluation/study/win_rates.py",
        old="values[order] * np.arange(len(values), 0, -1)",
        new="values[order] * len(values)",
        why="Holm steps down; this is Bonferroni",
        tests=("tests/evaluation/test_win_rates.py",),
    ),
    Break(
        name="tie-probabilities",
        file="decoding/evaluation/study/tied_wins.py",
        old="ties = TIES * 2 * min(rate, 1 - rate)",
        new="ties = 0 * TIES",
        why="the exact interval holds whatever the probability of a tie",
        tests=("tests/evaluation/test_win_rates.py",),
    ),
    Break(
        name="mismatch-sign",
        file="decoding/evaluation/study/findings.py",
        old="if abs(mismatch.value) <= tolerance:",
        new="if mismatch.value <= tolerance:",
        why="cells whose rejections differ are not compared, whichever rejects more",
        tests=("tests/evaluation/test_findings.py",),
    ),
    Break(
        name="unsealed-rows",
        file="decoding/evaluation/files/kept.py",
        old="return row if value.get(SEAL) == sealed(row, kind)[SEAL] else None",
        new="return row",
        why="a row that was changed by hand is no result",
        tests=("tests/evaluation/test_broken_folders.py",),
    ),
    Break(
        name="two-verdicts",
        file="decoding/evaluation/judges/replies.py",
        old="return marked.pop() if len(marked) == 1 else None",
        new="return min(marked)",
        why="a reply that says A and B says neither",
        tests=("tests/evaluation/test_chat_replies.py",),
    ),
    Break(
        name="too-long-to-score",
        file="decoding/evaluation/judges/reward_model.py",
        old="if 0 < len(tokens) <= scorer.context",
        new="if len(tokens) > 0",
        why="a text beyond the model's context has no score",
        tests=("tests/evaluation/test_judges.py",),
    ),
    Break(
        name="text-by-number",
        file="decoding/evaluation/positions/collect.py",
        old="generator=seed_for(seed, 1, visit),",
        new="generator=seed_for(seed, 1, owner),",
        why="a prompt that is revisited gets a fresh text",
        tests=("tests/evaluation/test_position_file.py",),
    ),
)

BREAKS = SOLVERS + TRADEOFF + DECODING + EVALUATION
