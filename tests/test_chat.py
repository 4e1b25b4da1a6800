"""`peftkit chat`: who answers, what a conversation holds, its commands, and Ctrl-C."""

import functools
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peftkit import chat as chats
from peftkit.adapter.trained import open_adapters
from peftkit.judge import predict
from peftkit.serve.asking import asking_base, asking_of
from peftkit.ui import UI

from .serve.adapters import adapter
from .serve.lively import lively
from .serve.reference import chat_ids, generated, text_of

pytestmark = pytest.mark.xdist_group("chat")

HELLO = "What of the river?"


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Path:
    return lively(tiny_model)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chat")
    return {
        "talk": adapter(base, folder / "talk", "instruct", seed=3),
        "mood": adapter(base, folder / "mood", "sentiment", "evaluate.max_new_tokens=20", seed=1),
    }


@pytest.fixture
def say(adapters, capfd, monkeypatch):
    """A whole chat from lines of standard input; gives what it wrote to the two streams."""

    def run(*lines, **settings):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capfd.readouterr()
        chats.chat(adapters, **{"max_new_tokens": 30} | settings)
        return capfd.readouterr()

    return run


def expected(base, adapter, *messages, count=30):
    turns = [{"role": role, "content": text} for role, text in messages]
    return text_of(base, generated(base, adapter, chat_ids(base, turns), count))


def test_a_conversation_is_kept_and_answers_are_those_of_generate(say, base, adapters):
    first = expected(base, adapters["talk"], ("user", HELLO))
    second = expected(base, adapters["talk"], ("user", HELLO), ("assistant", first), ("user", "Why?"))
    said = say(HELLO, "", "Why?", "/reset", HELLO)
    assert said.out.split("\n") == [first, second, first, ""]
    assert "talk answers the whole conversation" in said.err
    assert second != expected(base, adapters["talk"], ("user", "Why?"))


def test_a_system_prompt_stands_before_everything(say, base, adapters):
    found = say(HELLO, system="Be brief.").out
    assert found == expected(base, adapters["talk"], ("system", "Be brief."), ("user", HELLO)) + "\n"


def test_adapters_are_changed_in_the_middle_and_the_base_is_one_of_them(say, base, adapters):
    said = say("/adapter base", HELLO, "/adapter", "/adapter nobody", "/adapter talk", "Why?")
    first = expected(base, None, ("user", HELLO))
    second = expected(base, adapters["talk"], ("user", HELLO), ("assistant", first), ("user", "Why?"))
    assert said.out.split("\n") == [first, second, ""]
    assert "there are: talk, mood, base; base answers now" in said.err
    assert "there is no adapter 'nobody'; there are:" in said.err
    assert say(HELLO, base=True).out == first + "\n"


def test_a_recipe_with_a_wording_asks_each_message_so_and_says_it(say, base, adapters):
    asked = [one["answer"] for one in predict(adapters["mood"], [HELLO, "Why?"])]
    said = say("/adapter mood", HELLO, "Why?", max_new_tokens=None)
    assert [line.strip() for line in said.out.split("\n")] == [*asked, ""]
    after = expected(base, adapters["talk"], ("user", "And now?"))
    assert say("/adapter mood", HELLO, "/adapter talk", "And now?").out.endswith(f"\n{after}\n")
    assert "mood asks each message in its recipe's wording, as predict does, and apart from the others" in said.err
    plain = say("/adapter mood", HELLO, system="Talk.")
    assert plain.out == expected(base, adapters["mood"], ("system", "Talk."), ("user", HELLO)) + "\n"
    assert "mood answers the whole conversation" in plain.err


def test_commands(say):
    said = say("/help", "/dance", "/quit", HELLO)
    assert said.out == ""
    assert "/adapter NAME" in said.err
    assert "there is no command /dance; /help lists them" in said.err


def test_a_conversation_that_is_too_long_says_so_and_goes_on(say, base, adapters):
    said = say("x" * 3000, HELLO)
    assert "warning: the conversation fills the 2048 tokens that the model reads" in said.err
    assert said.out == expected(base, adapters["talk"], ("user", HELLO)) + "\n"


class Interrupted(UI):
    """Sends the signal of Ctrl-C after some pieces of an answer."""

    pieces = 0

    def piece(self, text):
        super().piece(text)
        self.pieces += 1
        if self.pieces == 6:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stops_the_answer_and_not_the_chat(base, adapters, capfd):
    trained = dict(zip(adapters, open_adapters(list(adapters.values())), strict=True))
    models = {name: asking_of(name, one) for name, one in trained.items()}
    models["base"] = asking_base("base", trained["talk"])
    one = chats.Chat(trained["talk"].model, models, "base", max_new_tokens=40, ui=Interrupted())
    whole = expected(base, None, ("user", HELLO), count=40)
    assert one.hear(HELLO)
    begun = capfd.readouterr().out
    assert 0 < len(begun) < len(whole)
    assert whole.startswith(begun)
    assert [turn["content"] for turn in one.messages] == [HELLO, begun]
    one.hear("/reset")
    one.hear("/adapter talk")
    assert one.hear(HELLO)
    assert capfd.readouterr().out == expected(base, adapters["talk"], ("user", HELLO), count=40) + "\n"


def test_on_a_terminal_there_is_a_prompt_and_ctrl_c_at_it_ends_nothing(adapters):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "peftkit", "chat", str(adapters["talk"]), "--max-new-tokens", "5"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"},
    )
    os.close(theirs)
    shown = ""

    def read_until(pattern, again=lambda: None):
        nonlocal shown
        waited = 0
        while not re.search(pattern, shown):
            if select.select([ours], [], [], 4)[0]:
                shown += os.read(ours, 4096).decode()
                continue
            waited += 1
            assert waited < 30, shown
            again()
        found, shown = shown, ""
        return found

    assert "/help lists the commands" in read_until("talk> $")
    interrupt = functools.partial(process.send_signal, signal.SIGINT)
    interrupt()  # one that comes between the prompt and readline's wait is seen with the next key alone
    assert "/quit or Ctrl-D ends the chat" in read_until("talk> $", again=interrupt)
    os.write(ours, b"/adapter base\n")
    read_until("base> $")
    os.write(ours, b"What of the river?\n")
    assert re.search(r"river\?\r\n.{3,}\r\n", read_until("\nbase> $"))
    os.write(ours, b"\x04")
    assert process.wait(60) == 0
    os.close(ours)
