"""The page in a real browser: what it shows is what the classifier says in Python."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import vitkit
from browsing import Scheme, chromium, opened, serving
from vitkit.data.transforms import Preprocess
from vitkit.explain.ablation import ablate
from vitkit.explain.around import around
from vitkit.explain.lens import lens
from vitkit.serve.app import make_app
from vitkit.serve.looking import model_input
from vitkit.serve.samples import Sample

SIDE, PATCH, DEPTH, HEADS = 32, 8, 3, 2
NASTY = "<img src=x onerror=alert(1)>"
CLASSES = ("cat", "dog", NASTY, "a & b", "emu")


def classifier_of(
    architecture: str, *, image_size: tuple[int, int] = (SIDE, SIDE), **settings: object
) -> vitkit.Classifier:
    torch.manual_seed(0)
    model = vitkit.create_model(
        architecture, num_classes=len(CLASSES), image_size=image_size, **settings
    )
    with torch.no_grad():
        for weights in model.parameters():  # else heads hardly differ, and no class stands out
            weights.mul_(3)
    size = Preprocess(image_size=image_size)
    return vitkit.Classifier(model.eval(), size, CLASSES, architecture=architecture)


@pytest.fixture(scope="module")
def classifier() -> vitkit.Classifier:
    return classifier_of(
        "vit_tiny_patch16_224", patch_size=PATCH, dim=48, depth=DEPTH, num_heads=HEADS
    )


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 60)).save(path)
    return path


@pytest.fixture(scope="module")
def address(classifier: vitkit.Classifier, photo: Path) -> Iterator[str]:
    samples = [Sample("sample.png", NASTY, photo.read_bytes())]
    with serving(make_app(classifier, name="animals", samples=samples)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as found:
        yield found


@pytest.fixture
def x(classifier: vitkit.Classifier, photo: Path) -> torch.Tensor:
    return model_input(classifier, classifier.preprocess.fit(np.asarray(Image.open(photo))))


def show(page: Page, photo: Path) -> None:
    """Choose a file, and wait until it is answered and looked into."""
    page.set_input_files("#file", photo)
    expect(page.locator("#answer-share")).to_have_text(re.compile(r"\d"))
    expect(page.locator("#map-title")).to_have_text(re.compile("relevance"))


def click_patch(page: Page, row: int, column: int) -> None:
    box = page.locator("#image").bounding_box()
    assert box is not None
    sides = SIDE // PATCH
    across, down = ((place + 0.5) / sides for place in (column, row))
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def saved_arrays(page: Page, tmp_path: Path) -> dict[str, np.ndarray]:
    with page.expect_download() as found:
        page.click("#save-npz")
    path = tmp_path / found.value.suggested_filename
    found.value.save_as(path)
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def percents(page: Page, selector: str) -> list[float]:
    texts = page.locator(selector).all_inner_texts()
    return [0.0005 if text[0] == "<" else float(text[:-2]) / 100 for text in texts]


def test_drop_an_image_and_read_the_answer(
    page: Page, classifier: vitkit.Classifier, photo: Path
) -> None:
    expect(page.locator("#model-name")).to_have_text("animals")
    data = base64.b64encode(photo.read_bytes()).decode()
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], "photo.png", { type: "image/png" }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: given, cancelable: true }));
        }""",
        data,
    )
    best = classifier.predict(photo)[0]
    expect(page.locator("#answer-label")).to_have_text(best.label)
    assert percents(page, "#answer-share")[0] == pytest.approx(best.score, abs=6e-4)
    assert page.locator("#answer-rows th").all_inner_texts() == [s.label for s in best.topk]
    scores = [s.score for s in best.topk]
    assert percents(page, "#answer-rows td.n") == pytest.approx(scores, abs=6e-4)
    expect(page.locator("#said")).to_contain_text(f"photo.png: {best.label}")


def test_paste(page: Page, classifier: vitkit.Classifier, photo: Path) -> None:
    expect(page.locator("#model-name")).to_have_text("animals")
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], "p.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: given }));
        }""",
        base64.b64encode(photo.read_bytes()).decode(),
    )
    expect(page.locator("#answer-label")).to_have_text(classifier.predict(photo)[0].label)


def test_click_a_patch_and_change_the_head(
    page: Page, classifier: vitkit.Classifier, photo: Path, x: torch.Tensor, tmp_path: Path
) -> None:
    show(page, photo)
    click_patch(page, 1, 2)
    title = page.locator("#map-title")
    expect(title).to_have_text("Layer 2, mean of all heads: where row 1, column 2 looks")
    layers = around(classifier.model, x, (0.3, 0.6))
    found = saved_arrays(page, tmp_path)
    expected = layers[2].looks.mean(0)[1:].reshape(4, 4)
    assert np.abs(found["grid"] - expected).max() <= layers[2].looks.max() / 255
    assert (found["image"] == classifier.explain(photo).image).all()
    assert json.loads(str(found["about"]))["map"] == title.inner_text()

    page.select_option("#layer", "0")
    page.select_option("#head", "1")
    expect(title).to_have_text("Layer 0, head 1: where row 1, column 2 looks")
    page.click("#to-seen")
    expect(title).to_have_text("Layer 0, head 1: what looks at row 1, column 2")
    expected = layers[0].seen[1, 1:].reshape(4, 4)
    assert np.abs(saved_arrays(page, tmp_path)["grid"] - expected).max() <= expected.max() / 255

    page.click("[data-token=CLS]")
    expect(title).to_have_text("Layer 0, head 1: what looks at CLS")
    page.click('[aria-label="Layer 1, head 0"]')
    expect(title).to_have_text("Layer 1, head 0: what looks at CLS")
    expected = around(classifier.model, x, "CLS")[1].seen[0, 1:].reshape(4, 4)
    assert np.abs(saved_arrays(page, tmp_path)["grid"] - expected).max() <= expected.max() / 255
    page.focus('[aria-label="Layer 1, head 0"]')
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("Layer 1, head 1: what looks at CLS")
    assert page.locator("#wall .thumb").count() == DEPTH * (HEADS + 1)


def test_the_keyboard_alone(page: Page, photo: Path) -> None:
    show(page, photo)
    page.focus("#image")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#map-title")).to_have_text(re.compile("where row 1, column 1 looks"))
    expect(page.locator("#said")).to_have_text(re.compile("row 1, column 1"))
    page.focus("#tool-look")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tool-cover")).to_be_focused()
    page.focus("#image")
    page.keyboard.press("Enter")
    expect(page.locator("#without-what")).to_have_text("1 patch covered")


def test_compare_methods(
    page: Page, classifier: vitkit.Classifier, photo: Path, tmp_path: Path
) -> None:
    show(page, photo)
    page.locator("#methods").scroll_into_view_if_needed()
    expect(page.locator("figure.waiting")).to_have_count(2)  # those that take long
    page.click("[data-method=occlusion] button")
    expect(page.locator("figure.waiting")).to_have_count(1)
    best, other = (s.label for s in classifier.predict(photo)[0].topk[:2])
    page.fill("#against", other)
    page.keyboard.press("Enter")
    expect(page.locator("#methods-against")).to_have_text(f" and not for {other}")
    page.click("[data-method=gradcam] button")
    title = f"gradcam: what speaks for {best} and not for {other}"
    expect(page.locator("#map-title")).to_have_text(title)
    grid = saved_arrays(page, tmp_path)["grid"]
    expected = classifier.explain(photo, "gradcam", best, against=other).grid
    np.testing.assert_allclose(grid, expected, rtol=1e-4, atol=1e-7)
    assert page.locator("figure.control b").inner_text() == "random, the control"
    page.fill("#against", "cow")
    page.keyboard.press("Enter")
    expect(page.locator("#alert")).to_contain_text("no class “cow”")


def test_picture(page: Page, photo: Path, tmp_path: Path) -> None:
    show(page, photo)
    with page.expect_download() as found:
        page.click("#save-png")
    assert found.value.suggested_filename == "photo-relevance.png"
    found.value.save_as(tmp_path / "map.png")
    picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 2 * picture.shape[0] * 0.8
    coloured = np.ptp(picture, axis=2) > 40
    middle = picture.shape[1] // 2
    assert coloured[:, :middle].mean() > 0.2 and coloured[:, middle:].mean() > 0.2
    page.evaluate("document.getElementById('opacity').value = 0")
    page.dispatch_event("#opacity", "input")
    plain = page.evaluate("document.getElementById('image').toDataURL()")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(plain.partition(",")[2]))))
    sample = drawn[
        drawn.shape[0] // 8 :: drawn.shape[0] // 4, drawn.shape[1] // 8 :: drawn.shape[1] // 4
    ]
    assert sample.shape[:2] == (4, 4) and np.ptp(sample[..., :3].astype(int), axis=2).max() > 30


def test_cover_a_patch_and_mute_a_head(
    page: Page, classifier: vitkit.Classifier, photo: Path, x: torch.Tensor
) -> None:
    show(page, photo)
    page.click("#tool-cover")
    click_patch(page, 0, 3)
    click_patch(page, 2, 1)
    expect(page.locator("#without-what")).to_have_text("2 patches covered")
    page.select_option("#layer", "1")
    page.select_option("#head", "0")
    page.click("#mute")
    expect(page.locator("#without-what")).to_have_text("2 patches covered, 1 head muted")
    effect = ablate(classifier.model, x, heads={1: [0]}, cells=[(0, 3), (2, 1)])
    without = dict(zip(CLASSES, effect.ablated.softmax(-1)[0].tolist(), strict=True))
    rows = page.locator("#without-rows tr")
    expect(rows).to_have_count(len(CLASSES))

    def agrees() -> bool:
        names = page.locator("#without-rows th").all_inner_texts()
        shares = percents(page, "#without-rows td:nth-child(3)")
        return all(abs(without[n] - s) < 6e-4 for n, s in zip(names, shares, strict=True))

    page.wait_for_timeout(500)
    assert agrees()
    click_patch(page, 2, 1)
    expect(page.locator("#without-what")).to_have_text("1 patch covered, 1 head muted")
    page.click("#restore")
    expect(rows).to_have_count(len(CLASSES))
    expect(page.locator("#without-table")).to_be_hidden()


def test_lens_and_positions(
    page: Page, classifier: vitkit.Classifier, photo: Path, x: torch.Tensor, tmp_path: Path
) -> None:
    show(page, photo)
    page.locator("#lens").scroll_into_view_if_needed()
    expect(page.locator(".step")).to_have_count(DEPTH)
    number = classifier.label_of(classifier.predict(photo)[0].label)
    path = lens(classifier.model, x).trajectory(torch.tensor([number]))
    said = [CLASSES[i] for i in path.best[0].tolist()]
    assert page.locator(".step b").all_inner_texts() == said
    page.click(".step >> nth=1")
    expect(page.locator("#map-title")).to_have_text(re.compile("^After block 1: "))
    expected = lens(classifier.model, x).maps(number)[0, 1]
    np.testing.assert_allclose(saved_arrays(page, tmp_path)["grid"], expected, rtol=1e-4)
    page.locator("#positions").scroll_into_view_if_needed()
    expect(page.locator("#mosaics img")).to_have_count(1)
    expect(page.locator("#positions-about")).to_contain_text("all 4 × 4 patches")


def test_a_link_shows_the_same(page: Page, browser: Browser, address: str, photo: Path) -> None:
    show(page, photo)
    click_patch(page, 3, 0)
    page.click('[aria-label="Layer 1, head 1"]')
    page.click("#tool-cover")
    click_patch(page, 0, 0)
    page.uncheck("#smooth")
    title = page.locator("#map-title").inner_text()
    expect(page.locator("#without-rows tr")).not_to_have_count(0)
    page.wait_for_timeout(400)  # the address follows after a moment
    with opened(browser, page.url) as other:
        expect(other.locator("#map-title")).to_have_text(title)
        expect(other.locator("#without-what")).to_have_text("1 patch covered")
        expect(other.locator("#smooth")).not_to_be_checked()
        assert percents(other, "#answer-share") == percents(page, "#answer-share")
        assert other.evaluate("document.getElementById('image').toDataURL()") == page.evaluate(
            "document.getElementById('image').toDataURL()"
        )


def test_a_link_about_an_image_that_it_does_not_hold(
    browser: Browser, address: str, photo: Path
) -> None:
    link = f"{address}/#image=0123456789abcdef&name=mine.jpg&layer=0&head=1&show=token&at=CLS"
    with opened(browser, link) as page:
        expect(page.locator("#alert")).to_contain_text("This link is about mine.jpg")
        page.set_input_files("#file", photo)
        expect(page.locator("#alert")).to_have_text(re.compile("another image than mine.jpg"))


@pytest.mark.parametrize(
    "tail",
    [
        "sample=99",
        "png=!!!",
        "png=AAAA",
        "sample=0&layer=99&head=99&at=5,5&show=lens.99&cover=99.99&mute=9.9",
        f"sample=0&target={NASTY}&against={NASTY}&show={NASTY}&name={NASTY}",
        "%ff%00=%fe",
    ],
)
def test_a_link_that_makes_no_sense(browser: Browser, address: str, tail: str) -> None:
    with opened(browser, f"{address}/#{tail}") as page:
        expect(page.locator("#model-name")).to_have_text("animals")
        if tail == "sample=99":
            expect(page.locator("#alert")).to_contain_text("sample 99, which is not offered")
        if tail.startswith("sample=0"):
            expect(page.locator("#answer-share")).to_have_text(re.compile(r"\d"))
        else:
            expect(page.locator("#welcome")).to_be_visible()


def test_samples_and_names_that_are_code(page: Page) -> None:
    button = page.locator("#samples-first button")
    expect(button).to_have_text(NASTY)
    button.click()
    expect(page.locator("#answer-share")).to_have_text(re.compile(r"\d"))
    assert NASTY in page.locator("#answer-rows th").all_inner_texts()
    assert page.locator("img[src=x]").count() == 0
    page.fill("#target", NASTY)
    page.keyboard.press("Enter")
    expect(page.locator("#map-title")).to_have_text(f"relevance: what speaks for {NASTY}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), ""),
        (bytes(21_000_000), "21 MB; the server takes 20"),
    ],
)
def test_files_that_cannot_be_opened(
    page: Page, tmp_path: Path, photo: Path, content: bytes, words: str
) -> None:
    (tmp_path / "x.svg").write_bytes(content)
    page.set_input_files("#file", tmp_path / "x.svg")
    alert = page.locator("#alert")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text(words)
    show(page, photo)  # and the page goes on
    expect(alert).to_be_hidden()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out(browser: Browser, address: str, photo: Path, width: int) -> None:
    with opened(browser, address, width=width) as page:
        show(page, photo)
        page.locator("#positions").scroll_into_view_if_needed()
        expect(page.locator("#mosaics img")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_who_cannot_see_it(browser: Browser, address: str, photo: Path, scheme: Scheme) -> None:
    with opened(browser, address, scheme=scheme) as page:
        expect(page.locator("#model-name")).to_have_text("animals")
        assert not Axe().run(page).response["violations"]
        show(page, photo)
        page.click("#tool-cover")
        click_patch(page, 0, 0)
        for part in ("methods", "lens", "positions"):
            page.locator(f"#{part}").scroll_into_view_if_needed()
            page.wait_for_timeout(300)
        assert not Axe().run(page).response["violations"]


def test_a_token_is_asked_for(browser: Browser, classifier: vitkit.Classifier, photo: Path) -> None:
    with (
        serving(make_app(classifier, name="secret", token="12345678")) as address,
        opened(browser, address) as page,
    ):
        for given, words in (("wrong", "until this tab"), ("12345678", "not right")):
            expect(page.locator("#token-note")).to_contain_text(words)
            page.fill("#token", given)
            page.keyboard.press("Enter")
        expect(page.locator("#model-name")).to_have_text("secret")
        show(page, photo)


def test_an_image_that_comes_before_the_token(
    browser: Browser, classifier: vitkit.Classifier, photo: Path
) -> None:
    with (
        serving(make_app(classifier, name="secret", token="12345678")) as address,
        opened(browser, address) as page,
    ):
        expect(page.locator("#ask")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#alert")).to_contain_text("asks for a token")
        page.set_input_files("#file", photo)
        page.fill("#token", "12345678")
        page.keyboard.press("Enter")
        expect(page.locator("#answer-share")).to_have_text(re.compile(r"\d"))


def test_patches_that_do_not_fill_the_image(browser: Browser, photo: Path) -> None:
    cnn = classifier_of("resnet18", dim=8, image_size=(44, 44))
    with serving(make_app(cnn, name="cnn")) as address, opened(browser, address) as page:
        page.set_input_files("#file", photo)
        expect(page.locator("#map-title")).to_have_text(re.compile("gradcam"))
        box = page.locator("#image").bounding_box()
        assert box is not None  # of 44 pixels the cells of 16 cover 0, 16 and 32 to 44
        page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.99 * box["height"])
        expect(page.locator("#without-what")).to_have_text("1 patch covered")
        page.wait_for_timeout(400)
        assert "cover=2.1" in page.url


def test_the_newest_answer_counts(page: Page, photo: Path) -> None:
    show(page, photo)
    page.evaluate(
        """() => {
            const json = Response.prototype.json;
            let late = true;
            Response.prototype.json = async function () {
                const said = await json.call(this);
                if (said.layers && late) {
                    late = false;
                    await new Promise((resolve) => setTimeout(resolve, 1500));
                }
                return said;
            };
        }"""
    )
    click_patch(page, 0, 0)
    page.wait_for_timeout(300)
    click_patch(page, 3, 3)
    expect(page.locator("#map-title")).to_have_text(re.compile("where row 3, column 3 looks"))
    page.wait_for_timeout(1600)
    expect(page.locator("#map-title")).to_have_text(re.compile("where row 3, column 3 looks"))


def test_a_cnn_has_no_attention(browser: Browser, photo: Path) -> None:
    cnn = classifier_of("resnet18", dim=8)
    with serving(make_app(cnn, name="cnn")) as address, opened(browser, address) as page:
        page.set_input_files("#file", photo)
        expect(page.locator("#map-title")).to_have_text(re.compile("gradcam"))
        expect(page.locator("#attention")).to_be_hidden()
        expect(page.locator("#lens")).to_be_hidden()
        expect(page.locator("#tool-look")).to_be_disabled()
        box = page.locator("#image").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 9, box["y"] + 9)
        expect(page.locator("#without-what")).to_have_text("1 patch covered")
        page.locator("#positions").scroll_into_view_if_needed()
        expect(page.locator("#positions-about")).to_contain_text("no position embeddings")


def test_swin(browser: Browser, photo: Path) -> None:
    swin = classifier_of(
        "swin_tiny_patch4_window7_224", dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    with serving(make_app(swin, name="swin")) as address, opened(browser, address) as page:
        show(page, photo)
        click_patch(page, 0, 0)
        expect(page.locator("#map-title")).to_have_text(re.compile("^Layer 3, mean"))
        assert page.locator("#wall .thumb").count() == 3 + 3 + 5 + 5
        page.click('[aria-label="Layer 0, head 1"]')
        expect(page.locator("#map-title")).to_have_text(re.compile("^Layer 0, head 1"))
        page.locator("#positions").scroll_into_view_if_needed()
        expect(page.locator("#mosaics img")).to_have_count(4)


def test_the_server_goes_away(browser: Browser, classifier: vitkit.Classifier, photo: Path) -> None:
    with serving(make_app(classifier, name="short")) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        show(page, photo)
    click_patch(page, 0, 0)
    expect(page.locator("#alert")).to_contain_text("does not answer")
    context.close()
