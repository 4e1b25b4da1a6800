"""`peftkit serve`: loads base and adapters, and answers over the network until it is stopped."""

from __future__ import annotations

import copy
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import ConfigError, MissingDependencyError, OutputError
from peftkit.ui import UI

if TYPE_CHECKING:
    import uvicorn

    from peftkit.serve.batching import Engine
    from peftkit.serve.gate import Gate
    from peftkit.serve.service import Service

KEY_NAME = "PEFTKIT_API_KEY"
"""The variable of the environment that may hold the key."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The names of this machine to itself, as clients write them."""

_GRACE = 30  # seconds that answers have to end in after the first signal


def serve(
    adapters: Mapping[str, Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    max_waiting: int = 64,
    max_batch: int = 8,
    ui: UI | None = None,
) -> None:
    """Serve adapters and their base model in OpenAI's form, until Ctrl-C or SIGTERM.

    Args:
        adapters: The folder of each adapter, or of its run, by the name that clients use.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        key: What clients must show; None lets everyone in.
        max_waiting: Requests that may wait; more are refused with status 429.
        max_batch: Answers that are generated at once.
        ui: Where the address, and a line for each request, are shown.

    Raises:
        MissingDependencyError: The web framework is not installed.
        OutputError: The address cannot be listened on.
        PeftkitError: An adapter or the base model is not usable, or the adapters cannot share it.
    """
    require_framework()
    from peftkit.serve.app import make_app

    ui = ui or UI(quiet=True)
    listening = take_address(host, port)
    with listening:
        service = load_service(adapters, max_waiting=max_waiting, max_batch=max_batch, ui=ui)
        local = _is_loopback(host)
        if key is None and not local:
            ui.warn(f"anyone who reaches {host} can use this server; give it a key with --key-file or {KEY_NAME}")

        def log(line: str) -> None:
            ui.note(f"{datetime.now():%H:%M:%S} {line}")

        app = make_app(service, key=key, hosts=LOOPBACK | {host} if local else None, log=log)

        server = make_server(app, service.engine)
        service.engine.start()
        listening.listen()
        with _ended_by_signals(server):
            _greet(ui, service, listening)
            server.run(sockets=[listening])
        service.engine.stop()
        service.engine.join()
    ui.say("stopped")


def make_server(app: Gate, engine: Engine) -> uvicorn.Server:
    """Make a server that says nothing by itself, and refuses what waits as soon as it is told to stop."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            engine.stop()
            await super().shutdown(sockets)

    # What the server would log of a failure may hold words of a request.
    return Server(uvicorn.Config(app, log_config=None, log_level="critical", timeout_graceful_shutdown=_GRACE))


def load_service(adapters: Mapping[str, Path], *, max_waiting: int, max_batch: int, ui: UI) -> Service:
    """Load base and adapters, and prepare an engine for them that is not started yet.

    Raises:
        PeftkitError: An adapter or the base model is not usable, or the adapters cannot share it.
    """
    from peftkit.adapter.trained import open_adapters
    from peftkit.serve.asking import asking_base, asking_of
    from peftkit.serve.batching import Engine
    from peftkit.serve.service import Service

    trained = open_adapters(list(adapters.values()), ui.note)
    models = {name: asking_of(name, one) for name, one in zip(adapters, trained, strict=True)}
    base = _base_name(trained[0].passport.base.path)
    if base in models:
        raise ConfigError(f"an adapter is called '{base}', as its base model is; give it another name with --name")
    models[base] = asking_base(base, trained[0])
    model: Any = trained[0].model
    decoder = copy.deepcopy(models[base].tokenizer)
    engine = Engine(
        model, padding=int(decoder.pad_token_id), max_batch=max_batch, max_waiting=max_waiting, report=ui.warn
    )
    return Service(models, engine, decoder, model.get_input_embeddings().weight.shape[0])


def require_framework() -> None:
    """Raise `MissingDependencyError` where the web framework is not installed."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise MissingDependencyError(
            f"peftkit serve needs {error.name}, which is not installed; run `pip install 'peftkit[serve]'`"
        ) from error
    del starlette, uvicorn


def name_adapters(folders: Sequence[Path], named: Sequence[str]) -> dict[str, Path]:
    """Return the adapters by the names that clients use: those of their folders, and those that were given.

    Args:
        folders: Adapters without a name.
        named: Adapters as `NAME=FOLDER`.

    Raises:
        ConfigError: Two have one name, or a name has no folder.
    """
    from peftkit.side_by_side import adapter_names

    found = dict(zip(adapter_names(folders), folders, strict=True))
    for word in named:
        name, _, folder = word.partition("=")
        if not name.strip() or not folder:
            raise ConfigError(f"--name {word} is not NAME=FOLDER, such as reviews=runs/sentiment")
        if name in found:
            raise ConfigError(f"two adapters are called '{name}'; give one another name with --name")
        found[name] = Path(folder)
    if not found:
        raise ConfigError("there is no adapter to serve; give its folder, or --name NAME=FOLDER")
    return found


def read_key(file: Path | None) -> str | None:
    """Return the key that clients must show: from a file, else from the environment; None where there is none.

    Raises:
        ConfigError: The file cannot be read, or holds no key that a header can carry.
    """
    if file is None and KEY_NAME not in os.environ:
        return None
    try:
        where = KEY_NAME if file is None else f"'{file}'"
        key = (os.environ[KEY_NAME] if file is None else file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the key file '{file}' cannot be read: {reason}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} holds no key; write one line of letters, digits and signs, without blanks")
    return key


def _base_name(path: str) -> str:
    """Return what the base model is called: as it was given, or by its folder's or file's name."""
    given = Path(path)
    return (given.stem if given.suffix == ".gguf" else given.name) if given.exists() else path


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def take_address(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded, so that a taken one is known at once."""
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from error
    return made


def _greet(ui: UI, service: Service, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ui.table(
        ("model", "how it is asked"),
        [
            (
                name,
                "one message in the recipe's wording, as predict asks; longer conversations as they are"
                if asking.has_wording
                else "conversations as they are",
            )
            for name, asking in service.models.items()
        ],
    )
    ui.say(f"listening on {address}/v1 (Ctrl-C stops it)")


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the server quietly: before its own handling begins, and when it raises them again."""

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
