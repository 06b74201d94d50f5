"""`vitkit demo`."""

import json
import time
from pathlib import Path

import pytest

from vitkit.cli import demo
from vitkit.data.sources import open_source
from vitkit.training.config import resolve
from vitkit.training.prepare import prepare


def test_its_settings_fit_each_other_and_the_data() -> None:
    resolved = resolve(demo.SETTINGS, origin="demo")
    prepared = prepare("digits", resolved)
    assert len(prepared.source.samples) == 1797
    assert prepared.model.num_classes == len(prepared.source.classes) == 10
    changed = [row.key for row in resolved.rows() if row.origin == "demo"]
    named = [setting.partition("=")[0] for setting in demo.SETTINGS]
    assert sorted(changed) == sorted(named)
    assert not resolved.settings.augment.mirror  # a mirrored digit is none


def test_it_trains_on_real_digits_in_a_directory_of_its_own(
    vitkit_command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("model.dim=16", "model.num_heads=1", "model.depth=1", "epochs=1")
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, *small))
    done = vitkit_command("demo")
    assert done.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "digits-vit_tiny_patch16_224"
    assert str(Path("runs", run.name, "report.html")) in done.out
    scores = json.loads((run / "evaluation.json").read_text())
    assert scores["images"] == 360
    assert len(open_source("digits").samples) == 1797
    assert vitkit_command("demo", "--out", run).code == 2  # nothing is overwritten
    done = vitkit_command("demo", "--out", tmp_path / "other", "--json")
    assert json.loads(done.out) == {"directory": str(tmp_path / "other"), **scores}


@pytest.mark.slow
def test_it_keeps_its_promise(vitkit_command, tmp_path: Path) -> None:
    started = time.perf_counter()
    done = vitkit_command("demo", "--out", tmp_path / "demo")
    seconds = time.perf_counter() - started
    assert done.code == 0
    scores = json.loads((tmp_path / "demo" / "evaluation.json").read_text())
    assert scores["top1"] >= 0.97
    assert seconds < 180
