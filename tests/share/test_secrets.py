"""What must not be shared is found, and what says nothing of a person stays."""

import pytest

from peftkit.share.secrets import HOME, PASSWORD, secrets_in, texts_of, without_folder, without_folders

TOKEN = "hf_" + "A1b2" * 8 + "Zz"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"token={TOKEN}", "API key"),
        ("ghp_" + "a1" * 18, "GitHub token"),
        ("AKIA" + "ABCDEFGH23456723", "AWS key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
        ("write to ann.lee@somewhere.org", "mail address"),
        ("/home/ann/models/base", HOME),
        ("see /Users/ann/x", HOME),
        (r"C:\Users\ann\model", HOME),
        ("/root/data", HOME),
        ("~/models/base", HOME),
        ("postgres://ann:secret@db.local/reviews", PASSWORD),
    ],
)
def test_secrets_are_found(text, kind):
    assert kind in secrets_in(text)
    assert kind in secrets_in(f"a line before\n{text}\nand after")


@pytest.mark.parametrize(
    "text",
    [
        "Qwen/Qwen3-4B-Instruct-2507",
        "torch 2.13.0+cpu, 134515008 parameters",
        "https://huggingface.co/somebody/model",
        "{{ messages[0]['content'] ~ '/home' }}",
        "you@example.com",
        "a" * 64,
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert secrets_in(text) == []


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/home/ann/models/Qwen3-4B", "./Qwen3-4B"),
        ("~/models/base/", "./base"),
        ("../data/rows.csv", "./rows.csv"),
        (r"C:\models\base", "./base"),
        ("file:///srv/base", "./base"),
        ("lines:/srv/corpus/a.txt", "lines:./a.txt"),
        ("cord19:/data/cord19?target=abstract", "cord19:./cord19?target=abstract"),
        ("sql:postgres://ann:secret@db/reviews#select 1", "sql:$URL#select 1"),
        ("sql:$DB#select 1", "sql:$DB#select 1"),
        ("hf:owner/name@main#train", "hf:owner/name@main#train"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("data/rows.csv", "data/rows.csv"),
        ("-", "-"),
    ],
)
def test_paths_say_their_name_alone(path, left):
    assert without_folder(path) == left
    assert without_folder(left) == left


def test_only_settings_that_hold_paths_are_changed():
    value = {"path": ["/a/b", "c"], "model": {"path": "/x/y"}, "system": "/think about it", "name": None}
    assert without_folders(value) == {
        "path": ["./b", "c"],
        "model": {"path": "./y"},
        "system": "/think about it",
        "name": None,
    }


def test_every_text_has_its_place():
    assert list(texts_of({"a": ["x", {"b": "y"}], "c": 1})) == [
        ("a", "a"),
        ("a[0]", "x"),
        ("a[1].b", "b"),
        ("a[1].b", "y"),
        ("c", "c"),
    ]
