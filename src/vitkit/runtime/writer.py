"""Predictions as rows: CSV, JSON lines or parquet by suffix, or to standard output."""

import contextlib
import csv
import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import ConfigError

PARQUET_ROWS = 1024  # written at once
Row = dict[str, Any]


class Format(Protocol):
    """One way to write rows."""

    def write(self, row: Row) -> None: ...
    def close(self) -> None: ...


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
        if not self.started:
            self.writer.writerow(flat)
            self.started = True
        self.writer.writerow(flat.values())

    def close(self) -> None:
        self.file.flush()


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: Row) -> None:
        self.file.write(jsonlib.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.flush()


class JsonArray:
    """One JSON array of objects, written as they come."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.before = "[\n"

    def write(self, row: Row) -> None:
        self.file.write(self.before + jsonlib.dumps(row))
        self.before = ",\n"

    def close(self) -> None:
        self.file.write("[]\n" if self.before == "[\n" else "\n]\n")
        self.file.flush()


class Plain:
    """Columns for people: file, label, score."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: Row) -> None:
        if "embedding" in row:
            values = " ".join(f"{value:.4g}" for value in row["embedding"])
            self.file.write(f"{row['file']}\t{values}\n")
        else:
            self.file.write(f"{row['file']}\t{row['label']}\t{row['score']:.4f}\n")

    def close(self) -> None:
        self.file.flush()


class Parquet:
    """An Arrow table, a few rows at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        if self.writer is None:
            self.writer = parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)
        self.rows = []

    def close(self) -> None:
        if self.rows or self.writer is None:
            self._flush()
        self.writer.close()


class Writer:
    """Writes rows to a new file, or to standard output without a path; a context manager.

    The file gets its name when it is closed. An interrupt keeps the rows written so far; any other
    error leaves nothing behind.

    Raises:
        ConfigError: the suffix is none of .csv, .jsonl and .parquet, or the file exists.
    """

    def __init__(self, path: Path | None, *, json: bool = False) -> None:
        self.path = path
        self.json = json
        if path is not None and path.suffix not in (".csv", ".jsonl", ".parquet"):
            raise ConfigError(f"--out {path} is of no known kind; use .csv, .jsonl or .parquet")
        if path is not None and path.exists():
            raise ConfigError(f"{path} exists already; choose another --out or remove it")
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path.parent} does not exist; make it, or choose another --out")

    def __enter__(self) -> "Writer":
        self.file: IO[str] | None = None
        if self.path is None:
            self.format: Format = JsonArray(sys.stdout) if self.json else Plain(sys.stdout)
            return self
        self.temporary = self.path.with_name(f".{self.path.name}.tmp")
        if self.path.suffix == ".parquet":
            self.format = Parquet(self.temporary)
            return self
        self.file = open(self.temporary, "w", encoding="utf-8", newline="")
        self.format = Csv(self.file) if self.path.suffix == ".csv" else JsonLines(self.file)
        return self

    def prediction(self, name: str, scores: Sequence[tuple[str, float]]) -> None:
        """A row of the best classes, best first."""
        topk = [{"label": _writable(label), "score": score} for label, score in scores]
        self.format.write({"file": _writable(name), **topk[0], "topk": topk})

    def embedding(self, name: str, values: NDArray[np.float32]) -> None:
        """A row of features, (D,)."""
        self.format.write({"file": _writable(name), "embedding": values.tolist()})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        whole = kind is None or issubclass(kind, KeyboardInterrupt)
        try:
            with self.file or contextlib.nullcontext():
                if whole:
                    self.format.close()
            if self.path is not None and whole:
                os.replace(self.temporary, self.path)
        finally:
            if self.path is not None:
                self.temporary.unlink(missing_ok=True)


def _writable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8; those become escapes such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
