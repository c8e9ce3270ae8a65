"""Functions of the user's own: named, hashed, run where they are trusted, found elsewhere."""

from __future__ import annotations

import functools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.data.functions import Function
from onnxgraft.errors import InputError
from onnxgraft.files import sha256


def twice(value: float) -> float:
    """Return a number, doubled."""
    return 2 * value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with a function, and a mark that it leaves when it is run."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import pathlib\n"
        "pathlib.Path(__file__).with_suffix('.ran').touch()\n"
        "def thrice(value): return 3 * value\n"
    )
    return path


def test_a_callable_has_a_name_and_the_hash_of_its_source() -> None:
    function = Function.of(twice)
    assert function.name.endswith("test_functions.twice")
    assert function.title == "twice"
    assert function(4) == 8
    assert function == Function.of(twice)
    assert function != Function.of(Function.of)


def test_a_hash_tells_functions_of_one_name_apart() -> None:
    one, other = (lambda x: x + 1, lambda x: x + 2)
    assert Function.of(one).sha256 != Function.of(other).sha256
    half, third = functools.partial(math.pow, 2), functools.partial(math.pow, 3)
    assert Function.of(half).sha256 != Function.of(third).sha256


def test_a_file_is_run_only_when_it_is_trusted(file: Path) -> None:
    named = Function("mine.py:thrice").located(file.parent)
    assert named.sha256 == sha256(file)
    with pytest.raises(InputError, match=r"a recipe runs the code of .*--trust=thrice"):
        named.loaded(False, "a recipe")
    assert not file.with_suffix(".ran").exists()
    for trust in (True, "thrice", ["mine.py"]):
        assert named.loaded(trust, "a recipe")(2) == 6
    assert file.with_suffix(".ran").exists()


def test_a_file_that_changed_is_not_run(file: Path) -> None:
    named = Function("mine.py:thrice").located(file.parent)
    file.write_text("def thrice(value): return 4 * value\n")
    with pytest.raises(InputError, match=r"as it was with the SHA-256"):
        named.loaded(True, "a passport")


def test_what_is_hashed_is_what_is_run_and_nothing_is_left_beside_it(file: Path) -> None:
    assert Function.load(f"{file}:thrice")(2) == 6
    file.write_text(file.read_text().replace("3 *", "4 *"))  # in the same second, as long as it was
    assert Function.load(f"{file}:thrice")(2) == 8
    assert {path.name for path in file.parent.iterdir()} == {"mine.py", "mine.ran"}


def test_a_callable_of_python_is_not_found_by_its_name_alone() -> None:
    with pytest.raises(InputError, match=r"a function in Python that is not written in a file"):
        Function("__main__.mine", "0" * 64).loaded(True, "a passport")


def test_a_name_that_is_not_there_is_told_with_the_nearest(file: Path) -> None:
    with pytest.raises(InputError, match=r"has no function 'trice'; did you mean thrice"):
        Function.load(f"{file}:trice")
    with pytest.raises(InputError, match=r"other.py: the function's file does not exist"):
        Function.load(f"{file.with_name('other.py')}:thrice")


def test_functions_are_found_again_in_another_process(file: Path) -> None:
    for function, expected in ((Function.of(twice), 10), (Function.load(f"{file}:thrice"), 15)):
        sent = pickle.loads(pickle.dumps(function))
        assert sent == function
        assert sent(5) == expected


def test_a_lambda_is_not_sent_and_the_cure_is_told() -> None:
    with pytest.raises(InputError, match=r"define it at the top of a module"):
        pickle.dumps(Function.of(lambda x: np.asarray(x)))
