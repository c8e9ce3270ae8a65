"""``--trust=NAME`` runs what is called so, and nothing else that a file brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert import Original
from tests.conftest import Cli
from tests.hostile import keras_archive

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network of one Lambda layer, ``twice``."""
    import keras

    twice = keras.layers.Lambda(lambda t: t * 2, name="twice")
    path = tmp_path_factory.mktemp("trust") / "twice.keras"
    keras.Sequential([keras.Input((8,)), twice]).save(path)
    return path


def entry(kind: str, module: str = "keras.layers", **config: object) -> dict[str, object]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def written(folder: Path, *entries: dict[str, object]) -> Path:
    path = folder / "net.keras"
    path.write_bytes(keras_archive(list(entries)))
    return path


LAMBDA = entry("Lambda", name="a")
CUSTOM = entry("Backdoor", "evil.code", name="b")
# A lambda as an argument of a layer that is Keras' own.
HIDDEN = entry("Dense", name="c", activation=entry("__lambda__", "builtins", value="x"))
KERAS_2 = entry("ResidualWrapper", name="d", residual_fn_type="lambda", residual_fn=["x"])


@pytest.mark.parametrize("name", ["twice", "Lambda"])
def test_a_layer_runs_that_is_trusted_by_its_name_or_class(doubling: Path, name: str) -> None:
    model, _ = Original.of(doubling, trust=[name]).lower()
    assert model.operators() == {"Mul": 1}


@pytest.mark.parametrize("trust", [False, (), ["thrice"], "twic", ["Dense"]])
def test_a_layer_that_is_not_named_is_refused_with_its_name(doubling: Path, trust: Trust) -> None:
    with pytest.raises(InputError, match=r"Lambda layer 'twice' .* --trust=twice nothing else"):
        Original.of(doubling, trust=trust).lower()


def test_all_that_would_run_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, KERAS_2, HIDDEN, CUSTOM, LAMBDA)
    with pytest.raises(InputError) as refused:
        Original.of(path).lower()
    for words in ("Lambda layer 'a'", "Backdoor 'b'", "__lambda__ 'c'", "ResidualWrapper 'd'"):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (CUSTOM, "Backdoor 'b' is a custom object of evil.code"),
        (HIDDEN, "__lambda__ layer 'c' holds Python code"),
        (KERAS_2, "ResidualWrapper 'd' holds Python code"),
    ],
    ids=["custom", "hidden", "keras_2"],
)
def test_who_trusts_one_does_not_trust_the_other(
    other: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, LAMBDA, other)
    with pytest.raises(InputError) as refused:
        Original.of(path, trust=["a", "Lambda"]).lower()
    assert words in str(refused.value)
    assert "'a'" not in str(refused.value)


def test_a_name_that_a_shell_would_run_is_quoted(tmp_path: Path) -> None:
    path = written(tmp_path, entry("Lambda", name="a; rm -r x"))
    with pytest.raises(InputError, match="--trust='a; rm -r x' nothing else"):
        Original.of(path).lower()


def test_without_trust_keras_is_told_to_refuse_too(
    doubling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Should the configuration be read otherwise by Keras than by us.
    monkeypatch.setattr(
        "onnxgraft.stages.convert.tensorflow.reading.functions._objects", lambda value: iter(())
    )
    with pytest.raises(InputError, match=r"Keras can't load the model: .*unsafe"):
        Original.of(doubling, trust=["another"]).lower()


@pytest.mark.parametrize(
    "words", [["--trust", "{}"], ["{}", "--trust=twice"]], ids=["before_a_file", "with_a_name"]
)
def test_the_option_alone_takes_no_word(doubling: Path, words: list[str], cli: Cli) -> None:
    done = cli("inspect", *(word.format(doubling) for word in words))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("word", ["--trust=thrice", "--trust="])
def test_the_option_names_what_is_there(doubling: Path, word: str, cli: Cli) -> None:
    done = cli("inspect", doubling, word)
    assert done.returncode == 2
    assert "--trust" in done.stderr


def test_a_recipe_trusts_nothing_but_a_command_line_does(doubling: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    text = f'model = "{doubling}"\n[calibrate]\ndata = "d"\n[validate]\ndata = "d"\n'
    recipe.write_text(text)
    original = commands.read_recipe(recipe, trust=["twice"]).original
    assert original.lower()[0].operators() == {"Mul": 1}
    recipe.write_text(f"trust = true\n{text}")
    with pytest.raises(InputError, match="trust: there is no such key"):
        commands.read_recipe(recipe)
