"""The studies that `vitkit study` knows, each a short declaration."""

from typing import Any

from vitkit.errors import ConfigError, nearest
from vitkit.study.design import TEACHER, Arm, Study
from vitkit.study.outcome import (
    CLOSE,
    Outcome,
    against,
    better,
    contrast,
    equal,
    judge_more,
    percent,
)
from vitkit.study.results import Results
from vitkit.training.config import NO_RECIPE
from vitkit.training.recipe import read_recipe

VIT: dict[str, Any] = {  # the textbook's: 64 patches of 32 pixels
    "model.name": "vit_tiny_patch16_224",
    "model.patch_size": 4,
    "model.dim": 128,
    "model.depth": 4,
    "model.num_heads": 4,
}
CNN: dict[str, Any] = {"model.name": "convnet_3_32"}
SMALL: dict[str, Any] = {"recipe": NO_RECIPE, "data.image_size": 32, "batch_size": 128}
ADAM: dict[str, Any] = {  # the textbook's too: nothing but Adam at 1e-3
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "label_smoothing": 0.0,
    "clip_grad": 0.0,
    "ema": 0.0,
}
UNCHANGED: dict[str, Any] = {"augment.mirror": False, "augment.shift": 0.0}
SHARES = {"1": 0.01, "10": 0.1, "100": 1.0}  # of the training images, by percent


def vit_vs_cnn(results: Results) -> Outcome:
    one, other = ("cnn", "The CNN names"), ("vit", "the ViT")
    return better(results, one, other, gap_is="the CNN against the ViT")


def data_size(results: Results) -> Outcome:
    leads = {size: contrast(results, {f"cnn-{size}": 1, f"vit-{size}": -1}) for size in SHARES}
    gap = contrast(results, {"cnn-1": 1, "vit-1": -1, "cnn-100": -1, "vit-100": 1})
    verdict = judge_more(gap)
    listed = ", ".join(f"{lead.signed} on {size} %" for size, lead in leads.items())
    less = "smaller" if gap.share >= 0 else "larger"
    end = {"holds": "The claim holds here.", "fails": "Here the opposite is true.", "open": CLOSE}
    return Outcome(
        verdict,
        gap,
        "the CNN's lead over the ViT on 1 % of the images, against that on all",
        f"The CNN's lead over the ViT, in points, is {listed} of the training images: with all it "
        f"is {gap.points} points {less} than with 1 %, {gap.doubt}. {end[verdict]}",
    )


def augmentation(results: Results) -> Outcome:
    one, other = ("on", "With the augmentation the ViT names"), ("off", "without it")
    return better(results, one, other, gap_is="with the augmentation, against without")


def pooling(results: Results) -> Outcome:
    one, other = ("mean", "The mean of the patches names"), ("cls", "the class token")
    return equal(results, one, other, gap_is="the mean of the patches against the class token")


def positions(results: Results) -> Outcome:
    kinds = {"learned": "learned", "sincos-1d": "fixed 1-D", "sincos-2d": "fixed 2-D"}
    ranked = sorted(kinds, key=lambda name: results[name].top1)
    worst, best = ranked[0], ranked[-1]
    apart = contrast(results, {best: 1, worst: -1})
    return better(
        results,
        (worst, f"Even with the weakest positions ({kinds[worst]}) the ViT names"),
        ("none", "without any"),
        gap_is="the weakest kind of positions against none",
        more=f"From {kinds[worst]} to {kinds[best]} it is {apart.points} points, {apart.doubt}.",
    )


def patch_size(results: Results) -> Outcome:
    cost = {name: results[name].first.macs for name in ("4", "16")}
    middle = results["8"].top1
    return better(
        results,
        ("4", "Patches of 4 pixels name"),
        ("16", "those of 16"),
        gap_is="patches of 4 pixels against those of 16",
        more=f"They cost {cost['4'] / cost['16']:.1f} times the multiply-accumulates; patches of 8 "
        f"reach {percent(middle)}.",
    )


def distillation(results: Results) -> Outcome:
    soft, _ = against(results, ("soft", ""), ("none", ""))
    teacher = results[TEACHER].top1
    return better(
        results,
        ("hard-token", "With a token that learns the teacher's choice the ViT names"),
        ("none", "without a teacher"),
        gap_is="a teacher's choice and a token for it, against no teacher",
        more=f"Soft labels change it by {soft.signed} points, {soft.doubt}; the teacher itself "
        f"reaches {percent(teacher)}.",
    )


def stem(results: Results) -> Outcome:
    one, other = ("convolutional", "Behind convolutions the ViT names"), ("linear", "without them")
    return better(results, one, other, gap_is="convolutions before the patches, against none")


def deit_augmentation() -> dict[str, Any]:
    """What the recipe `deit` does to images and labels, by dotted keys."""
    values = read_recipe("deit")[1]
    return {key: value for key, value in values.items() if key.startswith(("augment.", "mix."))}


STUDIES = (
    Study(
        name="vit-vs-cnn",
        question="On a small data set, from scratch: a vision transformer or a plain CNN?",
        claim="Without pre-training on much data, a transformer stays behind a convolutional "
        "network, which knows from the start that neighbours belong together.",
        source="arXiv:2010.11929, sections 1 and 4.3",
        common={**SMALL, **ADAM, **UNCHANGED},
        arms=(
            Arm(name="vit", title="ViT", settings=VIT),
            Arm(name="cnn", title="CNN", settings=CNN),
        ),
        outcome=vit_vs_cnn,
    ),
    Study(
        name="data-size",
        question="How much of a CNN's lead over a vision transformer does more data take away?",
        claim="The fewer images there are to learn from, the further a convolutional network is "
        "ahead; with more of them the transformer catches up.",
        source="arXiv:2010.11929, section 4.3, figures 3 and 4",
        # No warm-up: it is in epochs, of which a run on a share of the images has more.
        common={**SMALL, "warmup_epochs": 0.0},
        arms=tuple(
            Arm(
                name=f"{kind}-{size}",
                title=f"{title}, {size} %",
                settings={**model, "data.fraction": share},
                group=title,
                at=100 * share,
            )
            for kind, title, model in (("vit", "ViT", VIT), ("cnn", "CNN", CNN))
            for size, share in SHARES.items()
        ),
        outcome=data_size,
        axis="the share of the training images, %",
    ),
    Study(
        name="augmentation",
        question="What is the strong augmentation of the DeiT recipe worth?",
        claim="Transformers need strong augmentation to learn from a data set of moderate size; "
        "nearly every part of the recipe helps.",
        source="arXiv:2012.12877, section 6, table 8",
        common={**SMALL, **VIT},
        arms=(
            Arm(name="off", title="off", settings=UNCHANGED),
            Arm(name="on", title="on", settings=deit_augmentation()),
        ),
        outcome=augmentation,
    ),
    Study(
        name="pooling",
        question="Should the class be read from a token of its own or from the patches' mean?",
        claim="A class token and the mean of the patches do equally well, each at its own learning "
        "rate.",
        source="arXiv:2010.11929, appendix D.3, figure 9",
        common={**SMALL, **VIT},
        arms=(
            Arm(name="cls", title="class token", settings={"model.pool": "cls"}),
            Arm(
                name="mean",
                title="mean",
                settings={"model.pool": "mean", "model.class_token": False},
            ),
        ),
        outcome=pooling,
    ),
    Study(
        name="positions",
        question="Does a vision transformer need to be told where its patches are, and how?",
        claim="Positions help clearly over none, while it hardly matters how they are given.",
        source="arXiv:2010.11929, appendix D.4, table 8",
        common={**SMALL, **VIT},
        arms=(
            Arm(name="learned", title="learned", settings={"model.position": "learned"}),
            Arm(name="sincos-1d", title="fixed, 1-D", settings={"model.position": "sincos_1d"}),
            Arm(name="sincos-2d", title="fixed, 2-D", settings={"model.position": "sincos_2d"}),
            Arm(name="none", title="none", settings={"model.position": "none"}),
        ),
        outcome=positions,
    ),
    Study(
        name="patch-size",
        question="What do smaller patches gain, and what do they cost?",
        claim="The smaller the patches, the more tokens: more accurate, and dearer.",
        source="arXiv:2010.11929, section 4.1 and table 5",
        common={**SMALL, **VIT},
        arms=tuple(
            Arm(
                name=str(size),
                title=f"{size} pixels",
                settings={"model.patch_size": size},
                group="ViT",
                at=size,
            )
            for size in (4, 8, 16)
        ),
        outcome=patch_size,
        axis="the side of a patch, pixels",
    ),
    Study(
        name="distillation",
        question="How much does a vision transformer learn from a convolutional teacher?",
        claim="A student does better with a teacher's hard choice, best with a token that learns "
        "it; its soft labels add next to nothing.",
        source="arXiv:2012.12877, sections 4 and 5.2, table 3",
        common={**SMALL, **VIT},
        teacher=Arm(
            name=TEACHER,
            title="ResNet-18, half width",
            # 64 pixels: its stem makes one cell of four, so that 16 x 16 are left.
            settings={
                "recipe": "cnn",
                "model.name": "resnet18",
                "model.dim": 32,
                "data.image_size": 64,
            },
        ),
        arms=(
            Arm(name="none", title="none"),
            Arm(
                name="soft",
                title="soft",
                # Section 6: alpha (there lambda) and the temperature that the paper takes.
                settings={
                    "distill.kind": "soft",
                    "distill.alpha": 0.1,
                    "distill.temperature": 3.0,
                },
                taught=True,
            ),
            Arm(
                name="hard-token",
                title="hard, token",
                settings={
                    "model.name": "deit_tiny_distilled_patch16_224",
                    "distill.kind": "hard",
                    "distill.alpha": 0.5,
                },
                taught=True,
            ),
        ),
        outcome=distillation,
    ),
    Study(
        name="stem",
        question="Do a few convolutions before the patches help a vision transformer?",
        claim="A stem of 3x3 convolutions in place of the linear projection of patches makes a "
        "transformer more accurate and easier to train.",
        source="arXiv:2106.14881, sections 5 and 6",
        common={**SMALL, **VIT},
        arms=(
            Arm(name="linear", title="linear", settings={"model.stem": []}),
            Arm(name="convolutional", title="convolutions", settings={"model.stem": [32, 64]}),
        ),
        outcome=stem,
    ),
)


def find_study(name: str) -> Study:
    """A study by its name.

    Raises:
        ConfigError: there is none of that name; the nearest is given.
    """
    known = {study.name: study for study in STUDIES}
    if name not in known:
        hint = nearest(name, known)
        raise ConfigError(f"no study is called {name!r}{hint}; `vitkit study` lists all")
    return known[name]
