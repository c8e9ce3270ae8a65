"""``python -m onnxgraft``, and the command ``onnxgraft``."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from onnxgraft.errors import MissingDependencyError
from onnxgraft.optional import optional

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; where its packages were left out, say how to get them."""
    try:
        with optional("The command line"):
            from onnxgraft import cli
    except MissingDependencyError as error:
        print(f"onnxgraft: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, RuntimeError) as error:  # later on a command says so itself
        # Python makes a RuntimeError of one that comes while it makes a class.
        if KeyboardInterrupt not in (type(error), type(error.__cause__)):
            raise
        _interrupted()
    cli.main()


def _interrupted() -> NoReturn:
    """Say as `cli` does that a command was interrupted; of its packages some are half there."""
    words = sys.argv[1:]
    name = next((word for word in words if not word.startswith("-")), "")
    print(f"onnxgraft {name}".rstrip() + ": interrupted", file=sys.stderr)
    if "--json" in words:
        told = {
            "passed": False, "command": name, "error": "interrupted",
            "advice": "run it again", "exit_status": _INTERRUPTED,
        }  # fmt: skip
        print(json.dumps(told, indent=2))
    sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
