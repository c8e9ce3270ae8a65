"""Where several processes can't be had, that is told."""

from __future__ import annotations

import pytest

from onnxgraft.errors import InputError
from onnxgraft.run.workers import in_processes


def test_without_shared_memory_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("onnxgraft.run.workers.ProcessPoolExecutor", none)
    with pytest.raises(InputError, match="need a /dev/shm that can be written; leave --workers"):
        list(in_processes(lambda: str, [1], 2))
