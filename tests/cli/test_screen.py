"""What a person sees while a command works."""

import pytest

from vitkit.cli.screen import Screen, counted, visible, warn
from vitkit.progress import Progress


def test_elsewhere_than_on_a_terminal_it_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 10.5, 10.5, 15.0, 21.0, 21.0])
    monkeypatch.setattr("vitkit.cli.screen.time.monotonic", lambda: next(clock))
    with Screen() as screen:
        for done in (100, 1200, 1300, 1500):
            screen(Progress("read", done, 1500))
        screen(Progress("epoch 1/9", 9, 9, figures={"loss": "0.4", "top1": "9%"}, final=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "read         1,200/1,500  ",
        "read         1,500/1,500  ",
        "epoch 1/9    loss 0.4  top1 9%",
    ]


def test_figures_that_a_terminal_is_too_narrow_for_go_on_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "40")
    figures = {"val loss": "1.617", "top1": "25.0%", "time": "0:02 of 0:30"}
    Screen()(Progress("epoch 1", 9, 9, figures=figures, final=True))
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1      val loss 1.617  top1 25.0%",
        "             time 0:02 of 0:30",
    ]


def test_one_is_not_many() -> None:
    assert counted(1, "class", "classes") == "1 class"
    assert counted(2000, "class", "classes") == "2,000 classes"
    assert [counted(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]


def test_an_interrupt_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Screen():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted\n"


def test_a_name_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("[bold]a.png[/bold] :smile: " + "x" * 200)
    assert capsys.readouterr().err == "[bold]a.png[/bold] :smile: " + "x" * 200 + "\n"


def test_names_in_figures_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen(Progress("left out", 1, 1, figures={"a\nb\x1b[2J.png:": "no image"}, final=True))
    assert capsys.readouterr().err == "left out     a\\nb\\x1b[2J.png: no image\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("日本/ü b.gif", "日本/ü b.gif"),
        ("🏳\u200d🌈 \u200c\xa0", "🏳\u200d🌈 \u200c\xa0"),
        ("a\tb\nc\rd\0", "a\\tb\\nc\\rd\\x00"),
        ("\x1b[31m\x7f\x9b2J\x85", "\\x1b[31m\\x7f\\x9b2J\\x85"),
        ("\u2028\u2029\udce9", "\\u2028\\u2029\\udce9"),
    ],
)
def test_only_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn("left out a\n\x1b.png")
    assert capsys.readouterr().err == "vitkit: left out a\\n\\x1b.png\n"


def test_a_warning_says_who_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    warn("left out a.png")
    assert capsys.readouterr().err == "vitkit: left out a.png\n"
