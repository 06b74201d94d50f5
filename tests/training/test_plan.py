"""What a run is trained with: chosen, given, or taken from weights; runs that start from others."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitkit
from vitkit.classifier import Classifier
from vitkit.data.sources import Sample, Source
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError, DataError, WeightsError
from vitkit.training.config import Resolved
from vitkit.training.plan import plan
from vitkit.training.prepare import Prepared, make_learner, prepare

QUICK = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32"}
STATISTICS = {"data.mean": [0.4, 0.5, 0.6], "data.std": [0.2, 0.25, 0.3], "data.crop": 0.875}


@pytest.fixture(scope="module")
def vit(
    colours: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> vitkit.Run:
    """A run of a ViT two blocks deep, with statistics of its own."""
    settings = {**tiny, **STATISTICS, "model.depth": 2, "data.interpolation": "bilinear"}
    return vitkit.train(colours, out=tmp_path_factory.mktemp("runs") / "vit", **settings)


@pytest.fixture(scope="module")
def resnet(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> vitkit.Run:
    settings = {"model.dim": 8, "model.depths": [1, 1, 1, 1], "data.image_size": 32, **QUICK}
    out = tmp_path_factory.mktemp("runs") / "resnet"
    return vitkit.train(colours, model="resnet18", recipe="none", out=out, **settings)


def values(resolved: Resolved) -> dict[str, Any]:
    return {row.key: row.value for row in resolved.rows()}


def origins(resolved: Resolved) -> dict[str, str]:
    return {row.key: row.origin for row in resolved.rows()}


# Without weights


def fake(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    def read(index: int, view: Any = None) -> Any:
        return torch.zeros(40, 60, 3, dtype=torch.uint8).numpy()

    source = Source("fake", ("a", "b"), tuple(Sample(str(i), 0) for i in range(images)), read)
    monkeypatch.setattr("vitkit.training.plan.open_data", lambda data, settings: source)


@pytest.mark.parametrize("images", [50, 20_000])
@pytest.mark.parametrize("given", [{}, {"model.name": "auto"}])
def test_a_model_that_is_not_given_is_chosen_with_its_recipe(
    monkeypatch: pytest.MonkeyPatch, images: int, given: dict[str, Any]
) -> None:
    fake(monkeypatch, images)
    resolved = plan("fake", given)
    of = origins(resolved)
    assert of["model.name"] == of["data.image_size"] == of["recipe"] == "auto"
    assert of["optimizer"] == "recipe small"
    assert resolved.settings.recipe == "small"
    assert len(resolved.reasons) == 2
    left = images - round(0.2 * images)  # test is cut off, and val from what is left
    left -= round(0.1 * left)
    assert f"{left:,} images to train on, 2 classes" in resolved.reasons[0]


def test_what_is_given_goes_before_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 50)
    resolved = plan("fake", ["data.image_size=64", "epochs=3", "recipe=deit3"])
    assert resolved.settings.architecture == "deit3_small_patch16_224"  # the recipe's
    assert resolved.reasons == ()
    resolved = plan("fake", ["data.image_size=64", "epochs=3", "recipe=finetune"])
    assert resolved.settings.data.image_size == (64, 64)
    assert origins(resolved)["data.image_size"] == origins(resolved)["recipe"] == "command line"
    assert "recipe finetune" in resolved.reasons[0]
    assert resolved.settings.layer_decay == 0.75


@pytest.mark.parametrize("given", [{}, {"model.name": "auto"}])
def test_without_a_recipe_only_the_model_is_chosen(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    fake(monkeypatch, 50)
    resolved = plan("fake", {**given, "recipe": "none"})
    assert resolved.settings.recipe is None
    assert set(origins(resolved).values()) == {"auto", "default"}
    assert origins(resolved)["optimizer"] == "default"


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("resnet18", "cnn"),
        ("convnet_3_32", "cnn"),
        ("regnety_160", "cnn"),
        ("vit_tiny_patch16_224.augreg_in1k", "small"),
        ("swin_tiny_patch4_window7_224", "small"),
        ("cct_7_3x1_32", "small"),
        ("vit_base_r50_s16_224", "small"),
    ],
)
def test_a_given_model_gets_the_recipe_of_its_kind(name: str, recipe: str) -> None:
    resolved = plan("no data is looked at", {"model.name": name})
    assert (resolved.settings.recipe, resolved.reasons) == (recipe, ())
    assert origins(resolved)["recipe"] == "auto"


def test_auto_takes_the_model_that_a_recipe_is_for() -> None:
    resolved = plan("no data is looked at", {"model.name": "auto", "recipe": "cct-cifar"})
    assert resolved.settings.architecture == "cct_7_3x1_32"
    assert origins(resolved)["model.name"] == "recipe cct-cifar"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("minutes=abc", "minutes='abc': input should be a valid number"),
        ("minutes=0", "minutes=0: input should be greater than 0"),
        ("minutes=-1", "minutes=-1: input should be greater than 0"),
        ("minutes=[1]", r"minutes=\[1\]: input should be a valid number"),
        ("epoch=3", "no setting is called 'epoch', did you mean 'epochs'"),
        ("device=gpu", "device='gpu' is unknown; try auto, cpu or cuda:0"),
        ("data.image_size=big", "data.image_size"),
        ("model.name=vit_tinny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("recipe=diet", "no recipe is called 'diet', did you mean 'deit'"),
        ("recipe=3", "no recipe is called '3"),
        ("init=absent", "absent does not exist"),
        ("init=3", "init=3"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    fake(monkeypatch, 50)
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        plan("fake", [given])
    assert "\n" not in str(caught.value)


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        plan(tmp_path / "absent")
    assert "\n" not in str(caught.value)


# With weights


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds weights of timm's; those of another model not whole."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("vitkit.weights.hub._download_all", pytest.fail)  # nobody is asked
    for name in ("vit_tiny_patch16_224.mine", "vit_small_patch16_224.torn"):
        storage = tmp_path / "hub" / f"models--timm--{name}"
        (storage / "refs").mkdir(parents=True)
        (storage / "refs" / "main").write_text("abc")
        snapshot = storage / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        if name.endswith("mine"):
            model = vitkit.create_model("vit_tiny_patch16_224", num_classes=3)
            preprocess = Preprocess(image_size=(224, 224))
            classifier = Classifier(
                model, preprocess, ["a", "b", "c"], architecture="vit_tiny_patch16_224"
            )
            classifier.save(snapshot / "saved")
            for file in (snapshot / "saved").iterdir():
                file.rename(snapshot / file.name)
    return tmp_path


def test_weights_at_hand_are_tuned_where_there_is_time(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, 500)
    resolved = plan("fake", {"minutes": 120})
    of, now = origins(resolved), values(resolved)
    snapshot = cached / "hub" / "models--timm--vit_tiny_patch16_224.mine" / "snapshots" / "abc"
    assert (now["init"], of["init"]) == (str(snapshot), "auto")
    assert (now["model.name"], now["recipe"]) == ("vit_tiny_patch16_224", "finetune")
    assert "this machine has them" in resolved.reasons[0] and len(resolved.reasons) == 2
    assert plan("fake", {"minutes": 0.2}).settings.init is None  # too short
    assert plan("fake", {"minutes": 120, "recipe": "small"}).settings.init is None
    for given in ({"model.name": "resnet18"}, {"model.depth": 4}, {"data.image_size": 40}):
        assert plan("fake", {"minutes": 120, **given}).settings.init is None
    monkeypatch.setenv("HF_HOME", str(cached / "elsewhere"))
    assert plan("fake", {"minutes": 120}).settings.init is None


def test_a_run_is_taken_with_its_model_and_preprocessing(vit: vitkit.Run) -> None:
    resolved = plan("no data is looked at", {"init": vit.directory})
    of, now = origins(resolved), values(resolved)
    assert (now["recipe"], of["recipe"]) == ("finetune", "auto")
    assert len(resolved.reasons) == 2 and "8x8 pixels" in resolved.reasons[1]
    assert (now["layer_decay"], of["layer_decay"]) == (0.75, "recipe finetune")
    expected = {
        "model.name": "vit_tiny_patch16_224",
        "model.dim": 16,
        "model.depth": 2,
        "model.num_heads": 2,
        "model.patch_size": 4,
        "data.image_size": [8, 8],
        "data.interpolation": "bilinear",
        **STATISTICS,
    }
    assert {key: now[key] for key in expected} == expected
    assert {of[key] for key in expected} == {"init"}


def test_what_is_given_goes_before_what_weights_say(vit: vitkit.Run, tmp_path: Path) -> None:
    given = {"init": vit.directory, "data.image_size": 16, "data.crop": 1.0, "model.drop_path": 0.1}
    now = values(plan("no data", given))
    assert (now["data.image_size"], now["data.crop"], now["model.depth"]) == ([16, 16], 1.0, 2)
    (tmp_path / "mine.yaml").write_text("epochs: 3\ndata: {image_size: 24, mean: [0.1, 0.1, 0.1]}")
    now = values(plan("no data", {"init": vit.directory, "recipe": str(tmp_path / "mine.yaml")}))
    assert (now["data.image_size"], now["epochs"]) == ([24, 24], 3)
    assert now["data.mean"] == STATISTICS["data.mean"]  # what the weights were trained with


def test_weights_keep_their_statistics_in_a_recipe_that_has_others(vit: vitkit.Run) -> None:
    """Those of ImageNet, in `deit`; and the model that it is for gives way."""
    resolved = plan("no data", {"init": vit.directory, "recipe": "deit"})
    now = values(resolved)
    assert now["data.mean"] == STATISTICS["data.mean"]
    assert (now["model.name"], now["model.dim"]) == ("vit_tiny_patch16_224", 16)
    assert (now["epochs"], now["augment.repeats"]) == (300, 3)


def test_a_model_can_be_named_beside_its_weights(vit: vitkit.Run) -> None:
    both = {"init": vit.directory, "model.name": "vit_tiny_patch16_224.mine"}
    assert plan("no data", both).settings.config_overrides["depth"] == 2
    distilled = plan("no data", {**both, "model.name": "vit_small_patch16_224"})
    assert distilled.settings.config_overrides["depth"] == 12


def test_weights_of_another_family_are_one_line(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    given = {"init": vit.directory, "model.name": "resnet18", "data.image_size": 32, **QUICK}
    with pytest.raises((ConfigError, WeightsError, CheckpointError)) as caught:
        vitkit.train(colours, out=tmp_path / "run", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# What becomes of the head


def prepared(data: Path, run: vitkit.Run, **given: Any) -> Prepared:
    return prepare(data, plan(data, {"init": str(run.directory), **QUICK, **given}))


def stored(run: vitkit.Run, name: str = "best") -> dict[str, Tensor]:
    return load_file(run.directory / name / "model.safetensors")


def test_with_the_same_classes_every_weight_is_kept(vit: vitkit.Run, colours: Path) -> None:
    model, before = prepared(colours, vit).model.state_dict(), stored(vit)
    assert model.keys() == before.keys()
    assert all(torch.equal(model[key], before[key]) for key in model)


@pytest.fixture
def renamed(colours: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "renamed"
    shutil.copytree(colours, folder)
    (folder / "red").rename(folder / "mauve")
    return folder


def test_with_other_names_the_head_is_new_and_this_is_said(vit: vitkit.Run, renamed: Path) -> None:
    made = prepared(renamed, vit)
    model, before = made.model.state_dict(), stored(vit)
    assert not torch.equal(model["head.weight"], before["head.weight"])
    assert model["head.weight"].std() < 0.1
    assert all(torch.equal(model[key], before[key]) for key in model if "head" not in key)
    assert made.notes[-1] == "the classifier is new: the weights' classes differ in name or order"


def test_with_another_number_of_classes_the_head_is_new(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "red")
    made = prepared(tmp_path / "two", vit)
    assert made.model.state_dict()["head.weight"].shape == (2, 16)
    assert any("head.weight" in note and "new" in note for note in made.notes)


def test_positions_follow_another_size(vit: vitkit.Run, colours: Path) -> None:
    made = prepared(colours, vit, **{"data.image_size": 16})
    assert made.model.state_dict()["pos_embed"].shape == (1, 17, 16)
    assert any("pos_embed" in note and "resized" in note for note in made.notes)


# Runs that start from one


def test_fine_tuning_slows_lower_layers_down(vit: vitkit.Run, colours: Path) -> None:
    learner = make_learner(prepared(colours, vit))
    names = {id(parameter): name for name, parameter in learner.model.named_parameters()}
    scales = {
        names[id(p)]: group["lr_scale"]
        for group in learner.optimizer.param_groups
        for p in group["params"]
    }
    assert scales["head.weight"] == scales["head.bias"] == 1.0
    assert scales["blocks.1.attn.qkv.weight"] == 0.75
    assert scales["blocks.0.attn.qkv.weight"] == 0.75**2
    assert scales["patch_embed.proj.weight"] == scales["pos_embed"] == 0.75**3
    assert scales.keys() == dict(learner.model.named_parameters()).keys()


def test_fine_tuning_goes_on_from_the_weights(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    settings = {**QUICK, "lr": 1e-12, "min_lr": 0.0, "ema": 0, "weight_decay": 0}
    run = vitkit.train(colours, init=vit.directory, out=tmp_path / "run", **settings)
    before, after = stored(vit), stored(run)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)
    assert f"init: {vit.directory}" in (run.directory / "config.yaml").read_text()
    assert run.load().preprocess == vit.load().preprocess


def test_a_linear_probe_changes_the_head_alone(
    resnet: vitkit.Run, renamed: Path, tmp_path: Path
) -> None:
    """To the bit, statistics of batch norms included."""
    run = vitkit.train(
        renamed, recipe="linear-probe", init=resnet.directory, out=tmp_path / "run", **QUICK
    )
    before, after = stored(resnet), stored(run)
    assert before.keys() == after.keys()
    assert any("running_var" in key for key in before)
    for name in ("best", "last"):
        after = stored(run, name)
        changed = {key for key in before if not torch.equal(after[key], before[key])}
        assert changed == {"fc.weight", "fc.bias"}
    assert run.load().classes == ["blue", "green", "mauve"]


def asking(times: int) -> Iterator[bool]:
    yield from [False] * times
    while True:
        yield True


def test_low_rank_adapters_are_merged_into_what_is_saved(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    settings = {**QUICK, "epochs": 2, "lora.rank": 2, "ema": 0, "lr": 0.02}
    run = vitkit.train(colours, recipe="lora", init=vit.directory, out=tmp_path / "run", **settings)
    before = stored(vit)
    for name in ("best", "last"):
        after = stored(run, name)
        assert after.keys() == before.keys()
        changed = {key for key in before if not torch.equal(after[key], before[key])}
        matrices = {f"blocks.{n}.attn.{m}.weight" for n in (0, 1) for m in ("qkv", "proj")}
        assert changed == {"head.weight", "head.bias", *matrices}
        for key in matrices:
            assert torch.linalg.matrix_rank(after[key] - before[key], rtol=1e-3) == 2
    evaluation = vitkit.evaluate(run.load(), colours)
    assert evaluation == run.evaluation


@pytest.mark.parametrize("ema", [0, 0.9])
@pytest.mark.parametrize("recipe", ["lora", "linear-probe", "finetune"])
def test_an_interrupted_run_that_started_from_another_goes_on(
    vit: vitkit.Run, renamed: Path, tmp_path: Path, recipe: str, ema: float
) -> None:
    """Though the head was new: its weights too are those of the run."""
    given = {"recipe": recipe, "init": vit.directory, **QUICK, "epochs": 2, "ema": ema}
    whole = vitkit.train(renamed, out=tmp_path / "whole", **given)
    stop = asking(2)
    out = tmp_path / "parts"
    assert not vitkit.train(renamed, out=out, stop=lambda: next(stop), **given).finished
    parts = vitkit.train(renamed, out=out, resume=True, **given)
    for name in ("best", "last"):
        one, other = stored(whole, name), stored(parts, name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert parts.evaluation == whole.evaluation


def test_a_run_goes_on_without_the_weights_that_it_started_from(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(vit.directory / "best", tmp_path / "start")
    given = {"init": tmp_path / "start", **QUICK, "out": tmp_path / "run"}
    stop = asking(0)
    assert not vitkit.train(colours, stop=lambda: next(stop), **given).finished
    shutil.rmtree(tmp_path / "start")
    assert vitkit.train(colours, resume=True, out=tmp_path / "run").finished


def test_adapters_need_attention(resnet: vitkit.Run, colours: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a ResNet has no attention for low-rank adapters") as e:
        vitkit.train(colours, recipe="lora", init=resnet.directory, out=tmp_path / "r", **QUICK)
    assert "\n" not in str(e.value)


# Going on with the options that a run was started with


@pytest.mark.parametrize(
    "given",
    [
        {"model": "auto", "recipe": "none"},
        {"recipe": "deit", "model": "resnet18", "model.dim": 8, "model.depths": [1, 1, 1, 1]},
        {"recipe": "none", "model": "vit_tiny_patch16_224", "model.dim": 16, "model.num_heads": 1},
    ],
)
def test_a_run_is_resumed_by_the_command_that_began_it(
    colours: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    given = {**given, **QUICK, "data.image_size": 32, "out": tmp_path / "run"}
    stop = asking(0)
    assert not vitkit.train(colours, stop=lambda: next(stop), **given).finished
    assert vitkit.train(colours, resume=True, **given).finished


def test_a_fine_tuned_run_is_resumed_with_its_recipe(
    vit: vitkit.Run, colours: Path, tmp_path: Path
) -> None:
    given = {"recipe": "deit", "init": vit.directory, **QUICK, "out": tmp_path / "run"}
    stop = asking(0)
    assert not vitkit.train(colours, stop=lambda: next(stop), **given).finished
    with pytest.raises(ConfigError, match="recipe=small differs from the run, which has recipe=de"):
        vitkit.train(colours, resume=True, **{**given, "recipe": "small"})
    with pytest.raises(ConfigError, match="recipe=none differs from the run, which has recipe=dei"):
        vitkit.train(colours, resume=True, **{**given, "recipe": "none"})
    assert vitkit.train(colours, resume=True, **given).finished
