"""Instruct learns conversations of any usual format, says which one it read, and answers a message."""

import json
from pathlib import Path

import pytest

from peftkit import check, predict, run
from peftkit.errors import DataError
from peftkit.resolve import resolve

from ..chats import conversations

SMALL = ["data.test_fraction=0.3", "train.max_steps=2", "evaluate.max_rows=8", "evaluate.bootstrap_samples=20"]
CHATS = conversations(60, seed=1, turns=3)


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sharegpt(messages):
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]}


def pair(messages):
    return {"prompt": messages[0]["content"], "completion": messages[1]["content"]}


def alpaca(messages):
    history = [[one["content"], two["content"]] for one, two in zip(messages[:-2:2], messages[1:-2:2], strict=True)]
    return {"instruction": messages[-2]["content"], "output": messages[-1]["content"], "history": history}


def text(messages):
    return {"text": "\n\n".join(f"{turn['role'].title()}: {turn['content']}" for turn in messages)}


@pytest.mark.parametrize(
    ("format", "made"),
    [("messages", lambda chat: {"messages": chat}), ("sharegpt", sharegpt), ("alpaca", alpaca), ("text", text)],
)
def test_the_check_is_the_same_whatever_the_format(format, made, tiny_model: Path, tmp_path: Path) -> None:
    words = [f"model.path={tiny_model}", "data.test_fraction=0.3"]
    reports = {}
    for name, file in (("messages", lambda chat: {"messages": chat}), (format, made)):
        path = write(tmp_path / f"{name}.jsonl", map(file, CHATS))
        reports[name] = check("instruct", words=[*words, f"data.path={path}"])
    assert reports[format]["format"] == format
    for key in ("read", "kept", "truncated", "rejected", "splits", "example", "length_histogram"):
        assert reports[format][key] == reports["messages"][key]


def test_the_check_shows_what_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", ({"messages": chat} for chat in CHATS))
    report = check("instruct", words=[f"model.path={tiny_model}", f"data.path={path}", "task.system=Be brief."])
    pieces = report["example"]["tokens"]
    marked = "".join(piece["text"] for piece in pieces if piece["trained"])
    (chat,) = [chat for chat in CHATS if chat[0]["content"] in "".join(piece["text"] for piece in pieces)]
    assert marked == "".join(f"{turn['content']}<|im_end|>" for turn in chat if turn["role"] == "assistant")
    assert "".join(piece["text"] for piece in pieces).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert 0.1 < report["splits"]["train"]["trained_share"] < 0.5
    assert report["end_token_trained"]
    assert report["fully_masked"] == 0


def test_a_run_is_judged_by_its_loss_and_its_adapter_answers(tiny_model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", map(pair, CHATS))
    words = [*SMALL, f"model.path={tiny_model}", f"data.path={path}", "evaluate.max_new_tokens=8"]
    result = run("instruct", words=words, out=tmp_path / "run")
    before, after = result.summary["before"], result.summary["after"]
    assert list(after) == ["loss", "perplexity", "token_accuracy"]
    assert after["loss"]["value"] != before["loss"]["value"]
    assert after["perplexity"]["value"] == pytest.approx(2.718281828 ** after["loss"]["value"])
    (answer,) = predict(result.adapter, ["What of the river?"])
    assert set(answer) == {"text", "answer"}


def test_bad_conversations_cost_their_rows(tiny_model: Path, tmp_path: Path) -> None:
    bad = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "king", "content": "a"}]}]
    path = write(tmp_path / "chats.jsonl", [*({"messages": chat} for chat in CHATS), *bad])
    words = [f"model.path={tiny_model}", f"data.path={path}", "data.on_bad_row=skip", "data.max_bad_fraction=0.1"]
    report = check("instruct", words=words)
    assert (report["kept"], report["rejected"]) == (60, 2)
    assert [one["where"] for one in report["rejections"]] == ["chats.jsonl:61", "chats.jsonl:62"]
    assert report["rejections"][0]["reason"] == "no turn is the assistant's, so nothing would be learned"
    assert report["rejections"][1]["reason"].startswith("turn 1 has the role 'king'")


def test_it_asks_for_a_file(tiny_model: Path) -> None:
    with pytest.raises(DataError, match=r"recipe 'instruct' has no embedded data; give your rows with data\.path="):
        check("instruct", words=[f"model.path={tiny_model}"])


def test_longer_conversations_fit_on_larger_machines() -> None:
    lengths = [
        resolve("instruct", preset=preset).config.train.max_length for preset in ("tiny", "12gb", "24gb", "48gb")
    ]
    assert lengths == [512, 2048, 4096, 4096]
