"""Train the embedded pair: one tokenizer, a target and a draft, from one text file of short stories.

Run as ``python -m benchmarks.training.pair --text FILE``. The working checkpoints live in ``--work``; running
the same command again continues from the last of them. The finished pair is written to ``--out``.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tokenizers
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks.training.stories import SEPARATOR, SEPARATOR_ID, WINDOW, Stories, batch_at, read_stories
from decoding.embedded import PROMPTS
from decoding.evaluation.files.kept import read_json
from solvers.errors import InputError
from solvers.shown import one_line

VOCABULARY = 2048
EVALUATE_EVERY = 150
SAVE_EVERY = 50
WARM_UP = 150
HELD_OUT = 0.05

# BOS, EOS and padding are one token: a story starts where the story before it has ended.
ROLES = ("bos_token", "eos_token", "pad_token")
SPECIAL: dict[str, Any] = {f"{role}_id": SEPARATOR_ID for role in ROLES}

console = Console()


@dataclass(frozen=True)
class Recipe:
    """Name ("target" or "draft"), shape, dropout, peak learning rate and number of steps of one model."""

    name: str
    layers: int
    hidden: int
    heads: int
    dropout: float
    rate: float
    steps: int


def train_tokenizer(stories: list[str], path: Path) -> transformers.PreTrainedTokenizerFast:
    """Return the byte-level BPE tokenizer saved at ``path``, after training it where there is none.

    Raises
    ------
    InputError
        If the stories are too few to yield ``VOCABULARY`` pieces.
    """
    if not path.exists():
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(stories, trainer)
        # Every text then starts as a story starts in training, right after a separator.
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, SEPARATOR_ID)]
        )
        if bpe.get_vocab_size() != VOCABULARY:
            raise InputError(f"the text yields fewer than {VOCABULARY} pieces; give a longer text with --text")
        bpe.save(str(path))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
        **dict.fromkeys(ROLES, SEPARATOR),
    )


def encode(tokenizer: transformers.PreTrainedTokenizerFast, stories: list[str]) -> list[np.ndarray]:
    """Return the token numbers of each story, closed by the separator."""
    rows = tokenizer(stories, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([*row, SEPARATOR_ID], dtype=np.int64) for row in rows]


def build(recipe: Recipe) -> Any:
    """Return a freshly initialised model."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden,
        hidden_dropout=recipe.dropout,
        attention_dropout=0.0,  # dropout inside attention would rule out the fused kernel on CPU
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        **SPECIAL,
    )
    return GPTNeoXForCausalLM(config)


def optimizers_of(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for embeddings, norms and biases."""
    embeddings = [model.gpt_neox.embed_in.weight]  # tied: the output layer is the same tensor
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings[0]]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [
        # This adjustment gives Muon's steps the size of AdamW's, so that one learning rate serves both.
        torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95)),
    ]


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < WARM_UP:
        return recipe.rate * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, recipe.steps - WARM_UP)
    return recipe.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def held_out_loss(model: Any, stories: list[np.ndarray]) -> float:
    """Return the mean loss per token in nats, each story read alone from a separator, its end included."""
    model.eval()
    total, count = 0.0, 0
    ordered = sorted(stories, key=len)
    for first in range(0, len(ordered), 8):
        rows = [torch.from_numpy(row[:WINDOW]) for row in ordered[first : first + 8]]
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(model.device)
        inputs = labels.clamp_min(SEPARATOR_ID).roll(1, dims=1)
        inputs[:, 0] = SEPARATOR_ID
        logits = model(input_ids=inputs).logits
        total += cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += sum(len(row) for row in rows)
    return total / count


class Training:
    """One model in training: the model, its optimisers and a ``state`` that goes to disk and comes back."""

    def __init__(self, recipe: Recipe, stories: Stories, work: Path, seed: int, device: str) -> None:
        self.recipe, self.stories, self.seed = recipe, stories, seed
        self.path = work / f"{recipe.name}.pt"
        torch.manual_seed(seed)
        self.model = build(recipe).to(device)
        self.optimizers = optimizers_of(self.model, recipe)
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "best_loss": math.inf, "best_step": 0}
        if self.path.exists():
            self.state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(self.state["model"])
            for optimizer, saved in zip(self.optimizers, self.state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            torch.set_rng_state(self.state["rng"])

    def save(self) -> None:
        """Write the checkpoint in one move, so that an interrupted write leaves the earlier one whole."""
        self.state |= {"model": self.model.state_dict(), "rng": torch.get_rng_state()}
        self.state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        partial = self.path.with_suffix(".partial")
        torch.save(self.state, partial)
        partial.replace(self.path)

    def step(self) -> float:
        """Take one optimiser step and return its training loss."""
        self.model.train()
        windows = batch_at(self.stories["training"], self.state["step"], self.seed).to(self.model.device)
        logits = self.model(input_ids=windows[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(self.state["step"], self.recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.state["step"] += 1
        return loss.item()

    def evaluate(self) -> float:
        """Return the held-out loss, and keep the weights as the best where it is the lowest so far."""
        loss = held_out_loss(self.model, self.stories["held_out"])
        if loss < self.state["best_loss"]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.state |= {"best_loss": loss, "best_step": self.state["step"], "best": weights}
        return loss

    def run(self) -> dict[str, Any]:
        """Train up to the recipe's last step and return the state."""
        recipe, state = self.recipe, self.state
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task(recipe.name, total=recipe.steps)
            while state["step"] < recipe.steps:
                started = time.monotonic()
                training = self.step()
                last = state["step"] == recipe.steps
                if last or state["step"] % EVALUATE_EVERY == 0:
                    held_out = self.evaluate()
                    where = f"{recipe.name} step {state['step']} of {recipe.steps}"
                    console.print(f"{where}: training loss {training:.3f}, held-out loss {held_out:.3f}")
                state["seconds"] += time.monotonic() - started
                if last or state["step"] % SAVE_EVERY == 0:
                    self.save()
                progress.update(bar, completed=state["step"])
        return state


def export(recipe: Recipe, state: dict[str, Any], tokenizer: Any, out: Path) -> None:
    """Write the best weights in half precision, with configuration and tokenizer, to ``out/name``."""
    model = build(recipe)
    model.load_state_dict(state["best"])
    # Plain sampling from the model's own law: any truncation would change the law that is being compared.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, **SPECIAL
    )
    folder = out / recipe.name
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; a packaged file is for everyone


@torch.no_grad()
def mean_tv(target: Any, draft: Any, seed: int, stories: int = 100, tokens: int = 200) -> dict[str, float]:
    """Return the mean total variation between the two laws along stories sampled from the target.

    The standard error is taken over stories, since the positions of one story hang together.
    """
    torch.manual_seed(seed)
    start = torch.full((stories, 1), SEPARATOR_ID)
    drawn = target.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=tokens)
    sums, counts = np.zeros(stories), np.zeros(stories)
    for index, row in enumerate(drawn):
        ends = (row[1:] == SEPARATOR_ID).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(row) - 1
        context = row[None, :length]
        gap = target(context).logits.softmax(-1) - draft(context).logits.softmax(-1)
        sums[index], counts[index] = gap.abs().sum().item() / 2, length
    mean = sums.sum() / counts.sum()
    error = math.sqrt(((sums - mean * counts) ** 2).sum() * stories / (stories - 1)) / counts.sum()
    return {"mean": mean, "standard_error": error, "positions": int(counts.sum()), "stories": stories}


def measure(out: Path, held_out: list[np.ndarray], seed: int) -> dict[str, Any]:
    """Return sizes, held-out losses, mean total variation and samples of the pair as it was written."""
    # Half precision is how the weights travel; they are read back into single precision to be used.
    loaded: dict[str, Any] = {
        name: AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float32).eval()
        for name in ("target", "draft")
    }
    measured: dict[str, Any] = {}
    for name, model in loaded.items():
        loss = held_out_loss(model, held_out)
        measured[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": sum(file.stat().st_size for file in (out / name).iterdir()),
            "held_out_loss": loss,
            "held_out_perplexity": math.exp(loss),
        }
    measured["tv_along_target_samples"] = mean_tv(loaded["target"], loaded["draft"], seed)
    tokenizer = AutoTokenizer.from_pretrained(out / "target")
    measured["samples"] = []
    torch.manual_seed(seed)
    for opening in PROMPTS.read_text(encoding="utf-8").splitlines()[:3]:
        row = loaded["target"].generate(**tokenizer(opening, return_tensors="pt"), max_new_tokens=120)[0]
        measured["samples"].append(tokenizer.decode(row, skip_special_tokens=True))
    return measured


def claim(work: Path, settings: dict[str, Any]) -> None:
    """Mark the working folder with these settings.

    Raises
    ------
    InputError
        If the folder already holds a run with other settings, which must not be continued as this one.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "settings.json"
    if path.exists() and read_json(path) != settings:
        raise InputError(f"{work} holds a run with other settings; name another folder with --work")
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def train_pair(text: Path, out: Path, work: Path, seed: int, recipes: list[Recipe], device: str) -> dict[str, Any]:
    """Train, write and measure the pair; return what is written to ``out/metrics.json``."""
    texts, digest = read_stories(text)
    claim(work, {"seed": seed, "text_sha256": digest, "recipes": [asdict(recipe) for recipe in recipes]})
    kept = len(texts) - max(1, round(HELD_OUT * len(texts)))
    tokenizer = train_tokenizer(texts[:kept], work / "tokenizer.json")
    stories = {"training": encode(tokenizer, texts[:kept]), "held_out": encode(tokenizer, texts[kept:])}
    training: dict[str, Any] = {}
    for recipe in recipes:
        state = Training(recipe, stories, work, seed, device).run()
        export(recipe, state, tokenizer, out)
        took = {"best_step": state["best_step"], "seconds": round(state["seconds"], 1)}
        training[recipe.name] = asdict(recipe) | took
    about: dict[str, Any] = {"name": text.name, "sha256": digest}
    for part, rows in stories.items():
        about |= {f"{part}_stories": len(rows), f"{part}_tokens": sum(map(len, rows))}
    steps = " ".join(f"--{recipe.name}-steps {recipe.steps}" for recipe in recipes)
    metrics = {
        "command": f"python -m benchmarks.training.pair --text {text.name} --seed {seed} {steps}",
        "seed": seed,
        "text": about,
        "vocabulary": VOCABULARY,
        "training": training,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: str(m.__version__) for m in (torch, transformers, tokenizers, np)},
    } | measure(out, stories["held_out"], seed)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def main(
    text: Annotated[Path, typer.Option(help=f"Stories, separated by lines that hold {SEPARATOR}.")],
    out: Annotated[Path, typer.Option(help="Folder the pair is written to.")] = PROMPTS.parent,
    work: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("runs/embedded-pair"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    target_steps: Annotated[int, typer.Option(min=1, help="Steps of the target.")] = 2500,
    draft_steps: Annotated[int, typer.Option(min=1, help="Steps of the draft.")] = 2500,
    device: Annotated[
        str, typer.Option(help="cpu or cuda; only on cpu is a resumed run bit for bit the same.")
    ] = "cpu",
) -> None:
    """Train the tokenizer, the target and the draft; run again to continue after an interruption."""
    transformers.utils.logging.disable_progress_bar()
    recipes = [
        Recipe("target", layers=4, hidden=256, heads=8, dropout=0.2, rate=4e-3, steps=target_steps),
        Recipe("draft", layers=1, hidden=128, heads=4, dropout=0.0, rate=5e-3, steps=draft_steps),
    ]
    try:
        metrics = train_pair(text, out, work, seed, recipes, device)
    except InputError as error:
        Console(stderr=True).print(one_line(f"error: {error}"), style="red", soft_wrap=True, markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command continues from the last checkpoint")
        raise typer.Exit(130) from None
    losses = ", ".join(f"{r.name} {metrics[r.name]['held_out_loss']:.3f}" for r in recipes)
    tv = metrics["tv_along_target_samples"]["mean"]
    console.print(f"held-out loss in nats per token: {losses}; mean total variation {tv:.3f}")


if __name__ == "__main__":
    typer.run(main)
