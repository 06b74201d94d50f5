"""`vitkit doctor`."""

import json

import pytest
import torch

import vitkit
from vitkit.cli import doctor


def test_it_says_what_is_here(vitkit_command) -> None:
    done = vitkit_command("doctor")
    assert (done.code, done.err) == (0, "")
    assert f"vitkit {vitkit.__version__}" in done.out
    assert "device  cpu" in done.out
    for extra in doctor.EXTRAS:
        assert f"extra   {extra}" in done.out


def test_json_has_the_same(vitkit_command) -> None:
    done = vitkit_command("doctor", "--json")
    found = json.loads(done.out)
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["problems"] == []
    assert set(found["extras"]) == {"hub", "serve", "onnx", "openvino"}


def test_what_is_missing_is_a_problem_with_its_remedy(
    vitkit_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "absent-package"))
    monkeypatch.setattr(doctor, "EXTRAS", {"serve": ("absent-package",), "onnx": ("torch",)})
    done = vitkit_command("doctor")
    assert done.code == 1
    assert "problem absent-package is missing; pip install absent-package" in done.out
    assert "extra   serve     missing; pip install 'vitkit[serve]'" in done.out
    assert "extra   onnx      installed" in done.out
