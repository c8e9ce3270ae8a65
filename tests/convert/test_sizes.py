"""What a few bytes would become gigabytes of is told before a framework makes it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.run import demand
from onnxgraft.stages.convert import Original
from tests import hostile
from tests.conftest import few, only_ci
from tests.convert.pytorch.test_hostile_programs import edited
from tests.convert.pytorch.test_hostile_programs import graph as of_graph
from tests.running import Cli

tf = pytest.importorskip("tensorflow")
HUGE = 1_500_000_000


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check as the command line does, with the limit that nobody asked for."""
    monkeypatch.setenv(demand._ALLOWED, "0")


def frozen(make: Callable[[Any], Any]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
            tf.add(x, tf.cast(tf.reduce_max(make(x)), tf.float32), name="y")
        (folder / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
        return "net.pb"

    return write


def lite(folder: Path) -> str:
    from tests.fuzz.flat import schema

    model = schema().ModelT.InitFromObj(schema().Model.GetRootAs(hostile.tflite(), 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.shape, tensor.buffer = [HUGE], 0
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "net.tflite").write_bytes(bytes(builder.Output()))
    return "net.tflite"


def caffe(folder: Path) -> str:
    (folder / "net.prototxt").write_text(
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 40000 input_dim: 40000\n'
        'layer { name: "y" type: "ReLU" bottom: "x" top: "y" }'
    )
    return "net.prototxt"


def torch(folder: Path) -> str:
    module = pytest.importorskip("torch")

    class Repeated(module.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x + x.repeat(1, HUGE // 4).max()

    program = module.export.export(Repeated(), (module.zeros(1, 4),))
    module.export.save(program, str(folder / "net.pt2"))
    return "net.pt2"


MAKERS: dict[str, Callable[[Path], str]] = {
    "Fill": frozen(lambda x: tf.raw_ops.Fill(dims=[HUGE], value=1.0)),
    "Range": frozen(lambda x: tf.raw_ops.Range(start=0, limit=HUGE, delta=1)),
    "Tile": frozen(lambda x: tf.tile(x, [1, HUGE // 4])),
    "tflite": lite,
    "caffe": caffe,
    "pytorch": torch,
}


@pytest.mark.parametrize("way", ["run", "lower"])
@pytest.mark.parametrize("maker", MAKERS)
def test_a_network_that_would_take_gigabytes_is_told_by_the_sizes_of_its_tensors(
    maker: str, way: str, tmp_path: Path
) -> None:
    original = Original.of(tmp_path / MAKERS[maker](tmp_path))
    with pytest.raises(InputError, match=r"one sample takes .* GB or more, .* --max-memory \d+GB"):
        if way == "lower":
            demand.check_model(original.lower()[0])
        else:
            engine = original.run()
            engine.infer({s.name: np.zeros(s.shape, s.dtype) for s in engine.inputs})


def large_layers() -> list[dict[str, object]]:
    given: dict[str, object] = {"batch_shape": [None, 4], "dtype": "float32", "name": "x"}
    dense: dict[str, object] = {"units": 40_000}
    return [
        {"module": "keras.layers", "class_name": kind, "registered_name": None,
         "config": {**config, "name": f"l{index}"}}
        for index, (kind, config) in enumerate(
            [("InputLayer", given), ("Dense", dense), ("Dense", dense)]
        )
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_layers_of_weights_that_the_file_does_not_hold_are_refused(
    form: str, tmp_path: Path
) -> None:
    file = tmp_path / f"net.{form}"
    if form == "keras":
        file.write_bytes(hostile.keras_archive(large_layers()))
    else:
        file.write_bytes(hostile.h5(lambda _: None))
        with h5py.File(file, "a") as archive:
            inner = {"name": "s", "layers": large_layers()}
            archive.attrs["model_config"] = json.dumps({
                "class_name": "Sequential",
                "config": inner,
            })
    with pytest.raises(InputError, match=r"its layers have weights of 6\.4 GB, and the file holds"):
        Original.of(file).lower()


def test_functions_that_double_themselves_are_refused_in_a_frozen_graph(tmp_path: Path) -> None:
    graph = tf.compat.v1.GraphDef.FromString(hostile.graph_def(hostile.X))
    for level in range(28):
        function = graph.library.function.add()
        function.signature.name = f"f{level}"
        for name in ("a", "b"):
            op = "PartitionedCall" if level else "Relu"
            node = function.node_def.add(name=name, op=op, input=["x"])
            if level:
                node.attr["f"].func.name = f"f{level - 1}"
    call = graph.node.add(name="y", op="PartitionedCall", input=["x"])
    call.attr["f"].func.name = "f27"
    (tmp_path / "net.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="as its functions call each other"):
        Original.of(tmp_path / "net.pb").lower()


def graph_that_asks(folder: Path) -> Path:
    file = folder / "net.pb"
    file.write_bytes(hostile.asking())
    return file


def function_that_asks(folder: Path) -> Path:
    file = folder / "saved"
    hostile.asking_in_a_function(file)
    return file


def checkpoint_that_asks(folder: Path) -> Path:
    hostile.asking_in_a_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt.meta"


def keras2_that_asks(folder: Path) -> Path:
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    hostile.asking_in_keras2(folder / "net.h5")
    return folder / "net.h5"


ASKED = "can't be converted: {file}: one sample takes 5.59 GB or more"


@pytest.mark.parametrize(
    ("make", "status", "sentence"),
    few([
        (graph_that_asks, 0, ASKED), (function_that_asks, 0, ASKED),
        (checkpoint_that_asks, 0, ASKED), (keras2_that_asks, 2, "Keras can't load the model"),
    ], 0, 1),
)  # fmt: skip
def test_tensorflow_does_not_fill_gigabytes_to_learn_a_shape(
    make: Callable[[Path], Path], status: int, sentence: str, tmp_path: Path
) -> None:
    file = make(tmp_path)
    words = [sys.executable, "-m", "onnxgraft", "inspect", file]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, ended, usage = os.wait4(process.pid, 0)
    assert sentence.format(file=str(file).removesuffix(".meta")) in told
    assert os.waitstatus_to_exitcode(ended) == status
    assert usage.ru_maxrss < 2 << 20  # kB; TensorFlow itself takes 0.7 GB


def counting(*nodes: bytes, functions: list[bytes] | None = None) -> bytes:
    """Return a graph of nodes and functions."""
    library = b"".join(hostile.field(1, function) for function in functions or [])
    return hostile.graph_def(hostile.X, *nodes) + hostile.field(2, library)


def number(name: str, value: int) -> bytes:
    return hostile.attr(name, b"\x18" + hostile.varint(value))


def function(name: str, *nodes: bytes, signature: bytes = b"") -> bytes:
    """Return a function of nodes."""
    called = hostile.field(1, hostile.field(1, name.encode()) + signature)
    return called + b"".join(hostile.field(3, node) for node in nodes)


def named_function(name: str, *attributes: bytes) -> bytes:
    """Return the attribute that names a function, with attributes of its own."""
    value = hostile.field(1, name.encode()) + b"".join(
        hostile.field(2, attribute.removeprefix(attribute[:2])) for attribute in attributes
    )
    return hostile.attr("f", hostile.field(10, value))


PIECES = 3 << 20
UNPACKING = hostile.node("u", "Unpack", ["a"], number("num", PIECES))
# The number is what the function is given.
UNPACKING_SO_MANY = hostile.node("u", "Unpack", ["a"], hostile.attr("num", hostile.field(9, b"n")))
OF_SO_MANY = hostile.field(3, hostile.field(1, b"r") + b"\x18\x01" + hostile.field(5, b"n"))
COUNTED = {
    "of_one_operator": counting(hostile.node("y", "Unpack", ["x"], number("num", PIECES))),
    "of_several": counting(*[
        hostile.node(f"y{i}", "Unpack", ["x"], number("num", PIECES // 4)) for i in range(4)
    ]),
    "in_a_function": counting(functions=[function("f", UNPACKING)]),
    "that_a_function_is_given": counting(
        hostile.node("y", "f", ["x"], number("n", PIECES)),
        functions=[function("f", UNPACKING_SO_MANY)],
    ),
    "that_a_named_function_is_given": counting(
        hostile.node("y", "PartitionedCall", ["x"], named_function("f", number("n", PIECES))),
        functions=[function("f", UNPACKING_SO_MANY)],
    ),
    "of_a_function": counting(
        hostile.node("y", "f", ["x"], number("n", PIECES)),
        functions=[function("f", signature=OF_SO_MANY)],
    ),
    "of_a_function_that_is_called_often": counting(
        *[hostile.node(f"y{i}", "f", ["x"]) for i in range(8)],
        functions=[function("f", hostile.node("u", "Unpack", ["a"], number("num", PIECES // 8)))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COUNTED)
def test_inputs_and_outputs_are_counted_before_tensorflow_makes_them(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "net.pb").write_bytes(COUNTED[kind])
    with pytest.raises(InputError, match=r"3,\d{3},\d{3} inputs and outputs of operators"):
        Original.of(tmp_path / "net.pb").lower()


def test_weights_of_a_frozen_graph_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 200), "x")
        for index in range(4):
            weights = tf.constant(np.ones((200, 200), np.float32), name=f"w{index}")
            x = tf.matmul(x, tf.identity(weights))
        tf.identity(x, name="y")
    (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    monkeypatch.setenv(demand._ALLOWED, "100000")  # less than the weights of one layer
    original = Original.of(tmp_path / "net.pb")
    for frugal in (False, True):
        original.run(frugal=frugal).close()
    original.lower()


# Sizes that follow from values -----------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the tensors that are told of."""
    found: list[str] = []
    monkeypatch.setattr(demand, "watchers", [lambda name, _: found.append(name)])
    return found


def told(original: Original, found: list[str]) -> list[bool]:
    """Return whether something is told of a network when it runs and when it is converted."""
    engine = original.run()
    engine.infer({
        spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], spec.dtype)
        for spec in engine.inputs
    })
    engine.close()
    ran = bool(found)
    found.clear()
    original.lower()
    return [ran, bool(found)]


def graph(folder: Path, make: Callable[[Any], Any], v2: bool) -> Original:
    (tf.compat.v1.enable_control_flow_v2 if v2 else tf.compat.v1.disable_control_flow_v2)()
    try:
        return Original.of(folder / frozen(make)(folder), outputs="y:0")
    finally:
        tf.compat.v1.enable_control_flow_v2()


def converted_lite(folder: Path, make: Callable[[Any], Any]) -> Original:
    """Return a TFLite model of what is made of x (N, 4)."""
    spec = tf.TensorSpec((None, 4), tf.float32)
    traced = tf.function(lambda x: x + tf.reduce_max(make(x)), input_signature=[spec])
    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], module
    )
    (folder / "net.tflite").write_bytes(converter.convert())
    return Original.of(folder / "net.tflite")


def exported(folder: Path, make: Callable[[Any, Any], Any]) -> Original:
    """Return a PyTorch program of what is made of x (N, 4) and, of its values, a number."""
    module = pytest.importorskip("torch")

    class Net(module.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x + make(module, x).float().max()

    free = {0: module.export.Dim("N", min=2)}
    program = module.export.export(Net(), (module.zeros(3, 4),), dynamic_shapes=(free,))
    module.export.save(program, str(folder / "net.pt2"))
    return Original.of(folder / "net.pt2")


def either(x: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    return tf.compat.v1.cond(tf.reduce_max(x) > 0, yes, no)


def counted(x: Any) -> Any:
    """Return a number of values that is not known before."""
    return tf.reshape(tf.cast(tf.reduce_max(x) > 0, tf.int32) * 1000, [1])


def thrice(body: Callable[[Any], Any], first: Any, shape: list[int | None]) -> Any:
    return tf.while_loop(
        lambda i, _: i < 3, lambda i, held: (i + 1, body(held)), [tf.constant(0), first],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape(shape)],
    )[1]  # fmt: skip


FOLLOWING: dict[str, Callable[[Any], Any]] = {
    "filled": lambda x: tf.fill(counted(x), 1.0),
    "tiled": lambda x: tf.tile(tf.reshape(x, [-1])[:1], counted(x)),
    "in a branch": lambda x: either(
        x, lambda: tf.reduce_max(tf.fill(counted(x), 1.0)), lambda: tf.reduce_max(x)),
    "in a loop": lambda x: thrice(
        lambda held: held + tf.reduce_max(tf.fill(counted(held), 1.0)), tf.reduce_max(x), []),
    "in a branch in a loop": lambda x: thrice(
        lambda held: either(
            held, lambda: tf.reduce_max(tf.fill(counted(held), 1.0)), lambda: held + 1),
        tf.reduce_max(x), []),
    "growing in a loop": lambda x: thrice(
        lambda held: tf.concat([held, held], 0), tf.reshape(x, [-1]), [None]),
}  # fmt: skip
OF_THE_BATCH: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda x: x + tf.zeros(tf.shape(x)),
    "tiled": lambda x: tf.tile(tf.ones([1, 4]), [tf.shape(x)[0], 1]) + x,
    "padded": lambda x: tf.pad(x, [[0, 0], [1, 1]]),
    "in a branch": lambda x: either(
        x, lambda: x + tf.zeros([tf.shape(x)[0], 4]), lambda: tf.pad(x, [[0, 0], [0, 0]])),
    "in a loop": lambda x: thrice(
        lambda held: held + tf.zeros([tf.shape(held)[0], 1]), x, [None, 4]),
    "carried by a loop": lambda x: thrice(lambda held: tf.concat([held[:, 1:], x[:, :1]], 1), x,
                                          [None, 4]),
}  # fmt: skip


def count(torch: Any, x: Any) -> Any:
    number = ((x.max() > 0).to(torch.int64) * 1000).item()
    torch._check(number >= 0)
    return number


TORCH_FOLLOWING: dict[str, Callable[[Any, Any], Any]] = {
    "full": lambda torch, x: torch.cat([x[0], torch.full((count(torch, x),), 1.0)]),
    "twice a number": lambda torch, x: torch.ones(2 * count(torch, x) + 1),
    "repeated": lambda torch, x: x.reshape(-1)[:1].repeat(count(torch, x) + 1),
    "expanded": lambda torch, x: x.reshape(-1)[:1].expand(count(torch, x) + 1),
    "padded": lambda torch, x: torch.nn.functional.pad(x, (0, count(torch, x))),
    "repeated by a tensor": lambda torch, x: x.reshape(-1).repeat_interleave(
        (x.reshape(-1) >= 0).to(torch.int64) * 1000),
}  # fmt: skip
TORCH_OF_THE_BATCH: dict[str, Callable[[Any, Any], Any]] = {
    "zeros": lambda torch, x: x + torch.zeros(x.shape[0], 4),
    "repeated": lambda torch, x: x[:1].repeat(x.shape[0], 1) + x,
    "padded": lambda torch, x: torch.nn.functional.pad(x, (1, 1)),
    "scaled by a number, and padded": lambda torch, x: torch.nn.functional.pad(
        x * x.sum().item(), (1, 1)
    ),
    "those that are wanted": lambda torch, x: torch.cat([x[0], x[x > 0]]),
}
LITE_FOLLOWING = {
    **{name: FOLLOWING[name] for name in ("filled", "tiled", "in a branch")},
    "in a loop": lambda x: tf.while_loop(
        lambda i, _: i < 3,
        lambda i, held: (i + 1, tf.concat([held, held], 0)),
        [tf.constant(0), tf.reshape(x, [-1])],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
    )[1],
    "tiled in a branch": lambda x: either(
        x, lambda: tf.reduce_max(tf.tile(tf.reshape(x, [-1])[:1], [1000])), lambda: tf.reduce_max(x)
    ),
    "of numbers that are computed": lambda x: tf.range(0.0, tf.reduce_max(x) * 1000 + 1, 1.0),
}
LITE_OF_THE_BATCH = {name: OF_THE_BATCH[name] for name in ("zeros", "tiled", "padded")}
OTHERS: dict[str, tuple[Callable[..., Original], dict[str, Any], dict[str, Any]]] = {
    "tflite": (converted_lite, LITE_FOLLOWING, LITE_OF_THE_BATCH),
    "pytorch": (exported, TORCH_FOLLOWING, TORCH_OF_THE_BATCH),
}


@pytest.mark.parametrize(
    ("case", "v2"),
    [(case, v2) for case in FOLLOWING for v2 in (True, False) if v2 or case != "growing in a loop"],
)
def test_a_size_that_follows_from_values_is_told(
    tmp_path: Path, watched: list[str], case: str, v2: bool
) -> None:
    assert told(graph(tmp_path, FOLLOWING[case], v2), watched) == [True, True]


@pytest.mark.parametrize(
    ("form", "case"), [(form, case) for form, (_, found, _) in OTHERS.items() for case in found]
)
def test_a_size_that_follows_from_values_is_told_of_others(
    tmp_path: Path, watched: list[str], form: str, case: str
) -> None:
    convert, networks, _ = OTHERS[form]
    assert told(convert(tmp_path, networks[case]), watched) == [True, True]


@pytest.mark.parametrize(
    ("case", "v2"),
    [(case, v2) for case in OF_THE_BATCH for v2 in (True, False) if v2 or case != "in a loop"],
)
def test_a_size_that_follows_from_the_batch_is_known(
    tmp_path: Path, watched: list[str], case: str, v2: bool
) -> None:
    assert told(graph(tmp_path, OF_THE_BATCH[case], v2), watched) == [False, False]


@pytest.mark.parametrize(
    ("form", "case"), [(form, case) for form, (_, _, found) in OTHERS.items() for case in found]
)
def test_a_size_that_follows_from_the_batch_is_known_of_others(
    tmp_path: Path, watched: list[str], form: str, case: str
) -> None:
    convert, _, networks = OTHERS[form]
    assert told(convert(tmp_path, networks[case]), watched) == [False, False]


def test_operators_of_tflite_that_make_any_size_are_those_of_its_schema() -> None:
    from onnxgraft.stages.convert.tflite import sizes
    from tests.fuzz.flat import schema

    known = vars(schema().BuiltinOperator)
    assert [kind for kind in (*sizes._SIZES, *sizes._OF_SHAPES) if kind not in known] == []


def test_a_branch_that_takes_too_much_is_refused(tmp_path: Path) -> None:
    branch = frozen(lambda x: either(
        x, lambda: tf.reduce_max(tf.tile(tf.reshape(x, [-1])[:1], [HUGE])), lambda: tf.reduce_max(x)
    ))  # fmt: skip
    with pytest.raises(InputError, match="one sample takes"):
        Original.of(tmp_path / branch(tmp_path), outputs="y:0").run()


def test_a_program_is_counted_by_what_its_operators_make_and_not_by_what_it_notes(
    tmp_path: Path,
) -> None:
    def enlarge(told: Any, _: str) -> None:
        (node,) = (node for node in told["nodes"] if "full" in node["target"])
        node["inputs"][0]["arg"]["as_ints"] = [HUGE]

    exported(tmp_path, lambda torch, x: torch.full((77,), 1.0))
    other = edited(tmp_path / "net.pt2", tmp_path / "other.pt2", of_graph(enlarge), tmp_path)
    with pytest.raises(InputError, match="one sample takes"):
        Original.of(other).run()


def test_a_branch_of_a_program_that_takes_too_much_is_refused(tmp_path: Path) -> None:
    def branching(torch: Any, x: Any) -> Any:
        return torch.cond(
            x.max() > 0, lambda x: x.repeat(1, HUGE // 4).amax(1), lambda x: x.amax(1), (x,)
        )

    with pytest.raises(InputError, match="one sample takes"):
        exported(tmp_path, branching).run()


@only_ci
def test_such_a_size_ends_in_a_sentence(tmp_path: Path, process: Cli) -> None:
    make = frozen(lambda x: tf.fill(HUGE // 1000 * counted(x), 1.0))
    net, out = tmp_path / make(tmp_path), tmp_path / "out.onnx"
    done = process("convert", net, "--outputs", "y:0", "-o", out)
    assert done.returncode == 2
    assert "the size of 'Fill:0' follows from the values" in done.stderr
    assert not out.exists()
