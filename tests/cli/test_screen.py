"""What a person sees while a command works."""

import pytest

from vitkit.cli.screen import Screen, warn
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


def test_an_interrupt_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Screen():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted\n"


def test_a_name_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("[bold]a.png[/bold] :smile: " + "x" * 200)
    assert capsys.readouterr().err == "[bold]a.png[/bold] :smile: " + "x" * 200 + "\n"


def test_a_warning_says_who_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    warn("left out a.png")
    assert capsys.readouterr().err == "vitkit: left out a.png\n"
