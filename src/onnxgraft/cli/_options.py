"""The parameters that subcommands share: their flags, help and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxgraft.cli._app import EVERYTHING
from onnxgraft.cli._completion import one_of
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.targets import FLOATS, target_names
from onnxgraft.targets.cpu import CPUS

__all__ = [
    "DATA", "MODEL", "OUTPUT", "QUANTIZATION", "RUNNING", "TARGET", "Batches", "Calibration",
    "CandidateOutputs", "CandidateWeights", "Classes", "CpuName", "Data", "DataUsed", "Drop",
    "FloatName", "Force", "FreezeBatchnorm", "HostList", "HostPython", "Images", "Inputs",
    "Largest", "Layout", "MethodName", "MetricName", "MetricOutput", "ModelFile", "OnnxFile",
    "Opset", "Out", "Outputs", "Overrides", "PrecisionName", "PreprocessFile", "RangesUsed", "Ray",
    "RecipeFile", "Shapes", "Signature", "Smallest", "TargetName", "TargetOption", "Threads",
    "Trusted", "Values", "Weights", "Workers", "trust_of",
]  # fmt: skip

# The groups in which `--help` shows options.
MODEL, DATA, OUTPUT = "Model", "Data", "Output"
TARGET, QUANTIZATION, RUNNING = "Target", "Quantization", "Running"
HOSTS = "Other machines"

# As the stages have them, which would take long to import.
Layout = Literal["keep", "nchw", "nhwc"]
MethodName = Literal["auto", "entropy", "minmax", "percentile", "mse"]
PrecisionName = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]

# In one line of a terminal of 80 columns there is no room for a list of choices. What is chosen is
# checked where it is looked up, which suggests the nearest name.
_TARGETS, _FLOATS = (
    f"{', '.join(names[:-1])} or {names[-1]}" for names in (target_names(), FLOATS)
)

ModelFile = Annotated[
    Path,
    typer.Argument(
        help="TensorFlow graph, SavedModel or checkpoint, Keras or TFLite file, PyTorch program "
        "(.pt2), Caffe prototxt, or ONNX file."
    ),
]
OnnxFile = Annotated[Path, typer.Argument(help="ONNX file.")]
Out = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FILE", help="File to write.", rich_help_panel=OUTPUT),
]  # fmt: skip
Force = Annotated[
    bool,
    typer.Option(
        "--force", rich_help_panel=OUTPUT, help="Replace an existing file of another kind, too.",
    ),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(metavar="CAFFEMODEL", rich_help_panel=MODEL, help="Weights of a Caffe network."),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=MODEL,
        help="Tensors at which the graph begins, with shapes where needed: a:0,b:0[1,8,8,3].",
    ),
]  # fmt: skip
Outputs = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=MODEL, help="Tensors at which the graph ends: c:0,d:0.",
    ),
]  # fmt: skip
Values = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="NAME=VALUE", rich_help_panel=MODEL,
        help="Set a placeholder or a constant, such as is_training=false.",
    ),
]  # fmt: skip
Signature = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MODEL,
        help="Signature of the SavedModel or TFLite file to convert.",
    ),
]
FreezeBatchnorm = Annotated[
    bool,
    typer.Option(
        "--freeze-batchnorm", rich_help_panel=MODEL,
        help="Let batch normalizations in training mode use their stored statistics.",
    ),
]  # fmt: skip
Opset = Annotated[
    int | None,
    typer.Option(
        help="Opset of the ONNX graph: 17 if not given; an ONNX file keeps its own.",
        rich_help_panel=MODEL,
    ),
]
Trusted = Annotated[
    list[str],
    typer.Option(
        "--trust", metavar="[=NAME]", rich_help_panel=MODEL,
        help="Allow code in the model file (Keras Lambda layers, custom objects, pickles) or named "
        "by a recipe or passport, or an engine without a passport; --trust=NAME allows what has "
        "that name, and nothing else.",
    ),
]  # fmt: skip
Data = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        rich_help_panel=DATA,
        help="Folder of images (by class, too), list (.txt, .csv, .json), or .npz with an array "
        "for each input.",
    ),
]
PreprocessFile = Annotated[
    Path | None,
    typer.Option(
        metavar="RECIPE.toml", rich_help_panel=DATA,
        help="TOML file with a \\[preprocess] table: how images become inputs; or the name of a "
        "preset, or FILE.py:FUNCTION.",
    ),
]  # fmt: skip
PostprocessFile = Annotated[
    Path | None,
    typer.Option(
        metavar="RECIPE.toml", rich_help_panel=DATA,
        help="TOML file with a \\[postprocess] table: what outputs mean; that of --preprocess if "
        "not given; or FILE.py:FUNCTION.",
    ),
]  # fmt: skip
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="LABELS", rich_help_panel=DATA,
        help="Labels by image, where they do not lie beside the images: a file, COCO's JSON, or a "
        "folder of VOC's XML or YOLO's text.",
    ),
]  # fmt: skip
Images = Annotated[
    int | None,
    typer.Option(help="Number of samples to use; all if not given.", rich_help_panel=DATA),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC", rich_help_panel=DATA,
        autocompletion=one_of(("top1", "top5", "miou", "auc", "map")),
        help="Task metric: top1, top5, miou, auc, map, or FILE.py:FUNCTION.",
    ),
]  # fmt: skip
MetricOutput = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DATA,
        help="Output that the metric is computed on; the first if not given.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="CLASSES",
        help="Classes of miou and map: camvid, cityscapes, or a file with names and categories; "
        "numbers if not given.",
        rich_help_panel=DATA,
    ),
]
Drop = Annotated[
    float | None,
    typer.Option(
        help="What an INT8 candidate may lose, in the metric's unit; 1 % of the metric's scale, or "
        "of the original's value, if not given.",
        rich_help_panel=DATA,
    ),
]
Overrides = Annotated[
    Path | None,
    typer.Option(
        metavar="RANGES.toml", rich_help_panel=QUANTIZATION,
        help='TOML file of ranges set by hand: "tensor" = \\[low, high].',
    ),
]  # fmt: skip
TargetName = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET", rich_help_panel=TARGET, autocompletion=one_of(target_names()),
        help=f"Target that the graph is written for: {_TARGETS}; the only one that can run here "
        "if not given.",
    ),
]  # fmt: skip
TargetOption = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET", rich_help_panel=TARGET, autocompletion=one_of(target_names()),
        help=f"Target to build for: {_TARGETS}; what the graph was made for, or the first "
        "that can run here, if not given.",
    ),
]  # fmt: skip
FloatName = Annotated[
    str,
    typer.Option(
        "--float", metavar="PRECISION", rich_help_panel=TARGET, autocompletion=one_of(FLOATS),
        help=f"Precision of the layers that are not quantized: {_FLOATS}.",
    ),
]  # fmt: skip
CpuName = Annotated[
    str | None,
    typer.Option(
        metavar="CPU", rich_help_panel=TARGET, autocompletion=one_of(CPUS),
        help=f"Processor that the engine is for: {', '.join(CPUS)}; this machine's if not given.",
    ),
]  # fmt: skip
Shapes = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=TARGET, help="Shapes of free inputs: a:0[1,8,8,3].",
    ),
]  # fmt: skip
Smallest = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=TARGET,
        help="Smallest shapes of free inputs (TensorRT).",
    ),
]  # fmt: skip
Largest = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=TARGET, help="Largest shapes of free inputs (TensorRT).",
    ),
]  # fmt: skip
Batches = Annotated[
    str,
    typer.Option(
        metavar="SIZES", rich_help_panel=TARGET,
        help="Batch sizes to tune for where the batch is free; any up to the largest can be run "
        "(TensorRT).",
    ),
]  # fmt: skip
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="CACHE", rich_help_panel=TARGET,
        help="Calibration cache, for INT8 of a float graph (TensorRT 10).",
    ),
]  # fmt: skip
RangesUsed = Annotated[
    Path | None,
    typer.Option(
        metavar="RANGES.json", rich_help_panel=OUTPUT,
        help="Ranges that were used: noted in the passport, and checked for FP16 overflow.",
    ),
]  # fmt: skip
DataUsed = Annotated[
    Path | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=OUTPUT,
        help="Calibration data that was used: noted in the passport.",
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        metavar="RECIPE.toml", rich_help_panel=OUTPUT,
        help="Recipe whose pre- and postprocessing the passport keeps, for infer.",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=RUNNING, help="CPU threads; all if not given (CPU targets)."
    ),
]
CandidateWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="CAFFEMODEL",
        rich_help_panel=MODEL,
        help="Weights of the candidate, if it is a Caffe network.",
    ),
]
CandidateOutputs = Annotated[
    str | None,
    typer.Option(
        metavar="TENSORS", rich_help_panel=MODEL,
        help="Tensors at which the candidate ends, if it is a framework's model.",
    ),
]  # fmt: skip
Workers = Annotated[
    int,
    typer.Option(help="Processes that share the samples.", rich_help_panel=RUNNING),
]
HostList = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        metavar="HOSTS",
        rich_help_panel=HOSTS,
        help="Machines to run the engine on by ssh, at the same time, in place of this one: "
        "user@host:port with commas between, or a file with one in each line.",
    ),
]
HostPython = Annotated[
    str,
    typer.Option(
        metavar="PYTHON", rich_help_panel=HOSTS, help="Python on the hosts that has onnxgraft."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", rich_help_panel=RUNNING, help="Address of a Ray cluster to run on.",
    ),
]  # fmt: skip


def trust_of(given: list[str]) -> Trust:
    """Return what ``--trust`` and ``--trust=NAME`` say."""
    if "" in given:
        raise InputError("--trust= names nothing; write --trust, or --trust=NAME")
    return EVERYTHING in given or tuple(given)
