"""Surgery beside onnxslim, onnxsim and onnxruntime's basic optimizer: time, memory and nodes.

PyTorch's exports in both of its forms, what verification costs, and the layers before and after,
stand in tables of their own.

    python -m benchmarks.surgery [--folder FOLDER] [NETWORK ...] > benchmarks/surgery.md

With names of networks, only the table of PyTorch's exports is made, and of these alone. It needs
torch, torchvision and transformers (``models/torch_networks.py``).

Each tool reads an ONNX file and writes another, in a process of its own, one after the other in
each round; the time is that of reading, rewriting and writing, without imports. Verification is
off there. FOLDER keeps the ONNX files between runs. That the numbers are equal is seen by running
what was read and what was written, without onnxruntime's optimizations, on the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import onnx
from benchmarks.heading import made_by

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.onnx_file import read_model
from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.run.difference import relative_error
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE

NETWORKS = ("resnet152", "inception_v3", "efficientnet_b0", "convnext_tiny", "transformer")
# Of PyTorch's, with what both of its exporters write of them.
EXPORTED = (
    "vit_b_16", "swin_t", "bert", "detr", "yolov5n", "yolov8n", "efficientnet_b0", "convnext_tiny",
    "ssdlite", "fasterrcnn",
)  # fmt: skip
FORMS = ("dynamo", "torchscript")
TOOLS = ("onnxgraft", "onnxslim", "onnxsim", "onnxruntime basic")
RUNS = 3

WORKER = """
import contextlib, io, sys, time
tool, source, target = sys.argv[1:]
if tool == "onnxgraft":
    from onnxgraft.stages import surgery
    from onnxgraft.graph.model import Model
    import onnxgraft.stages.surgery.running.runner
    def work():
        surgery.run(Model.load(source), verify=False)[0].save(target)
elif tool == "onnxslim":
    import onnxslim
    def work():
        onnxslim.slim(source, target)
elif tool == "onnxsim":
    import onnx, onnxsim
    def work():
        onnx.save(onnxsim.simplify(source, check_n=0)[0], target)
else:
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    def work():
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    work()
print(time.perf_counter() - start)
"""

VERIFYING = """
import statistics, sys, time
import onnxruntime
from onnxgraft.stages import surgery
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
source, runs = sys.argv[1], int(sys.argv[2])
model = Model.load(source)
def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
surgery.run(model, verify=True)
without, verified, inference = [], [], []
with OnnxRuntime(source) as session:
    feeds = [random_feeds(session.inputs, batch) for batch in (1, 2)]
    for _ in range(runs):
        without.append(timed(lambda: surgery.run(model, verify=False))[0])
        seconds, (_, report) = timed(lambda: surgery.run(model, verify=True))
        verified.append(seconds)
        inference.append(timed(lambda: [session.infer(each) for each in feeds])[0] / 2)
assert report.passed and not any(entry.rolled_back for entry in report.passes)
changing = sum(len(entry.steps) for entry in report.passes)
cost = statistics.median(verified) - statistics.median(without)
print(changing, statistics.median(inference), cost)
"""


def measure(tool: str, source: Path, target: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of one run."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, tool, str(source), str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{tool} failed on {source.name}")
    return float(printed.split()[-1]), usage.ru_maxrss / 1000


def verification(source: Path) -> tuple[int, float, float]:
    """Return the changing passes, the seconds of an inference, and those of all verification."""
    printed = subprocess.run(
        [sys.executable, "-c", VERIFYING, str(source), str(RUNS + 2)],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ).stdout  # fmt: skip
    changing, inference, cost = printed.split()
    return int(changing), float(inference), float(cost)


def nodes(file: Path) -> list[onnx.NodeProto]:
    """Return the nodes of an ONNX file, without its weights: a child begins with our memory."""
    return list(read_model(file)[0].graph.node)


def joined(file: Path) -> int:
    """Count the nodes as an engine runs them: what follows a layer elementwise is part of it."""
    graph = nodes(file)
    uses: dict[str, int] = {}
    for node in graph:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    inside: set[str] = set()
    count = 0
    for node in graph:
        layer = is_op(node, *WEIGHTED)
        after = is_op(node, "Relu", "Clip", "LeakyRelu", "Add") and any(
            name in inside and uses[name] == 1 for name in node.input
        )
        if layer or after:
            inside.update(node.output)
        count += not after
    return count


def prepare(folder: Path) -> dict[str, int]:
    """Make the ONNX files that are not there yet; return the frameworks' layers by network."""
    note = folder / "layers.json"
    layers: dict[str, int] = json.loads(note.read_text()) if note.exists() else {}
    quiet = {"check": True, "stderr": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    for name in (*NETWORKS, "vgg19"):
        target = folder / f"{name}.onnx"
        if target.exists():
            continue
        if name == "vgg19":
            source = folder / "vgg19.prototxt"
            subprocess.run(
                [sys.executable, "-m", "models.caffe_networks", name, folder],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            text = source.read_text()
            layers[name] = text.count("\nlayer {") + text.startswith("layer {")
            weights = ["--weights", source.with_suffix(".caffemodel")]
        else:
            source, weights = folder / name, []
            printed = subprocess.run(
                [sys.executable, "-m", "models.keras_networks", name, source], **quiet
            ).stdout  # type: ignore[call-overload]
            layers[name] = int(printed.split()[0])
        subprocess.run(
            [sys.executable, "-m", "onnxgraft", "convert", source, *weights, "-o", target, "--raw",
             "--no-verify", "--io-layout", "nchw"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        note.write_text(json.dumps(layers))
    return layers


def exported(folder: Path, name: str, form: str) -> Path | None:
    """Return what PyTorch's exporter writes of a network, or None where it fails."""
    target = folder / f"torch.{name}.{form}.onnx"
    if not target.exists():
        done = subprocess.run(
            [sys.executable, "-m", "models.torch_networks", name, form, target],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if done.returncode:
            target.unlink(missing_ok=True)
            print(f"{name} {form}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
    return target


def difference(source: Path, target: Path) -> float:
    """Return the largest difference of an output of two files, relative to its range."""
    with OnnxRuntime(source, optimize=False) as session:
        feeds = random_feeds(session.inputs, 1)
        expected = session.infer(feeds)
    with OnnxRuntime(target, optimize=False) as session:
        actual = session.infer(feeds)
    if any(expected[name].shape != actual[name].shape for name in expected):
        return float("inf")
    return max(relative_error(expected[name], actual[name]) for name in expected)


def exports(folder: Path, names: Sequence[str]) -> bool:
    """Print what is left of PyTorch's exports; tell whether it is nowhere more than by others."""
    out = folder / "out.onnx"
    tools = TOOLS[:3]
    print("| network | form | as exported | " + " | ".join(tools) + " | largest difference |")
    print("|---|---|---|" + "---|" * len(tools) + "---|")
    fewest = True
    for name in names:
        for form in FORMS:
            source = exported(folder, name, form)
            if source is None:
                print(f"| {name} | {form} | not exported |" + " |" * (len(tools) + 1))
                continue
            counts: dict[str, str] = {}
            differs = 0.0
            best = float("inf")
            for tool in tools:
                try:
                    measure(tool, source, out)
                    found = difference(source, out)
                except (SystemExit, OnnxgraftError):
                    counts[tool] = "fails"
                    continue
                count = len(nodes(out))
                counts[tool] = f"{count}"
                if tool == "onnxgraft":
                    differs, ours = found, count
                elif found <= FLOAT_TOLERANCE:
                    best = min(best, count)
                else:
                    counts[tool] += f", differs by {found:.0e}"
            fewest &= counts["onnxgraft"] != "fails" and ours <= best
            print(f"| {name} | {form} | {len(nodes(source))} | "
                  f"{' | '.join(counts.values())} | {differs:.0e} |")  # fmt: skip
            sys.stdout.flush()
    return fewest


def main(folder: Path, names: Sequence[str] = ()) -> None:
    """Measure everything in one run, or the nodes of some networks, and print it as Markdown."""
    peers = {
        name: metadata.version(name)
        for name in ("onnxslim", "onnxsim", "torch", "torchvision", "transformers")
    }
    made = made_by(**peers) + "\n"
    if names:
        print(made)
        exports(folder, names)
        return
    layers = prepare(folder)
    out = folder / "out.onnx"
    print("# Surgery beside its peers\n")
    print(made)
    print(f"Median of {RUNS} runs, two cores; verification off in this table.\n")
    print("| network | tool | nodes | s | of onnxslim's time | peak MB |")
    print("|---|---|---|---|---|---|")
    after = {}
    for name in NETWORKS:
        source = folder / f"{name}.onnx"
        found: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
        counts = {}
        for _ in range(RUNS):
            for tool in TOOLS:
                found[tool].append(measure(tool, source, out))
                counts[tool] = len(nodes(out))
                if tool == "onnxgraft":
                    after[name] = joined(out)
        slim = statistics.median(seconds for seconds, _ in found["onnxslim"])
        print(f"| {name} | as converted | {len(nodes(source))} | | | |")
        for tool in TOOLS:
            seconds = statistics.median(run[0] for run in found[tool])
            memory = max(run[1] for run in found[tool])
            print(f"| | {tool} | {counts[tool]} | {seconds:.2f} | {seconds / slim:.2f} "
                  f"| {memory:.0f} |")  # fmt: skip
        sys.stdout.flush()
    print("\n## PyTorch's exports\n")
    print("Nodes that are left, of networks with random weights, by `torch.onnx.export` with")
    print("`dynamo=True` and `dynamo=False` with an example of batch 1. The difference is that of")
    print("onnxgraft's output from the export's, relative to its range.\n")
    fewest = exports(folder, EXPORTED)
    print(f"\nNo network has more nodes than the better of onnxslim and onnxsim at equal numbers: "
          f"{'yes' if fewest else 'no'}.")  # fmt: skip
    print("\n## What verification costs\n")
    print("The time with verification less that without, over the times that a pass changed the")
    print("graph, in inferences of the network as it came by an optimized session of onnxruntime")
    print("(the mean of batch 1 and batch 2, as verification runs both). Building the sessions and")
    print(f"comparing the outputs are in it. Medians of {RUNS + 2}.\n")
    print("| network | changing passes | an inference, ms | verification, s "
          "| inferences a changing pass |")  # fmt: skip
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        changing, inference, cost = verification(folder / f"{name}.onnx")
        print(f"| {name} | {changing} | {inference * 1000:.0f} | {cost:.2f} "
              f"| {cost / changing / inference:.1f} |")  # fmt: skip
        sys.stdout.flush()
    measure("onnxgraft", folder / "vgg19.onnx", out)
    print("\n## Layers before and after\n")
    print("Layers as the framework counts them (VGG-19 in Caffe, the others in Keras), nodes as")
    print("they come out of the conversion and of surgery, and as an engine runs them: the")
    print("activation or addition after a layer is part of it.\n")
    print(
        "| network | layers | nodes converted | nodes after surgery | with what follows a layer |"
    )
    print("|---|---|---|---|---|")
    rows = {"vgg19": (len(nodes(out)), joined(out))}
    for name in ("inception_v3", "resnet152"):
        measure("onnxgraft", folder / f"{name}.onnx", out)
        rows[name] = len(nodes(out)), joined(out)
    for name, (cleaned, engine) in rows.items():
        converted = len(nodes(folder / f"{name}.onnx"))
        print(f"| {name} | {layers[name]} | {converted} | {cleaned} | {engine} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*EXPORTED, []], metavar="NETWORK")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.folder:
        main(chosen.folder, chosen.networks)
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place), chosen.networks)
