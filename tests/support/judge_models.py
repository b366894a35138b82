"""Models made by hand, so small that every score and every reply is known, saved as their families are."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "user", "assistant", "end"]
VALUES = torch.tensor([0.5, -1.25, 2.0, 3.5, -4.0, 0.125, 7.0, -0.75, 10.0, 20.0, -30.0])
"""What a handmade reward model finds each word worth as the last one."""

CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}end"
CONTEXT = 24
HIDDEN = 16
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": None,
}
ONE_LABEL: dict[str, Any] = SIZES | {"num_labels": 1}
REWARD_CONFIGS: dict[str, Any] = {
    "llama": hf.LlamaConfig,
    "mistral": hf.MistralConfig,
    "gpt_neox": hf.GPTNeoXConfig,
    "gpt2": hf.GPT2Config,
    "bert": hf.BertConfig,
}


def tokenizer_of(words: list[str], normalizer: Any = None, **special: Any) -> Any:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_words(folder: Path, *, padding: str | None, chat: bool) -> None:
    tokenizer = tokenizer_of(WORDS, pad_token=padding)
    if chat:
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def save_last_word_reward(folder: Path, *, padding: str | None = None, chat: bool = False) -> Path:
    """A Llama whose layers write nothing: its logit is the value of the last word."""
    pad = None if padding is None else WORDS.index(padding)
    model = hf.LlamaForSequenceClassification(hf.LlamaConfig(**ONE_LABEL, pad_token_id=pad, rms_norm_eps=1e-12))
    silence(model)
    model.score.weight.copy_(torch.nn.functional.pad(VALUES, (0, HIDDEN - len(VALUES)))[None] / HIDDEN**0.5)
    model.save_pretrained(folder)
    save_words(folder, padding=padding, chat=chat)
    return folder


def save_random_reward(folder: Path, family: str, *, padding: str | None = None, labels: int = 1) -> Path:
    torch.manual_seed(3)
    pad = None if padding is None else WORDS.index(padding)
    grouped = {"num_key_value_heads": 2} if family == "mistral" else {}
    config = REWARD_CONFIGS[family](**SIZES, **grouped, num_labels=labels, pad_token_id=pad)
    hf.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    save_words(folder, padding=padding, chat=False)
    return folder


def silence(model: Any) -> None:
    """Make a Llama's last hidden state the normalised one-hot vector of the token itself."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embedding = model.model.embed_tokens.weight
    embedding.copy_(torch.eye(*embedding.shape))


REPLIES = ["<eos>", "A", "B", "TIE", "perhaps", "first_is_gold", "second_is_gold", "alike"]

READS_GOLD = normalizers.Sequence(
    [
        normalizers.Replace(Regex(rf"[\s\S]*TEXT A ===\n{first}=== TEXT B ===\n{second}=== END[\s\S]*"), seen)
        for first, second, seen in [
            (r"[^=]*gold[^=]*", r"[^=]*tin[^=]*", "first_is_gold"),
            (r"[^=]*tin[^=]*", r"[^=]*gold[^=]*", "second_is_gold"),
        ]
    ]
    + [normalizers.Replace(Regex(r"[\s\S]*===[\s\S]*"), "alike")]
)
"""Reduces a whole question to what matters in it, one word."""


@torch.no_grad()
def save_chat_model(folder: Path, replies: dict[str, str]) -> Path:
    """A chat model that replies one word to each of first_is_gold, second_is_gold and alike, and ends."""
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            **SIZES | {"vocab_size": len(REPLIES), "bos_token_id": None, "eos_token_id": 0, "num_hidden_layers": 1},
            pad_token_id=0,
            tie_word_embeddings=False,
        )
    )
    silence(model)
    head = model.lm_head.weight
    head.zero_()
    for place, word in enumerate(REPLIES):
        head[REPLIES.index(replies.get(word, "<eos>")), place] = 1.0
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    tokenizer = tokenizer_of(REPLIES, READS_GOLD, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder
