"""`serve`: an engine behind HTTP, for development: KServe's v2 protocol, metrics and a page."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxgraft.commands._serve_app import Service, application
from onnxgraft.commands._served import ServedEngine
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.notices import notice
from onnxgraft.optional import optional

if TYPE_CHECKING:
    from os import PathLike

    import uvicorn

    from onnxgraft.commands._recipe import PostprocessGiven, PreprocessGiven

__all__ = ["Served", "serve", "serving"]

# So long a request that is under way is waited for at the end, in seconds.
_PATIENCE = 30
# So many connections at once; others are told to come again.
_CONNECTIONS = 128


@dataclass(frozen=True)
class Served:
    """What a server did until it was ended.

    Attributes:
        url: Where it was.
        requests: That were answered.
        seconds: For how long.
    """

    url: str
    requests: int
    seconds: float

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def serve(
    engine: str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    threads: int | None = None,
    max_request: int = 64,
    trust: Trust = False,
) -> Served:
    """Answer requests over HTTP until the process is told to end, by SIGTERM or Ctrl-C.

    It is for development: it has no TLS and asks nobody who they are. Requests that are under way
    at the end are answered.

    Args:
        engine: With its passport beside it.
        host: Address to listen on; other machines reach it only if it is not the loopback one.
        port: 0 takes one that is free.
        name: Of the model in requests; the file's without its last suffix if not given.
        preprocess: As `infer` takes it.
        postprocess: Likewise.
        threads: Of the CPU; None takes what the engine was built for.
        max_request: MiB that a request may have.
        trust: Load an engine that has no passport, and run the functions that a file or a passport
            names: True, or names.

    Raises:
        InputError: The engine can't be loaded, or the address can't be listened on.
        MissingDependencyError: The engine's library, or the server's, is not installed.
    """
    began = time.monotonic()
    with _server(
        engine, host=host, port=port, name=name, preprocess=preprocess, postprocess=postprocess,
        threads=threads, max_request=max_request, trust=trust,
    ) as (server, listening, service, url):  # fmt: skip
        # uvicorn raises again what it caught, once it has ended; that ends nobody here.
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM)
            if threading.current_thread() is threading.main_thread()
        }
        try:
            notice("%s: answers on %s; Ctrl-C ends it", service.name, url)
            server.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return Served(url, service.answered, time.monotonic() - began)


@contextlib.contextmanager
def serving(
    engine: str | PathLike[str],
    **how: Any,
) -> Iterator[str]:
    """Answer requests from a thread of this process within the block; yield the URL.

    Args:
        engine: With its passport beside it.
        how: As of `serve`, but for the address; the port is one that is free.
    """
    with _server(engine, port=0, **how) as (server, listening, _, url):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield url
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def _server(
    engine: str | PathLike[str],
    *,
    port: int,
    host: str = "127.0.0.1",
    name: str | None = None,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    threads: int | None = None,
    max_request: int = 64,
    trust: Trust = False,
) -> Iterator[tuple[uvicorn.Server, socket.socket, Service, str]]:
    with optional("Serving", "serve"):
        import prometheus_client  # noqa: F401  (told before an engine is loaded)
        import starlette  # noqa: F401
        import uvicorn
    if max_request < 1:
        raise InputError(f"--max-request {max_request}: MiB are a whole number from 1 on")
    title = Path(engine).stem if name is None else name
    if not re.fullmatch(r"[\w.-]+", title, re.ASCII):
        raise InputError(
            f"--name {title}: a model's name has letters, digits, dots, dashes and underscores"
        )
    before, after = None, None
    if preprocess is not None or postprocess is not None:
        from onnxgraft.commands._recipe import given_tables

        before, after = given_tables(preprocess, postprocess, trust)
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(
            ServedEngine(engine, preprocess=before, postprocess=after, trust=trust, threads=threads)
        )
        listening = stack.enter_context(_listening(host, port))
        service = Service(title, loaded, max_request << 20)
        config = uvicorn.Config(
            application(service), log_config=None, access_log=False, lifespan="off", ws="none",
            http="h11", loop="asyncio", server_header=False, timeout_graceful_shutdown=_PATIENCE,
            limit_concurrency=_CONNECTIONS,
        )  # fmt: skip
        if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
            notice("other machines reach %s, and nobody is asked for a password", _url(listening))
        yield uvicorn.Server(config), listening, service, _url(listening)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError, UnicodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port} can't be listened on ({told}); name another --port or --host"
        ) from error
