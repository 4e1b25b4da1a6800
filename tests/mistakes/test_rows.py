"""Mistakes in the rows: columns, values, labels, scores, weights, and rows that are held out and trained on."""

from .exercise import Argv, Case, Command, Place, check_case, checked, row_file, table

LINE = '{"text": "good film", "label": "positive"}\n'
BAD_LINE = '{"text": "good film", "label": \n'
LABELLED = "text,label\n" + "".join(f"text {n} word{n} of {n * 7919},{'ab'[n % 2]}\n" for n in range(40))
MANY = "text,label\n" + "".join(f"text {n} word{n},label {n}\n" for n in range(60))


def labelled(*words: str) -> Argv:
    """A check of rows with the labels a and b, which the recipe does not know."""
    return row_file("a.csv", LABELLED, *words, recipe="classification")


def several(content: str) -> Argv:
    return row_file("a.jsonl", LINE + content, "task.multi_label=true", recipe="classification")


def held_out(content: str, *words: str) -> Argv:
    """A check of rows with the labels a and b, and of held-out rows."""
    return lambda place: place.rows(
        "a.csv", LABELLED, f"data.test_path={place.file('held.csv', content)}", *words, recipe="classification"
    )


def beside(name: str, content: str, *words: str) -> Argv:
    """A check of rows with the labels a and b, and of another source beside it."""
    return lambda place: place.check(
        f'data.path=["{place.file("a.csv", LABELLED)}", "{place.file(name, content)}"]', *words, recipe="classification"
    )


ROWS = [
    Case(
        "missing column",
        lambda place: place.rows("a.csv", "a,label\nx,positive\n"),
        3,
        ("known as 'text'", "'a', 'label'", "data.columns.text="),
    ),
    Case(
        "ambiguous columns",
        lambda place: place.rows("a.csv", "body,review,label\nx,y,positive\n"),
        3,
        ("'body' or 'review'", "data.columns.text=body"),
    ),
    Case(
        "wrong column", lambda place: place.check("data.columns.text=txt"), 3, ("data.columns.text=txt", "mean 'text'")
    ),
    Case(
        "unknown label",
        lambda place: place.rows("a.csv", "text,label\nx,pos\n"),
        3,
        ("a.csv:2, column 'label': 'pos'", "negative, positive", "data.label_names.pos="),
    ),
    Case(
        "empty text",
        lambda place: place.rows("a.csv", "text,label\nx,positive\n ,positive\n"),
        3,
        ("a.csv:3, column 'text': empty", "data.on_bad_row=skip"),
    ),
    Case(
        "null text",
        lambda place: place.rows("a.jsonl", LINE + LINE.replace('"good film"', "null")),
        3,
        ("a.jsonl:2, column 'text': missing",),
    ),
    Case(
        "nested text",
        lambda place: place.rows("a.jsonl", LINE.replace('"good film"', '{"a": 1}')),
        3,
        ("a.jsonl:1, column 'text': an object, not text",),
    ),
    Case(
        "bad rows",
        lambda place: place.rows("a.jsonl", LINE + BAD_LINE * 3),
        3,
        ("a.jsonl:2: not JSON", "(and 2 more)", "data.on_bad_row=skip"),
    ),
    Case(
        "too many bad rows",
        lambda place: place.rows("a.jsonl", BAD_LINE * 60 + place.good_rows(), "data.on_bad_row=skip"),
        3,
        ("60 of 300 rows are bad (20.0%)", "data.max_bad_fraction=0.01", "mend them or raise it", "a.jsonl:1"),
    ),
    Case(
        "all rows bad",
        lambda place: place.rows("a.jsonl", BAD_LINE * 3, "data.on_bad_row=skip", "data.max_bad_fraction=1"),
        3,
        ("none of 3 rows can be used", "a.jsonl:1: not JSON"),
    ),
    Case(
        "no training rows",
        lambda place: place.rows("a.jsonl", LINE, "data.test_fraction=0.999", "data.validation_fraction=0"),
        3,
        ("no training rows are left of 1", "data.test_fraction"),
    ),
    Case(
        "overlap",
        lambda place: place.check(f"data.test_path={place.file('held.jsonl', place.good_rows().splitlines()[0])}"),
        3,
        ("1 held-out rows also stand among the training rows", "held.jsonl:1 is reviews.jsonl:"),
    ),
    Case(
        "too short",
        lambda place: place.check("train.max_length=20"),
        3,
        ("the prompt needs 106 tokens", "the answer 9", "raise train.max_length"),
    ),
]

LABELS = [
    Case(
        "one label",
        row_file("a.csv", "text,label\nx,spam\ny,spam\n", recipe="classification"),
        3,
        ("the rows have the label 'spam' alone", "at least two labels"),
    ),
    Case(
        "a label for each row",
        row_file("a.csv", MANY, recipe="classification"),
        3,
        ("60 different labels", "data.columns.label=", "task.labels=", "a recipe for scores"),
    ),
    Case("name of no label", labelled("data.label_names.1=spam"), 3, ("data.label_names.1", "spam", "a, b")),
    Case(
        "another label held out",
        held_out("text,label\nsomething else,c\n"),
        3,
        ("held.csv:2, column 'label': 'c' is not one of a, b", "data.label_names.c=", "data.on_bad_row=skip"),
    ),
    Case(
        "a slip in a label",
        row_file("a.csv", "text,label\nx,negative\ny,Postive\n"),
        3,
        ("a.csv:3", "'Postive' is not one of negative, positive", "name it with data.label_names.Postive=positive or"),
    ),
    Case("no label", several('{"text": "x", "label": null}\n'), 3, ("a.jsonl:2, column 'label': missing",)),
    Case("object as labels", several('{"text": "x", "label": {"a": 1}}\n'), 3, ("a.jsonl:2, column 'label'", "array")),
    Case("nested labels", several('{"text": "x", "label": [["a"]]}\n'), 3, ("a.jsonl:2, column 'label'", "array")),
]

SCORES = [
    Case(
        f"score {score}",
        row_file("a.csv", f'text,score\nx,3\ny,"{score}"\n', recipe="regression"),
        3,
        (f"a.csv:3, column 'score': '{score}' is not a number", "data.on_bad_row=skip"),
    )
    for score in ("high", "nan", "inf", "3,5")
]
SCORES += [
    Case(
        "one score",
        row_file("a.csv", "text,score\n" + "".join(f"text {n} word{n},3\n" for n in range(30)), recipe="regression"),
        3,
        ("score", "3", "nothing to"),
    ),
    Case(
        "labels as scores",
        lambda place: place.check(recipe="regression"),
        3,
        ("column 'label': 'positive' is not a number", "(and 239 more)"),
    ),
]

WEIGHTS = [
    *(
        Case(
            f"weight {weight}",
            row_file("a.csv", f"text,label,w\nx,positive,1\ny,negative,{weight}\n", "data.weight_column=w"),
            3,
            (f"a.csv:3, column 'w': '{weight}' is not a number that can be used here", "data.on_bad_row=skip"),
        )
        for weight in ("-1", "much", "nan")
    ),
    Case(
        "no column of weights",
        checked("data.weight_column=w"),
        3,
        ("data.weight_column=w: no such column in reviews.jsonl:1, which has: text, label",),
    ),
    Case(
        "no column of groups",
        checked("evaluate.group_by=country"),
        3,
        ("evaluate.group_by=country: no such column in reviews.jsonl:1, which has: text, label",),
    ),
    Case(
        "row without a group",
        row_file("a.jsonl", LINE.replace("{", '{"country": "NL", ') + LINE, "evaluate.group_by=country"),
        3,
        ("a.jsonl:2, column 'country': missing",),
    ),
    Case("sources without weight", labelled("data.weights=0"), 3, ("no training rows are left of 40",)),
]

SOURCES = [
    Case(
        "the same rows held out",
        held_out(LABELLED),
        3,
        ("40 held-out rows also stand among the training rows (first: held.csv:2 is a.csv:2)", "would flatter"),
    ),
    Case(
        "other columns beside",
        beside("b.csv", "phrase_,label\nx,a\n"),
        3,
        ("b.csv", "known as 'text'", "'phrase_', 'label'", "data.columns.text="),
    ),
    Case("nothing beside", beside("b.csv", ""), 3, ("b.csv is empty",)),
    Case("bad rows beside", beside("b.jsonl", BAD_LINE), 3, ("b.jsonl:1: not JSON", "data.on_bad_row=skip")),
]


@table(*ROWS, *LABELS, *SCORES, *WEIGHTS, *SOURCES)
def test_mistake_in_the_rows(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


def test_a_source_whose_rows_are_all_left_out_keeps_its_weight(place: Place, command: Command) -> None:
    skipping = ("data.weights=1,1", "data.on_bad_row=skip", "data.max_bad_fraction=1")
    ended = command(beside("b.jsonl", BAD_LINE, *skipping)(place))
    assert ended.code == 0, ended.message
