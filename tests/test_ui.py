"""What a person sees, with and without a terminal, and what a program gets with --json."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from peftkit import ui as module
from peftkit.ui import UI, duration, percent, size

TOKENS = [
    {"text": "<|im_start|>", "trained": False},
    {"text": "a fine [film]", "trained": False},
    {"text": "posi", "trained": True},
    {"text": "tive", "trained": True},
]


def test_without_a_terminal_trained_tokens_stand_in_brackets(capsys):
    UI().example(TOKENS)
    assert capsys.readouterr().out == "<|im_start|>a fine [film][[positive]]\n"


def test_brackets_close_before_what_is_not_trained(capsys):
    UI().example([*TOKENS, {"text": "\n", "trained": False}, {"text": "end", "trained": True}])
    assert capsys.readouterr().out == "<|im_start|>a fine [film][[positive]]\n[[end]]\n"


def test_on_a_terminal_trained_tokens_have_a_colour(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        module,
        "_console",
        lambda *, stderr: Console(file=screen, force_terminal=True, color_system="standard", width=80),
    )
    UI().example(TOKENS)
    shown = screen.getvalue()
    assert "[[" not in shown
    assert "\x1b[1;30;42mposi" in shown
    assert "\x1b[2ma fine [film]" in shown


def test_plain_output_has_no_escapes_and_no_markup(capsys):
    say = UI()
    say.stage("1/6 Data")
    say.say("[bold]as it is[/bold] :smile:", style="bold")
    say.table(("name", ">count"), [("a", 1), ("[red]bee[/red]", 12345)], title="Counts")
    say.warn("[x]")
    say.error("no [y]")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "[bold]as it is[/bold] :smile:" in out
    rows = [line.split() for line in out.splitlines() if line]
    assert rows[:2] == [["1/6", "Data"], ["[bold]as", "it", "is[/bold]", ":smile:"]]
    assert rows[2:] == [["Counts"], ["name", "count"], ["a", "1"], ["[red]bee[/red]", "12345"]]
    assert err == "warning: [x]\nerror: no [y]\n"


def test_columns_of_numbers_are_set_to_the_right(capsys):
    UI().table(("name", ">count"), [("a", 1), ("b", 12345)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len({len(line) for line in lines}) == 1


def test_rows_cannot_command_the_terminal(capsys):
    say = UI()
    say.say("\x1b]0;title\x07 \x1b[2J")
    say.table(("text",), [("\x1b[31mred\x9b",)])
    say.example([{"text": "a\x1b[8mb\x00", "trained": True}])
    say.error("\x1b[1A")
    out, err = capsys.readouterr()
    assert not set(out + err) & {"\x1b", "\x07", "\x9b", "\x00"}
    assert r"\x1b]0;title\x07 \x1b[2J" in out
    assert r"[[a\x1b[8mb\x00]]" in out


@pytest.mark.parametrize("settings", [{"as_json": True}, {"quiet": True}])
def test_json_and_quiet_are_silent_but_for_warnings(capsys, settings):
    say = UI(**settings)
    say.stage("stage")
    say.say("line")
    say.note("note")
    say.table(("a",), [("b",)])
    say.example(TOKENS)
    with say.progress("step", 3) as bar:
        bar.to(1, "detail", 4)
        bar.to(4)
    assert capsys.readouterr() == ("", "")
    say.warn("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")


def test_json_is_one_value_on_standard_output(capsys):
    value = {"text": "naïve ☂ \x1b", "share": 0.5, "none": None, "rows": [1, 2]}
    UI(as_json=True).json(value)
    out, err = capsys.readouterr()
    assert json.loads(out) == value
    assert "naïve ☂" in out
    assert "\x1b" not in out
    assert err == ""


def test_progress_in_a_log_is_a_line_at_intervals_and_at_the_end(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 16.0, 17.0, 90.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with UI().progress("step", 0) as bar:
        bar.to(1, "loss 2.0", 8)  # after 1 s: too early
        bar.to(2, "loss 1.5", 8)  # after 16 s
        bar.to(3, "loss 1.2", 8)  # 1 s later: too early
        bar.to(8, "loss 1.0", 8)  # the end
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  step 2/8  loss 1.5  0:16 gone, about 0:48 left",
        "  step 8/8  loss 1.0  1:30 gone, about 0:00 left",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (19_560_000, "19.6 MB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (2_500_000_000, "2.50 GB"),
        (7_320_000_000_000, "7320.00 GB"),
    ],
)
def test_sizes_are_written_in_decimal_units(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (4.26, "4.3 s"), (59.4, "59.4 s"), (59.6, "1 min 0 s"), (200.4, "3 min 20 s")]
)
def test_durations_are_written_in_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0.0%"), (0.8625, "86.2%"), (1, "100.0%"), (-0.031, "-3.1%")])
def test_shares_are_written_as_percentages(value, text):
    assert percent(value) == text
