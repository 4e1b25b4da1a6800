"""The licence of a base model is found where models say it, and is unknown where none does."""

import gguf
import huggingface_hub
import pytest

from peftkit.config import ModelConfig
from peftkit.model.licence import base_licence, licence_of_text, named_licence, read_front_matter
from peftkit.model.load import Source

APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"
MIT = "Copyright (c) 2026 A\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this"
BSD = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted. {}"


def of_folder(folder):
    return base_licence(ModelConfig(path=str(folder)), Source(str(folder)))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"README.md": "---\nlicense: apache-2.0\n---\n# A"}, ("apache-2.0", None, None)),
        ({"README.md": "---\r\nlicense: MIT\r\n---\r\n"}, ("mit", None, None)),
        ({"README.md": "---\nlicense: [gemma]\n---\n"}, ("gemma", None, None)),
        ({"README.md": "---\nlicense: unknown\n---\n"}, None),
        ({"README.md": "---\nlicense: 1\n---\n"}, None),
        ({"README.md": "---\nlicense: {a: b\n---\n"}, None),
        ({"README.md": "---\ndate: 2026-13-45\nlicense: mit\n---\n"}, None),
        ({"README.md": "license: mit"}, None),
        ({"README.md": b"\xff\xfe"}, None),
        ({"LICENSE": APACHE}, ("apache-2.0", None, None)),
        ({"README.md": "no head", "LICENSE.txt": MIT}, ("mit", None, None)),
        ({"README.md": "---\nlicense: gemma\n---\n", "LICENSE": MIT}, ("gemma", None, None)),
        (
            {"README.md": "---\nlicense: other\n---\n", "LICENSE": "LLAMA 3.1 COMMUNITY\nLICENSE AGREEMENT"},
            ("llama3.1",),
        ),
        (
            {
                "README.md": "---\nlicense: other\nlicense_name: Acme Research\n"
                "license_link: https://acme.org/a/LICENSE\n---\n",
                "LICENSE": "ACME RESEARCH LICENSE",
            },
            ("other", "acme-research", "https://acme.org/a/LICENSE"),
        ),
        ({"README.md": "---\nlicense: other\nlicense_link: LICENSE\n---\n"}, ("other", "other", None)),
        ({"LICENSE": "Terms of\nACME, Inc."}, ("other", "terms-of-acme-inc", None)),
        ({"LICENSE": "   \n"}, None),
    ],
    ids=range(18),
)
def test_a_folder_says_its_licence(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = of_folder(tmp_path)
    shown = None if found is None else (found.id, found.name, found.link)[: len(expected or ())]
    assert shown == expected
    assert found is None or found.found.endswith("of the base model")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (APACHE, "apache-2.0"),
        (MIT, "mit"),
        (BSD.format("Neither the name of the copyright holder"), "bsd-3-clause"),
        (BSD.format(""), "bsd-2-clause"),
        ("GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007", "gpl-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007", "lgpl-3.0"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT", "llama3.2"),
        ("Gemma Terms of Use\n\nLast modified", "gemma"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "cc-by-nc-4.0"),
    ],
)
def test_a_text_is_known_by_its_beginning(text, expected):
    assert licence_of_text(text, found="LICENSE").id == expected
    late = "x " * 2000 + text
    assert licence_of_text(late, found="LICENSE").id == "other"  # what it only quotes is not what it is


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://a b", "https://a.org/)[x](y", "https://a.org/\n---"])
def test_a_link_that_is_no_plain_address_is_left_out(link):
    assert named_licence("other", "x", link, found="f").link is None


def test_an_embedded_model_has_that_of_the_table():
    found = base_licence(ModelConfig(path="minilm-l6"), Source("/nowhere"))
    assert (found.id, found.found) == ("apache-2.0", "the table of embedded models")


@pytest.mark.parametrize("licence", ["apache-2.0", None])
def test_a_gguf_file_names_it(tmp_path, licence):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if licence:
        writer.add_license(licence)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = base_licence(ModelConfig(path=str(path)), Source(str(tmp_path)))
    assert (found and found.id) == licence
    path.write_bytes(path.read_bytes()[:20])
    assert base_licence(ModelConfig(path=str(path)), Source(str(tmp_path))) is None


def test_a_model_of_the_hub_has_that_of_its_card(tmp_path, monkeypatch):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\n---\n")
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *words, **more: asked.append((words, more)) or str(card)
    )
    found = base_licence(ModelConfig(path="owner/name"), Source("owner/name", "v1"))
    assert asked == [(("owner/name", "README.md"), {"revision": "v1"})]
    assert (found.id, found.link) == ("other", "https://huggingface.co/owner/name/blob/main/LICENSE")
    assert found.found == "the card of owner/name"


def test_a_hub_out_of_reach_leaves_it_unknown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_licence(ModelConfig(path="owner/not-in-the-cache"), Source("owner/not-in-the-cache")) is None


def test_a_head_that_is_a_bomb_is_read_quickly_or_not_at_all():
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    assert "a39" in read_front_matter("---\n" + "\n".join(lines) + "\n---\n")  # shared, so never unfolded
    assert read_front_matter("---\na: " + "[" * 100_000 + "\n---\n") == {}
