"""Outputs that random numbers saturate: right passes stay, wrong ones are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.graph.model import Model
from onnxgraft.stages import surgery
from onnxgraft.stages.surgery.running.verify import Verifier
from tests.conftest import few
from tests.heads import FAULTS, Head, heads, network, shows, spoil

each = pytest.mark.parametrize("head", few(heads(), 12, 18), ids=str)


@each
def test_no_right_pass_is_undone(head: Head, tmp_path: Path) -> None:
    model = Model.load(network(head, tmp_path / "net.onnx"))
    cleaned, report = surgery.run(model, verify=True)
    assert not [entry for entry in report.passes if entry.rolled_back]
    assert report.verdicts and report.passed
    assert "BatchNormalization" not in cleaned.operators()


@each
def test_no_right_conversion_is_called_wrong(head: Head, tmp_path: Path) -> None:
    done = commands.convert(network(head, tmp_path / "net.onnx"))
    assert done.verdicts
    assert done.passed, done.verdicts


@pytest.mark.parametrize("fault", FAULTS)
@each
def test_a_wrong_pass_is_found(head: Head, fault: str, tmp_path: Path) -> None:
    model = Model.load(network(head, tmp_path / "net.onnx"))
    cleaned, _ = surgery.run(model)
    verifier = Verifier(model)
    verifier.begin()
    assert verifier.check(cleaned) is None
    spoil(cleaned, fault)
    found = verifier.check(cleaned) is not None
    # Of an output that no sample moves, that is said.
    assert found or verifier.still == ["y"] or not shows(model, cleaned)
