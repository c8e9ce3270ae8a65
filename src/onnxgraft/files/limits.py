"""What a file may hold: checked before memory is taken, whoever wrote it.

A limit stands well above anything that is in use (the reason says what was looked at) and low
enough that refusing a file takes less than 2 GB and 30 s. What a sound file demands when it is run
is bounded by ``--max-memory`` and ``--max-seconds``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnxgraft.errors import InputError

__all__ = [
    "ARCHIVE_GROWTH", "ARCHIVE_MEMBERS", "AXES", "BODY_NAMES", "BUFFER_BYTES", "CACHE_BYTES",
    "CALL_LEVELS", "COLUMNS", "CONSTANT_BYTES", "DEPTH", "DOCUMENT_BYTES", "ENDS",
    "EXTERNAL_COPIES", "EXTERNAL_GROWTH", "FIELDS", "HISTOGRAM_BYTES", "HOST_BYTES",
    "IMAGE_BYTES", "IMAGE_PIXELS", "JPEG_SCANS", "JSON_MEMORY", "LABEL_BYTES", "MODEL_BYTES",
    "NAME_BYTES", "NODES", "PASSPORT_BYTES", "PROGRAM_NODES", "PROTOTXT_BYTES",
    "RECORDING_BYTES", "REQUEST_MEMORY", "ROWS", "RUNNING_BYTES", "SETTINGS_BYTES",
    "SPOOLED_BYTES", "STRUCTURE_BYTES", "TENSORS", "TENSOR_VALUES", "TEXT_GRAPH_BYTES",
    "TEXT_GRAPH_LINE", "TEXT_GRAPH_MESSAGES", "TEXT_GRAPH_VALUES", "UNPACKED_BYTES", "Limit",
    "shape_fault", "table",
]  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """The most that is taken of something.

    Attributes:
        what: Is counted, as a sentence says it.
        most: Of it.
        reason: For the number.
    """

    what: str
    most: int
    reason: str

    def check(self, count: int, where: str, cure: str = "") -> None:
        """Raise InputError if ``count`` is more; ``where`` and ``cure`` are the sentence's ends."""
        if count > self.most:
            raise InputError(f"{where} {self.refusal(count)}{cure and f'; {cure}'}")

    def refusal(self, count: int) -> str:
        """Return what is wrong with ``count``, as the end of a sentence."""
        if self.bytes and self.what.startswith("memory "):
            return f"takes more than {_size(self.most)} of {self.what}"
        if self.bytes:
            return f"has {_size(count)}, at most {_size(self.most)} of {self.what} are read"
        return f"has {count:,} {self.what}, at most {self.most:,} are read"

    @property
    def bytes(self) -> bool:
        """Whether bytes are counted."""
        return self.reason.startswith("Bytes: ")


NODES = Limit(
    "nodes", 250_000,
    "Reading one takes 3 KB and 0.04 ms, or of TensorFlow 10 KB and 0.2 ms (measured); graphs in "
    "use have thousands.",
)  # fmt: skip
PROGRAM_NODES = Limit(
    "nodes of a program", 50_000,
    "PyTorch takes 20 KB and 10 ms for one (measured); programs in use have hundreds.",
)  # fmt: skip
ENDS = Limit(
    "inputs and outputs of operators", 750_000,
    "An output of TensorFlow's takes 1.4 KB and 30 us (measured); a node has two to four of both.",
)  # fmt: skip
TENSORS = Limit("stored tensors", 250_000, "In use is less than one for each node.")
FIELDS = Limit(
    "fields of messages", 1 << 24,
    "Walking over one takes up to 1.5 us (measured); a node has some 50.",
)  # fmt: skip
DEPTH = Limit(
    "levels of nested messages",
    100,
    "What protobuf's own readers take: 30 subgraphs in each other.",
)
STRUCTURE_BYTES = Limit(
    "memory beside the values of tensors", 5 << 28,
    "Bytes: counted by the type of each message, as measured; 100,000 nodes take 0.4 to 1.1 GB.",
)  # fmt: skip
MODEL_BYTES = Limit(
    "a model file with views of its weights", 1 << 36, "Bytes: they are mapped, not read at once."
)
BUFFER_BYTES = Limit(
    "a model file", (1 << 31) - 1, "Bytes: what protobuf and FlatBuffers can hold in one message."
)
TEXT_GRAPH_BYTES = Limit(
    "a graph as text", 1 << 28, "Bytes: weights as text take four times their size."
)
TEXT_GRAPH_MESSAGES = Limit(
    "messages in text", 1 << 19, "A node is some ten; reading so many takes 10 s (measured)."
)
TEXT_GRAPH_VALUES = Limit("values in text", 1 << 22, "Reading so many takes 25 s (measured).")
TEXT_GRAPH_LINE = Limit(
    "a line of text, beside the values of tensors", 1 << 23,
    "Bytes: protobuf's parser takes 100 for each (measured).",
)  # fmt: skip
NAME_BYTES = Limit("a name", 1 << 14, "Bytes: nested scopes make hundreds; names are printed.")
AXES = Limit("axes of a tensor", 32, "numpy's limit before its version 2; networks have up to 8.")
TENSOR_VALUES = Limit(
    "values in a tensor", 1 << 33, "32 GB of float32; what a graph declares is what it will take."
)
CONSTANT_BYTES = Limit(
    "constants that are stored as one value", 1 << 29,
    "Bytes: a few bytes can say a tensor of any size; masks and zeros take some MB.",
)  # fmt: skip
EXTERNAL_GROWTH = Limit(
    "times the size of the files that its tensors lie in", 4,
    "Weights that are shared are one tensor; 64 MB more are allowed.",
)  # fmt: skip
EXTERNAL_COPIES = Limit(
    "tensors in other files that are no initializers of the graph", 1 << 30,
    "Bytes: they are copied into the message; initializers are mapped.",
)  # fmt: skip
BODY_NAMES = Limit(
    "tensors that bodies of operators see, together", 1 << 27,
    "Listing one takes 0.1 us (measured); 1,000 branches in a graph of 100,000 nodes.",
)  # fmt: skip
CALL_LEVELS = Limit(
    "levels of functions that call each other", 100, "Modules within modules are some ten deep."
)
RUNNING_BYTES = Limit(
    "tensors of one sample that are there at once", 1 << 31,
    "Bytes: by their sizes, where these are known before it runs; --max-memory allows more.",
)  # fmt: skip
PROTOTXT_BYTES = Limit("a prototxt", 1 << 23, "Bytes: a layer takes some 200.")
ARCHIVE_MEMBERS = Limit("members in an archive", 10_000, "A Keras file has three, and its assets.")
ARCHIVE_GROWTH = Limit(
    "times its own size when unpacked", 4, "Weights hardly shrink; 64 MB more are allowed."
)
UNPACKED_BYTES = Limit(
    "packed arrays", 1 << 32, "Bytes: they are unpacked to the disk; what is not packed is mapped."
)
DOCUMENT_BYTES = Limit("JSON or text", 1 << 26, "Bytes: a range takes 160, the line of a list 50.")
JSON_MEMORY = Limit(
    "memory for the values of JSON", 5 << 28,
    "Bytes: by its brackets and commas, as measured; one of COCO's annotations counts 700.",
)  # fmt: skip
REQUEST_MEMORY = Limit(
    "memory for the values of JSON in a request", 1 << 28,
    "Bytes: counted likewise; 6,700,000 numbers. More are sent as binary data.",
)  # fmt: skip
ROWS = Limit(
    "rows in a list", 1_500_000, "A row takes 1 KB (measured); ImageNet has 1,281,167 images."
)
COLUMNS = Limit("columns in a list", 1 << 12, "One for each input, and the label.")
JPEG_SCANS = Limit(
    "scans in a JPEG", 100, "One of the largest picture takes 30 ms (measured); in use are ten."
)
LABEL_BYTES = Limit("labels of one image", 1 << 24, "Bytes: an object takes up to 400, in XML.")
SPOOLED_BYTES = Limit(
    "samples that Python gives", 1 << 38,
    "Bytes: 450,000 images of 224 x 224 as float32; what never ends is stopped.",
)  # fmt: skip
HISTOGRAM_BYTES = Limit("unpacked histograms", 1 << 30, "Bytes: a bin that is not empty takes 10.")
SETTINGS_BYTES = Limit("TOML", 1 << 20, "Bytes: a recipe is a page of text.")
PASSPORT_BYTES = Limit(
    "a passport", 1 << 22, "Bytes: a passport is a page of text and a row for each latency."
)
RECORDING_BYTES = Limit(
    "a Polygraphy recording",
    1 << 30,
    "Bytes: what is written for later is no larger, either.",
)
CACHE_BYTES = Limit(
    "a calibration cache",
    1 << 26,
    "Bytes: a line is a name and eight digits; a million of 60 characters.",
)
HOST_BYTES = Limit(
    "a message of a host", 1 << 30,
    "Bytes: the outputs of an inference; 128 maps of 1024 x 2048 float32.",
)  # fmt: skip
IMAGE_BYTES = Limit("an image file", 1 << 29, "Bytes: the most pixels, in 16 bits and not packed.")
IMAGE_PIXELS = Limit(
    "pixels in an image", 1 << 26, "8192 x 8192; as float32 they take 800 MB, twice while made."
)


def shape_fault(axes: Iterable[int]) -> str | None:
    """Return what is wrong with a shape of too many axes or values, as the end of a sentence.

    An empty axis, and one of no known length, count as one: numpy wants the others to fit, too.
    """
    known = [max(axis, 1) for axis in axes]
    if len(known) > AXES.most:
        return AXES.refusal(len(known))
    count = math.prod(known)
    return TENSOR_VALUES.refusal(count) if count > TENSOR_VALUES.most else None


def table() -> Iterator[tuple[str, str, str]]:
    """Yield what is limited, to how much, and why."""
    for name in __all__:
        entry = globals()[name]
        if isinstance(entry, Limit):
            most = _size(entry.most) if entry.bytes else f"{entry.most:,}"
            reason = entry.reason.removeprefix("Bytes: ")
            yield entry.what, most, reason[0].upper() + reason[1:]


def _size(count: int) -> str:
    if count >= 1 << 80:  # which no machine has, and no float may hold
        return "more than 10^24 bytes"
    for unit, shift in (("GB", 30), ("MB", 20), ("KB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.3g} {unit}"
    return f"{count} bytes"
