"""A small adapter with its passport, two that were trained, and a hub on loopback."""

import shutil

import pytest

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import write_card
from peftkit.adapter.passport import Base, Passport, Tokenizer, file_hash, write_passport
from peftkit.config import RunConfig

from ..merge.adapters import make_adapter
from ..merge.conftest import runs  # noqa: F401 - a fixture
from .fake_hub import TOKEN, FakeHub


@pytest.fixture(scope="session")
def made(tiny_model, tmp_path_factory):
    """An adapter that was never trained, with a passport of made-up results."""
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("made") / "adapter")
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    passport = Passport(
        recipe="sentiment",
        intended_use="Judges texts.",
        base=Base(
            path="owner/base",
            revision=None,
            architecture="LlamaForCausalLM",
            fingerprint="0" * 64,
            quantization="none",
            dtype="float32",
        ),
        tokenizer=Tokenizer(vocabulary_sha256="0", template_sha256="0", template="{{ messages }}"),
        config=RunConfig(recipe="sentiment"),
        data={"source": {"name": "reviews"}, "rows": {"train": 100, "test": 40}},
        before={"accuracy": figure},
        after={"accuracy": figure},
        difference={"accuracy": figure},
        metrics={"accuracy": {"name": "Accuracy", "percent": True, "better": "higher"}},
        versions={"peftkit": "0.1.0"},
        files={name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)},
    )
    write_passport(folder, passport)
    write_card(folder, passport)
    return folder


@pytest.fixture
def adapter(made, tmp_path):
    """A copy of it that a test may change, with files beside it that are nobody else's business."""
    folder = shutil.copytree(made, tmp_path / "adapter")
    (folder / "notes.txt").write_text("secret notes")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were to be slept; none is."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def hub(tmp_path, monkeypatch, waits):
    """A hub on loopback that huggingface_hub talks to, as someone who is logged in."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / "home" / "token"
    token.parent.mkdir()
    token.write_text(TOKEN)
    fake = FakeHub()
    for name, value in {
        "ENDPOINT": fake.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": fake.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(token),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield fake
    fake.close()
