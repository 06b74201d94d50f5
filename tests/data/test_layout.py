import pytest

from vitkit.data.layout import arrange, extension, may_be_image, split_name
from vitkit.errors import DataError

PLAIN = ["cat/1.jpg", "cat/more/2.jpg", "dog/1.jpg"]


def placed(names: list[str], folders: tuple[str, ...] = ()) -> list[tuple[str, str, str | None]]:
    return [tuple(row) for row in arrange(names, folders, where="pets")[0]]


@pytest.mark.parametrize("wrapper", ["", "pets/", "a/b c/"])
def test_class_folders(wrapper: str) -> None:
    assert placed([wrapper + name for name in PLAIN]) == [
        (wrapper + "cat/1.jpg", "cat", None),
        (wrapper + "cat/more/2.jpg", "cat", None),
        (wrapper + "dog/1.jpg", "dog", None),
    ]


@pytest.mark.parametrize("wrapper", ["", "pets/", "a/b c/"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits_above_class_folders(wrapper: str, val: str) -> None:
    names = [f"{wrapper}train/ünï/1", f"{wrapper}{val}/ünï/2", f"{wrapper}test/b b/3"]
    assert placed(names) == [
        (names[0], "ünï", "train"),
        (names[1], "ünï", "val"),
        (names[2], "b b", "test"),
    ]


def test_one_split_alone_is_not_a_wrapper() -> None:
    assert [row[2] for row in placed(["test/cat/1.jpg", "test/dog/1.jpg"])] == ["test", "test"]


def test_a_class_may_be_called_train() -> None:
    assert placed(["bus/1.jpg", "train/1.jpg"]) == [
        ("bus/1.jpg", "bus", None),
        ("train/1.jpg", "train", None),
    ]


def test_files_beside_class_folders_are_skipped_and_told() -> None:
    rows, skipped = arrange(["pets/a/1.jpg", "pets/b/1.jpg", "pets/cover.jpg", "x"], (), where="z")
    assert [row.label for row in rows] == ["a", "b"]
    assert skipped == ("pets/cover.jpg", "x")


@pytest.mark.parametrize(
    ("names", "folders", "told"),
    [
        ([], (), "holds no image"),
        (["1.jpg", "2.jpg"], (), "pets holds 2 images but no class folders; put them"),
        (["in/1.jpg"], ("in/",), None),  # one class: enough to measure
        (["train/1.jpg", "test/1.jpg"], (), "no class folders"),
        (["a/1.jpg", "b/1.jpg"], ("a/", "b/", "c c/"), "pets/c c/ holds no image"),
        (["x/a/1", "x/b/1"], ("x/", "x/a/", "x/b/", "x/c/"), "pets/x/c/ holds no image"),
        (["train/a/1", "train/b/1"], ("train/c/",), "train/c/ holds no image"),
        (["train/a/1", "train/b/1"], ("test/",), "test/ holds no image"),
        (["train/a/1", "train/b/1", "test/a/1"], ("test/b/",), None),
        (["train/a/1", "test/a/1", "docs/1.jpg"], (), "'docs' beside the split 'test'"),
        (["train/a/1", "train/b/1"], ("train/", "notes/", "notes/x/"), None),
        (["a/1", "b/1"], ("a/", "a/empty/", "b/"), None),
    ],
)
def test_a_layout_that_cannot_be_used_is_told(
    names: list[str], folders: tuple[str, ...], told: str | None
) -> None:
    if told is None:
        assert arrange(names, folders, where="pets")[0]
        return
    with pytest.raises(DataError) as error:
        arrange(names, folders, where="pets")
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/1.jpg", True),
        ("a/1", True),
        ("a/1.dat", True),
        ("a.txt/1.JPG", True),
        ("a/LABELS.TXT", False),
        ("a/Thumbs.db", False),
        ("a/.DS_Store", False),
        (".git/1.jpg", False),
        ("__MACOSX/a/._1.jpg", False),
        ("a/.ipynb_checkpoints/1.jpg", False),
    ],
)
def test_what_may_be_an_image(name: str, expected: bool) -> None:
    assert may_be_image(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"), [("a.b/c", ""), ("a/.c", ""), ("a/b.C", ".c"), ("x.tar.gz", ".gz")]
)
def test_extension(name: str, expected: str) -> None:
    assert extension(name) == expected


def test_split_names() -> None:
    names = ["train", "Training", "valid", "VALIDATION", "test", "cats"]
    assert list(map(split_name, names)) == ["train", "train", "val", "val", "test", None]
