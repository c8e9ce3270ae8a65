"""Why INT8 may not be faster."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize import explain, placement, quantize
from tests.conftest import model_of
from tests.quantize.networks import pair, ranges_of, samples_of, weights


def remarks(model: Model, folder: Path, target: str = "tensorrt") -> dict[str, set[str]]:
    """Return the nodes of each kind of remark."""
    graph, _ = quantize(model, ranges_of(model, samples_of(model, folder)), target)
    found: dict[str, set[str]] = {}
    for remark in explain(graph.graph, placement(target)):
        assert remark.sentence
        found.setdefault(remark.kind, set()).update(remark.nodes)
    return found


def test_first_and_last_layers(tmp_path: Path) -> None:
    assert remarks(pair(), tmp_path)["first or last layer"] == {"first", "third"}


def test_small_channels(tmp_path: Path) -> None:
    assert remarks(pair(), tmp_path)["small channels"] == {"first", "second", "third"}


def middle(text: str, **constants: tuple[int, ...]) -> Model:
    whole = f"""
    g (float[N, 32, 8, 8] image) => (float[N, 32, 8, 8] y) {{
        [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1)
        {text}
        [last] y = Conv <pads = [1, 1, 1, 1]> (b, w9)
    }}
    """
    shapes = {"w1": (32, 32, 3, 3), "w9": (32, 32, 3, 3), **constants}
    return model_of(whole, weights(shapes))


def test_an_operator_without_an_int8_kernel(tmp_path: Path) -> None:
    model = middle("[erf] b = Erf (a)")
    assert remarks(model, tmp_path)["no INT8 kernel"] == {"erf"}


def test_what_fuses_is_not_told(tmp_path: Path) -> None:
    model = middle("[relu] b = Relu (a)")
    found = remarks(model, tmp_path)
    assert "no INT8 kernel" not in found
    assert "unfused Q/DQ" not in found


def test_quantization_of_what_others_read_in_float(tmp_path: Path) -> None:
    model = middle("[inner] c = Conv <pads = [1, 1, 1, 1]> (a, w2)  [gate] b = Mul (a, c)",
                   w2=(32, 32, 3, 3))  # fmt: skip
    assert remarks(model, tmp_path)["unfused Q/DQ"] == {"a/QuantizeLinear"}


def test_depthwise_layers(tmp_path: Path) -> None:
    model = middle("[deep] b = Conv <pads = [1, 1, 1, 1], group = 32> (a, w2)", w2=(32, 1, 3, 3))
    assert remarks(model, tmp_path)["depthwise"] == {"deep"}


def test_concatenations_of_different_scales(tmp_path: Path) -> None:
    text = """
    g (float[N, 32, 8, 8] image) => (float[N, 32, 8, 8] y) {
        [left] a = Conv <pads = [1, 1, 1, 1]> (image, w1)
        [right] b = Conv <pads = [1, 1, 1, 1]> (image, w2)
        [join] c = Concat <axis = 1> (a, b)
        [last] y = Conv <pads = [1, 1, 1, 1]> (c, w3)
    }
    """
    shapes = {"w1": (16, 32, 3, 3), "w2": (16, 32, 3, 3), "w3": (32, 32, 3, 3)}
    model = model_of(text, weights(shapes))
    assert remarks(model, tmp_path, "onnxruntime")["concat scales"] == {"join"}
    # TensorRT's form quantizes behind the concatenation: one scale.
    assert "concat scales" not in remarks(model, tmp_path, "tensorrt")
