"""What every benchmark says of its conditions, and where its result goes."""

import argparse
import datetime
import json
import os
from pathlib import Path
from typing import Any

import torch

import vitkit
from vitkit.cli.main import LARGE_PAGES


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have; `threads` are torch's, in this process."""
    os.environ.setdefault(LARGE_PAGES, "1")  # as the command does, for both sides
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--machine", default="", help="a word about the processor")
    made.add_argument("--out", type=Path, help="a JSON file, such as one in benchmarks/results")
    return made


def keep(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print a result with its conditions, and write it to `out`."""
    result |= {
        "threads": arguments.threads,
        "machine": arguments.machine,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "vitkit": vitkit.__version__,
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(result, indent=2, default=str)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", "utf-8")
