"""Imports point downwards only, or sideways inside the same package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"

# From the ground up; those on one floor do not know each other. `vitkit` is the package's own
# `__init__`, which re-exports what its callers need.
FLOORS = (
    ("errors", "progress", "whole_file"),
    ("layers",),
    ("models",),
    ("weights", "data"),
    ("evaluation", "generate", "explain", "runtime"),
    ("classifier",),
    ("training",),
    ("report",),
    ("api",),
    ("study",),
    ("vitkit",),
    ("serve",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
ANYWHERE = {"vitkit.__version__"}  # a constant, not a module


def top(module: str) -> str:
    """The part of vitkit that a dotted name belongs to: `vitkit.data.image` is in `data`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imported(tree: ast.Module, package: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module imported, functions and `if` included.

    `package` is what a relative import starts from. `from vitkit import x` is the module x where
    there is one, else `vitkit` itself.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(parents + [base] * bool(base))
            for name in (f"{base}.{alias.name}" for alias in node.names):
                is_module = base != "vitkit" or name in modules | ANYWHERE or top(name) in FLOOR_OF
                yield node.lineno, name if is_module else base


def violations(files: dict[str, str]) -> list[str]:
    """What is wrong with the imports of files, given as path below `src` -> source text."""
    modules = {module_name(path) for path in files}
    found = []
    for path, text in files.items():
        module = module_name(path)
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        here = top(module)
        if here not in FLOOR_OF:
            found.append(f"{path}: {here} is on no floor")
            continue
        for line, name in imported(ast.parse(text), package, modules):
            if name.split(".")[0] != "vitkit" or name in ANYWHERE:
                continue
            there = top(name)
            if there not in FLOOR_OF:
                found.append(f"{path}:{line}: {there} is on no floor")
            elif there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
                way = "up" if FLOOR_OF[there] > FLOOR_OF[here] else "sideways"
                found.append(f"{path}:{line}: {here} imports {way} from {there}")
    return found


def module_name(path: str) -> str:
    """`vitkit/data/__init__.py` is `vitkit.data`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_imports_point_downwards() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 10
    files = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in paths}
    assert violations(files) == []


def test_every_package_is_on_one_floor() -> None:
    assert len(FLOOR_OF) == sum(map(len, FLOORS))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("vitkit/layers/pool.py", "from vitkit.layers.mlp import Mlp"),
        ("vitkit/layers/pool.py", "from .mlp import Mlp"),
        ("vitkit/models/vit.py", "from vitkit.errors import ConfigError\nimport torch.nn as nn"),
        ("vitkit/models/__init__.py", "from vitkit.models import vit\nfrom . import deit"),
        ("vitkit/data/loader.py", "from vitkit.models.vit import ViT"),
        ("vitkit/cli/main.py", "def main():\n    import vitkit\n    vitkit.train()"),
        ("vitkit/cli/main.py", "from vitkit import create_model\nfrom vitkit import api, errors"),
        ("vitkit/__init__.py", "def __getattr__(name):\n    from vitkit import api"),
        ("vitkit/__main__.py", "from vitkit.cli.main import main"),
        ("vitkit/errors.py", "import os.path\nfrom vitkitten import cli"),
        ("vitkit/layers/mlp.py", "from vitkit import __version__"),
    ],
)
def test_allowed(path: str, text: str) -> None:
    assert violations({path: text}) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        (
            "vitkit/layers/mlp.py",
            "from vitkit.models.vit import ViT",
            "1: layers imports up from m",
        ),
        (
            "vitkit/layers/mlp.py",
            "import vitkit.models.vit as v",
            "1: layers imports up from models",
        ),
        ("vitkit/layers/mlp.py", "from vitkit import models", "1: layers imports up from models"),
        (
            "vitkit/layers/mlp.py",
            "from vitkit import create_model",
            "1: layers imports up from vit",
        ),
        ("vitkit/layers/mlp.py", "import vitkit", "1: layers imports up from vitkit"),
        ("vitkit/layers/mlp.py", "\nfrom ..models import vit", "2: layers imports up from models"),
        ("vitkit/layers/mlp.py", "from .. import models", "1: layers imports up from models"),
        (
            "vitkit/layers/__init__.py",
            "from ..models import vit",
            "1: layers imports up from models",
        ),
        ("vitkit/errors.py", "from .layers import mlp", "1: errors imports up from layers"),
        (
            "vitkit/data/image.py",
            "from vitkit.weights import store",
            "1: data imports sideways from",
        ),
        (
            "vitkit/explain/tap.py",
            "from ..runtime import x",
            "1: explain imports sideways from runt",
        ),
        (
            "vitkit/training/loop.py",
            "def f():\n  from vitkit.api import train",
            "2: training imports",
        ),
        (
            "vitkit/training/loop.py",
            "try:\n  import vitkit.api\nexcept E: ...",
            "2: training imports",
        ),
        (
            "vitkit/models/vit.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vitkit import data",
            "3: models imports up from data",
        ),
        (
            "vitkit/classifier.py",
            "from vitkit.training.loop import f",
            "1: classifier imports up fr",
        ),
        ("vitkit/api.py", "from vitkit.cli import main", "1: api imports up from cli"),
        (
            "vitkit/serve/app.py",
            "from vitkit.cli import main",
            "1: serve imports up from cli",
        ),
        (
            "vitkit/explain/tap.py",
            "from vitkit.runtime.engine import Engine",
            "1: explain imports sideways from runtime",
        ),
        ("vitkit/utils.py", "", " utils is on no floor"),
        ("vitkit/api.py", "import vitkit.helpers", "1: helpers is on no floor"),
    ],
)
def test_forbidden(path: str, text: str, complaint: str) -> None:
    (found,) = violations({path: text})
    assert found.startswith(f"{path}:{complaint}")


def test_a_new_module_is_told_from_a_name() -> None:
    """`from vitkit import extra` is the module extra where there is one, on no floor as yet."""
    files = {"vitkit/extra.py": "", "vitkit/cli/main.py": "from vitkit import extra"}
    assert violations(files) == [
        "vitkit/extra.py: extra is on no floor",
        "vitkit/cli/main.py:1: extra is on no floor",
    ]
