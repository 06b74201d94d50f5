"""`vitkit data pack`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli.options import Data, Json, MaxMegabytes
from vitkit.cli.screen import Screen, counted, visible

if TYPE_CHECKING:
    from vitkit.data.shards.write import Packed


def pack(
    data: Data,
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder, which is made new.")],
    shard_size: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="MB of a shard, unless an image has more.")
    ] = 256.0,
    split: Annotated[
        str | None, typer.Option(help="Only train, val or test; what has no split is train.")
    ] = None,
    max_megabytes: MaxMegabytes = 64.0,
    as_json: Json = False,
) -> None:
    """Write images into .tar shards (WebDataset), with an index of what is in them."""
    from vitkit.data.layout import SPLITS, split_name
    from vitkit.data.shards.write import pack as write
    from vitkit.data.sources import Limits, open_source
    from vitkit.errors import ConfigError, nearest

    chosen = None if split is None else split_name(split)
    if split is not None and chosen is None:
        raise ConfigError(f"split={split!r} is none of {', '.join(SPLITS)}{nearest(split, SPLITS)}")
    source = open_source(data, limits=Limits(max_bytes=round(max_megabytes * 1e6)))
    with Screen() as screen:
        size = round(shard_size * 1e6)
        packed = write(source, shards, shard_bytes=size, split=chosen, listen=screen)
        for name, reason in packed.unreadable:
            screen.say(visible(f"left out     {name}: {reason}"))
    typer.echo(json.dumps(as_data(packed, shards), indent=2) if as_json else words(packed, shards))
    if packed.unreadable:
        raise typer.Exit(1)


def as_data(packed: "Packed", folder: Path) -> dict[str, Any]:
    """What was written, and what was not."""
    shards = packed.index.shards
    return {
        "shards": str(folder),
        "files": len(shards),
        "images": sum(shard.samples or 0 for shard in shards),
        "bytes": sum(shard.bytes or 0 for shard in shards),
        "classes": list(packed.index.classes),
        "splits": images_by_split(packed),
        "unreadable": [{"file": name, "reason": reason} for name, reason in packed.unreadable],
    }


def images_by_split(packed: "Packed") -> dict[str, int]:
    """Images of every split that was written."""
    counts: dict[str, int] = {}
    for shard in packed.index.shards:
        split = shard.split or "train"
        counts[split] = counts.get(split, 0) + (shard.samples or 0)
    return counts


def words(packed: "Packed", folder: Path) -> str:
    """The same for a person."""
    splits = "  ".join(f"{name} {count:,}" for name, count in images_by_split(packed).items())
    size = sum(shard.bytes or 0 for shard in packed.index.shards) / 1e6
    files = counted(len(packed.index.shards), "shard")
    return visible(f"{splits}  in {files}, {size:,.1f} MB: {folder}")
