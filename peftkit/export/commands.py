"""The command lines by which other programs serve an adapter on its base model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftkit.adapter.passport import PASSPORT, Passport, read_passport
from peftkit.errors import AdapterError, ConfigError
from peftkit.export.readers import READERS, VLLM_RANKS, Facts, Verdict, judge_facts, read_facts
from peftkit.merge.given import adapter_folder, adapter_name
from peftkit.model.convert import EMBEDDED
from peftkit.ui import UI

SERVERS = ("vllm", "llama.cpp", "sglang")
"""The programs whose command lines are given, as `peftkit.export.readers.READERS` names them."""
_PORT = 8000


@dataclass(frozen=True)
class Serving:
    """How a program serves an adapter.

    Attributes:
        reader: One of `SERVERS`.
        steps: What to run once before, each as a list of arguments.
        server: What serves; empty where the program cannot.
        model: The name by which a client asks for the adapter.
        notes: What a user should know, a sentence each.
    """

    reader: str
    steps: tuple[tuple[str, ...], ...]
    server: tuple[str, ...]
    model: str
    notes: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """All commands as lines for a shell."""
        return [shlex.join(one) for one in (*self.steps, self.server) if one]


def serving_commands(
    adapter: Path, *, base: str | None = None, servers: Sequence[str] = SERVERS, port: int = _PORT
) -> list[Serving]:
    """Return how each program serves an adapter, with every value filled in.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        servers: Which programs.
        port: Where they listen, on loopback.

    Raises:
        ConfigError: A program is not known.
        AdapterError: The adapter is absent, damaged, or names no base model.
    """
    unknown = [one for one in servers if one not in _COMMANDS]
    if unknown:
        raise ConfigError(f"there are no command lines for '{unknown[0]}', but for {', '.join(SERVERS)}")
    folder = adapter_folder(adapter)
    own = _own(folder, read_facts(folder), base, port)
    found = []
    for server in servers:
        verdict = judge_facts(own.facts, server)
        steps, line = ([], []) if verdict.way == "none" else _COMMANDS[server](own, verdict)
        notes = (*verdict.problems, *(own.notes if line else ()))
        found.append(Serving(server, tuple(map(tuple, steps)), tuple(line), own.name, notes))
    return found


def show_commands(ui: UI, adapter: Path, *, port: int = _PORT) -> None:
    """Show how other programs serve an adapter, as lines for a shell.

    Args:
        ui: Where.
        adapter: As for `serving_commands`.
        port: Where they listen.
    """
    for one in serving_commands(adapter, port=port):
        ui.lines(f"# {READERS[one.reader]}" + ("" if one.server else ": cannot serve it"))
        for note in one.notes:
            ui.lines(f"#   {note}")
        for line in one.lines:
            ui.lines(line)
        ui.lines("")


@dataclass(frozen=True)
class _Own:
    """An adapter, its base as peftkit names it and as a server does, and where to listen."""

    folder: Path
    facts: Facts
    name: str
    given: str
    base: str
    more: tuple[str, ...]
    revision: tuple[str, ...]
    where: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        return max(self.facts.ranks.values(), default=1)


_Lines = tuple[list[list[str]], list[str]]


def _vllm(own: _Own, verdict: Verdict) -> _Lines:
    if verdict.way == "merge":
        step, merged = _merged(own)
        return [step], ["vllm", "serve", merged, "--served-model-name", own.name, *own.where]
    steps, folder = _folder(own, verdict)
    rank = next(one for one in VLLM_RANKS if one >= own.rank)
    lora = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{own.name}={folder}"]
    return steps, ["vllm", "serve", own.base, *own.revision, *lora, *own.where]


def _sglang(own: _Own, verdict: Verdict) -> _Lines:
    start = ["python", "-m", "sglang.launch_server", "--model-path"]
    if verdict.way == "merge":
        step, merged = _merged(own)
        return [step], [*start, merged, "--served-model-name", own.name, *own.where]
    steps, folder = _folder(own, verdict)
    lora = ["--enable-lora", "--max-lora-rank", str(own.rank), "--lora-paths", f"{own.name}={folder}"]
    return steps, [*start, own.base, *own.revision, *lora, *own.where]


def _llama_cpp(own: _Own, verdict: Verdict) -> _Lines:
    where = ["--alias", own.name, "--jinja", *own.where]
    if verdict.way == "merge":
        merged = f"{own.name}.gguf"
        steps = [["peftkit", "export", str(own.folder), merged, "--to", "gguf", *own.more]]
        return steps, ["llama-server", "--model", merged, *where]
    lora, model = f"{own.name}-lora.gguf", f"{Path(own.given).name}.gguf"
    steps = [
        ["peftkit", "export", own.given, model, "--to", "gguf"],
        ["peftkit", "export", str(own.folder), lora, "--to", "gguf-lora", *own.more],
    ]
    return steps, ["llama-server", "--model", model, "--lora", lora, *where]


_COMMANDS = {"vllm": _vllm, "llama.cpp": _llama_cpp, "sglang": _sglang}


def _folder(own: _Own, verdict: Verdict) -> tuple[list[list[str]], str]:
    """Return what makes a folder that the program takes, and its name."""
    if verdict.way == "as it is":
        return [], str(own.folder.resolve())
    portable = f"{own.name}-portable"
    return [["peftkit", "export", str(own.folder), portable, "--to", "portable"]], portable


def _merged(own: _Own) -> tuple[list[str], str]:
    """Return what merges the adapter into its base, and the name of the result."""
    merged = f"{own.name}-merged"
    return ["peftkit", "merge", str(own.folder), merged, *own.more], merged


def _own(folder: Path, facts: Facts, base: str | None, port: int) -> _Own:
    passport = read_passport(folder) if (folder / PASSPORT).is_file() else None
    given, revision = base, None
    if given is None:
        given = passport.base.path if passport else facts.settings.get("base_model_name_or_path")
        revision = passport.base.revision if passport else facts.settings.get("revision")
    if not given:
        raise AdapterError(f"the adapter in '{folder}' does not name its base model; name it with --base")
    return _Own(
        folder,
        facts,
        adapter_name(folder),
        given,
        str(EMBEDDED[given](None)) if given in EMBEDDED else given,
        ("--base", base) if base else (),
        ("--revision", revision) if revision else (),
        ("--host", "127.0.0.1", "--port", str(port)),
        _notes(passport),
    )


def _notes(passport: Passport | None) -> tuple[str, ...]:
    """Say what a client has to send, and what the server holds otherwise, for answers as in training."""
    if passport is None:
        return ()
    notes = []
    if passport.base.quantization != "none":
        notes.append(
            f"the adapter was trained on {passport.base.quantization} weights, and the server holds other ones"
        )
    config = passport.config
    if config.task.system_message:
        notes.append(f"send the system message that the adapter was trained with: {config.task.system_message}")
    if config.model.chat_template_kwargs:
        sent = json.dumps(config.model.chat_template_kwargs, ensure_ascii=False)
        notes.append(f"send chat_template_kwargs with each request, as in training: {sent}")
    return tuple(notes)
