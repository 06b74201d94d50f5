"""Checkpoints: written for timm and for us, read with suspicion."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import Tensor

import vitkit
from vitkit.errors import CheckpointError, ConfigError, WeightsError
from vitkit.models import build, create_model
from vitkit.models.backbone import Backbone, Config
from vitkit.weights import store

VIT, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
TINY = {
    "image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5
}  # fmt: skip
SMALL_SWIN = {"image_size": (64, 96), "dim": 16, "depths": (1, 3), "num_heads": (2, 4)}
MODELS: list[tuple[str, dict[str, Any]]] = [
    (VIT, {}),
    (VIT, TINY),
    (VIT, TINY | {"pool": "mean", "position": "sincos_2d", "registers": 3, "qk_norm": True}),
    (VIT, TINY | {"pool": "attention", "prefix_positions": False, "layer_scale": 0.1}),
    (VIT, TINY | {"pool": "mean", "class_token": False, "in_channels": 1, "position": "none"}),
    (DISTILLED, TINY),
    (SWIN, {"num_classes": 3}),
    (SWIN, SMALL_SWIN | {"window_size": 4, "in_channels": 1, "num_classes": 1}),
    (SWIN, SMALL_SWIN | {"num_classes": 0}),
]


def random_model(name: str, settings: dict[str, Any]) -> Backbone:
    """No parameter keeps its first value, as zeros and ones would hide mistakes."""
    torch.manual_seed(0)
    model = create_model(name, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def save(directory: Path, name: str, model: Backbone, **changes: Any) -> list[str]:
    """Write a checkpoint; the names of its classes."""
    c = model.config
    classes = [f"Klasse {number} ü" for number in range(c.num_classes)]
    preprocess = {
        "input_size": [c.in_channels, *c.image_size],
        "crop_pct": 0.77,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": [0.1 * (1 + i) for i in range(c.in_channels)],
        "std": [0.2 * (1 + i) for i in range(c.in_channels)],
    }
    arguments: dict[str, Any] = {"classes": classes, "preprocess": preprocess} | changes
    store.save(directory, model, architecture=name, **arguments)
    return classes


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Backbone]:
    """The directory of a checkpoint, and its model."""
    model = random_model(VIT, TINY)
    save(tmp_path, VIT, model)
    return tmp_path, model


def check_same(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Names, shapes, types and every bit agree."""
    assert set(given) == set(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype and torch.equal(given[name], tensor), name


@pytest.mark.parametrize(("name", "settings"), MODELS)
def test_timm_opens_it(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    model = random_model(name, settings)
    classes = save(tmp_path, name, model)
    c = model.config
    reference = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(2, c.in_channels, *c.image_size)
    with torch.no_grad():
        torch.testing.assert_close(reference(image), model(image), rtol=1e-5, atol=1e-5)
    cfg = reference.pretrained_cfg
    assert reference.num_classes == cfg["num_classes"] == c.num_classes
    assert list(cfg.get("label_names", ())) == classes
    data = resolve_model_data_config(reference)
    assert tuple(data["input_size"]) == (c.in_channels, *c.image_size)
    assert (data["crop_pct"], data["interpolation"]) == (0.77, "bilinear")
    assert data["crop_mode"] == "center"
    assert list(data["mean"]) == [0.1 * (1 + i) for i in range(c.in_channels)]
    assert list(data["std"]) == [0.2 * (1 + i) for i in range(c.in_channels)]


@pytest.mark.parametrize(("name", "settings"), MODELS)
def test_round_trip(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    model = random_model(name, settings)
    classes = save(tmp_path, name, model)
    stored = store.load(tmp_path)
    assert stored.architecture == name and stored.config == model.config
    assert stored.classes == tuple(classes)
    assert stored.preprocess["crop_pct"] == 0.77
    again = stored.build()
    assert not again.training
    check_same(again.state_dict(), model.state_dict())


def test_timm_changes_the_number_of_classes(saved: tuple[Path, Backbone]) -> None:
    """timm finds the first layer and the head by the names that we give it."""
    directory, model = saved
    reference = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=9)
    assert reference.head.weight.shape == (9, 32)
    trunk = {k: v for k, v in model.state_dict().items() if not k.startswith("head")}
    check_same({k: v for k, v in reference.state_dict().items() if k in trunk}, trunk)


def test_without_our_own_words_it_is_timms(saved: tuple[Path, Backbone]) -> None:
    """What timm would build from `config.json`, we build too."""
    path = saved[0] / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    del cfg["vitkit"]
    path.write_text(json.dumps(cfg), "utf-8")
    stored = store.load(saved[0])
    assert stored.source == "timm" and stored.config == saved[1].config
    assert stored.classes == tuple(cfg["label_names"])
    check_same(stored.build().state_dict(), saved[1].state_dict())


def test_config_file(saved: tuple[Path, Backbone]) -> None:
    directory, _ = saved
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((directory / "config.json").read_text("utf-8")) == {
        "architecture": VIT,
        "num_classes": 5,
        "num_features": 32,
        "label_names": [f"Klasse {number} ü" for number in range(5)],
        "model_args": {
            "img_size": [32, 48], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4
        },
        "pretrained_cfg": {
            "input_size": [3, 32, 48],
            "crop_pct": 0.77,
            "crop_mode": "center",
            "interpolation": "bilinear",
            "mean": pytest.approx([0.1, 0.2, 0.3]),
            "std": pytest.approx([0.2, 0.4, 0.6]),
            "num_classes": 5,
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "vitkit": {
            "version": vitkit.__version__,
            "architecture": VIT,
            "model": {**TINY, "image_size": [32, 48]},
            "temperature": 1.0,
        },
    }  # fmt: skip


def test_tensors_in_another_order_of_memory(tmp_path: Path) -> None:
    model = random_model(VIT, TINY)
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().T.contiguous().T)
    save(tmp_path, VIT, model)
    check_same(store.load(tmp_path).tensors, model.state_dict())


def test_a_model_that_timm_cannot_build_is_kept_from_timm(tmp_path: Path) -> None:
    """Ours pads the last pixels, timm leaves them out: it must not open the file and be wrong."""
    model = random_model(SWIN, SMALL_SWIN | {"image_size": (50, 70)})
    save(tmp_path, SWIN, model)
    check_same(store.load(tmp_path).build().state_dict(), model.state_dict())
    with pytest.raises(RuntimeError, match=f"Unknown model .vitkit_{SWIN}"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


@pytest.mark.parametrize("failing", ["save_file", "write_text", "replace"])
def test_an_interrupted_save_leaves_the_old_one(
    saved: tuple[Path, Backbone], failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, model = saved

    def interrupt(*arguments: object, **options: object) -> None:
        if failing == "save_file":
            Path(str(arguments[1])).write_bytes(b"half of it")
        raise KeyboardInterrupt

    other = random_model(VIT, TINY | {"depth": 1})
    place = {"save_file": store, "write_text": Path, "replace": os}[failing]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, failing, interrupt)
        save(directory, VIT, other)
    check_same(store.load(directory).build().state_dict(), model.state_dict())
    save(directory, VIT, other)  # and what was left of the attempt is in nobody's way
    check_same(store.load(directory).build().state_dict(), other.state_dict())
    assert len(list(directory.iterdir())) == 2


def test_both_files_are_whole_before_the_first_gets_its_name(
    saved: tuple[Path, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, model = saved
    seen: list[list[int]] = []
    synced: set[int] = set()
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        paths = [path for path in directory.iterdir() if path.name.startswith(".")]
        assert all(path.stat().st_ino in synced for path in paths)
        seen.append(sorted(path.stat().st_size for path in paths))
        replace(source, target)

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)

    sizes = [(directory / name).stat().st_size for name in ("model.safetensors", "config.json")]
    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(os, "fsync", fsync)
    save(directory, VIT, model)
    assert seen[0] == sorted(sizes) and len(seen) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "norm.bias is missing"),
        (lambda t: t.update(extra=torch.ones(2)), "extra is unexpected"),
        (
            lambda t: t.update({"cls_token": torch.ones(1, 1, 32, dtype=torch.bool)}),
            "holds .cls_token. as torch.bool, where weights are float32",
        ),
        (
            lambda t: t.update({"cls_token": torch.ones(1, 1, 32, dtype=torch.complex64)}),
            "holds .cls_token. as C64; save it as F32",
        ),
        (
            lambda t: t.update({"cls_token": torch.ones(1, 2, 32)}),
            r"cls_token has shape \(1, 2, 32\), not \(1, 1, 32\)",
        ),
        (
            lambda t: [t.pop(k) for k in ("cls_token", *sorted(t)[:7])],
            r"cls_token is missing; .*; .* \(and 5 more\)$",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    saved: tuple[Path, Backbone], change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    directory, _ = saved
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        store.load(directory).build()


@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_safetensors(saved: tuple[Path, Backbone], keep: float) -> None:
    path = saved[0] / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(
        WeightsError,
        match=r"model\.safetensors is (no whole safetensors file|of no known kind: it is empty)",
    ):
        store.load(saved[0])


def test_absent_weights(saved: tuple[Path, Backbone]) -> None:
    (saved[0] / "model.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"holds no weights; model\.safetensors is the usual name"
    ):
        store.load(saved[0])


@pytest.mark.parametrize(
    ("path", "message"),
    [("", r"holds no config\.json; give a run"), ("no/thing", "not exist; give")],
)
def test_no_checkpoint(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        store.load(tmp_path / path)


def test_a_run_without_weights_yet(tmp_path: Path) -> None:
    """It has its settings from the start; a checkpoint that lies beside such a file is read."""
    (tmp_path / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(CheckpointError) as error:
        store.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is a run that has no weights yet; wait for its first checkpoint or, if it "
        f"stopped before, go on with `vitkit train DATA --resume --out {tmp_path}`"
    )
    save(tmp_path, VIT, random_model(VIT, TINY))
    assert store.load(tmp_path).architecture == VIT


def test_the_temperature_is_kept(tmp_path: Path) -> None:
    model = random_model(VIT, TINY)
    save(tmp_path, VIT, model, temperature=0.1 + 0.2)  # not a number that few digits say
    assert store.load(tmp_path).temperature == 0.1 + 0.2
    path = tmp_path / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    del cfg["vitkit"]["temperature"]  # as checkpoints had it before there was one
    path.write_text(json.dumps(cfg))
    assert store.load(tmp_path).temperature == 1


def edited(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda cfg: cfg.update(changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cfg: cfg["vitkit"].pop("architecture"),
        lambda cfg: cfg.pop("label_names"),
        lambda cfg: cfg.pop("num_classes"),
        lambda cfg: cfg.pop("pretrained_cfg"),
        lambda cfg: cfg["vitkit"].update(architecture="resnet50"),
        lambda cfg: cfg["vitkit"].update(architecture=5),
        edited(num_classes=4),  # with names for five
        edited(num_classes=-1),
        edited(num_classes="five"),
        edited(label_names=None),
        edited(label_names=["a"] * 6),
        edited(vitkit=[]),
        lambda cfg: cfg["vitkit"].update(model={"dimension": 3}),
        lambda cfg: cfg["vitkit"].update(model={"depth": "many"}),
        lambda cfg: cfg["vitkit"].update(model={"image_size": [33, 48]}),
        lambda cfg: cfg["vitkit"].update(model={"name": "x"}),
        *(
            lambda cfg, change=change: cfg["vitkit"]["model"].update(change)
            for change in (
                {"dim": 16.5},
                {"dim": 32.0},
                {"dim": 10**12},
                {"depth": 10**9},
                {"layer_scale": "x"},
                {"layer_scale": float("inf")},
                {"class_token": "no"},
                {"norm_eps": "x"},
                {"norm_eps": None},
                {"norm_eps": 0},
                {"image_size": [32.0, 48]},
                {"image_size": [8 * 10**6] * 2},
            )
        ),
        *(
            lambda cfg, value=value: cfg["vitkit"].update(temperature=value)
            for value in (0, -1.5, float("inf"), float("nan"), True, "1.5", None, [1.5])
        ),
        lambda cfg: cfg["vitkit"].update(architecture=SWIN, model={"depths": [2, -1, 2, 2]}),
        edited(num_classes=5.0),
        edited(label_names="abcde"),
        edited(pretrained_cfg=7),
    ],
)
def test_damaged_config(
    saved: tuple[Path, Backbone], damage: Callable[[dict[str, Any]], object]
) -> None:
    path = saved[0] / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    damage(cfg)
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(
        CheckpointError, match=r"config\.json describes no vitkit model: ."
    ) as caught:
        store.load(saved[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe" * 500, b'{"a": 1}', b"[" * 10**5]
)
def test_config_that_is_no_json_object(saved: tuple[Path, Backbone], content: bytes) -> None:
    (saved[0] / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="describes no vitkit model") as caught:
        store.load(saved[0])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 2**12},
        {"patch_size": 2**10, "image_size": [2**10] * 2},
        {"image_size": [2**13] * 2, "position": "sincos_2d"},
        {"registers": 2**16},
    ],
    ids=str,
)
def test_no_memory_is_taken_for_a_model_that_the_tensors_do_not_fit(
    saved: tuple[Path, Backbone], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(config: Config) -> Backbone:
        model = build(config)
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        return model

    monkeypatch.setattr(store, "build", watched)
    path = saved[0] / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    cfg["vitkit"]["model"].update(change)
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(WeightsError, match="do not fit the model"):
        store.load(saved[0]).build()


def test_no_memory_is_taken_for_a_computed_table_that_outweighs_the_tensors(
    saved: tuple[Path, Backbone],
) -> None:
    """Positions that are computed may be missing, unless a hostile file asks for too many."""
    tensors = load_file(saved[0] / "model.safetensors")
    del tensors["pos_embed"]
    save_file(tensors, saved[0] / "model.safetensors")
    path = saved[0] / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    cfg["vitkit"]["model"]["position"] = "sincos_2d"
    path.write_text(json.dumps(cfg), "utf-8")
    assert store.load(saved[0]).build().pos_embed is not None
    cfg["vitkit"]["model"]["image_size"] = [2**16] * 2
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(WeightsError, match="do not fit the model: pos_embed is missing"):
        store.load(saved[0]).build()


def test_settings_that_make_no_model_together(saved: tuple[Path, Backbone]) -> None:
    path = saved[0] / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    cfg["vitkit"]["model"].update(position="sincos_2d", dim=30, num_heads=3)
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(CheckpointError, match="cannot be built: dim=30 is not a multiple of 4"):
        store.load(saved[0]).build()


@pytest.mark.parametrize("model", [VIT, f"{VIT}.some_tag", None])
def test_a_directory_may_be_told_what_it_is(
    saved: tuple[Path, Backbone], model: str | None
) -> None:
    assert store.load(saved[0], model=model).architecture == VIT


@pytest.mark.parametrize("model", [SWIN, "vit_small_patch16_224", "resnet50"])
def test_a_directory_of_another_model(saved: tuple[Path, Backbone], model: str) -> None:
    message = f"says itself that it is {VIT}, not {model}; leave the model out"
    with pytest.raises(ConfigError, match=message):
        store.load(saved[0], model=model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_single(saved: tuple[Path, Backbone], dtype: torch.dtype) -> None:
    directory, model = saved
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors")
    expected = {name: tensor.float() for name, tensor in tensors.items()}
    check_same(store.load(directory).build().state_dict(), expected)


def test_an_unknown_setting_is_named(saved: tuple[Path, Backbone]) -> None:
    path = saved[0] / "config.json"
    path.write_text(path.read_text("utf-8").replace('"depth"', '"dept"'), "utf-8")
    with pytest.raises(CheckpointError, match="no setting 'dept', did you mean 'depth'"):
        store.load(saved[0])


@pytest.mark.parametrize("name", [VIT, DISTILLED, SWIN])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_file(tmp_path: Path, name: str, suffix: str) -> None:
    """The model is told; the number of classes is in the file."""
    model = random_model(name, {"num_classes": 11})
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    stored = store.load(path, model=f"{name}.some_tag")
    assert stored.architecture == name and stored.config == model.config
    assert stored.classes == tuple(map(str, range(11)))
    assert stored.preprocess["crop_pct"] == 0.9
    assert stored.preprocess["mean"][0] == (0.5 if name == VIT else 0.485)
    check_same(stored.build().state_dict(), model.state_dict())


def test_weights_file_of_another_model(tmp_path: Path) -> None:
    model = random_model(VIT, TINY | {"image_size": 32})
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"do not fit the model: .* \(and \d+ more\)"):
        store.load(tmp_path / "x.pth", model=VIT).build()


def test_weights_file_without_a_model(tmp_path: Path) -> None:
    """Shapes tell what they can; a name helps with the rest."""
    model = random_model(VIT, TINY | {"image_size": 32})
    torch.save(model.state_dict(), tmp_path / "x.pth")
    stored = store.load(tmp_path / "x.pth")
    assert stored.config == replace(model.config, num_heads=1)
    assert stored.notes[0] == "num_heads=1 is usual for dim=32; shapes do not tell"
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no layout that we know has names such as a"):
        store.load(tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="called 'vit_tiny_patch16', did you mean"):
        store.load(tmp_path / "x.pth", model="vit_tiny_patch16")


def test_a_run_is_read_by_its_best_weights(tmp_path: Path) -> None:
    for seed, name in enumerate(("last", ".best.old", "best")):
        torch.manual_seed(seed)
        model = create_model(VIT, num_classes=2, depth=1, dim=8, num_heads=1)
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, model, architecture=VIT, classes=("a", "b"), preprocess={})
        expected = model.state_dict()["head.weight"]
        assert torch.equal(store.load(tmp_path).tensors["head.weight"], expected), name
    started = vitkit.create_model(VIT, init=tmp_path, report=lambda text: None)
    assert torch.equal(started.state_dict()["head.weight"], expected)
