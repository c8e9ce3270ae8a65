"""What a file may hold is counted before memory is taken, and sound files of any size pass."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import STRUCTURE_BYTES
from onnxgraft.files.schema import Costs, schema
from onnxgraft.files.survey import Survey, survey
from onnxgraft.files.wire import WireError
from onnxgraft.graph import onnx_file
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from tests import hostile
from tests.conftest import ROOT, Cli, few, only_ci, only_deep
from tests.hostile import field, varint
from tests.test_trust import MOST_KILOBYTES, MOST_SECONDS


def run(*words: str | Path, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# Hostile files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of reading each file of GROWING, all in one process."""
    folder = tmp_path_factory.mktemp("growing")
    hostile.write_growing(folder)
    found: dict[str, Any] = run("tests.hostile", folder, "growing", folder=folder)["answers"]
    for name in hostile.GROWING:
        (folder / name).unlink()  # together they are half a gigabyte
    return found


@only_deep
@pytest.mark.parametrize("name", hostile.GROWING)
def test_what_a_few_bytes_become_many_of_is_refused(name: str, answers: dict[str, Any]) -> None:
    told, seconds, kilobytes = answers[name]
    assert told.startswith("2: ")
    assert hostile.GROWING[name][1] in told
    assert "\n" not in told
    assert kilobytes < MOST_KILOBYTES  # of it and of those before it
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize("name", ["split.onnx", "scan.onnx", "given.onnx"])
def test_a_node_that_says_to_have_more_than_it_has_is_refused(name: str, tmp_path: Path) -> None:
    make, words = hostile.GROWING[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ModelError, match=words):
        Model.load(tmp_path / name)


def test_an_operator_of_another_domain_may_count_what_it_likes(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    text = (
        '<ir_version: 8, opset_import: ["" : 18, "acme" : 1]>\n'
        "net (float[4] x) => (float[4] y) { y = acme.Split <num_outputs = 9> (x) }"
    )
    file.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert [node.op for node in Model.load(file).graph.nodes] == ["Split"]


def test_a_function_that_splits_into_as_many_parts_as_its_call_says_is_read(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(hostile.splitting_in_a_function(2))
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    given = onnxruntime.InferenceSession(file).run(None, {"x": x})
    again = onnxruntime.InferenceSession(Model.load(file).to_onnx().SerializeToString())
    np.testing.assert_array_equal(again.run(None, {"x": x})[0], given[0])
    np.testing.assert_array_equal(given[0], x[:1])


# What is counted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", few(["onnx.ModelProto", "tensorflow.core.framework.attr_value_pb2.AttrValue"], 0, 1)
)
def test_no_field_takes_more_than_is_counted(kind: str, tmp_path: Path) -> None:
    if kind.startswith("tensorflow"):
        pytest.importorskip("tensorflow")
    found = run("tests.costs", kind, folder=tmp_path)
    assert len(found) > 40
    assert not {path: both for path, both in found.items() if both[0] > both[1]}


def count(data: bytes, copies: int = 1) -> Survey:
    return survey(memoryview(data), schema(onnx.ModelProto.DESCRIPTOR, Costs(copies)), "x:")


def test_fields_that_protobuf_does_not_know_cost_their_bytes() -> None:
    empty = count(b"").taken
    unknown = varint(1000 << 3 | 2) + varint(500) + bytes(500)
    assert 500 < count(unknown).taken - empty < 600
    assert 1000 < count(2 * unknown).taken - empty < 1100
    assert count(unknown, copies=4).taken - count(b"", copies=4).taken > 2000
    # A known number with another wire type is unknown, too.
    assert count(field(1, bytes(500))).taken - empty > 500


def test_all_messages_are_counted_wherever_they_are() -> None:
    entry = field(9, field(1, b"key"))
    body = field(5, field(6, field(1, entry)))
    counts = {kind.name: n for kind, n in count(field(7, field(1, body + entry))).counts.items()}
    assert counts == {
        "ModelProto": 1, "GraphProto": 2, "NodeProto": 2, "AttributeProto": 1,
        "StringStringEntryProto": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x3a", b"\x3a\x05\x0a", field(7, b"\x0a\x05"), b"\x0b", b"\x08" + b"\xff" * 11,
     field(7, field(1, b"\x15\x00")), b"\x02\x00"],
    ids=["no_number", "no_length", "cut", "inner_cut", "group", "endless", "fixed_cut", "zero"],
)  # fmt: skip
def test_what_is_no_message_is_told(data: bytes) -> None:
    with pytest.raises(WireError):
        count(data)


def test_packed_numbers_are_counted_one_by_one() -> None:
    def taken(values: bytes) -> int:
        costs = Costs(1, {"TensorProto": onnx_file.TENSORS})
        known = schema(onnx.TensorProto.DESCRIPTOR, costs)
        return survey(memoryview(field(7, values)), known, "x:").taken

    small, large = taken(bytes(1 << 20)), taken(b"\xff\xff\xff\x01" * (1 << 18))
    assert small > 15 << 20
    assert 3.9 < (small - taken(b"")) / (large - taken(b"")) < 4.1


# Sound files -----------------------------------------------------------------------------------


def chain(nodes: int) -> bytes:
    """Return a graph of nodes with long names, attributes and the shapes of their outputs."""
    scope = "/model/encoder/layer.{}/attention/self/Mul_output_0"
    value = onnx.helper.make_tensor_value_info("NAME", 1, ["N", 4, 2, 2]).SerializeToString()
    node = onnx.helper.make_node(
        "AveragePool", ["IN"], ["OUT"], "NODE", kernel_shape=[1, 1], pads=[0, 0, 0, 0],
        strides=[1, 1], ceil_mode=0,
    )  # fmt: skip
    attributes = b"".join(field(5, a.SerializeToString()) for a in node.attribute)
    kind = value.removeprefix(field(1, b"NAME"))
    parts = []
    before = b"x"
    for index in range(nodes):
        after = scope.format(index).encode()
        parts += [
            field(1, field(1, before) + field(2, after) + field(3, after)
                  + field(4, b"AveragePool") + attributes),
            field(13, field(1, after) + kind),
        ]  # fmt: skip
        before = after
    ends = field(11, field(1, b"x") + kind) + field(12, field(1, before) + kind)
    opset = field(8, b"\x10\x11")
    return b"\x08\x08" + opset + field(7, b"".join(parts) + field(2, b"net") + ends)


@only_ci
def test_a_size_that_follows_from_what_is_fed_ends_in_a_sentence(
    tmp_path: Path, process: Cli
) -> None:
    make, words = hostile.RUNNING["followed.onnx"]
    (tmp_path / "net.onnx").write_bytes(make())
    done = process("convert", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx")
    assert done.returncode == 2
    assert words in done.stderr and "--max-memory" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_a_graph_of_100_000_nodes_is_read() -> None:
    data = chain(100_000)
    begin = time.process_time()
    found = survey(memoryview(data), onnx_file._schema(), "x:")
    assert time.process_time() - begin < 15
    assert STRUCTURE_BYTES.most / 2 < found.taken < STRUCTURE_BYTES.most


@only_ci
def test_what_is_counted_is_near_to_what_reading_takes(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(chain(10_000))
    (tmp_path / "small.onnx").write_bytes(chain(2))
    code = (
        "import sys; from tests.costs import resident; from tests.hostile import peak\n"
        "from onnxgraft.graph.model import Model\n"
        "Model.load('small.onnx'); before = resident(); model = Model.load('net.onnx')\n"
        "print(1024 * peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )  # fmt: skip
    counted = survey(memoryview(chain(10_000)), onnx_file._schema(), "x:").taken
    assert 0.5 < int(done.stdout) / counted < 1.1


def test_a_model_of_which_nothing_is_cut_is_not_copied() -> None:
    model = Model.from_onnx(onnx.ModelProto.FromString(hostile.onnx_model()), SOURCE)
    assert extract(model) is model


SOURCE: Any = type("Source", (), {"path": "x", "framework": "onnx", "sha256": ""})()


def test_constants_of_a_text_graph_are_read_as_protobuf_does() -> None:
    tf = pytest.importorskip("tensorflow")
    from google.protobuf import text_format

    from onnxgraft.stages.convert.tensorflow.reading.text import parse_graph

    graph, found = tf.compat.v1.GraphDef(), tf.compat.v1.GraphDef()
    values = bytes(range(256)) * 100 + b'"\\x41\\n\x00001'
    for index, content in enumerate((values, b"short", values[::-1])):
        node = graph.node.add(name=f"c{index}", op="Const")
        node.attr["value"].tensor.tensor_content = content
    graph.node[0].attr["list"].list.tensor.add(tensor_content=values)
    function = graph.library.function.add()
    function.node_def.add(name="f").attr["value"].tensor.tensor_content = values
    text = text_format.MessageToString(graph)
    parse_graph(text.encode(), found, "x:")
    assert found == graph
    elsewhere = text.replace("tensor_content", "half_val").encode()
    with pytest.raises(text_format.ParseError):
        parse_graph(elsewhere, found, "x:")


# External data ---------------------------------------------------------------------------------


def tensor(name: str, location: str, size: int) -> onnx.TensorProto:
    made = onnx.TensorProto(name=name, data_type=1, dims=[size // 4], data_location=1)
    made.external_data.add(key="location", value=location)
    return made


def sparse(model: onnx.ModelProto) -> None:
    for _ in range(6):
        made = model.graph.sparse_initializer.add(dims=[1 << 24])
        made.values.CopyFrom(tensor("", "w.bin", 64 << 20))
        made.indices.CopyFrom(tensor("", "w.bin", 64 << 20))
        made.indices.data_type = 6


def shared(model: onnx.ModelProto) -> None:
    model.graph.initializer.extend(tensor(f"w{i}", "w.bin", 64 << 20) for i in range(20))


def dense(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[1 << 20, 1 << 10])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (sparse, "times the size of the files that its tensors lie in, at most 4 are read"),
        (shared, "times the size of the files that its tensors lie in, at most 4 are read"),
        (dense, "declared shape|of constants that are stored as one value are read"),
    ],
)
def test_external_data_that_many_tensors_share_are_refused(
    change: Callable[[onnx.ModelProto], None], words: str, tmp_path: Path
) -> None:
    model = onnx.ModelProto.FromString(hostile.onnx_model())
    change(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(64 << 20)
    with pytest.raises(ModelError, match=words):
        Model.load(tmp_path / "net.onnx")


def test_more_external_tensors_are_read_than_files_may_be_open(tmp_path: Path) -> None:
    size = 1 << 16
    model = onnx.ModelProto.FromString(hostile.onnx_model())
    model.ir_version = 8
    for index in range(1100):
        made = tensor(f"w{index}", "w.bin", size)
        made.external_data.add(key="offset", value=str(index * size))
        made.external_data.add(key="length", value=str(size))
        model.graph.initializer.append(made)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(1100 * size)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        Model.load(tmp_path / "net.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_external_constant_of_a_node_has_its_values(tmp_path: Path) -> None:
    values = np.arange(1 << 15, dtype=np.float32)
    values.tofile(tmp_path / "w.bin")
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensor("c", "w.bin", values.nbytes))
    add = onnx.helper.make_node("Add", ["x", "c"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1 << 15]) for name in "xy")
    graph = onnx.helper.make_graph([node, add], "net", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "n.onnx"
    )
    constant = Model.load(tmp_path / "n.onnx").graph.nodes[0].attrs["value"]
    np.testing.assert_array_equal(constant.values, values)
