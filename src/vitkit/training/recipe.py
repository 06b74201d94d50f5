"""Recipes: settings that belong together, one YAML file for each, named by its stem."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from vitkit.errors import ConfigError, nearest

FOLDER = Path(__file__).parent.parent / "recipes"


def list_recipes() -> list[str]:
    """The names of the recipes that come with vitkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(recipe: str) -> tuple[str, dict[str, Any]]:
    """The name and the values, by dotted keys, of one of ours, or of a .yaml or .yml file.

    Raises:
        ConfigError: there is none of that name, or the file holds no settings.
    """
    own = FOLDER / f"{recipe}.yaml"
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        if not own.is_file() or own.parent != FOLDER:
            hint = nearest(recipe, list_recipes())
            known = ", ".join(list_recipes())
            raise ConfigError(f"no recipe is called {recipe!r}{hint}; choose {known}, or a .yaml")
        path = own
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the recipe {recipe} does not exist") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the recipe {recipe} cannot be read: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {recipe} holds no settings; write lines like `epochs: 100`")
    return path.stem, {key: number_or_word(value) for key, value in dotted(values)}


def dotted(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by their dotted keys."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def number_or_word(value: Any) -> Any:
    """A value that YAML has read: 1e-3 is a number to everyone else, to YAML 1.1 a word."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value
