"""Every usual format of conversations is told by its columns, and becomes the same messages."""

import json

import pytest

from peftkit.data.formats import conversation_of, detect_format
from peftkit.data.rows import BadRow, Row
from peftkit.errors import DataError

CALL = {"type": "function", "function": {"name": "depth", "arguments": {"at": "quay", "unit": None}}}
TOOL = {"name": "depth", "parameters": {"type": "object"}}
ASKED = [{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "4 m"}]
SYSTEM = {"role": "system", "content": "Be brief."}

SHARED = [{"from": "human", "value": "How deep?"}, {"from": "gpt", "value": "4 m"}]
TAGGED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow deep?<|im_end|>\n<|im_start|>assistant\n4 m"


def read(values, format=None):
    row = Row("chat.jsonl:1", values)
    return conversation_of(row, format or detect_format(row))


def reason(values, format=None):
    bad = read(values, format)
    assert isinstance(bad, BadRow), bad
    return bad.reason


@pytest.mark.parametrize(
    ("format", "values"),
    [
        ("messages", {"messages": [SYSTEM, *ASKED]}),
        ("messages", {"Conversations": [SYSTEM, *ASKED], "id": 3}),
        ("messages", {"messages": json.dumps([SYSTEM, *ASKED])}),
        ("messages", {"messages": [{"role": "developer", "content": "Be brief."}, *ASKED]}),
        ("messages", {"system": "Be brief.", "messages": ASKED}),
        ("sharegpt", {"conversations": [{"from": "system", "value": "Be brief."}, *SHARED]}),
        ("sharegpt", {"conversations": SHARED, "system": "Be brief."}),
        ("alpaca", {"instruction": "How deep?", "input": "", "output": "4 m", "system": "Be brief."}),
        ("prompt_completion", {"system_prompt": "Be brief.", "question": "How deep?", "response": "4 m"}),
        ("prompt_completion", {"prompt": [SYSTEM, ASKED[0]], "completion": ASKED[1:]}),
        ("text", {"text": "System: Be brief.\n### Human: How deep?\n### Assistant: 4 m\n"}),
        ("text", {"text": TAGGED}),
    ],
)  # fmt: skip
def test_a_format_is_told_and_read(format, values):
    assert detect_format(Row("chat.jsonl:1", values)) == format
    assert read(values) == Row("chat.jsonl:1", {"messages": [SYSTEM, *ASKED]})


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("prompt", "completion"),
        ("prompt", "response"),
        ("question", "answer"),
        ("query", "response"),
        ("input", "output"),
    ],
)
def test_pairs_by_their_usual_names(asked, answered):
    assert read({asked.title(): "How deep?", answered: "4 m"}).values["messages"] == ASKED


def test_alpaca_with_input_and_history():
    values = {"instruction": "And here?", "input": "the quay", "output": "5 m", "history": [["How deep?", "4 m"]]}
    said = [turn["content"] for turn in read(values).values["messages"]]
    assert said == ["How deep?", "4 m", "And here?\n\nthe quay", "5 m"]
    assert read({**values, "history": json.dumps(values["history"])}).values["messages"][0]["content"] == "How deep?"


def test_a_chosen_format_overrides_the_columns():
    values = {"prompt": "How deep?", "completion": "4 m", "messages": [*ASKED, *ASKED]}
    assert len(read(values).values["messages"]) == 4
    assert read(values, "prompt_completion").values["messages"] == ASKED
    assert read({"messages": ASKED}, "columns").values["messages"] == ASKED


@pytest.mark.parametrize("arguments", [{"at": "quay"}, '{"at": "quay"}'])
def test_calls_have_their_arguments_as_objects(arguments):
    call = {"id": "a", "type": "function", "function": {"name": "depth", "arguments": arguments}}
    turns = [
        ASKED[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": {"m": 4}},
    ]
    _, called, gave = read({"messages": turns, "tools": [TOOL]}).values["messages"]
    wanted = {"type": "function", "id": "a", "function": {"name": "depth", "arguments": {"at": "quay"}}}
    assert called == {"role": "assistant", "content": "", "tool_calls": [wanted]}
    assert gave == {"role": "tool", "content": '{"m": 4}'}


def test_calls_of_sharegpt_become_calls():
    turns = [
        {"from": "human", "value": "How deep?"},
        {"from": "function_call", "value": '{"name": "depth", "arguments": {"at": "quay"}}'},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4 m"},
    ]
    row = read({"conversations": turns, "tools": json.dumps([TOOL])})
    assert [turn["role"] for turn in row.values["messages"]] == ["user", "assistant", "tool", "assistant"]
    function = {"name": "depth", "arguments": {"at": "quay"}}
    assert row.values["messages"][1]["tool_calls"] == [{"type": "function", "function": function}]
    assert row.values["tools"] == [{"type": "function", "function": TOOL}]


def test_members_that_a_table_fills_with_null_are_absent():
    turns = [
        {"role": "user", "content": "How deep?", "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "name": "Ann"},
    ]
    user, assistant = read({"messages": turns}).values["messages"]
    assert user == {"role": "user", "content": "How deep?"}
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"at": "quay"}
    assert assistant["name"] == "Ann"


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "deep?"}]
    assert read({"messages": [{"role": "user", "content": parts}, ASKED[1]]}).values["messages"] == ASKED


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "the conversation is empty"),
        ([ASKED[0]], "no turn is the assistant's, so nothing would be learned"),
        ([ASKED[0], {**ASKED[1], "weight": 0}], "no turn is the assistant's, so nothing would be learned"),
        ([{"role": "narrator", "content": "x"}, *ASKED], "turn 1 has the role 'narrator'; the roles are system, user,"),
        ([{"content": "x"}, *ASKED], "turn 1 has no role"),
        (["hello", *ASKED], "turn 1 is not an object with role and content"),
        ([ASKED[0], {"role": "assistant", "content": " "}], "turn 2 (assistant) is empty"),
        ([{"role": "user"}, ASKED[1]], "turn 1 (user) is empty"),
        ([{"role": "user", "content": 7}, ASKED[1]], "turn 1 (user): the content is int, not text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ASKED[1]], "turn 1 holds a part of type 'image_url'"),
        ([{**ASKED[0], "tool_calls": [CALL]}, ASKED[1]], "turn 1: tool_calls is not a list of the assistant's calls"),
        ([ASKED[0], {**ASKED[1], "tool_calls": [{"name": "f", "arguments": "x"}]}], "turn 2: the arguments of 'f'"),
        ([ASKED[0], {**ASKED[1], "tool_calls": [{"arguments": "{}"}]}], "turn 2: a call in tool_calls names no"),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_used_says_why(turns, said):
    assert reason({"messages": turns}, "messages").startswith(said)


@pytest.mark.parametrize(
    ("values", "format", "said"),
    [
        ({"messages": "hello"}, "messages", "the conversation is not a list of messages"),
        ({"prompt": "a"}, "prompt_completion", "no value in completion or response or answer"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "alpaca", "history is not a list of pairs"),
        ({"instruction": ["a"], "output": "b"}, "alpaca", "instruction or input is not text"),
        ({"text": "It rained. User: a Assistant: b"}, "text", "the text does not begin with User: or another speaker"),
        ({"messages": ASKED, "tools": "depth"}, "messages", "tools is not a list of objects"),
    ],
)
def test_a_row_that_is_not_of_its_format_says_why(values, format, said):
    assert reason(values, format).startswith(said)


@pytest.mark.parametrize("values", [{"text": "It rained all day."}, {"title": "a", "body": "b"}, {"messages": "hello"}])
def test_what_is_no_conversation_says_what_to_give(values):
    column = next(iter(values))
    with pytest.raises(DataError, match=rf"chat\.jsonl:1 holds no conversation .*'{column}'.*take recipe 'completion'"):
        detect_format(Row("chat.jsonl:1", values))
