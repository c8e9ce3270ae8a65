"""An engine behind HTTP: what a real client gets is what `infer` gives, and mistakes are told."""

from __future__ import annotations

import http.client
import inspect
import ipaddress
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onnxgraft
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.v2 import HEADER
from tests.commands import serving as scene
from tests.conftest import few, model_of, once

pytest.importorskip("starlette")
tritonhttp = pytest.importorskip("tritonclient.http")
from onnxgraft.commands import _serve, _serve_app  # noqa: E402
from onnxgraft.commands._serve import serve, serving  # noqa: E402

TARGETS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "serve", scene.write)


@pytest.fixture(scope="module", params=TARGETS)
def both(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield where an engine of each target is served, and its file."""
    engine = folder / f"{request.param}.engine"
    with serving(engine, name="net") as url:
        yield url, engine


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder / "onnxruntime.engine", name="net") as url:
        yield url


def feed(batch: int = 1, seed: int = 0) -> Array:
    shape = (batch, 3, 12, 16)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def asked(client: Any, value: Array, *, binary: bool = True, datatype: str = "FP32") -> Any:
    given = tritonhttp.InferInput("data", list(value.shape), datatype)
    given.set_data_from_numpy(value, binary_data=binary)
    wanted = [tritonhttp.InferRequestedOutput(n, binary_data=binary) for n in ("prob", "half")]
    return client.infer("net", [given], outputs=wanted, request_id="17")


@pytest.fixture
def client(both: tuple[str, Path]) -> Iterator[Any]:
    made = tritonhttp.InferenceServerClient(both[0].removeprefix("http://"))
    yield made
    made.close()


def test_a_client_finds_the_server_and_the_model_in_good_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("net")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


def test_the_model_tells_of_its_tensors(client: Any) -> None:
    told = client.get_model_metadata("net")
    assert told["inputs"] == [{"name": "data", "datatype": "FP32", "shape": [-1, 3, 12, 16]}]
    assert told["outputs"] == [
        {"name": "prob", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "half", "datatype": "FP32", "shape": [-1, 3, 12, 16]},
    ]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_tensor_gives_the_bits_of_infer(
    batch: int, binary: bool, both: tuple[str, Path], client: Any
) -> None:
    value = feed(batch)
    answer = asked(client, value, binary=binary)
    with onnxgraft.load_engine(both[1]) as engine:
        wanted = engine.infer({"data": value})
    for name in ("prob", "half"):
        np.testing.assert_array_equal(answer.as_numpy(name), wanted[name])
    assert answer.get_response()["id"] == "17"


def test_an_image_file_is_prepared_by_the_recipe(
    both: tuple[str, Path], folder: Path, client: Any
) -> None:
    files = [folder / f"{number}.png" for number in range(2)]
    value = np.array([file.read_bytes() for file in files], dtype=object)
    answer = asked(client, value, datatype="BYTES")
    with onnxgraft.ServedEngine(both[1]) as engine:
        pictures = [cv2.imread(str(file)) for file in files]
        wanted = engine.infer(engine.prepare(*pictures, color="bgr"))
    np.testing.assert_array_equal(answer.as_numpy("prob"), wanted["prob"])


def test_all_outputs_are_answered_where_none_are_named(client: Any) -> None:
    given = tritonhttp.InferInput("data", [1, 3, 12, 16], "FP32")
    given.set_data_from_numpy(feed())
    answer = client.infer("net", [given])
    assert answer.as_numpy("prob").shape == (1, 4)
    assert answer.as_numpy("half").shape == (1, 3, 12, 16)


def test_requests_at_once_give_the_bits_of_one_by_one(both: tuple[str, Path]) -> None:
    values = [feed(1 + seed % 3, seed) for seed in range(24)]
    with onnxgraft.load_engine(both[1]) as engine:
        wanted = [engine.infer({"data": value})["half"].copy() for value in values]

    def ask(value: Array) -> Array:
        status, told, headers = post(both[0], "/v2/models/net/infer", *binary(value))
        assert status == 200
        header = json.loads(told[: int(headers[HEADER])])
        at = int(headers[HEADER]) + header["outputs"][0]["parameters"]["binary_data_size"]
        return np.frombuffer(told[at:], np.float32).reshape(value.shape)

    with ThreadPoolExecutor(8) as threads:
        for found, expected in zip(threads.map(ask, values), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


# What is posted as bytes, as the page does it ------------------------------------------------


def post(
    url: str, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def binary(value: Array) -> tuple[bytes, dict[str, str]]:
    told = {
        "inputs": [{
            "name": "data", "datatype": "FP32", "shape": list(value.shape),
            "parameters": {"binary_data_size": value.nbytes},
        }],
        "parameters": {"binary_data_output": True},
    }  # fmt: skip
    text = json.dumps(told).encode()
    return text + value.tobytes(), {HEADER: str(len(text))}


@pytest.mark.parametrize("engine", ["onnxruntime", "map"])
def test_a_picture_is_answered_as_infer_does(engine: str, folder: Path) -> None:
    wanted = onnxgraft.infer(folder / f"{engine}.engine", [folder / "photo.jpg"]).to_json()
    with serving(folder / f"{engine}.engine") as url:
        status, told, _ = post(url, "/see", (folder / "photo.jpg").read_bytes())
    assert status == 200
    found, expected = json.loads(told), json.loads(json.dumps(wanted["answers"][0]))
    for key in ("shapes", "best", "shares", "boxes"):
        assert found[key] == expected[key], key
    assert found["best"] or found["shares"]


def test_the_picture_that_infer_draws_comes_along(folder: Path, tmp_path: Path) -> None:
    onnxgraft.infer(folder / "map.engine", [folder / "photo.jpg"], out=tmp_path / "seen")
    with serving(folder / "map.engine") as url:
        _, told, _ = post(url, "/see?picture=1", (folder / "photo.jpg").read_bytes())
    import base64

    data = base64.b64decode(json.loads(told)["picture"].partition(",")[2])
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(found, cv2.imread(str(tmp_path / "seen/photo.png")))


@pytest.mark.parametrize(
    ("shape", "color"), [("2, 3, 12, 16", "rgb"), ("N, 1, 12, 16", "gray"), ("3, 12, 16", "bgr")]
)
def test_an_engine_for_other_batches_or_in_gray_answers_as_infer_does(
    shape: str, color: str, folder: Path, tmp_path: Path
) -> None:
    kinds = f"net (float[{shape}] x) => (float[{shape}] score) {{ score = Relu(x) }}"
    model_of(kinds).save(tmp_path / "n.onnx")
    (tmp_path / "r.toml").write_text(
        f'[preprocess]\nresize = [12, 16]\ncolor = "{color}"\nlayout = "nchw"\n'
    )
    onnxgraft.build(
        tmp_path / "n.onnx", tmp_path / "e", target="onnxruntime", prove=False,
        recipe=tmp_path / "r.toml",
    )  # fmt: skip
    (wanted,) = onnxgraft.infer(tmp_path / "e", [folder / "photo.jpg"]).answers
    with serving(tmp_path / "e") as url:
        status, told, _ = post(url, "/see?picture=1", (folder / "photo.jpg").read_bytes())
    found = json.loads(told)
    assert status == 200, found
    assert found["shares"] == [list(pair) for pair in wanted.shares]
    assert found["shapes"] == {name: list(value) for name, value in wanted.shapes.items()}


def test_a_recipe_takes_the_place_of_the_passports(folder: Path) -> None:
    data = (folder / "photo.jpg").read_bytes()
    recipe = onnxgraft.Preprocess(resize=(12, 16), color="bgr")
    with serving(folder / "onnxruntime.engine", preprocess=recipe) as url:
        _, told, _ = post(url, "/see", data)
    with onnxgraft.ServedEngine(folder / "onnxruntime.engine", preprocess=recipe) as engine:
        picture = cv2.imread(str(folder / "photo.jpg"))
        wanted = engine.see(picture, color="bgr").best
    assert json.loads(told)["best"] == [list(pair) for pair in wanted]


# Mistakes -------------------------------------------------------------------------------------


def text(**changes: Any) -> bytes:
    entry = {"name": "data", "datatype": "FP32", "shape": [1, 3, 12, 16], "data": [0.0] * 576}
    return json.dumps({"inputs": [entry | changes]}).encode()


def bare(**changes: Any) -> dict[str, Any]:
    """Return the same without the data, which follow it as bytes."""
    told: dict[str, Any] = json.loads(text(**changes))
    del told["inputs"][0]["data"]
    return told


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "the request is no JSON"),
        (b"[" * 100_000, "the request is no JSON"),
        (b"[]", "no object"),
        (b"{}", "has no inputs"),
        (b'{"inputs": 1}', "no list of objects"),
        (text(name="dato"), "did you mean data?"),
        (text(shape=[1, 3, 12]), "was given the shape [1, 3, 12]"),
        (text(shape=[1, 3, 12, -1]), "no whole number from 0 on"),
        (text(shape=None), "no list of whole numbers"),
        (text(shape=[2, 3, 12, 16]), "are told, and the data are (576,)"),
        (text(datatype="INT8"), "is FP32, and 'INT8' was given"),
        (text(data=["a"] * 576), "no real numbers"),
        (text(data=[[1.0], [1.0, 2.0]]), "lists of different lengths"),
        (text(data=None), "are told, and the data are"),
        (
            json.dumps(bare(parameters={"binary_data_size": 8})).encode(),
            "8 bytes are told, and 0 follow",
        ),
        (text(parameters=[]), "parameters is no object"),
        (text(datatype="BYTES"), "in the binary extension"),
        (json.dumps({"inputs": json.loads(text())["inputs"] * 2}).encode(), "is given twice"),
        (
            json.dumps({**json.loads(text()), "outputs": [{"name": "prop"}]}).encode(),
            "did you mean prob?",
        ),
    ],
)
def test_what_is_no_request_is_told_in_a_sentence(body: bytes, sentence: str, url: str) -> None:
    status, told, _ = post(url, "/v2/models/net/infer", body)
    assert status == 400
    assert sentence in json.loads(told)["error"]


@pytest.mark.parametrize("header", ["-1", "99999999", "x", "²"])
def test_a_length_of_the_json_that_is_none_is_refused(header: str, url: str) -> None:
    body, _ = binary(feed())
    status, told, _ = post(
        url, "/v2/models/net/infer", body, {HEADER: header.encode().decode("latin-1")}
    )
    assert status == 400
    assert HEADER in json.loads(told)["error"]


def test_bytes_that_nobody_tells_of_are_refused(url: str) -> None:
    body, headers = binary(feed())
    status, told, _ = post(url, "/v2/models/net/infer", body + b"more", headers)
    assert status == 400
    assert "4 bytes follow" in json.loads(told)["error"]


@pytest.mark.parametrize("path", ["/see", "/v2/models/net/infer"])
def test_a_damaged_image_is_told(path: str, folder: Path, url: str) -> None:
    data, headers = (folder / "0.png").read_bytes()[:60], {}
    if path != "/see":
        element = struct.pack("<I", len(data)) + data
        told = bare(datatype="BYTES", shape=[1])
        told["inputs"][0]["parameters"] = {"binary_data_size": len(element)}
        header = json.dumps(told).encode()
        data, headers = header + element, {HEADER: str(len(header))}
    status, answer, _ = post(url, path, data, headers)
    assert status == 400
    assert re.search("image.*(can't be|not an image)", json.loads(answer)["error"])


def test_elements_of_bytes_that_end_early_are_told(url: str) -> None:
    told = bare(datatype="BYTES", shape=[2])
    told["inputs"][0]["parameters"] = {"binary_data_size": 6}
    header = json.dumps(told).encode()
    status, answer, _ = post(
        url, "/v2/models/net/infer", header + struct.pack("<I", 9) + b"ab",
        {HEADER: str(len(header))},
    )  # fmt: skip
    assert status == 400
    assert "has not the 2 elements" in json.loads(answer)["error"]


def test_numbers_that_json_lacks_are_told(url: str) -> None:
    body = text(data=[float("nan")] * 576)
    status, told, _ = post(url, "/v2/models/net/infer", body)
    assert status == 400
    assert "ask for binary_data" in json.loads(told)["error"]


@pytest.mark.parametrize("chunked", [False, True], ids=["told", "chunked"])
def test_a_request_that_is_too_large_is_refused(chunked: bool, folder: Path) -> None:
    with serving(folder / "onnxruntime.engine", max_request=1) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        body: Any = b"\0" * ((1 << 20) + 1)
        if chunked:
            body = iter([body[: 1 << 19], body[1 << 19 :]])
        connection.request(
            "POST",
            "/see",
            body,
            encode_chunked=chunked,
            headers={"Transfer-Encoding": "chunked"} if chunked else {},
        )
        response = connection.getresponse()
        assert response.status == 413
        assert "at most 1 MiB" in json.loads(response.read())["error"]
        connection.close()


def test_requests_under_way_hold_no_more_together_than_a_few_of_the_largest(folder: Path) -> None:
    """Each is within the limit of one, and none of them ever ends."""
    with serving(folder / "onnxruntime.engine", name="net", max_request=1) as url:
        host, port = url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(9)]
        for connection in held:
            head = f"POST /see HTTP/1.1\r\nHost: {host}\r\nContent-Length: {1 << 20}\r\n\r\n"
            connection.sendall(head.encode() + bytes((1 << 20) - 1))
        answered, _, _ = select.select(held, [], [], 30)
        assert len(answered) == 1
        response = http.client.HTTPResponse(answered[0])
        response.begin()
        assert response.status == 503
        assert "ask again later" in json.loads(response.read())["error"]
        for connection in held:
            connection.close()
        until = time.monotonic() + 30
        while (status := post(url, "/see", (folder / "0.png").read_bytes())[0]) == 503:
            assert time.monotonic() < until
        assert status == 200


def images(data: bytes, count: int) -> tuple[bytes, dict[str, str]]:
    """Return a request with an image file so many times."""
    tail = (struct.pack("<I", len(data)) + data) * count
    told = bare(datatype="BYTES", shape=[count])
    told["inputs"][0]["parameters"] = {"binary_data_size": len(tail)}
    header = json.dumps(told).encode()
    return header + tail, {HEADER: str(len(header))}


def test_pictures_of_some_bytes_feed_no_more_than_tensors_may(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    whole = _serve_app.decoded
    monkeypatch.setattr(
        _serve_app, "decoded", lambda *given, **how: decoded.append(given) or whole(*given, **how)
    )
    data = cv2.imencode(".png", np.zeros((12, 16, 3), np.uint8))[1].tobytes()
    each = 4 * 3 * 12 * 16
    with serving(folder / "onnxruntime.engine", name="net", max_request=1) as url:
        body, headers = images(data, (1 << 20) // each)
        assert post(url, "/v2/models/net/infer", body, headers)[0] == 200
        decoded.clear()
        body, headers = images(data, (1 << 20) // each + 1)
        status, told, _ = post(url, "/v2/models/net/infer", body, headers)
    assert status == 400
    assert "at most 1,048,576 are fed; send fewer at once" in json.loads(told)["error"]
    assert len(decoded) == 1


def test_what_is_large_is_taken_one_after_the_other(folder: Path) -> None:
    with onnxgraft.ServedEngine(folder / "onnxruntime.engine") as engine:
        service = _serve_app.Service("net", engine, 1 << 20)
        seen = []

        def other(large: bool) -> None:
            with service.alone(large):
                seen.append(large)

        with service.alone(True), service.alone(True):  # a large request may have a large picture
            threads = [threading.Thread(target=other, args=(large,)) for large in (True, False)]
            for thread in threads:
                thread.start()
            threads[1].join(30)
            assert seen == [False]
        threads[0].join(30)
        assert seen == [False, True]


@pytest.mark.parametrize(
    ("size", "large"), [((100, 100), False), ((4096, 4096), False), ((4096, 4097), True)]
)
def test_a_large_picture_is_told_by_its_header(size: tuple[int, int], large: bool) -> None:
    data = cv2.imencode(".png", np.zeros(size, np.uint8))[1].tobytes()
    assert _serve_app.is_large(data) == large
    assert _serve_app.is_large(data[1:])  # of which nobody knows


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v2/models/other/infer", 404), ("/v2/models/net/versions/2/infer", 404), ("/none", 404)],
)
def test_what_is_not_there_is_told(path: str, status: int, url: str) -> None:
    assert post(url, path, text())[0] == status


def test_an_engine_without_a_recipe_says_so_of_pictures(folder: Path, tmp_path: Path) -> None:
    built = onnxgraft.build(folder / "net.onnx", tmp_path / "e", target="onnxruntime", prove=False)
    with serving(built.out) as url:
        status, told, _ = post(url, "/see", (folder / "0.png").read_bytes())
    assert status == 400
    assert "does not say how pictures are prepared" in json.loads(told)["error"]


def test_a_client_is_told_no_path_of_the_machine(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A function of the user's own fails, and its message names its file: that is for the log."""

    def broken(pixels: Array) -> Array:
        raise ValueError(f"{tmp_path}/secret")

    recipe = onnxgraft.Preprocess(function=broken)
    with serving(folder / "onnxruntime.engine", preprocess=recipe) as url:
        status, told, _ = post(url, "/see", (folder / "0.png").read_bytes())
    assert status == 400
    assert str(tmp_path) not in told.decode()
    assert "the server's log says why" in json.loads(told)["error"]
    assert f"{tmp_path}/secret" in caplog.text


def test_free_axes_that_do_not_fit_each_other_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model_of("n (float[A] a, float[B] b) => (float[C] y) { y = Add(a, b) }").save(
        tmp_path / "n.onnx"
    )
    onnxgraft.build(tmp_path / "n.onnx", tmp_path / "e", target="onnxruntime", prove=False)
    entries = [
        {"name": name, "datatype": "FP32", "shape": [size], "data": [1.0] * size}
        for name, size in (("a", 2), ("b", 3))
    ]
    with serving(tmp_path / "e") as url:
        status, told, _ = post(url, "/v2/models/e/infer", json.dumps({"inputs": entries}).encode())
    assert (status, json.loads(told)["error"]) == (
        400, "the engine can't run what was sent; the server's log says why",
    )  # fmt: skip


# Metrics, and the process -----------------------------------------------------------------------


def test_prometheus_reads_the_metrics(folder: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with serving(folder / "onnxruntime.engine", name="net") as url:
        assert post(url, "/v2/models/net/infer", text())[0] == 200
        assert post(url, "/v2/models/net/infer", b"{")[0] == 400
        _, told = get(url, "/metrics")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told.decode())
        for sample in family.samples
    }
    counted = ("onnxgraft_requests_total", ("endpoint", "infer"))
    assert found[*counted, ("status", "200")] == found[*counted, ("status", "400")] == 1
    assert found["onnxgraft_request_seconds_count", ("endpoint", "infer")] == 2
    assert found["onnxgraft_requests_running",] == 0
    assert found[
        "onnxgraft_engine_info", ("engine", "onnxruntime fp32"), ("model", "net")
    ] == 1  # fmt: skip


def test_a_server_listens_where_other_machines_do_not_reach_it() -> None:
    host = inspect.signature(serve).parameters["host"].default
    assert ipaddress.ip_address(host).is_loopback


def test_an_address_of_ipv6_is_written_as_one(folder: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    with _serve._listening("::1", 0) as listening:
        assert _serve._url(listening) == f"http://[::1]:{listening.getsockname()[1]}"


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"{port} can't be listened on .*--port"):
            serve(folder / "onnxruntime.engine", port=port)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [({"name": "a/b"}, "a model's name"), ({"host": "no such host"}, "can't be listened on"),
     ({"max_request": 0}, "from 1 on"), ({"threads": 0}, "threads")],
)  # fmt: skip
def test_what_is_wrong_with_a_setting_is_told(
    more: dict[str, Any], sentence: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        serve(folder / "onnxruntime.engine", port=0, **more)


SLOW = """
import time
def slow(pixels):
    time.sleep(1.5)
    return pixels.astype("float32")
"""


@pytest.mark.parametrize("sent", few([signal.SIGTERM, signal.SIGINT], 1))
def test_a_signal_ends_the_command_well_and_answers_what_is_under_way(
    sent: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow.toml").write_text(
        '[preprocess]\nresize = [12, 16]\nfunction = "slow.py:slow"\n'
    )
    command = [
        sys.executable, "-m", "onnxgraft", "serve", folder / "onnxruntime.engine", "--port", "0",
        "--preprocess", tmp_path / "slow.toml", "--trust=slow", "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://[\d.:]+", line)
        assert found is not None, line + process.stderr.read()
        answers: list[int] = []
        data = (folder / "0.png").read_bytes()
        asking = threading.Thread(target=lambda: answers.append(post(found[0], "/see", data)[0]))
        asking.start()
        while b"onnxgraft_requests_running 1.0" not in get(found[0], "/metrics")[1]:
            time.sleep(0.02)
        os.kill(process.pid, sent)
        told, errors = process.communicate(timeout=30)
        asking.join()
    assert process.returncode == 0, errors
    assert answers == [200]
    assert json.loads(told)["requests"] == 1
