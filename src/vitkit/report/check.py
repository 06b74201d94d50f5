"""The page of `vitkit data check`, and the list of what it found."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit.data.check.outliers import SPREAD
from vitkit.data.check.run import COLUMNS, DataCheck, Finding
from vitkit.data.manifest import save_csv
from vitkit.data.sources import Source
from vitkit.errors import ConfigError
from vitkit.report import frame, pictures
from vitkit.report.findings import shelves
from vitkit.training.label_check import LabelCheck

PAGE, LIST = "check.html", "findings.csv"
FILES_LISTED = 50


def place(source: Source, out: Path | None) -> Path:
    """Where a check goes: `out`, or a new `runs/check-NAME`; nothing is made yet.

    Raises:
        ConfigError: `out` is a file, or holds a check.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; name a directory with --out")
        if (out / PAGE).exists():
            raise ConfigError(f"{out} holds a check already; choose another --out, or remove it")
        return out
    stem = Path(source.name.partition(":")[0]).stem or "data"
    names = (f"check-{stem}" if number == 1 else f"check-{stem}-{number}" for number in count(1))
    return next(path for name in names if not (path := Path("runs", name)).exists())


def write_check(
    directory: Path, source: Source, check: DataCheck, labels: LabelCheck | None = None
) -> Path:
    """Write page and list into `directory`, each whole or not at all; the path of the page."""
    page = frame.write_page(directory / PAGE, render(source, check, labels))
    rows: list[Finding] = [*check.findings(), *_suspects(check, labels)]
    save_csv(directory / LIST, COLUMNS, rows)
    return page


def render(source: Source, check: DataCheck, labels: LabelCheck | None = None) -> str:
    """The page as text; the images that it shows are read again."""

    def picture(row: int) -> NDArray[np.uint8]:
        return pictures.small(source.read(row))

    return frame.render(
        "check.html",
        title=Path(source.name).name or source.name,
        check=check,
        data=check.summary,
        labels=labels,
        shelves=shelves(check, labels, picture),
        flagged=flagged(check),
        files_listed=FILES_LISTED,
        spread=SPREAD,
    )


def flagged(check: DataCheck) -> int:
    """Files of which anything was found, each counted once; labels, a model's guess, aside."""
    return len({row[0] for row in check.findings()})


def _suspects(check: DataCheck, labels: LabelCheck | None) -> Sequence[Finding]:
    if labels is None:
        return ()
    found = []
    for row, suggested, suspicion in zip(
        labels.rows, labels.suggested, labels.suspicion, strict=True
    ):
        sample, rather = check.samples[row], check.summary.classes[suggested]
        detail = f"labelled {check.label(sample)}, rather {rather}"
        found.append((sample.name, "likely wrong label", f"{suspicion:.4f}", "", detail))
    return found
