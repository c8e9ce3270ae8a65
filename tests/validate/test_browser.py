"""The report in headless Chromium: it opens without a network, and what can be clicked works."""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.stages.validate import write_html
from onnxgraft.stages.validate.metrics import Curve
from onnxgraft.stages.validate.report import (
    BoxRow,
    GalleryRow,
    HostRow,
    LayerRow,
    LayersTimedRow,
    LayerTimeRow,
    RangeRow,
    Report,
    StageTime,
)
from tests.browser import Browser, Page
from tests.conftest import few
from tests.validate.test_report import EVIL, evil_report, report_of

# The contrast that text has to have, and what is no text but is needed (WCAG 2.2, 1.4.3, 1.4.11).
TEXT, CONTROL = 4.5, 3.0
# In the page: what is given to a colour's red, green and blue, and how far it covers.
COLOUR = """
(colour) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
"""
# Of each text that is to be seen: its words, its colour, and the colours behind it, the nearest
# first.
TEXTS = f"""(() => {{
  const colour = {COLOUR}, found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {{
    const of = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    if (!words || of.closest("script, style, option") || !of.checkVisibility()) continue;
    const behind = [];
    for (let at = of; at; at = at.parentElement) behind.push(getComputedStyle(at).backgroundColor);
    const ink = getComputedStyle(of)[of instanceof SVGElement ? "fill" : "color"];
    found.set([ink, ...behind].join(), [words, colour(ink), behind.map(colour)]);
  }}
  return [...found.values()];
}})()"""
# Of each element that the Tab key may reach: how it can be found again.
REACHED = """
[...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && !one.disabled).length
"""


def picture(value: int) -> str:
    done, data = cv2.imencode(".png", np.full((4, 6, 3), value, np.uint8))
    assert done
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"


def full_report() -> Report:
    """Return a report that has every section."""
    report = report_of("a_network_with_a_name_of_some_length.pb")
    report.layers = [
        LayerRow(
            f"t{i}", f"block{i}/Relu:0", "Relu", ("fp32", "fp16", "int8")[i % 3],
            10.0 ** -i, math.inf if i == 7 else 40.0 + i, 30.0 - i,
            "20 dB are wanted" if i == 4 else "", name,
        )
        for name in ("openvino int8", "onnxruntime int8")
        for i in range(9)
    ]  # fmt: skip
    report.ranges = [
        RangeRow("conv1", {"openvino": (-1.0, 1.0)}, -2.0, 2.0, [1.0, 50.0, 900.0, 50.0])
    ]
    report.gallery = [
        GalleryRow(
            ("openvino int8", "onnxruntime int8")[i % 2], f"image{i}.png", 0.1 / (i + 1),
            picture(20), picture(90), picture(160), picture(230), truth=picture(120),
            score=50.0 + 5 * (i % 3), original_score=70.0, classes=["sky" if i < 2 else "building"],
        )
        for i in range(6)
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
    report.candidates[3].per_class = {"sky": 91.0, "building": 70.25}
    report.candidates[3].warnings = ["the classes of the two overlap by 40.0 % (mIoU)"]
    for index, row in enumerate(report.candidates):
        row.confusion = {"sky": [90, 5, 5 + index // 3], "building": [1, 99, 0]}
        row.curves = [Curve("precision", name, [(0.0, 1.0), (1.0, 0.5)]) for name in ("", "car")]
    report.missed = ["openvino: the budget was not reached"]
    report.data, report.assumed = "validated on 233 samples", "pixels are taken as they are"
    report.latency[0].times_ms = [1234.0 + i for i in range(50)]
    report.command, report.recipe_text = "onnxgraft deploy recipe.toml", 'model = "net.pb"\n'
    report.recipe = {"model": "net.pb", "calibrate": {"seed": 0}}
    report.hashes, report.seeds = {"net.pb": "0123456789abcdef" * 4}, {"samples": 0}
    report.times = [StageTime("convert", 1.0)]
    report.hosts = [
        HostRow(
            "me@pi-3.local:2222", True, "", "A processor of some name (avx2)", 4, "Linux-6.1",
            {"onnxgraft": "0.1.0", "openvino": "2026.4.1"}, 0.3, ["openvino int8"],
            ["was built for another processor"],
        ),
        HostRow("gone", False, "can't be reached (Connection refused); see whether ssh works"),
    ]  # fmt: skip
    return report


def detections() -> Report:
    """Return a report of a detector's pictures."""
    report = full_report()
    boxes = {
        "truth": [BoxRow("car", None, [0.1, 0.0, 0.4, 0.5]), BoxRow("dog", None, [0.5, 0.5, 1, 1])],
        "original": [BoxRow("car", 0.9, [0.1, 0.0, 0.4, 0.5])],
        "candidate": [BoxRow("car", 0.75, [0.1, 0.0, 0.4, 0.5]),
                      BoxRow("dog", 0.6, [0.6, 0.1, 0.9, 0.3], matched=False)],
    }  # fmt: skip
    report.gallery = [
        GalleryRow("openvino int8", "street.jpg", 0.5, picture(90), "", "", "", boxes=boxes)
    ]
    return report


def words() -> Report:
    """Return a report of a classifier's pictures."""
    report = full_report()
    report.gallery = [
        GalleryRow(
            "openvino int8", f"digit{i}.png", 1.0, picture(90), "class 7", "class 1", "", "class 7",
            score=0.0, original_score=100.0, classes=["class 7", "class 1"],
        )
        for i in range(2)
    ]  # fmt: skip
    return report


REPORTS = {"full": full_report, "detections": detections, "words": words, "evil": evil_report}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page of each report."""
    place = tmp_path_factory.mktemp("pages")
    for name, make in REPORTS.items():
        write_html(make(), place / f"{name}.html")
    return place


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """Return the page that has every section; nothing may go wrong on it."""
    opened = browser.open(folder / "full.html")
    opened.js("localStorage.clear()")
    yield opened
    opened.close()
    assert opened.problems == []


def shown(page: Page, selector: str) -> list[bool]:
    return list(
        page.js(f"[...document.querySelectorAll('{selector}')].map((one) => one.checkVisibility())")
    )


def names(page: Page) -> list[str]:
    """Return the pictures that the gallery shows."""
    return list(
        page.js(
            "[...document.querySelectorAll('.shot')].filter((one) => one.checkVisibility())"
            ".map((one) => one.dataset.name.replace(/[^0-9]/g, ''))"
        )
    )


def choose(page: Page, selector: str, value: str) -> None:
    page.js(
        f"""(() => {{ const one = document.querySelector("{selector}"); one.value = "{value}";
        one.dispatchEvent(new Event("input", {{bubbles: true}}));
        one.dispatchEvent(new Event("change", {{bubbles: true}})); }})()"""
    )


# Whatever the report.


@pytest.mark.parametrize("name", REPORTS)
def test_everything_can_be_clicked_and_nothing_fails_or_asks_for_a_network(
    name: str, browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / f"{name}.html")
    page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    clicked = page.js("""(() => {
      let count = 0;
      for (const one of document.querySelectorAll("button, summary, a[href]")) {
        one.click(); count += 1; document.querySelector("dialog[open]")?.close();
      }
      for (const one of document.querySelectorAll("select, input")) {
        for (const value of one.options ? [...one.options].map((o) => o.value) : ["0", "99"]) {
          one.value = value; one.dispatchEvent(new Event("input", {bubbles: true}));
          one.dispatchEvent(new Event("change", {bubbles: true})); count += 1;
        }
      }
      return count;
    })()""")
    assert clicked > 20
    page.js("new Promise((done) => setTimeout(done, 20))")
    assert page.problems == []
    assert page.js("performance.getEntriesByType('resource').map((r) => r.name)"
                   ".filter((name) => !name.startsWith('data:'))") == []  # fmt: skip
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", few(REPORTS, 2))
def test_on_a_phone_nothing_is_wider_than_the_page(
    name: str, dark: bool, browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / f"{name}.html", 390, 800, dark=dark)
    page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.js("document.documentElement.scrollWidth") == 390
    # What is cut: text that reaches out of the page, and is in no box that scrolls.
    cut = page.js("""(() => {
      const found = [], range = document.createRange();
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const of = walker.currentNode.parentElement;
        if (!of.checkVisibility() || of.closest(".wide, .seen, script, option")) continue;
        range.selectNodeContents(walker.currentNode);
        for (const box of range.getClientRects())
          if (box.right > 390.5 || box.left < -0.5) found.push(walker.currentNode.textContent);
      }
      return found;
    })()""")
    assert cut == []
    page.close()


def test_a_script_in_a_name_stays_text(browser: Browser, folder: Path) -> None:
    page = browser.open(folder / "evil.html")
    assert page.js("document.scripts.length") == 2
    seen = page.js("document.body.innerText")
    for text in (EVIL, f"Look first at {EVIL}"):
        assert text in seen
    assert page.js("document.querySelector('.box.wrong, .box b').textContent").startswith(EVIL)
    choose(page, "#gallery-class", "x")
    assert page.problems == []
    page.close()


# Reading.


def covered(ink: list[int], behind: list[list[int]]) -> tuple[list[float], list[float]]:
    """Return the colour of what is seen of a text, and of what is behind it."""
    paper: list[float] = [255.0] * 3
    for *colour, alpha in reversed(behind):
        paper = [p + (c - p) * alpha / 255 for c, p in zip(colour, paper, strict=True)]
    text = [p + (c - p) * ink[3] / 255 for c, p in zip(ink[:3], paper, strict=True)]
    return text, paper


def contrast(one: list[float], other: list[float]) -> float:
    """Return the ratio of WCAG 2.2's definition."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_is_that_of_its_definition() -> None:
    assert contrast([0.0] * 3, [255.0] * 3) == pytest.approx(21)
    # Known values of https://webaim.org/resources/contrastchecker/
    assert contrast([119.0] * 3, [255.0] * 3) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", few(["full", "detections", "words"], 1))
def test_every_text_has_the_contrast_of_wcag_aa(
    name: str, dark: bool, browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / f"{name}.html", dark=dark)
    page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    texts = page.js(TEXTS)
    assert len(texts) > 10
    for text, ink, behind in texts:
        assert contrast(*covered(ink, behind)) >= TEXT, (text, ink, behind)
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_borders_of_controls_and_colours_of_plots_are_told_from_the_paper(
    dark: bool, browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / "full.html", dark=dark)
    variables = ("--edge", "--bar", "--int8", "--half", "--good", "--bad", "--soft")
    found = page.js(
        f"""(() => {{ const style = getComputedStyle(document.documentElement), colour = {COLOUR};
        return {list(variables)}.concat(["--paper"]).map((v) => colour(style.getPropertyValue(v)));
        }})()"""
    )
    *colours, paper = [list(map(float, colour[:3])) for colour in found]
    for name, colour in zip(variables, colours, strict=True):
        assert contrast(colour, paper) >= CONTROL, name
    page.close()


@pytest.mark.parametrize("name", few(["full", "detections", "words"], 1))
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(
    name: str, browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / f"{name}.html")
    count = page.js(REACHED)
    page.js("window.seen = new Set()")
    for _ in range(count):
        page.press("Tab")
        outline = page.js(
            "seen.add(document.activeElement);"
            "getComputedStyle(document.activeElement).outlineStyle + ' '"
            " + getComputedStyle(document.activeElement).outlineWidth"
        )
        assert outline == "solid 3px", page.js("document.activeElement.outerHTML.slice(0, 200)")
    assert page.js("seen.size") == count
    assert page.js("[...seen].every((one) => one !== document.body)")
    page.close()


def test_every_table_has_a_caption_and_named_rows(page: Page) -> None:
    tables = page.js(
        "[...document.querySelectorAll('table')].map((one) => [one.caption?.textContent,"
        " one.querySelectorAll('tbody tr').length,"
        " one.querySelectorAll('tbody tr > th[scope=row]:first-child').length,"
        " [...one.querySelectorAll('thead th')].every((th) => th.scope === 'col'"
        " && th.textContent.trim())])"
    )
    assert len(tables) > 10
    for caption, rows, named, columns in tables:
        assert caption
        assert rows == named > 0
        assert columns


def test_every_control_picture_and_plot_has_a_name(page: Page) -> None:
    assert page.js("""[...document.querySelectorAll("button, select, input, svg, [role=region]")]
      .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length
                         || one.textContent.trim() && one.matches("button")))
      .map((one) => one.outerHTML.slice(0, 200))""") == []  # fmt: skip
    assert page.js("[...document.images].every((one) => one.hasAttribute('alt'))")


# The theme.


def paper(page: Page) -> str:
    return str(page.js("getComputedStyle(document.body).backgroundColor"))


LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 25, 31)"


def test_the_theme_is_the_readers_until_one_is_chosen_which_stays(page: Page, folder: Path) -> None:
    page.go(folder / "full.html")
    assert paper(page) == LIGHT
    page.prefer(dark=True)
    assert paper(page) == DARK
    page.click("#theme")
    assert paper(page) == LIGHT
    for _ in range(20):  # Chromium writes it down a while later, and reads with another process
        page.go(folder / "words.html")
        if page.js("localStorage.getItem('onnxgraft-theme')") is not None:
            break
        time.sleep(0.25)
    assert paper(page) == LIGHT
    assert page.js("localStorage.getItem('onnxgraft-theme')") == "light"
    page.click("#theme")
    page.prefer(dark=False)
    assert paper(page) == DARK
    page.js("localStorage.clear()")


def test_on_paper_it_is_light_everything_is_open_and_no_control_is_there(page: Page) -> None:
    page.prefer(dark=True, media="print")
    page.js("dispatchEvent(new Event('beforeprint'))")
    assert paper(page) == LIGHT
    assert all(shown(page, "details:not([hidden] *) > .wide, .shot"))
    assert not any(shown(page, "nav, .tools, #theme, .slide input, .copy"))


# Sections.


def test_every_link_leads_to_a_section(page: Page) -> None:
    links = page.js("[...document.querySelectorAll('nav a')].map((one) => one.hash)")
    assert len(links) == 16
    assert page.js(f"{links}.every((hash) => document.querySelector(hash))")


def test_the_plot_changes_between_noise_and_error(page: Page) -> None:
    assert shown(page, ".plot-of")[:2] == [True, False]
    page.click(".plot-choice[data-plot=error]")
    assert shown(page, ".plot-of")[:2] == [False, True]


def test_another_engine_can_be_chosen(page: Page) -> None:
    choose(page, "#layer-candidate", "1")
    assert shown(page, ".layer-candidate") == [False, True]


def test_a_layer_that_adds_nothing_is_not_drawn_and_the_guilty_one_says_why(page: Page) -> None:
    assert page.js("document.querySelectorAll('[data-candidate=\"0\"] rect').length") == 16
    assert "1 of 9 layers add nothing" in page.js("document.querySelector('.axis').textContent")
    assert page.js("document.querySelectorAll('rect.guilty').length") == 4
    title = page.js("document.querySelector('rect.guilty title').textContent")
    assert "block4/Relu:0" in title
    assert "20 dB are wanted" in title


def test_the_layers_that_take_most_are_shown_and_the_others_open(page: Page) -> None:
    assert shown(page, ".layer-times") == [True, False]
    page.js("document.querySelectorAll('.layer-times')[1].closest('details').id = 'others'")
    page.click("#others summary")
    assert shown(page, ".layer-times") == [True, True]


def test_a_classs_bar_is_its_difference_and_the_largest_loss_is_first(page: Page) -> None:
    rows = page.js(
        "[...document.querySelectorAll('#classes tbody tr')].map((one) => one.innerText)"
    )
    assert [re.split(r"\s+", row)[:3] for row in rows] == [
        ["building", "75.25", "-5.00"], ["sky", "91.50", "-0.50"],
    ]  # fmt: skip
    widths = page.js(
        "[...document.querySelectorAll('#classes .loss')].map((one) =>"
        " one.getBoundingClientRect().width / one.parentElement.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([0.5, 0.05], abs=0.01)


def test_what_is_copied_is_the_command(page: Page) -> None:
    page.click("[data-of=command]")
    assert page.js("getSelection().toString()") == "onnxgraft deploy recipe.toml"


# The gallery.


def test_the_gallery_shows_the_right_answer_beside_both(page: Page) -> None:
    captions = page.js(
        "[...document.querySelector('.shot').querySelectorAll('figcaption')]"
        ".map((one) => one.textContent)"
    )
    assert captions == [
        "photograph", "right answer", "where they differ", "original",
        "openvino int8", "original to the left, openvino int8 to the right",
    ]  # fmt: skip
    assert "class mIoU 50.00, in the original 70.00 (-20.00)" in page.js(
        "document.querySelector('.shot').innerText"
    )


def test_the_gallery_is_sorted_and_shows_all_when_asked(page: Page) -> None:
    assert names(page) == ["0", "1", "2", "3"]
    page.click("#gallery-more")
    assert names(page) == ["0", "1", "2", "3", "4", "5"]
    choose(page, "#gallery-order", "score")
    assert names(page) == ["0", "3", "1", "4", "2", "5"]
    choose(page, "#gallery-order", "loss")
    assert names(page) == ["0", "3", "1", "4", "2", "5"]
    choose(page, "#gallery-order", "name")
    assert names(page) == ["0", "1", "2", "3", "4", "5"]


def test_where_less_is_better_the_largest_scores_are_the_worst(
    browser: Browser, folder: Path
) -> None:
    report = full_report()
    for row in report.candidates:
        row.direction = "down"
    write_html(report, folder / "down.html")
    page = browser.open(folder / "down.html")
    page.click("#gallery-more")
    for order in ("score", "loss"):
        choose(page, "#gallery-order", order)
        assert names(page) == ["2", "5", "1", "4", "0", "3"]
    page.close()


@pytest.mark.parametrize(
    ("control", "value", "left"),
    [("class", "sky", ["0", "1"]), ("candidate", "onnxruntime int8", ["1", "3", "5"]),
     ("name", "MAGE3", ["3"])],
    ids=["class", "engine", "name"],
)  # fmt: skip
def test_the_gallery_is_filtered(control: str, value: str, left: list[str], page: Page) -> None:
    choose(page, f"#gallery-{control}", value)
    assert names(page) == left
    count = page.js("document.querySelector('#gallery-count').textContent")
    assert count == f"{len(left)} of 6"


def cut(page: Page) -> str:
    """Return how much of the candidate's answer is covered."""
    return str(page.js("getComputedStyle(document.querySelector('.slide .over')).clipPath"))


def test_the_slider_uncovers_the_candidates_answer_by_keyboard(page: Page) -> None:
    assert cut(page) == "inset(0px 0px 0px 50%)"
    page.js("document.querySelector('.slide input').focus()")
    page.press("ArrowLeft")
    assert cut(page) == "inset(0px 0px 0px 49%)"
    page.press("Home")
    assert cut(page) == "inset(0px 0px 0px 0%)"
    pictures = page.js("[...document.querySelectorAll('.slide img')].slice(0, 2).map((i) => i.src)")
    assert pictures == [picture(90), picture(160)]


def test_a_picture_opens_large_and_closes(page: Page) -> None:
    page.js("document.querySelectorAll('.zoom')[1].focus()")
    page.press("Enter")
    assert page.js("document.querySelector('#large').open")
    assert page.js("document.querySelector('#large img').src") == picture(120)
    page.press("Escape")
    assert not page.js("document.querySelector('#large').open")
    assert page.js("document.activeElement === document.querySelectorAll('.zoom')[1]")


def test_boxes_are_drawn_with_their_scores_where_they_are(browser: Browser, folder: Path) -> None:
    page = browser.open(folder / "detections.html")
    drawn: list[list[Any]] = page.js("""
      [...document.querySelectorAll(".shot .tiles > figure")].map((figure) => {
        const whole = figure.querySelector(".seen").getBoundingClientRect();
        return [...figure.querySelectorAll(".box")].map((one) => {
          const box = one.getBoundingClientRect();
          return [one.textContent, one.className, (box.left - whole.left) / whole.width,
                  (box.bottom - whole.top) / whole.height];
        });
      })
    """)
    car, dog = pytest.approx([0.1, 0.5], abs=0.01), pytest.approx([0.6, 0.3], abs=0.01)
    truth, original, candidate, both = drawn
    assert [box[0] for box in truth] == ["car", "dog"]
    assert [(box[0], box[2:]) for box in original] == [("car 0.90", car)]
    assert [(box[0], box[2:]) for box in candidate] == [("car 0.75", car), ("dog 0.60", dog)]
    assert "wrong" in candidate[1][1]
    assert [box[0] for box in both] == ["car 0.90", "car 0.75", "dog 0.60"]
    # The photograph is in the page once.
    assert page.js("[...document.querySelectorAll('.shot img')].map((one) => one.src)") == (
        [picture(90)] * 5
    )
    assert (folder / "detections.html").read_text().count(picture(90)) == 1
    page.close()


def test_a_classifiers_pictures_tell_the_label_and_both_answers(
    browser: Browser, folder: Path
) -> None:
    page = browser.open(folder / "words.html")
    told = page.js("document.querySelector('.shot').innerText").split()
    assert told == (
        "digit0.png openvino int8 label class 7 original class 7 candidate class 1".split()
    )
    assert page.js("[...document.querySelector('.shot').querySelectorAll('dd')]"
                   ".map((one) => one.className)") == ["", "pass", "fail"]  # fmt: skip
    page.close()
