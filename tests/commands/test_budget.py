"""``onnxgraft quantize`` with a budget, improvements and FP16, as a user meets it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.commands._budget import Budget, read_budget, within_budget
from onnxgraft.commands._mix_engines import MixEngines
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.difference import Difference
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.engine import BuildOptions, load
from onnxgraft.stages.engine.passport import Passport
from onnxgraft.stages.quantize import IMPROVEMENTS, Prepared, calibrate, placement
from onnxgraft.stages.quantize.budget.search import mixed
from onnxgraft.targets.cpu import Cpu, find_cpu
from tests.conftest import Cli, few, model_of, only_ci
from tests.quantize.networks import PAIR, PAIR_SHAPES, infer, weights
from tests.run import textbook

SCORES = PAIR.replace("(float[N, 5, 8, 8] y)", "(float[N, 5] scores)").replace(
    "[third] y = Conv (e, w3, b3)",
    "[third] y = Conv (e, w3, b3) [pool2] p = GlobalAveragePool (y) [flat] scores = Flatten (p)",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier, data to calibrate and to validate on, and ranges."""
    folder = tmp_path_factory.mktemp("classifier")
    model = model_of(SCORES, weights(PAIR_SHAPES))
    model.save(folder / "net.onnx")
    model = Model.load(folder / "net.onnx")
    np.savez(folder / "calib.npz", **random_feeds(model.inputs, 16, seed=5))
    feeds = random_feeds(model.inputs, 60, seed=6)
    labels = infer(model, feeds)["scores"].argmax(axis=1)
    np.savez(folder / "val.npz", **feeds, labels=labels)
    np.savez(folder / "plain.npz", **feeds)
    calibrate(model, open_samples(folder / "calib.npz", model.inputs), "minmax").save(
        folder / "ranges.json"
    )
    return folder


Quantize = Callable[..., Any]


@pytest.fixture
def run(place: Path, tmp_path: Path, cli: Cli) -> Quantize:
    """Return a function that runs ``quantize`` for TensorRT with more options."""

    def quantize(*options: str, target: str = "tensorrt") -> Any:
        return cli(
            "quantize", place / "net.onnx", "--ranges", place / "ranges.json", "--target", target,
            "-o", tmp_path / "out.onnx", *options,
        )  # fmt: skip

    return quantize


def test_a_wide_budget_takes_all_int8(run: Quantize, place: Path, tmp_path: Path) -> None:
    done = run("--budget", "top1=50", "--data", str(place / "val.npz"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["passed"]
    assert told["layers"] == ["first", "second", "third"]
    assert [row["name"] for row in told["search"]["rows"]] == ["FP32", "all INT8"]
    assert {path.name for path in tmp_path.iterdir()} == {"out.onnx", "out.onnx.search"}


@pytest.mark.parametrize(("target", "told"), [("onnxruntime", "measured"), ("tensorrt", "estim")])
def test_the_latency_is_measured_where_the_target_is_here(
    run: Quantize, place: Path, target: str, told: str
) -> None:
    if target == "tensorrt" and Path("/dev/nvidia0").exists():
        pytest.skip("TensorRT's engines run here")
    done = run("--budget", "top1=50", "--data", str(place / "val.npz"), "--json", target=target)
    assert done.returncode == 0, done.stderr
    search = json.loads(done.stdout)["search"]
    assert search["latency"].startswith(told)
    fp32, *others = (row["latency"] for row in search["rows"])
    assert fp32 == 1
    assert all(latency > 0 for latency in others)


def test_a_narrow_budget_finds_a_mix_and_every_float_layer_has_its_reason(
    run: Quantize, place: Path
) -> None:
    whole = json.loads(
        run("--budget", "sqnr=0", "--data", str(place / "plain.npz"), "--json").stdout
    )
    floor = whole["search"]["rows"][1]["metric"] + 3
    done = run("--budget", f"sqnr={floor}", "--data", str(place / "plain.npz"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0 < len(told["float_layers"]) < 3
    assert all("budget" in layer["reason"] for layer in told["float_layers"])
    fp32, int8, mix = told["search"]["rows"]
    assert int8["metric"] < floor <= mix["metric"]
    assert int8["latency"] < mix["latency"] < fp32["latency"] == 1
    assert mix["layers"] == {"fp32": len(told["float_layers"]), "int8": len(told["layers"])}


def test_the_table_is_printed(run: Quantize, place: Path) -> None:
    done = run("--budget", "top1=50", "--data", str(place / "val.npz"), "--explain")
    assert "MACs in INT8" in done.stdout
    assert "all INT8" in done.stdout
    assert "the budget top1=50 is met" in done.stdout
    assert "first or last layer" in done.stdout


def test_an_impossible_budget_keeps_the_best_and_exits_with_one(
    run: Quantize, place: Path, tmp_path: Path
) -> None:
    done = run("--budget", "top1=-5", "--data", str(place / "val.npz"))
    assert done.returncode == 1
    assert "NOT met; this is the best mix that was found" in done.stdout
    assert (tmp_path / "out.onnx").is_file()


def test_a_function_of_ones_own_is_the_metric(run: Quantize, place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def right(output, label):\n    return float(output.argmax() == label)\n"
        "right.direction = 'up'\n"
    )
    done = run(
        "--budget", f"{tmp_path}/mine.py:right=0.5", "--data", str(place / "val.npz"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["search"]["rows"][0]["metric"] == 1.0


def test_more_of_an_error_is_a_loss(run: Quantize, place: Path, tmp_path: Path) -> None:
    # The float graph makes no error, and every other one does.
    (tmp_path / "mine.py").write_text(
        "seen = []\n"
        "def error(output, label):\n"
        "    seen.append(output)\n"
        "    return 0.0 if len(seen) <= 60 else 88.0\n"
        "error.scale, error.direction = 100, 'down'\n"
    )
    done = run(
        "--budget", f"{tmp_path}/mine.py:error=1", "--data", str(place / "val.npz"), "--json"
    )
    assert done.returncode == 1, done.stderr
    rows = json.loads(done.stdout)["search"]["rows"]
    assert rows[0]["metric"] == 0.0
    assert rows[-1]["metric"] == 88.0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def right(output, label):\n    return float('nan')\nright.direction = 'up'\n", "is NaN"),
        ("def right(output, label):\n    return 1 / 0\nright.direction = 'up'\n", "ZeroDivision"),
        ("def right(output, label):\n    return 1.0\n", 'write right.direction = "up" or "down"'),
        ("def rigth(output, label):\n    return 1.0\n", "did you mean rigth?"),
        ("right = = 1\n", "can't be run"),
    ],
    ids=["nan", "raises", "undeclared", "misspelt", "syntax"],
)
def test_a_wrong_function_is_refused(
    body: str, said: str, run: Quantize, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(body)
    done = run("--budget", f"{tmp_path}/mine.py:right=1", "--data", str(place / "val.npz"))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_metric_that_is_nan_for_a_mix_is_out_of_the_budget(
    run: Quantize, place: Path, tmp_path: Path
) -> None:
    # It is a number for the float graph alone, whose scores it knows.
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        f"labels = np.load({str(place / 'val.npz')!r})['labels']\n"
        "first = []\n"
        "def score(output, label):\n"
        "    first.append(output)\n"
        "    same = len(first) <= 60 or np.array_equal(output, first[(len(first) - 1) % 60])\n"
        "    return 1.0 if same else float('nan')\n"
        "score.direction = 'up'\n"
    )
    done = run("--budget", f"{tmp_path}/mine.py:score=1", "--data", str(place / "val.npz"))
    assert done.returncode in (0, 1), done.stderr
    assert "is NaN with 0 layers in float" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "miou"], "write METRIC=DROP"),
        (["--budget", "miou=a"], "write METRIC=DROP"),
        (["--budget", "top1=nan"], "write METRIC=DROP"),
        (["--budget", "top2=1"], "no metric is called 'top2'"),
        (["--budget", "top1=1"], "go together"),
        (["--improve", "all"], "--samples"),
        (["--improve", "magic", "--samples", "calib.npz"], "no method is called 'magic'"),
        (["--float", "bf16"], "does not compute in it here; openvino can"),
        (["--keep-float", "secnd"], "did you mean second?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options_are_refused(
    options: list[str], said: str, run: Quantize, place: Path, tmp_path: Path
) -> None:
    options = [str(place / o) if o.endswith(".npz") else o for o in options]
    done = run(*options)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_metric_that_needs_labels_says_so(run: Quantize, place: Path) -> None:
    done = run("--budget", "top1=1", "--data", str(place / "plain.npz"))
    assert done.returncode == 2
    assert "needs labels" in done.stderr


def test_improvements_are_applied_and_told(run: Quantize, place: Path, tmp_path: Path) -> None:
    done = run("--samples", str(place / "calib.npz"))
    assert done.returncode == 0, done.stderr
    assert "of signal over noise became" in done.stdout
    nothing = ("equalize", "smooth")  # there to do, in a chain of MatMuls
    taken_back = [m for m in IMPROVEMENTS if f"{m} was taken back" in done.stdout]
    stored = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert json.loads(stored["onnxgraft.precision"]) == {
        "target": "tensorrt", "int8": 3, "float": "fp32",
        "improved": [m for m in IMPROVEMENTS if m not in (*nothing, *taken_back)],
    }  # fmt: skip


def test_what_is_not_int8_can_be_fp16_or_noted_as_bf16(run: Quantize, tmp_path: Path) -> None:
    done = run("--keep-float", "second", "--float", "fp16")
    assert done.returncode == 0, done.stderr
    assert "nodes in FP16" in done.stdout
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.INT8 in kinds
    done = run("--keep-float", "second", "--float", "bf16", target="openvino")
    assert done.returncode == 0, done.stderr
    model = Model.load(tmp_path / "out.onnx")
    assert json.loads(model.metadata["onnxgraft.precision"])["float"] == "bf16"


def test_a_graph_with_no_int8_at_all(place: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "quantize", place / "net.onnx", "--no-int8", "--float", "fp16", "--target", "tensorrt",
        "-o", tmp_path / "half.onnx",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "overflow could not be checked" in done.stdout
    assert "QuantizeLinear" not in Model.load(tmp_path / "half.onnx").operators()


def test_a_quantized_graph_is_refused(run: Quantize, place: Path, tmp_path: Path, cli: Cli) -> None:
    run()
    done = cli(
        "quantize", tmp_path / "out.onnx", "--ranges", place / "ranges.json", "--target",
        "tensorrt", "-o", tmp_path / "twice.onnx",
    )  # fmt: skip
    assert done.returncode == 2
    assert "quantized already" in done.stderr


def test_the_table_of_a_target_is_printed_and_read(
    run: Quantize, place: Path, tmp_path: Path, cli: Cli
) -> None:
    shown = cli("quantize", place / "net.onnx", "--target", "tensorrt", "--show-placement")
    (tmp_path / "table.toml").write_text(shown.stdout)
    assert run("--placement", str(tmp_path / "table.toml")).returncode == 0


# The search itself.


def prepared(place: Path) -> tuple[Prepared, Samples]:
    from onnxgraft.data.ranges import Ranges

    model = Model.load(place / "net.onnx")
    ranges = Ranges.load(place / "ranges.json")
    return Prepared(model, ranges), open_samples(place / "plain.npz", model.inputs)


def search(place: Path, **options: Any) -> Any:
    found, samples = prepared(place)
    budget = options.pop("budget", Budget("sqnr", 36.0))
    target = options.pop("target", "tensorrt")
    return within_budget(found, placement(target), budget, samples, **options)


def test_the_same_search_finds_the_same_mix(place: Path) -> None:
    one, other = search(place), search(place)
    assert one[0] == other[0]
    assert one[1].rows == other[1].rows


@pytest.mark.parametrize("resume", [False, True])
def test_a_search_that_was_cut_short_goes_on(
    resume: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxgraft.commands._budget as module

    expected, whole = search(place)
    state = tmp_path / "state"
    tried = 0
    real = module.mixed

    def mixed(*arguments: Any) -> Model:
        nonlocal tried
        tried += 1
        if tried == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "mixed", mixed)
    with pytest.raises(KeyboardInterrupt):
        search(place, state=state)
    assert len(json.loads(state.read_text())["verdicts"]) == 2
    tried = 10
    found, report = search(place, state=state, resume=resume)
    assert (found, report.rows) == (expected, whole.rows)
    # Two verdicts were remembered; all INT8 and the mix are made for the report's own figures.
    assert tried - 10 == whole.trials - 2 + 2


@only_ci
@pytest.mark.filterwarnings("ignore::onnxgraft.errors.EngineWarning")
def test_a_search_with_another_budget_begins_with_what_is_known(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxgraft.commands._budget as module

    def verdicts() -> set[str]:
        return set(json.loads((tmp_path / "state").read_text())["verdicts"])

    def again(drop: float) -> Any:
        budget = Budget("sqnr", drop)
        return search(place, state=tmp_path / "state", budget=budget, target="onnxruntime")

    expected, whole = search(place, budget=Budget("sqnr", 38.0), target="onnxruntime")
    again(36.0)
    known = verdicts()
    monkeypatch.setattr(module, "sensitivities", lambda *given: given[-1])
    measured = Counter[str]()
    real = module._MixMetric.lost_by

    def lost_by(self: Any, engine: Any, what: str) -> float:
        measured[what.partition(" ")[0]] += 1
        return real(self, engine, what)

    monkeypatch.setattr(module._MixMetric, "lost_by", lost_by)
    again(36.0)
    assert not measured
    found, report = again(38.0)
    assert (found, report.measured) == (expected, whole.measured)
    assert [row.metric for row in report.rows] == [row.metric for row in whole.rows]
    assert measured["mix"] == len(verdicts() - known)


def test_a_search_of_another_metric_or_that_is_fresh_takes_nothing_over(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "onnxgraft")
    state = tmp_path / "state"
    search(place, state=state)
    for more in ({"budget": Budget("cosine", 0.001)}, {"fresh": True}):
        search(place, state=state, **more)
        assert "taken over" not in caplog.text
    search(place, state=state, fresh=False)
    assert "taken over: the sensitivity of" in caplog.text


# The engine keeps it.


@pytest.mark.parametrize("target", few(["onnxruntime", "openvino"], 1))
def test_the_loss_that_is_stated_is_the_engines(
    run: Quantize, place: Path, tmp_path: Path, cli: Cli, target: str
) -> None:
    floor = 40.0
    told = run(
        "--budget", f"sqnr={floor}", "--data", str(place / "plain.npz"), "--json", target=target
    )  # fmt: skip
    search = json.loads(told.stdout)["search"]
    assert "engine on" in search["measured"]
    assert cli(
        "build", tmp_path / "out.onnx", "--target", target, "-o", tmp_path / "engine",
    ).returncode == 0  # fmt: skip
    model, difference = Model.load(place / "net.onnx"), Difference()
    with load(tmp_path / "engine") as engine:
        for sample in open_samples(place / "plain.npz", model.inputs):
            right = infer(model, sample.feeds)["scores"]
            difference.add(right, engine.infer(sample.feeds)["scores"])
    assert search["rows"][-1]["engine"] == pytest.approx(difference.sqnr, abs=0.01)
    assert difference.sqnr >= floor


PASSPORT = Passport("openvino", "int8", "", Source("", "onnx", ""), (), (), {})


class Worse:
    """Stands for an engine that answers worse than its graph while two layers are in INT8."""

    def __init__(self, model: Model, noise: float) -> None:
        self.engine = exact(model)
        layers = sum(is_op(node, "Conv") for node in model.graph.nodes)
        pairs = sum(is_op(node, "DequantizeLinear") for node in model.graph.nodes)
        self.noise = noise if layers == 3 and pairs > 4 else 0.0

    def __enter__(self) -> Worse:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def infer(self, feeds: Feeds) -> Outputs:
        found = self.engine.infer(feeds)
        return {name: value + self.noise * np.abs(value).max() for name, value in found.items()}


def test_a_mix_is_built_for_the_device_that_it_ships_for() -> None:
    pytest.importorskip("openvino")
    net = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    feeds = [{"x": np.ones((1, 4), np.float32)}]
    where = BuildOptions(device="HETERO:CPU")
    with MixEngines("openvino", "fp32", None, feeds, where) as engines:
        running, passport = engines.proven(net)
        running.close()
    assert passport.flags.device == "HETERO:CPU"
    assert passport.proven


@only_ci
def test_where_the_engine_loses_more_the_next_mix_is_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def proven(self: MixEngines, model: Model) -> tuple[Worse, Passport]:
        return Worse(model, noise=0.1), PASSPORT

    by_graph = search(place, target="openvino", budget=Budget("sqnr", 20.0))[1]
    assert by_graph.rows[-1].name == "all INT8"
    monkeypatch.setattr(MixEngines, "proven", proven)
    reasons, report = search(place, target="openvino", budget=Budget("sqnr", 20.0))
    assert report.passed
    assert reasons
    assert report.rows[1].engine is not None
    assert report.rows[1].engine < 20 < report.rows[1].metric
    assert report.rows[-1].engine >= 20


@only_ci
def test_where_no_engine_keeps_the_budget_it_is_not_met(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def proven(self: MixEngines, model: Model) -> tuple[Worse, Passport]:
        worse = Worse(model, noise=0.5)
        worse.noise = 0.5
        return worse, PASSPORT

    monkeypatch.setattr(MixEngines, "proven", proven)
    _, report = search(place, target="openvino", budget=Budget("sqnr", 20.0))
    assert not report.passed
    assert report.rows[-1].engine < 20
    assert "NOT met" in str(report)


def test_an_engine_for_another_processor_is_judged_by_its_graph(place: Path) -> None:
    other = Cpu("a car", frozenset({"avx2"}))
    _, report = search(place, target="openvino", cpu=other)
    assert report.rows[-1].engine is None
    assert "exact reference: the engine is for another processor" in report.measured


def test_another_searchs_memory_is_refused(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    search(place, state=state)
    with pytest.raises(InputError, match="belongs to another search"):
        search(place, state=state, resume=True, budget=Budget("cosine", 0.001))
    state.write_text("{")
    with pytest.raises(InputError, match="not the state of a search"):
        search(place, state=state, resume=True)


def test_budgets_are_read() -> None:
    assert read_budget("miou=0.3") == Budget("miou", 0.3)
    assert read_budget("a=b.py:f=1e-3") == Budget("a=b.py:f", 1e-3)


# What decides is the graph, not what a runtime makes of it.


def encoder() -> Model:
    """Return four layers of MatMuls, as a transformer has them."""
    rng = np.random.default_rng(0)
    steps = " ".join(f"a{n} = MatMul(r{n}, w{n})  r{n + 1} = Relu(a{n})" for n in range(4))
    return model_of(
        f"net (float[N, 8, 64] x) => (float[N, 8, 64] y) {{ r0 = Relu(x) {steps}"
        " y = MatMul(r4, w4) }",
        {f"w{n}": rng.standard_normal((64, 64)).astype(np.float32) / 6 for n in range(5)},
    )


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_budget_s_loss_is_that_of_the_graph_as_it_is_written(target: str, tmp_path: Path) -> None:
    model = encoder()
    feeds = random_feeds(model.inputs, 24, seed=3)
    np.savez(tmp_path / "x.npz", **feeds)
    samples = open_samples(tmp_path / "x.npz", model.inputs)
    found = Prepared(model, calibrate(model, samples, "minmax"))
    table = placement(target, find_cpu("avx512-vnni"))
    report = within_budget(
        found, table, Budget("sqnr", 0.0), samples, cpu=Cpu("a car", frozenset()),
    )[1]  # fmt: skip
    graph = mixed(found, table, ())
    difference = Difference()
    for sample in samples:
        right = infer(model, sample.feeds)["y"]
        by_hand = textbook.run(graph.to_onnx(), sample.feeds)["y"]
        difference.add(right, by_hand.astype(np.float32))
    assert report.rows[1].metric == pytest.approx(difference.sqnr, abs=0.2)
