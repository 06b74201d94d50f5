"""What an import brings along, and what vitkit does without."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
ORACLES = ("timm", "torchvision", "transformers")  # test dependencies only

BLOCK = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ORACLES}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
"""


def run(script: str) -> str:
    """Standard output of a fresh interpreter that sees this checkout's `src`."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_vitkit_does_not_import_torch() -> None:
    loaded = run("import sys, vitkit; print(*sys.modules)").split()
    assert "vitkit" in loaded
    assert not {"torch", "numpy", "PIL"} & set(loaded)


def test_importing_the_models_loads_nothing_of_the_outer_floors() -> None:
    loaded = run("import sys, vitkit.models; print(*sys.modules)").split()
    assert {"torch", "vitkit.models.vit", "vitkit.models.swin"} <= set(loaded)
    heavy = {"PIL", "matplotlib", "pyarrow", "sklearn", "typer", "pydantic", "jinja2"}
    assert not (heavy | set(ORACLES)) & set(loaded)
    inside = {name.split(".")[1] for name in loaded if name.startswith("vitkit.")}
    assert inside == {"errors", "layers", "models"}


@pytest.mark.parametrize("name", ORACLES)
def test_the_block_blocks(name: str) -> None:
    with pytest.raises(AssertionError, match=f"blocked: {name}"):
        run(BLOCK + f"import {name}")


def test_models_run_without_torchvision_and_timm() -> None:
    script = """
import torch, vitkit.models as models
vit = dict(image_size=32, patch_size=8, dim=32, depth=1, num_heads=2, num_classes=5)
for name, settings in {
    "vit_tiny_patch16_224": vit,
    "deit_tiny_distilled_patch16_224": vit,
    "swin_tiny_patch4_window7_224": dict(image_size=32, dim=16, depths=(1, 1), num_heads=(1, 2)),
}.items():
    model = models.create_model(name, **{**settings, "num_classes": 5}).eval()
    print(*model(torch.randn(2, 3, 32, 32)).shape)
"""
    assert run(BLOCK + script).splitlines() == ["2 5"] * 3


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_file_imports_an_oracle(path: Path) -> None:
    assert oracles_in(path.read_text("utf-8")) == set()


def test_the_search_finds_what_it_looks_for() -> None:
    text = "def f():\n    import timm.layers as x\n    from torchvision.ops import y\nimport torch"
    assert oracles_in(text) == {"timm", "torchvision"}


def oracles_in(text: str) -> set[str]:
    """The forbidden packages that a source imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} & set(ORACLES)
