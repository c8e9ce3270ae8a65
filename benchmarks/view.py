"""Pages to walk through graphs: how large, how soon written, how soon drawn.

    python -m benchmarks.view FOLDER [--shared ../shared] > benchmarks/view.md

writes networks and pages into FOLDER, and needs Chromium, and PyTorch with torchvision for Swin-T.

*written* is the processor's time for `view` in all: converting, surgery, writing. *drawn* is from
the beginning of loading the page in headless Chromium until the graphs stand in it, side by side at
1280 x 900, the median of five; *opened* is what it takes after that to open every block of the
original. Of nodes there are two numbers, before and after surgery. The networks of 1,000 and 4,000
nodes are chains of residual blocks: in those with scopes nodes are called as frameworks do, units
within blocks within stages; in the flat ones they are numbered, as by an exporter that keeps no
scopes. Swin-T has random weights and was exported by TorchScript. The machine did other work
meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import heading

from onnxgraft import commands
from tests.browser import Browser

RUNS = 5
SIZES = (1_000, 4_000)
CHANNELS = 8
# The nodes of a residual block, which reads what the one before it makes.
BLOCK = ("Conv", "Relu", "Conv", "Add")
_DRAWN = "performance.getEntriesByName('graph-drawn')[0].startTime"
_OPEN = """(() => { const began = performance.now();
[...document.querySelectorAll('.g-pane button')].find((b) => b.textContent === 'Open').click();
return performance.now() - began; })()"""


def network(nodes: int, *, scoped: bool) -> onnx.ModelProto:
    """Return a chain of residual blocks of so many nodes in all."""
    make = onnx.helper
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(
            rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32), f"w{number}"
        )
        for number in range(4)
    ]
    made, last = [], "x"
    for number in range(nodes // len(BLOCK)):
        first = last
        for part, op in enumerate(BLOCK):
            place = len(made)
            scope = f"stage{number // 24}/block{number // 4 % 6}/unit{number % 4}/"
            name = f"{scope}{op}{part}" if scoped else f"node_{place}"
            reads = {"Conv": [last, f"w{place % 4}"], "Relu": [last], "Add": [last, first]}[op]
            pads = {"pads": [1, 1, 1, 1]} if op == "Conv" else {}
            made.append(make.make_node(op, reads, [f"t{place}"], name=name, **pads))
            last = f"t{place}"
    made[-1].output[0] = "y"
    sides = [make.make_tensor_value_info(n, 1, ["N", CHANNELS, 32, 32]) for n in ("x", "y")]
    graph = make.make_graph(made, "chain", sides[:1], sides[1:], weights)
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)


def swin(folder: Path) -> Path:
    """Return where Swin-T with random weights is."""
    from models.torch_networks import export

    path = folder / "swin_t.onnx"
    if not path.exists():
        export("swin_t", "torchscript", str(path))
    return path


def measured(browser: Browser, name: str, model: Path, folder: Path) -> str:
    """Return the row of a network."""
    page = folder / f"{name}.html"
    began = time.process_time()
    done = commands.view(model, out=page, open=False)
    written = time.process_time() - began
    drawn, opened = [], []
    for _ in range(RUNS):
        seen = browser.open(page.absolute())
        drawn.append(float(seen.js(_DRAWN)))
        opened.append(float(seen.js(_OPEN)))
        assert not seen.problems, seen.problems
        seen.close()
    nodes = " and ".join(str(count) for count in done.stages.values())
    return (
        f"| {name} | {nodes} | {page.stat().st_size / 1e6:.2f} MB | {written:.1f} s "
        f"| {statistics.median(drawn) / 1000:.2f} s | {statistics.median(opened) / 1000:.2f} s |"
    )


def main() -> None:
    """Measure all networks and print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Path] = {}
    for size in SIZES:
        for scoped in (True, False):
            name = f"{size} nodes, {'scoped' if scoped else 'flat'}"
            networks[name] = given.folder / f"{name}.onnx"
            onnx.save(network(size, scoped=scoped), networks[name])
    networks["Swin-T"] = swin(given.folder)
    for name, suffix in (("fcn", "pb"), ("mobilenet", "pb"), ("yolo", "onnx")):
        networks[name] = given.shared / f"models/{name}_camvid/{name}_camvid.{suffix}"
    print(heading("Graphs to walk through", __doc__, "FOLDER"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run.\n")
    print("| network | nodes | page | written | drawn | opened |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        for name, path in networks.items():
            print(measured(browser, name, path, given.folder), flush=True)


if __name__ == "__main__":
    main()
