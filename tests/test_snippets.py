"""Every block of code on a page runs, in the order of the page, as CONTRIBUTING.md says."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from onnxgraft.stages.convert.caffe.layers import table
from tests.conftest import CI, DEEP, ROOT, once
from tests.scenes import caffe_network, street, tensorflow_network
from tests.snippets import LANGUAGES, Reader, agrees, blocks

PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md")),
]  # fmt: skip
BLOCKS = {str(page.relative_to(ROOT)): list(blocks(page.read_text("utf-8"))) for page in PAGES}
RUN = [
    name
    for name, found in BLOCKS.items()
    if any(block.language in ("python", "sh") for block in found)
]
# What can't run here, by the reason that the pages give. A page that adds one changes this, too.
NOT_RUN = {
    "it answers until it is ended": 1, "it asks a server": 3, "needs a GPU": 4,
    "needs TensorRT 10": 1, "needs a container daemon": 1,
    "needs the runtime's headers": 1, "a file of another program": 1, "needs other machines": 1,
}  # fmt: skip
# These take long: they train or deploy a network.
LONG = {
    "docs/howto/is-training.md", "docs/tutorials/keras-classifier.md", "docs/tutorials/detector.md",
    "docs/tutorials/caffe-car.md", "docs/tutorials/pytorch.md", "docs/tutorials/thirty-lines.md",
}  # fmt: skip
# And these longest: `make deep` follows them.
LONGEST = {
    "docs/tutorials/caffe-car.md", "docs/tutorials/detector.md",
    "docs/tutorials/keras-classifier.md", "docs/tutorials/pytorch.md",
}  # fmt: skip
NEEDS = {
    "docs/tutorials/detector.md": "torch",
    "docs/tutorials/pytorch.md": "torch",
    "docs/pytorch.md": "torch",
    "docs/data.md": "torch",
}


pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Take back what a page changes for the whole process."""
    layers = [(place, dict(place)) for place in (table.LAYERS, table.INPUTS, table.FIELDS)]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads or len(os.sched_getaffinity(0)))
    root.handlers[:], root.level = handlers, level
    for place, before in layers:
        place.clear()
        place.update(before)


def scene(page: str, request: pytest.FixtureRequest, folder: Path) -> None:
    """Put into a page's folder what stands before it begins."""
    factory = request.getfixturevalue("tmp_path_factory")
    if page == "README.md":
        if CI:
            (folder / "demo").symlink_to(request.getfixturevalue("lenet"))
            tensorflow_network(folder, request.getfixturevalue("shared"))
    elif page == "docs/howto/is-training.md":
        shutil.copy(request.getfixturevalue("lenet") / "lenet5.pb", folder)
    elif page == "docs/tutorials/caffe-car.md":
        caffe_network(folder, request.getfixturevalue("shared"))
    elif not page.startswith("docs/tutorials"):
        shutil.copytree(once(factory, "street", street), folder, dirs_exist_ok=True)


@pytest.mark.filterwarnings("default")  # a reader's program is not stopped by one
@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_says(
    page: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page in LONG and not CI:
        pytest.skip("it takes long: set CI=1, as .ci/run does")
    if page in LONGEST and not DEEP:
        pytest.skip("it takes long: `make deep` does it")
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    scene(page, request, tmp_path)
    reader = Reader(page, tmp_path)
    for block in BLOCKS[page]:
        if block.reason or (block.long and not CI):
            reader.printed = None
        else:
            reader.follow(block)


def test_what_is_not_run_is_counted() -> None:
    reasons = Counter(block.reason for found in BLOCKS.values() for block in found if block.reason)
    assert reasons == NOT_RUN


@pytest.mark.parametrize("page", BLOCKS)
def test_every_block_says_what_it_is(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    fences = len(re.findall(r"^```", text, re.MULTILINE))
    assert fences == 2 * len(BLOCKS[page]), "a fence is indented, or not closed"
    assert {block.language for block in BLOCKS[page]} <= set(LANGUAGES)


def test_what_is_shown_may_differ_in_numbers_and_spaces_alone() -> None:
    printed = "Stages of net\nconverted  12 -> 3   1.2e-06  pass\ncleaned  3 -> 3  0.0  pass\n"
    assert agrees(printed, printed)
    assert agrees("Stages of net\nconverted 9 -> 33 1e-7 pass\n...", printed)
    assert agrees("Stages ...\n...\ncleaned 3 -> 3 0.0 pass", printed)
    assert not agrees("Stages of net\nconverted 12 -> 3 1.2e-06 pass", printed)
    assert not agrees(printed.replace("pass", "FAIL"), printed)
    assert not agrees("...\ncleaned 3 -> 3 0.0 pass\nconverted ...", printed)


@pytest.mark.parametrize(
    "page",
    [
        "```python\nraise ValueError\n```\n",
        "```python\nprint(1)\n```\n\n```text\none\n```\n",
        "```sh\nonnxgraft inspect gone.onnx\n```\n",
        "```sh\nwget page.html\n```\n",
        "```sh\nmake nothing-of-the-kind\n```\n",
        "```sh\npip install 'onnxgraft[nothing]'\n```\n",
        "```toml\n[calibrate]\nimages = 0\n```\n",
    ],
)
def test_a_block_that_does_not_do_what_it_says_is_seen(page: str, tmp_path: Path) -> None:
    reader = Reader("page.md", tmp_path)
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        for block in blocks(page):
            reader.follow(block)
