"""The views of a report: HTML, JUnit, JSON and the terminal."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from onnxgraft.stages.validate import render, write_html, write_junit
from onnxgraft.stages.validate.metrics import Curve
from onnxgraft.stages.validate.report import (
    BoxRow,
    CandidateRow,
    EngineRow,
    GalleryRow,
    HostRow,
    LatencyRow,
    LayerRow,
    LayersTimedRow,
    LayerTimeRow,
    OutputRow,
    RangeRow,
    Report,
    StageRow,
)

EVIL = "<script>alert('x')</script>"


def output(name: str = "prob:0", sqnr: float = 41.25) -> OutputRow:
    """Return what one output of a candidate measured."""
    return OutputRow(name, 0.0125, 0.0034, 0.0175, 0.05, 0.004, 0.998765, sqnr, 45.5, 0.9925, 0)


def report_of(title: str = "fcn8s_camvid.pb") -> Report:
    """Return a report as a deployment of a segmentation network fills it."""
    metrics = {"class mIoU": 61.254, "category mIoU": 78.119}
    per_class = {"sky": 91.5, "building": 75.25}
    names = ["openvino fp32", "onnxruntime fp32", "openvino int8", "onnxruntime int8"]
    return Report(
        title=title,
        source=f"models/{title}",
        samples=233,
        stages=[
            StageRow("converted", None, 412, 1.5e-6, 2.1e-7, 1e-4, True, 3.21),
            StageRow("cleaned", 412, 97, 1.7e-6, 2.4e-7, 1e-4, True, 0.87),
            StageRow("int8 graph for onnxruntime", 97, 1201, 0.31, 0.044, None, True, 12.5),
            StageRow("int8 graph for openvino", 97, 1003, 0.29, 0.041, None, True, 11.5),
        ],
        candidates=[
            CandidateRow("tensorflow", [], metrics, per_class, True, "the original"),
            *(
                CandidateRow(
                    name, [output()], {k: v - 0.3 for k, v in metrics.items()}, per_class,
                    name != "onnxruntime int8", "class mIoU -0.30 points, -1.00 allowed",
                )
                for name in names
            ),
        ],
        engines=[
            EngineRow(
                "openvino engine", "Some CPU (avx2)", "pairs are added in 16 bits", True,
                ["prob: 47.1 dB of the exact answer"], ["'conv7': weights of seven bits"],
            ),
            EngineRow("tensorrt engine", "", "", None),
        ],
        latency=[
            LatencyRow(name, batch, 1234.56 * batch / (i + 1), 1300.1, 1400.2, 50)
            for batch in (1, 16)
            for i, name in enumerate(["tensorflow", *names])
        ],
        operators_before={"Conv": 16, "Transpose": 40, "Identity": 100},
        operators_after={"Conv": 16, "Relu": 15},
        float_layers=[("onnxruntime", "upscore/conv2d_transpose", "no INT8 ConvTranspose")],
        notes=["is_training was frozen to False for inference"],
        artifacts={"model": "out/model.onnx"},
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(report: Report, folder: Path) -> str:
    """Return the HTML of a report."""
    write_html(report, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


# What nobody may miss.


def test_a_warning_is_seen_in_every_view(tmp_path: Path) -> None:
    report = report_of()
    row = report.candidates[3]
    row.warnings.append("the classes of the two overlap by 40.0 % (mIoU)")
    row.agreement, row.measure = 0.4, "mIoU"
    report.candidates = report.candidates[:4]
    assert report.passed
    page = page_of(report, tmp_path)
    text = " ".join(Reader(page).text.split())
    assert "fcn8s_camvid.pb passed with warnings" in text
    assert "Warning openvino int8: the classes of the two overlap by 40.0 %" in text
    assert page.index('class="warning"') < page.index("<table")
    assert "40.00 % mIoU" in text
    write_junit(report, tmp_path / "junit.xml")
    assert "WARNING: the classes of the two" in (tmp_path / "junit.xml").read_text()
    document = report.to_json()
    assert document["warnings"] == [f"openvino int8: {row.warnings[0]}"]
    assert document["candidates"][3]["agreement"] == 0.4
    console = Console(file=io.StringIO(), width=80)
    render(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "pass, WARNING" in shown
    assert shown.rindex("WARNING: openvino int8") > shown.rindex("note:")


# HTML.


def test_html_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(report_of(), tmp_path)
    reader = Reader(page)
    assert reader.open == []
    assert not {"link", "iframe"} & set(reader.tags)
    assert " src=" not in page.replace(' src="data:', "")
    assert not re.search(r"https?:|url\(|@import", page)


def test_html_contains_the_numbers(tmp_path: Path) -> None:
    text = " ".join(Reader(page_of(report_of(), tmp_path)).text.split())
    for number in (
        "1.50e-06", "2.10e-07", "412", "97",  # a stage
        "61.25", "78.12", "60.95", "77.82", "233 samples",  # metrics
        "1.25e-02", "3.40e-03", "1.75e-02", "0.998765", "41.2", "99.25 %",  # an output
        "91.50", "75.25",  # classes
        "1234.56", "617.28", "1300.10", "1400.20", "2.00x", "0.8",  # latency
        "Transpose", "upscore/conv2d_transpose", "no INT8 ConvTranspose",
        "is_training was frozen to False for inference", "out/model.onnx",
    ):  # fmt: skip
        assert number in text, number


@pytest.mark.parametrize("failing", [False, True], ids=["passed", "failed"])
def test_html_tells_the_verdict(tmp_path: Path, failing: bool) -> None:
    report = report_of()
    report.candidates[-1].passed = not failing
    text = " ".join(Reader(page_of(report, tmp_path)).text.split())
    assert f"fcn8s_camvid.pb {'failed' if failing else 'passed'}" in text
    assert ("FAIL" in text) is failing


def evil_report() -> Report:
    """Return a report in which every name is a script."""
    report = report_of(EVIL)
    report.source = EVIL
    report.stages[0].stage = EVIL
    for row in report.candidates:
        row.name = row.verdict = EVIL
        row.metrics = {EVIL: 1.0}
        row.per_class = {EVIL: 1.0}
        for measured in row.outputs:
            measured.output = EVIL
    report.latency[0].name = EVIL
    report.operators_before = report.operators_after = {EVIL: 1}
    report.layers = [LayerRow(EVIL, EVIL, EVIL, EVIL, 1e-7, 120.0, 90.0, EVIL, EVIL)]
    report.layer_times = [LayerTimeRow(EVIL, EVIL, EVIL, EVIL, EVIL, "int8", 1.0)]
    report.layers_timed = [LayersTimedRow(EVIL, 1, 1.0, 1.0, 0.0, [EVIL])]
    report.ranges = [RangeRow(EVIL, {EVIL: (-1.0, 1.0)}, -2.0, 2.0, [1.0, 5.0], {EVIL: EVIL})]
    report.gallery = [
        GalleryRow(EVIL, EVIL, 0.1, EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, 1.0, 2.0, [EVIL]),
        GalleryRow(
            EVIL,
            EVIL,
            0.1,
            EVIL,
            "",
            "",
            "",
            classes=[f"{EVIL}'\""],
            boxes={
                side: [BoxRow(EVIL, 0.5, [0.1, 0.1, 0.2, 0.2])]
                for side in ("truth", "original", "candidate")
            },
        ),
    ]
    report.candidates[0].confusion = report.candidates[1].confusion = {EVIL: [1, 1], "b": [3, 1]}
    report.candidates[1].curves = [Curve("precision", EVIL, [(0.0, 1.0)])]
    report.command = report.recipe_text = EVIL
    report.hashes = report.machine = {EVIL: EVIL}
    report.seeds = {EVIL: 1}
    report.float_layers = [(EVIL, EVIL, EVIL)]
    report.recipe = {EVIL: {EVIL: [EVIL]}}
    report.notes = [EVIL]
    report.artifacts = {EVIL: EVIL}
    report.versions = {EVIL: EVIL}
    report.missed = [EVIL]
    report.candidates[1].warnings = [EVIL]
    return report


def test_both_views_say_on_which_processor_an_engine_is_proven(tmp_path: Path) -> None:
    given = report_of()
    given.engines.append(EngineRow("other engine", "Some CPU (avx2)", "", False))
    write_html(given, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("Some CPU (avx2)", "pairs are added in 16 bits", "47.1 dB", "weights of seven"):
        assert text in page
    console = Console(file=io.StringIO(), width=80)
    render(given, console)
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "openvino engine: proven on Some CPU (avx2): pairs are added in 16 bits" in printed
    assert "tensorrt engine: not run when it was built" in printed
    assert "other engine: NOT PROVEN on Some CPU (avx2)" in printed


def test_html_shows_a_graphs_precision_beside_an_engines_other_one(tmp_path: Path) -> None:
    given = report_of()
    given.layers = [
        LayerRow("t", "up:0", "ConvTranspose", "fp32", 0.1, 40.0, 39.0, told=True, graph="int8")
    ]
    given.layer_times = [LayerTimeRow("e int8", "up:0", "up", "Conv", "fp32", "int8", 1.5)]
    given.layers_timed = [LayersTimedRow("e int8", 1, 2.0, 1.5, 0.0, ["1 layer ran in float"])]
    page = page_of(given, tmp_path)
    assert page.count("(graph int8)") == 2
    assert "1 layer ran in float" in page


def answers_of(report: Report, folder: Path) -> str:
    """Return what stands at the top of the page, without its tags."""
    page = page_of(report, folder)
    top = page[page.index('id="answers"') : page.index('<h2 id="stages-section">')]
    return " ".join(re.sub("<[^>]*>", " ", top).split())


def test_the_top_answers_for_each_engine(tmp_path: Path) -> None:
    given = report_of()
    original, engine_ = given.candidates[0], given.candidates[-1]
    for row in given.candidates:
        row.metrics = {"miou": 70.0 if row is original else 69.5}
    engine_.passed, given.machine = True, {"cores": "6"}
    given.engines = [EngineRow("engine", "Some CPU", "", True, size=10**6, candidate=engine_.name)]
    given.latency = [
        LatencyRow(original.name, 1, 8.0, 8, 8, 1),
        LatencyRow(engine_.name, 1, 2.0, 2, 2, 1, first_ms=120.0, busy=0.5),
    ]
    told = answers_of(given, tmp_path)
    for answer in (
        f"{engine_.name} pass class mIoU -0.30 points, -1.00 allowed", "miou 69.50 (-0.50)",
        f"speed 4.00x as fast as {original.name}, 2.00 ms", "first answer after 120 ms",
        "size 1.0 MB", "on Some CPU threads all 6 cores",
        "busy 0.5 tasks a core when it was timed",
    ):  # fmt: skip
        assert answer in told


@pytest.mark.parametrize(("busy", "told"), [(1.4, False), (1.6, True)], ids=["free", "busy"])
def test_the_top_says_whether_other_work_slowed_the_timing(
    busy: float, told: bool, tmp_path: Path
) -> None:
    given = report_of()
    for row in given.latency:
        row.busy = busy
    assert ("other work may have slowed it" in answers_of(given, tmp_path)) is told


def test_the_top_says_on_which_gpu_and_with_how_many_threads(tmp_path: Path) -> None:
    given = report_of()
    given.engines = [
        EngineRow("a", "", "", True, candidate="openvino fp32", gpu="NVIDIA H100"),
        EngineRow("b", "Some CPU", "", True, candidate="openvino int8", threads=3),
    ]
    told = answers_of(given, tmp_path)
    assert "on NVIDIA H100 busy" in told
    assert "on Some CPU threads 3" in told


def test_the_top_says_what_to_look_at_first(tmp_path: Path) -> None:
    given = report_of()
    row = given.candidates[-1]
    row.passed = False
    given.engines = []
    for told, shown in (
        ("20 dB are wanted", "20 dB are wanted"),
        ("2e-05 is allowed in fp32", "off by 1.0e-01 of its range, 2e-05 is allowed in fp32"),
    ):
        given.layers = [LayerRow("t", "conv7:0", "Conv", "int8", 0.1, 9.0, 9.0, told, row.name)]
        assert f"Look first at conv7:0: {shown}" in answers_of(given, tmp_path)
    given.engines.append(EngineRow("engine", "", "", False, candidate=row.name))
    told = "Look first at the engine: it does not compute what its graph says"
    assert told in answers_of(given, tmp_path)
    assert 'href="#engines-section">the engine: it' in page_of(given, tmp_path)


def test_html_escapes_whatever_comes_from_a_model(tmp_path: Path) -> None:
    page = page_of(evil_report(), tmp_path)
    assert "&lt;script&gt;alert(" in page
    # There are the page's own alone, in which nothing is filled in.
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert scripts == re.findall(r"<script>(.*?)</script>", page_of(report_of(), tmp_path), re.S)
    assert Reader(page).tags.count("script") == len(scripts) == 2


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"openvino": (-1, 1), "onnxruntime": (-1, 1)}, "kept -1 to 1 of -2 to 2"),
        (
            {"openvino": (-1, 1), "tensorrt": (-1, 1), "onnxruntime": (-2, 1.5)},
            "kept -1 to 1 for openvino and tensorrt, -2 to 1.5 for onnxruntime of -2 to 2",
        ),
    ],
    ids=["the_same", "others"],
)
def test_html_tells_what_each_target_keeps(
    kept: dict[str, tuple[float, float]], said: str, tmp_path: Path
) -> None:
    report = report_of()
    report.ranges = [RangeRow("relu1", kept, -2.0, 2.0, [1.0, 5.0])]
    reader = Reader(page_of(report, tmp_path))
    assert said in " ".join(" ".join(reader.text.split()).split())


def test_html_tells_which_method_chose_a_range_and_why(tmp_path: Path) -> None:
    report = report_of()
    kept = {"openvino": (-1.0, 1.0), "tensorrt": (-1.0, 1.0)}
    chosen = {"openvino": "mse: least error in <conv2>", "tensorrt": "percentile"}
    report.ranges = [RangeRow("relu1", kept, -2.0, 2.0, [1.0, 5.0], chosen)]
    text = " ".join(" ".join(Reader(page_of(report, tmp_path)).text.split()).split())
    assert "mse: least error in <conv2> for openvino" in text
    assert "percentile for tensorrt" in text


def test_html_of_a_report_with_nothing_in_it(tmp_path: Path) -> None:
    reader = Reader(page_of(Report("empty.pb", "empty.pb"), tmp_path))
    assert "empty.pb passed" in " ".join(reader.text.split())
    assert reader.open == []


def test_html_of_an_exact_candidate_has_an_infinite_ratio(tmp_path: Path) -> None:
    report = report_of()
    report.candidates[1].outputs = [output(sqnr=math.inf)]
    assert "<td>inf</td>" in page_of(report, tmp_path)


def test_html_of_a_class_that_one_candidate_lacks(tmp_path: Path) -> None:
    report = report_of()
    report.candidates[2].per_class = {"sky": 12.34}
    assert "12.34" in page_of(report, tmp_path)


def test_html_shows_a_class_that_only_a_candidate_answers(tmp_path: Path) -> None:
    # Neither the labels nor the original have it, but a candidate wrongly answers it.
    report = report_of()
    report.candidates[2].per_class = {"sky": 12.34, "bicyclist": 0.0}
    assert "bicyclist" in page_of(report, tmp_path)


# JUnit.


def suite_of(report: Report, folder: Path) -> ElementTree.Element:
    """Return the parsed JUnit of a report."""
    write_junit(report, folder / "junit.xml")
    return ElementTree.parse(folder / "junit.xml").getroot()


def test_junit_has_a_case_for_each_stage_and_candidate(tmp_path: Path) -> None:
    suite = suite_of(report_of(), tmp_path)
    assert suite.tag == "testsuite"
    assert suite.get("name") == "fcn8s_camvid.pb"
    assert suite.get("tests") == "9"
    assert suite.get("failures") == "1"
    cases = suite.findall("testcase")
    assert [case.get("classname") for case in cases] == (
        ["onnxgraft.stage"] * 4 + ["onnxgraft.candidate"] * 5
    )
    assert cases[1].get("name") == "cleaned"
    assert cases[1].get("time") == "0.870"


def test_junit_tells_why_a_case_failed(tmp_path: Path) -> None:
    report = report_of()
    report.stages[1].passed = False
    cases = suite_of(report, tmp_path).findall("testcase")
    failed = {case.get("name"): case.find("failure") for case in cases}
    messages = {n: f.get("message") for n, f in failed.items() if f is not None}
    assert messages == {
        "cleaned": "2.40e-07 of the range",
        "onnxruntime int8": "class mIoU -0.30 points, -1.00 allowed",
    }


def test_junit_keeps_any_name_as_text(tmp_path: Path) -> None:
    suite = suite_of(evil_report(), tmp_path)
    assert suite.get("name") == EVIL
    assert "<script" not in (tmp_path / "junit.xml").read_text()


# What a file may be called, but XML and UTF-8 can't hold: an escape character, and the surrogate
# that stands for a byte of a name that is no UTF-8.
AWKWARD = ["net\x1b.pb", "net\udcff.pb"]


@pytest.mark.parametrize("name", AWKWARD, ids=["escape", "no_utf8"])
def test_html_is_written_whatever_the_name(tmp_path: Path, name: str) -> None:
    assert "fcn" not in page_of(report_of(name), tmp_path)


@pytest.mark.parametrize("name", AWKWARD, ids=["escape", "no_utf8"])
def test_junit_is_xml_whatever_the_name(tmp_path: Path, name: str) -> None:
    report = report_of(name)
    report.stages[0].stage = name
    assert suite_of(report, tmp_path).get("tests") == "9"


# JSON.


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    report = report_of()
    report.candidates[1].outputs = [output(sqnr=math.inf)]
    report.stages[0].relative = math.inf
    report.candidates[2].metrics["class mIoU"] = math.nan
    report.save(tmp_path / "report.json")

    def refuse(name: str) -> float:
        raise AssertionError(name)

    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert found["candidates"][1]["outputs"][0]["sqnr"] is None
    assert found["stages"][0]["relative"] is None
    assert found["candidates"][2]["metrics"]["class mIoU"] is None
    assert found["candidates"][2]["outputs"][0]["sqnr"] == 41.25


@pytest.mark.parametrize(
    ("part", "passed"), [("none", True), ("stage", False), ("candidate", False)]
)
def test_a_report_passes_if_all_of_it_does(part: str, passed: bool) -> None:
    report = report_of()
    report.candidates[-1].passed = part != "candidate"
    report.stages[-1].passed = part != "stage"
    assert report.passed is passed
    assert report.to_json()["passed"] is passed


def test_json_tells_versions_and_the_time(tmp_path: Path) -> None:
    found = report_of().to_json()
    assert {"python", "numpy", "onnx", "onnxruntime", "onnxgraft"} <= set(found["versions"])
    assert found["created"].endswith("+00:00")


# The terminal.


def screen_of(report: Report, width: int = 80) -> list[str]:
    """Return the lines that a terminal shows."""
    stream = io.StringIO()
    render(report, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue().splitlines()


def test_a_terminal_of_80_columns_shows_everything() -> None:
    lines = screen_of(report_of())
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    for shown in (
        "int8 graph for onnxruntime", "412 -> 97", "1.7e-06", "see below",
        "class mIoU", "category mIoU", "onnxruntime int8", "60.95", "77.82", "0.998765", "99.25 %",
        "FAIL", "1234.56", "617.28", "speed-up", "2.00x", "233 samples",
        "is_training was frozen to False for inference",
    ):  # fmt: skip
        assert shown in text, shown


def test_long_sentences_are_wrapped_and_not_cut() -> None:
    report = report_of()
    report.notes = [" ".join(f"word{i}" for i in range(60))]
    lines = screen_of(report)
    assert max(map(len, lines)) <= 80
    assert all(f"word{i}" in "\n".join(lines) for i in range(60))


def test_names_in_square_brackets_are_shown_as_they_are() -> None:
    report = report_of("net[v2].pb")
    report.notes = ["Print[0] was dropped", "give its shape with x:0[1,224,224,3]", "[red] stays"]
    report.float_layers = [("tensorrt", "(Unnamed Layer* 22) [Constant]", "requested")]
    report.stages[0].stage = "graph [bold]"
    report.candidates[1].name = "engine [int8]"
    report.latency[0].name = "engine [fp32]"
    text = "\n".join(screen_of(report))
    for name in (
        "net[v2].pb", "Print[0] was dropped", "x:0[1,224,224,3]", "[red] stays",
        "(Unnamed Layer* 22) [Constant]", "graph [bold]", "engine [int8]", "engine [fp32]",
    ):  # fmt: skip
        assert name in text, name


def test_control_codes_of_a_strangers_names_do_not_reach_the_terminal() -> None:
    report = report_of("net\x1b[2J.pb")
    report.notes = report.missed = ["first difference at a\x1b[2Jb"]
    report.float_layers = [("tensorrt", "\x1b]0;title\x07", "requested")]
    for row in report.candidates:
        row.name = row.verdict = "\x1b[8mhidden"
        row.per_class = {"\x1b[31msky": 1.0}
        for found in row.outputs:
            found.output = "\x9b2J"
    report.stages[0].stage = report.latency[0].name = "\x1b[1A"
    text = "\n".join(screen_of(report, 200))
    assert "\\x1b[2J" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_values_that_are_left_out_are_told() -> None:
    report = report_of()
    report.candidates[1].outputs[0].nonfinite = 12345
    assert "  12345 values are NaN or infinite, and left out here" in screen_of(report)


def test_every_candidate_says_what_it_was_held_against() -> None:
    report = report_of()
    lines = screen_of(report)
    verdicts = [line for line in lines if line.endswith("class mIoU -0.30 points, -1.00 allowed")]
    assert [line.split(":")[0] for line in verdicts] == [row.name for row in report.candidates[1:]]


def test_a_name_that_looks_like_a_closing_tag_does_not_break_the_report() -> None:
    report = report_of()
    report.notes = ["[/red]"]
    assert "[/red]" in "\n".join(screen_of(report))


def test_a_report_of_outputs_without_a_metric() -> None:
    report = report_of()
    for row in report.candidates:
        row.metrics = {}
    lines = screen_of(report)
    assert max(map(len, lines)) <= 80
    assert "cosine" in "\n".join(lines)


def test_an_empty_report_prints_nothing() -> None:
    assert screen_of(Report("empty.pb", "empty.pb")) == []


def test_a_host_that_did_not_answer_is_seen_in_every_view(tmp_path: Path) -> None:
    report = report_of()
    report.candidates = report.candidates[:4]
    report.hosts = [
        HostRow(EVIL, True, "", "chip", 2, results=["openvino fp32"]),
        HostRow("gone", False, EVIL),
    ]
    assert not report.passed and report.held and report.exit_status == 4
    page = page_of(report, tmp_path)
    assert EVIL not in page
    text = " ".join(Reader(page).text.split())
    assert f"gone did not answer: {EVIL}" in text
    assert f"on{EVIL}: chip" in text  # and not this machine's
    assert "all 2 cores" in text
    write_junit(report, tmp_path / "junit.xml")
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()
    console = Console(file=io.StringIO(), width=80)
    render(report, console)
    assert "gone: NO ANSWER: " in console.file.getvalue()  # type: ignore[attr-defined]
    report.candidates[1].passed = False
    assert report.exit_status == 1
