"""Lists of labelled images: a `.csv` or `.jsonl` with `file_name`, `label` and perhaps `split`."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from vitkit.data.layout import SPLITS, Row, leaves, split_name
from vitkit.errors import DataError, nearest
from vitkit.whole_file import replacing

REQUIRED = ("file_name", "label")
Line = tuple[int, Mapping[str, Any]]  # its number, counted from 1, and its fields by column


def load_manifest(path: Path) -> list[Row]:
    """The rows of a `.csv` or `.jsonl` in UTF-8, with paths relative to it.

    Other columns are ignored. Backslashes count as slashes, spaces around labels do not count,
    whole numbers as labels are read as text, and the files are not looked for: a missing one is
    reported when it is read.

    Raises:
        DataError: a column is missing, a line is malformed, a path is absolute or has `..`, a file
            comes twice; the message names the line.
    """
    lines = csv_lines(path) if path.suffix.lower() == ".csv" else _json_lines(path)
    rows: list[Row] = []
    first: dict[str, int] = {}
    for number, fields in lines:
        where = f"{path}, line {number}"
        row = _row(fields, where)
        if row.name in first:
            raise DataError(f"{where}: {row.name!r} is on line {first[row.name]} too; keep one")
        first[row.name] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{path} lists no image; give one per line, after the names of the columns")
    return rows


def csv_lines(
    path: Path, *, required: Sequence[str] = REQUIRED, errors: str = "strict"
) -> Iterator[Line]:
    """The lines of a csv with a header, blank ones passed over; `errors` as in `open`.

    Raises:
        DataError: it is not UTF-8, lacks a `required` column, or a line has other fields.
    """
    try:
        # utf-8-sig: spreadsheets write a byte order mark first.
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [column.strip() for column in next(reader, [])]
            _check_columns(columns, required, str(path))
            for values in filter(None, reader):
                if len(values) != len(columns):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(values)} fields under "
                        f'{len(columns)} columns; put a field with commas into "quotes"'
                    )
                yield reader.line_num, dict(zip(columns, values, strict=True))
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not csv: {error}; correct it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write what `csv_lines` reads with errors="surrogateescape": a file name may be any bytes."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(columns)
        for row in rows:  # older Pythons leave a carriage return bare, and then cannot read it
            (quoted if any("\r" in field for field in row) else plain).writerow(row)


def _json_lines(path: Path) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _json_object(text, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _json_object(text: str, where: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # also: a number of thousands of digits
        reason = getattr(error, "msg", error)
        raise DataError(f"{where}: not JSON: {reason}; write one object per line") from error
    if not isinstance(fields, dict):
        raise DataError(f'{where}: not an object; write {{"file_name": ..., "label": ...}}')
    _check_columns(list(fields), REQUIRED, where)
    return fields


def _check_columns(columns: list[str], required: Sequence[str], where: str) -> None:
    for column in required:
        if column not in columns:
            known = ", ".join(columns[:10]) or "none"
            remedy = nearest(column, columns) or f"; name the columns {','.join(required)}"
            raise DataError(f"{where} has no column {column!r} (its columns: {known}){remedy}")
    if len(set(columns)) < len(columns):
        raise DataError(f"{where} has a column twice: {', '.join(columns)}; keep one")


def _row(fields: Mapping[str, Any], where: str) -> Row:
    name, label, split = fields["file_name"], fields["label"], fields.get("split")
    if not isinstance(name, str) or not name or leaves(name := name.replace("\\", "/")):
        raise DataError(
            f"{where}: file_name={name!r} must be a path below the folder of the manifest, "
            "without '..'"
        )
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise DataError(f"{where}: label={label!r} must be text or a whole number, and not empty")
    known = split_name(split.strip()) if isinstance(split, str) else None
    if known is None and split not in (None, ""):
        raise DataError(
            f"{where}: split={split!r} is none of {', '.join(SPLITS)}; or leave it empty"
        )
    return Row(normpath(name), str(label).strip(), known)


def _not_utf8(path: Path) -> DataError:
    return DataError(f"{path} is not UTF-8 text; save it again with that encoding")
