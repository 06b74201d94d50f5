import base64
import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from html_page import Page
from vitkit.data.audit import DataSummary
from vitkit.evaluation.metrics import Evaluation, evaluate_predictions
from vitkit.report import page as page_module
from vitkit.report.contents import Mistake, Report
from vitkit.report.frame import duration, percent
from vitkit.report.page import render, write_report
from vitkit.training.config import Setting

PARTS = [
    "Data",
    "Training",
    "Calibration",
    "Confusion",
    "Classes",
    "Mistakes",
    "Configuration",
    "Environment",
]
HOSTILE = """<img src=x onerror="alert('1')">&amp;</script>"""


def evaluation(num_classes: int = 10, images: int = 360, prefix: str = "class ") -> Evaluation:
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=images)
    logits = rng.normal(size=(images, num_classes))
    logits[np.arange(images), labels] += 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return evaluate_predictions(p, labels, [f"{prefix}{i}" for i in range(num_classes)])


def history(epochs: int, **values: Any) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "step": 9 * epoch,
            "seconds": 2.0 * epoch,
            "lr": 1e-3 / epoch,
            "train_loss": 2 / epoch,
            "train_top1": 1 - 0.9 / epoch,
            "val_loss": 2.2 / epoch,
            "val_top1": 1 - 0.95 / epoch,
            "images_per_second": 400.0,
        }
        | values
        for epoch in range(1, epochs + 1)
    ]


def report(scores: Evaluation | None = None, **changes: Any) -> Report:
    scores = scores or evaluation()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, size=(24, 8, 8, 3), dtype=np.uint8)
    names = scores.classes
    whole = Report(
        title="digits",
        model="vit_tiny",
        parameters=5_717_416,
        data=DataSummary(
            source="some.zip",
            classes=names,
            counts={"train": [120] * len(names), "test": [36] * len(names)},
            unreadable=(),
            duplicates=0,
            leaks=0,
            conflicts=0,
            skipped=(),
        ),
        evaluation=scores,
        split="test",
        history=history(12),
        mistakes=[
            Mistake(f"file{i}.png", image, names[0], names[-1], confidence=0.5 + i / 100)
            for i, image in enumerate(images)
        ],
        samples={name: images[0] for name in names[:24]},
        settings=[Setting("epochs", "30", "command line"), Setting("seed", "0", "default")],
        environment={"torch": "2.11.0", "device": "cpu"},
        seconds=125.0,
    )
    return replace(whole, **changes)


def test_all_parts_are_there() -> None:
    page = Page(render(report()))
    assert page.headings == PARTS
    for words in ("digits", "vit_tiny", "5.72 million parameters", "2 min 5 s", "some.zip"):
        assert words in page.words


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Image classification into 10 classes: vit_tiny with 5.72 million parameters learned "
            "from 1,200 training images in 2 min 5 s and was tested on 360 held-out images.",
        ),
        (
            {"split": "val", "seconds": None, "evaluation": evaluation(2, images=1)},
            "Image classification into 2 classes: vit_tiny with 5.72 million parameters learned "
            "from 1,200 training images and was tested on 1 validation image.",
        ),
    ],
)
def test_the_task_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in Page(render(report(**changes))).words


def test_numbers_agree_with_the_evaluation() -> None:
    scores = evaluation()
    page = Page(render(report(scores)))
    heading = f"{scores.top1:.1%}".replace("%", " %")
    assert f"{heading} of 360 held-out images named correctly" in page.words
    for value in (scores.top5, scores.macro_f1, scores.balanced_accuracy, scores.ece):
        assert f"{value:.1%}".replace("%", " %") in page.words
    for low, high in scores.intervals.values():
        assert f"{low:.1%}".rstrip("%") + " – " + f"{high:.1%}".replace("%", " %") in page.words
    for i, name in enumerate(scores.classes):
        assert [name, *map(str, scores.confusion[i])] in page.rows
        s = scores.per_class[name]
        cells = [f"{value:.1%}".replace("%", " %") for value in (s.precision, s.recall, s.f1)]
        assert [name, str(s.images), *cells] in page.rows
        assert [name, "120", "36"] in page.rows  # images by split


def test_weakest_classes_come_first() -> None:
    scores = evaluation()
    rows = [row for row in Page(render(report(scores))).rows if len(row) == 5 and "%" in row[4]]
    f1 = [float(row[4].rstrip(" %")) for row in rows]
    assert len(f1) == 10 and f1 == sorted(f1)


def test_surest_mistakes_come_first() -> None:
    words = Page(render(report())).words
    assert re.findall(r"(\d+\.\d) % sure", words) == [f"{73 - i}.0" for i in range(24)]


def test_the_origin_of_every_setting_is_shown() -> None:
    rows = Page(render(report())).rows
    assert ["epochs", "30", "command line"] in rows and ["seed", "0", "default"] in rows


def test_nothing_is_loaded_from_anywhere() -> None:
    text = render(report())
    for tag, attributes in Page(text).elements:
        for key in ("src", "href", "action", "srcset", "poster", "xlink:href"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
    assert not re.search(r"https?://|[\"'(]//|@import|url\(", text)


def test_policy_allows_the_script_and_nothing_else() -> None:
    text = render(report())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall("<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert Counter(tag for tag, _ in Page(text).elements)["script"] == 1


def test_style_and_script_are_not_escaped() -> None:
    text, folder = render(report()), Path(page_module.__file__).parent
    assert (folder / "page.css").read_text("utf-8") in text
    assert (folder / "page.js").read_text("utf-8") in text


def test_import_is_light() -> None:
    code = "import sys, vitkit.report.page; print({'torch', 'sklearn'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_hostile_names_stay_words() -> None:
    scores = evaluation(7, prefix=HOSTILE)
    changed = report(
        scores,
        title=HOSTILE,
        model=HOSTILE,
        settings=[Setting(HOSTILE, HOSTILE, HOSTILE)],
        environment={HOSTILE: HOSTILE},
    )
    data = replace(
        changed.data, source=HOSTILE, unreadable=((HOSTILE, HOSTILE),), skipped=(HOSTILE,)
    )
    mistake = replace(changed.mistakes[0], name=HOSTILE)
    text = render(replace(changed, data=data, mistakes=[mistake]))
    page, plain = Page(text), Page(render(report(evaluation(7))))
    assert page.headings == PARTS and HOSTILE in page.words
    assert "<img src=x" not in text
    for tag, attributes in page.elements:
        assert tag != "img" or (attributes["src"] or "").startswith("data:image/")
    names = {name for _, attributes in page.elements for name in attributes}
    assert names <= {name for _, attributes in plain.elements for name in attributes}


@pytest.mark.parametrize("num_classes", [1, 2, 5, 30, 31, 1000])
def test_any_number_of_classes(num_classes: int) -> None:
    scores = evaluation(num_classes)
    text = render(report(scores))
    page = Page(text)
    assert page.headings == PARTS
    is_matrix = any(
        attributes.get("class", "").startswith("matrix") for _, attributes in page.elements
    )
    assert is_matrix == (num_classes <= 30)
    assert ("top-5" in page.words) == (num_classes > 5)
    assert len(text) < 600_000


def test_many_classes_list_the_confused_pairs() -> None:
    scores = evaluation(40, images=2000)
    rows = Page(render(report(scores))).rows
    matrix = np.array(scores.confusion) - np.diag(np.diag(scores.confusion))
    truth, named = np.unravel_index(matrix.argmax(), matrix.shape)
    found = [r for r in rows if r[:3] == [f"class {truth}", f"class {named}", str(matrix.max())]]
    assert len(found) == 1


def test_classes_without_images_have_no_score() -> None:
    scores = evaluate_predictions(np.eye(3)[[0, 1, 2]], [0, 1, 1], ["a", "b", "absent"])
    rows = Page(render(report(scores))).rows
    assert rows.index(["absent", "0", "–", "–", "–"]) > rows.index(["a", "1"] + ["100.0 %"] * 3)


@pytest.mark.parametrize("epochs", [1, 2, 300, 1000])
def test_any_number_of_epochs(epochs: int) -> None:
    text = render(report(history=history(epochs)))
    assert Page(text).headings == PARTS
    dots = len(evaluation().reliability)
    assert text.count("<svg") == 5 and text.count("<circle") == 6 + dots
    assert len(text) < 500_000


def test_no_validation() -> None:
    words = Page(render(report(history=history(5, val_loss=None, val_top1=None)))).words
    assert "Best on validation" not in words and "validation" not in words


def test_steps_that_were_left_out_are_told() -> None:
    rows = history(5)
    for number, count in ((3, 1), (4, 7)):
        rows[number] |= {"bad_steps": count, "train_loss": None}
    words = Page(render(report(history=rows))).words
    assert "7 steps had no finite loss or gradient, the first in epoch 4" in words
    page = Page(render(report(history=[{"epoch": 1, "train_loss": None, "bad_steps": 1}])))
    assert page.headings == PARTS and "No finite value was recorded" in page.words
    assert "1 step had no finite loss" in page.words


def test_what_is_missing_is_left_out() -> None:
    bare = report(history=(), mistakes=(), samples={}, settings=(), environment={}, seconds=None)
    page = Page(render(bare))
    assert page.headings == ["Data", "Calibration", "Confusion", "Classes", "Mistakes"]
    assert "No images of mistakes were kept" in page.words
    perfect = evaluate_predictions(np.eye(2), [0, 1], ["a", "b"])
    words = Page(render(replace(bare, evaluation=perfect))).words
    assert "every image was named correctly" in words and "100.0 % of 2 held-out images" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaks": 1}, "1 image of val and test also in train"),
        ({"conflicts": 1200}, "1,200 images with a copy under another label"),
        ({"duplicates": 7}, "7 exact duplicates,"),
        ({"duplicates": 1}, "1 exact duplicate,"),
        ({"leaks": 1}, "1 image shared between splits"),
        ({"skipped": ("x",)}, "1 file outside the class folders"),
        ({"unreadable": (("a/b.jpg", "cut off"),)}, "1 unreadable file, left out"),
        ({"unreadable": (("x.jpg", "?"),) * 60}, "The first 50 of 60"),
        ({"skipped": ("readme.txt", "x")}, "2 files outside the class folders"),
        ({"counts": {"train": [10] * 9 + [35]}}, "largest class has 3.5 times the images"),
        ({"counts": {"train": [10] * 9 + [0]}}, "100.0 %"),  # an empty class is no division by 0
        ({"counts": {}}, "every file readable"),
    ],
)
def test_what_is_wrong_with_the_data(changes: dict[str, Any], words: str) -> None:
    whole = report()
    assert words in Page(render(replace(whole, data=replace(whole.data, **changes)))).words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "val"}, "best epoch was chosen on these images"),
        ({"evaluation": evaluation(10, images=40)}, "With 40 images to test on"),
        (
            {"evaluation": evaluate_predictions(np.eye(2)[[0] * 9], [0] * 8 + [1], ["a", "b"])},
            "no better than always naming the most frequent class",
        ),
    ],
)
def test_what_the_score_is_not(changes: dict[str, Any], words: str) -> None:
    assert words in Page(render(report(**changes))).words
    assert words not in Page(render(report())).words


def test_size_with_photos() -> None:
    gradient = np.linspace(0, 255, 500 * 500 * 3).reshape(500, 500, 3)
    grain = np.random.default_rng(0).normal(0, 12, size=(500, 500, 3))
    photo = np.clip(gradient + grain, 0, 255).astype(np.uint8)
    whole = report()
    mistakes = [replace(mistake, image=photo) for mistake in whole.mistakes]
    samples = dict.fromkeys(whole.samples, photo)
    text = render(replace(whole, mistakes=mistakes, samples=samples))
    assert len(text.encode()) < 500_000


def test_tiny_images_show_their_pixels() -> None:
    whole = report()
    large = replace(whole.mistakes[0], image=np.zeros((65, 65, 3), np.uint8))
    images = [
        a for tag, a in Page(render(replace(whole, mistakes=[large]))).elements if tag == "img"
    ]
    assert [a.get("class") for a in images] == ["pixels"] * 10 + [None]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1, "100.0"),
        (0.9999, "99.9"),
        (0.99949, "99.9"),
        (0.981, "98.1"),
        (0, "0.0"),
        (1 - 1e-12, "100.0"),
    ],
)
def test_only_the_whole_is_100_percent(share: float, expected: str) -> None:
    assert percent(share) == f"{expected}\u202f%"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (41, "41 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (11_520, "3 h 12 min")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(path, report()) == path
    assert path.read_text(encoding="utf-8") == render(report())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_names_that_are_no_text_do_not_cost_the_page(tmp_path: Path) -> None:
    whole = report()
    mistake = replace(whole.mistakes[0], name="caf\udce9.png")  # as os.listdir gives it
    text = write_report(tmp_path / "r.html", replace(whole, mistakes=[mistake])).read_text("utf-8")
    assert "caf?.png" in text


@pytest.mark.parametrize(
    "broken", ["os.replace", "pathlib.Path.write_text", "jinja2.Template.render"]
)
def test_a_failing_write_leaves_the_old_page(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, report())
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
