"""What a map is asked for: rules, rejections, how logits become laws; and the folder its rows go to."""

from collections.abc import Hashable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from decoding.evaluation.files.kept import Row, append_rows, check_settings, read_keyed
from decoding.evaluation.positions.file import StoredLogits
from decoding.sampling.parameters import Sampling
from solvers.arrays import ROUNDING
from solvers.errors import InputError
from tradeoff.outcome.positions import Positions
from tradeoff.rule import Rule
from tradeoff.rules.info import Family, Knob
from tradeoff.rules.registry import as_rule, available, families, family_from


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """What decides every row; a folder of rows belongs to one of these. Rules and rejections can be added later.

    Parameters
    ----------
    source
        The pair's name, or the file of positions.
    digest
        Hash of the logits.
    positions, prompts
        How many there are.
    temperature, top_p, top_k, greedy_draft
        How the logits become laws.
    texts
        How the target drew the texts that the positions follow, in words; None if that is not known.
    seed
        Of the bootstrap over prompts.
    """

    source: str
    digest: str
    positions: int
    prompts: int
    temperature: float
    top_p: float
    top_k: int
    greedy_draft: bool
    texts: str | None
    seed: int

    @property
    def sampling(self) -> Sampling:
        """How the logits become laws."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """What a user asks of a map.

    Parameters
    ----------
    rates
        Mean rejections at which rules are ranked.
    curves
        The rules.
    sampling, greedy_draft
        How the logits become laws.
    seed
        Of the bootstrap.
    """

    rates: tuple[float, ...]
    curves: tuple["Curve", ...]
    sampling: Sampling
    greedy_draft: bool
    seed: int

    @classmethod
    def checked(
        cls, rates: tuple[float, ...], rules: str | None, sampling: Sampling, *, greedy_draft: bool, seed: int
    ) -> "MapOptions":
        """Check what the command line says, before any model is loaded.

        Raises
        ------
        InputError
            Rates that are none, rules that cannot be on the map.
        """
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate < 1 for rate in rates):
            raise InputError(f"rejection: expected different rates above 0 and below 1, such as 0.2,0.1; got {rates}")
        if seed < 0:
            raise InputError(f"seed: expected a whole number >= 0; got {seed}")
        curves = tuple(all_curves() if rules is None else curves_named(rules))
        return cls(rates=rates, curves=curves, sampling=sampling, greedy_draft=greedy_draft, seed=seed)

    def positions(self, source: str, logits: StoredLogits) -> tuple[Positions, MapSettings]:
        """Make laws of logits, and the settings to which rows about them belong.

        Raises
        ------
        InputError
            Laws that are alike everywhere: then nothing is rejected, and there is nothing to rank.
        """
        raw = logits.draft_logits, logits.target_logits
        positions = Positions.from_logits(
            *(_kept(each, self.sampling) for each in raw),
            temperature=self.sampling.temperature,
            greedy_draft=self.greedy_draft,
            prompt=logits.prompt,
        )
        positions = replace(positions, draft_logits=raw[0], target_logits=raw[1])  # what rules of logits look at
        if float(positions.total_variation.mean()) <= ROUNDING:
            raise InputError(
                f"{source}: expected a draft that differs from its target; got equal laws at all {len(positions)} "
                "positions, where no rule rejects anything; choose another draft"
            )
        settings = MapSettings(
            source=source,
            digest=logits.digest,
            positions=len(positions),
            prompts=positions.prompts,
            **asdict(self.sampling),
            greedy_draft=self.greedy_draft,
            texts=None if logits.sampling is None else str(logits.sampling),
            seed=self.seed,
        )
        return positions, settings


def _kept(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    if sampling.top_p == 1 and sampling.top_k == 0:
        return logits
    import torch

    from decoding.huggingface import kept_tokens  # transformers loads on use

    return kept_tokens(torch.from_numpy(logits), sampling).numpy()


class MapFolder:
    """The output folder, which `locked` keeps for one run: settings, one JSONL row per piece, a figure, a page.

    Raises
    ------
    InputError
        The folder holds rows of other settings, or cannot be made.
    """

    def __init__(self, path: Path, settings: MapSettings) -> None:
        self.path = path
        self.results, self.figure, self.page = (path / f"map.{kind}" for kind in ("jsonl", "png", "html"))
        self.stamp = path / "stamp.json"
        check_settings(path, asdict(settings), [self.results])

    def rows(self) -> dict[Hashable, Row]:
        """Rows written so far, by the step they are of.

        Raises
        ------
        InputError
            A row is not as it was written, or is there twice.
        """
        return read_keyed(self.results, "map", row_key)

    def append(self, row: Row) -> None:
        """Add one finished row."""
        append_rows(self.results, [row], "map")


def row_key(row: Row) -> tuple[str, ...]:
    """Which step a row is of."""
    if row["kind"] == "front":
        return "front", row["divergence"]
    return (row["kind"], row["rule"]) if row["kind"] == "curve" else (row["kind"], row["rule"], repr(row["requested"]))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rule on the map: a curve if a knob is left free, else a point."""

    family: Family

    @property
    def spec(self) -> str:
        """The text the rule was made from."""
        return self.family.spec

    @property
    def knob(self) -> Knob | None:
        """The free parameter, if there is one."""
        knob = self.family.info.knob
        return None if knob is None or knob.name in self.family.fixed else knob

    def at(self, value: float | None) -> Rule:
        """The rule at a value of its knob; None for a rule without one."""
        if value is not None:
            return self.family.at(value)
        return as_rule(self.spec, kind="token", taken_by="tradeoff map")

    @property
    def published(self) -> float | None:
        """The knob's own default, where that is not just the strict end of it."""
        knob = self.knob
        default = None if knob is None else self.family.info.parameters[knob.name]
        if knob is None or isinstance(default, bool) or not isinstance(default, int | float) or default == knob.strict:
            return None
        return default


def all_curves() -> list[Curve]:
    """Every per-token rule that needs nothing but laws and logits: points first, then curves."""
    points = [info.name for info in available() if info.knob is None and _usable(family_from(info.name))]
    return [Curve(family=family_from(name)) for name in points] + [Curve(family=each) for each in families()]


def curves_named(text: str) -> list[Curve]:
    """Read a list of rules: names, which stand for all their variants, and specs, with commas between.

    Parameters
    ----------
    text
        Such as "lenience,cascade:variant=tok3,typical:threshold=0.09". A knob that is set makes a point.

    Raises
    ------
    InputError
        No rule, an unknown one, or one that cannot be on the map.
    """
    specs: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        if specs and "=" in part and ":" not in part.split("=")[0]:
            specs[-1] += f",{part}"  # a further parameter of the rule before
        else:
            specs.append(part)
    if not specs:
        raise InputError(f"rules: expected names or specs with commas, such as lenience,mars; got {text!r}")
    return list({curve.spec: curve for spec in specs for curve in _curves_of(spec)}.values())


def _curves_of(spec: str) -> list[Curve]:
    family = family_from(spec)
    if not _usable(family):
        reason = "needs data that no text can hold" if family.info.kind == "token" else "judges more than one token"
        raise InputError(f"rules: expected rules of one token at a time, from laws and logits; {spec} {reason}")
    if spec == family.info.name and family.info.variants:
        return [Curve(family=family_from(f"{spec}:{variant}")) for variant in family.info.variants]
    curve = Curve(family=family)
    curve.at(curve.knob.strict if curve.knob else None)  # a wrong parameter is an error now, not in some minutes
    return [curve]


def _usable(family: Family) -> bool:
    return family.info.kind == "token" and not set(family.info.needs) & set(family.info.parameters)
