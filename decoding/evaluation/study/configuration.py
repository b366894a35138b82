"""What a study is told, from YAML."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decoding.evaluation.study.judge_settings import JudgeSettings, file_name, read_judge
from decoding.evaluation.study.sections import (
    REJECTION,
    At,
    CalibrationSettings,
    PairSettings,
    PromptSettings,
    PublishedRate,
    TextSettings,
)
from decoding.evaluation.study.strict_yaml import (
    Natural,
    check_keys,
    placed,
    read_list,
    read_settings,
    read_value,
    read_yaml,
    wrong,
)
from decoding.evaluation.study.win_rates import from_counts
from tradeoff.rules.info import Family
from tradeoff.rules.registry import family_from, from_spec

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the shipped configurations."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A study.

    Parameters
    ----------
    pair, prompts, texts, calibration
        Sections.
    rules
        Specs; those with a free knob are compared, others have texts only.
    at
        "rejection" and mean rejection rates, or the knob's name and its values.
    against
        The rule each other one is compared with, the first of each comparison.
    judges
        In the order of tables.
    examples
        Prompts whose first texts are shown token by token.
    seed
        Decides every text.
    published
        Win rates to print beside the study's.
    """

    pair: PairSettings
    prompts: PromptSettings
    texts: TextSettings
    rules: tuple[str, ...]
    at: At
    against: str
    calibration: CalibrationSettings
    judges: tuple[JudgeSettings, ...]
    examples: int
    seed: int
    published: tuple[PublishedRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values that YAML would be read into again, with every default."""
        knob, values = self.at
        return json.loads(json.dumps(asdict(self) | {"at": {knob: values}}))

    def texts_part(self) -> dict[str, Any]:
        """What decides the texts and the tokens shown of them, apart from the prompts' own words."""
        plain = self.to_dict()
        for key in ("judges", "published", "against"):
            del plain[key]
        del plain["calibration"]["tolerance"]
        return plain

    @property
    def texts_hash(self) -> str:
        """`texts_part` in 16 hex digits."""
        return hashlib.sha256(json.dumps(self.texts_part(), sort_keys=True).encode()).hexdigest()[:16]


_DEFAULTS: dict[str, Any] = {
    "pair": None,
    "prompts": None,
    "texts": None,
    "rules": ["common_price", "decoding_opt", "decoding_uno"],
    "at": {REJECTION: [0.2, 0.1, 0.05]},
    "against": None,
    "calibration": None,
    "judges": [{"kind": "log_likelihood"}, {"kind": "sequence_kl"}],
    "examples": 4,
    "seed": 0,
    "published": [],
}


def read_configuration(path_or_name: str, overrides: Mapping[str, Any]) -> Configuration:
    """Read a configuration; what it leaves out has defaults.

    Parameters
    ----------
    path_or_name
        The name of a shipped one, "table1", "compare" or "small"; else a YAML file.
    overrides
        Values by dotted key, such as "texts.samples", that count instead of the file's; None ones do not.

    Raises
    ------
    InputError
        No such file, not YAML, or a setting that is unknown, of the wrong type, out of range or at odds with others.
    """
    return _checked(_overridden(read_yaml(_found(path_or_name)), overrides))


def _found(path_or_name: str) -> Path:
    shipped = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    path = shipped.get(path_or_name, Path(path_or_name))
    if not os.path.isfile(path):  # no name is too long or too odd for this one to answer
        wrong("configuration", f"a YAML file, or one of {', '.join(shipped)}", path_or_name, "give its path")
    return path


def _overridden(given: dict[Any, Any], overrides: Mapping[str, Any]) -> dict[Any, Any]:
    check_keys(given, _DEFAULTS, "")
    changed = dict(given)
    for path, value in overrides.items():
        if value is None:
            continue
        *sections, key = path.split(".")
        place = changed
        for section in sections:
            inner = {} if place.get(section) is None else place[section]
            if not isinstance(inner, dict):
                wrong(path, f"keys and values under {section}", inner)
            place[section] = dict(inner)  # an alias may stand elsewhere too
            place = place[section]
        place[key] = value
    return changed


def _checked(given: dict[Any, Any]) -> Configuration:
    check_keys(given, _DEFAULTS, "")
    given = _DEFAULTS | {key: value for key, value in given.items() if value is not None}
    pair = _two_models(read_settings(PairSettings, given["pair"], "pair"))
    prompts = read_settings(PromptSettings, given["prompts"], "prompts")
    if "{prompt}" not in prompts.template:
        wrong("prompts.template", "{prompt} in it, where the prompt goes", prompts.template)
    texts = read_settings(TextSettings, given["texts"], "texts")
    families = _families(given["rules"])
    compared = [family for family in families if _is_free(family)]
    at = _at(given["at"], compared)
    against = _against(given["against"], compared or families)
    judges = _judges(given["judges"], pair.device)
    return Configuration(
        pair=pair,
        prompts=prompts,
        texts=texts,
        rules=tuple(family.spec for family in families),
        at=at,
        against=against,
        calibration=read_settings(CalibrationSettings, given["calibration"], "calibration"),
        judges=judges,
        examples=read_value(Natural, given["examples"], "examples"),
        seed=read_value(Natural, given["seed"], "seed"),
        published=_published(given["published"], [family.spec for family in compared], at, against, judges),
    )


def _two_models(pair: PairSettings) -> PairSettings:
    """Give a pair back if it is two models, or the embedded one.

    Raises
    ------
    InputError
        One model, or one twice.
    """
    if (pair.target is None) != (pair.draft is None):
        wrong("pair", "both a target and a draft, or neither for the embedded pair", pair.target or pair.draft)
    if pair.target and pair.draft and os.path.realpath(pair.target) == os.path.realpath(pair.draft):
        wrong("pair.draft", "another model than the target, of which something is rejected", pair.draft)
    return pair


def _families(given: object) -> list[Family]:
    specs = read_value(tuple[str, ...], given, "rules")
    if not specs:
        wrong("rules", "at least one rule", given)
    families: list[Family] = []
    for place, spec in enumerate(specs):
        family = _family(spec, f"rules.{place}")
        if any(_identity(family) == _identity(other) for other in families):
            wrong(f"rules.{place}", "different rules", spec, "it is there before")
        families.append(family)
    return families


def _family(spec: str, path: str) -> Family:
    with placed(path):
        family = family_from(spec)
        info = family.info
        if not _is_free(family) and info.kind == "token":
            from_spec(spec)
    if info.kind != "token" or set(info.needs) & set(info.parameters):
        wrong(path, "a rule of one token at a time, from laws and logits", spec)
    if _is_free(family):
        missing = set(info.parameters) - set(info.defaults) - set(family.fixed) - {family.knob.name}
        if missing:
            wrong(path, f"a value for {' and '.join(sorted(missing))}", spec)
        with placed(path):
            family.at(family.knob.strict)
    return family


def _is_free(family: Family) -> bool:
    return family.info.knob is not None and family.info.knob.name not in family.fixed


def _identity(family: Family) -> tuple[Any, ...]:
    """What makes a rule that rule, however it is written."""
    free = family.knob.name if _is_free(family) else None
    values = {**family.info.defaults, **family.fixed}
    return family.info.name, free, sorted((name, str(value)) for name, value in values.items() if name != free)


def _at(given: object, compared: Sequence[Family]) -> At:
    knobs = {family.knob.name: None for family in compared}
    check_keys(given, {REJECTION: None} | knobs, "at")
    if not isinstance(given, Mapping) or len(given) != 1:
        wrong("at", "exactly one key", given, f"rejection, or the rules' knob ({', '.join(knobs)}), with a list")
    name, listed = next(iter(given.items()))
    values: tuple[float, ...] = read_value(tuple[float, ...], listed, f"at.{name}")
    if not values or len(set(values)) < len(values):
        wrong(f"at.{name}", "one value or more, all different", listed)
    if name == REJECTION:
        for place, value in enumerate(values):
            if not 0 < value < 1:
                wrong(f"at.{name}.{place}", "a rate above 0 and below 1", value)
        return name, values
    for family in compared:
        if family.knob.name != name:
            wrong("at", f"the knob of {family.spec}, {family.knob.name}", name, "rejection fits rules of any knob")
    if any(family.knob.scale == "integer" for family in compared):
        values = read_value(tuple[int, ...], listed, f"at.{name}")
    for place, value in enumerate(values):
        for family in compared:
            with placed(f"at.{name}.{place}"):
                family.at(value)
    return name, values


def _against(given: object, candidates: Sequence[Family]) -> str:
    specs = [family.spec for family in candidates]
    against = specs[0] if given is None else read_value(str, given, "against").strip()
    return against if against in specs else wrong("against", f"one of {', '.join(specs)}", against)


def _judges(given: object, device: str) -> tuple[JudgeSettings, ...]:
    judges = tuple(
        read_judge(entry, f"judges.{place}", device) for place, entry in enumerate(read_list(given, "judges"))
    )
    names: dict[str, str] = {}
    for place, judge in enumerate(judges):
        file = file_name(judge.name).casefold()  # every judge has a file, named after it
        if file in names:
            wrong(f"judges.{place}.name", "a name of its own", judge.name, f"there is {names[file]!r} before")
        names[file] = judge.name
    return judges


def _published(
    given: object,
    compared: Sequence[str],
    at: At,
    against: str,
    judges: Sequence[JudgeSettings],
) -> tuple[PublishedRate, ...]:
    rates: dict[tuple[Any, ...], PublishedRate] = {}
    for place, entry in enumerate(read_list(given, "published")):
        path = f"published.{place}"
        check_keys(entry, PublishedRate.__dataclass_fields__, path)
        rate = read_settings(PublishedRate, {"against": against} | entry, path)
        others = [spec for spec in compared if spec != against]
        for key, value, known in (
            ("judge", rate.judge, [judge.name for judge in judges]),
            ("at", rate.at, at[1]),
            ("against", rate.against, [against]),
            ("rule", rate.rule, others),
        ):
            if value not in known:
                wrong(f"{path}.{key}", f"one of a comparison ({', '.join(map(str, known)) or 'there is none'})", value)
        if (rate.judge, rate.at, rate.rule) in rates:
            wrong(path, "one rate for a comparison", rate.win_rate, "it has one before")
        with placed(path):
            from_counts(rate.win_rate, rate.prompts)
        rates[rate.judge, rate.at, rate.rule] = rate
    return tuple(rates.values())
