"""What a study is told, from YAML."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from decoding.evaluation.study.judge_settings import JudgeSettings, file_name, read_judge
from decoding.evaluation.study.limits import Amount, check_pair
from decoding.evaluation.study.strict_yaml import (
    Count,
    Dtype,
    Fraction,
    Natural,
    Range,
    check_keys,
    placed,
    read_list,
    read_settings,
    read_value,
    read_yaml,
    wrong,
)
from decoding.evaluation.study.win_rates import from_counts
from decoding.sampling.parameters import LEAST_TEMPERATURE, Sampling
from tradeoff.rules.info import Family
from tradeoff.rules.registry import family_from, from_spec

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the shipped configurations."""

REJECTION = "rejection"
"""What rules are matched at if not at a value of their knob."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The two models.

    Parameters
    ----------
    target, draft
        Hub names or folders; the embedded pair if both are None.
    dtype, device
        Of both models.
    """

    target: str | None = None
    draft: str | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """The prompts: what `load_prompts` takes.

    Parameters
    ----------
    source, column, name, split, revision, limit, template
        As there.
    chat
        Whether a prompt becomes a user's message in the tokenizer's chat template.
    """

    source: str = "embedded"
    column: str | None = None
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: Count | None = None
    template: str = "{prompt}"
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The texts.

    Parameters
    ----------
    samples
        Texts per prompt and rule; of an odd number no prompt ends in a tie.
    max_new_tokens
        Tokens per text.
    temperature, top_p, top_k
        As in `Sampling`: of both models, in these texts and in those that knobs are set on.
    draft_length
        Tokens drafted per round.
    batch_size
        Texts at once.
    """

    samples: Amount = 3
    max_new_tokens: Amount = 40
    temperature: Annotated[float, Range(least=LEAST_TEMPERATURE)] = 1.0
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    top_k: Natural = 0
    draft_length: Amount = 4
    batch_size: Amount = 16

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Matching rules.

    Parameters
    ----------
    positions
        Real positions on which knobs are set or measured.
    tolerance
        By how much mean rejections of compared rules may differ.
    """

    positions: Amount = 1500
    tolerance: Fraction = 0.02


@dataclass(frozen=True, kw_only=True)
class PublishedRate:
    """A published win rate, printed beside the study's.

    Parameters
    ----------
    judge, at, against, rule
        Which comparison: the judge's name, the value, the rule that wins, the one it wins over.
    win_rate
        Fraction of prompts won by `against`.
    prompts
        How many prompts it rests on.
    source
        Where it stands.
    """

    judge: str
    at: float
    against: str
    rule: str
    win_rate: Fraction
    prompts: Count
    source: str


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
    at: tuple[str, tuple[float, ...]]
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
    pair = check_pair(read_settings(PairSettings, given["pair"], "pair"))
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


def _at(given: object, compared: Sequence[Family]) -> tuple[str, tuple[float, ...]]:
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
    at: tuple[str, tuple[float, ...]],
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
