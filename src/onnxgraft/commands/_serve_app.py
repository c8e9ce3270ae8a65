"""What a server answers: routes, limits and metrics; the HTTP is starlette's and uvicorn's."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.commands._served import Color, ServedEngine
from onnxgraft.data.image_header import stored_form
from onnxgraft.data.images import decoded
from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.notices import logger
from onnxgraft.optional import optional
from onnxgraft.run.v2 import HEADER, datatype_of, parts, read_request, written

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as Asked
    from starlette.responses import Response

__all__ = ["Service", "application", "is_large"]

_PAGE = "_serve_page.html"
# The page fetches nothing from elsewhere, and nobody frames it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_VERSION = "1"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
# Requests under way hold so many times the bytes of the largest; a body is there twice while it is
# put together.
_HELD = 8
# JSON of more bytes and pictures of more pixels are taken one after the other: they take what
# `REQUEST_MEMORY` and `IMAGE_PIXELS` allow, and the interpreter reads one JSON at a time.
_LARGE_JSON, _LARGE_PICTURE = 1 << 20, 1 << 24


class _Refused(Exception):
    """A request is answered with a status other than 200, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass
class Service:
    """An engine under a name.

    Attributes:
        name: Of the model in requests.
        engine: That answers; it may be asked from several threads.
        most: Bytes of a request.
        answered: How many requests were.
        held: Bytes of the requests that are under way.
    """

    name: str
    engine: ServedEngine
    most: int
    answered: int = field(default=0, init=False)
    held: int = field(default=0, init=False)
    _one: threading.RLock = field(default_factory=threading.RLock, init=False)

    def prepared(self, spec: TensorSpec, files: Sequence[bytes]) -> Array:
        """Return what the input is fed of image files, by the recipe.

        They feed no more than tensors of a request may: some bytes of an image can be a whole one.
        """
        color = self._color()
        pictures = (
            decoded(np.frombuffer(data, np.uint8), f"image {number}", gray=color == "gray")[0]
            for number, data in enumerate(files, 1)
        )
        # What goes wrong in a function of the user's own names its file.
        own = self.engine.preprocess.function is not None
        with self.alone(any(map(is_large, files))), self.running() if own else nullcontext():
            return self.engine.prepare_each(pictures, len(files), color=color, most=self.most)

    def seen(self, data: bytes, draw: bool) -> dict[str, Any]:
        """Return what the engine says of an image file, as `infer` does."""
        color = self._color()
        with self.alone(is_large(data)):
            pixels, _ = decoded(np.frombuffer(data, np.uint8), "the image", gray=color == "gray")
            self.engine.placement(pixels.shape[1], pixels.shape[0])
            with self.running():
                outputs, found = self.engine.look(pixels, color=color, draw=draw)
        told: dict[str, Any] = {
            "shapes": {name: list(value.shape) for name, value in outputs.items()},
            "best": [] if found is None else found.best,
            "shares": [] if found is None else found.shares,
            "boxes": [] if found is None else [asdict(box) for box in found.boxes],
        }
        if draw and found is not None and found.picture is not None:
            told["picture"] = _picture(found.picture)
        return told

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs."""
        with self.running():
            return self.engine.infer(feeds)

    def alone(self, large: bool) -> AbstractContextManager[object]:
        """Return what makes a thread wait for what is large until no other one has such a thing."""
        return self._one if large else nullcontext()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let what the engine's library says be told to the log, and no path to a client."""
        try:
            yield
        except InputError as error:
            logger.warning("%s: a request was refused: %s", self.name, error)
            raise _Refused(
                400, "the engine can't run what was sent; the server's log says why"
            ) from error

    def _color(self) -> Color:
        return "gray" if self.engine.preprocess.color == "gray" else "bgr"


def is_large(image: bytes) -> bool:
    """Tell whether a picture is large, or may be: one whose header is not known."""
    form = stored_form(image)
    return form is None or form.width * form.height > _LARGE_PICTURE


def _picture(pixels: Array) -> str:
    import cv2

    data = cv2.imencode(".png", pixels)[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


class _Metrics:
    """What is counted of requests, as Prometheus reads it."""

    def __init__(self, service: Service) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "onnxgraft_requests", "Requests, by what they asked for and how they were answered.",
            ("endpoint", "status"), registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "onnxgraft_request_seconds", "Seconds from a request's header to its answer.",
            ("endpoint",), registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
        )  # fmt: skip
        self.running = Gauge(
            "onnxgraft_requests_running", "Requests that are under way.", registry=self.registry
        )
        told = Info("onnxgraft_engine", "The engine that answers.", registry=self.registry)
        told.info({"model": service.name, "engine": service.engine.name})

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


def application(service: Service) -> Starlette:
    """Return the application that answers for an engine."""
    with optional("Serving", "serve"):
        from anyio import CapacityLimiter, to_thread
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route

    metrics = _Metrics(service)
    # Each request that computes has a thread; what waits for one is under way already.
    limiter = CapacityLimiter(max(4, 2 * (os.cpu_count() or 1)))
    page = resources.files("onnxgraft.commands").joinpath(_PAGE).read_text("utf-8")

    async def in_thread(work: Callable[[], Any]) -> Any:
        return await to_thread.run_sync(work, limiter=limiter)

    def counted(
        endpoint: str, handle: Callable[[Asked], Awaitable[Response]]
    ) -> Callable[[Asked], Awaitable[Response]]:
        async def answer(asked: Asked) -> Response:
            began = time.perf_counter()
            with metrics.running.track_inprogress():
                try:
                    response = await handle(asked)
                except _Refused as refused:
                    response = JSONResponse({"error": refused.sentence}, refused.status)
                except OnnxgraftError as error:
                    kind = 500 if isinstance(error, MissingDependencyError) else 400
                    response = JSONResponse({"error": str(error)}, kind)
                except Exception:
                    logger.exception("%s: a request to %s failed", service.name, endpoint)
                    response = JSONResponse(
                        {"error": "internal error; the server's log has it"}, 500
                    )
                finally:
                    metrics.seconds.labels(endpoint).observe(time.perf_counter() - began)
                metrics.requests.labels(endpoint, str(response.status_code)).inc()
                service.answered += 1
            return response

        return answer

    def known(asked: Asked) -> None:
        if asked.path_params["model"] != service.name:
            raise _Refused(404, f"no model is called so; there is {service.name}")
        if asked.path_params.get("version", _VERSION) != _VERSION:
            raise _Refused(404, f"{service.name} has the version {_VERSION} alone")

    @asynccontextmanager
    async def body(asked: Asked) -> AsyncIterator[bytes]:
        if asked.headers.get("content-encoding", "identity") != "identity":
            raise _Refused(415, "requests are not compressed here; leave Content-Encoding out")
        most = f"a request has at most {service.most >> 20} MiB here; --max-request allows more"
        told = asked.headers.get("content-length", "")
        if told.isdecimal() and int(told) > service.most:
            raise _Refused(413, most)
        pieces, size = [], 0
        try:
            async for part in asked.stream():
                size += len(part)
                service.held += len(part)
                if size > service.most:
                    raise _Refused(413, most)
                if service.held > _HELD * service.most:
                    raise _Refused(503, "other requests fill the server's memory; ask again later")
                pieces.append(part)
            data = b"".join(pieces)
            pieces.clear()
            yield data
        finally:
            service.held -= size

    async def home(asked: Asked) -> Response:
        return HTMLResponse(
            page, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        )

    async def about(asked: Asked) -> Response:
        return JSONResponse({
            "name": "onnxgraft", "version": _VERSION, "extensions": ["binary_tensor_data"],
            "models": [service.name],
        })  # fmt: skip

    async def well(asked: Asked) -> Response:
        return Response(status_code=200)

    async def metadata(asked: Asked) -> Response:
        known(asked)
        sides = {"inputs": service.engine.inputs, "outputs": service.engine.outputs}
        return JSONResponse({
            "name": service.name, "versions": [_VERSION], "platform": service.engine.name,
            **{side: [_told(spec) for spec in specs] for side, specs in sides.items()},
        })  # fmt: skip

    async def ready(asked: Asked) -> Response:
        known(asked)
        return Response(status_code=200)

    async def infer(asked: Asked) -> Response:
        known(asked)
        async with body(asked) as data:
            content, json_bytes = await in_thread(
                partial(_answered, service, data, asked.headers.get(HEADER))
            )
        if json_bytes is None:
            return Response(content, media_type="application/json")
        headers = {HEADER: str(json_bytes)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def see(asked: Asked) -> Response:
        draw = asked.query_params.get("picture") == "1"
        async with body(asked) as data:
            return JSONResponse(await in_thread(partial(service.seen, data, draw)))

    async def measured(asked: Asked) -> Response:
        return Response(metrics.text(), media_type=_METRICS)

    base, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    routes = [
        Route("/", home), Route("/metrics", measured), Route("/v2", counted("server", about)),
        Route("/v2/health/live", well), Route("/v2/health/ready", well),
        Route("/see", counted("see", see), methods=["POST"]),
        *(Route(place, counted("model", metadata)) for place in (base, versioned)),
        *(Route(f"{place}/ready", counted("ready", ready)) for place in (base, versioned)),
        *(
            Route(f"{place}/infer", counted("infer", infer), methods=["POST"])
            for place in (base, versioned)
        ),
    ]  # fmt: skip
    return Starlette(routes=routes)


def _answered(service: Service, data: bytes, header: str | None) -> tuple[bytes, int | None]:
    """Return the answer to a request's body, and how much of it is JSON."""
    engine = service.engine
    text, binary = parts(data, header)
    with service.alone(len(text) > _LARGE_JSON):
        request = read_request(text, binary, engine.inputs, engine.outputs, service.prepared)
    return written(service.name, request, service.infer(request.feeds), engine.outputs)


def _told(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if isinstance(dim, str) else dim for dim in spec.shape]
    return {"name": spec.name, "datatype": datatype_of(spec), "shape": shape}
