"""Engines of onnxruntime with a provider, where one is installed; see tests/run/test_providers.py.

With onnxruntime-openvino, or with onnxruntime-qnn whose simulator runs on any x86-64, on the path.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnxgraft
from onnxgraft.errors import EngineWarning, InputError, NotSupportedError
from onnxgraft.files import write_json
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.providers import running
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.passport import (
    Flags,
    Passport,
    passport_json,
    passport_path,
    pinned,
    read_passport,
)
from onnxgraft.targets.devices import PROVIDERS, Provider
from tests.conftest import Cli, model_of, outputs_of

AVAILABLE = ort.get_available_providers()


def is_here(provider: Provider) -> bool:
    try:
        return running(ort, provider.name) is not None
    except InputError:
        return False


OTHERS = [provider.name for provider in PROVIDERS[1:] if is_here(provider)]


@pytest.fixture(params=OTHERS or [None])
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a provider that is installed beside the CPU's, or skip."""
    if request.param is None:
        pytest.skip(f"this onnxruntime has no provider but {', '.join(AVAILABLE)}")
    return str(request.param)


@pytest.fixture
def net() -> Model:
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 1, 1] e) {"
        " [one] c = Conv<pads=[1,1,1,1]>(x, w)  [two] y = Relu(c)"
        " [three] p = GlobalAveragePool(y)  [four] e = Erf(p) }",
        {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5},
    )


def built(net: Model, path: Path, name: str) -> Passport:
    return engine.build(
        net, path, "onnxruntime", options=BuildOptions(provider=name), work={"one": 1.0}
    )


def test_an_engine_is_proven_with_its_provider_and_gives_what_the_graph_says(
    net: Model, tmp_path: Path, name: str
) -> None:
    passport = built(net, tmp_path / "e", name)
    assert passport.proven
    assert passport.flags.provider == name
    assert passport.name == f"onnxruntime {name} fp32"
    assert read_passport(tmp_path / "e") == passport
    with engine.load(tmp_path / "e") as found:
        answers = found.infer(random_feeds(found.inputs, 1))
        for output, expected in outputs_of(net, 1).items():
            np.testing.assert_allclose(answers[output], expected, rtol=0, atol=1e-4)
        into = {output: np.empty_like(value) for output, value in answers.items()}
        found.infer_into(random_feeds(found.inputs, 1), into)
        for output, value in answers.items():
            np.testing.assert_array_equal(into[output], value)
        with pytest.raises(NotSupportedError, match="does not tell what"):
            engine.layers(found)
    with onnxgraft.ServedEngine(tmp_path / "e") as served:
        assert served.infer(random_feeds(served.inputs, 1)).keys() == answers.keys()


def test_what_stays_on_the_cpu_is_told(net: Model, tmp_path: Path, name: str) -> None:
    passport = built(net, tmp_path / "e", name)
    if not passport.divided:
        pytest.skip(f"{name} takes all nodes")
    parts = {share.where: share for share in passport.divided}
    assert parts[name].multiplications == 1.0
    assert parts["cpu"].operators == {"Erf": 1}
    assert parts["cpu"].multiplications == 0.0
    # Where more stays on the CPU than there did, that is told.
    file = passport_path(tmp_path / "e")
    less = (dataclasses.replace(parts[name]), dataclasses.replace(parts["cpu"], nodes=0))
    write_json(file, passport_json(dataclasses.replace(passport, divided=less)))
    with (
        pytest.warns(EngineWarning, match=f"{name} leaves 1 node to others here, and 0 where"),
        engine.load(tmp_path / "e"),
    ):
        pass


def test_bench_times_it_in_a_process_of_its_own(net: Model, tmp_path: Path, name: str) -> None:
    built(net, tmp_path / "e", name)
    (row,) = onnxgraft.bench([tmp_path / "e"], batch="1", rounds=1, runs=1).rows
    assert row.median_ms > 0


def test_an_engine_for_a_provider_that_is_not_here_is_not_loaded(
    net: Model, tmp_path: Path
) -> None:
    absent = next((p for p in PROVIDERS[1:] if not is_here(p) and not p.plugin), None)
    if absent is None:
        pytest.skip("all providers are here")
    with pytest.raises(InputError, match=f"--provider {absent.name}: .* has no {absent.title}"):
        engine.build(net, tmp_path / "e", "onnxruntime", options=BuildOptions(provider=absent.name))
    with pytest.raises(InputError, match=f"--provider {absent.name}"):
        engine.check(net, "onnxruntime", BuildOptions(provider=absent.name))
    assert not list(tmp_path.iterdir())
    passport = engine.build(net, tmp_path / "e", "onnxruntime", prove=False)
    told = dataclasses.replace(passport, flags=Flags(provider=absent.name))
    write_json(passport_path(tmp_path / "e"), passport_json(told))
    with pytest.raises(InputError) as refused:
        engine.load(tmp_path / "e")
    assert str(refused.value).startswith(f"{tmp_path / 'e'}: was built for {absent.name}. ")
    assert f"pip install {absent.package}" in str(refused.value)


def test_the_cpus_own_provider_gives_the_engine_that_is_built_without_a_word(
    net: Model, tmp_path: Path
) -> None:
    engine.build(net, tmp_path / "a", "onnxruntime", prove=False)
    options = BuildOptions(provider="cpu")
    engine.build(net, tmp_path / "b", "onnxruntime", options=options, prove=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_package_that_has_the_provider_is_named(net: Model, tmp_path: Path) -> None:
    passport = engine.build(net, tmp_path / "e", "onnxruntime", prove=False)
    for provider, versions, told in (
        ("", {"onnxruntime": "1.31.1"}, "onnxruntime==1.31.1"),
        ("cuda:1", {"onnxruntime": "1.31.1"}, "onnxruntime-gpu==1.31.1"),
        ("openvino", {"onnxruntime": "1.24.1"}, "onnxruntime-openvino==1.24.1"),
        (
            "qnn", {"onnxruntime": "1.31.1", "onnxruntime-qnn": "2.7.0"},
            "onnxruntime==1.31.1 onnxruntime-qnn==2.7.0",
        ),
    ):  # fmt: skip
        changed = dataclasses.replace(passport, versions=versions, flags=Flags(provider=provider))
        assert pinned(changed, "onnxruntime") == told


def test_a_passport_with_an_unknown_provider_is_damaged(net: Model, tmp_path: Path) -> None:
    passport = engine.build(net, tmp_path / "e", "onnxruntime", prove=False)
    told = dataclasses.replace(passport, flags=Flags(provider="abacus"))
    write_json(passport_path(tmp_path / "e"), passport_json(told))
    with pytest.raises(InputError, match="not a passport that onnxgraft wrote"):
        read_passport(tmp_path / "e")


def test_layers_of_a_provider_are_refused_before_anything_is_built(
    net: Model, tmp_path: Path, cli: Cli
) -> None:
    net.save(tmp_path / "net.onnx")
    done = cli(
        "build", tmp_path / "net.onnx", "-o", tmp_path / "e", "--target", "onnxruntime",
        "--provider", "cuda", "--layers", tmp_path / "layers.json",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--layers: onnxruntime does not tell" in " ".join(done.stderr.split())
