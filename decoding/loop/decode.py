"""The decoding loop: draft, score, verify; a batch of texts of unlike lengths, read back once a round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from decoding.drafting import Drafter, ModelDrafter, MultiDraft, Proposal
from decoding.loop.plan import Decoded, Plan, WrittenText
from decoding.loop.rounds import Fate, Round
from decoding.loop.statistics import Recorder
from decoding.models.cached_model import CachedModel
from decoding.models.graphs import Captured
from decoding.policies.price import Spent
from decoding.policies.stopwatch import Stopwatch
from decoding.sampling.draw import unusable
from decoding.verification import Scored, Verified, verifier_of
from decoding.verification.account import EXACT


# no version counters, a tenth of the host's time in a small model
@torch.inference_mode()
def decode(
    target: CachedModel, drafter: Drafter, tokens: Tensor, length: Sequence[int], plan: Plan, *, seen: int = 0
) -> Decoded:
    """Decode a batch.

    Each round drafts k = min(draft_length, room left) tokens per text, scores them with one call of the target, keeps
    those the rule accepts and adds one token: the replacement of the first rejected one, or, after a full block and
    if there is room, a bonus token from the target's law or the rule's own. The joint law of a text is the product of
    the rule's output laws at verified positions and its bonus laws at bonus positions; it does not depend on the
    other texts.

    Parameters
    ----------
    target, drafter
        Who verifies and who proposes.
    tokens, length
        The prompts, left-aligned, `[batch, >= longest]` on the target's device, and their lengths.
    plan
        Everything else.
    seen
        Columns of the prompts that are in the target's cache already.
    """
    loop = _Loop(target, drafter, tokens, length, plan)
    interrupted = False
    try:
        loop.start(seen)
        while loop.live:
            loop.round()
    except KeyboardInterrupt:
        interrupted = True
    return Decoded(texts=tuple(row.text() for row in loop.rows), seconds=loop.watch.total(), interrupted=interrupted)


@dataclass(kw_only=True, eq=False)
class _Row:
    """What the host knows of a text."""

    length: int  # prompt and generated tokens
    tokens: list[int] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    ended: bool = False
    error: str | None = None
    logits: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)

    def text(self) -> WrittenText:
        """Close the row; what an interrupted round left half recorded is dropped."""
        statistics = self.recorder.statistics()
        kept = statistics.generated
        return WrittenText(
            tokens=self.tokens[:kept],
            statistics=statistics,
            error=self.error,
            logits=self.logits[:kept],
            scores=self.scores[:kept],
        )


class _Loop:
    """The state of one call: the texts on the device, and on the host what has been read back.

    Line s of every device tensor belongs to row `slots[s]`. Where the cache is static, finished rows stay and idle;
    else they leave, unless the caller wants all keys and values.
    """

    def __init__(
        self, target: CachedModel, drafter: Drafter, tokens: Tensor, length: Sequence[int], plan: Plan
    ) -> None:
        device, batch = tokens.device, len(length)
        self.target, self.drafter, self.plan, self.watch = target, drafter, plan, Stopwatch(device)
        self.drafts = drafter.drafts if isinstance(drafter, MultiDraft) else 1
        self.most = plan.draft_length if isinstance(plan.draft_length, int) else plan.draft_length.most
        self.rows = [_Row(length=each) for each in length]
        self.live = list(range(batch))
        self.slots = list(range(batch))
        # a round writes up to `most` drafted tokens and one more behind a text, live or not
        capacity = max(length) + plan.max_new_tokens + self.most + 1
        lines = batch * self.drafts
        self.tokens = torch.zeros(lines, capacity, dtype=torch.int64, device=device)
        self.tokens[:, : tokens.shape[1]] = tokens.repeat_interleave(self.drafts, 0)
        self.length = torch.tensor(list(length), device=device).repeat_interleave(self.drafts)
        self.room = torch.full_like(self.length, plan.max_new_tokens)
        self.limit = torch.zeros_like(self.length)  # drafted tokens that count in this round
        self.uniforms = torch.zeros(lines, 2 * self.most + 1, dtype=torch.float64, device=device)
        captured = target.static and device.type == "cuda" and not plan.warping.reads_text
        self._draft = Captured(self._draft_phase, enabled=captured and _can_be_captured(drafter, device))
        self._score = Captured(self._score_phase, enabled=captured)

    def start(self, seen: int) -> None:
        """Show both models the prompts."""
        plan, longest = self.plan, max(row.length for row in self.rows)
        plan.warping.select(torch.arange(len(self.rows)).repeat_interleave(self.drafts))
        self.target.prefill(self.tokens, first=seen, last=longest - 1)
        self.drafter.start(self.tokens, self.length, width=longest, vocab=plan.vocab, warping=plan.warping)
        self.verifier = verifier_of(
            plan.rule,
            drafts=self.drafts,
            texts=len(self.rows),
            max_new_tokens=plan.max_new_tokens,
            temperature=plan.warping.temperature,
            exact=plan.exact,
            backend=plan.backend,
        )

    def round(self) -> None:
        """Draft, score, verify; then read the round back and end the texts that are finished."""
        count, longest = self._count(), max(self.rows[row].length for row in self.slots)
        beyond = self.verifier.begin(self.slots, count)
        self._draw(count)
        with self.watch.part("draft"):
            # a law after the block is the last one of a longer proposal
            proposal = self._draft(count + beyond, self.target.width(longest + count + beyond))
            torch.minimum(proposal.count, self.room.clamp(max=count), out=self.limit)
        with self.watch.part("target"):
            logits, scores = self._score(count, self.target.width(longest + count))
            self.plan.warping.confirm()
        with self.watch.part("verify"):
            finished = self._decided(proposal, logits, scores)
            self._commit(finished.verified)
        self._take(finished)

    def _draw(self, count: int) -> None:
        """Renew the uniforms of every line."""
        counts = [min(count, self.plan.max_new_tokens - len(self.rows[row].tokens)) for row in self.slots]
        drawn = [self.plan.uniforms.draw(self.slots, counts, count) for _ in range(self.drafts)]
        self.uniforms[:, : 2 * count + 1] = torch.stack(drawn, dim=1).flatten(0, 1)

    def _count(self) -> int:
        """Tokens to draft: no more than some text has room for, unless a graph wants them all."""
        policy = self.plan.draft_length
        count = policy if isinstance(policy, int) else policy.choose()
        if self.target.static:
            return count
        return min(count, self.plan.max_new_tokens - min(len(self.rows[row].tokens) for row in self.live))

    def _draft_phase(self, count: int, width: int) -> Proposal:
        """Propose, and write the drafted tokens behind the texts."""
        device = self.tokens.device
        # a token beyond the block only asks for its law: any uniform does
        proposal = self.drafter.propose(self.tokens, self.length, count, self.uniforms[:, :count], width=width)
        proposal = proposal.to(device)
        self.tokens.scatter_(1, self.length[:, None] + torch.arange(count, device=device), proposal.tokens)
        return proposal

    def _score_phase(self, count: int, width: int) -> tuple[Tensor, Tensor]:
        """The target's raw and processed logits after the newest token and after every drafted one."""
        columns = self.length[:, None] + torch.arange(-1, count, device=self.tokens.device)
        lengths = {self.rows[row].length for row in self.slots}
        start = lengths.pop() - 1 if len(lengths) == 1 and not self.target.static else None
        block = self.tokens.gather(1, columns)
        logits = self.target.feed(block, columns, width=width, keep=count + 1, start=start)[..., : self.plan.vocab]
        return logits, self.plan.warping.apply(logits, self.tokens, self.length, self.limit + 1)

    def _decided(self, proposal: Proposal, logits: Tensor, scores: Tensor) -> Round:
        """Let the verifier decide, and all lines of a text go on from the draft that is followed."""
        count = scores.shape[1] - 1
        scored = Scored(
            rows=self.slots,
            proposal=proposal,
            limit=self.limit,
            logits=logits,
            scores=scores,
            uniforms=self.uniforms[:, : 2 * count + 1],
        )
        decision, limit = self.verifier.decide(scored), self.limit
        if decision.winner is not None:
            line = decision.winner + self.drafts * torch.arange(len(self.slots), device=self.tokens.device)
            self._follow(decision.winner, line, count)
            proposal, limit, logits, scores = proposal.at(line), limit[:: self.drafts], logits[line], scores[line]
        return Round(
            proposal=proposal,
            limit=limit,
            logits=logits,
            scores=scores,
            verified=decision.verified,
            exact=decision.exact,
        )

    def _follow(self, winner: Tensor, line: Tensor, count: int) -> None:
        """Give every text's drafts what the followed one has."""
        assert isinstance(self.drafter, MultiDraft)
        self.tokens[:] = self.tokens[line.repeat_interleave(self.drafts)]
        columns = self.length[:: self.drafts, None] + torch.arange(-1, count, device=self.tokens.device)
        self.target.share(winner, columns)
        self.drafter.share(winner, (columns - 1).clamp(min=0))  # it has not seen its last token

    def _commit(self, verified: Verified) -> None:
        """Lengthen the live texts on the device, without waiting for it."""
        accepted, following = (
            each.repeat_interleave(self.drafts) if self.drafts > 1 else each
            for each in (verified.accepted, verified.next_token)
        )
        self.tokens.scatter_(1, (self.length + accepted)[:, None], following[:, None])
        step = torch.minimum(accepted + 1, self.room)
        self.length += step
        self.room -= step

    def _take(self, finished: Round) -> None:
        """Read the round back, hand its tokens out, and let finished texts go."""
        fates = finished.read(log_likelihood=self.plan.exact)
        emitted = [self._extend(row, slot, fates[slot], finished) for slot, row in enumerate(self.slots)]
        self._tell(finished.count, fates, emitted)
        ended = [slot for slot, row in enumerate(self.slots) if row in self.live and self.rows[row].ended]
        self.live = [row for row in self.live if not self.rows[row].ended]
        if self.target.static or self.plan.keep_rows:
            for slot in ended:
                self.plan.warping.finish(self.slots[slot])
                self.room[self.drafts * slot : self.drafts * (slot + 1)] = 0
        elif ended and self.live:
            self._select([slot for slot, row in enumerate(self.slots) if row in self.live])

    def _extend(self, row: int, slot: int, fate: Fate, finished: Round) -> int:
        """Add a round's tokens to a text; return how many."""
        mine, plan = self.rows[row], self.plan
        if mine.ended:
            return 0
        if fate.unusable:
            name = "draft" if bool(unusable(finished.proposal.logits[slot]).any()) else "target"
            mine.error = (
                f"{name} model: expected at least one finite logit and no NaN after {mine.length} tokens; check the "
                "weights' dtype and the logits processors"
            )
            mine.ended = True
            return 0
        before, room = len(mine.tokens), plan.max_new_tokens - len(mine.tokens)
        for token in [*fate.drafted[: fate.accepted], fate.next_token][:room]:
            place = len(mine.tokens) - before
            mine.tokens.append(token)
            if plan.keep_scores:
                mine.logits.append(finished.logits[slot, place].clone())
                mine.scores.append(finished.scores[slot, place].clone())
            mine.ended = len(mine.tokens) == plan.max_new_tokens or plan.finished(row, mine.tokens, mine.scores)
            if mine.ended:
                break
        emitted = mine.tokens[before:]
        mine.length += min(fate.accepted + 1, room)
        mine.recorder.add(
            drafted=fate.drafted,
            accepted=fate.accepted,
            emitted=len(emitted),
            exact=fate.exact if plan.exact else None,
            log_likelihood=fate.log_likelihood,
        )
        plan.emitted(row, emitted)
        return len(emitted)

    def _tell(self, count: int, fates: list[Fate], emitted: list[int]) -> None:
        """Show a controller and a draft length policy what the round brought."""
        told = [slot for slot, tokens in enumerate(emitted) if tokens > 0]
        if told and fates[told[0]].exact is not None:
            exact = np.array([fates[slot].exact for slot in told])
            self.verifier.observe(
                Spent(
                    rows=[self.slots[slot] for slot in told],
                    rejection=exact[..., EXACT.index("rejection")],
                    kl=exact[..., EXACT.index("kl")],
                    verified=np.array([min(emitted[slot], len(fates[slot].drafted)) for slot in told]),
                    emitted=np.array([emitted[slot] for slot in told]),
                )
            )
        lap = self.watch.lap()
        if not isinstance(self.plan.draft_length, int) and told:
            kept = [fates[slot].accepted for slot in told]
            self.plan.draft_length.observe(drafted=count, accepted=kept, seconds=lap)

    def _select(self, slots: list[int]) -> None:
        """Let the other texts go."""
        keep = torch.tensor([self.drafts * slot + draft for slot in slots for draft in range(self.drafts)])
        keep = keep.to(self.tokens.device)
        self.target.select(keep)
        self.drafter.select(keep)
        self.plan.warping.select(keep)
        self.tokens, self.length, self.room, self.limit, self.uniforms = (
            each[keep] for each in (self.tokens, self.length, self.room, self.limit, self.uniforms)
        )
        self.slots = [self.slots[slot] for slot in slots]


def _can_be_captured(drafter: Drafter, device: torch.device) -> bool:
    """Whether a drafter works at fixed addresses of this device alone."""
    return isinstance(drafter, ModelDrafter) and drafter.static and drafter.model.device == device
