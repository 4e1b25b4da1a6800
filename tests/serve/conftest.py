"""A server in this process, on a free port of the loopback address, and adapters for it."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import uvicorn

from peftkit.serve.app import make_app
from peftkit.serve.server import LOOPBACK, take_address, load_service
from peftkit.ui import UI

from .adapters import adapter


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of one base: two of a fixed wording, and one for conversations."""
    folder = tmp_path_factory.mktemp("adapters")
    longer = "evaluate.max_new_tokens=24"
    return {
        "mood": adapter(tiny_model, folder / "mood", "sentiment", longer, seed=1),
        "topic": adapter(
            tiny_model,
            folder / "topic",
            "classification",
            "task.labels=film,book",
            longer,
            seed=2,
            r=8,
            use_rslora=True,
        ),
        "talk": adapter(tiny_model, folder / "talk", "instruct", "task.system=Be brief.", seed=3),
    }


@contextlib.contextmanager
def running(
    adapters: dict[str, Path], *, key=None, max_waiting=64, max_batch=8, timeout=60
) -> Iterator[SimpleNamespace]:
    """Serve adapters; give the client, the address, the service, and the lines of the log."""
    lines: list[str] = []
    service = load_service(adapters, max_waiting=max_waiting, max_batch=max_batch, ui=UI(quiet=True))
    app = make_app(service, key=key, hosts=LOOPBACK, log=lines.append)
    with take_address("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        service.engine.start()
        listening.listen()
        thread.start()
        address = "http://127.0.0.1:{}".format(listening.getsockname()[1])
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=key or "none", max_retries=0, timeout=timeout)
        try:
            yield SimpleNamespace(client=client, address=address, service=service, log=lines)
        finally:
            client.close()
            service.engine.stop()
            server.should_exit = True
            thread.join()
            service.engine.join()


@pytest.fixture(scope="session")
def server(adapters: dict[str, Path]) -> Iterator[SimpleNamespace]:
    with running(adapters) as one:
        yield one
