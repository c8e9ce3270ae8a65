"""Makes the seeds of the corpus that are not text: `python -m tests.fuzz.seeds`.

Each is the smallest file that has every part its reader looks at.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from models.caffemodel import caffemodel
from onnxgraft.data.image_header import Form
from onnxgraft.data.ranges import Histogram, pack
from onnxgraft.stages.quantize.measure.measurer import Tally
from tests import hostile
from tests.fuzz.readers import BETWEEN, CORPUS


def npy(array: Any) -> bytes:
    """Return the bytes of an ``.npy``."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def archive(members: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive, the same each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, how)
    return file.getvalue()


def _field(number: int, kind: int, payload: bytes) -> bytes:
    return bytes([number << 3 & 0x7F | kind | (0x80 if number > 15 else 0),
                  *([number >> 4] if number > 15 else []),
                  *([len(payload)] if kind == 2 else [])]) + payload  # fmt: skip


def _caffemodels() -> dict[str, bytes]:
    weights = np.arange(4, dtype=np.float32)
    plain = caffemodel({"conv": ("Convolution", [weights.reshape(1, 1, 2, 2), weights[:1]])})
    half = _field(10, 0, b"\x02") + _field(12, 2, b"\0\x3c\0\x40") + _field(7, 2, b"\x08\x02")
    legacy = b"".join(_field(n, 0, b"\x01") for n in (1, 2, 3)) + _field(4, 0, b"\x02")
    legacy += _field(5, 2, weights[:2].tobytes())
    doubles = _field(8, 2, np.arange(2.0).tobytes()) + _field(7, 2, _field(1, 2, b"\x02"))
    one = _field(5, 5, weights[:1].tobytes()) + _field(7, 2, _field(1, 0, b"\x01"))
    v1 = _field(4, 2, b"ip") + b"".join(_field(6, 2, blob) for blob in (legacy, doubles, one))
    v0 = _field(1, 2, _field(1, 2, b"old") + _field(50, 2, legacy))
    return {
        "plain": plain,
        "half": _field(100, 2, _field(1, 2, b"fc") + _field(7, 2, half)),
        "legacy": _field(2, 2, v1) + _field(2, 2, v0),
    }


def _counts() -> dict[str, Histogram]:
    histogram = Histogram()
    histogram.add(np.array([-1.0, 0.0, 2.0], np.float32))
    return {"x": histogram}


def _histograms() -> bytes:
    parts = []
    for histograms in (_counts(), _counts(), {}):
        packed = pack(histograms)
        parts += [npy(packed[kind]) for kind in ("names", "sizes", "bins", "counts", "limits")]
    return BETWEEN.join(parts)


def _shard() -> bytes:
    tally = Tally(_counts(), {}, 1, {"a.png": "0" * 64}, {"b.png": "no image"})
    tally.forms[Form(4, 4, 3, 8)] += 1
    return tally.to_bytes()


MANIFEST = {
    "format": "onnxgraft.bundle/1",
    "sha256": {name: f"@{name}" for name in ("model.onnx", "float.onnx", "calibration.cache")},
    "profiles": [{"x": [[1, 3], [2, 3], [4, 3]]}],
    "passport": {"format": "onnxgraft.passport/1", "floats": "fp32", "target": "tensorrt"},
}


def _bundle() -> bytes:
    digest = hashlib.sha256(b"graph").hexdigest()
    manifest = {**MANIFEST, "sha256": {"model.onnx": digest}}
    return archive({"manifest.json": json.dumps(manifest).encode(), "model.onnx": b"graph"})


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    head = bytes([0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0])
    rows = zlib.compress(b"\0\1\2" * 2)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _exif() -> bytes:
    return b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def _exif_jpeg() -> bytes:
    exif = b"Exif\0\0" + _exif()
    return b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + _jpeg()[8:]


def _webp() -> bytes:
    extended = b"VP8X\n\0\0\0\x08\0\0\0\1\0\0\1\0\0"
    return b"RIFF\x40\0\0\0WEBP" + extended + b"EXIF" + bytes([len(_exif()), 0, 0, 0]) + _exif()


def _tiff() -> bytes:
    tags = b"\0\1\3\0\1\0\0\0\2\0\0\0\1\1\4\0\1\0\0\0\2\0\0\0\2\1\3\0\3\0\0\0\x32\0\0\0"
    return b"II*\0\x08\0\0\0\3\0" + tags + bytes(4) + b"\x08\0" * 3


def _jpeg() -> bytes:
    frame = bytes([0xFF, 0xC0, 0, 11, 8, 0, 2, 0, 2, 1, 1, 0x11, 0])
    return b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xd0" + frame + b"\xff\xd9"


def _bmp() -> bytes:
    sizes = (40).to_bytes(4, "little") + b"\2\0\0\0\xfe\xff\xff\xff\1\0\x18\0"
    return b"BM" + bytes(12) + sizes + bytes(16)


def _onnx(text: str, weights: Mapping[str, Any], external: bool = False) -> bytes:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    if external:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="net.onnx")
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="length", value="8")
    onnx.helper.set_model_props(
        proto,
        {
            "onnxgraft.source": json.dumps({"path": "a", "framework": "onnx", "sha256": "0"}),
            "onnxgraft.names": json.dumps({"y": ["y:0", [0, 2, 1]]}),
        },
    )
    return bytes(proto.SerializeToString())


def _lite() -> bytes:
    """Return a TFLite model: a Conv with scales, and an If with two graphs."""
    import flatbuffers

    from tests.fuzz.flat import schema

    lite = schema()
    kinds, options = lite.BuiltinOperator, lite.BuiltinOptions

    def tensor(name: str, shape: list[int], kind: int, buffer: int = 0, scale: float = 0.0) -> Any:
        made = lite.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        if scale:
            made.quantization = lite.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [3]
        return made

    def operator(code: int, inputs: list[int], outputs: list[int], options: Any = None) -> Any:
        made = lite.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
        if options is not None:
            made.builtinOptionsType, made.builtinOptions = options
        return made

    def graph(name: str, tensors: list[Any], inputs: list[int], operators: list[Any]) -> Any:
        made = lite.SubGraphT()
        made.name, made.tensors, made.operators = name, tensors, operators
        made.inputs, made.outputs = inputs, [len(tensors) - 1]
        return made

    conv, choose = lite.Conv2DOptionsT(), lite.IfOptionsT()
    conv.strideW = conv.strideH = 1
    choose.thenSubgraphIndex, choose.elseSubgraphIndex = 1, 2
    whole, flag = lite.TensorType.INT8, lite.TensorType.BOOL
    x = tensor("x", [1, 2, 2, 1], whole, scale=0.5)
    y, z = (tensor(name, [1, 2, 2, 1], whole, scale=0.25) for name in "yz")
    first = graph(
        "main",
        [x, tensor("c", [], flag), tensor("w", [1, 1, 1, 1], whole, 1, 0.125),
         tensor("b", [1], lite.TensorType.INT32, 2, 0.0625), y, z],
        [0, 1],
        [operator(0, [0, 2, 3], [4], (options.Conv2DOptions, conv)),
         operator(1, [1, 4], [5], (options.IfOptions, choose))],
    )  # fmt: skip
    bodies = [graph(name, [y, z], [0], [operator(2, [0], [1])]) for name in ("then", "else")]
    model = lite.ModelT()
    model.version, model.subgraphs = 3, [first, *bodies]
    for kind in (kinds.CONV_2D, kinds.IF, kinds.RELU):
        code = lite.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kind
        model.operatorCodes = [*(model.operatorCodes or []), code]
    for data in (b"", b"\5", b"\1\0\0\0"):
        buffer = lite.BufferT()
        buffer.data = list(data)
        model.buffers = [*(model.buffers or []), buffer]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _graph_def() -> Any:
    """Return a graph with a constant and a call of a function."""
    from tensorflow.core.framework import graph_pb2

    graph = graph_pb2.GraphDef.FromString(
        hostile.graph_def(hostile.X, hostile.splat(2), hostile.node(
            "y", "Mul", ["f", "big"], hostile.attr("T", hostile.FLOAT)))
    )  # fmt: skip
    called = graph.node.add(name="f", op="PartitionedCall", input=["x"])
    called.attr["Tin"].list.type.append(1)
    called.attr["Tout"].list.type.append(1)
    called.attr["f"].func.name = "own"
    function = graph.library.function.add()
    function.signature.name = "own"
    function.signature.input_arg.add(name="a", type=1)
    function.signature.output_arg.add(name="b", type=1)
    function.node_def.add(name="r", op="Relu", input=["a"]).attr["T"].type = 1
    function.ret["b"] = "r:activations:0"
    graph.versions.producer = 1000
    return graph


def _saved_model() -> bytes:
    """Return a SavedModel of one function, with its signature and its objects."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    graph = saved.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    graph.meta_info_def.stripped_op_list.op.add(name="Relu")
    graph.graph_def.CopyFrom(_graph_def())
    given = graph.signature_def["serving_default"]
    given.inputs["x"].name, given.inputs["x"].dtype = "x:0", 1
    given.outputs["y"].name, given.outputs["y"].dtype = "y:0", 1
    root = graph.object_graph_def.nodes.add()
    root.user_object.identifier = "_generic_user_object"
    root.children.add(node_id=1, local_name="f")
    function = graph.object_graph_def.nodes.add().function
    function.concrete_functions.append("own")
    function.function_spec.fullargspec.none_value.SetInParent()
    graph.object_graph_def.concrete_functions["own"].bound_inputs.append(0)
    return bytes(saved.SerializeToString(deterministic=True))


def _layers() -> bytes:
    """Return the configuration of a Keras model: an input, and a layer with an activation."""
    dense = {
        "units": 2, "activation": "relu", "name": "d", "trainable": True,
        "dtype": {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"},
                  "registered_name": None},
        "kernel_initializer": {"module": "keras.initializers", "class_name": "GlorotUniform",
                               "config": {"seed": None}, "registered_name": None},
    }  # fmt: skip
    layers = [
        {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
        for kind, config in (
            ("InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "x"}),
            ("Dense", dense),
        )
    ]
    whole = {"module": "keras", "class_name": "Sequential", "registered_name": "Sequential",
             "config": {"name": "s", "layers": layers}}  # fmt: skip
    return json.dumps(whole, indent=1).encode()


def _program() -> bytes:
    """Return a .pt2 of the seed for its program."""
    graph = (CORPUS / "program" / "linear.json").read_bytes()
    members = {".data/version": b"3\n", "archive_format": b"pt2", "archive_version": b"0",
               "models/model.json": graph}  # fmt: skip
    return archive({f"net/{name}": data for name, data in members.items()}, zipfile.ZIP_DEFLATED)


def main() -> None:
    """Write them."""
    whole = npy(np.zeros((3, 2, 2, 1), np.float32))
    made: dict[str, dict[str, bytes]] = {
        "caffemodel": _caffemodels(),
        "histograms": {"plain": _histograms()},
        "bundle": {"plain": _bundle()},
        "manifest": {"plain": json.dumps(MANIFEST).encode()},
        "npz": {
            "stored": archive({"x.npy": whole, "labels.npy": npy(np.arange(3))}),
            "deflated": archive({"x.npy": whole}, zipfile.ZIP_DEFLATED),
        },
        "arrays": {
            "plain": whole + BETWEEN + npy(np.arange(3)),
            "channels_first": npy(np.zeros((1, 2, 1, 2), ">i2")) + BETWEEN + npy(np.zeros(1)),
        },
        "image": {
            "png": _png(), "jpeg": _jpeg(), "bmp": _bmp(), "exif": _exif_jpeg(), "webp": _webp(),
            "tiff": _tiff(),
        },
        "onnx": {
            "plain": _onnx("n (float[N,2] x) => (float[N,2] y) { y = Mul(x, w) }",
                           {"w": np.ones((1, 2), np.float32)}),
            "body": _onnx(
                "n (bool c, float[2] x) => (float[2] y) { y = If(c) "
                "<then_branch = a () => (float[2] p) { p = Add(x, w) }, "
                "else_branch = b () => (float[2] q) { q = Relu(x) }> }",
                {"w": np.ones(2, np.float32)}),
            "external": _onnx("n (float[N,2] x) => (float[N,2] y) { y = Mul(x, w) }",
                              {"w": np.ones((1, 2), np.float32)}, external=True),
        },
        "shard": {"plain": _shard()},
        "tflite": {"relu": hostile.tflite(), "branches": _lite()},
        "graphdef": {"plain": _graph_def().SerializeToString(deterministic=True)},
        "savedmodel": {"plain": _saved_model()},
        "keras": {"plain.json": _layers()},
        "pt2": {"plain": _program()},
    }  # fmt: skip
    for reader, files in made.items():
        (CORPUS / reader).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (CORPUS / reader / name).write_bytes(data)


if __name__ == "__main__":
    main()
