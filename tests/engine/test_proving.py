"""An engine is run beside the exact answer of its graph, and built anew where it says otherwise.

The first half are graphs that OpenVINO gets wrong on one CPU or another; what its engines must say
comes from onnxruntime, which runs every Q and DQ as it stands. The second half has a backend of its
own that is wrong on purpose, so that every way out is taken on every CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import EngineWarning, InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.pairs import pair_sums
from onnxgraft.graph.quantized import input_ranges
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import sqnr
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from onnxgraft.stages.engine.options import BuildOptions, Built
from onnxgraft.stages.engine.passport import Flags, Passport, passport_json, read_passport
from onnxgraft.targets.cpu import find_cpu, this_cpu
from tests.conftest import ROOT, Cli, model_of, only_ci

openvino = pytest.mark.skipif(not engine.runs_here("openvino"), reason="OpenVINO is not installed")


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def integers(seed: int, *shape: int, most: int = 63) -> Array:
    found = np.random.default_rng(seed).integers(-most, most + 1, shape)
    return found.astype(np.int8)


def behind_a_concat(batch: str = "1") -> Model:
    """Return a graph whose int8 tensor holds what a Concat made, negative values too."""
    return model_of(
        f"net (float[{batch}, 3, 16, 16] x) => (float[{batch}, 8, 16, 16] y) {{"
        " a = Conv<pads=[1,1,1,1]>(x, wa)  b = Conv<pads=[1,1,1,1]>(x, wb)"
        " c = Concat<axis=1>(a, b)  q = QuantizeLinear(c, s, z)  d = DequantizeLinear(q, s, z)"
        " w = DequantizeLinear<axis=0>(wq, ws, wz)  y = Conv(d, w, bias) }",
        {
            "wa": normal(1, 16, 3, 3, 3, scale=0.2), "wb": normal(2, 16, 3, 3, 3, scale=0.2),
            "s": np.array(0.03, np.float32), "z": np.array(0, np.int8),
            "wq": integers(3, 8, 32, 1, 1), "ws": np.full(8, 0.01, np.float32),
            "wz": np.zeros(8, np.int8), "bias": normal(4, 8),
        },
    )  # fmt: skip


def a_unet_s_skip() -> Model:
    """Return a graph in which one tensor goes on as uint8 and, beside another, as int8."""
    return model_of(
        "net (float[1, 3, 16, 16] x) => (float[1, 8, 16, 16] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w0)  a = Relu(c)"
        " qa = QuantizeLinear(a, sa, za)  da = DequantizeLinear(qa, sa, za)"
        " m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(da)"
        " w1 = DequantizeLinear<axis=0>(w1q, ws1, wz1)  b = Conv<pads=[1,1,1,1]>(m, w1)"
        " u = ConvTranspose<strides=[2,2]>(b, wu)  j = Concat<axis=1>(u, a)"
        " q = QuantizeLinear(j, s, z)  d = DequantizeLinear(q, s, z)"
        " w2 = DequantizeLinear<axis=0>(w2q, ws2, wz2)  y = Conv<pads=[1,1,1,1]>(d, w2) }",
        {
            "w0": normal(1, 16, 3, 3, 3, scale=0.2),
            "sa": np.array(0.011, np.float32), "za": np.array(0, np.uint8),
            "w1q": integers(2, 16, 16, 3, 3), "ws1": np.full(16, 0.01, np.float32),
            "wz1": np.zeros(16, np.int8), "wu": normal(3, 16, 16, 2, 2, scale=0.1),
            "s": np.array(0.03, np.float32), "z": np.array(0, np.int8),
            "w2q": integers(4, 8, 32, 3, 3), "ws2": np.full(8, 0.01, np.float32),
            "wz2": np.zeros(8, np.int8),
        },
    )  # fmt: skip


def signed_and_eight_bits() -> Model:
    """Return a graph whose products of bytes leave 16 bits where two of them are added."""
    return model_of(
        "net (float[1, 64, 12, 12] x) => (float[1, 64, 12, 12] y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " w = DequantizeLinear<axis=0>(wq, ws, wz)  y = Conv(d, w, bias) }",
        {
            "s": np.array(0.01, np.float32), "z": np.array(0, np.int8),
            "wq": integers(5, 64, 64, 1, 1, most=127), "ws": np.full(64, 0.01, np.float32),
            "wz": np.zeros(64, np.int8), "bias": normal(6, 64),
        },
    )  # fmt: skip


def same_pads_and_a_free_batch() -> Model:
    return model_of(
        "net (float[N, 3, 25, 25] x) => (float[N, 4, 50, 50] y) {"
        ' y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }',
        {"w": normal(7, 3, 4, 4, 4)},
    )


FAULTS: dict[str, Callable[[], Model]] = {
    "int8 behind a Concat": behind_a_concat,
    "int8 behind a Concat, free batch": lambda: behind_a_concat("N"),
    "a U-Net's skip": a_unet_s_skip,
    "signed, weights of eight bits": signed_and_eight_bits,
    "a ConvTranspose with auto_pad and a free batch": same_pads_and_a_free_batch,
}


@openvino
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_computes_what_its_graph_says(fault: str, tmp_path: Path) -> None:
    model = FAULTS[fault]()
    passport = engine.build(model, tmp_path / "e", "openvino")
    assert passport.proven
    with (
        OnnxRuntime(model.to_onnx(), optimize=False) as right, engine.load(tmp_path / "e") as built
    ):  # fmt: skip
        for batch in (1, 3) if isinstance(model.inputs[0].shape[0], str) else (1,):
            # Within what the graph holds: activations in float are not cut off beyond it.
            drawn = random_feeds(model.inputs, batch, seed=9)
            held = input_ranges(model)
            feeds = {n: np.clip(v, *held[n]) if n in held else v for n, v in drawn.items()}
            expected, found = right.infer(feeds)["y"], built.infer(feeds)["y"]
            assert found.shape == expected.shape
            # One layer: not even the chaos of rounding is between the two.
            assert sqnr(expected, found) > 45


@openvino
def test_kernels_that_saturate_are_found_where_there_is_no_vnni(tmp_path: Path) -> None:
    if "avx512f" not in this_cpu().features:
        pytest.skip("oneDNN can be limited to AVX-512 without VNNI only where there is AVX-512")
    signed_and_eight_bits().save(tmp_path / "int8.onnx")
    command = [sys.executable, "-m", "onnxgraft", "build", str(tmp_path / "int8.onnx"),
               "--target", "openvino", "-o", str(tmp_path / "e"), "--json"]  # fmt: skip
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["passed"]
    assert "limited to AVX512_CORE" in told["cpu"]["name"]
    assert "avx512_vnni" not in told["cpu"]["features"]
    (note,) = told["notes"]
    # All weights of this one layer are large: coarser ones would cost it more than a decibel.
    assert "is built with float activations" in note


def wide_weights() -> Model:
    """Return a layer whose products of bytes don't fit into 16 bits in pairs."""
    return model_of(
        "net (float[N, 16, 8, 8] x) => (float[N, 8, 8, 8] y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " w = DequantizeLinear(wq, ws, wz)  c = Conv<pads=[1,1,1,1]>(d, w)"
        " r = QuantizeLinear(c, rs, rz)  y = DequantizeLinear(r, rs, rz) }",
        {
            "s": np.array(1 / 255, np.float32), "z": np.array(0, np.uint8),
            "wq": integers(1, 8, 16, 3, 3, most=127), "ws": np.array(0.01, np.float32),
            "wz": np.array(0, np.int8),
            "rs": np.array(0.2, np.float32), "rz": np.array(128, np.uint8),
        },
    )  # fmt: skip


def built_for_onnxruntime(folder: Path) -> Passport:
    """Return the passport of a layer that saturates where there is no VNNI."""
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.uniform(0.5, 1, (1, 16, 8, 8)).astype(np.float32)} for _ in range(3)]
    return engine.build(wide_weights(), folder / "e", "onnxruntime", samples=feeds)


def test_onnxruntime_s_engine_is_right_on_this_cpu(tmp_path: Path) -> None:
    passport = built_for_onnxruntime(tmp_path)
    assert passport.proven
    assert passport.proof[0].decibels >= 45
    assert bool(passport.notes) is not this_cpu().wide_sums


@only_ci
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed")
def test_onnxruntime_s_engine_is_right_where_there_is_no_vnni(tmp_path: Path) -> None:
    """A Haswell, emulated: what its kernels say is not what the graph says, at first."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from tests.engine.test_proving import built_for_onnxruntime\n"
        f"passport = built_for_onnxruntime(Path({str(tmp_path)!r}))\n"
        "print(passport.proven, passport.proof[0].decibels >= 45, *passport.notes)\n"
    )
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm",
         os.path.realpath(sys.executable), "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("True True the engine differed"), done.stdout + done.stderr
    assert "add in 32 bits" in done.stdout


# A backend that is wrong on purpose --------------------------------------------------------------


class Wrong:
    """A backend whose engines are right but for one layer, as long as something holds there."""

    def __init__(self, layer: str, holds: Callable[[Model], bool]) -> None:
        self.layer, self.holds = layer, holds
        self.built: list[Model] = []

    def runs_here(self) -> bool:
        return True

    def build(self, model: Model, path: Path, options: BuildOptions) -> Built:
        self.built.append(model)
        path.write_bytes(b"engine")
        return Built({}, Flags(), {})

    def load(
        self, path: Path, passport: Passport, threads: int | None, streams: int | None = None
    ) -> Any:
        model = self.built[-1]
        session = exact(model)
        there = any(node.name == self.layer for node in model.graph.nodes)
        right = session.infer

        def infer(feeds: Mapping[str, Array]) -> dict[str, Array]:
            return {name: value + 0.5 * np.abs(value) for name, value in right(feeds).items()}

        if there and self.holds(model):
            session.infer = infer  # type: ignore[method-assign]
        return session


def chain() -> Model:
    """Return three layers, each reading int8, with weights of eight bits."""
    layers = " ".join(
        f"q{n} = QuantizeLinear(t{n}, s, z)  d{n} = DequantizeLinear(q{n}, s, z)"
        f" w{n} = DequantizeLinear<axis=0>(wq{n}, ws, wz)  [conv{n}] t{n + 1} = Conv(d{n}, w{n})"
        for n in range(3)
    )
    constants: dict[str, Array] = {
        "s": np.array(0.03, np.float32), "z": np.array(0, np.int8),
        "ws": np.full(8, 0.004, np.float32), "wz": np.zeros(8, np.int8),
    }  # fmt: skip
    constants |= {f"wq{n}": integers(n, 8, 8, 1, 1, most=127) for n in range(3)}
    return model_of(
        "net (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {"
        f" t0 = Relu(x) {layers} y = Identity(t3) }}".replace("[conv", "[conv"),
        constants,
    )


def signed(model: Model) -> bool:
    return any(
        is_op(node, "QuantizeLinear") and np.asarray(node.inputs[2].values).dtype == np.int8
        for node in model.graph.nodes
    )


def wide(model: Model) -> bool:
    constants = (tensor for tensor in model.graph.tensors().values() if hasattr(tensor, "values"))
    return any(
        value.dtype == np.int8 and value.ndim == 4 and np.abs(value.astype(int)).max() > 64
        for value in (np.asarray(tensor.values) for tensor in constants)
    )


def quantized_before(layer: str) -> Callable[[Model], bool]:
    def holds(model: Model) -> bool:
        (node,) = (node for node in model.graph.nodes if node.name == layer)
        maker = node.inputs[0].inputs
        return bool(maker) and is_op(maker[0], "DequantizeLinear")

    return holds


@pytest.fixture
def three() -> Model:
    model = chain()
    convs = [node for node in model.graph.nodes if is_op(node, "Conv")]
    for number, node in enumerate(convs):
        node.name = f"conv{number}"
    return model


def crowded(model: Model) -> bool:
    """Tell whether two neighbouring weights of one sign are beyond 128 together."""
    return any(
        (pair_sums(node, np.asarray(node.inputs[1].inputs[0].inputs[0].values)) > 128).any()
        for node in model.graph.nodes
        if is_op(node, "Conv")
    )


WAYS_OUT = {
    "pairs": (crowded, "fit into 16 bits in pairs"),
    "offset": (signed, "uint8 activations with zero point 128"),
    "narrow": (wide, "weights of seven bits"),
    "float": (quantized_before("conv1"), "float activations"),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_the_layer_is_named_and_built_in_another_form(
    way: str, three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds, words = WAYS_OUT[way]
    backend = Wrong("conv1", holds)
    monkeypatch.setattr("onnxgraft.stages.engine.building.backend_of", lambda target: backend)
    passport = engine.build(three, tmp_path / "e", "openvino")
    assert passport.proven
    (note,) = passport.notes
    assert "from conv1 on" in note
    assert words in note
    assert not holds(backend.built[-1])
    # What stands beside the engine says the same.
    assert read_passport(tmp_path / "e") == passport


def test_a_layer_that_no_output_depends_on_is_not_looked_at(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = next(node for node in three.graph.nodes if node.name == "conv2")
    unread = gs.Variable("unread", np.float32)
    three.graph.nodes.append(Node("Conv", "conv3", {}, list(last.inputs), [unread]))
    backend = Wrong("conv3", lambda model: True)
    monkeypatch.setattr("onnxgraft.stages.engine.building.backend_of", lambda target: backend)
    passport = engine.build(three, tmp_path / "e", "onnxruntime")
    assert passport.proven is False
    (note,) = passport.notes
    assert "from its last operators on, in every form that there is for it" in note


def test_seven_bits_are_not_taken_where_the_whole_loses_too_much(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is held against the graph that was given, not against the form of it alone."""
    backend = Wrong("conv1", wide)
    monkeypatch.setattr("onnxgraft.stages.engine.building.backend_of", lambda target: backend)
    monkeypatch.setattr(
        "onnxgraft.stages.engine.proving.narrowed", lambda model, layers: destroyed(model)
    )
    monkeypatch.setattr("onnxgraft.stages.engine.proving.paired", lambda model, layers: None)
    passport = engine.build(three, tmp_path / "e", "openvino")
    assert "seven bits" not in passport.notes[0]


def destroyed(model: Model) -> Model:
    """Return a copy whose weights of eight bits have two."""
    copy = model.copy()
    for tensor in copy.graph.tensors().values():
        if isinstance(tensor, gs.Constant) and np.asarray(tensor.values).ndim == 4:
            tensor.values = (np.asarray(tensor.values) // 64 * 64).clip(-64, 64)
    return copy


def test_where_no_form_helps_the_engine_is_not_proven(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Wrong("conv1", lambda model: True)
    for module in ("building", "loading"):
        monkeypatch.setattr(f"onnxgraft.stages.engine.{module}.backend_of", lambda _: backend)
    passport = engine.build(three, tmp_path / "e", "onnxruntime")
    assert passport.proven is False
    (note,) = passport.notes
    assert "from conv1 on, in every form that there is for it" in note
    with pytest.warns(EngineWarning, match="does not compute what its graph says; y: "):
        engine.load(tmp_path / "e").close()


def test_a_build_that_is_not_proven_ends_with_1(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    three.save(tmp_path / "int8.onnx")
    monkeypatch.setattr(
        "onnxgraft.stages.engine.building.backend_of",
        lambda target: Wrong("conv1", lambda model: True),
    )
    done = cli("build", tmp_path / "int8.onnx", "--target", "onnxruntime", "-o", tmp_path / "e")
    assert done.returncode == 1
    assert "NOT PROVEN" in done.stdout
    assert (tmp_path / "e").is_file()


def test_an_engine_for_another_cpu_is_not_run_here(three: Model, tmp_path: Path) -> None:
    names = ("avx2", "arm64")
    other = next(cpu for cpu in map(find_cpu, names) if cpu.features != this_cpu().features)
    passport = engine.build(three, tmp_path / "e", "onnxruntime", cpu=other)
    assert passport.proven is None
    assert passport.cpu == other
    with pytest.warns(EngineWarning, match=f"was built for {other.name}"):
        engine.load(tmp_path / "e").close()


def test_another_machine_with_the_same_instructions_is_told(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.build(three, tmp_path / "e", "onnxruntime")
    other = replace(this_cpu(), name="Another CPU")
    monkeypatch.setattr("onnxgraft.targets.target.this_cpu", lambda: other)
    with pytest.warns(EngineWarning, match="this is Another CPU, which has the same instructions"):
        engine.load(tmp_path / "e").close()


def test_an_engine_may_have_the_name_of_onnxruntimes_own_format(
    three: Model, tmp_path: Path
) -> None:
    engine.build(three, tmp_path / "net.ort", "onnxruntime")
    with engine.load(tmp_path / "net.ort") as built:
        assert [spec.name for spec in built.inputs] == [spec.name for spec in three.inputs]


def test_both_accuracies_are_told_on_another_cpu(
    three: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.build(three, tmp_path / "e", "onnxruntime")
    engine.record(tmp_path / "e", accuracy={"miou": 72.9})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.load(tmp_path / "e").close()
    monkeypatch.setattr("onnxgraft.targets.target.this_cpu", lambda: find_cpu("arm64"))
    with pytest.warns(EngineWarning, match=r"it was measured: miou 72.9; not validated on arm64"):
        engine.load(tmp_path / "e").close()
    engine.record(tmp_path / "e", accuracy={"miou": 71.5})
    with pytest.warns(EngineWarning, match=r"miou 72.9; on arm64 it was measured: miou 71.5"):
        engine.load(tmp_path / "e").close()


def test_a_graph_without_an_exact_answer_is_built_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, three: Model
) -> None:
    def refuses(*args: object, **kwargs: object) -> None:
        raise InputError("no kernel for it")

    monkeypatch.setattr("onnxgraft.stages.engine.proving.Reference", refuses)
    passport = engine.build(three, tmp_path / "e", "onnxruntime")
    assert passport.proven is None
    assert "no exact answer here: no kernel for it" in passport.notes[0]


def test_who_does_not_want_it_gets_no_proof(three: Model, tmp_path: Path) -> None:
    assert engine.build(three, tmp_path / "e", "onnxruntime", prove=False).proven is None


@pytest.mark.parametrize("key", ["cpu", "proof", "notes", "accuracy_on"])
def test_a_passport_of_an_earlier_version_is_read(key: str, three: Model, tmp_path: Path) -> None:
    written = passport_json(engine.build(three, tmp_path / "e", "onnxruntime"))
    del written[key]
    (tmp_path / "e.json").write_text(json.dumps(written))
    read_passport(tmp_path / "e")
