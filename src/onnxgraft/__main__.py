"""``python -m onnxgraft``, and the command ``onnxgraft``."""

from __future__ import annotations

import sys

from onnxgraft.errors import MissingDependencyError
from onnxgraft.optional import optional

__all__ = ["main"]


def main() -> None:
    """Run the command line; where its packages were left out, say how to get them."""
    try:
        with optional("The command line"):
            from onnxgraft import cli
    except MissingDependencyError as error:
        print(f"onnxgraft: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    cli.main()


if __name__ == "__main__":
    main()
