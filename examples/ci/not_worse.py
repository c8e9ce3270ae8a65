"""python not_worse.py [OPTIONS of onnxgraft diff] -- FILE...: each beside what HEAD has.

Fails where one is worse. A file in the folder of a run is compared with that run; an engine, or its
passport, by itself. What HEAD has not is no change. A changed graph that belongs to no run can't be
judged, which fails too.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def subject(file: Path) -> Path | None:
    """Return the run or engine that a file belongs to; None where it belongs to none."""
    if (file.parent / "report.json").is_file():
        return file.parent
    engine = file.with_suffix("") if file.suffix == ".json" else file
    if engine.is_file() and Path(f"{engine}.json").is_file():
        return engine
    return None


def before(path: Path, folder: Path) -> Path | None:
    """Write what HEAD has of a run or engine into a folder; None where it has neither."""
    files = committed(f"{path}/") if path.is_dir() else committed(str(path), f"{path}.json")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # With --filters a file that Git LFS keeps is itself, and no pointer.
        (folder / name).write_bytes(git("cat-file", "--filters", f"HEAD:{name}"))
    whole = f"{path}/report.json" if path.is_dir() else f"{path}.json"
    return folder / path if whole in files else None


def committed(*names: str) -> list[str]:
    """Return those of the names, and what is in those that are folders, that HEAD has."""
    listed = git("ls-tree", "-r", "--name-only", "-z", "HEAD", *names)
    return [name for name in listed.decode().split("\0") if name]


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], check=True, stdout=subprocess.PIPE).stdout


def main() -> int:
    at = sys.argv.index("--")
    options, files = sys.argv[1:at], [Path(word) for word in sys.argv[at + 1 :]]
    failed = False
    for path in sorted({found for file in files if (found := subject(file))}):
        with tempfile.TemporaryDirectory() as folder:
            last = before(path, Path(folder))
            if last is not None:
                print(f"{path}, beside HEAD:", flush=True)
                failed |= subprocess.run(["onnxgraft", "diff", last, path, *options]).returncode > 0
    for file in files:
        if file.suffix != ".json" and subject(file) is None and committed(str(file)):
            print(f"{file}: has no passport or report.json beside it, so it can't be judged")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
