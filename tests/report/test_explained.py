"""The page of `vitkit explain`, and the maps of a run's report."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vitkit
from html_page import Page
from vitkit.data.transforms import Preprocess
from vitkit.errors import ConfigError
from vitkit.report.contents import Mistake
from vitkit.report.explained import SHOWN, Explained, place, ramp, render
from vitkit.report.inside import inside, thoughts
from vitkit.report.looks import look, positions, with_maps

HOSTILE = """<img src=x onerror="alert('1')">&amp;</script>"""


@pytest.fixture(scope="module")
def classifier(finished: vitkit.Run) -> vitkit.Classifier:
    return finished.load()


@pytest.fixture(scope="module")
def explained(classifier: vitkit.Classifier, colours: Path) -> Explained:
    image = colours / "red" / "00.png"
    maps = [classifier.explain(image, m) for m in ("relevance", "occlusion", "random")]
    return Explained("red/00.png", classifier.predict(image)[0], maps)


def shown(classifier: vitkit.Classifier, *several: Explained) -> Page:
    return Page(render(several, classifier))


def test_the_page_of_one_image(classifier: vitkit.Classifier, explained: Explained) -> None:
    page = shown(classifier, explained)
    assert page.headings == ["red/00.png", "Methods"]
    best = explained.prediction
    assert f"{best.label} with {best.score:.1%}".replace("%", " %") in " ".join(page.words.split())
    for words in ("occlusion", "the control: it knows nothing", f"for {best.label}"):
        assert words in page.words
    images = [dict(attributes) for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 1 + len(explained.maps)
    assert all((image["src"] or "").startswith("data:image/") for image in images)


def captions(page: str) -> list[str]:
    """What stands below each map, spaces between its parts."""
    found = re.findall("<figcaption>(.*?)</figcaption>", page)
    return [" ".join(re.sub("<[^>]*>", " ", caption).split()) for caption in found]


def test_below_a_map_stands_what_it_is_of(classifier: vitkit.Classifier, colours: Path) -> None:
    image = colours / "red" / "00.png"
    maps = [
        classifier.explain(image, "attention", "red", against="blue", layer=0, head=1),
        classifier.explain(image, "rollout", "red"),
        classifier.explain(image, "occlusion", "red", against="blue", size=8),
        replace(classifier.explain(image, "gradcam", "red"), grid=np.ones((1, 1), np.float32)),
    ]
    text = render([Explained("a.png", classifier.predict(image)[0], maps)], classifier)
    assert captions(text)[1:] == [
        "attention whatever the class layer=0, head=1",
        "rollout whatever the class",
        "occlusion for red, not blue size=8",
        "gradcam for red one cell: there are no places to tell apart",
    ]
    pictures = [dict(attributes) for tag, attributes in Page(text).elements if tag == "img"]
    assert [picture["alt"] for picture in pictures[1:3]] == [
        "attention (layer=0, head=1)",
        "rollout",
    ]


@pytest.mark.parametrize(
    ("target", "against", "asked"),
    [("red", "blue", "red against blue"), ("green", None, "green")],
)
def test_what_the_maps_are_about_stands_beside_the_answer(
    classifier: vitkit.Classifier, colours: Path, target: str, against: str | None, asked: str
) -> None:
    image = colours / "blue" / "00.png"
    maps = [classifier.explain(image, m, target, against=against) for m in ("rollout", "gradcam")]
    prediction = replace(classifier.predict(image)[0], label="blue")
    one = Explained("a.png", prediction, maps)
    page = shown(classifier, one)
    assert f"the maps are about {asked}" in page.words
    assert f"Maps of what speaks for {asked}" in page.words
    assert shown(classifier, one, one).words.count(f"Maps of what speaks for {asked}") == 2
    of_none = Explained("a.png", prediction, maps[:1])
    assert f"speaks for {asked}" not in shown(classifier, of_none).words


def test_the_answer_itself_is_not_named_twice(
    classifier: vitkit.Classifier, explained: Explained
) -> None:
    assert "the maps are about" not in shown(classifier, explained).words


def test_a_long_name_breaks_between_its_parts(
    classifier: vitkit.Classifier, explained: Explained
) -> None:
    name = "/a/holiday-2023/IMG_01<x>.edited.png"
    text = render([Explained(name, explained.prediction, explained.maps)], classifier)
    (written,) = re.findall("<h2>(/.*)</h2>", text)
    assert written.replace("<wbr>", " ") == ("/ a/ holiday- 2023/ IMG_ 01&lt;x&gt; .edited .png")
    assert Page(text).headings[0] == name


def test_both_colour_bars_only_where_both_are_used(
    classifier: vitkit.Classifier, explained: Explained
) -> None:
    unsigned = Explained(explained.name, explained.prediction, explained.maps[:1])
    for one, bars in ((explained, 2), (unsigned, 1)):
        page = shown(classifier, one)
        assert sum(tag == "svg" for tag, _ in page.elements) == bars
    assert ramp(signed=False)[0] == (68, 1, 84) and ramp(signed=True)[-1] == (127, 59, 8)


def test_names_are_text(classifier: vitkit.Classifier, explained: Explained) -> None:
    hostile = Explained(HOSTILE, explained.prediction, explained.maps)
    page = shown(classifier, hostile)
    assert page.headings[0] == HOSTILE
    assert hostile.file_of("random").isprintable() and "/" not in hostile.file_of("random")


def test_many_images_are_counted_and_some_shown(
    classifier: vitkit.Classifier, explained: Explained
) -> None:
    few = Explained("a.png", explained.prediction, explained.maps[-1:])
    page = shown(classifier, *[few] * (SHOWN + 1))
    assert f"{SHOWN + 1}" in page.words and f"The first {SHOWN} of {SHOWN + 1}" in page.words
    assert page.headings.count("a.png") == SHOWN


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("runs/flowers", None) == Path("runs/explain-flowers")
    Path("runs/explain-flowers").mkdir(parents=True)
    assert place("runs/flowers/", None) == Path("runs/explain-flowers-2")
    assert place("hf-hub:timm/vit@main", None) == Path("runs/explain-vit")
    assert place("x", tmp_path / "new") == tmp_path / "new"
    with pytest.raises(ConfigError, match="exists already"):
        place("x", tmp_path)


def test_a_look_is_the_map_of_the_class(classifier: vitkit.Classifier, colours: Path) -> None:
    image = classifier.explain(colours / "blue" / "00.png").image
    seen = look(classifier, "blue/00.png", image, "green")
    expected = classifier.explain(colours / "blue" / "00.png", "relevance", "green")
    assert (seen.method, seen.label, seen.score) == ("relevance", "green", expected.score)
    assert np.array_equal(seen.map, expected.overlay(side=192))
    assert not np.array_equal(seen.map, seen.control)


def test_mistakes_show_what_spoke_for_the_wrong_name(
    classifier: vitkit.Classifier, colours: Path
) -> None:
    image = classifier.explain(colours / "blue" / "00.png").image
    (mistake,) = with_maps([Mistake("x", image, "blue", "red", 0.9)], classifier)
    expected = classifier.explain(colours / "blue" / "00.png", "relevance", "red")
    assert mistake.map is not None and np.array_equal(mistake.map, expected.overlay(side=192))


def test_positions_of_a_model_that_has_them(classifier: vitkit.Classifier) -> None:
    known = positions(classifier)
    assert known is not None and known.learned
    assert -1 <= known.score <= 1 and 0 < known.p_value <= 1 and known.chance > 0
    assert known.mosaic.ndim == 3


def test_what_the_head_says_block_by_block(classifier: vitkit.Classifier, colours: Path) -> None:
    pixels = classifier.preprocess.fit(classifier.explain(colours / "red" / "00.png").image)
    said = thoughts(classifier, pixels)
    blocks = len(classifier.model.blocks)
    assert [each.first for each in said] == [1, *(each.last + 1 for each in said[:-1])]
    assert said[-1].last == blocks
    best = classifier.predict_pixels(pixels)
    assert (said[-1].label, said[-1].score) == (best.label, pytest.approx(best.score))


def test_inside(classifier: vitkit.Classifier, explained: Explained) -> None:
    pixels = explained.maps[0].image.transpose(2, 0, 1)
    found = inside(classifier, [pixels] * 3)
    assert found is not None and found.images == 3 and found.positions is not None
    heads = sum(block.attn.num_heads for block in classifier.model.blocks)
    for chart in (found.distance, found.evenness):
        assert chart is not None and len(chart.lines[0].marks) == heads
    page = Page(render([explained], classifier, inner=found))
    assert page.headings == ["red/00.png", "Inside", "Methods"]
    assert sum(tag == "circle" for tag, _ in page.elements) == 2 * heads


def test_a_cnn_has_no_inside_and_no_thoughts(colours: Path) -> None:
    model = vitkit.create_model("convnet_3_32", num_classes=2, image_size=8).eval()
    cnn = vitkit.Classifier(
        model, Preprocess(image_size=(8, 8)), ["a", "b"], architecture="convnet_3_32"
    )
    pixels = np.zeros((3, 8, 8), np.uint8)
    assert inside(cnn, [pixels]) is None and thoughts(cnn, pixels) == []
    assert cnn.explain_pixels(pixels).method == "gradcam" and positions(cnn) is None
