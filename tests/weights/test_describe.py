"""Descriptions that lie end in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from vitkit.errors import CheckpointError
from vitkit.weights.describe import describe_directory

SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def write(directory: Path, config: dict[str, Any], processor: dict[str, Any] | None) -> None:
    described = transformers.ViTConfig(**SMALL, image_size=32).to_dict() | config
    (directory / "config.json").write_text(json.dumps(described), "utf-8")
    if processor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")


def test_what_it_says(tmp_path: Path) -> None:
    processor = {"size": {"height": 32, "width": 48}, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}
    write(tmp_path, {"id2label": {"1": "b", "0": "a"}}, processor)
    told = describe_directory(tmp_path)
    assert told.source == "huggingface" and told.classes == ("a", "b")
    assert told.settings["dim"] == 64 and told.settings["image_size"] == (32, 32)
    assert told.preprocess is not None
    assert told.preprocess["input_size"] == [3, 32, 48]
    assert told.preprocess["mean"] == [0.1, 0.2, 0.3] and told.preprocess["crop_mode"] == "squash"


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"hidden_size": 0}, None),
        ({"hidden_size": "many"}, None),
        ({"id2label": [1, 2]}, None),
        ({"id2label": {"first": "a"}}, None),
        ({"image_size": []}, None),
        ({"model_type": None}, None),
        ({"model_type": ["vit"]}, None),
        ({"architectures": 3}, None),
        ({}, {"size": {"height": 0, "width": 0}}),
        ({}, {"size": "x"}),
        ({}, {"size": {}}),
        ({}, {"do_resize": False}),
        ({}, {"resample": 9}),
        ({}, {"image_mean": 3}),
    ],
    ids=str,
)
def test_lies(tmp_path: Path, config: dict[str, Any], processor: dict[str, Any] | None) -> None:
    write(tmp_path, config, processor)
    with pytest.raises(CheckpointError, match="describes no vitkit model: ") as caught:
        describe_directory(tmp_path)
    assert "\n" not in str(caught.value)
