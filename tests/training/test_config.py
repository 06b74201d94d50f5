"""Settings: defaults, overrides, checks, origins."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from vitkit.errors import ConfigError
from vitkit.models import find_config
from vitkit.training.config import TrainSettings, known_keys, resolve


def value_of(overrides: Any, key: str) -> Any:
    return next(row.value for row in resolve(overrides).rows() if row.key == key)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("epochs=7", "epochs", 7),
        ("lr=1e-3", "lr", 0.001),  # a word in YAML 1.1
        ("lr=2.5e-4", "lr", 2.5e-4),
        ("augment.mirror=false", "augment.mirror", False),
        ("data.image_size=64", "data.image_size", [64, 64]),
        ("data.image_size=[160, 224]", "data.image_size", [160, 224]),
        ("data.mean=[0.5]", "data.mean", [0.5]),
        ("data.memory_gb=null", "data.memory_gb", None),
        ("device=cpu", "device", "cpu"),
        ("precision=bf16", "precision", "bf16"),
        ("model.pool=mean", "model.pool", "mean"),
        ("model.depth=3", "model.depth", 3),
        ("model.layer_scale=1e-4", "model.layer_scale", 1e-4),
        (" epochs =7", "epochs", 7),
    ],
)
def test_a_value_is_read_as_its_type(override: str, key: str, expected: Any) -> None:
    value = value_of([override], key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "no setting is called 'epoch', did you mean 'epochs'?"),
        ("learning_rate=1", "did you mean 'lr'?"),
        ("augment.mixup=1", "did you mean 'mix.mixup'?"),
        ("drop_path=0.1", "did you mean 'model.drop_path'?"),
        ("data.image_size=a", "write a list, such as data.image_size=[128,96]"),
        ("leraning_rate=1", "'leraning_rate'; `vitkit settings` lists all, and --dry-run"),
        ("data.imagesize=3", "'data.imagesize', did you mean 'data.image_size'?"),
        ("mirror=true", "'mirror', did you mean 'augment.mirror'?"),
        ("shift=0", "'shift', did you mean 'augment.shift'?"),
        ("augment=true", "'augment' is a group of settings; set one of augment.mirror"),
        ("epochs.x=1", "no setting is called 'epochs.x', did you mean 'epochs'?"),
        ("epochs", "'epochs' is no setting; write key=value"),
        ("epochs=[1", "epochs='[1' cannot be read as a value"),
        ("epochs=0", "epochs=0: input should be greater than or equal to 1"),
        ("epochs=many", "epochs='many': input should be a valid integer"),
        ("epochs=1.5", "epochs=1.5: input should be a valid integer"),
        ("epochs=true", "epochs=True: input should be a valid integer"),
        ("lr=true", "lr=True: input should be a valid number"),
        ("threads=yes", "threads=True: input should be a valid integer"),
        ("ema=false", "ema=False: input should be a valid number"),
        ("betas=[0.9, true]", "betas=True: input should be a valid number"),
        ("data.mean=[true]", "data.mean=True: input should be a valid number"),
        ("data.image_size=true", "data.image_size=True: input should be a valid integer"),
        ("data.image_size=[8, true]", "data.image_size=True: input should be a valid integer"),
        ("data.memory_gb=on", "data.memory_gb=True: input should be a valid number"),
        ("lr=0", "lr=0: input should be greater than 0"),
        ("label_smoothing=1", "label_smoothing=1: input should be less than 1"),
        ("betas=[0.9, 1.5]", "betas=1.5: input should be less than 1"),
        ("betas=[0.9]", "betas=[0.9]"),
        ("data.crop=1.5", "data.crop=1.5: input should be less than or equal to 1"),
        ("data.interpolation=cubic", "data.interpolation='cubic': input should be 'nearest'"),
        ("augment.mirror=2", "augment.mirror=2: input should be a valid boolean"),
        ("precision=fp8", "precision='fp8': input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("seed=-1", "seed=-1: input should be greater than or equal to 0"),
        ("seed=99999999999999999999", "seed=99999999999999999999: input should be less than"),
        ("model=vit_base_patch16_224", "set one of model.name"),
        ("model.name=vit_tinny_patch16_224", "did you mean 'vit_tiny_patch16_224'?"),
        ("model.dpth=3", "has no setting 'dpth', did you mean 'depth'?"),
        ("model.depth=abc", "depth='abc': input should be a valid integer"),
        ("model.depth=2.5", "depth=2.5: input should be a valid integer"),
        ("model.depth=-1", "depth=-1 is not between 1 and 1024"),
        ("model.depth=3.0", "depth=3.0: input should be a valid integer"),
        ("model.depth=true", "depth=True: input should be a valid integer"),
        ("model.class_token='no'", "class_token='no': input should be a valid boolean"),
        ("model.drop_path=.nan", "drop_path=nan: input should be a finite number"),
        ("model.depth=&a [*a]", "]]: input should be a valid integer"),
        ("model.name.x=1", "no setting is called 'model.name.x', did you mean 'model.name'?"),
        ("model.depth.x=1", "no setting is called 'model.depth.x'"),
        ("seed=2020-13-45", "seed='2020-13-45' cannot be read as a value; quote it"),
        ("seed=2020-12-24", "seed=datetime.date(2020, 12, 24): input should be a valid integer"),
        ("seed=" + "[" * 10_000, "cannot be read as a value"),
        ("data.max_megapixels=.inf", "data.max_megapixels=inf: input should be a finite number"),
        ("lr=nan", "lr=nan: input should be a finite number"),
        ("data.mean=[.nan]", "data.mean=nan: input should be a finite number"),
        ("betas=[0.9, .nan]", "betas=nan: input should be a finite number"),
        ("model.pool=max", "pool='max' is unknown; choose cls, mean, cls_mean or attention"),
        ("model.class_token=false", "pool=cls reads the class token"),
        ("model.num_classes=3", "follows from the classes of the data"),
        ("model.in_channels=1", "follows from the number of values in data.mean"),
        ("model.image_size=32", "follows from data.image_size; set that"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_go_before_saved_settings_and_those_before_defaults() -> None:
    saved = {"epochs": 5, "lr": 0.1, "data": {"crop": 0.5}}
    settings = resolve(["epochs=7", "data.val_fraction=0"], saved=saved).settings
    assert (settings.epochs, settings.lr, settings.batch_size) == (7, 0.1, 128)
    assert (settings.data.crop, settings.data.val_fraction) == (0.5, 0.0)
    assert saved == {"epochs": 5, "lr": 0.1, "data": {"crop": 0.5}}


def test_the_last_of_two_overrides_counts() -> None:
    assert resolve(["epochs=7", "epochs=8"]).settings.epochs == 8


def test_a_mapping_takes_values_as_they_are() -> None:
    settings = resolve({"data.image_size": (32, 48), "model.drop_path": 0.1}).settings
    assert settings.data.image_size == (32, 48)
    config = find_config("vit_tiny_patch16_224", drop_path=0.1, image_size=(32, 48))
    assert find_config(settings.architecture, **settings.config_overrides) == config


def test_a_mapping_takes_numbers_of_numpy() -> None:
    given = {"epochs": np.int64(3), "lr": np.float32(0.5), "data.mean": np.full(1, 0.25).tolist()}
    settings = resolve({**given, "data.image_size": np.int32(16)}).settings
    assert (settings.epochs, settings.lr, settings.data.mean) == (3, 0.5, (0.25,))
    assert type(settings.epochs) is int
    assert settings.data.image_size == (16, 16)


def test_rows_say_where_each_value_comes_from() -> None:
    rows = resolve(["epochs=7", "model.depth=2"], origin="somewhere").rows()
    origins = {row.key: row.origin for row in rows}
    assert {key for key, origin in origins.items() if origin != "default"} == {
        "epochs",
        "model.depth",
        "data.image_size",
    }
    assert origins["epochs"] == "somewhere"
    assert set(known_keys()) <= set(origins)


def test_saved_values_that_differ_from_the_defaults_say_so() -> None:
    saved = yaml.safe_load(resolve(["epochs=7", "model.depth=2"]).to_yaml())
    origins = {row.key: row.origin for row in resolve(["lr=0.5"], saved=saved).rows()}
    assert {key: origin for key, origin in origins.items() if origin != "default"} == {
        "epochs": "saved",
        "model.depth": "saved",
        "data.image_size": "model",
        "lr": "command line",
    }


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swinv2_tiny_window8_256", "resnet18"])
def test_every_field_of_the_model_is_a_setting(name: str) -> None:
    resolved, config = resolve([f"model.name={name}"]), find_config(name)
    fields = dataclasses.asdict(config)
    del fields["num_classes"], fields["in_channels"]  # of the data
    size = list(fields.pop("image_size"))
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}
    rows = {row.key: (row.value, row.origin) for row in resolved.rows()}
    models = {key: row for key, row in rows.items() if key.startswith("model.")}
    assert models.pop("model.name") == (name, "command line")
    assert models == {f"model.{key}": (value, "default") for key, value in plain.items()}
    assert rows["data.image_size"] == (size, "model")
    saved = yaml.safe_load(resolved.to_yaml())
    assert saved["model"] == {"name": name, **plain}
    assert saved["data"]["image_size"] == size


@pytest.mark.parametrize(
    "override",
    [
        "data.mean=[0.5,0.25,0.125]",
        "data.image_size=[32,16]",
        "augment.mirror=false",
        "lr=1e-05",
        "device=cuda:1",
        "threads=null",
        "model.qk_norm=true",
    ],
)
def test_a_row_reads_as_it_would_be_typed(override: str) -> None:
    key = override.partition("=")[0]
    row = next(row for row in resolve([override]).rows() if row.key == key)
    assert str(row) == override
    assert resolve([str(row)]).settings == resolve([override]).settings


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["epochs=3", "lr=1e-7", "betas=[0.8, 0.95]", "data.image_size=[160, 224]", "ema=0"],
        ["model.name=swin_tiny_patch4_window7_224", "model.depths=[1, 1]", "model.num_heads=[2,4]"],
        ["data.mean=[0.1]", "data.std=[0.3]", "data.workers=2", "model.layer_scale=0.1"],
    ],
)
def test_what_is_saved_resolves_to_the_same(overrides: list[str]) -> None:
    resolved = resolve(overrides)
    again = resolve(saved=yaml.safe_load(resolved.to_yaml()))
    assert again.settings == resolved.settings
    assert again.to_yaml() == resolved.to_yaml()


def test_a_sequence_of_the_model_has_the_type_of_its_config() -> None:
    settings = resolve(["model.name=swin_tiny_patch4_window7_224", "model.depths=[1,1,1,1]"])
    assert settings.settings.config_overrides["depths"] == (1, 1, 1, 1)


def test_saved_settings_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="^epohcs=3: extra inputs"):
        resolve(saved={"epohcs": 3})
    for overrides in ([], ["model.depth=3"]):
        with pytest.raises(ConfigError, match="model='deep' is a group"):
            resolve(overrides, saved={"model": "deep"})
    with pytest.raises(ConfigError, match="data=5 is a group of settings; set data.crop"):
        resolve(["data.crop=0.5"], saved={"data": 5})
    with pytest.raises(ConfigError, match="has no setting '3'"):
        resolve(saved={"model": {3: 4}})


def test_settings_are_frozen() -> None:
    settings = TrainSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.data.crop = 0.5  # type: ignore[misc]


def test_patches_have_to_fit_the_images_of_the_run() -> None:
    settings = resolve(["model.patch_size=5", "data.image_size=40"]).settings
    assert settings.config_overrides["image_size"] == (40, 40)
    with pytest.raises(ConfigError, match="image_size=32 is not a multiple of patch_size=64"):
        resolve(["model.patch_size=64", "data.image_size=32"])


def test_a_tag_names_weights_not_an_architecture() -> None:
    settings = resolve(["model.name=vit_tiny_patch16_224.augreg_in1k"]).settings
    assert settings.architecture == "vit_tiny_patch16_224"
