"""What is asked of feeds before anything native runs."""

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.runtime import TensorSpec, check_feeds

SPECS = (TensorSpec("a", "float32", ("N", 3)), TensorSpec("b", "float32", ("N", "?")))


def feeds(one: int, other: int) -> dict[str, np.ndarray]:
    return {"a": np.zeros((one, 3), np.float32), "b": np.zeros((other, 9), np.float32)}


def test_equal_names_of_dimensions_mean_equal_sizes() -> None:
    assert list(check_feeds("e", SPECS, feeds(2, 2))) == ["a", "b"]
    with pytest.raises(InputError, match="N is 2 in the input a and 4 in b; feed the same number"):
        check_feeds("e", SPECS, feeds(2, 4))
