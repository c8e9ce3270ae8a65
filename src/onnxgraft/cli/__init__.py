"""The ``onnxgraft`` command: each subcommand calls one function of the package."""

from __future__ import annotations

from onnxgraft.cli._app import app
from onnxgraft.cli._commands import COMMANDS

__all__ = ["COMMANDS", "app", "main"]


def main() -> None:
    """Run the command line."""
    app()
