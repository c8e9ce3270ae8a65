"""Engines with numpy and one runtime alone: the same bits, and the time to the first answer.

    python -m benchmarks.runtime_only [PYTHON ...] > benchmarks/runtime_only.md

needs the network once, for pip, and the networks beside this checkout (`ONNXGRAFT_SHARED`).

The wheel is built and installed without its dependencies into fresh environments, each with numpy
and one runtime. There INT8 engines that the full installation built are loaded with
`onnxgraft.ServedEngine`, prepare a picture by the recipe in their passport, and answer. Both
installations have to give the same bits, in what is prepared and in every output. Seconds are the
medians of seven processes, in turn, with files in the system's cache: of starting and ending
Python, of the imports, of loading the engine, of the first answer, and of the whole; and of the
processor, by which those of a machine with other work can be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from benchmarks.heading import heading

import onnxgraft
from onnxgraft.data.images import IMAGE_SUFFIXES

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ONNXGRAFT_SHARED", ROOT.parent / "shared"))
TARGETS = ("onnxruntime", "openvino")
ROUNDS = 7
# Nothing of this checkout is found from there.
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
SERVE = """
import time
begin = time.perf_counter()
import json, sys
import numpy as np
import onnxgraft
onnxgraft.ServedEngine
imported = time.perf_counter()
with onnxgraft.ServedEngine(sys.argv[1]) as engine:
    loaded = time.perf_counter()
    prepared = engine.prepare(np.load(sys.argv[2]), color=sys.argv[3])
    outputs = engine.infer(prepared)
    answered = time.perf_counter()
np.savez(sys.argv[4], prepared=prepared, **{f"out.{n}": v for n, v in outputs.items()})
print(json.dumps([imported - begin, loaded - imported, answered - loaded]))
"""


def engines(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return for each network a picture and its colours; engines lie beside it by target."""
    subprocess.run(
        [sys.executable, ROOT / "models/lenet5.py", folder, "--epochs", "1"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    digits = np.load(folder / "calib.npz")
    name = next(name for name in digits.files if digits[name].ndim == 4)
    lenet = onnxgraft.Preprocess(color="gray", resize=(32, 32))
    street = onnxgraft.read_recipe(ROOT / "benchmarks/fcn_camvid.toml").preprocess
    photographs = SHARED / "data/camvid/calib"
    for target in TARGETS:
        for model, data, recipe in (
            (folder / "lenet5.pb", {name: digits[name]}, lenet),
            (SHARED / "models/mobilenet_camvid/mobilenet_camvid.pb", photographs, street),
        ):
            place = folder / f"{model.stem}.{target}"
            onnxgraft.LiteEngine(
                model, target=target, precision="int8", calibration=data, images=8,
                preprocess=recipe, path=place,
            ).close()  # fmt: skip
    photograph = next(
        path for path in sorted(photographs.iterdir()) if path.suffix in IMAGE_SUFFIXES
    )
    np.save(folder / "lenet5.npy", digits[name][0, ::2, ::2, 0].astype(np.uint8))
    np.save(folder / "mobilenet_camvid.npy", cv2.imread(str(photograph)))
    return {
        "lenet5": (folder / "lenet5.npy", "gray"),
        "mobilenet_camvid": (folder / "mobilenet_camvid.npy", "bgr"),
    }


def environment(folder: Path, python: str, target: str, wheel: Path) -> tuple[Path, str]:
    """Return a Python with numpy, a runtime and the wheel, and what is installed there."""
    if Path(python).resolve() == Path(sys.executable).resolve():
        venv.create(folder, with_pip=True)
    else:
        subprocess.run([python, "-m", "venv", folder], check=True)
    there = folder / "bin/python"
    pip = [there, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    runtime = f"{target}=={metadata.version(target)}"
    subprocess.run([*pip, "numpy", runtime], check=True, stdout=sys.stderr, env=ALONE)
    subprocess.run([*pip, "--no-deps", wheel], check=True, stdout=sys.stderr, env=ALONE)
    code = (
        "import sys, importlib.metadata as m\n"
        "print('{}.{}.{}'.format(*sys.version_info), *sorted(f'{d.name} {d.version}'.lower() "
        "for d in m.distributions() if d.name not in ('pip', 'setuptools')), sep=', ')"
    )
    told = subprocess.run(
        [there, "-c", code], check=True, capture_output=True, text=True, env=ALONE
    )
    return there, told.stdout.strip()


def served(
    python: Path | str, words: list[Any], env: dict[str, str] | None = None
) -> tuple[dict[str, Any], list[float]]:
    """Return what a process of a Python answers, and its seconds, as the table has them."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [python, "-c", SERVE, *map(str, words)], check=True, capture_output=True, text=True, env=env
    )
    whole, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    parts = json.loads(done.stdout)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with np.load(words[-1]) as made:
        return dict(made), [whole - sum(parts), *parts, whole, spent]


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters to try")
    options = parser.parse_args()
    rows, listed = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
        subprocess.run([*pip, ROOT], check=True, stdout=sys.stderr, cwd=folder)
        [wheel] = folder.glob("onnxgraft-*.whl")
        pictures = engines(folder)
        for python in options.pythons:
            for target in TARGETS:
                name = f"{Path(python).name}-{target}"
                there, told = environment(folder / name, python, target, wheel)
                listed.append(f"- Python {told}")
                for model, (picture, color) in pictures.items():
                    words = [folder / f"{model}.{target}", picture, color, folder / "made.npz"]
                    wanted, _ = served(sys.executable, words)
                    times = []
                    for _ in range(ROUNDS):
                        made, seconds = served(there, words, ALONE)
                        assert made.keys() == wanted.keys()
                        for key, value in wanted.items():
                            np.testing.assert_array_equal(made[key], value, err_msg=key)
                        times.append(seconds)
                    medians = [statistics.median(column) for column in zip(*times, strict=True)]
                    shown = " | ".join(f"{value:.2f}" for value in medians)
                    rows.append(f"| {told.split(',')[0]} | {target} | {model} | yes | {shown} |")
    print(heading("Engines with numpy and one runtime alone", __doc__))
    print(
        "| Python | runtime | network | same bits | start and end, s | imports | load | answer "
        "| whole | of the processor |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print("\nInstalled beside Python's own:\n")
    print("\n".join(listed))


if __name__ == "__main__":
    main()
