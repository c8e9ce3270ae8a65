"""The report in headless Chromium: it opens without a network, and what can be clicked works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.stages.validate import write_html
from onnxgraft.stages.validate.report import (
    GalleryRow,
    LayerRow,
    LayersTimedRow,
    LayerTimeRow,
    RangeRow,
    Report,
)
from tests.validate.test_report import report_of

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

# Clicks through the page as a person would, and notes what is to be seen after each click.
CLICKS = """
<script>
const seen = {}, one = (what) => document.querySelector(what);
const shown = (element) => !!element && element.checkVisibility();
const paper = () => getComputedStyle(document.body).backgroundColor;
const tell = () => { const note = document.createElement("pre"); note.id = "seen";
  note.textContent = JSON.stringify(seen); document.body.append(note); };
window.addEventListener("error", (event) => { seen.error = event.message; });
window.addEventListener("load", () => {
  const resources = performance.getEntriesByType("resource");
  seen.resources = resources.filter((r) => !r.name.startsWith("data:")).length;
  seen.links = [...document.querySelectorAll("nav a")].map((a) => !!one(a.getAttribute("href")));
  const before = paper(); one("#theme").click(); const after = paper(); one("#theme").click();
  seen.theme = [before, after, paper()];
  const plots = () => ["sqnr", "error"].map((what) => shown(one(`.plot-of[data-plot=${what}]`)));
  seen.sqnr = plots();
  one(".plot-choice[data-plot=error]").click();
  seen.error_plot = plots();
  const choice = one("#layer-candidate");
  choice.value = "1"; choice.dispatchEvent(new Event("change"));
  seen.candidates = [...document.querySelectorAll(".layer-candidate")].map(shown);
  const table = one("#outputs"); seen.closed = shown(table);
  one("#outputs").closest("details").querySelector("summary").click(); seen.opened = shown(table);
  const small = one(".four img"); small.click();
  seen.large = [one("#large").open, one("#large img").src === small.src];
  one("#large button").click(); seen.small = one("#large").open;
  const times = [...document.querySelectorAll(".layer-times")]; seen.times = times.map(shown);
  times[1].closest("details").querySelector("summary").click(); seen.more = shown(times[1]);
  seen.bars = [...times[0].rows[1].querySelectorAll(".bar")].map((bar) => bar.style.width);
  seen.guilty = document.querySelectorAll("rect.guilty").length;
  seen.title = one("rect.guilty title").textContent;
  seen.wide = document.documentElement.scrollWidth <= window.innerWidth;
  tell();
});
</script>
"""


def picture(value: int) -> str:
    import base64

    done, data = cv2.imencode(".png", np.full((4, 6, 3), value, np.uint8))
    assert done
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"


def full_report() -> Report:
    """Return a report that has every section."""
    report = report_of()
    report.layers = [
        LayerRow(
            f"t{i}", f"block{i}/Relu:0", "Relu", ("fp32", "fp16", "int8")[i % 3],
            10.0 ** -i, 40.0 + i, 30.0 - i, "20 dB are wanted" if i == 4 else "", name,
        )
        for name in ("openvino int8", "onnxruntime int8")
        for i in range(9)
    ]  # fmt: skip
    report.ranges = [
        RangeRow("conv1", {"openvino": (-1.0, 1.0)}, -2.0, 2.0, [1.0, 50.0, 900.0, 50.0])
    ]
    report.gallery = [
        GalleryRow(
            "openvino int8", f"image{i}.png", 0.1 / (i + 1), picture(20), picture(90),
            picture(160), picture(230),
        )
        for i in range(3)
    ]  # fmt: skip
    report.layer_times = [
        LayerTimeRow(name, f"block{i}/Conv:0", f"conv{i}", "Conv", kind, "int8", 1.0 + i)
        for name, kind in (("openvino int8", "int8"), ("onnxruntime int8", "fp32"))
        for i in range(30)
    ]  # fmt: skip
    report.layers_timed = [
        LayersTimedRow(name, 1, 500.0, 465.0, 0.0, ["reorders took 3 ms"])
        for name in ("openvino int8", "onnxruntime int8")
    ]
    report.candidates[0].confusion = {"sky": [90, 5, 5], "building": [1, 99, 0]}
    report.latency[0].times_ms = [1234.0 + i for i in range(50)]
    return report


def visit(page: Path, *options: str) -> dict[str, Any]:
    """Open the page with `CLICKS` in it and return what was seen."""
    assert CHROMIUM is not None
    clicked = page.with_name("clicked.html")
    clicked.write_text(page.read_text().replace("</body>", f"{CLICKS}</body>"))
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000",
            f"--user-data-dir={page.parent / 'profile'}", *options, "--dump-dom",
            clicked.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_html(full_report(), page)
    return visit(page)


def test_nothing_is_loaded_and_nothing_fails(seen: dict[str, Any]) -> None:
    assert seen["resources"] == 0
    assert "error" not in seen


def test_every_link_leads_to_a_section(seen: dict[str, Any]) -> None:
    assert len(seen["links"]) == 11
    assert all(seen["links"])


def test_the_button_changes_between_light_and_dark(seen: dict[str, Any]) -> None:
    first, second, third = seen["theme"]
    assert {first, second} == {"rgb(255, 255, 255)", "rgb(20, 25, 31)"}
    assert third == first


def test_the_plot_changes_between_sqnr_and_error(seen: dict[str, Any]) -> None:
    assert seen["sqnr"] == [True, False]
    assert seen["error_plot"] == [False, True]


def test_another_candidate_can_be_chosen(seen: dict[str, Any]) -> None:
    assert seen["candidates"] == [False, True]


def test_details_open(seen: dict[str, Any]) -> None:
    assert (seen["closed"], seen["opened"]) == (False, True)


def test_the_layers_that_take_most_are_shown_and_the_others_open(seen: dict[str, Any]) -> None:
    assert seen["times"] == [True, False]
    assert seen["more"] is True
    assert seen["bars"] == ["100%", "100%"]


def test_a_picture_of_the_gallery_opens_large_and_closes(seen: dict[str, Any]) -> None:
    assert seen["large"] == [True, True]
    assert seen["small"] is False


def test_the_guilty_layer_is_marked_and_says_why(seen: dict[str, Any]) -> None:
    assert seen["guilty"] == 4  # two plots of two candidates
    assert "block4/Relu:0" in seen["title"]
    assert "20 dB are wanted" in seen["title"]


def test_the_page_is_no_wider_than_the_window(seen: dict[str, Any]) -> None:
    assert seen["wide"] is True
