"""What every page has in common: its frame and style, how numbers are said, how it is written."""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vitkit.explain.picture import enlarge
from vitkit.report import pictures
from vitkit.whole_file import replacing


def write_page(path: Path, text: str) -> Path:
    """Write a page to `path`, whole or not at all: a failure leaves an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        # "replace": a file name with bytes that are no text must not cost the whole page
        temporary.write_text(text, "utf-8", errors="replace", newline="")
    return path


def render(template: str, *, package: str = "report", **values: Any) -> str:
    """A template of a package of vitkit, filled in; it may extend `frame.html`, or be a picture."""
    script = asset("page.js")
    digest = hashlib.sha256(script.encode()).digest()
    shared = {
        "style": asset("chart.css") + asset("page.css"),
        "script": script,
        "script_hash": base64.b64encode(digest).decode(),
    }
    return _environment(package).get_template(template).render(shared | values)


def asset(name: str) -> str:
    """The text of a file that pages are made with."""
    return resources.files("vitkit.report").joinpath(name).read_text(encoding="utf-8")


def _environment(package: str) -> jinja2.Environment:
    loaders = [jinja2.PackageLoader("vitkit", name) for name in (package, "report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,  # class and file names come from strangers' archives
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "percent": percent,
        "duration": duration,
        "short": short,
        "photo": pictures.photo,
        "whole": pictures.whole,
        "exact": pictures.exact,
        "enlarged": enlarge,
        "heat_map": pictures.heat_map,
        "label_length": label_length,
    }
    environment.tests["tiny"] = pictures.is_tiny
    return environment


def breakable(name: str) -> Markup:
    """A name that goes on in the next line after a slash, underscore or hyphen, or before a dot."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])(?=.)|(?<=.)(?=[.])", name))


def percent(share: float, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage that says 100 only of the whole."""
    if share < 1 - 1e-9:
        share = min(share, 1 - 10.0 ** -(decimals + 2))
    return f"{share:.{decimals}%}".replace("%", "\u202f%")


def duration(seconds: float) -> str:
    """A time in its two largest units: 3 h 12 min, 2 min 5 s, 41 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def short(count: float) -> str:
    """A large count in three digits: 5.72 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def label_length(names: Mapping[str, object]) -> int:
    """Characters of the longest name."""
    return max(map(len, names), default=0)
