"""Every row is accounted for, and no limit moves a row to another split."""

import json

import pytest

from peftkit.data.encoders import make_encoder
from peftkit.data.prepare import prepare_data
from peftkit.data.read import read_data
from peftkit.errors import DataError
from peftkit.model.load import find_model, load_tokenizer
from peftkit.resolve import resolve

from ..stages import Stages

GOOD_WORDS = ("good", "great", "lovely", "fine", "warm", "bright")
BAD_WORDS = ("bad", "awful", "dull", "poor", "cold", "bleak")


def rows(count=120, start=0):
    """Texts that share no three words in a row."""
    for number in range(start, start + count):
        label = ("negative", "positive")[number % 2]
        word = (BAD_WORDS, GOOD_WORDS)[number % 2][number % 6]
        yield {"text": f"n{number} {word} x{number * 7919} film{number} by{number}", "label": label}


def write(path, given):
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path


@pytest.fixture
def prepare(tiny_model, tmp_path):
    def prepared(given, *words):
        path = given if not isinstance(given, list) else write(tmp_path / "rows.jsonl", given)
        return Stages.of([f"model.path={tiny_model}", f"data.path={path}", *words]).data

    return prepared


SKIP = ("data.on_bad_row=skip", "data.max_bad_fraction=0.2")
BROKEN = [
    ({"text": "no label"}, "label", "missing"),
    ({"text": " ", "label": "positive"}, "text", "empty"),
    ({"text": None, "label": "positive"}, "text", "missing"),
    ({"text": ["a"], "label": "positive"}, "text", "an array, not text"),
    ({"text": "of a third kind", "label": "mixed"}, "label", "'mixed' is not one of negative, positive"),
]


def test_read_is_kept_and_truncated_and_rejected(prepare):
    given = list(rows(100))
    given[10]["text"] = "long " * 100
    given[20]["text"] = "longer " * 100
    given[40:40] = [row for row, *_ in BROKEN]
    data = prepare(given, *SKIP)
    report = data.report
    counted = {name: report[name] for name in ("read", "kept", "truncated", "rejected", "left_out")}
    assert counted == {"read": 105, "kept": 98, "truncated": 2, "rejected": 5, "left_out": 0}
    assert sum(report["available"].values()) == 100
    used = [*data.train, *data.validation, *data.test]
    assert len(used) == 100
    assert sum(example.truncated for example in used) == 2
    assert max(map(len, used)) <= 256


def test_each_rejected_row_has_its_place_and_reason(prepare):
    given = list(rows(100))
    given[40:40] = [row for row, *_ in BROKEN]
    data = prepare(given, *SKIP)
    found = {row.where: row for row in data.rejected}
    for number, (_, column, reason) in enumerate(BROKEN):
        row = found[f"rows.jsonl:{41 + number}"]
        assert row.column == column
        assert row.reason.startswith(reason)
    assert data.report["rejections"] == [
        {"where": row.where, "column": row.column, "reason": row.reason} for row in data.rejected
    ]


def test_a_bad_row_stops_a_run_unless_it_may_be_left_out(prepare):
    given = [*rows(50), BROKEN[1][0]]
    with pytest.raises(DataError, match=r"rows\.jsonl:51, column 'text': empty.*data\.on_bad_row=skip"):
        prepare(given)
    with pytest.raises(DataError, match=r"1 of 51 rows are bad \(2\.0%\), more than data\.max_bad_fraction=0\.01"):
        prepare(given, "data.on_bad_row=skip")


def chats(count=60):
    for number in range(count):
        said = f"Say it: n{number} x{number * 7919} y{number * 31}"
        yield {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": f"It is {number}."}]}


TOO_LONG = {"messages": [{"role": "user", "content": "long " * 200}, {"role": "assistant", "content": "Yes."}]}


def prepared_chats(tiny_model, path, *words):
    own = (f"model.path={tiny_model}", f"data.path={path}", "task.system=null", "train.max_length=128")
    resolved = resolve("instruct", words=[*own, *words])
    tokenizer = load_tokenizer(find_model(resolved.config.model))
    found = read_data(resolved.config, resolved.recipe)
    return prepare_data(resolved.config, found, make_encoder("causal", tokenizer, resolved.config))


def test_rows_that_the_encoder_refuses_are_left_out_and_counted(tiny_model, tmp_path):
    given = list(chats())
    given[7:7] = [TOO_LONG]
    given += [{"messages": "none"}, TOO_LONG]
    path = write(tmp_path / "chats.jsonl", given)
    data = prepared_chats(tiny_model, path, *SKIP, "data.train_rows=5", "data.test_fraction=0.3")
    report = data.report
    counted = {name: report[name] for name in ("read", "kept", "truncated", "rejected")}
    assert counted == {"read": 63, "kept": 60, "truncated": 0, "rejected": 3}
    assert sum(report["available"].values()) == 60
    assert (len(data.train), report["quality"]["rows"]) == (5, 60)
    reasons = {row.where: row.reason for row in data.rejected}
    assert set(reasons) == {"chats.jsonl:8", "chats.jsonl:62", "chats.jsonl:63"}
    assert reasons["chats.jsonl:8"].startswith("the conversation needs ")
    assert "raise train.max_length" in reasons["chats.jsonl:63"]
    assert not {"chats.jsonl:8", "chats.jsonl:63"} & set(split_of(data))


def test_left_out_rows_change_nothing_for_the_others(tiny_model, tmp_path):
    given = list(chats())
    path = write(tmp_path / "chats.jsonl", given)
    whole = prepared_chats(tiny_model, path, *SKIP, "data.train_rows=9")
    write(path, [*given, TOO_LONG])
    assert prepared_chats(tiny_model, path, *SKIP, "data.train_rows=9").train == whole.train


def test_too_many_rows_that_the_encoder_refuses_stop_a_run(tiny_model, tmp_path):
    path = write(tmp_path / "chats.jsonl", [*chats(18), TOO_LONG, TOO_LONG])
    with pytest.raises(DataError, match=r"^chats\.jsonl:19: the conversation needs"):
        prepared_chats(tiny_model, path)
    message = r"2 of 20 rows are bad \(10\.0%\), more than data\.max_bad_fraction=0\.01.*chats\.jsonl:19: the conv"
    with pytest.raises(DataError, match=message):
        prepared_chats(tiny_model, path, "data.on_bad_row=skip")
    write(path, [TOO_LONG] * 3)
    with pytest.raises(DataError, match=r"none of 3 rows can be used.*chats\.jsonl:1: the conversation needs"):
        prepared_chats(tiny_model, path, "data.on_bad_row=skip", "data.max_bad_fraction=1")


def test_labels_are_written_as_the_task_names_them(prepare):
    given = list(rows(90))
    for number, row in enumerate(given):
        row["label"] = {"negative": ("0", "NEGATIVE", 0), "positive": ("Pos", "Positive ", "pos")}[row["label"]][
            number % 3
        ]
    data = prepare(given, "data.label_names.0=negative", "data.label_names.pos=positive")
    used = [*data.train, *data.validation, *data.test]
    assert len(used) == 90
    for example in used:
        positive = any(f" {word} " in example.columns["text"] for word in GOOD_WORDS)
        assert example.expected == ("positive" if positive else "negative")
    assert sum(split["labels"]["positive"] for split in data.report["splits"].values()) == 45


def split_of(data):
    return {example.where: name for name in ("train", "validation", "test") for example in getattr(data, name)}


def test_splits_are_disjoint_and_near_duplicates_stay_together(prepare):
    given = list(rows(120))
    given += [{**row, "text": row["text"].upper() + " !"} for row in given[:40]]
    data = prepare(given, "data.test_fraction=0.3", "data.validation_fraction=0.2")
    split = split_of(data)
    assert len(split) == 160
    assert data.report["near_duplicates"] == 40
    for number in range(40):
        assert split[f"rows.jsonl:{number + 1}"] == split[f"rows.jsonl:{number + 121}"]
    assert len(set(split.values())) == 3


def test_limits_leave_rows_in_their_splits_and_take_the_first_of_one_order(prepare):
    given = list(rows(200))
    shares = ("data.test_fraction=0.3", "data.validation_fraction=0.1")
    whole = prepare(given, *shares)
    small = prepare(given, *shares, "data.train_rows=20", "evaluate.max_rows=7")
    assert (len(small.train), len(small.test)) == (20, 7)
    assert small.train == whole.train[:20]
    assert small.test == whole.test[:7]
    assert small.validation == whole.validation
    assert small.report["available"] == whole.report["available"]
    assert small.report["splits"]["train"]["rows"] == 20
    assert prepare(given, *shares, "evaluate.max_rows=0").test == []


def test_the_order_of_the_file_does_not_matter(prepare):
    given = list(rows(100))
    forward = prepare(given)
    backward = prepare(given[::-1])
    for name in ("train", "validation", "test"):
        texts = [[example.columns["text"] for example in getattr(data, name)] for data in (forward, backward)]
        assert texts[0] == texts[1]


def test_rows_of_a_test_file_are_all_held_out(prepare, tmp_path):
    held_out = write(tmp_path / "held.jsonl", rows(30, start=500))
    data = prepare(list(rows(100)), f"data.test_path={held_out}")
    assert sorted(example.where for example in data.test) == sorted(f"held.jsonl:{number}" for number in range(1, 31))
    assert len(data.train) + len(data.validation) == 100
    assert data.report["read"] == 130
    assert [source["name"] for source in data.report["source"]["sources"]] == ["rows.jsonl", "held.jsonl"]


def test_held_out_rows_that_are_trained_on_are_refused(prepare, tmp_path):
    given = list(rows(100))
    copy = {**given[6], "text": given[6]["text"].upper()}
    held_out = write(tmp_path / "held.jsonl", [*rows(3, start=500), copy])
    message = r"1 held-out rows also stand among the training rows \(first: held\.jsonl:4 is rows\.jsonl:7\)"
    with pytest.raises(DataError, match=message):
        prepare(given, f"data.test_path={held_out}")


def test_the_report_is_json_and_says_what_is_trained(prepare):
    data = prepare(list(rows(100)))
    report = json.loads(json.dumps(data.report, allow_nan=False))
    assert report == data.report
    assert report["end_token_trained"] is True
    assert report["fully_masked"] == 0
    tokens = report["example"]["tokens"]
    assert "".join(token["text"] for token in tokens if token["trained"]) == f"{data.train[0].expected}<|im_end|>"
    assert data.train[0].columns["text"] in "".join(token["text"] for token in tokens if not token["trained"])
    lengths = [len(example) for example in data.train]
    assert report["splits"]["train"]["tokens"]["total"] == sum(lengths)
    assert report["splits"]["train"]["tokens"]["max"] == max(lengths)
    trained = sum(len(example.completion_ids) for example in data.train)
    assert report["splits"]["train"]["trained_share"] == pytest.approx(trained / sum(lengths))
    assert sum(report["length_histogram"]["counts"]) == len(data.train)


def test_characters_of_several_tokens_are_shown_whole(prepare):
    data = prepare([{**row, "text": f"☂ é {row['text']} 日本"} for row in rows(40)])
    texts = [token["text"] for token in data.report["example"]["tokens"]]
    assert {"☂", "é", "日", "本"} <= set(texts)
    assert not any("\ufffd" in text for text in texts)


def test_files_are_known_by_name_size_and_hash(prepare, tmp_path):
    import hashlib

    prepared = prepare(list(rows(40)))
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert prepared.report["source"] == {
        "name": "rows.jsonl",
        "sources": [{"name": "rows.jsonl", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}],
    }


def test_without_usable_rows_there_is_a_data_error(prepare):
    with pytest.raises(DataError, match="row"):
        prepare([])
    with pytest.raises(DataError, match="no training rows are left"):
        prepare(list(rows(1)) * 3, "data.test_fraction=0.99", "data.validation_fraction=0")
