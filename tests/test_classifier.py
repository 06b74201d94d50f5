"""A classifier takes images as they come, and gives the same for the same pixels."""

import io
import json
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vitkit.classifier import Classifier, load
from vitkit.data.image import decode
from vitkit.data.sources import Sample, Source, open_source
from vitkit.data.transforms import Preprocess
from vitkit.errors import CheckpointError, ConfigError, ImageError, WeightsError
from vitkit.models import create_model

NAME = "vit_tiny_patch16_224"
TINY = {"image_size": (24, 32), "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 4}
CLASSES = ["daisy", "rose", "tulip"]
PREPROCESS = Preprocess(image_size=(24, 32), crop=0.9, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make(seed: int = 0, classes: list[str] = CLASSES, **settings: Any) -> Classifier:
    torch.manual_seed(seed)
    model = create_model(NAME, num_classes=len(classes), **TINY | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return Classifier(model, PREPROCESS, classes, architecture=NAME, device="cpu")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return make()


def picture(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (30 + seed % 7, 40 - seed % 5, 3), dtype=np.uint8)


def encode(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def expected_rows(classifier: Classifier, images: Iterable[NDArray[np.uint8]]) -> Any:
    """Probabilities from the parts, an image at a time: (n, K)."""
    with torch.no_grad():
        rows = [classifier.model(classifier.preprocess(image)[None]) for image in images]
    return torch.cat(rows).softmax(-1).numpy()


def test_predictions(classifier: Classifier) -> None:
    images = [picture(seed) for seed in range(5)]
    expected = expected_rows(classifier, images)
    given = classifier.predict(images)
    assert len(given) == 5 and not classifier.model.training
    for prediction, row in zip(given, expected, strict=True):
        order = np.argsort(row)[::-1]
        assert [score.label for score in prediction.topk] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([s.score for s in prediction.topk], row[order], atol=1e-5)
        assert (prediction.label, prediction.score) == (
            prediction.topk[0].label,
            prediction.topk[0].score,
        )
    assert len({round(prediction.score, 4) for prediction in given}) > 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_kind_of_image(classifier: Classifier, tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encode(picture(1), kind, exif=exif)
    path = tmp_path / "image"
    path.write_bytes(data)
    kinds = [str(path), path, data, Image.open(path), decode(data)]
    assert decode(data).shape == (39, 31, 3)
    expected = expected_rows(classifier, [decode(data)] * 5)
    rows = [[p.score for p in classifier.predict(image, topk=3)[0].topk] for image in kinds]
    np.testing.assert_allclose(rows, np.sort(expected)[:, ::-1], atol=1e-5)
    together = classifier.predict(iter(kinds))
    assert len({prediction.label for prediction in together}) == 1
    features = classifier.embed(kinds)
    np.testing.assert_allclose(features, features[[0] * 5], atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "HSV"])
def test_pil_modes(classifier: Classifier, mode: str) -> None:
    image = Image.fromarray(picture(2)).convert(mode)
    assert classifier.predict(image) == classifier.predict(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "I", "F"])
def test_pil_images_by_the_rules_of_files(classifier: Classifier, mode: str, loaded: bool) -> None:
    """Transparency lies on white, and deep channels keep their whole range."""
    values = np.linspace(0, 65535, 1600).reshape(40, 40)
    image = Image.fromarray(values.astype(np.float32 if mode == "F" else np.uint16))
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(picture(3)).convert(mode)
        image.putalpha(Image.fromarray((values[: image.height, : image.width] // 257).astype("u1")))
    elif mode == "I":
        image = image.convert("I")
    file = io.BytesIO()
    image.save(file, "TIFF")
    opened = Image.open(file)
    if loaded:
        opened.load()
    expected = classifier.predict(file.getvalue())
    assert classifier.predict(opened) == expected
    assert classifier.predict(image) == expected


def test_batch_size_does_not_matter(classifier: Classifier) -> None:
    images = [picture(seed) for seed in range(11)]
    whole = classifier.embed(images)
    for batch_size in (1, 3, 11, 100):
        features = classifier.embed(images, batch_size=batch_size)
        np.testing.assert_allclose(features, whole, atol=1e-5)
        for one, other in zip(
            classifier.predict(images, batch_size=batch_size),
            classifier.predict(images),
            strict=True,
        ):
            assert one.label == other.label
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_features(classifier: Classifier) -> None:
    images = [picture(seed) for seed in range(3)]
    given = classifier.embed(images)
    with torch.no_grad():
        tokens = classifier.model.forward_features(torch.stack([*map(PREPROCESS, images)]))
        expected = classifier.model.forward_head(tokens, pre_logits=True)
    assert given.shape == (3, 32) and given.dtype == np.float32
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)


def test_nothing_in_nothing_out(classifier: Classifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.embed([]).shape == (0, 32)


def test_classes_by_name_and_by_number() -> None:
    model = create_model("vit_tiny_patch16_224", num_classes=4, image_size=16, dim=16, num_heads=2)
    size = Preprocess(image_size=(16, 16))
    names = ["crane", "7", "crane", "dog"]
    classifier = Classifier(model.eval(), size, names, architecture="vit")
    assert [classifier.label_of(name) for name in ("dog", "7", "2", "0")] == [3, 1, 2, 0]
    with pytest.raises(ConfigError, match="classes 0, 2 are called 'crane'; give one of these"):
        classifier.label_of("crane")
    with pytest.raises(ConfigError, match="knows no class '4'"):
        classifier.label_of("4")


@pytest.mark.parametrize(("topk", "count"), [(1, 1), (2, 2), (3, 3), (5, 3), (1000, 3)])
def test_topk(classifier: Classifier, topk: int, count: int) -> None:
    (prediction,) = classifier.predict(picture(0), topk)
    assert len(prediction.topk) == count
    values = [score.score for score in prediction.topk]
    assert values == sorted(values, reverse=True)


def test_ties_keep_the_order_of_classes(classifier: Classifier) -> None:
    prediction = classifier.prediction(np.array([0.25, 0.5, 0.25], np.float32), 3)
    assert [score.label for score in prediction.topk] == ["rose", "daisy", "tulip"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 0}, "topk=0 is less than 1"),
        ({"topk": -1}, "topk=-1 is less than 1"),
        ({"batch_size": 0}, "batch_size=0 is less than 1"),
        ({"batch_size": -5}, "batch_size=-5 is less than 1"),
    ],
)
def test_numbers_out_of_range(
    classifier: Classifier, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        classifier.predict(picture(0), **options)


def test_no_batches_of_nothing(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="batch_size=0"):
        next(classifier.stream(source_of(3), batch_size=0))
    with pytest.raises(ConfigError, match="batch_size=0"):
        classifier.embed(picture(0), batch_size=0)


def test_a_model_without_a_head() -> None:
    headless = make(classes=[])
    assert headless.embed(picture(0)).shape == (1, 32)
    with pytest.raises(ConfigError, match="has no head"):
        headless.predict(picture(0))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_wrong_arrays(classifier: Classifier, wrong: Any) -> None:
    for images in (wrong, [picture(0), wrong]):
        with pytest.raises(ConfigError, match=r"^an array of shape \(.* give \(H, W, 3\) uint8"):
            classifier.predict(images)


@pytest.mark.parametrize("wrong", [None, 5, torch.zeros(3, 8, 8), {"a": 1}])
def test_no_image_at_all(classifier: Classifier, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="is no image; give"):
        classifier.predict([picture(0), wrong])


@pytest.mark.parametrize("wrong", [3, None, 2.5, object()], ids=lambda wrong: type(wrong).__name__)
def test_neither_an_image_nor_several(classifier: Classifier, wrong: Any) -> None:
    for use in (classifier.predict, classifier.embed):
        with pytest.raises(ConfigError, match="is no image; give a path, bytes, a PIL image or an"):
            use(wrong)


def test_a_broken_image_is_named(classifier: Classifier, tmp_path: Path) -> None:
    good, torn = encode(picture(0)), encode(picture(1))[:-800]
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "torn.png").write_bytes(torn)
    for wrong in (tmp_path / "torn.png", str(tmp_path / "torn.png")):
        with pytest.raises(ImageError, match=r"torn\.png: .* PNG file"):
            classifier.predict([tmp_path / "good.png", good, wrong, good])
    with pytest.raises(ImageError, match=r"^images\[41\]: .* PNG file"):
        classifier.predict([*[good] * 41, torn], batch_size=8)
    opened = Image.open(io.BytesIO(torn))  # Pillow has not looked at the pixels yet
    with pytest.raises(ImageError, match=r"^images\[1\]: cannot be decoded"):
        classifier.embed([good, opened])


@pytest.mark.parametrize("name", ["absent.png", "."])
def test_no_such_file(classifier: Classifier, tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=str(tmp_path)):
        classifier.predict(str(tmp_path / name))


def source_of(count: int, broken: Callable[[int], bool] = lambda index: False) -> Source:
    def read(index: int) -> NDArray[np.uint8]:
        if broken(index):
            raise ImageError(f"number {index} is torn")
        return picture(index)

    samples = tuple(Sample(f"{index}.png") for index in range(count))
    return Source("made", (), samples, read)


@pytest.mark.parametrize("workers", [1, 4, None])
@pytest.mark.parametrize("features", [False, True])
def test_stream(classifier: Classifier, workers: int | None, features: bool) -> None:
    """Every sample in order, errors in their places, and a whole batch of them."""

    def broken(index: int) -> bool:
        return index % 7 == 6 or 32 <= index < 48

    answers = list(
        classifier.stream(source_of(75, broken), features=features, batch_size=8, workers=workers)
    )
    assert [answer.index for answer in answers] == list(range(75))
    good = [index for index in range(75) if not broken(index)]
    images = [picture(index) for index in good]
    expected = classifier.embed(images) if features else expected_rows(classifier, images)
    given = [answer.values for answer in answers if answer.values is not None]
    np.testing.assert_allclose(np.stack(given), expected, atol=1e-5)
    for answer in answers:
        assert (answer.values is None) == broken(answer.index)
        assert answer.error == (f"number {answer.index} is torn" if broken(answer.index) else "")


def test_stream_of_nothing(classifier: Classifier) -> None:
    assert list(classifier.stream(source_of(0))) == []


def test_stream_takes_constant_memory() -> None:
    """Of 10,000 images only a few batches are ever held, encoded, decoded or fitted."""
    small = create_model(
        NAME, num_classes=2, image_size=8, patch_size=8, dim=8, depth=1, num_heads=1
    )
    classifier = Classifier(
        small, Preprocess(image_size=(8, 8)), ["a", "b"], architecture=NAME, device="cpu"
    )
    started = answered = alive = most_ahead = most_alive = 0
    lock = threading.Lock()

    def freed() -> None:
        nonlocal alive
        alive -= 1

    def read(index: int) -> NDArray[np.uint8]:
        nonlocal started, alive, most_ahead, most_alive
        image = np.full((8, 8, 3), index % 256, np.uint8)
        weakref.finalize(image, freed)
        with lock:
            started, alive = started + 1, alive + 1
            most_ahead = max(most_ahead, started - answered)
            most_alive = max(most_alive, alive)
        return image

    source = Source("many", (), tuple(Sample(str(i)) for i in range(10_000)), read)
    for answer in classifier.stream(source, batch_size=100, workers=2):
        assert answer.index == answered
        answered += 1
    assert answered == started == 10_000
    assert most_ahead <= 100 + (2 * 100 + 2) + 1  # the batch in work, what waits for it
    assert most_alive <= 10


def test_an_abandoned_stream_ends_its_threads(classifier: Classifier) -> None:
    stream = classifier.stream(source_of(1000), batch_size=4, workers=2)
    assert next(stream).index == 0
    stream.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("vitkit-read")]


def test_stream_and_predict_agree_on_real_images(
    classifier: Classifier, unpacked: Callable[[str], Path]
) -> None:
    whole = open_source(unpacked("flowers.zip"))
    source = whole.subset(range(0, len(whole.samples), len(whole.samples) // 12))
    folder = unpacked("flowers.zip")
    predictions = classifier.predict([folder / sample.name for sample in source.samples])
    for answer, prediction in zip(classifier.stream(source), predictions, strict=True):
        assert answer.values is not None
        named = classifier.prediction(answer.values, 5)
        assert named.label == prediction.label
        assert named.score == pytest.approx(prediction.score, abs=1e-5)


def test_save_and_load(classifier: Classifier, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "checkpoint"
    classifier.save(directory)
    again = load(str(directory), device="cpu")
    assert again.classes == CLASSES and again.architecture == NAME
    assert again.preprocess == PREPROCESS and again.origin == directory
    assert not again.model.training
    images = [picture(seed) for seed in range(4)]
    assert again.predict(images) == classifier.predict(images)
    np.testing.assert_array_equal(again.embed(images), classifier.embed(images))


def test_a_temperature_changes_shares_and_nothing_else(
    classifier: Classifier, tmp_path: Path
) -> None:
    warm = Classifier(
        classifier.model, PREPROCESS, CLASSES, architecture=NAME, device="cpu", temperature=2.5
    )
    warm.save(tmp_path / "warm")
    again = load(tmp_path / "warm", device="cpu")
    assert (classifier.temperature, warm.temperature, again.temperature) == (1, 2.5, 2.5)
    images = [picture(seed) for seed in range(4)]
    np.testing.assert_array_equal(again.embed(images), classifier.embed(images))
    with torch.no_grad():
        logits = torch.stack([classifier.model(PREPROCESS(image)[None])[0] for image in images])
    expected = (logits / 2.5).softmax(-1).numpy()
    for mild, sharp, row in zip(
        again.predict(images), classifier.predict(images), expected, strict=True
    ):
        assert [score.label for score in mild.topk] == [score.label for score in sharp.topk]
        assert mild.score < sharp.score
        assert mild.score == pytest.approx(row.max(), abs=1e-5)
    streamed = [answer.values for answer in again.stream(source_of(3))]
    plain = [answer.values for answer in classifier.stream(source_of(3))]
    for mild, sharp in zip(streamed, plain, strict=True):
        flattened = sharp ** (1 / 2.5)
        np.testing.assert_allclose(mild, flattened / flattened.sum(), atol=1e-5)


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (
            8,
            "it knows " + ", ".join(f"'kind {n}'" for n in range(8)),
        ),
        (9, "it has 9 classes"),
        (0, "it has no head"),
    ],
)
def test_an_unknown_class_is_told_which_there_are(count: int, known: str) -> None:
    few = make(classes=[f"kind {number}" for number in range(count)])
    hint = ", did you mean 'kind 2'?" if count else ""
    with pytest.raises(ConfigError) as error:
        few.label_of("KIND 2")
    assert str(error.value) == f"the model knows no class 'KIND 2'{hint}; {known}"


def test_save_overwrites_nothing(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(CheckpointError, match="exists and is not empty; choose another"):
            classifier.save(place)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    classifier.save(tmp_path / "empty")
    assert load(tmp_path / "empty", device="cpu").classes == CLASSES


def test_a_run_gives_its_best(tmp_path: Path) -> None:
    make(1, ["the", "last"]).save(tmp_path / "last")
    last = load(tmp_path, device="cpu")
    assert last.classes == ["the", "last"] and last.origin == tmp_path / "last"
    make(2, ["the", "very", "best"]).save(tmp_path / "best")
    best = load(tmp_path, device="cpu")
    assert best.classes == ["the", "very", "best"] and best.origin == tmp_path / "best"
    assert load(tmp_path / "last", device="cpu").classes == ["the", "last"]


def test_a_run_cut_off_while_its_best_was_replaced(tmp_path: Path) -> None:
    """Between the two renames the best weights have another name; they are only read there."""
    make(1, ["the", "last"]).save(tmp_path / "last")
    make(2, ["the", "very", "best"]).save(tmp_path / ".best.old")
    best = load(tmp_path, device="cpu")
    assert best.classes == ["the", "very", "best"] and best.origin == tmp_path / ".best.old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".best.old", "last"]
    make(3, ["new"]).save(tmp_path / "best")
    assert load(tmp_path, device="cpu").classes == ["new"]


def test_a_damaged_best_is_not_passed_over(tmp_path: Path) -> None:
    make(1, ["the", "last"]).save(tmp_path / "last")
    (tmp_path / "best").mkdir()
    with pytest.raises(CheckpointError, match=r"best holds no config\.json"):
        load(tmp_path, device="cpu")


def test_load_a_weights_file(tmp_path: Path) -> None:
    model = create_model("deit_tiny_patch16_224", num_classes=4).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    given = load(path, model="deit_tiny_patch16_224", device="cpu")
    assert given.classes == ["0", "1", "2", "3"] and given.origin == path
    assert given.preprocess == Preprocess(
        image_size=(224, 224), crop=0.9, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    np.testing.assert_allclose(
        [score.score for score in given.predict(picture(0))[0].topk],
        np.sort(expected_rows(given, [picture(0)])[0])[::-1],
        atol=1e-5,
    )


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere does not exist; give a run, a checkpoint"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input_size", None, "has no preprocessing we know"),
        ("input_size", [3, 24], "has no preprocessing we know"),
        ("mean", [0.5], "input_size=.* and mean=.* differ in channels"),
        ("std", [0.5, 0.5, 0.0], "std at least 1e-6"),
        ("crop_pct", "all", "has no preprocessing we know"),
        ("crop_pct", 1e-300, "needs images of more than 8192 x 8192 pixels"),
        ("crop_pct", 10**400, r"is not in \(0, 1\]"),
        ("input_size", [3, 1_000_000, 1_000_000], "needs images of more than 8192 x 8192"),
        ("input_size", [3, 10**400, 32], "needs images of more than 8192 x 8192"),
        ("input_size", [3, 24.0, 32], "is not .height, width. in whole pixels"),
        ("input_size", [3.0, 24, 32], "differ in channels"),
        ("input_size", "abc", "differ in channels"),
        ("mean", ["a", "b", "c"], "must be numbers"),
        ("mean", [10**400] * 3, "must be numbers"),
        ("std", [float("nan"), 0.5, 0.5], "must be numbers"),
        ("std", [float("inf"), 0.5, 0.5], "must be numbers"),
        ("std", [1e-60, 0.5, 0.5], "std at least 1e-6"),
        ("interpolation", ["bicubic"], "has no preprocessing we know"),
        ("interpolation", "spline", "'spline' is unknown"),
        ("crop_mode", "border", "crop_mode='border'"),
    ],
)
def test_damaged_preprocessing(
    classifier: Classifier, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    classifier.save(tmp_path / "c")
    path = tmp_path / "c" / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    cfg["pretrained_cfg"][key] = value
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "c", device="cpu")
    assert "\n" not in str(caught.value)


def test_grey_preprocessing_before_a_model_of_colours(
    classifier: Classifier, tmp_path: Path
) -> None:
    classifier.save(tmp_path / "c")
    path = tmp_path / "c" / "config.json"
    cfg = json.loads(path.read_text("utf-8"))
    cfg["pretrained_cfg"] |= {"input_size": [1, 24, 32], "mean": [0.5], "std": [0.5]}
    path.write_text(json.dumps(cfg), "utf-8")
    with pytest.raises(CheckpointError, match="has 1 channels, the model 3"):
        load(tmp_path / "c", device="cpu")


def test_damaged_weights(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "c")
    weights = tmp_path / "c" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        load(tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "gpu"}, "device='gpu'"), ({"precision": "fp8"}, "fp8")]
)
def test_settings_are_checked_when_it_is_loaded(
    classifier: Classifier, tmp_path: Path, options: Any, message: str
) -> None:
    classifier.save(tmp_path / "c")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c", **options)
