"""What the names inside a folder or an archive mean: which are images, of which class and split.

Names are relative, with `/` between their parts; a name that ends in `/` is a folder.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vitkit.errors import DataError

SPLITS = ("train", "val", "test")
SPELLINGS = {
    **{split: split for split in SPLITS},
    **{"training": "train", "valid": "val", "validation": "val", "testing": "test"},
}

# Taken for an image only if their first bytes are one's; every other file is opened, whatever its
# extension or lack of one promises.
NOT_IMAGES = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html"}
    | {".htm", ".pdf", ".log", ".py", ".ipynb", ".ini", ".db", ".zip", ".tar", ".gz", ".tgz", ".7z"}
    | {".npy", ".npz", ".pkl", ".mat", ".pt", ".pth", ".safetensors", ".parquet", ".arrow", ".mp4"}
)


class Row(NamedTuple):
    """One labelled image: a line of a manifest."""

    name: str
    label: str
    split: str | None = None


def split_name(text: str) -> str | None:
    """`train`, `val` or `test` for any usual spelling of one, None for anything else."""
    return SPELLINGS.get(text.casefold())


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name belongs to the system, not to the data."""
    return part.startswith(".") or part == "__MACOSX"


def lies_hidden(name: str) -> bool:
    """Whether a file, or a folder above it, is hidden."""
    return any(map(is_hidden, name.split("/")))


def extension(name: str) -> str:
    """In lower case with its dot: `.jpg`; empty if there is none."""
    stem, dot, end = name.rpartition("/")[2].rpartition(".")
    return f".{end.lower()}" if stem and dot else ""


def may_be_image(name: str) -> bool:
    """Whether a name alone makes a file worth opening: not hidden, not in `NOT_IMAGES`."""
    return extension(name) not in NOT_IMAGES and not lies_hidden(name)


def leaves(name: str) -> bool:
    """Whether a name could point outside its folder: absolute, with a drive letter or with `..`."""
    return name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")


def arrange(
    names: Sequence[str], folders: Sequence[str], *, where: str
) -> tuple[list[Row], tuple[str, ...]]:
    """The labelled images of a folder of class folders, and the files that lie outside those.

    The class folders lie at the top or below folders of splits, and a folder that wraps all of them
    is looked through. Folders inside a class folder belong to that class.

    Raises:
        DataError: no image, no class folders, an empty class folder or split, or folders that are
            neither split nor class.
    """
    if not names:
        raise DataError(
            f"{where} holds no image; give a folder with one folder of images per class"
        )
    wrapper = _wrapper(names)
    inside = [name.removeprefix(wrapper) for name in names if name.startswith(wrapper)]
    below = [name.removeprefix(wrapper) for name in folders if name.startswith(wrapper)]
    place = f"{where}/{wrapper}".rstrip("/")
    splits = _split_folders(inside, below, place)
    rows, skipped = [], [name for name in names if not name.startswith(wrapper)]
    for name in inside:
        split, _, rest = name.partition("/") if splits else ("", "", name)
        label, slash, _ = rest.partition("/")
        if slash:
            rows.append(Row(wrapper + name, label, splits.get(split)))
        else:
            skipped.append(wrapper + name)
    if not rows:
        raise DataError(
            f"{place} holds {len(names)} images but no class folders; put them into one folder per "
            "class, or list them in a .csv with the columns file_name,label"
        )
    _check_empty(rows, below, splits, place)
    return rows, tuple(sorted(skipped))


def _wrapper(names: Sequence[str]) -> str:
    """The folders at the top that hold everything else and are neither class nor split: `a/b/`."""
    wrapper = ""
    while True:
        tops = {name.partition("/")[0] for name in _below(names, wrapper) if "/" in name}
        if len(tops) != 1 or split_name(top := tops.pop()):
            return wrapper
        inner = _below(names, f"{wrapper}{top}/")
        children = {name.partition("/")[0] for name in inner if "/" in name}
        # One folder beside images is a class folder that has a folder of its own.
        if not children or (len(children) == 1 and any("/" not in name for name in inner)):
            return wrapper
        wrapper += f"{top}/"


def _below(names: Sequence[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _split_folders(names: Sequence[str], folders: Sequence[str], place: str) -> dict[str, str]:
    """The split of every folder at the top; nothing if these are class folders."""
    filled = {name.partition("/")[0] for name in names if "/" in name}
    deep = {name.partition("/")[0] for name in names if name.count("/") > 1}
    tops = filled | {name.partition("/")[0] for name in folders}
    splits = {top: split for top in tops if (split := split_name(top))}
    others = sorted(filled - splits.keys())
    if not others:
        return splits
    if split := next((top for top in sorted(splits) if top in deep), None):
        raise DataError(
            f"{place} has the folder {others[0]!r} beside the split {split!r}; move it away, or "
            f"rename {split!r} if it is a class"
        )
    return {}


def _check_empty(
    rows: Sequence[Row], folders: Sequence[str], splits: dict[str, str], place: str
) -> None:
    """A class may be absent from `val` or `test`; a class to train on may not be empty."""
    found = {(row.label, row.split) for row in rows}
    filled = {split for _, split in found}
    for folder in folders:
        top, _, label = folder.rstrip("/").partition("/") if splits else ("", "", folder[:-1])
        split = splits.get(top)
        empty = split not in filled if not label else (label, split) not in found
        required = not label or split in (None, "train")
        if "/" not in label and required and empty and (split or not splits):
            raise DataError(f"{place}/{folder} holds no image; fill this folder or remove it")
