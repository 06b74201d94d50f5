"""Recipes: the published figures, what goes before what, and mistakes in a file of one's own."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitkit.errors import ConfigError
from vitkit.models import find_config
from vitkit.training.config import Choice, resolve
from vitkit.training.plan import plan
from vitkit.training.recipe import FOLDER, list_recipes, read_recipe

# The figures of the papers. Batches and rates are for the whole batch.
IMAGENET = {"data.mean": [0.485, 0.456, 0.406], "data.std": [0.229, 0.224, 0.225]}
DEIT = IMAGENET | {
    "epochs": 300,
    "batch_size": 1024,
    "optimizer": "adamw",
    "lr": 5e-4 * 1024 / 512,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "loss": "ce",
    "model.drop_path": 0.1,
    "augment.policy": "randaugment",
    "augment.num_ops": 2,
    "augment.magnitude": 9,
    "augment.magnitude_std": 0.5,
    "augment.scale": [0.08, 1],
    "augment.shift": 0,
    "augment.erase": 0.25,
    "augment.repeats": 3,
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "mix.until": 1.0,
}
FIGURES: dict[str, dict[str, Any]] = {
    "deit": DEIT | {"model.name": "deit_small_patch16_224"},
    "deit-distill": DEIT
    | {
        "model.name": "deit_small_distilled_patch16_224",
        "distill.kind": "hard",
        "distill.alpha": 0.5,
    },
    "deit3": IMAGENET
    | {
        "model.name": "deit3_small_patch16_224",
        "model.drop_path": 0.05,
        "model.layer_scale": 1e-6,
        "epochs": 800,
        "batch_size": 2048,
        "optimizer": "lamb",
        "lr": 4e-3,
        "warmup_epochs": 5,
        "weight_decay": 0.02,
        "loss": "bce",
        "label_smoothing": 0,
        "augment.policy": "three_augment",
        "augment.jitter": 0.3,
        "augment.erase": 0,
        "mix.mixup": 0.8,
        "mix.cutmix": 1.0,
    },
    "bigvision-s16": {
        "model.name": "vit_small_patch16_224",
        "model.pool": "mean",
        "model.class_token": False,
        "model.position": "sincos_2d",
        "epochs": 90,
        "batch_size": 1024,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 1e-4 / 1e-3,  # ours is times the rate, the paper's is not
        "warmup_epochs": round(10_000 / (1_281_167 / 1024)),
        "schedule": "cosine",
        "clip_grad": 1,
        "label_smoothing": 0,
        "augment.policy": "randaugment",
        "augment.num_ops": 2,
        "augment.magnitude": 10,
        "augment.mirror": True,
        "mix.mixup": 0.2,
        "mix.cutmix": 0,
    },
    "swin": IMAGENET
    | {
        "model.name": "swin_tiny_patch4_window7_224",
        "model.drop_path": 0.2,
        "epochs": 300,
        "batch_size": 1024,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup_epochs": 20,
        "clip_grad": 5,
        "mix.mixup": 0.8,
        "mix.cutmix": 1.0,
        "augment.erase": 0.25,
    },
    "cct-cifar": {
        "model.name": "cct_7_3x1_32",
        "epochs": 300,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": 5.5e-4,
        "min_lr": 1e-5,
        "weight_decay": 0.06,
        "warmup_epochs": 10,
        "augment.policy": "randaugment",
        "augment.magnitude": 9,
        "augment.scale": [0.8, 1],
        "mix.mixup": 0.8,
        "mix.cutmix": 1.0,
        "mix.until": pytest.approx(175 / 300, abs=0.5 / 300),
        "label_smoothing": 0.1,
    },
    "lora": {"tune": "lora"},
    "linear-probe": {"tune": "head", "weight_decay": 0},
}


def rows_of(name: str, **given: Any) -> dict[str, Any]:
    return {row.key: row.value for row in resolve({"recipe": name, **given}).rows()}


def test_these_recipes_come_with_vitkit() -> None:
    assert list_recipes() == [
        "bigvision-s16", "cct-cifar", "cnn", "deit", "deit-distill", "deit3", "finetune",
        "linear-probe", "lora", "small", "swin",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_the_papers(name: str) -> None:
    rows = rows_of(name)
    assert {key: rows[key] for key in FIGURES[name]} == FIGURES[name]


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_resolves_and_all_that_it_says_is_in_force(name: str) -> None:
    resolved = resolve(recipe=name)
    origins = {row.key: row.origin for row in resolved.rows()}
    said = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    keys = {
        f"{key}.{inner}" if inner else key
        for key, value in said.items()
        for inner in (value if isinstance(value, dict) else [None])
    }
    assert {key for key, origin in origins.items() if origin == f"recipe {name}"} == keys
    assert resolved.settings.recipe == name
    again = resolve(saved=yaml.safe_load(resolved.to_yaml()))
    assert again.settings == resolved.settings


@pytest.mark.parametrize("name", list_recipes())
def test_its_header_names_paper_cost_and_what_to_expect(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    parts = re.fullmatch(r"(.+\.) +Paper: (.+) Cost: (.+) Expected: (.+)", header)
    assert parts, header
    _, paper, cost, expected = parts.groups()
    assert re.search(r"arXiv:\d{4}\.\d{5}", paper)
    assert re.search(r"epochs|minutes|forward pass|step", cost)
    assert re.search(r"\d\d\.\d|not measured|depends", expected), expected


# What goes before what


def test_a_recipe_goes_before_defaults_and_what_is_given_before_it() -> None:
    recipe, plain = resolve({"recipe": "deit"}).settings, resolve().settings
    assert (recipe.epochs, plain.epochs) == (300, 30)
    both = resolve(["recipe=deit", "epochs=7", "mix.cutmix=0"])
    assert (both.settings.epochs, both.settings.mix.cutmix, both.settings.mix.mixup) == (7, 0, 0.8)
    origins = {row.key: row.origin for row in both.rows()}
    assert origins["epochs"] == origins["mix.cutmix"] == origins["recipe"] == "command line"
    assert origins["mix.mixup"] == origins["model.drop_path"] == "recipe deit"
    assert origins["momentum"] == "default"


def test_what_was_chosen_goes_between_a_recipe_and_what_is_given() -> None:
    chosen = {key: Choice(value, "init") for key, value in (("epochs", 5), ("seed", 1))}
    resolved = resolve(["seed=2"], recipe="deit", chosen=chosen)
    settings, origins = resolved.settings, {row.key: row.origin for row in resolved.rows()}
    assert (settings.epochs, settings.seed, settings.batch_size) == (5, 2, 1024)
    assert (origins["epochs"], origins["recipe"]) == ("init", "auto")


def test_no_recipe_leaves_the_defaults() -> None:
    assert resolve(["recipe=none"]).settings == resolve().settings
    assert resolve(["recipe=none"], recipe="deit").settings == resolve().settings
    assert resolve(["recipe=null"], recipe="deit").settings == resolve().settings


@pytest.mark.parametrize("recipe", list_recipes())
@pytest.mark.parametrize(
    "model", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "cct_7_3x1_32"]
)
def test_a_recipe_takes_a_model_of_any_family(recipe: str, model: str) -> None:
    """A ResNet has no `drop_path` of DeiT's, nor a CCT the `pool` of a plain ViT."""
    rows = rows_of(recipe, **{"model.name": model})
    assert rows["model.name"] == model
    assert rows["epochs"] == yaml.safe_load((FOLDER / f"{recipe}.yaml").read_text())["epochs"]
    config = find_config(model)
    if type(config) is not type(find_config(rows_of(recipe)["model.name"])):
        fields = {key[6:] for key in rows if key.startswith("model.")} - {"name"}
        differing = [f for f in fields if rows[f"model.{f}"] != _plain(getattr(config, f))]
        assert differing == []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_a_model_of_the_same_family_keeps_the_recipes_fields() -> None:
    assert rows_of("deit", **{"model.name": "deit_tiny_patch16_224"})["model.drop_path"] == 0.1
    given = {"model.name": "deit_tiny_patch16_224", "model.drop_path": 0.3}
    assert rows_of("deit", **given)["model.drop_path"] == 0.3


# A file of one's own


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.yaml",
        "# Mine.\nlr: 3e-4\nepochs: 9\nmodel:\n  name: resnet18\n  drop_path: 1e-1\n"
        "data: {image_size: 64}\naugment:\n  policy: trivialaugment\n",
    )
    resolved = resolve(["batch_size=5"], recipe=file)
    rows = {row.key: row for row in resolved.rows()}
    assert (rows["lr"].value, rows["epochs"].value, rows["batch_size"].value) == (3e-4, 9, 5)
    assert (rows["model.name"].value, rows["model.drop_path"].value) == ("resnet18", 0.1)
    assert rows["data.image_size"].value == [64, 64]
    assert rows["lr"].origin == rows["model.name"].origin == "recipe mine"
    assert (rows["recipe"].value, rows["recipe"].origin) == (file, "auto")
    assert read_recipe(write(tmp_path / "other.yml", "epochs: 3"))[0] == "other"


def test_the_settings_of_a_run_are_a_recipe(tmp_path: Path) -> None:
    first = resolve(["recipe=deit", "model.name=resnet18", "model.drop_path=0.2", "epochs=9"])
    file = write(tmp_path / "config.yaml", first.to_yaml())
    again = resolve(recipe=file)
    assert again.settings == first.settings.model_copy(update={"recipe": file})


def test_checkpoints_that_a_file_names_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine.yaml", "init: a\ndistill: {teacher: 'hf-hub:b/c'}\n")
    monkeypatch.chdir(tmp_path)
    settings = resolve(recipe=file).settings
    assert settings.init == str(tmp_path / "a")
    assert settings.distill.teacher == "hf-hub:b/c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "recipe mine: no setting is called 'epoch', did you mean 'epochs'?"),
        (
            "augment: {polcy: none}",
            "recipe mine: no setting is called 'augment.polcy', did you mean 'augment.policy'?",
        ),
        ("augment: strong", "recipe mine: 'augment' is a group of settings; set one of augment."),
        ("epochs: many", "recipe mine: epochs='many': input should be a valid integer"),
        ("mix: {mixup: -1}", "recipe mine: mix.mixup=-1: input should be greater than or equal"),
        ("betas: [0.9, 2]", "recipe mine: betas=2: input should be less than 1"),
        ("model: {dpth: 3}", "has no setting 'dpth', did you mean 'depth'?"),
        ("3: 4", "recipe mine: no setting is called '3'"),
        ("- 3", "holds no settings; write lines like `epochs: 100`"),
        ("", "holds no settings"),
        ("a: [", "mine.yaml cannot be read: while parsing"),
    ],
)
def test_a_mistake_in_a_file_names_it_and_the_nearest_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ConfigError) as caught:
        resolve(recipe=file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_on_the_command_line_is_not_the_recipes() -> None:
    for override in ("epoch=3", "epochs=0"):
        with pytest.raises(ConfigError, match=r"^(no setting|epochs=0)"):
            resolve([override, "recipe=deit"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("diet", "no recipe is called 'diet', did you mean 'deit'?; choose bigvision-s16, cct"),
        ("deit-3", "did you mean 'deit3'?"),
        ("zzz", "no recipe is called 'zzz'; choose bigvision-s16"),
        ("../recipes/deit", "no recipe is called '../recipes/deit'"),
        ("absent.yaml", "the recipe absent.yaml does not exist"),
        (".", "no recipe is called '.'"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(recipe=name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_and_bytes_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("folder.yaml", "bytes.yaml"):
        with pytest.raises(ConfigError, match=r"\.yaml cannot be read: ") as caught:
            plan("digits", {"recipe": str(tmp_path / name)})
        assert "\n" not in str(caught.value)
