"""Predictions as rows: CSV, JSON lines or parquet by suffix, or to standard output."""

import contextlib
import csv
import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.cli.screen import visible
from vitkit.errors import ConfigError, VitkitError
from vitkit.whole_file import replacing

SUFFIXES = (".csv", ".jsonl", ".parquet")
PARQUET_ROWS = 1024  # written at once
Row = dict[str, Any]


class Format(Protocol):
    """One way to write rows."""

    def write(self, row: Row) -> None: ...
    def end(self) -> None:
        """Write what is still missing."""


class Csv:
    """`file,label,score,label_2,score_2,...` or `file,0,1,...` for features."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.writer = csv.writer(file, lineterminator="\n")
        self.started = False

    def write(self, row: Row) -> None:
        flat = {"file": row["file"]}
        for rank, entry in enumerate(row.get("topk", ()), start=1):
            suffix = "" if rank == 1 else f"_{rank}"
            flat |= {f"label{suffix}": entry["label"], f"score{suffix}": f"{entry['score']:.6g}"}
        flat |= {str(i): f"{value:.6g}" for i, value in enumerate(row.get("embedding", ()))}
        if not self.started:  # every later row has as many columns: the model's classes are fixed
            self.writer.writerow(flat)
            self.started = True
        self.writer.writerow(flat.values())

    def end(self) -> None:
        self.file.flush()


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: Row) -> None:
        self.file.write(jsonlib.dumps(row, ensure_ascii=False) + "\n")

    def end(self) -> None:
        self.file.flush()


class JsonArray:
    """One JSON array of objects, written as they come."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.before = "[\n"

    def write(self, row: Row) -> None:
        self.file.write(self.before + jsonlib.dumps(row))
        self.before = ",\n"

    def end(self) -> None:
        self.file.write("[]\n" if self.before == "[\n" else "\n]\n")
        self.file.flush()


class Plain:
    """Columns for people: file, label, score."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: Row) -> None:
        name = visible(row["file"])
        if "embedding" in row:
            values = " ".join(f"{value:.4g}" for value in row["embedding"])
            self.file.write(f"{name}\t{values}\n")
        else:
            self.file.write(f"{name}\t{visible(row['label'])}\t{row['score']:.4f}\n")

    def end(self) -> None:
        self.file.flush()


class Parquet:
    """An Arrow table, a few rows at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.rows: list[Row] = []
        self.writer: Any = None

    def write(self, row: Row) -> None:
        self.rows.append(row)
        if len(self.rows) == PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        table = arrow.Table.from_pylist(self.rows)
        if "embedding" in table.column_names:  # Python has only wide floats
            place = table.column_names.index("embedding")
            narrow = table["embedding"].cast(arrow.list_(arrow.float32()))
            table = table.set_column(place, "embedding", narrow)
        if self.writer is None:
            self.writer = parquet.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)
        self.rows = []

    def end(self) -> None:
        if self.rows or self.writer is None:
            self._flush()
        self.close()

    def close(self) -> None:
        """Let go of the file, which otherwise is written to when this object dies."""
        if self.writer is not None:
            self.writer.close()


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Format]:
    """Rows that go to a new file, which gets its name at the end."""
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            with open(temporary, "wb") as binary, contextlib.closing(Parquet(binary)) as rows:
                yield rows
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield Csv(file) if path.suffix == ".csv" else JsonLines(file)


class Writer:
    """Writes rows to a new file, or to standard output without a path; a context manager.

    The file gets its name when it is closed. An interrupt keeps the rows written so far; any other
    error leaves nothing behind. `rows` counts them.

    Raises:
        ConfigError: the suffix is none of .csv, .jsonl and .parquet, the file exists, or it cannot
            be made.
        VitkitError: it cannot be written to its end, for one because the disk is full.
    """

    def __init__(self, path: Path | None, *, json: bool = False) -> None:
        self.path = path
        self.json = json
        self.rows = 0
        self.files = contextlib.ExitStack()
        if path is not None:
            with self._failing_as(ConfigError):
                check_new(path)

    def __enter__(self) -> "Writer":
        if self.path is None:
            self.format: Format = JsonArray(sys.stdout) if self.json else Plain(sys.stdout)
        else:
            with self._failing_as(ConfigError):
                self.format = self.files.enter_context(open_file(self.path))
        return self

    def prediction(self, name: str, scores: Sequence[tuple[str, float]]) -> None:
        """A row of the best classes, best first."""
        topk = [{"label": writable(label), "score": score} for label, score in scores]
        self._write({"file": writable(name), **topk[0], "topk": topk})

    def embedding(self, name: str, values: NDArray[np.float32]) -> None:
        """A row of features, (D,)."""
        self._write({"file": writable(name), "embedding": values.tolist()})

    def _write(self, row: Row) -> None:
        with self._failing_as(VitkitError):
            self.format.write(row)
        self.rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            with self._failing_as(VitkitError), self.files:
                self.format.end()
        else:
            with contextlib.suppress(OSError):  # of closing, where writing has failed already
                self.files.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _failing_as(self, kind: type[VitkitError]) -> Iterator[None]:
        """Turn what the system says of the file into one line; a closed pipe stays what it is."""
        try:
            yield
        except OSError as error:
            if self.path is None:
                raise
            reason = error.strerror or str(error)
            raise kind(f"{self.path} cannot be written ({reason}); choose another --out") from error


def check_new(path: Path) -> None:
    """Check what can be known of a path before it is written.

    Raises:
        ConfigError: of no known kind, there already, or in no directory.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--out {path} is of no known kind; use .csv, .jsonl or .parquet")
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another --out or remove it")
    parent = path.absolute().parent
    if not parent.is_dir():
        fault = (
            "is no directory; choose" if parent.exists() else "does not exist; make it, or choose"
        )
        raise ConfigError(f"{path.parent} {fault} another --out")


def writable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8; those become escapes such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
