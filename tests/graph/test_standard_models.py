"""onnx's own test models in several forms: no crash, and every file loads and computes the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import DEEP, few
from tests.graph.standard_models import FORMS, judge, names

# All of them take some minutes; another seed is another sample.
SAMPLE = 150 if DEEP else 25
# What is refused by name: sequences and optionals at the border, and a Scan of opset 8.
REFUSED = ("only tensors can be handled", "goes over a batch")


def sample(form: str) -> Sequence[str]:
    return random.Random(form).sample(names(), SAMPLE)


@pytest.mark.parametrize("form", few(FORMS, 1, 4))
def test_the_standard_s_models_stay_what_they_are(form: str, tmp_path: Path) -> None:
    wrong = []
    for name in sample(form):
        folder = tmp_path / name
        folder.mkdir()
        verdict, reason = judge(name, form, folder)
        if verdict not in ("same", "refused"):
            wrong.append(f"{name}: {verdict}: {reason}")
        elif verdict == "refused" and not any(words in reason for words in REFUSED):
            wrong.append(f"{name}: refused: {reason}")
    assert not wrong
