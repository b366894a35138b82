"""Rules by name: build one from a short text, list them all, know which knob moves each and how far."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_type_hints

from solvers.errors import InputError
from tradeoff.rules import blocks, lossless, mixture, multi_draft, optimal, ratio, threshold, virtual, yin

Kind = Literal["token", "block", "multi_draft"]


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
        What specs call it.
    rule
        The class.
    source
        Paper or code it is published in.
    kind
        "token": an acceptance and a residual at one position (`evaluate`). "block": judges a block of drafted tokens
        (`tradeoff.joint_laws.joint_law`). "multi_draft": several drafts of one position
        (`tradeoff.multi_draft_outcome`).
    lossless
        Whether the output law is the target's at every value of the parameters.
    knob
        The parameter that trades speed for bias, if there is one.
    needs
        Data no short text can hold: arrays for the constructor, or raw logits for `evaluate`.
    variants
        Specs without the knob that are rules of their own on a map.
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
    def parameters(self) -> dict[str, Any]:
        """Parameters and their defaults; `inspect.Parameter.empty` where one is required."""
        return {name: each.default for name, each in inspect.signature(self.rule).parameters.items()}

    @property
    def defaults(self) -> dict[str, Any]:
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
    fixed: Mapping[str, Any]

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

    def at(self, value: float) -> Any:
        """The rule at a value of its knob."""
        return self.info.rule(**self.fixed, **{self.knob.name: value})


def _entry(name: str, rule: type, source: str, **more: Any) -> RuleInfo:
    return RuleInfo(name=name, rule=rule, source=source, **more)


def _knob(name: str, strict: float, loose: float, scale: Any = "linear") -> Knob:
    return Knob(name=name, strict=strict, loose=loose, scale=scale)


_EPSILON = _knob("epsilon", 0.0, 1.0, "power")

_RULES = (
    _entry("speculative_sampling", lossless.SpeculativeSampling, "arXiv 2211.17192, 2302.01318", lossless=True),
    _entry("sample_match", lossless.SampleMatch, "llama.cpp; vLLM strict; arXiv 2606.12370", lossless=True),
    _entry("openvino", lossless.OpenVINO, "OpenVINO GenAI"),
    _entry("lenience", ratio.Lenience, "arXiv 2211.17192, Appendix A.5", knob=_knob("factor", 1.0, 1e-30, "log")),
    _entry(
        "distillspec",
        ratio.DistillSpec,
        "arXiv 2310.08461 (secondary source)",
        knob=_knob("epsilon", 1.0, 1e-15, "log"),
        variants=("function=square", "function=exponential"),  # linear is lenience
    ),
    _entry(
        "lossy_speculative",
        ratio.LossySpeculative,
        "arXiv 2405.19261; Tran-Thien 2023",
        knob=_knob("alpha", 0.0, 1.0 - 1e-15, "complement"),
    ),
    _entry("mentored", optimal.Mentored, "Tran-Thien 2023; arXiv 2609.30474", knob=_knob("kl", 0.0, 700.0, "power")),
    _entry("decoding_opt", yin.DecodingOPT, "arXiv 2411.00841, Theorem 4", knob=_EPSILON),
    _entry(
        "decoding_uno",
        yin.DecodingUNO,
        "arXiv 2411.00841, Section 4",
        knob=_EPSILON,
        variants=("residual=target", "residual=draft"),
    ),
    _entry(
        "ears", ratio.EARS, "arXiv 2512.13194 (secondary source); vLLM-Ascend", knob=_knob("beta", 0.0, 1e6, "power")
    ),
    _entry("additive_slack", ratio.AdditiveSlack, "SecureSD, lossy_sd", knob=_EPSILON),
    _entry(
        "ensemble",
        mixture.Ensemble,
        "transformers assistant_ensemble_weight; arXiv 2604.07622",
        knob=_knob("target_weight", 1.0, 0.0),
    ),
    _entry("contrastive", mixture.Contrastive, "arXiv 2311.08981, 2502.01662", knob=_knob("alpha", 2.0, 0.0)),
    _entry(
        "cactus",
        virtual.Cactus,
        "arXiv 2604.04987",
        knob=_knob("delta", 0.0, 1e6, "power"),
        variants=("exact=false", "exact=true"),
    ),
    _entry("top_k_gate", threshold.TopKGate, "arXiv 2604.04987, topk.py", knob=_knob("k", 1, 1_000_000, "integer")),
    _entry("synthetic", mixture.Synthetic, "vLLM synthetic", knob=_knob("rate", 0.0, 1.0)),
    _entry("typical", threshold.Typical, "arXiv 2401.10774; vLLM V0", knob=_knob("threshold", 1.0, 1e-30, "log")),
    _entry(
        "tensorrt_relaxed",
        threshold.TensorRTRelaxed,
        "TensorRT-LLM, pull request 3865",
        knob=_knob("delta", 0.0, 1.0),
        variants=("top_k=10",),
    ),
    _entry("sglang", threshold.SGLang, "sgl-kernel speculative_sampling.cuh", knob=_knob("acc", 1.0, 1e-9, "log")),
    _entry("bild", threshold.BiLD, "arXiv 2302.07863", knob=_knob("rollback", 0.0, 700.0, "power")),
    _entry(
        "mars",
        threshold.MARS,
        "arXiv 2601.15498 (secondary source)",
        knob=_knob("theta", 1.0, 0.0),
        needs=("target_logits",),
    ),
    _entry("logit_comparison", threshold.LogitComparison, "Modular MAX", needs=("draft_logits", "target_logits")),
    _entry(
        "fuzzy",
        mixture.Fuzzy,
        "arXiv 2502.20704 (secondary source); 2607.08690",
        knob=_knob("threshold", 0.0, 700.0, "power"),
        variants=tuple(
            f"divergence={divergence},fallback={fallback}"
            for fallback in ("target", "speculative")
            for divergence in ("js", "kl", "tv")
        ),
    ),
    _entry(
        "cascade",
        mixture.Cascade,
        "arXiv 2405.19261 (in part secondary sources)",
        knob=_knob("alpha", -1.001, 1.0),
        variants=tuple(f"variant={variant}" for variant in ("chow", "diff", "opt", "tok1", "tok2", "tok3")),
    ),
    _entry("judge", virtual.Judge, "arXiv 2501.19309 (secondary source)", needs=("scores",)),
    _entry("reward_guided", virtual.RewardGuided, "arXiv 2501.19324", needs=("rewards",)),
    _entry("csd", virtual.CSD, "arXiv 2604.13634", needs=("frequencies",)),
    _entry("lantern", virtual.Lantern, "arXiv 2410.03355 (in part recalled)", needs=("neighbours",)),
    _entry(
        "ratio_clip",
        optimal.RatioClip,
        "Tran-Thien 2023; arXiv 2609.30474; docs/theory.md T1",
        knob=_knob("ceiling", 1.0, 1e30, "log"),
    ),
    _entry("common_price", optimal.CommonPrice, "docs/theory.md T4", knob=_knob("price", 0.0, 700.0, "power")),
    _entry("block_verification", blocks.BlockVerification, "arXiv 2403.10444", kind="block", lossless=True),
    _entry("fly", blocks.FLy, "arXiv 2511.22972", kind="block"),
    _entry("consultant", blocks.Consultant, "arXiv 2506.02391 (secondary source)", kind="block"),
    _entry("approximate_sd", blocks.ApproximateSD, "arXiv 2608.03447", kind="block"),
    _entry(
        "recursive_rejection", multi_draft.RecursiveRejection, "arXiv 2305.09781", kind="multi_draft", lossless=True
    ),
    _entry("k_seq", multi_draft.KSeq, "arXiv 2310.15141", kind="multi_draft", lossless=True),
    _entry("greedy_multi_draft", multi_draft.GreedyMultiDraft, "arXiv 2502.18779", kind="multi_draft", lossless=True),
    _entry("sglang_tree", multi_draft.SGLangTree, "sgl-kernel speculative_sampling.cuh", kind="multi_draft"),
)
_BY_NAME = {info.name: info for info in _RULES}


def available() -> tuple[RuleInfo, ...]:
    """All rules: name, parameters with defaults, source, kind, lossless or not."""
    return _RULES


def from_spec(spec: str) -> Any:
    """Build a rule from a short text, "name" or "name:parameter=value,parameter=value".

    Parameters
    ----------
    spec
        Such as "lenience:factor=0.8", "cascade:variant=tok3,alpha=0.3" or "speculative_sampling". Values are numbers
        ("inf" included), true, false, or the words of the rule's docstring.

    Returns
    -------
    Rule
        Or a `BlockRule` or `MultiDraftRule`, by the kind that `available()` tells.

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
            f"tradeoff.rules.{family.info.rule.__name__}({data[0]}=...) in Python"
        )
    known = {**family.info.defaults, **family.fixed}
    missing = [name for name in family.info.parameters if name not in known]
    if missing:
        raise InputError(f"{spec}: expected a value for {' and '.join(missing)}, as in {_example(family.info)}")
    return family.info.rule(**family.fixed)


def family_from(spec: str) -> Family:
    """Read a spec that may leave parameters out.

    Raises
    ------
    InputError
        A text of another form, or an unknown name or parameter.
    """
    name, _, rest = spec.strip().partition(":")
    info = _BY_NAME.get(name)
    if info is None:
        near = get_close_matches(name, _BY_NAME, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "tradeoff.rules.available() lists them"
        raise InputError(f"rule: expected the name of a rule; got {name!r}; {hint}")
    fixed: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or not text:
            raise InputError(f"{spec}: expected parameter=value; got {part!r}; as in {_example(info)}")
        if key not in info.parameters or key in fixed:
            wanted = ", ".join(info.parameters) or "no parameters"
            raise InputError(f"{spec}: expected {wanted}, each once; got {key!r}")
        fixed[key] = _value(info, key, text)
    return Family(spec=spec.strip(), info=info, fixed=fixed)


def families() -> tuple[Family, ...]:
    """Every per-token rule with a knob, variant by variant: the curves of a map."""
    return tuple(
        family_from(f"{info.name}:{variant}" if variant else info.name)
        for info in _RULES
        if info.kind == "token" and info.knob is not None
        for variant in info.variants or ("",)
    )


def _value(info: RuleInfo, key: str, text: str) -> Any:
    """A parameter's value by its annotation: words, truth values, whole numbers, numbers."""
    init: Callable[..., Any] = info.rule.__init__
    hint = get_type_hints(init)[key]
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
