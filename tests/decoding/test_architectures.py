"""Every architecture that can be built small writes its own greedy text, or is refused by name."""

from typing import Any

import pytest
import torch
import transformers as hf
from architectures import VOCAB, build, listed
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import decoding
from decoding.drafting import PromptLookup, early_exit
from decoding.drafting.protocol import Proposal
from decoding.sampling.warping import Warping
from solvers.errors import InputError

IDENTICAL = listed("""
afmoe apertus arcee aria_text axk1 beam bert bert-generation big_bird biogpt bitnet camembert codegen cohere cohere2
cohere2_moe ctrl cwm data2vec-text dbrx deepseek_v2 deepseek_v3 diffllama doge dots1 electra emu3 ernie ernie4_5
ernie4_5_moe exaone4 exaone_moe falcon flex_olmo flint fuyu gemma gemma2 gemma3_text gemma3n_text
gemma4_text gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode
gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text
hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama longcat_flash
megatron-bert mellum mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral mllama modernbert-decoder
nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe rembert roberta
roberta-prelayernorm roc_bert seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm xlm-roberta xlm-roberta-xl
xmod youtu
""")
REFUSED = listed("""
axk2 bailing_hybrid bamba bart bigbird_pegasus blenderbot blenderbot-small bloom cpmant deepseek_v32 deepseek_v4
dots3_note_text falcon_h1 falcon_mamba git glm_moe_dsa gpt_neo granitemoehybrid hy_v4 inkling2_text inkling_text jamba
kimi_linear lfm2 lfm2_moe lfm3 llama4 llama4_text mamba mamba2 marian mbart minimax minimax_m3_vl_text moshi
moss_transcribe_diarize mpt mvp nemotron_h olmo_hybrid openai-gpt pegasus plbart prophetnet qwen3_5_moe_text
qwen3_5_text qwen3_next qwen4_exp_text recurrent_gemma reformer roformer rwkv trocr whisper xlm xlnet zaya
""")
IDENTICAL_WRAPPERS = listed("""
aria aya_vision deepseek_vl exaone4_5 gemma3 gemma4 gemma4_unified glm4v got_ocr2 granite_docling hyperclovax_vision_v2
idefics2 idefics3 internvl kimi_k25 lfm2_vl lfm3_vl lighton_ocr llava llava_next llava_next_video llava_onevision
mistral3 mistral4 mllama ovis2 paddleocr_vl qianfan_ocr qwen2_5_vl qwen2_vl qwen3_vl qwen3_vl_moe smolvlm step3p7
video_llama_3 video_llava vipllava
""")
REFUSED_WRAPPERS = listed("""
kosmos-2.5 minicpm_ocr minicpmv4_6 minicpmv4_7 minimax_m3_vl mistral_large4 paligemma qwen3_5 qwen3_5_moe qwen4_exp
""")

NEW_TOKENS, PROMPT, PADDING = 12, 9, 4
Reader = type[hf.AutoModelForCausalLM] | type[hf.AutoModelForImageTextToText]


class Knowing:
    """Proposes what the model itself would write, every third token wrong: rows then go their own ways."""

    calls = 0

    def __init__(self, written: Tensor) -> None:
        self.written = [row[PADDING * number :] for number, row in enumerate(written)]

    def start(self, tokens: Tensor, length: Tensor, *, width: int, vocab: int, warping: Warping) -> None:
        """Begin."""
        self.vocab = vocab

    def propose(self, tokens: Tensor, length: Tensor, count: int, uniforms: Tensor, *, width: int) -> Proposal:
        """Continue each text."""
        columns = length[:, None] + torch.arange(count)
        drafted = torch.stack([row[at.clamp(max=len(row) - 1)] for row, at in zip(self.written, columns, strict=True)])
        drafted = torch.where(columns % 3 == 0, (drafted + 1) % self.vocab, drafted)
        logits = torch.full((*drafted.shape, self.vocab), -torch.inf).scatter_(2, drafted[..., None], 0.0)
        return Proposal(tokens=drafted, logits=logits, raw_logits=logits, count=torch.full_like(length, count))

    def select(self, rows: Tensor) -> None:
        """Keep these texts."""
        self.written = [self.written[row] for row in rows.tolist()]


def prompts() -> dict[str, Any]:
    """Two prompts, the second padded on the left."""
    tokens = torch.randint(3, VOCAB, (2, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, :PADDING] = tokens[1, :PADDING] = 0
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "pad_token_id": 0,
    }


def cases(*names: tuple[Reader, list[str]]) -> list[Any]:
    """Those that the installed transformers knows."""
    return [
        pytest.param(reader, name, id=f"{name}-{reader.__name__[len('AutoModelFor') :]}")
        for reader, listed in names
        for name in listed
        if name in CONFIG_MAPPING
    ]


@pytest.mark.parametrize(
    ("reader", "model_type"),
    cases((hf.AutoModelForCausalLM, IDENTICAL), (hf.AutoModelForImageTextToText, IDENTICAL_WRAPPERS)),
)
def test_greedy_text_is_the_models_own(reader: Any, model_type: str):
    model = build(model_type, reader)
    own = model.generate(**prompts())
    # a model that repeats one token would not show a wrong mask
    assert len(set(own[:, PROMPT:].flatten().tolist())) >= 4
    output = decoding.generate(target=model, draft=Knowing(own), **prompts())
    assert torch.equal(output.sequences, own)


@pytest.mark.parametrize(
    ("reader", "model_type"),
    cases((hf.AutoModelForCausalLM, REFUSED), (hf.AutoModelForImageTextToText, REFUSED_WRAPPERS)),
)
def test_what_cannot_be_decoded_is_refused_by_name(reader: Any, model_type: str):
    model = build(model_type, reader)
    with pytest.raises(InputError, match=type(model).__name__):
        decoding.generate(target=model, draft=PromptLookup(), **prompts())


def test_the_first_layers_of_a_wrapper_draft():
    # the vision tower has as many layers as the text model; the first text layer slides, the second does not
    target = build("llava", hf.AutoModelForImageTextToText)
    draft = early_exit(target, 1)
    assert len(draft.model.language_model.layers) == 1
    assert len(draft.model.vision_tower.encoder.layers) == 2
    own = draft.generate(**prompts())
    assert torch.equal(decoding.generate(target=draft, draft=Knowing(own), **prompts()).sequences, own)
    assert torch.equal(
        decoding.generate(target=target, draft=draft, **prompts()).sequences, target.generate(**prompts())
    )
