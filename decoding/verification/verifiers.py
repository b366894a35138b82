"""Who decides a round: one verifier to each kind of rule, chosen once per call."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from decoding.drafting import Proposal
from decoding.policies.price import Controller, Spent
from decoding.sampling.draw import unusable_rows
from decoding.verification.account import exact_columns
from decoding.verification.block import verify_block_rule
from decoding.verification.multi_draft import verify_multi_draft
from decoding.verification.step import Backend, Verified, verify
from solvers.errors import InputError
from tradeoff.rule import BlockRule, Rule
from tradeoff.rules import BlockVerification


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A round before its decision, k drafted tokens to a line; a text has one line per draft.

    Parameters
    ----------
    rows
        Numbers of the texts.
    proposal
        At least k tokens, and their laws.
    limit
        How many of them count, `[lines]`.
    logits, scores
        The target's logits, raw and processed, `[lines, k + 1, vocab]`.
    uniforms
        `[lines, 2 k + 1]`: the drafter's, one to an acceptance, the last for the token that follows.
    """

    rows: Sequence[int]
    proposal: Proposal
    limit: Tensor
    logits: Tensor
    scores: Tensor
    uniforms: Tensor

    @property
    def count(self) -> int:
        """Drafted tokens, k."""
        return self.scores.shape[1] - 1

    @property
    def coins(self) -> Tensor:
        """The uniforms that are left to the decision, `[lines, k + 1]`."""
        return self.uniforms[:, self.count :]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """What became of a round.

    Parameters
    ----------
    verified
        Of every text, or of the draft that is followed.
    exact
        `exact_columns` at the drafted places, `[texts, k, columns]`; None if nobody asked, or no rule tells.
    winner
        Which of its drafts every text follows, `[texts]`; None where there is one.
    """

    verified: Verified
    exact: Tensor | None
    winner: Tensor | None = None


class Verifier(Protocol):
    """Decides round after round: `begin`, then `decide`, then `observe`. The loop knows no other kind of rule."""

    def begin(self, rows: Sequence[int], count: int) -> int:
        """Prepare a round of at most `count` drafted tokens; return how many laws of the draft behind it are wanted."""
        ...

    def decide(self, scored: Scored) -> Decision:
        """Keep the first few tokens of every text, and draw the one that follows."""
        ...

    def observe(self, spent: Spent) -> None:
        """Take account of what the round cost; called where `decide` gave exact columns."""
        ...


def verifier_of(
    rule: Rule | BlockRule | Controller,
    *,
    drafts: int,
    texts: int,
    max_new_tokens: int,
    temperature: float,
    exact: bool,
    backend: Backend,
) -> Verifier:
    """Choose the verifier of a call.

    Parameters
    ----------
    rule
        Any rule, or a controller of one.
    drafts
        Drafts per text.
    texts, max_new_tokens
        How many texts there are, and their greatest length.
    temperature, exact, backend
        As in `verify`.

    Raises
    ------
    InputError
        Several drafts under a rule that judges whole blocks.
    """
    settings = _Settings(drafts=drafts, temperature=temperature, exact=exact, backend=backend)
    if isinstance(rule, Controller):
        return _Controlled(rule, settings, texts, max_new_tokens)
    if drafts > 1 and isinstance(rule, BlockRule):
        raise InputError(
            f"rule: expected one that judges tokens one by one beside several drafts; got {rule!r}, which judges whole "
            "blocks; use a single draft"
        )
    if isinstance(rule, BlockRule) and not isinstance(rule, BlockVerification):
        return _ByBlock(rule, settings, texts)
    return _ByToken(rule, settings)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    drafts: int
    temperature: float
    exact: bool
    backend: Backend


class _ByToken:
    """Rules that judge tokens one by one, and block verification: everything `verify` takes."""

    def __init__(self, rule: Rule | BlockVerification, settings: _Settings) -> None:
        self._rule, self._settings = rule, settings

    def begin(self, rows: Sequence[int], count: int) -> int:
        """The law after the block is wanted by rules with a bonus of their own."""
        del rows, count
        return int(hasattr(self._rule, "bonus"))

    def decide(self, scored: Scored) -> Decision:
        """By `verify`, or `verify_multi_draft`."""
        return _decided(self._rule, scored, self._settings)

    def observe(self, spent: Spent) -> None:
        """Nothing to learn."""


class _Controlled:
    """A controller: another rule every round."""

    def __init__(self, controller: Controller, settings: _Settings, texts: int, max_new_tokens: int) -> None:
        self._controller = controller
        self._settings = replace(settings, exact=True)  # what a controller looks at
        controller.start(texts, max_new_tokens)

    def begin(self, rows: Sequence[int], count: int) -> int:
        """Ask for the round's rule."""
        self._rule = self._controller.rule(rows, count)
        return int(hasattr(self._rule, "bonus"))

    def decide(self, scored: Scored) -> Decision:
        """As the round's rule does."""
        return _decided(self._rule, scored, self._settings)

    def observe(self, spent: Spent) -> None:
        """Tell the controller."""
        self._controller.observe(spent)


class _ByBlock:
    """Block rules by their own verdict, on the host; a text's state goes from round to round."""

    def __init__(self, rule: BlockRule, settings: _Settings, texts: int) -> None:
        self._rule, self._temperature = rule, settings.temperature
        self._states: list[Hashable] = [rule.initial_state() for _ in range(texts)]

    def begin(self, rows: Sequence[int], count: int) -> int:
        """No law behind the block is wanted."""
        del rows, count
        return 0

    def decide(self, scored: Scored) -> Decision:
        """By `verify_block_rule`."""
        drafts = scored.proposal.logits[:, : scored.count]
        accepted, following, states = verify_block_rule(
            self._rule,
            drafts,
            scored.scores,
            scored.proposal.tokens[:, : scored.count],
            scored.coins,
            count=scored.limit,
            temperature=self._temperature,
            raw_target_logits=scored.logits,
            states=[self._states[row] for row in scored.rows],
        )
        for row, state in zip(scored.rows, states, strict=True):
            self._states[row] = state
        lawless = unusable_rows(drafts, scored.limit) | unusable_rows(scored.scores, scored.limit + 1)
        verified = Verified(accepted=accepted, next_token=following, unusable=lawless, outcome=None)
        return Decision(verified=verified, exact=None)

    def observe(self, spent: Spent) -> None:
        """Nothing to learn."""


def _decided(rule: Rule | BlockVerification, scored: Scored, settings: _Settings) -> Decision:
    if settings.drafts > 1:
        assert not isinstance(rule, BlockVerification)
        texts = len(scored.rows)
        chosen = verify_multi_draft(
            rule,
            scored.proposal,
            (scored.logits, scored.scores),
            scored.limit[:: settings.drafts],
            scored.uniforms.view(texts, settings.drafts, -1),
            temperature=settings.temperature,
            exact=settings.exact,
            backend=settings.backend,
        )
        return Decision(verified=chosen.verified, exact=chosen.exact, winner=chosen.winner)
    count, proposal = scored.count, scored.proposal
    drafts, bonus = proposal.logits[:, :count], None
    if proposal.logits.shape[1] > count:
        # where the drafter has nothing to say it is taken to agree with the target
        silent = torch.arange(count + 1, device=scored.limit.device) >= proposal.count[:, None]
        drafts, bonus = torch.where(silent[..., None], scored.scores, proposal.logits).split([count, 1], dim=1)
        bonus = bonus[:, 0]
    verified = verify(
        rule,
        drafts,
        scored.scores,
        proposal.tokens[:, :count],
        scored.coins,
        count=scored.limit,
        temperature=settings.temperature,
        raw_logits=(proposal.raw_logits[:, :count], scored.logits),
        bonus_draft_logits=bonus,
        exact=settings.exact and not isinstance(rule, BlockRule),
        backend=settings.backend,
    )
    return Decision(verified=verified, exact=None if verified.outcome is None else exact_columns(verified.outcome))
