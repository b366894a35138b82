"""Rules by name: build one from a short text, list them all, add your own.

A rule is taken as a value or as its spec, "name:parameter=value,...". The name is one that `available()` lists, or
"package.module:Class" for a rule of your own.
"""

import importlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_type_hints, overload

from solvers.errors import InputError, one_line
from tradeoff.rule import AnyRule, BlockRule, Kind, MultiDraftRule, Rule, kind_of
from tradeoff.rules.info import Family, Knob, RuleInfo
from tradeoff.rules.shipped import SHIPPED

_BY_NAME = {info.name: info for info in SHIPPED}

_NAME = re.compile(r"[a-z][a-z0-9_]*")

EXPECTED: dict[Kind, str] = {
    "token": "a rule that judges one token at a time",
    "block": "a rule that judges a block of tokens",
    "multi_draft": "a rule that chooses among several drafts",
}

TAKERS: dict[Kind, str] = {
    "token": "rules of one token at a time are taken by tradeoff.evaluate, tradeoff.convert and decoding.generate",
    "block": "block rules are taken by tradeoff.outcome.block.joint_law and decoding.generate",
    "multi_draft": "multi-draft rules are taken by tradeoff.outcome.multi_draft.evaluate_multi_draft",
}


def available() -> tuple[RuleInfo, ...]:
    """All rules that have a name: parameters with defaults, source, kind, lossless or not."""
    return tuple(_BY_NAME.values())


def register(
    name: str,
    rule: type,
    *,
    source: str | None = None,
    lossless: bool = False,
    knob: Knob | None = None,
    needs: tuple[str, ...] = (),
    variants: tuple[str, ...] = (),
) -> RuleInfo:
    """Give a rule of your own a name, for as long as the process runs: specs, the map and studies then know it.

    Parameters
    ----------
    name
        Small letters, digits and underscores.
    rule
        The class.
    source, knob
        Paper or code, and the parameter that trades speed for bias; by default the class attributes of these names.
    lossless, needs, variants
        As in `RuleInfo`.

    Raises
    ------
    InputError
        A name that is taken or is none, what is not a class of rules, a knob that is not one of its parameters.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"register: expected a name of small letters, digits and underscores; got {name!r}")
    if name in _BY_NAME:
        raise InputError(f"register: expected a new name; got {name!r}, which is taken by {_path(_BY_NAME[name].rule)}")
    info = _info(name, rule, source=source, lossless=lossless, knob=knob, needs=needs, variants=variants)
    _BY_NAME[name] = info
    return info


def from_spec(spec: str) -> AnyRule:
    """Build a rule from a short text, "name" or "name:parameter=value,parameter=value".

    Parameters
    ----------
    spec
        Such as "lenience:factor=0.8", "cascade:variant=tok3,alpha=0.3", "speculative_sampling", or
        "package.module:Class:parameter=value" for a rule of your own, whose module is imported. Values are numbers
        ("inf" included), true, false, or the words of the rule's docstring.

    Returns
    -------
    Rule, BlockRule or MultiDraftRule
        By the kind that `available()` tells; `as_rule` is for one kind only.

    Raises
    ------
    InputError
        A text of another form, an unknown name or parameter, one that is missing, or a value the rule refuses.
    """
    family = family_from(spec)
    data = [name for name in family.info.needs if name in family.info.parameters]
    if data:
        raise InputError(
            f"{spec}: expected {' and '.join(data)}, which no text can hold; build "
            f"{_path(family.info.rule)}({data[0]}=...) in Python"
        )
    known = {**family.info.defaults, **family.fixed}
    missing = [name for name in family.info.parameters if name not in known]
    if missing:
        raise InputError(f"{spec}: expected a value for {' and '.join(missing)}, as in {_example(family.info)}")
    return family.info.rule(**family.fixed)


@overload
def as_rule(rule: object, *, kind: Literal["token"], taken_by: str) -> Rule: ...
@overload
def as_rule(rule: object, *, kind: Literal["block"], taken_by: str) -> BlockRule: ...
@overload
def as_rule(rule: object, *, kind: Literal["multi_draft"], taken_by: str) -> MultiDraftRule: ...
@overload
def as_rule(rule: object, *, kind: tuple[Literal["token"], Literal["block"]], taken_by: str) -> Rule | BlockRule: ...
def as_rule(rule: object, *, kind: Kind | tuple[Kind, ...], taken_by: str) -> AnyRule:
    """Return the rule that a value or a spec stands for: the one door of every function that takes a rule.

    Parameters
    ----------
    rule
        A rule, or its spec.
    kind
        The kind that is taken, or the kinds.
    taken_by
        The function that takes it, for its messages.

    Raises
    ------
    InputError
        A spec that means nothing, a class in place of a rule, a rule of another kind (the message names the function
        that takes it), or what is no rule at all.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    expected = f"{taken_by}: expected {' or '.join(EXPECTED[each] for each in kinds)}"
    if isinstance(rule, type):
        raise InputError(f"{expected}; got the class {rule.__name__}; make a rule of it, {rule.__name__}(...)")
    made = from_spec(rule) if isinstance(rule, str) else rule
    found = kind_of(made)
    if found is None:
        raise InputError(f"{expected}, or its spec such as 'lenience:factor=0.8'; got {one_line(rule)}")
    if found not in kinds:
        raise InputError(f"{expected}; got {one_line(rule)}; {TAKERS[found]}")
    return made  # type: ignore[return-value]


def family_from(rule: str | type) -> Family:
    """Read a spec, or the class of a rule, that may leave parameters out.

    Raises
    ------
    InputError
        A text of another form, or an unknown name or parameter.
    """
    if isinstance(rule, type):
        info = next((each for each in _BY_NAME.values() if each.rule is rule), None) or _own(rule)
        return Family(spec=info.name, info=info, fixed={})
    if not isinstance(rule, str):
        raise InputError(f"rule: expected a spec such as 'lenience', or the class of a rule; got {one_line(rule)}")
    spec = rule.strip()
    info, rest = _found(spec)
    fixed: dict[str, object] = {}
    for part in rest.split(",") if rest else ():
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or not text:
            raise InputError(f"{rule}: expected parameter=value; got {part!r}; as in {_example(info)}")
        if key not in info.parameters or key in fixed:
            wanted = ", ".join(info.parameters) or "no parameters"
            raise InputError(f"{rule}: expected {wanted}, each once; got {key!r}")
        fixed[key] = _value(info, key, text)
    return Family(spec=spec, info=info, fixed=fixed)


def families() -> tuple[Family, ...]:
    """Every per-token rule with a name and a knob, variant by variant: the curves of a map."""
    return tuple(
        family_from(f"{info.name}:{variant}" if variant else info.name)
        for info in available()
        if info.kind == "token" and info.knob is not None
        for variant in info.variants or ("",)
    )


def _found(spec: str) -> tuple[RuleInfo, str]:
    """The rule that a spec names, and the text of its parameters."""
    name, _, rest = spec.partition(":")
    if name in _BY_NAME:
        return _BY_NAME[name], rest
    made, _, parameters = rest.partition(":")
    if made.strip().isidentifier() or "." in name:
        return _own(_imported(name, made.strip(), spec)), parameters
    near = get_close_matches(name, _BY_NAME, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "tradeoff.rules.available() lists them"
    raise InputError(f"rule: expected the name of a rule; got {name!r}; {hint}")


def _imported(module: str, name: str, spec: str) -> type:
    wanted = "rule: expected the name of a rule, or package.module:Class"
    try:
        found = getattr(importlib.import_module(module), name, None) if name else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the rule's module was found, and lacks one of its own
        near = get_close_matches(module, _BY_NAME, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "install it, or put its folder on PYTHONPATH"
        raise InputError(f"{wanted}; got {spec!r}, and there is no module {error.name!r}; {hint}") from None
    if not isinstance(found, type):
        raise InputError(f"{wanted}; got {spec!r}, and {module} has no class {name!r}")
    return found


def _own(rule: type) -> RuleInfo:
    """What the class of a rule without a name tells of itself."""
    return _info(f"{rule.__module__}:{rule.__qualname__}", rule)


def _info(
    name: str,
    rule: type,
    *,
    source: str | None = None,
    lossless: bool = False,
    knob: Knob | None = None,
    needs: tuple[str, ...] = (),
    variants: tuple[str, ...] = (),
) -> RuleInfo:
    kind = kind_of(rule)
    if kind is None:
        raise InputError(
            f"{name}: expected the class of a rule, with methods acceptance and residual, verdict and initial_state, "
            f"or proposals and selection; got {one_line(rule)}"
        )
    knob = getattr(rule, "knob", None) if knob is None else knob
    info = RuleInfo(
        name=name,
        rule=rule,
        source=getattr(rule, "source", "") if source is None else source,
        kind=kind,
        lossless=lossless,
        knob=knob,
        needs=needs,
        variants=variants,
    )
    if knob is not None and not (isinstance(knob, Knob) and knob.name in info.parameters):
        wanted = ", ".join(info.parameters) or "no parameters"
        raise InputError(f"{name}: expected as knob a tradeoff.rules.Knob of a parameter ({wanted}); got {knob!r}")
    return info


def _path(rule: type) -> str:
    """Where a class is found: rules that ship are all in tradeoff.rules."""
    module = rule.__module__
    return f"{'tradeoff.rules' if module.startswith('tradeoff.rules.') else module}.{rule.__qualname__}"


def _value(info: RuleInfo, key: str, text: str) -> object:
    """A parameter's value by its annotation: words, truth values, whole numbers, numbers."""
    init: Callable[..., Any] = info.rule.__init__
    hint = get_type_hints(init).get(key, Any)
    kinds = set(get_args(hint)) or {hint}
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{info.name}: expected {key}=true or {key}=false; got {text!r}")
        return text.lower() == "true"
    number = int if int in kinds and float not in kinds else float
    try:
        return number(text)
    except ValueError:
        if kinds & {int, float}:
            wanted = "a whole number" if number is int else "a number"
            raise InputError(f"{info.name}: expected {key} to be {wanted}; got {text!r}") from None
    return text


def _example(info: RuleInfo) -> str:
    shown = [name for name in info.parameters if name not in info.defaults]
    shown = shown or list(info.parameters)[:1]
    return f"{info.name}:{','.join(f'{name}=...' for name in shown)}" if shown else info.name
