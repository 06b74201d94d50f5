import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vitkit.data import synthetic
from vitkit.data.sources import Limits, Source, open_inputs, open_source
from vitkit.errors import DataError, ImageError

PETS = ("cat/1.png", "cat/2", "cat/photo.db", "cat/3.txt.png", "dog 1/ü.jpg", "dog 1/sub/x.bin")


def grey(name: str) -> int:
    """What every pixel of the image of this name is; the last part decides."""
    return sum(name.rpartition("/")[2].encode()) % 256


def make(root: Path, *names: str) -> Path:
    """PNG files whatever their names, each of its own grey; but notes and tars are not."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(("notes.txt", ".tar")):
            (root / name).write_text("BM: what these show")
        else:
            Image.new("RGB", (3, 2), (grey(name),) * 3).save(root / name, "PNG")
    return root


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def check_images(source: Source) -> None:
    for index, sample in enumerate(source.samples):
        np.testing.assert_array_equal(
            source.read(index), np.full((2, 3, 3), grey(sample.name)), sample.name
        )


def rows(source: Source) -> list[tuple[str, str, str | None]]:
    return [(s.name, source.classes[s.label or 0], s.split) for s in source.samples]


@pytest.mark.parametrize("wrapper", ["", "pets/"])
@pytest.mark.parametrize("split", [None, "train", "val"])
@pytest.mark.parametrize("zipped", [False, True])
def test_folder_and_zip(tmp_path: Path, wrapper: str, split: str | None, zipped: bool) -> None:
    names = [f"{wrapper}{split}/{name}" if split else wrapper + name for name in PETS]
    data = make(tmp_path / "data", *names)
    data = pack(data, tmp_path / "x.zip") if zipped else data
    source = open_source(str(data))
    assert source.classes == ("cat", "dog 1")
    expected = ("cat", "cat", "cat", "cat", "dog 1", "dog 1")
    assert rows(source) == sorted((n, c, split) for n, c in zip(names, expected, strict=True))
    assert source.name == str(data)
    check_images(source)
    check_images(pickle.loads(pickle.dumps(source)))


def test_classes_are_in_order_of_characters(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}/1.png" for number in range(11)))
    assert open_source(tmp_path).classes == ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9")


def test_one_class_can_be_measured(tmp_path: Path) -> None:
    assert open_source(make(tmp_path, "cat/1.png", "cat/2.png")).classes == ("cat",)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_manifest(tmp_path: Path, name: str) -> None:
    make(tmp_path, "in/b.png", "in/a.png")
    text = {
        "list.csv": "file_name,label,split\nin/b.png,x,test\nin/a.png,x,train\nin/0.png,y,train\n",
        "list.jsonl": '{"file_name": "in/b.png", "label": "x", "split": "test"}\n'
        '{"file_name": "in/a.png", "label": "x", "split": "train"}\n'
        '{"file_name": "in/0.png", "label": "y", "split": "train"}\n',
    }
    (tmp_path / name).write_text(text[name])
    source = open_source(tmp_path / name)
    assert rows(source) == [
        ("in/0.png", "y", "train"),
        ("in/a.png", "x", "train"),
        ("in/b.png", "x", "test"),
    ]
    assert source.read(1)[0, 0, 0] == grey("a.png")
    with pytest.raises(ImageError, match="No such file"):
        source.read(0)


def test_digits_are_those_of_scikit_learn() -> None:
    source = open_source("digits")
    reference = load_digits()
    assert source.classes == tuple(map(str, range(10)))
    assert [sample.label for sample in source.samples] == reference.target.tolist()
    assert len({sample.name for sample in source.samples}) == 1797
    for index in (0, 900, 1796):
        found = source.read(index)
        assert found.shape == (8, 8, 3) and found.dtype == np.uint8
        for channel in np.moveaxis(found, 2, 0):
            assert np.abs(channel - reference.images[index] / 16 * 255).max() <= 0.5


def test_shapes() -> None:
    source = open_source("shapes:count=40,size=32,seed=5")
    assert len(source.samples) == 40 and source.classes == synthetic.CLASSES
    for index in (0, 39):
        drawn = synthetic.draw(index, seed=5, size=32)
        np.testing.assert_array_equal(source.read(index), drawn.image)
        assert source.samples[index].label == drawn.label
    assert open_source("shapes").read(0).shape == (64, 64, 3)
    (alone,) = open_source("shapes:count=1,size=2048").samples
    assert alone.name == "0" and len(open_source("shapes:count=10000").samples) == 10_000
    names = [sample.name for sample in source.samples]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("shapes:count=0", "count=0 must be a whole number from 1 to 10000000"),
        ("shapes:size=2049", "size=2049 must be a whole number from 16 to 2048"),
        ("shapes:size=big", "size=big must be"),
        ("shapes:sed=1", "'sed' is not an option \\(count, size, seed are\\), did you mean 'seed'"),
        ("digits:8", "digits has no options"),
        ("digit", "digit does not exist, did you mean 'digits'"),
        ("hf-datasets:a/b", "is read for training only; fetch its images"),
    ],
)
def test_built_in_mistakes_are_told(data: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_source(data)


def test_a_folder_named_like_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "digits", *PETS)
    monkeypatch.chdir(tmp_path)
    assert len(open_source("./digits").samples) == len(open_source(Path("digits")).samples) == 6
    assert len(open_source("digits").samples) == 1797


@pytest.mark.parametrize(
    ("files", "data", "told"),
    [
        (("flowers/a/1",), "flower", "does not exist, did you mean 'flowers'"),
        (("flowers/rose/1",), "flowers/roes/x", "does not exist, did you mean 'rose'"),
        ((), "nowhere/at/all", "does not exist; check the path"),
        (("a/1.png",), "a/1.png", "of a kind that is not read; give a folder of class folders"),
        (("a.parquet",), "a.parquet", "of a kind that is not read"),
        (("shards/0.tar", "shards/1.tar"), "shards", "ends too early.*fetch or pack it again"),
        (("fake.zip",), "fake.zip", "not a readable zip"),
        (("a/notes.txt",), "a", "holds no image"),
        (("a/1.png", "a/2.png"), "a", "holds 2 images but no class folders"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, ...],
    data: str,
    told: str,
) -> None:
    make(tmp_path, *files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=told) as error:
        open_source(data)
    assert "\n" not in str(error.value)


def test_an_empty_class_folder_is_told_in_both(tmp_path: Path) -> None:
    data = make(tmp_path / "data", *PETS)
    (data / "emu").mkdir()
    for where in (data, pack(data, tmp_path / "x.zip")):
        with pytest.raises(DataError, match="emu/ holds no image"):
            open_source(where)


def test_limits_reach_the_reader(tmp_path: Path) -> None:
    data = make(tmp_path / "data", "a/1.png", "b/2.png")
    with pytest.raises(ImageError):
        open_source(data, limits=Limits(max_pixels=5)).read(0)
    with pytest.raises(ImageError):
        open_source(data, limits=Limits(max_bytes=20)).read(0)
    packed = pack(data, tmp_path / "x.zip")
    with pytest.raises(ImageError, match="in x.zip, more than max_bytes=20"):
        open_source(packed, limits=Limits(max_bytes=20)).read(0)
    for limit in ({"max_total_bytes": 20}, {"max_members": 1}):
        with pytest.raises(DataError, match=next(iter(limit))):
            open_source(packed, limits=Limits(**limit))
        with pytest.raises(DataError, match=next(iter(limit))):
            open_inputs([packed], limits=Limits(**limit))


def names(*inputs: str | Path) -> list[str]:
    source = open_inputs(inputs)
    assert source.classes == () and all(sample.label is None for sample in source.samples)
    check_images(source)
    return [sample.name for sample in source.samples]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(
        tmp_path, "in/b.png", "in/a.jpg", "in/notes.txt", "in/deep/er/a.jpg", "c.png", "odd[1].png"
    )
    monkeypatch.chdir(tmp_path)
    pack(tmp_path / "in", tmp_path / "z.zip")
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["c.png"], ["c.png"]),
        (["c.png", "in/b.png", "./c.png"], ["c.png", "in/b.png"]),
        (["in"], ["in/a.jpg", "in/b.png", "in/deep/er/a.jpg"]),
        (["in/", "c.png"], ["in/a.jpg", "in/b.png", "in/deep/er/a.jpg", "c.png"]),
        (["z.zip"], ["z.zip/a.jpg", "z.zip/b.png", "z.zip/deep/er/a.jpg"]),
        (["c.png", "z.zip", "in/b.png"], [
            "c.png", "z.zip/a.jpg", "z.zip/b.png", "z.zip/deep/er/a.jpg", "in/b.png"
        ]),
        (["in/*.jpg"], ["in/a.jpg"]),
        (["in/?.*", "*.png"], ["in/a.jpg", "in/b.png", "c.png", "odd[1].png"]),
        (["in/*"], ["in/a.jpg", "in/b.png", "in/deep/er/a.jpg"]),
        (["**/*.jpg"], ["in/a.jpg", "in/deep/er/a.jpg"]),
        (["in/**/*.jpg"], ["in/a.jpg", "in/deep/er/a.jpg"]),
        (["in/**/er/*"], ["in/deep/er/a.jpg"]),
        (["in/**"], ["in/a.jpg", "in/b.png", "in/deep/er/a.jpg"]),
        (["odd[1].png"], ["odd[1].png"]),
        ([Path("c.png")], ["c.png"]),
    ],
)  # fmt: skip
def test_inputs(photos: Path, inputs: list[str | Path], expected: list[str]) -> None:
    assert names(*inputs) == expected
    if not any("z.zip" in str(text) for text in inputs):
        absolute = [photos / text for text in inputs]
        assert names(*absolute) == [str(photos / name) for name in expected]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([], "no input"),
        (["d.png"], "d.png does not exist, did you mean 'c.png'"),
        (["c.png", "*.gif"], r"\*.gif holds no image"),
        (["in/**/*.gif"], "holds no image"),
        (["in/**/x/**"], "has '\\*\\*' twice"),
        (["/dev/null"], "is a device or pipe"),
        (["empty"], "empty holds no image"),
    ],
)
def test_input_mistakes_are_told(photos: Path, inputs: list[str], told: str) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=told) as error:
        open_inputs(inputs)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_image_is_told_when_read(photos: Path) -> None:
    with pytest.raises(ImageError):
        open_inputs(["in/notes.txt"]).read(0)


def test_an_image_is_taken_whatever_its_extension_says(photos: Path) -> None:
    make(photos, "in/photo.db", "in/.photo.db")
    pack(photos / "in", photos / "z.zip")
    assert "in/photo.db" in names("in")
    assert names("in/*.db") == names("in/photo.db") == ["in/photo.db"]
    assert "z.zip/photo.db" in names("z.zip")
    assert not {"in/.photo.db", "z.zip/.photo.db"} & {*names("in"), *names("z.zip")}


def test_links_in_circles_do_not_trap_a_glob(photos: Path) -> None:
    (photos / "in/one").symlink_to(".")
    (photos / "in/two").symlink_to(".")
    assert len(open_inputs(["in/**/*.jpg"]).samples) >= 1


def test_threads_read_the_same(tmp_path: Path) -> None:
    data = make(tmp_path / "data", *(f"{kind}/{number}" for kind in "ab" for number in range(60)))
    for where in (data, pack(data, tmp_path / "x.zip")):
        source = open_source(where)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(source.read, list(range(120)) * 4))
        assert [image[0, 0, 0] for image in found] == [grey(s.name) for s in source.samples] * 4


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    os.rename(tmp_path / "a/1.png", os.fsencode(tmp_path) + b"/a/\xff.png")
    source = open_source(tmp_path)
    assert source.samples[0].name == "a/\udcff.png"
    assert source.read(0).shape == (2, 3, 3)


def test_opening_data_loads_nothing_heavy() -> None:
    code = (
        "import sys, vitkit.data.sources, vitkit.data.split, vitkit.data.audit;"
        "print([m for m in ('torch', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_flowers_zipped_and_unpacked(shared_data: Path, unpacked: Callable[[str], Path]) -> None:
    zipped = open_source(shared_data / "flowers.zip")
    folder = open_source(unpacked("flowers.zip"))
    assert zipped.samples == folder.samples and zipped.classes == folder.classes
    counts = Counter(zipped.classes[sample.label or 0] for sample in zipped.samples)
    assert counts == {"daisy": 764, "dandelion": 1052, "rose": 784, "sunflower": 733, "tulip": 984}
    for index in range(0, 4317, 500):
        np.testing.assert_array_equal(zipped.read(index), folder.read(index))


def test_cifar_opens_fast(shared_data: Path) -> None:
    start = perf_counter()
    source = open_source(shared_data / "cifar10-jpeg.zip")
    seconds = perf_counter() - start  # 0.6 on one quiet core
    counts = Counter((sample.split, sample.label) for sample in source.samples)
    assert counts == {("train", k): 5000 for k in range(10)} | {
        ("test", k): 1000 for k in range(10)
    }
    assert source.read(0).shape == (32, 32, 3)
    assert seconds < 6
