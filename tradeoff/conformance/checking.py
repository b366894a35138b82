"""Does a sampler do what its rule says? A test of any black box that verifies one drafted token.

>>> import tradeoff
>>> from tradeoff.conformance import check
>>> def keep_everything(draft, target, drafted, randomness):
...     return drafted
>>> report = check(keep_everything, tradeoff.rules.SpeculativeSampling(), draws=1000)
>>> report.passed, report.failures[0].name
(False, 'one-hot laws apart: possible tokens')
"""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from solvers.errors import InputError, one_line
from solvers.printing import lines
from tradeoff.conformance.cases import Expected, conditional_p_value, expected_of, settings_for, worst_cell
from tradeoff.rule import Rule
from tradeoff.rules.registry import as_rule

Sampler = Callable[[np.ndarray, np.ndarray, int, Any], Any]
Randomness = Literal["generator", "uniforms", "closed uniforms"]

NAN_CALLS = 8
"""Calls per drafted token on NaN laws: a sampler that happens to raise once may not do so always."""

NEAR_ONE, NEAREST_ONE = 1 - 2.0**-24, 1 - 2.0**-53
EXTREMES: dict[str, list[tuple[float, float]]] = {
    "uniforms at 0": [(0.0, 0.0), (0.0, 0.5), (0.0, NEAR_ONE), (0.5, 0.0), (NEAR_ONE, 0.0)],
    "uniforms 2^-24 below 1": [(NEAR_ONE, 0.5), (NEAR_ONE, NEAR_ONE), (0.5, NEAR_ONE)],
    "uniforms 2^-53 below 1": [(NEAREST_ONE, 0.5), (NEAREST_ONE, NEAREST_ONE), (0.5, NEAREST_ONE)],
    "uniforms at 1": [(1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0), (0.0, 1.0)],
}
"""Pairs (acceptance, replacement) at the ends of what generators return, once in 2^24 draws or in 2^53."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that was tested.

    Parameters
    ----------
    name
        The laws and what was looked at, such as "masked target: frequencies".
    kind
        "exact": one violation is a failure, and no correct sampler has one. "chi-square": compared with a p-value.
    status
        "passed", "failed" or "skipped"; a skipped case says why.
    detail
        What was seen.
    p_value
        Of a chi-square case that was run, else None; uniform on [0, 1] for a correct sampler.
    """

    name: str
    kind: Literal["exact", "chi-square"]
    status: Literal["passed", "failed", "skipped"]
    detail: str
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a check found; `print(report)` shows it as a table.

    Parameters
    ----------
    rule
        The rule, as it prints itself.
    cases
        All cases, exact ones first.
    draws
        Tokens drawn for each pair of laws.
    false_alarm
        Largest probability that a sampler which follows the rule fails any case.
    """

    rule: str
    cases: tuple[Case, ...]
    draws: int
    false_alarm: float

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Case, ...]:
        """The cases that failed."""
        return tuple(case for case in self.cases if case.status == "failed")

    def to_dict(self) -> dict[str, list]:
        """One entry per case, as columns: `pandas.DataFrame(report.to_dict())`."""
        names = ("name", "kind", "status", "detail", "p_value")
        return {name: [getattr(case, name) for case in self.cases] for name in names}

    def __repr__(self) -> str:
        first = [f"first {each.name}: {each.detail}" for each in self.failures[:1]]
        return lines(f"{type(self).__name__} {self._verdict}", *first, "print(report) shows every case")

    def __str__(self) -> str:
        name, rows = max(len(case.name) for case in self.cases), []
        for case in self.cases:
            p_value = "" if case.p_value is None else f"{case.p_value:.2g}"
            rows.append(f"  {case.status:8}{case.kind:12}{case.name:{name}}  {p_value:>8}  {case.detail}".rstrip())
        header = f"  {'status':8}{'kind':12}{'case':{name}}  {'p-value':>8}"
        return "\n".join([self._verdict, header, *rows])

    @property
    def _verdict(self) -> str:
        verdict = "passed" if self.passed else f"FAILED: {len(self.failures)} of {len(self.cases)} cases"
        skipped = sum(case.status == "skipped" for case in self.cases)
        return (
            f"{verdict} against {self.rule}; {skipped} skipped; {self.draws} draws for each pair of laws; "
            f"false alarm <= {self.false_alarm:g}"
        )


class _Raised(Exception):
    """The sampler raised."""


class _NoToken(Exception):
    """The sampler returned something that is not a token."""


@dataclass(eq=False)
class _BlackBox:
    """The sampler, its source of randomness, and whether it ever changed the laws it was given."""

    sampler: Sampler
    randomness: Randomness
    generator: np.random.Generator
    changed: set[str] = field(default_factory=set)

    def token(self, draft: np.ndarray, target: np.ndarray, drafted: int, uniforms: np.ndarray | None = None) -> int:
        """Call the sampler once; `uniforms` replaces the randomness it would be given."""
        source = uniforms
        if source is None:
            source = self.generator if self.randomness == "generator" else self.generator.random(2)
        given = draft.copy(), target.copy()
        try:
            answer = self.sampler(*given, drafted, source)
        except Exception as error:  # noqa: BLE001  a sampler is the user's code: what it raises is a finding
            raise _Raised(f"drafted {drafted}: raised {type(error).__name__}: {one_line(error)}") from error
        for name, law, before in zip(("draft", "target"), given, (draft, target), strict=True):
            if law.tobytes() != before.tobytes():
                self.changed.add(name)
        try:
            token = -1 if isinstance(answer, bool) else operator.index(answer)
        except TypeError:
            token = -1
        if not 0 <= token < len(target):
            got = f"{one_line(answer)} ({type(answer).__name__})"
            raise _NoToken(f"drafted {drafted}: returned {got}; expected a token, 0 to {len(target) - 1}")
        return token


def check(
    sampler: Sampler,
    rule: Rule | str,
    *,
    randomness: Randomness = "generator",
    draws: int = 10_000,
    pairs: Mapping[str, tuple[Any, Any]] | None = None,
    false_alarm: float = 1e-6,
    seed: int = 0,
    raises_on_nan: bool = True,
) -> Report:
    """Test the tokens of any sampler against the exact law of a rule.

    A drafted token x must be answered by y with probability b(x) 1{y = x} + (1 - b(x)) P(y | x). Tokens of
    probability 0 must never come: that is exact, at one violation. The other frequencies are compared, x by x, by a
    chi-square test, which sees errors that cancel in the law of y alone.

    Parameters
    ----------
    sampler
        `sampler(draft, target, drafted, randomness)`: the claimed laws `[vocab]` (numpy, float64, in two settings
        float16), the drafted token, a source of randomness. Returns the token that is emitted in place of the drafted
        one, or that one.
    rule
        What the sampler should implement: a rule of one token at a time, or its spec.
    randomness
        What the sampler is given. "generator": a numpy `Generator`. "uniforms": two numbers in [0, 1), `[2]`, the
        first to accept with, the second to draw a replacement with; the ends of the interval are then tested too. They
        are float64: a sampler that rounds them to float32 must keep them below 1 itself. "closed uniforms": the same,
        and 1.0 may come as well.
    draws
        Tokens to draw for each pair of laws, of which there are 17. 10 000 find an acceptance probability that is off
        by 0.03; one that is rounded to 1/101 takes 3 million wherever its support is right.
    pairs
        Laws of your own, name to (draft, target), each `[vocab]`; they take the place of random ones.
    false_alarm
        Largest probability that a correct sampler fails: chi-square cases share it evenly (Bonferroni), exact cases
        need none. Arithmetic in less than float64 is not counted.
    seed
        Of everything random.
    raises_on_nan
        Whether the sampler is expected to raise on laws that are NaN; if not, what it does there is not tested.

    Returns
    -------
    Report
        With `passed` and every case; in a test, `assert report.passed, str(report)`.

    Raises
    ------
    InputError
        Arguments that cannot be used. Whatever the sampler raises is a failed case instead.
    """
    _check_arguments(sampler, randomness, draws, false_alarm, seed)
    rule = as_rule(rule, kind="token", taken_by="conformance.check")
    streams = np.random.default_rng(seed).spawn(2)
    box = _BlackBox(sampler, randomness, streams[0])
    expected = []
    for setting in settings_for(seed, pairs):
        try:
            expected.append(expected_of(rule, setting))
        except InputError as error:
            raise InputError(f"{setting.name}: {error}") from None
    with warnings.catch_warnings():
        # whether a warning is an error is the caller's filter; the verdict must not depend on it
        warnings.simplefilter("ignore")
        cases = [case for each in expected for case in _drawn_cases(box, each, draws, streams[1])]
        cases += _extreme_cases(box, expected)
        cases += _nan_cases(box, raises_on_nan)
    cases.append(_unchanged_case(box))
    cases.sort(key=lambda case: case.kind != "exact")
    return Report(rule=repr(rule), cases=_judged(cases, false_alarm), draws=draws, false_alarm=false_alarm)


def _drawn_cases(box: _BlackBox, expected: Expected, draws: int, stream: np.random.Generator) -> Iterator[Case]:
    """Draw tokens in one setting and look at which came, and how often."""
    setting, vocab = expected.setting, len(expected.drafted)
    possible, frequencies = f"{setting.name}: possible tokens", f"{setting.name}: frequencies"
    counts = np.zeros((vocab, vocab), dtype=np.int64)
    try:
        for drafted in stream.choice(vocab, size=draws, p=expected.drafted).tolist():
            counts[drafted, box.token(setting.draft, setting.target, drafted)] += 1
    except (_Raised, _NoToken) as complaint:
        seen = f"draw {counts.sum() + 1}, {complaint}"
        yield Case(name=possible, kind="exact", status="failed", detail=seen)
        yield Case(name=frequencies, kind="chi-square", status="skipped", detail="the draws did not finish")
        return
    wrong = np.where(expected.possible, 0, counts)
    cells = sorted(np.argwhere(wrong > 0).tolist(), key=lambda cell: -wrong[*cell])
    said = [f"drafted {x}, emitted {y}: {wrong[x, y]} times, expected never" for x, y in cells]
    yield Case(name=possible, kind="exact", status="failed" if said else "passed", detail=_first(said))
    if expected.rounding:
        return
    counts -= wrong
    p_value = conditional_p_value(counts, expected.emitted, stream)
    if p_value is not None:
        detail = worst_cell(counts, expected.emitted)
        yield Case(name=frequencies, kind="chi-square", status="passed", detail=detail, p_value=p_value)


def _extreme_cases(box: _BlackBox, expected: list[Expected]) -> Iterator[Case]:
    """Every drafted token of every setting at the ends of the unit interval, where support is all that can be asked."""
    for name, grid in EXTREMES.items():
        if box.randomness == "generator":
            reason = (
                "not applicable: a generator cannot be made to return the ends of [0, 1); see randomness='uniforms'"
            )
            yield Case(name=name, kind="exact", status="skipped", detail=reason)
        elif name == "uniforms at 1" and box.randomness == "uniforms":
            reason = "not applicable: uniforms were promised to lie below 1; see randomness='closed uniforms'"
            yield Case(name=name, kind="exact", status="skipped", detail=reason)
        else:
            exact = name in ("uniforms at 0", "uniforms 2^-24 below 1")
            said = [
                complaint
                for each in expected
                for complaint in _complaints(box, each, each.possible if exact else each.possible_at_one, grid)
            ]
            yield Case(name=name, kind="exact", status="failed" if said else "passed", detail=_first(said))


def _complaints(
    box: _BlackBox, expected: Expected, possible: np.ndarray, grid: list[tuple[float, float]]
) -> Iterator[str]:
    setting = expected.setting
    for drafted in np.flatnonzero(expected.drafted > 0).tolist():
        for pair in grid:
            where = f"{setting.name}, uniforms {pair[0]!r} and {pair[1]!r}"
            try:
                token = box.token(setting.draft, setting.target, drafted, np.array(pair))
            except (_Raised, _NoToken) as complaint:
                yield f"{where}, {complaint}"
                continue
            if not possible[drafted, token]:
                yield f"{where}, drafted {drafted}: emitted {token}, expected never"


def _nan_cases(box: _BlackBox, raises_on_nan: bool) -> Iterator[Case]:
    """NaN laws: a token, any token, would hide that the model is broken."""
    law = np.array([0.1, 0.2, 0.3, 0.4])
    nan = np.full_like(law, np.nan)
    for name, draft, target in (("NaN target", law, nan), ("NaN draft", nan, law), ("NaN laws", nan, nan)):
        if not raises_on_nan:
            yield Case(name=name, kind="exact", status="skipped", detail="not applicable: raises_on_nan=False")
            continue
        said = []
        for drafted in range(len(law)):
            for _ in range(NAN_CALLS):
                try:
                    said.append(f"drafted {drafted}: emitted {box.token(draft, target, drafted)}, expected an error")
                except _NoToken as complaint:
                    said.append(str(complaint))
                except _Raised:
                    continue
        yield Case(name=name, kind="exact", status="failed" if said else "passed", detail=_first(said))


def _unchanged_case(box: _BlackBox) -> Case:
    detail = f"changed in place: {', '.join(sorted(box.changed))}; work on a copy" if box.changed else ""
    return Case(name="laws left as they were", kind="exact", status="failed" if detail else "passed", detail=detail)


def _judged(cases: list[Case], false_alarm: float) -> tuple[Case, ...]:
    """Compare the p-values with their share of the false alarm; details of what passed are left out."""
    level = false_alarm / max(sum(case.p_value is not None for case in cases), 1)
    return tuple(case if case.p_value is None else _compared(case, case.p_value < level) for case in cases)


def _compared(case: Case, failed: bool) -> Case:
    return replace(case, status="failed") if failed else replace(case, detail="")


def _first(said: list[str]) -> str:
    return "" if not said else said[0] if len(said) == 1 else f"{said[0]}; and {len(said) - 1} more"


def _check_arguments(sampler: Any, randomness: Any, draws: Any, false_alarm: Any, seed: Any) -> None:
    if not callable(sampler):
        raise InputError(
            f"sampler: expected a callable (draft, target, drafted, randomness) -> token; got {type(sampler).__name__}"
        )
    if randomness not in get_args(Randomness):
        raise InputError(
            f"randomness: expected one of {', '.join(map(repr, get_args(Randomness)))}; got {randomness!r}"
        )
    for name, number, least in (("draws", draws, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
            raise InputError(f"{name}: expected a whole number of at least {least}; got {number!r}")
    if not isinstance(false_alarm, int | float) or not 0 < false_alarm < 1:
        raise InputError(f"false_alarm: expected a probability between 0 and 1, such as 1e-6; got {false_alarm!r}")
