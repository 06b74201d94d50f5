from pathlib import Path

import pytest

from vitkit.data.layout import Row
from vitkit.data.manifest import load_manifest
from vitkit.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, mark: str, end: str) -> None:
    lines = [
        "label,file_name , split,source",
        'cat,"a,b/ü 1.jpg",train,web',
        " dog ,./b\\2.jpg,,",
        "",
        '"7",c//3,Validation,""',
    ]
    path = write(tmp_path, "x.CSV", mark + end.join(lines))
    assert load_manifest(path) == [
        Row("a,b/ü 1.jpg", "cat", "train"),
        Row("b/2.jpg", "dog", None),
        Row("c/3", "7", "val"),
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_jsonl(tmp_path: Path, mark: str) -> None:
    path = write(
        tmp_path,
        "x.jsonl",
        mark + '{"file_name": "a/1.jpg", "label": "c\\u0061t", "split": "test"}\n\n'
        '{"file_name": "a/2.jpg", "label": 3, "split": null, "size": [1, 2]}',
    )
    assert load_manifest(path) == [Row("a/1.jpg", "cat", "test"), Row("a/2.jpg", "3", None)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "\\(its columns: none\\)"),
        ("file_name,label\n", "lists no image"),
        ("filename,label\na,b", "has no column 'file_name'.*did you mean 'filename'"),
        ("file_name;label\na;b", "has no column 'file_name'"),
        (
            "file_name,class\na,b",
            "has no column 'label' \\(its columns: file_name, class\\); name the columns",
        ),
        ("file_name,label,label\na,b,c", "a column twice"),
        ("file_name,label\na,b\nc", "line 3: 1 fields under 2"),
        ("file_name,label\na,b,c", "line 2: 3 fields under 2"),
        ("file_name,label\n/etc/a,b", "line 2: file_name='/etc/a' must be a path below"),
        ("file_name,label\na/../../b,b", "line 2: file_name"),
        ("file_name,label\n..\\b,b", "line 2: file_name"),
        ("file_name,label\nC:\\b,b", "line 2: file_name"),
        ("file_name,label\n,b", "line 2: file_name=''"),
        ("file_name,label\na,b\nc, ", "line 3: label=' '"),
        ("file_name,label,split\na,b,dev", "line 2: split='dev' is none of train, val, test"),
        ("file_name,label\na,b\n./a,c", "line 3: 'a' is on line 2 too"),
        ('file_name,label\n"a,b', "not csv"),
        ("file_name,label\n" + "a" * 200_000 + ",b", "not csv"),
        (b"file_name,label\n\xe4.jpg,b", "is not UTF-8"),
        ("file_name,label\na,b".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_bad_csv_is_told(tmp_path: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as error:
        load_manifest(write(tmp_path, "x.csv", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"file_name": "b", "label": ' + "1" * 5000 + "}", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"file": "b", "label": "x"}', "line 2 has no column 'file_name'.*'file'"),
        ('{"file_name": "b", "label": true}', "line 2: label=True"),
        ('{"file_name": "b", "label": 1.5}', "line 2: label=1.5"),
        ('{"file_name": "b", "label": null}', "line 2: label=None"),
        ('{"file_name": 1, "label": "x"}', "line 2: file_name=1"),
        ('{"file_name": "../b", "label": "x"}', "line 2: file_name"),
        ('{"file_name": "b", "label": "x", "split": 1}', "line 2: split=1"),
        ('{"file_name": "a", "label": "x"}', "line 2: 'a' is on line 1 too"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_bad_jsonl_is_told_with_its_line(tmp_path: Path, second: str | bytes, told: str) -> None:
    first = b'{"file_name": "a", "label": "x"}\n'
    content = first + (second.encode() if isinstance(second, str) else second)
    with pytest.raises(DataError, match=told) as error:
        load_manifest(write(tmp_path, "x.jsonl", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_an_absent_manifest_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_manifest(tmp_path / name)
