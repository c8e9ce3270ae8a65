"""What a target is: one frozen object, from which everything that depends on targets follows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxgraft.targets.cpu import Cpu, this_cpu

__all__ = [
    "BLOCKS", "Floats", "Form", "Format", "Fp8", "Machine", "Placement", "Precision", "Recurrent",
    "Storage", "StorageOp", "Target", "Triton", "WeightType",
]  # fmt: skip

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
# What layers between QuantizeLinear and DequantizeLinear compute in.
Format = Literal["int8", "fp8"]
Floats = Literal["fp32", "tf32", "fp16", "bf16"]
# A recurrent layer with int8 weights: onnxruntime's kernel, which quantizes what they multiply by
# what it sees in each run, or int8 weights that are multiplied as floats.
Recurrent = Literal["dynamic", "weights"]
# What weights are stored as where activations stay float, and the operator that reads them: a
# DequantizeLinear before the layer, or onnxruntime's MatMulNBits in its place.
WeightType = Literal["int8", "int4"]
StorageOp = Literal["DequantizeLinear", "MatMulNBits"]
# How many weights may share a scale; they are those that MatMulNBits takes.
BLOCKS = (16, 32, 64, 128, 256)
# Another form of a layer, from which the target builds another engine: pads in place of auto_pad,
# uint8 activations with zero point 128, weights of seven bits, float activations.
Form = Literal["pads", "offset", "pairs", "narrow", "precise", "float"]


@dataclass(frozen=True)
class Storage:
    """How a target stores the weights of a MatMul or Gemm whose activations stay float.

    Attributes:
        reader: The operator that reads them.
        block: How many weights along the input axis share a scale, usually; 0 for one scale for
            each output channel.
        note: What the user should know of it.
        signed: Whether a scale may be negative: of four bits the negative side has one level more,
            which the largest weight of a block then gets, whatever its sign.
    """

    reader: StorageOp
    block: int
    note: str = ""
    signed: bool = True


@dataclass(frozen=True)
class Placement:
    """Where a target wants QuantizeLinear and DequantizeLinear.

    Attributes:
        target: Its name.
        weights: For each operator with weights, the axis of a scale per channel, or None for
            one scale. A Gemm's is of its weights as (inputs, outputs), whatever its transB.
        symmetric: int8 with zero point 0, or else uint8 with one.
        unsigned: Where symmetric, whether a tensor that is never negative is uint8 with zero
            point 0: twice the steps over the same range.
        lopsided: Where symmetric, whether a tensor that is far less on one side of 0 than on the
            other, as what a SiLU or GELU makes, is uint8 with a zero point that fits.
        outputs: Whether the outputs of layers are quantized too.
        bias: Whether the bias becomes int32 with a DequantizeLinear.
        pairs: Whether two neighbouring products of bytes have to fit into 16 bits, as CPUs without
            VNNI add them.
        residual: Whether, of an Add behind a layer, the other input is quantized: the layer's
            kernel then reads eight bits of the shortcut where there were 32.
        products: Whether a MatMul of two activations, as in attention, runs in integers too. Where
            symmetric its second input is int8 then, as weights are.
        tokens: How long the sequences of such products may be; 0 for any length.
        also: Operators without weights that run in integers when inputs and output are quantized.
            A Mul among them, by a positive number and read by such operators alone, costs nothing:
            its result has the integers of its input, and a scale of its own.
        recurrent: The recurrent operators whose weights are int8, each with its form.
        bodies: Whether layers in the bodies of If, Loop and Scan run in integers too.
        stored: How weights alone are stored, by their type.
        format: What all that is in: integers, or FP8 where integers are spoken of.
        channels: How many inputs and outputs a layer has to have; 0 for any number.
        taps: How many places a convolution's kernel may have, 9 for one of 3x3; 0 for any number.
        groups: Whether convolutions may be in groups.
    """

    target: str
    weights: Mapping[str, int | None]
    symmetric: bool
    unsigned: bool = False
    lopsided: bool = False
    outputs: bool = False
    bias: bool = False
    pairs: bool = False
    residual: bool = False
    products: bool = False
    tokens: int = 0
    also: frozenset[str] = field(default_factory=frozenset)
    recurrent: Mapping[str, Recurrent] = field(default_factory=dict)
    bodies: bool = False
    stored: Mapping[WeightType, Storage] = field(default_factory=dict)
    format: Format = "int8"
    channels: int = 0
    taps: int = 0
    groups: bool = True

    @property
    def name(self) -> str:
        """The target, with the format where that is not INT8."""
        return self.target if self.format == "int8" else f"{self.target} {self.format}"


@dataclass(frozen=True)
class Triton:
    """How NVIDIA's Triton Inference Server serves what is built for a target.

    Attributes:
        backend: Its backend.
        file: What that calls a model's file.
        platform: Its older name of the backend; empty where it has none.
        engine: Whether it loads the engine; otherwise it reads the graph and compiles that itself.
        joins: Whether it runs a batch of any size, so that waiting requests may be joined.
        parameters: Its names of settings: ``threads`` of the CPU, the ``hint``, ``bf16`` for float
            layers, fixed ``shapes``, that it ``pads`` a batch which is not full, the ``device``.
        as_it_is: Its level of optimization at which it runs a quantized engine's graph as it was
            saved; None where it changes nothing.
    """

    backend: str
    file: str
    platform: str = ""
    engine: bool = True
    joins: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    as_it_is: int | None = None


@dataclass(frozen=True)
class Machine:
    """A machine that a target runs on, as far as estimates know it.

    Attributes:
        name: Stated with every estimate.
        macs: Multiplications with addition a second, by precision.
        bandwidth: Bytes a second.
    """

    name: str
    macs: Mapping[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Fp8:
    """How a target runs FP8.

    Attributes:
        placement: Where it wants QuantizeLinear and DequantizeLinear then.
        machine: What estimates of its speed are for.
        capability: The least compute capability of the GPU.
    """

    placement: Placement
    machine: Machine
    capability: tuple[int, int]


@dataclass(frozen=True)
class Target:
    """A library that engines are built for.

    Attributes:
        name: On the command line, in file names and passports.
        title: In sentences.
        package: The Python package that it needs; the extra that installs it is called the same.
        backend: The module that builds and loads its engines; see `onnxgraft.stages.engine`.
        placement: Where it wants QuantizeLinear and DequantizeLinear.
        fused: Operators that it fuses into the layer in front of them, or runs on integers between
            QuantizeLinear and DequantizeLinear.
        needs: What its engines run on.
        machine: What estimates of its speed are for.
        floats: What float layers can run in beside ``fp32``: ``graph`` where that has to be
            written into the graph, ``engine`` where the engine computes so when it is asked to.
        options: The fields of `BuildOptions` that it takes; any other is refused.
        triton: How Triton serves its engines.
        magic: How its engine files begin: pairs of an offset and the bytes that stand there.
        lowering: Passes of surgery that write what it lacks in other operators.
        lacks: ONNX operators that it can't read, where a list of them is known.
        forms: Of a layer at which its engine differs from the graph, those to try, best first.
        on_cpu: Whether its engines run on the CPU, so that what they give depends on it.
        limit: The environment variable that takes instructions of the CPU away from it.
        fp8: How it runs FP8; None where it does not.
        default: Whether `deploy` builds for it when no targets are named.
        caches: Whether its older versions read ranges from a calibration cache.
    """

    name: str
    title: str
    package: str
    backend: str
    placement: Placement
    fused: frozenset[str]
    needs: str
    machine: Machine
    floats: Mapping[str, Literal["graph", "engine"]]
    options: frozenset[str]
    triton: Triton
    magic: tuple[tuple[int, bytes], ...]
    lowering: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()
    forms: tuple[Form, ...] = ("float",)
    on_cpu: bool = True
    limit: str = ""
    caches: bool = False
    fp8: Fp8 | None = None
    default: bool = False

    @property
    def formats(self) -> tuple[Format, ...]:
        """What its quantized layers can be in."""
        return ("int8",) if self.fp8 is None else ("int8", "fp8")

    def cpu(self) -> Cpu:
        """Return this machine's processor, as the library sees it; none where it matters not."""
        here = this_cpu() if self.on_cpu else Cpu()
        return here.limited(os.environ.get(self.limit, "")) if self.limit else here

    def wrote(self, head: bytes) -> bool:
        """Tell whether a file that begins with ``head`` is an engine of this target.

        ``head`` holds at least the first 64 bytes, or all there are.
        """
        return any(head[offset : offset + len(mark)] == mark for offset, mark in self.magic)
