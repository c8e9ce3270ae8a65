"""The page of graphs in headless Chromium: every control, and nothing that reaches out."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from onnxgraft.stages.validate import write_html
from onnxgraft.stages.validate.report import RangeRow
from onnxgraft.stages.validate.views.graph import (
    Block,
    Link,
    Shown,
    ShownTensor,
    Stage,
    Walk,
    Weight,
    write_walk,
)
from onnxgraft.stages.validate.views.graph import page as page_module
from tests.browser import Browser, Page
from tests.conftest import few
from tests.validate.test_browser import COLOUR, TEXT, contrast, covered, full_report

BAD = "</title></script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
PLACE = "document.querySelector('.g-pane:nth-child({})')"


def stage(title: str, kind: Any, names: tuple[str, ...], precision: str) -> Stage:
    """Return an input, a node of each name, and an output, in blocks of three."""
    nodes = [Shown("x", "input", outputs=[0], role="input")]
    for place, name in enumerate(names):
        nodes.append(Shown(
            name, ("Conv", "BatchNormalization", "Relu")[place % 3], place // 3, [place],
            [place + 1], {"pads": "[1, 1]"}, f"framework/{name}:0", precision, "",
            1000 * (place + 1),
            0.5 * place, 10.0 ** -place, 50.0 - place, 40.0 - place,
            [Weight("w", "8x8", "float32", "", -1.0, 2.0, tuple(range(32)))],
            [f"made by a pass: {name}"],
        ))  # fmt: skip
    nodes.append(Shown("y", "output", inputs=[len(names)], role="output"))
    tensors = [ShownTensor(f"t{place}", "1x8x4x4", "float32") for place in range(len(names) + 1)]
    blocks = [Block(f"stage{place}") for place in range(-(-len(names) // 3))]
    return Stage(title, kind, nodes, tensors, blocks)


def walk(bad: str = "") -> Walk:
    """Return two stages: of each three nodes of the first, the first does the others' work."""
    before = tuple(f"block{place}/{op}{bad}" for place in range(8) for op in ("conv", "bn", "act"))
    after = tuple(name for name in before if "conv" in name)
    pairs = [(0, 0), (25, 9), *((place + 1, place // 3 + 1) for place in range(23))]
    ranges = [RangeRow("t1", {"openvino": (-1.0, 1.0)}, -2.0, 2.0, [1.0, 5.0, 1.0])]
    stages = [
        stage(f"original{bad}", "original", before, "fp32"),
        stage(f"cleaned{bad}", "cleaned", after, "int8"),
    ]
    return Walk(f"net{bad}", stages, [Link(0, 1, pairs)], ranges, [f"a note{bad}"])


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "net.html"
    write_walk(walk().drawn(), path)
    return path


def opened(browser: Browser, page: Path, width: int = 1280, **how: Any) -> Page:
    return browser.open(page, width, 900, **how)


def texts(seen: Page, selector: str) -> list[str]:
    found: list[str] = seen.js(
        f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)"
    )
    return found


def node(name: str, pane: int = 1) -> str:
    return f".g-pane:nth-child({pane}) [aria-label*='{name},']"


def choose(seen: Page, name: str, pane: int = 1) -> None:
    """Search for a node and go to it."""
    seen.js(f"document.querySelectorAll('.g-pane svg')[{pane - 1}].focus()")
    seen.js("document.querySelector('#g-search').value = ''")
    seen.click("#g-search")
    for letter in name:
        seen.press(letter)
    seen.press("Enter")


def test_every_control_is_clicked_and_nothing_goes_wrong(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    count = seen.js("document.querySelectorAll('button, select, summary').length")
    assert count == 16
    for place in range(count):
        seen.js(f"document.querySelectorAll('button, select, summary')[{place}]?.click()")
    for value in ("error", "time", "macs", "precision"):
        seen.js(
            f"""(() => {{ const one = document.querySelector("#g-colour"); one.value = "{value}";
            one.dispatchEvent(new Event("change")); }})()"""
        )
    for number in range(seen.js("document.querySelectorAll('.g-head select').length")):
        seen.js(
            f"""(() => {{ const one = document.querySelectorAll(".g-head select")[{number}];
            one.value = 1; one.dispatchEvent(new Event("change")); }})()"""
        )
    assert seen.problems == []
    seen.close()


def test_nothing_is_loaded(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    assert seen.js("performance.getEntriesByType('resource').length") == 0
    assert seen.problems == []
    seen.close()


def test_the_page_forbids_itself_to_load_anything(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    blocked = """new Promise((done) => {
      addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
      fetch("https://example.org/").catch(() => {}); })"""
    assert seen.js(blocked) == "connect-src"
    seen.close()


def test_the_stages_stand_side_by_side_where_there_is_room(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    assert len(texts(seen, ".g-pane")) == 2
    seen.click("#g-two")
    assert len(texts(seen, ".g-pane")) == 1
    seen.close()


def test_a_phone_shows_one_stage_and_is_not_scrolled_sideways(browser: Browser, page: Path) -> None:
    seen = opened(browser, page, 390)
    assert len(texts(seen, ".g-pane")) == 1
    seen.click("#g-two")
    choose(seen, "block3/bn")
    seen.click(".g-keys summary")
    assert seen.js("document.documentElement.scrollWidth") <= 390
    assert seen.js("""[...document.querySelectorAll("button, select, input, h1, .g-pane, aside")]
      .every((one) => one.getBoundingClientRect().right <= 390)""")
    seen.close()


def test_a_click_on_a_node_shows_what_it_is(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(node("block0/conv"))
    told = texts(seen, "#g-details")[0]
    for words in (
        "Conv block0/conv", "framework/block0/conv:0", "made by a pass", "pads", "[1, 1]",
        "1x8x4x4", "float32", "kept, openvino", "-1 to 1", "8x8", "fp32", "1 k", "50 dB",
    ):  # fmt: skip
        assert words in told
    assert len(texts(seen, "#g-details svg")) == 2  # of the tensor, and of the weights
    seen.close()


def test_where_nothing_is_chosen_the_graphs_are_told_in_figures(
    browser: Browser, page: Path
) -> None:
    seen = opened(browser, page)
    assert texts(seen, "#g-details h4") == ["original", "cleaned"]
    rows = texts(seen, "#g-details table:first-of-type tr")
    assert {"nodes24", "precision24 fp32", "MACs300 k MACs", "time138 ms"} <= set(rows)
    seen.close()


def test_what_became_of_a_node_is_shown_on_the_other_side(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(node("block0/bn"))
    labels = """[...document.querySelectorAll(".g-pane:nth-child(2) .g-linked")]
      .map((one) => one.getAttribute("aria-label"))"""
    assert [label.split(",")[0] for label in seen.js(labels)] == ["Conv block0/conv"]
    assert "block0/conv here" in texts(seen, ".g-pane:nth-child(2) .g-told")[0]
    seen.close()


def test_a_node_that_is_not_in_the_other_graph_says_why(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    choose(seen, "block7/act")
    told = texts(seen, ".g-pane:nth-child(2) .g-told")[0]
    assert told == "act is not in this graph: made by a pass: block7/act."
    seen.close()


def test_what_a_node_was_before_is_shown_from_behind(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(node("block0/conv", 2))
    assert len(texts(seen, ".g-pane:nth-child(1) .g-linked")) == 3
    seen.close()


def test_a_button_in_the_details_goes_to_the_other_graph(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(node("block0/bn"))
    seen.click("#g-details [aria-label='go to block0/conv in cleaned']")
    assert len(texts(seen, ".g-pane:nth-child(2) .g-chosen")) == 1
    assert texts(seen, "#g-details h3") == ["Conv block0/conv"]
    seen.close()


def test_a_block_folds_and_opens(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    assert len(texts(seen, node("block0/bn"))) == 1
    seen.click(".g-pane:nth-child(1) [aria-label^='block stage0'] .g-sign")
    assert texts(seen, node("block0/bn")) == []
    closed = texts(seen, ".g-pane:nth-child(1) .g-closed")[0]
    assert "3 nodes: 1 Conv, 1 BatchNormalization" in closed
    seen.click(".g-pane:nth-child(1) [aria-label^='block stage0'] .g-sign")
    assert len(texts(seen, node("block0/bn"))) == 1
    seen.close()


def test_all_blocks_fold_and_open(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    count = "document.querySelectorAll('.g-pane:nth-child(1) .g-closed').length"
    seen.click(".g-pane:nth-child(1) [aria-label='fold all blocks']")
    assert seen.js(count) == 8
    seen.click(".g-pane:nth-child(1) [aria-label='open all blocks']")
    assert seen.js(count) == 0
    seen.close()


def test_search_finds_by_name_operator_and_original_name(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    for text, found in (("block5/", 4), ("batchnorm", 11), ("framework/block6/a", 1), ("none", 0)):
        seen.js(f"document.querySelector('#g-search').value = '{text}'")
        seen.js("document.querySelector('#g-search').dispatchEvent(new Event('input'))")
        assert len(texts(seen, "#g-found button")) == found, text
    seen.close()


def test_what_is_found_is_brought_into_view(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(".g-pane:nth-child(1) [aria-label='fold all blocks']")
    choose(seen, "block6/bn")
    box, pane = seen.js(
        """[".g-chosen", ".g-pane svg"].map((what) => {
        const box = document.querySelector(what).getBoundingClientRect();
        return [box.top, box.bottom]; })"""
    )
    assert pane[0] <= box[0] <= box[1] <= pane[1]
    seen.close()


def test_the_keys_walk_along_the_graph(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.js("document.querySelector('.g-pane svg').focus()")
    chosen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        seen.press(key)
        chosen.append(texts(seen, "#g-details h3")[0])
    assert chosen == [
        "input x", "Conv block0/conv", "BatchNormalization block0/bn", "Conv block0/conv",
    ]  # fmt: skip
    active = "document.querySelector('.g-pane svg').getAttribute('aria-activedescendant')"
    assert seen.js(active) == seen.js("document.querySelector('.g-chosen').id")
    assert "block0/conv" in texts(seen, "#g-live")[0]
    seen.press("Escape")
    assert texts(seen, ".g-chosen") == []
    seen.close()


def test_the_keys_fold_and_open_blocks(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.click(node("block0/bn"))
    seen.js("document.querySelector('.g-pane svg').focus()")
    seen.press("Backspace")
    assert texts(seen, "#g-details h3") == ["stage0"]
    assert texts(seen, node("block0/bn")) == []
    seen.press("Enter")
    assert len(texts(seen, node("block0/bn"))) == 1
    seen.close()


def test_a_slash_searches(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    seen.js("document.querySelector('.g-pane svg').focus()")
    seen.press("/")
    assert seen.js("document.activeElement.id") == "g-search"
    seen.close()


def test_every_control_is_reached_with_the_tab_key(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    wanted = seen.js("""[...document.querySelectorAll("button, select, input, summary, svg")]
      .filter((one) => one.checkVisibility()).length""")
    reached = set()
    for _ in range(wanted + 4):
        seen.press("Tab")
        reached.add(
            seen.js("""(() => { const all = [...document.querySelectorAll("*")];
          return all.indexOf(document.activeElement); })()""")
        )
    assert len(reached) >= wanted
    seen.close()


FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
VIEW = "document.querySelector('.g-pane svg > g').getAttribute('transform')"


def test_the_picture_is_dragged_and_zoomed(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    looks = [seen.js(VIEW)]
    for kind, at in (("mousePressed", 300), ("mouseMoved", 340), ("mouseReleased", 340)):
        seen.send("Input.dispatchMouseEvent", type=kind, x=at, y=at, button="left", buttons=1)
    seen.js(FRAME)
    looks.append(seen.js(VIEW))
    for how in ({"deltaX": 0, "deltaY": 90}, {"deltaX": 0, "deltaY": -90, "modifiers": 2}):
        seen.send("Input.dispatchMouseEvent", type="mouseWheel", x=300, y=500, **how)
        seen.js(FRAME)
        looks.append(seen.js(VIEW))
    for button in ("larger", "smaller", "show all"):
        seen.click(f".g-pane [aria-label='{button}']")
        seen.js(FRAME)
        looks.append(seen.js(VIEW))
    assert all(one != other for one, other in pairwise(looks)), looks
    scales = [float(look.split("scale(")[1][:-1]) for look in looks]
    assert scales[2] == scales[1] == scales[0] < scales[3] < scales[4] > scales[5]
    assert texts(seen, ".g-chosen") == []  # a drag chooses nothing
    seen.close()


def test_colours_say_precision_error_time_and_macs(browser: Browser, page: Path) -> None:
    seen = opened(browser, page)
    told = {}
    for value in ("precision", "error", "time", "macs"):
        seen.js(
            f"""(() => {{ const one = document.querySelector("#g-colour"); one.value = "{value}";
            one.dispatchEvent(new Event("change")); }})()"""
        )
        kinds = seen.js("""['block0/conv', 'block2/act'].map((name) => document.querySelector(
          `.g-pane [aria-label*='${name},']`)?.getAttribute("class").match(/[ph]-?\\w*\\d+/)[0])""")
        told[value] = (kinds[0], texts(seen, "#g-legend")[0])
    assert told["precision"] == ("p-fp32", "fp32int8several")
    assert told["error"][0] == "h5" and "% of the range" in told["error"][1]
    assert told["macs"][0] == "h0" and "1 k MACs" in told["macs"][1]
    assert told["time"][0] == "h0" and "ms" in told["time"][1]
    seen.close()


# Of each text: its colour, and what is behind it: in a picture the box that it stands in.
TEXTS = f"""(() => {{
  const colour = {COLOUR}, found = [];
  for (const one of document.querySelectorAll("body *")) {{
    const own = [...one.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || one.closest("script, style, option, title") || !one.checkVisibility()) continue;
    const box = one.closest(".g-node")?.querySelector("rect"), behind = [];
    if (box) behind.push(getComputedStyle(box).fill);
    for (let at = one; at; at = at.parentElement)
      behind.push(getComputedStyle(at).backgroundColor);
    const ink = getComputedStyle(one)[one instanceof SVGElement ? "fill" : "color"];
    found.push([one.textContent, colour(ink), behind.map(colour)]);
  }}
  return found;
}})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("colour", few(["precision", "error", "macs"], 1))
def test_texts_stand_out_from_what_is_behind_them(
    browser: Browser, page: Path, dark: bool, colour: str
) -> None:
    seen = opened(browser, page, dark=dark)
    seen.click(node("block0/bn"))
    seen.js(
        f"""(() => {{ const one = document.querySelector("#g-colour"); one.value = "{colour}";
        one.dispatchEvent(new Event("change")); }})()"""
    )
    texts_ = seen.js(TEXTS)
    assert len(texts_) > 60
    for text, ink, behind in texts_:
        assert contrast(*covered(ink, behind)) >= TEXT, (text, ink, behind)
    seen.close()


def test_the_page_is_dark_where_that_is_wanted_and_a_choice_stays(
    browser: Browser, page: Path
) -> None:
    seen = opened(browser, page, dark=True)
    seen.js("localStorage.clear()")
    seen.go(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert seen.js(paper) == "rgb(20, 25, 31)"
    seen.click("#theme")
    assert seen.js(paper) == "rgb(255, 255, 255)"
    seen.go(page)
    assert seen.js(paper) == "rgb(255, 255, 255)"
    seen.js("localStorage.clear()")
    seen.close()


def test_what_looks_like_markup_stays_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    write_walk(walk(BAD).drawn(), path)
    seen = opened(browser, path)
    choose(seen, "block0/bn")
    assert BAD in texts(seen, "h1")[0]
    assert BAD in texts(seen, "#g-details h3")[0]
    assert BAD in texts(seen, ".g-notes")[0]
    assert seen.js("typeof window.broken") == "undefined"
    assert seen.js("document.querySelectorAll('img').length") == 0
    assert seen.problems == []
    seen.close()


def test_only_what_can_be_seen_is_in_the_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    names = tuple(f"node{place}" for place in range(1200))
    write_walk(Walk("large", [stage("original", "original", names, "fp32")]).drawn(), path)
    seen = opened(browser, path)
    seen.click(".g-pane [aria-label='open all blocks']")
    assert seen.js("document.querySelectorAll('.g-node').length") < 200
    assert seen.problems == []
    seen.close()


def test_a_graph_of_one_stage_has_no_second_side(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "one.html"
    write_walk(Walk("one", [stage("original", "original", ("a", "b"), "fp32")]).drawn(), path)
    seen = opened(browser, path)
    assert len(texts(seen, ".g-pane")) == 1
    assert not seen.js("document.querySelector('#g-two').checkVisibility()")
    seen.close()


# In a report ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(full_report(), path, walk(BAD).drawn())
    return path


def test_a_report_has_them_in_a_section_that_opens(browser: Browser, report: Path) -> None:
    seen = opened(browser, report)
    assert texts(seen, ".g-pane") == []
    seen.click("nav a[href='#graph-section']")
    seen.click("#graph-section + details > summary")
    seen.js(FRAME)
    assert len(texts(seen, ".g-pane")) == 2
    choose(seen, "block0/bn")
    assert len(texts(seen, ".g-pane:nth-child(2) .g-linked")) == 1
    assert BAD in texts(seen, "#g-details h3")[0]
    assert seen.js("typeof window.broken") == "undefined"
    assert seen.problems == []
    seen.close()


def test_the_wheel_scrolls_a_report_until_a_graph_is_chosen(browser: Browser, report: Path) -> None:
    seen = opened(browser, report)
    seen.js("document.querySelector('#graph-section + details').open = true")
    seen.js(FRAME)
    seen.js("""document.querySelector(".g-pane svg")
      .scrollIntoView({block: "center", behavior: "instant"})""")
    x, y = seen.js("""(() => { const box = document.querySelector(".g-pane svg")
      .getBoundingClientRect(); return [box.x + 50, box.y + 200]; })()""")
    wheel = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": 60}
    before = seen.js(VIEW)
    seen.send("Input.dispatchMouseEvent", **wheel)
    assert seen.js(VIEW) == before
    seen.js("document.querySelector('.g-pane svg').focus()")
    seen.send("Input.dispatchMouseEvent", **wheel)
    seen.js(FRAME)
    assert seen.js(VIEW) != before
    seen.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_of_graphs_in_a_report_stand_out_and_fit_a_phone(
    browser: Browser, report: Path, dark: bool
) -> None:
    seen = opened(browser, report, 390, dark=dark)
    seen.js("document.querySelector('#graph-section + details').open = true")
    seen.js(FRAME)
    choose(seen, "block1/act")
    for text, ink, behind in seen.js(TEXTS.replace("body *", "#graph *")):
        assert contrast(*covered(ink, behind)) >= TEXT, (text, ink, behind)
    assert seen.js("document.documentElement.scrollWidth") <= 390
    seen.close()


# The library ------------------------------------------------------------------------------------


def test_the_library_that_lays_out_is_there_with_its_license(page: Path) -> None:
    text = page.read_text()
    assert "Copyright (c) 2012-2014 Chris Pettitt" in text
    assert "Permission is hereby granted, free of charge" in text


def test_the_library_is_the_file_of_its_package() -> None:
    folder = Path(page_module.__file__).parent / "dagre"
    told = (folder / "README.md").read_text()
    for name in ("dagre.min.js", "LICENSE"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in told
