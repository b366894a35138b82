"""What is known of a rule beside its two methods: its name, its source, and the knob that trades speed for bias."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from solvers.errors import InputError
from tradeoff.rule import Kind, Rule


@dataclass(frozen=True, kw_only=True)
class Knob:
    """The parameter that trades speed for bias, from its strictest to its loosest useful value.

    Parameters
    ----------
    name
        The parameter.
    strict, loose
        Values that reject most and least.
    scale
        How a dial from 0 to 1 moves it: "linear"; "log" (geometric); "power", strict + (loose - strict) dial^6, fine
        near a strict 0; "complement", 1 minus a geometric scale, fine near a loose 1; "integer", geometric and rounded.
    """

    name: str
    strict: float
    loose: float
    scale: Literal["linear", "log", "power", "complement", "integer"] = "linear"

    def value(self, dial: float) -> float:
        """The parameter at a dial between 0, strict, and 1, loose."""
        if dial in (0.0, 1.0):
            return (self.strict, self.loose)[int(dial)]
        if self.scale == "linear":
            return self.strict + (self.loose - self.strict) * dial
        if self.scale == "power":
            return self.strict + (self.loose - self.strict) * dial**6
        if self.scale == "complement":
            return 1.0 - _geometric(1.0 - self.strict, 1.0 - self.loose, dial)
        value = _geometric(self.strict, self.loose, dial)
        return round(value) if self.scale == "integer" else value


def _geometric(start: float, end: float, dial: float) -> float:
    return math.exp((1.0 - dial) * math.log(start) + dial * math.log(end))


@dataclass(frozen=True, kw_only=True)
class RuleInfo:
    """What `available()` tells of a rule.

    Parameters
    ----------
    name
        What specs call it; "package.module:Class" for a rule that is in no list.
    rule
        The class.
    source
        Paper or code it is published in.
    kind
        "token": an acceptance and a residual at one position (`evaluate`). "block": judges a block of drafted tokens
        (`tradeoff.outcome.block.joint_law`). "multi_draft": several drafts of one position
        (`tradeoff.outcome.multi_draft`).
    lossless
        Whether the output law is the target's at every value of the parameters.
    knob
        The parameter that trades speed for bias, if there is one.
    needs
        Data no short text can hold: arrays for the constructor, or raw logits for `evaluate`.
    variants
        Texts of parameters without the knob that are rules of their own on a map.
    """

    name: str
    rule: type
    source: str
    kind: Kind = "token"
    lossless: bool = False
    knob: Knob | None = None
    needs: tuple[str, ...] = ()
    variants: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters and their defaults; `inspect.Parameter.empty` where one is required."""
        return {name: each.default for name, each in inspect.signature(self.rule).parameters.items()}

    @property
    def defaults(self) -> dict[str, object]:
        """The parameters that have a default, with it."""
        return {name: value for name, value in self.parameters.items() if value is not inspect.Parameter.empty}

    @property
    def summary(self) -> str:
        """First line of the rule's docstring."""
        return (inspect.getdoc(self.rule) or "").splitlines()[0]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A rule with all parameters fixed but its knob.

    Parameters
    ----------
    spec
        The text it was made from, such as "decoding_uno:residual=draft".
    info
        The rule.
    fixed
        The parameters that are set.
    """

    spec: str
    info: RuleInfo
    fixed: Mapping[str, object]

    @property
    def knob(self) -> Knob:
        """The parameter left free.

        Raises
        ------
        InputError
            The rule has no knob, or it is set.
        """
        if self.info.knob is None:
            raise InputError(f"{self.spec}: expected a rule with a knob; got one that has none")
        if self.info.knob.name in self.fixed:
            raise InputError(f"{self.spec}: expected its knob, {self.info.knob.name}, left free; got it set")
        return self.info.knob

    def at(self, value: float) -> Rule:
        """The rule at a value of its knob.

        Raises
        ------
        InputError
            The rule has no free knob, or does not judge one token at a time: knobs are set on positions.
        """
        if self.info.kind != "token":
            raise InputError(f"{self.spec}: expected a rule of one token at a time; got one of kind {self.info.kind!r}")
        return self.info.rule(**self.fixed, **{self.knob.name: value})
