"""A .pt2 from a stranger: nothing in it is run, and what would be is named."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxgraft.errors import InputError, ModelError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.pytorch.expressions import check_expression

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
INPUTS = "data/sample_inputs/model.pt"
RUN = "__import__('pathlib').Path({!r}).touch()"
Edit = Callable[[dict[str, bytes], str], None]


class Harm:
    """Is a program when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (RUN.format(self.path),)


def edited(source: Path, place: Path, edit: Edit, marker: Path) -> Path:
    """Write a copy of a .pt2 with other members."""
    with zipfile.ZipFile(source) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        members = {name: archive.read(full) for name, full in names.items()}
    edit(members, str(marker))
    with zipfile.ZipFile(place, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"net/{name}", data)
    return place


def document(name: str, change: Callable[[Any, str], None]) -> Edit:
    def edit(members: dict[str, bytes], marker: str) -> None:
        told = json.loads(members[name])
        change(told, marker)
        members[name] = json.dumps(told).encode()

    return edit


def graph(change: Callable[[Any, str], None]) -> Edit:
    return document(MODEL, lambda told, marker: change(told["graph_module"]["graph"], marker))


def call(told: Any) -> Any:
    return told["graph_module"]["module_call_graph"][0]["signature"]


def add(name: str, data: bytes = b"") -> Edit:
    return lambda members, _: members.update({name: data})


def pickled(members: dict[str, bytes], marker: str) -> None:
    """Put a program where the example inputs are, as PyTorch itself reads it."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(members[INPUTS])) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            harm = pickle.dumps(Harm(marker), protocol=2)
            new.writestr(name, harm if name.endswith("/data.pkl") else old.read(name))
    members[INPUTS] = content.getvalue()


def expression(told: Any, marker: str) -> None:
    (axis,) = (dim for dim in told["tensor_values"]["image"]["sizes"][:1])
    axis["as_expr"]["expr_str"] = RUN.format(marker)


def operator(name: str) -> Edit:
    return graph(lambda told, _: told["nodes"][0].update(target=name))


def parameter(told: Any, marker: str) -> None:
    entry = told["graph_module"]["signature"]["input_specs"][0]["parameter"]
    entry["parameter_name"] = f'a"),{RUN.format(marker)},("'


def renamed(told: Any, marker: str) -> None:
    told["nodes"][0]["name"] = f"x = {RUN.format(marker)}; y"


def keys(told: Any, marker: str) -> None:
    call(told)["in_spec"] = call(told)["in_spec"].replace("by", "a\\\\': print(1), 'b")


def tree(told: Any, marker: str) -> None:
    call(told)["out_spec"] = call(told)["out_spec"].replace("builtins.dict", "acme.Output")


def factory(told: Any, marker: str) -> None:
    call(told)["out_spec"] = call(told)["out_spec"].replace(
        "builtins.dict", "collections.defaultdict"
    )


def guard(told: Any, marker: str) -> None:
    told["guards_code"] = [RUN.format(marker)]


def weight(told: Any, marker: str) -> None:
    told["config"]["fc.bias"]["use_pickle"] = True


def huge(told: Any, marker: str) -> None:
    meta = told["config"]["fc.bias"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 1 << 44}], [{"as_int": 0}]


def elsewhere(told: Any, marker: str) -> None:
    told["config"]["fc.bias"]["tensor_meta"]["device"] = {"type": "cuda", "index": 0}


HOSTILE: dict[str, tuple[Edit, str]] = {
    "example": (pickled, "data/sample_inputs/model.pt is a pickle that holds more than tensors"),
    "weight": (document(WEIGHTS, weight), "the weight 'fc.bias' is a pickle"),
    "object": (add("data/constants/opaque_obj_0", b"x"), "is an object of a class of its own"),
    "library": (add("data/aotinductor/model/a.so", b"\x7fELF"), "a compiled library"),
    "member": (add("data/else", b""), "its member 'data/else' is none that torch.export.save"),
    "second": (add("models/b.json", b"{}"), "the program 'b' beside torch.export.save's own"),
    "dotted": (add("../x", b""), "lies outside of it"),
    "size": (graph(expression), "is no sum of symbols and numbers"),
    "system": (operator("torch.os.system"), "'torch.os.system', which is no operator"),
    "builtin": (operator("_operator.methodcaller"), "which is no operator of a network"),
    "file": (operator("torch.ops.aten.from_file.default"), "which may read or write files"),
    "save": (operator("torch.ops.aten.save.default"), "which may read or write files"),
    "printing": (operator("torch.ops.higher_order.print"), "which may do more than compute"),
    "custom": (operator("torch.ops.acme.twice.default"), "acme.twice.default is of a library"),
    "parameter": (document(MODEL, parameter), "is no plain name"),
    "node": (graph(renamed), "the name .* is none"),
    "argument": (
        document(MODEL, lambda told, _: call(told).update(forward_arg_names=["a=print()"])),
        "the name 'a=print"),
    "keys": (document(MODEL, keys), "names an input or output, and is no plain name"),
    "class": (document(MODEL, tree), "is a acme.Output; give and return tuples, lists and dicts"),
    "factory": (document(MODEL, factory), "is a collections.defaultdict"),
    "huge": (document(WEIGHTS, huge), "its weights say to be more than 4 times it"),
    "cuda": (document(WEIGHTS, elsewhere), "it was exported on cuda"),
    "damaged": (lambda members, _: members.update({MODEL: b"[}"}), "model.json is damaged"),
    "empty": (lambda members, _: members.update({MODEL: b"{}"}), "PyTorch can't load it"),
    "nothing": (lambda members, _: members.pop(MODEL) and None, "it holds no program"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused_and_not_run(
    name: str, programs: Path, tmp_path: Path
) -> None:
    edit, words = HOSTILE[name]
    marker = tmp_path / "was_run"
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", edit, marker)
    with pytest.raises(ModelError, match=words):
        Original.of(file)._program  # noqa: B018
    assert not marker.exists()


def many(told: Any, marker: str) -> None:
    told["nodes"] *= 50_000 // len(told["nodes"]) + 1


def test_a_program_of_more_nodes_than_any_has_is_not_loaded(programs: Path, tmp_path: Path) -> None:
    """PyTorch would take minutes and gigabytes."""
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", graph(many), tmp_path)
    with pytest.raises(InputError, match="nodes of a program, at most 50,000 are read"):
        Original.of(file)._program  # noqa: B018


def test_guards_are_not_run(programs: Path, tmp_path: Path) -> None:
    """PyTorch makes a program of them where example inputs are kept."""
    marker = tmp_path / "was_run"
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", document(MODEL, guard), marker)
    original = Original.of(file)
    model, _ = original.lower()
    assert model.graph.nodes
    assert not marker.exists()


def test_what_is_trusted_is_run(programs: Path, tmp_path: Path) -> None:
    """The files above do harm where nothing looks at them."""
    marker = tmp_path / "was_run"
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", pickled, marker)
    with pytest.raises(ModelError, match=r"more than tensors .* --trust=net\.pt2 nothing else"):
        Original.of(file, trust="other.pt2")._program  # noqa: B018
    with pytest.raises(ModelError, match="PyTorch can't load it"):
        Original.of(file, trust=["net.pt2"])._program  # noqa: B018
    assert marker.exists()


def test_weights_are_held_against_their_checksum(programs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(programs / "net.pt2") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        stored = archive.read(largest)
    data = (programs / "net.pt2").read_bytes()
    (tmp_path / "net.pt2").write_bytes(data.replace(stored, bytes(4) + stored[4:], 1))
    with pytest.raises(ModelError, match="bad CRC-32 for file"):
        Original.of(tmp_path / "net.pt2").lower()


@pytest.mark.parametrize("version", [b"", b"three", b"9" * 30, b"-1", b"\xff\x00"])
def test_a_version_that_is_no_number_is_a_sentence(
    programs: Path, tmp_path: Path, version: bytes
) -> None:
    edit = add(".data/version", version)
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", edit, tmp_path)
    with pytest.raises(ModelError, match="the archive is damaged"):
        Original.of(file).lower()


def test_an_untouched_copy_is_read(programs: Path, tmp_path: Path) -> None:
    file = edited(programs / "net.pt2", tmp_path / "net.pt2", lambda *_: None, tmp_path)
    assert Original.of(file)._program.inputs[0].spec.name == "image"


@pytest.mark.parametrize(
    "text",
    [
        "s77", "s0 + 2*s1", "Symbol('s77', positive=True, integer=True)", "u0 >= 3", "oo",
        "Max(Integer(1), Mul(Integer(2), Symbol('s86', integer=True)))", "s0**2 - 1",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(-3)), Integer(2))", "Pow(s1, Integer(2))",
    ],
)  # fmt: skip
def test_sizes_are_let_in(text: str) -> None:
    check_expression("net.pt2", text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "s0.__class__", "(lambda: 1)()", "[1, 2]", "'a'", "print(s0)", "open",
        "9**9**9", "Pow(Integer(9), Pow(Integer(9), Integer(9)))", "Symbol('a b')", "s0[0]", "",
        "Symbol(print())", "10**400", "*".join(["s0**8"] * 9), "f'{s0}'", "s0 if s0 else s1",
        "+".join(["s0"] * 5000), "Symbol('s0', integer=print(1))", "x := 3",
    ],
)  # fmt: skip
def test_what_else_would_be_evaluated_is_not_let_in(text: str) -> None:
    with pytest.raises(ModelError, match=re.escape(repr(text[:80]))):
        check_expression("net.pt2", text)
