"""What every setting means, by the comment that it has where it is defined."""

import inspect
import re
from typing import Any, Literal, get_args, get_origin

from vitkit.training.settings import Section, TrainSettings

FIELD = re.compile(r"    (\w+): [^#]*(?:  # (.*))?")
COMMENT = re.compile(r"    # (.*)")


def meanings() -> dict[str, tuple[Any, str]]:
    """The default and the meaning of every setting, by its dotted key, in their order.

    Settings of the model are the fields of its configuration; they are not among them.
    """
    return _of(TrainSettings(), "")


def _of(section: Section, prefix: str) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    said = comments(type(section))
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found |= _of(value, f"{prefix}{name}.")
        elif name != "model":
            meaning = said[name].replace("None:", "null:")  # as values are written
            found[prefix + name] = value, meaning + choices(type(section), name)
    return found


def choices(section: type[Section], name: str) -> str:
    """The words of which a setting takes one, in brackets; nothing where others are taken."""
    hint = section.model_fields[name].annotation
    words = get_args(hint) if get_origin(hint) is Literal else ()
    return f" ({', '.join(words)})" if words else ""


def comments(section: type[Section]) -> dict[str, str]:
    """What stands behind each field of a class, or in the lines before it."""
    found, before = {}, ""
    for line in inspect.getsource(section).splitlines():
        if field := FIELD.fullmatch(line):
            found[field[1]] = (before + (field[2] or "")).strip()
            before = ""
        elif comment := COMMENT.fullmatch(line):
            before += f"{comment[1]} "
    return found
