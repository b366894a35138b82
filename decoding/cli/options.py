"""Options that several commands have, said once."""

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str | None, typer.Option(help="Target model: hub name or folder.")]
Draft = Annotated[str | None, typer.Option(help="Draft model, with the target's vocabulary.")]
Limit = Annotated[int | None, typer.Option(help="Use only this many prompts, the first ones.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads; by default 1 for the embedded pair, else torch's choice.")
]
Out = Annotated[Path, typer.Option(help="Folder for all files; an interrupted run continues there.")]

# of a study: by default what its configuration says
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Prompts = Annotated[str | None, typer.Option(help="A file, a dataset's hub name, or: embedded.")]
Samples = Annotated[int | None, typer.Option(help="Texts per prompt and rule.")]
NewTokens = Annotated[int | None, typer.Option(help="Tokens per text.")]
BatchSize = Annotated[int | None, typer.Option(help="Texts written at once.")]
Seed = Annotated[int | None, typer.Option(help="The same seed writes the same texts.")]
Temperature = Annotated[float | None, typer.Option(help="Of the softmax, in every text, those that set knobs too.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this mass, in every text.")]
TopK = Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens, in every text.")]
