"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT", help="A run, a checkpoint directory, a weights file or hf-hub:owner/name."
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder or .zip of class folders, a .csv or .jsonl manifest, .tar shards, `digits` "
        "or `shapes`; to train on, URLs of shards and hf-datasets:owner/name too.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and only that.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ModelOfFile = Annotated[
    str | None, typer.Option("--model", help="The model of a weights file that cannot say it.")
]
MaxMegapixels = Annotated[
    float, typer.Option(min=0.001, help="An image of more is left out; its header tells.")
]
MaxMegabytes = Annotated[float, typer.Option(min=0.001, help="A file of more is left out.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where the run goes; made new.")]
