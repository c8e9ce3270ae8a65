"""What an operator is: type and domain together, and asked for at one place alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph.operators import QUANTIZERS, counted, is_op, nodes_of, op_key, op_of, set_op
from tests.conftest import model_of
from tests.sources import parsed


@pytest.mark.parametrize("domain", [None, "", "ai.onnx"])
def test_onnx_s_own_domain_has_three_names(domain: str | None) -> None:
    for node in (
        gs.Node("Conv", domain=domain),
        onnx.helper.make_node("Conv", ["x"], ["y"], domain=domain),
    ):
        assert is_op(node, "Gemm", "Conv")
        assert not is_op(node, "Gemm")
        assert not is_op(node, "Conv", domain="acme")
        assert op_of(node) == "Conv"
        assert op_key(node) == ("", "Conv")


@pytest.mark.parametrize("domain", ["acme", "com.microsoft.nchwc", "ai.onnx.ml"])
def test_an_operator_of_another_domain_is_another_one(domain: str) -> None:
    for node in (
        gs.Node("Conv", domain=domain),
        onnx.helper.make_node("Conv", ["x"], ["y"], domain=domain),
    ):
        assert not is_op(node, "Conv")
        assert is_op(node, "Conv", domain=domain)
        assert is_op(node, "Conv", domain=("", domain))
        assert not is_op(node, "Gemm", domain=("", domain))
        assert op_of(node) == f"{domain}.Conv"
        assert op_key(node) == (domain, "Conv")


def test_nothing_is_no_operator() -> None:
    assert not is_op(None, "Conv")


def test_both_quantizers_are_asked_for_together() -> None:
    assert all(is_op(gs.Node("Q", domain=d), "Q", domain=QUANTIZERS) for d in (None, *QUANTIZERS))


def test_what_a_node_becomes_is_onnx_s_own() -> None:
    node = gs.Node("MatMul", domain="ai.onnx")
    set_op(node, "Gemm")
    assert op_of(node) == "Gemm"
    set_op(node, "Mine", "trt.plugins")
    assert op_of(node) == "trt.plugins.Mine"


def test_counts_name_the_domain() -> None:
    nodes = [gs.Node("Conv"), gs.Node("Conv", domain="acme"), gs.Node("Conv", domain="")]
    assert counted(nodes) == {"Conv": 2, "acme.Conv": 1}


def test_nodes_that_are_taken_out_meanwhile_are_not_visited() -> None:
    graph = model_of(
        "g (float[N] x) => (float[N] y) { a = Relu(x)\n b = Neg(a)\n c = Relu(b)\n y = Relu(c) }"
    ).graph
    first, _, second, third = graph.nodes
    third.domain = "acme"
    seen = []
    for node in nodes_of(graph, "Relu"):
        seen.append(node)
        second.outputs.clear()
        graph.nodes.append(gs.Node("Relu", outputs=[gs.Variable("new")]))
    assert len(seen) == 1 and seen[0] is first


# One door ---------------------------------------------------------------------------------------

DOOR = "src/onnxgraft/graph/operators.py"
NODE_DEF = "looks at TensorFlow's NodeDefs, whose operators have no domain"
# What may look at an attribute that is called `op`: files, or functions and classes in them.
ELSEWHERE = {
    "convert/inspection.py:inspect_graphdef": NODE_DEF,
    "convert/pytorch/": "PyTorch's own operators",
    "convert/tensorflow/loops/frames.py": NODE_DEF,
    "convert/tensorflow/loops/loops.py": NODE_DEF,
    "convert/tensorflow/lower/lowering.py:_suspects": NODE_DEF,
    "convert/tensorflow/lower/repairs.py": NODE_DEF,
    "convert/tensorflow/lower/weights.py:take_weights": NODE_DEF,
    "convert/tensorflow/lower/weights.py:put_back": NODE_DEF,
    "convert/tensorflow/lower/weights.py:stand_ins": NODE_DEF,
    "convert/tensorflow/lower/weights.py:_uses": NODE_DEF,
    "convert/tensorflow/lower/weights.py:_passes": NODE_DEF,
    "convert/tensorflow/prepare/": NODE_DEF,
    "convert/tensorflow/reading/": NODE_DEF,
    "convert/tensorflow/sizes.py": "TensorFlow's own operations",
    "convert/tflite/reaching.py:_flex": NODE_DEF,
    "src/onnxgraft/files/schema.py": "names fields of messages",
    "src/onnxgraft/run/providers.py:Running": "onnxruntime's own nodes",
}
NAMES = {"op", "op_type"}


def looks(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield where code looks at the type of a node: the function or class, and the line."""
    for part in tree.body:
        outer = part.name if isinstance(part, ast.FunctionDef | ast.ClassDef) else ""
        # A method that is called `op`, as the writers of graphs have, is another thing.
        called = {id(node.func) for node in ast.walk(part) if isinstance(node, ast.Call)}
        for node in ast.walk(part):
            match node:
                case ast.Attribute(attr=attr) if attr in NAMES and id(node) not in called:
                    yield outer, node.lineno
                case ast.match_case(pattern=ast.MatchClass(kwd_attrs=attrs)) if NAMES & {*attrs}:
                    yield outer, node.pattern.lineno
                # getattr(node, "op"), vars(node)["op"], and the domain told by hand.
                case ast.Constant(value=str(text)) if text in {*NAMES, "ai.onnx"}:
                    yield outer, node.lineno


@pytest.mark.parametrize(
    "code",
    [
        'node.op == "Conv"',
        'node.op_type in ("Conv", "Gemm")',
        "TABLE[node.op]",
        "TABLE.get(node.op_type)",
        'node.op.startswith("Reduce")',
        'node.op = "Gemm"',
        'getattr(node, "op")',
        'vars(node)["op_type"]',
        "kind = node.op",
        "print(f'{node.op}')",
        'node.domain in (None, "", "ai.onnx")',
        "match node:\n    case Node(op=kind): pass",
    ],
)
def test_every_way_around_the_door_is_seen(code: str) -> None:
    assert list(looks(ast.parse(code)))


def test_a_method_that_writes_a_node_is_no_look_at_one() -> None:
    assert not list(looks(ast.parse('out.op("Conv", [x])')))


def test_operators_are_asked_for_at_one_place() -> None:
    wrong, used = [], set()
    for name, tree in parsed(r"\b(op|op_type|ai\.onnx)\b", "models", "benchmarks"):
        if name == DOOR:
            continue
        for outer, line in looks(tree):
            places = (name, f"{name}:{outer}", f"{Path(name).parent}/")
            known = [place for place in places if place in ELSEWHERE]
            used.update(known)
            if not known:
                wrong.append(f"{name}:{line} ({outer or 'the module'})")
    assert not wrong, "ask with onnxgraft.graph.operators: " + ", ".join(wrong)
    assert used == set(ELSEWHERE), "these look at no operator any more"
