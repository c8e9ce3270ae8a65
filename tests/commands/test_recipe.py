"""Recipes: errors by key and line, the schema, and that both are of the models that read them."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from onnxgraft.commands import read_recipe, recipe_schema
from onnxgraft.commands._recipe import read_tables
from onnxgraft.commands._recipe_keys import Key, recipe_keys, schema, tables
from onnxgraft.commands._recipe_tables import Recipe
from onnxgraft.errors import InputError
from tests.conftest import ROOT, Cli

KEYS = [key for table in tables() for key in table.keys.values() if not key.keys]


def named(key: Key) -> str:
    return ".".join(key.place)


def error_of(folder: Path, text: str, read: Any = read_recipe) -> str:
    """Return what is said of a recipe, without the folder."""
    (folder / "r.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        read(folder / "r.toml")
    return str(caught.value).removeprefix(f"{folder}/")


ENOUGH = 'model = "net.onnx"\n[calibrate]\ndata = "images"\n'

WRONG = {
    "an_unknown_key": (
        ENOUGH + "imges = 3\n",
        "r.toml, line 4: [calibrate] imges: there is no such key; did you mean images?",
    ),
    "an_unknown_key_like_no_other": (
        ENOUGH + "[bench]\nzzz = 3\n",
        "r.toml, line 5: [bench] zzz: there is no such key; there are: batches, rounds, runs",
    ),
    "an_unknown_table": (
        ENOUGH + "[preproces]\n",
        "r.toml, line 4: preproces: there is no such key; did you mean preprocess or postprocess?",
    ),
    "a_key_of_another_table": (
        ENOUGH + 'metric = "top1"\n',
        "r.toml, line 4: [calibrate] metric: there is no such key; it is a key of [validate]",
    ),
    "a_key_of_the_top_below_a_table": (
        ENOUGH + "keep_float = []\n",
        ("r.toml, line 4: [calibrate] keep_float: there is no such key; it stands at the top of a "
        "recipe, above the first table"),
    ),
    "another_type": (
        ENOUGH + '[preprocess]\nresize = "big"\n',
        ('r.toml, line 5: [preprocess] resize = "big": wants a list of 2 whole numbers from 1 on '
        'or "input", such as resize = [224, 224]'),
    ),
    "a_number_out_of_bounds": (
        ENOUGH + "images = 0\n",
        ("r.toml, line 4: [calibrate] images = 0: wants a whole number from 1 on, such as "
        "images = 500"),
    ),
    "a_seed_that_no_file_holds": (
        ENOUGH + "seed = 9223372036854775808\n",
        ("r.toml, line 4: [calibrate] seed = 9223372036854775808: wants a whole number from 0 on, "
        "such as seed = 0"),
    ),
    "a_number_that_is_none": (
        ENOUGH + "[validate]\ndrop = nan\n",
        "r.toml, line 5: [validate] drop = nan: wants a number, such as drop = 0.5",
    ),
    "a_word_that_is_not_listed": (
        ENOUGH + '[preprocess]\ncolor = "rbg"\n',
        ('r.toml, line 5: [preprocess] color = "rbg": wants "bgr", "rgb" or "gray" '
        "(did you mean rgb or bgr?)"),
    ),
    "a_value_within_a_list": (
        ENOUGH + '[preprocess]\nmean = [1.0,\n2.0,\n"x"]\n',
        'r.toml, line 7: [preprocess] mean = [1.0, 2.0, "x"]: wants a list of numbers',
    ),
    "a_table_that_is_none": (
        ENOUGH.replace("[", "bench = 3\n[", 1),
        "r.toml, line 2: [bench] is a table, and 3 is none",
    ),
    "nothing": (
        "# nothing\n",
        "r.toml: model is missing: a frozen TensorFlow graph",
    ),
    "a_table_that_is_missing": (
        'model = "net.onnx"\n',
        ("r.toml: [calibrate] is missing: what the network is calibrated on; for example "
        '[calibrate] and data = "images/"'),
    ),
    "a_key_that_is_missing": (
        'model = "net.onnx"\n[calibrate]\n',
        "r.toml, line 2: [calibrate] data is missing: images or arrays",
    ),
    "what_is_not_filled_in": (
        ENOUGH.replace("images", "FILL IN: a folder of images"),
        "r.toml, line 3: [calibrate] data: is not filled in yet; write a folder of images",
    ),
    "keys_that_contradict": (
        ENOUGH + '[preprocess]\ncolor = "rgb"\nletterbox = true\n',
        "r.toml, line 6: [preprocess] letterbox is how the resize is done",
    ),
    "a_preset": (
        ENOUGH + '[preprocess]\npreset = "torch"\n',
        "r.toml, line 5: [preprocess] preset: no preset is called 'torch'; did you mean",
    ),
    "a_preset_that_is_no_text": (
        ENOUGH + '[preprocess]\npreset = ["keras"]\n',
        'r.toml, line 5: [preprocess] preset = ["keras"]: wants "keras", "keras-tf"',
    ),
    "a_metric": (
        ENOUGH + '[validate]\nmetric = "mIoU"\n',
        "r.toml, line 5: [validate] metric: no metric is called 'mIoU'; did you mean miou?",
    ),
    "a_target": (
        'model = "net.onnx"\ntargets = ["openvino",\n"tensort"]\n[calibrate]\ndata = "x"\n',
        "r.toml, line 3: targets: no target is called 'tensort'; did you mean tensorrt?",
    ),
    "a_target_as_a_key": (
        ENOUGH + '[quantize.float]\ntensort = "fp16"\n',
        "r.toml, line 5: [quantize] float.tensort: no target is called 'tensort'; did you mean",
    ),
    "a_budget": (
        ENOUGH + '[quantize]\nbudget = "miuo=1"\n',
        "r.toml, line 5: [quantize] budget: no metric is called 'miuo'; did you mean miou?",
    ),
    "a_block_of_nothing": (
        ENOUGH + "[quantize]\nblock = 32\n",
        "r.toml, line 5: [quantize] block: block is of weights int8 or int4; name one",
    ),
    "weights_alone_and_a_budget": (
        ENOUGH + '[quantize]\nbudget = "sqnr=30"\nweights = "int8"\n',
        "r.toml, line 6: [quantize] weights: weights int8 with budget: activations stay float",
    ),
    "a_function_whose_file_is_not_there": (
        ENOUGH + '[preprocess]\nfunction = "gone.py:f"\n',
        "r.toml, line 5: [preprocess] function: ",
    ),
    "several": (
        ENOUGH + "a = 1\nb = 1\n[bench]\nc = 1\nruns = 0\n",
        ("r.toml, line 4: [calibrate] a: there is no such key; there are: data, images, method, "
        "seed; line 5: [calibrate] b: there is no such key; there are: data, images, method, seed; "
        "line 7: [bench] c: there is no such key; there are: batches, rounds, runs; and 1 more"),
    ),
    "no_toml": ("model = \n", "not a TOML file (Invalid value (at line 1, column 9))"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_key_its_line_and_what_it_wants(tmp_path: Path, case: str) -> None:
    text, told = WRONG[case]
    found = error_of(tmp_path, text)
    assert told in found
    assert len(found.splitlines()) == 1


def test_tables_that_are_read_alone_are_told_by_line_as_well(tmp_path: Path) -> None:
    found = error_of(tmp_path, '\ncolour = "rgb"\n', read_tables)
    assert found == (
        "r.toml, line 2: [preprocess] colour: there is no such key; did you mean color?"
    )
    found = error_of(tmp_path, "[preprocess]\n[postprocess]\ntop = 0\n", read_tables)
    assert "line 3: [postprocess] top = 0: wants a whole number from 1 on" in found
    found = error_of(tmp_path, "[preprocess]\n[postproces]\n", read_tables)
    assert "line 2: postproces: there is no such key; did you mean postprocess" in found


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(ENOUGH, encoding="utf-8-sig")
    assert read_recipe(tmp_path / "r.toml").calibrate is not None
    assert "line 4" in error_of(tmp_path, "\ufeff" + ENOUGH + "imges = 3\n")


def test_thousands_of_problems_are_told_at_once(tmp_path: Path) -> None:
    keys = "".join(f"k{number} = 1\n" for number in range(20_000))
    assert error_of(tmp_path, ENOUGH + keys).endswith("; and 19997 more")


def test_a_file_that_is_not_there_is_told_by_the_line_before_the_work(
    tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "net.onnx").touch()
    (tmp_path / "r.toml").write_text(ENOUGH)
    done = cli("deploy", tmp_path / "r.toml")
    assert done.returncode == 2
    assert f"r.toml, line 3: [calibrate] data: there is no {tmp_path}/images" in done.stderr


@pytest.mark.parametrize("key", KEYS, ids=named)
def test_every_key_says_what_it_is_for_and_has_an_example_that_it_takes(key: Key) -> None:
    assert key.description.endswith(".")
    assert "\n" not in key.description
    value = tomllib.loads(key.example)[key.name]
    validator().validate(placed(key, value))
    try:
        Recipe.model_validate(placed(key, value))
    except ValidationError as error:  # other keys that have to go with it
        assert all(len(each["loc"]) < len(key.place) for each in error.errors())


@pytest.mark.parametrize("key", KEYS, ids=named)
def test_a_default_is_what_the_model_has(key: Key) -> None:
    value: Any = Recipe.model_validate({"model": "x", "calibrate": {"data": "y"}})
    for name in key.place:
        value = getattr(value, "validation" if name == "validate" else name)
    if key.default is not None:
        assert json.loads(json.dumps(value)) == key.default
    else:
        assert key.required or value is None or value == {}


def placed(key: Key, value: object) -> dict[str, Any]:
    """Return a recipe that sets a key."""
    recipe: dict[str, Any] = {
        "model": "net.onnx", "calibrate": {"data": "images"},
        "targets": ["tensorrt", "openvino", "onnxruntime"],
    }  # fmt: skip
    table = recipe
    for name in key.place[:-1]:
        table = table.setdefault(name, {})
    table[key.name] = value
    return recipe


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(schema())
    return jsonschema.Draft7Validator(schema())


# Values of every type, and of the kinds of words that keys list.
VALUES: list[Any] = [
    0, -1, 300, 0.5, -0.5, 1e9, "text", "", [], ["text"], [1], [0, 0], [1, 2], [0, 1, 2, 3],
    [1, 2, 3, 4, 5], [[1.0, 2.0]], {"a": 1}, {"tensorrt": "fp16"}, {"tensorrt": "int8"},
    {"a": [1, 2]}, "a.py:f", "rgb", "input", "int8", "nchw", "top1",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=named)
def test_the_schema_takes_what_the_recipe_takes(key: Key) -> None:
    check = validator()
    for value in VALUES:
        recipe = placed(key, value)
        try:
            Recipe.model_validate(recipe)
            wrong = False
        except ValidationError as error:
            # What is wrong with the whole, and what needs other keys, is beyond a schema.
            ours = [each for each in error.errors() if len(each["loc"]) >= len(key.place)]
            wrong = any(each["type"] != "value_error" for each in ours)
            if ours and not wrong:
                continue
        lax = wrong is False and not check.is_valid(recipe)
        # pydantic takes 1.0 for 1, and 0 and 1 for false and true, which editors need not.
        if lax and (isinstance(value, int | float) or value in ([[1.0, 2.0]],)):
            continue
        assert check.is_valid(recipe) is not wrong, value


def test_the_schema_is_one_that_editors_of_toml_read() -> None:
    text = json.dumps(schema())
    for newer in ("$ref", "$defs", "prefixItems", "const", "null"):
        assert f'"{newer}"' not in text
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema()["required"] == ["model", "calibrate"]


def test_the_command_prints_the_schema_or_writes_it(cli: Cli, tmp_path: Path) -> None:
    assert json.loads(cli("recipe-schema").stdout) == recipe_schema().to_json() == schema()
    assert json.loads(cli("recipe-schema", "--json").stdout) == schema()
    done = cli("recipe-schema", "-o", tmp_path / "s.json")
    assert done.stdout == f"{tmp_path}/s.json: written\n"
    assert json.loads((tmp_path / "s.json").read_text()) == schema()


def recipes() -> dict[str, str]:
    """Return every recipe in the repository, by where it stands."""
    found = {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in ("models", "benchmarks", "examples", "docs")
        for path in (ROOT / folder).rglob("*.toml")
    }
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")):
        blocks = re.findall(r"```toml[^\n]*\n(.*?)```", page.read_text(), re.S)
        for number, block in enumerate(blocks):
            tops = [key.name for key in recipe_keys().keys.values() if key.keys]
            if any(f"[{name}" in block for name in tops):
                found[f"{page.relative_to(ROOT)}:{number}"] = block
    return found


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_is_shown_is_one(name: str) -> None:
    shown = tomllib.loads(recipes()[name])
    whole = {"model": "net.onnx", "calibrate": {"data": "images"}, **shown}
    whole["calibrate"] = {"data": "images", **whole["calibrate"]}
    validator().validate(whole)
    Recipe.model_validate(whole)


def test_there_are_recipes_to_look_at() -> None:
    assert {"models/lenet5.toml", "benchmarks/fcn_camvid.toml", "README.md:0"} <= set(recipes())
