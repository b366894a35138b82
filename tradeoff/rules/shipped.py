"""The rules that ship with the library, one entry each."""

from typing import Any

from tradeoff.rules import blocks, lossless, mixture, multi_draft, optimal, places, ratio, threshold, virtual, yin
from tradeoff.rules.info import Knob, RuleInfo


def _entry(name: str, rule: type, source: str, **more: Any) -> RuleInfo:
    return RuleInfo(name=name, rule=rule, source=source, **more)


def _knob(name: str, strict: float, loose: float, scale: Any = "linear") -> Knob:
    return Knob(name=name, strict=strict, loose=loose, scale=scale)


_EPSILON = _knob("epsilon", 0.0, 1.0, "power")

SHIPPED = (
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
    _entry(
        "block_price", blocks.BlockPrice, "docs/theory.md T16", kind="block", knob=_knob("price", 0.0, 700.0, "power")
    ),
    _entry("priced_places", places.PricedPlaces, "docs/theory.md T14", kind="block", needs=("prices",)),
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
