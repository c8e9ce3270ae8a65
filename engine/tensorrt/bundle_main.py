"""Builds the engine of the bundle that this file is in, with TensorRT and Python 3.9 alone.

    python3 NAME.pyz [-o NAME.engine] [--timing-cache FILE] [--workspace MIB]
    python3 NAME.pyz --extract FOLDER      writes graph, cache and program, for trtexec or C++

Nothing is installed, no data is needed, and the archive is not unpacked to build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from onnxgraft.stages.engine.tensorrt import builder

HERE = Path(sys.argv[0])
# The members that are data, by name: no other name of the archive is ever looked at.
MEMBERS = ("model.onnx", "float.onnx", "calibration.cache", "recipe.json", "main.cpp",
           "CMakeLists.txt", "sample.ppm")  # fmt: skip
ARRAYS = re.compile(r"(input|output)\.\d{1,3}\.npy", re.ASCII)
# Bytes of one unpacked: what protobuf reads, and pages of text.
MOST, MOST_MANIFEST = (1 << 31) - 1, 1 << 26
# The others raise errors of their own on what is damaged.
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def main() -> int:
    """Build, or extract, as the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--out", type=Path, default=Path(f"{HERE.stem}.engine"))
    parser.add_argument("--extract", type=Path, metavar="FOLDER")
    parser.add_argument("--timing-cache", type=Path)
    parser.add_argument("--workspace", type=int, metavar="MIB")
    options = parser.parse_args()
    try:
        manifest, files = read(HERE)
        if options.extract is not None:
            options.extract.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write(options.extract / name, data)
                print(options.extract / name)
            return 0
        for place in (options.out, Path(f"{options.out}.json")):
            check(place)
        build(manifest, files, options)
    except ModuleNotFoundError as error:
        print(f"{HERE.name}: building needs {error.name}: install TensorRT", file=sys.stderr)
        return 3
    except (builder.BuildError, ValueError, OSError) as error:
        print(f"{HERE.name}: {error}", file=sys.stderr)
        return 2
    return 0


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and the members, whose hashes are the manifest's.

    Raises:
        ValueError: It is no bundle, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_member(archive, "manifest.json", MOST_MANIFEST))
            hashes = manifest["sha256"]
            known = [name for name in hashes if name in MEMBERS or ARRAYS.fullmatch(name)]
            files = {name: _member(archive, name, MOST) for name in known}
        changed = [
            name for name, data in files.items() if hashlib.sha256(data).hexdigest() != hashes[name]
        ]
        # A DLA's bundle has the float graph alone, with a cache or without.
        pair = ("float.onnx" in files) == ("calibration.cache" in files)
        pair = pair or _dla(manifest) is not None
        str(manifest["passport"]["floats"])
        _profiles(manifest)
        _capability(manifest)
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError,
        ValueError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(f"is not a bundle that onnxgraft wrote ({error})") from error
    if changed or not pair or "model.onnx" not in files:
        what = f"{changed[0]} is not the file that was packed" if changed else "a file is missing"
        raise ValueError(f"{what}; copy the bundle again")
    return manifest, files


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a member; LookupError or ValueError if it is none that onnxgraft packed."""
    entry = archive.getinfo(name)
    if entry.file_size > most or entry.compress_type not in PACKED:
        raise ValueError(f"{name} is too large, or packed otherwise")
    # Python takes as much memory as it says before it reads.
    if entry.header_offset + entry.compress_size > archive.start_dir:
        raise ValueError(f"{name} ends behind the archive")
    return archive.read(entry)


def _profiles(manifest: dict[str, Any]) -> list[builder.Profile]:
    """Return the profiles; ValueError, TypeError or LookupError if they are none."""
    profiles: list[builder.Profile] = []
    for profile in manifest["profiles"]:
        made = {}
        for name, shapes in profile.items():
            low, usual, high = (tuple(int(dim) for dim in shape) for shape in shapes)
            made[str(name)] = (low, usual, high)
        profiles.append(made)
    return profiles


def _capability(manifest: dict[str, Any]) -> tuple[int, int]:
    """Return the least compute capability; TypeError or ValueError if it is none."""
    large, small = map(int, manifest.get("capability", (0, 0)))
    return large, small


def _dla(manifest: dict[str, Any]) -> int | None:
    """Return the core of the DLA, None for the GPU alone; TypeError or ValueError if it is none."""
    core = manifest.get("dla")
    if core is not None and (type(core) is not int or core < 0):
        raise ValueError(f"dla is {core!r}")
    return core


def build(manifest: dict[str, Any], files: dict[str, bytes], options: Any) -> None:
    """Build the engine and write it with its passport."""
    import tensorrt as trt

    # TensorRT 10 makes INT8 of the float graph by itself, as it always did; 11 needs the graph in
    # which the precision stands.
    dla = _dla(manifest)
    implicit = dla is not None or ("calibration.cache" in files and builder.major(trt) < 11)
    graph = "float.onnx" if implicit and dla is None else "model.onnx"
    timing = options.timing_cache
    settings = builder.Settings(
        profiles=_profiles(manifest),
        workspace=None if options.workspace is None else options.workspace << 20,
        calibration=files.get("calibration.cache") if implicit else None,
        timing=None if timing is None else timing.read_bytes() if timing.is_file() else b"",
        tf32=manifest["passport"]["floats"] == "tf32",
        capability=_capability(manifest) if not implicit else (0, 0),
        dla=dla,
    )
    plan = builder.build_plan(trt, files[graph], settings, show)
    write(options.out, plan.engine)
    if plan.timing is not None:
        write(timing, plan.timing)
    told = {} if implicit else manifest["passport"].get("flags", {})
    flags = {"profiles": manifest["profiles"], "workspace": settings.workspace, **told}
    if "calibration.cache" in files and implicit:
        flags["calibration"] = "implicit"
    notes = list(manifest["passport"].get("notes", []))
    if dla is not None:
        flags["dla"] = dla
        where = f"; the GPU runs {', '.join(plan.on_gpu)}" if plan.on_gpu else ""
        notes.append(f"core {dla} of the DLA takes {plan.dla} layers{where}")
    passport = {
        **manifest["passport"],
        "engine": hashlib.sha256(plan.engine).hexdigest(),
        "versions": {"tensorrt": trt.__version__},
        "machine": builder.gpu() or {},
        "flags": flags,
        "notes": notes,
    }
    write(Path(f"{options.out}.json"), (json.dumps(passport, indent=2) + "\n").encode())
    print(f"{options.out}: built with TensorRT {trt.__version__} from {graph}")
    if dla is not None:
        print(notes[-1])
    print("the same with TensorRT's own tool, after --extract:")
    print(builder.trtexec(graph, str(options.out), settings, builder.major(trt)))


def check(path: Path) -> None:
    """Raise ValueError unless a file may be written at a place, before the work is done."""
    if not path.parent.is_dir():
        raise ValueError(f"{path} can't be written, {path.parent} is no folder; make it first")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; name another with -o")
    if path.exists() and os.path.samefile(path, HERE):
        raise ValueError(f"{path} is this bundle; name another file with -o")


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def show(phase: str, done: int, total: int) -> None:
    """Print a phase's progress in place, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{phase}: {done} of {total}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
