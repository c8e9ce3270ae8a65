"""``python -m onnxgraft``."""

from __future__ import annotations

from onnxgraft.cli import main

if __name__ == "__main__":
    main()
