"""A server in this process, on a free port of the loopback address, and adapters for it."""

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from peftkit.serve.app import make_app
from peftkit.serve.server import LOOPBACK, load_service, make_server, take_address
from peftkit.ui import UI

from .adapters import adapter
from .lively import lively


@pytest.fixture(scope="session")
def lively_model(tiny_model: Path) -> Path:
    return lively(tiny_model)


@pytest.fixture(scope="session")
def adapters(lively_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of one base: two of a fixed wording, and one for conversations."""
    folder = tmp_path_factory.mktemp("adapters")
    longer = "evaluate.max_new_tokens=24"
    labels = "task.labels=film,book"
    return {
        "mood": adapter(lively_model, folder / "mood", "sentiment", longer, seed=1),
        "topic": adapter(
            lively_model, folder / "topic", "classification", labels, longer, seed=2, r=8, use_rslora=True
        ),
        "talk": adapter(lively_model, folder / "talk", "instruct", "task.system=Be brief.", seed=3),
    }


@pytest.fixture(scope="session")
def dora(lively_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that PEFT cannot mix with others in one batch."""
    folder = tmp_path_factory.mktemp("adapters") / "dora"
    return adapter(lively_model, folder, "instruct", seed=4, use_dora=True)


@contextlib.contextmanager
def running(adapters: dict[str, Path], *, key: str | None = None, **limits: int) -> Iterator[SimpleNamespace]:
    """Serve adapters; give a client, the address, the service, and the lines of the log."""
    lines: list[str] = []
    service = load_service(adapters, **{"max_waiting": 64, "max_batch": 8, "ui": UI(quiet=True), **limits})
    app = make_app(service, key=key, hosts=LOOPBACK, log=lines.append)
    with take_address("127.0.0.1", 0) as listening:
        server = make_server(app, service.engine)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        service.engine.start()
        listening.listen()
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=key or "none", max_retries=0, timeout=120)
        try:
            yield SimpleNamespace(client=client, address=address, service=service, log=lines)
        finally:
            client.close()
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive(), "".join(traceback.format_stack(sys._current_frames()[thread.ident]))
            service.engine.stop()  # a server that died before its end did not do it
            service.engine.join()


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[SimpleNamespace]]:
    return running


@pytest.fixture(scope="session")
def server(adapters: dict[str, Path]) -> Iterator[SimpleNamespace]:
    with running(adapters) as one:
        yield one
