"""`init`: what it writes can be read, says what the model tells, and replaces nothing."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.commands import deploy, init, read_recipe
from onnxgraft.commands._recipe_keys import schema, tables
from onnxgraft.commands._task import task_of
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import TensorSpec
from tests.conftest import Cli, model_of, only_ci

pytestmark = pytest.mark.usefixtures("untimed")


def saved(model: Model, folder: Path) -> Path:
    model.save(folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    model = model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 10] prob) { g = GlobalAveragePool(x)"
        " f = Flatten(g)  prob = MatMul(f, w) }",
        {"w": np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)},
    )
    return saved(model, tmp_path)


def text_of(folder: Path) -> str:
    return (folder / "recipe.toml").read_text()


def filled(folder: Path) -> str:
    """Return the recipe with its data filled in, and with the metric that it suggests."""
    lines = text_of(folder).splitlines()
    lines = ['data = "images"' if "FILL IN" in line else line for line in lines]
    at = lines.index("[validate]")
    wanted = ("# metric = ", "# output = ", "# classes = ")
    lines[at:] = [line[2:] if line.startswith(wanted) else line for line in lines[at:]]
    return "\n".join(lines)


def test_what_is_not_filled_in_is_told_and_the_rest_is_a_recipe(
    classifier: Path, tmp_path: Path
) -> None:
    done = init(classifier, tmp_path / "recipe.toml")
    assert done.unfilled == ("[calibrate] data",)
    with pytest.raises(InputError, match=r"line \d+: \[calibrate\] data: is not filled in yet"):
        read_recipe(tmp_path / "recipe.toml")
    (tmp_path / "recipe.toml").write_text(filled(tmp_path))
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert recipe.model == str(classifier)
    assert (recipe.validation.metric, recipe.validation.output) == ("top1", "prob")


@only_ci
def test_a_recipe_with_data_is_deployed_as_it_is(classifier: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    (tmp_path / "sub").mkdir()
    out = tmp_path / "sub" / "recipe.toml"
    done = init(classifier, out, data=tmp_path / "d.npz", targets="onnxruntime")
    assert done.unfilled == ()
    assert 'model = "../net.onnx"' in out.read_text()
    quick = out.read_text().replace("# rounds = 5", "rounds = 1").replace("# runs = 10", "runs = 1")
    out.write_text(quick)
    assert deploy(out, tmp_path / "out").passed


def test_every_key_is_in_it_and_every_comment_of_one_can_be_set(
    classifier: Path, tmp_path: Path
) -> None:
    init(classifier, tmp_path / "recipe.toml", targets=["tensorrt", "openvino", "onnxruntime"])
    lines = text_of(tmp_path).splitlines()
    for table in tables():
        header = f"[{'.'.join(table.place)}]"
        begin = next((i for i, line in enumerate(lines) if line.removeprefix("# ") == header), 0)
        for key in table.keys.values():
            if not key.keys:
                found = [
                    line.removeprefix("# ")
                    for line in lines[begin:]
                    if line.removeprefix("# ").startswith(f"{key.name} = ")
                ]
                assert key.name in tomllib.loads(found[0])


def test_it_never_replaces_a_recipe_unless_it_is_told_to(
    classifier: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "recipe.toml").write_text("# mine\n")
    done = cli("init", classifier, "-o", tmp_path / "recipe.toml")
    assert done.returncode == 2
    assert "is there already; name another with -o, or add --force" in done.stderr
    assert text_of(tmp_path) == "# mine\n"
    assert not (tmp_path / "recipe.schema.json").exists()
    done = cli("init", classifier, "-o", tmp_path / "recipe.toml", "--force")
    assert done.returncode == 0
    assert "mine" not in text_of(tmp_path)


def test_the_schema_stands_beside_it_and_the_first_line_names_it(
    classifier: Path, tmp_path: Path
) -> None:
    done = init(classifier, tmp_path / "recipe.toml")
    assert text_of(tmp_path).startswith("#:schema ./recipe.schema.json\n")
    assert json.loads((tmp_path / "recipe.schema.json").read_text()) == schema()
    assert done.schema == str(tmp_path / "recipe.schema.json")
    init(classifier, tmp_path / "other.toml")  # the schema is ours, and is written again
    init(classifier, tmp_path / "third.toml", schema=False)
    assert not (tmp_path / "third.toml").read_text().startswith("#:schema")


def test_another_file_in_the_place_of_the_schema_is_left(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.schema.json").write_text('{"title": "mine"}')
    with pytest.raises(InputError, match="another file than the schema of recipes"):
        init(classifier, tmp_path / "recipe.toml")
    assert not (tmp_path / "recipe.toml").exists()


def test_how_the_model_is_opened_is_in_the_recipe(classifier: Path, tmp_path: Path) -> None:
    init(classifier, tmp_path / "recipe.toml", inputs="x[2,3,8,8]", outputs="g", targets="tensorrt")
    (tmp_path / "recipe.toml").write_text(filled(tmp_path))
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert (recipe.inputs, recipe.outputs, recipe.targets) == ("x[2,3,8,8]", "g", ("tensorrt",))


def test_names_of_a_stranger_stay_within_their_line(tmp_path: Path) -> None:
    name = 'x"\n[calibrate]\ndata = "/etc'
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }"
    )
    proto.graph.output[0].name = proto.graph.node[0].output[0] = name
    onnx.save(proto, tmp_path / "net.onnx")
    init(tmp_path / "net.onnx", tmp_path / "recipe.toml")
    document = tomllib.loads(filled(tmp_path))
    assert document["calibrate"] == {"data": "images"}
    assert document["validate"]["output"] == name


def test_what_the_model_tells_of_its_images_is_set(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "net (float[1, 3, 64, 64] x) => (float[1, 3, 64, 64] y) { y = Relu(x) }"
    )
    onnx.helper.set_model_props(proto, {"author": "Ultralytics", "task": "detect"})
    onnx.save(proto, tmp_path / "net.onnx")
    init(tmp_path / "net.onnx", tmp_path / "recipe.toml")
    recipe = tomllib.loads(text_of(tmp_path))
    assert Preprocess.model_validate(recipe["preprocess"]) == Preprocess(preset="yolo")
    comments = " ".join(line.removeprefix("# ") for line in text_of(tmp_path).splitlines())
    assert "the ONNX file's metadata name Ultralytics" in comments


def test_free_sizes_are_shown_where_shapes_are_said(tmp_path: Path) -> None:
    model = model_of("net (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    init(saved(model, tmp_path), tmp_path / "recipe.toml", targets="tensorrt")
    assert "# shapes = { x = [1, 3, 256, 256] }" in text_of(tmp_path)
    assert "# Free sizes: x (N, 3, H, W) float32" in text_of(tmp_path)


def test_a_model_that_takes_no_pictures_wants_arrays(tmp_path: Path) -> None:
    model = model_of("net (float[N, 16] a, float[N, 16] b) => (float[N, 16] y) { y = Add(a, b) }")
    init(saved(model, tmp_path), tmp_path / "recipe.toml")
    assert 'data = "FILL IN: an .npz or a list of arrays' in text_of(tmp_path)
    assert tomllib.loads(text_of(tmp_path))["preprocess"] == {}


NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fcn": (
        "fcn_camvid/fcn_camvid.prototxt", {"weights": "fcn_camvid/fcn_camvid.caffemodel"},
        {"metric": "miou", "classes": "camvid"},
    ),
    "mobilenet": ("mobilenet_camvid/mobilenet_camvid.pb", {}, {"metric": "miou"}),
    "segformer": (
        "segformer_camvid/segformer_camvid.onnx", {}, {"metric": "miou", "classes": "camvid"},
    ),
    "yolo": ("yolo_camvid/yolo_camvid.onnx", {}, {"metric": "map"}),
}  # fmt: skip


@only_ci
@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_get_a_recipe_that_is_read_and_the_metric_of_their_task(
    name: str, shared: Path, tmp_path: Path
) -> None:
    file, given, wanted = NETWORKS[name]
    if file.endswith(".pb"):
        pytest.importorskip("tensorflow")
    models = shared / "models"
    how = {key: models / value for key, value in given.items()}
    init(models / file, tmp_path / "recipe.toml", **how)
    (tmp_path / "recipe.toml").write_text(filled(tmp_path))
    section = read_recipe(tmp_path / "recipe.toml").validation
    assert {key: getattr(section, key) for key in wanted} == wanted
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator(schema()).validate(tomllib.loads(text_of(tmp_path)))


def test_within_its_sandbox_it_writes_recipe_and_schema(
    classifier: Path, tmp_path: Path, process: Cli
) -> None:
    done = process("init", classifier, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fill in [calibrate] data" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.onnx", "recipe.toml", "recipe.schema.json",
    }  # fmt: skip


def test_a_schema_replaces_a_schema_alone(tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "net.onnx"
    place.write_bytes(b"\x08\x08 what somebody needs")
    done = cli("recipe-schema", "-o", place)
    assert done.returncode == 2
    assert "net.onnx: is another file than the schema of recipes; name another file" in done.stderr
    assert place.read_bytes() == b"\x08\x08 what somebody needs"
    for _ in range(2):
        assert cli("recipe-schema", "-o", tmp_path / "schema.json").returncode == 0


@pytest.mark.parametrize("kind", [kind for kind in onnx.TensorProto.DataType.values() if kind])
def test_inputs_and_outputs_of_every_type_are_no_obstacle(kind: int, tmp_path: Path) -> None:
    value = {n: onnx.helper.make_tensor_value_info(n, kind, ["N", 10]) for n in ("mask", "y")}
    node = onnx.helper.make_node("Identity", ["mask"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value["mask"]], [value["y"]])
    imports = [onnx.helper.make_opsetid("", 25)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=13)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    init(tmp_path / "net.onnx", tmp_path / "recipe.toml")
    assert "fill in" in text_of(tmp_path).lower()


@pytest.mark.parametrize("shape", [("N", 1 << 40), ("N", 1 << 31, 7), (1, 4, 1 << 20, 1 << 20)])
def test_outputs_of_any_size_that_a_file_declares_take_no_memory(
    shape: tuple[int | str, ...],
) -> None:
    """One of 16 GB was made to see whether it looks like boxes."""
    task_of([TensorSpec("y", "float32", shape)], (12, 12))
