"""Whether an engine computes what its graph says: it is run beside the exact reference.

An INT8 network is chaotic in its last bits. Two runtimes that both do what the graph says differ by
a unit in the last place of some float; where that moves a value over the middle between two
integers, the next layer sees another integer, and after a few layers the two differ by about what
quantization itself adds. So no fixed number of decibels tells a right engine from a wrong one in a
deep network. What does is the distance from the network without quantized activations (its float
twin): a right engine is as far from it as the exact reference is, a wrong one further.

    passed  =  same shapes, and
               SQNR(exact, engine) >= 45 dB,  or
               noise(twin, engine) <= (noise(twin, exact) + noise of float layers) * 10^(loss / 10)
               and noise(exact, engine) < noise(exact, zeros), noise(exact, the best constant)

with noise as power over that of the signal, and a loss of 1 dB and three times the spread of two
estimates of a power from n numbers, 10 log10(1 + sqrt(4 / n)).

Boxes after suppression are not looked at where there are other outputs: see `_chosen`.

An engine of a graph without Q and DQ, or with integers for weights alone, is held against the graph
in onnxruntime, within what its precision explains.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.quantized import float_twin, input_ranges, is_quantized, stored_weights
from onnxgraft.graph.sizing import inputs_that_size
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.graph.walk import nodes_within, parts
from onnxgraft.graph.wants import wants_of
from onnxgraft.run.answers import answers
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import KEPT_BYTES, batch_names, bytes_of
from onnxgraft.run.seen import Proof
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import (
    CONSTANT_DECIBELS,
    ENGINE_DECIBELS,
    ENGINE_LOSS,
    ENGINE_TOLERANCES,
    FLOAT_DECIBELS,
    NEARER_DECIBELS,
)
from onnxgraft.run.trial import Trial

__all__ = ["Proof", "Reference", "trials", "wide_trials", "worst"]

# An estimate of noise wants so many numbers; more samples than that are not asked.
_NUMBERS, _MOST = 2000, 16
# Float32 sums of some values differ by so much of themselves, added in another order.
_LAST_BITS = 2.0**-20
# Of its range; more than that a wrong engine could hide behind.
_MOST_BY_ROUNDING = 1e-2
# Whole numbers about these powers of two are tried beside those that proofs are made with.
_WIDTHS = (7, 14, 20, 24, 30, 40, 62)
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class Reference:
    """A graph's exact answers, and those of its float twin, on some feeds.

    Args:
        model: The graph that engines are built from.
        feeds: What they are run on; those that the graph itself does not take, such as a batch of
            one where it has to be even, are left out. Where answers are large, so are those before
            the last one, and where a single one is, all others.
        floats: What float layers run in, which explains a difference.
        twin: The same network without rounded activations, where the graph has no Q and DQ to
            leave out.

    Raises:
        OnnxgraftError: onnxruntime refuses the graph, or it takes none of the feeds, or there are
            none.
    """

    def __init__(
        self, model: Model, feeds: Sequence[Feeds], floats: str = "fp32", twin: Model | None = None
    ) -> None:
        self.feeds: list[Feeds] = []
        self.exact: list[Outputs] = []
        self.floats = floats
        stored = stored_weights(model) is not None
        self.quantized = twin is not None or (is_quantized(model) and not stored)
        refused: OnnxgraftError | None = None
        self._chosen = _chosen(model)
        kept = 0
        with exact(model) as session:
            for number, fed in enumerate(feeds, 1):
                most = KEPT_BYTES if number < len(feeds) else 2 * KEPT_BYTES
                if kept > most:
                    continue
                try:
                    self.exact.append(answers(session, fed))
                    self.feeds.append(fed)
                except OnnxgraftError as error:
                    refused = error
                else:
                    kept += bytes_of(self.exact[-1])
        if not self.feeds:
            raise refused or InputError("its inputs can't be fed with random numbers")
        self.rounding = {} if self.quantized else self._by_rounding(model)
        self.twin: list[Outputs] = self.exact
        if self.quantized:
            twin = twin or float_twin(model)
            with OnnxRuntime(twin.to_onnx(), name="float twin") as session:
                self.twin = [answers(session, fed) for fed in self.feeds]

    def of(self, feeds: Feeds) -> Reference | None:
        """Return the same of one of the feeds; None where the graph does not take it."""
        for number, fed in enumerate(self.feeds):
            if fed is feeds:
                part = copy.copy(self)
                part.feeds, part.exact = [fed], [self.exact[number]]
                part.twin = [self.twin[number]]
                return part
        return None

    def hold(self, engine: Engine, *, tf32: bool = False) -> list[Proof]:
        """Return what is seen of each output of an engine.

        Args:
            engine: It.
            tf32: Whether it may have computed in TF32, though it was not asked to.
        """
        try:
            found = [
                answers(engine, fed, right)
                for fed, right in zip(self.feeds, self.exact, strict=True)
            ]
        except OnnxgraftError as error:
            reason = f"the engine can't run: {error}"
            return [
                Proof(name, False, -math.inf, 0.0, 0.0, math.inf, reason) for name in self._names
            ]
        return self.judge(found, tf32=tf32)

    def judge(self, found: Sequence[Outputs], *, tf32: bool = False) -> list[Proof]:
        """Return what is seen of each output, of the answers to the feeds; see `hold`."""
        return [self._of(name, found, tf32) for name in self._names]

    def _by_rounding(self, model: Model) -> dict[str, float]:
        """Return by how much each output moves where what is rounded to whole numbers does.

        As of the pixels of a picture that the graph resizes: a value that is nearly in the middle
        of two is one or the other by its last bits.
        """
        moved = dict.fromkeys(self.exact[0], 0.0)
        if not any(is_op(node, "Round") for node in nodes_within(model.graph)):
            return moved
        for factor in (1 - _LAST_BITS, 1 + _LAST_BITS):
            # Where the graph computes in another type, nothing is known.
            with contextlib.suppress(OnnxgraftError), exact(_rounding(model, factor)) as session:
                found = [answers(session, fed) for fed in self.feeds]
                for name in moved:
                    pairs = [(a[name], b[name]) for a, b in zip(self.exact, found, strict=True)]
                    moved[name] += _difference(pairs).relative
        return moved

    @property
    def _names(self) -> list[str]:
        return [name for name in self.exact[0] if name not in self._chosen]

    def _of(self, name: str, found: Sequence[Outputs], tf32: bool) -> Proof:
        for right, made in zip(self.exact, found, strict=True):
            reason = _other_kind(right[name], made.get(name))
            if reason:
                return Proof(name, False, -math.inf, 0.0, 0.0, math.inf, reason)
        triples = [
            (twin[name], right[name], made[name])
            for twin, right, made in zip(self.twin, self.exact, found, strict=True)
        ]
        if triples[0][1].dtype.kind != "f":
            return _of_integers(name, triples, self.quantized)
        pairs = {
            "decibels": [(right, made) for _, right, made in triples],
            "exact": [(twin, right) for twin, right, _ in triples],
            "engine": [(twin, made) for twin, _, made in triples],
        }
        seen = {key: _difference(entries) for key, entries in pairs.items()}
        relative = seen["decibels"].relative
        values = {key: difference.sqnr for key, difference in seen.items()}
        if seen["decibels"].nonfinite:
            reason = f"{seen['decibels'].nonfinite} values are NaN or infinite on one side alone"
        elif self.quantized:
            count = sum(right.size for _, right, _ in triples)
            nothing = _constant([right for _, right, _ in triples])
            reason = _reason(values, max(count, 1), self.floats, nothing)
        else:
            by_rounding = min(self.rounding[name], _MOST_BY_ROUNDING)
            allowed = max(ENGINE_TOLERANCES[self.floats], by_rounding)
            values["exact"] = math.inf
            reason = "" if relative <= allowed else (
                f"differs from its graph by {relative:.1e} of the range, {allowed:.0e} is what "
                f"{self.floats} explains"
            )  # fmt: skip
            tf32 = tf32 and self.floats == "fp32" and relative <= ENGINE_TOLERANCES["tf32"]
            if reason and tf32:
                reason += (
                    "; TF32 would explain it: build it with --precision tf32, or keep the library "
                    "from computing in it with NVIDIA_TF32_OVERRIDE=0 in the environment"
                )
        return Proof(name, not reason, **values, relative=relative, reason=reason)


def _rounding(model: Model, factor: float) -> Model:
    """Return a copy that multiplies what it rounds to whole numbers by a factor."""
    moved = model.copy()
    names = FreeNames(moved.graph, moved.names)
    for part in parts(moved.graph):
        for node in [node for node in part.nodes if is_op(node, "Round")]:
            name = names.node(f"{node.name}/moved")
            made = gs.Variable(names.tensor(f"{name}:0"), node.inputs[0].dtype)
            by = gs.Constant(names.tensor(f"{name}/by"), np.array(factor, np.float32))
            part.nodes.insert(
                part.nodes.index(node), Node("Mul", name, {}, [node.inputs[0], by], [made])
            )
            node.inputs[0] = made
    return moved


def _chosen(model: Model) -> set[str]:
    """Return the outputs that ties and last bits choose: boxes after suppression, beside others.

    Where another box stays, all that stand behind it are in other places.
    """
    behind: set[str] = set()
    for node in model.graph.nodes:
        if is_op(node, "NonMaxSuppression") or behind.intersection(t.name for t in node.inputs):
            behind.update(tensor.name for tensor in node.outputs)
    names = [str(tensor.name) for tensor in model.graph.outputs]
    chosen = behind.intersection(names)
    return chosen if len(chosen) < len(names) else set()


def trials(
    model: Model, inputs: Sequence[TensorSpec], samples: Iterable[Feeds] = (), batch: int = 4
) -> list[Feeds]:
    """Return what to run an engine on: single samples, and a batch of them where that is free.

    Args:
        model: What the engine is built from. Where there are no samples, feeds are drawn at random
            over what its inputs hold.
        inputs: Of the engine, whose shapes may be fixed.
        samples: Feeds of batch 1; as many are taken as there need to be, and fewer of large ones.
        batch: The size of a batch, where it is free.
    """
    sizes = [
        math.prod(dim for dim in spec.shape[1:] if isinstance(dim, int)) for spec in model.outputs
    ]
    count = min(max(2, -(-_NUMBERS // max(min(sizes, default=1), 1))), _MOST)
    found = _some(samples, count)
    if not found:
        try:
            found = _some(_drawn(model, inputs), count)
        except InputError:  # text, for example
            return []
    batches = {*batch_names(inputs), "?"}
    free = {spec.name for spec in inputs if spec.shape and spec.shape[0] in batches}
    if not free:
        return found
    # Samples of other sizes can't be in one batch with the first.
    alike = [feeds for feeds in found if _shapes(feeds) == _shapes(found[0])]
    several = [alike[index % len(alike)] for index in range(batch)]
    together = {
        name: np.concatenate([feeds[name] for feeds in several]) if name in free else value
        for name, value in found[0].items()
    }
    return [*found, together]


def wide_trials(model: Model, inputs: Sequence[TensorSpec]) -> list[tuple[int, Feeds]]:
    """Return feeds with large whole numbers, with the power of two that these are about.

    In each power all such inputs are large, and then the first alone. Inputs that index tables, are
    masks, decide sizes, or are pictures of 8 bits are as in `trials`; where all are such, there are
    no feeds.
    """
    wants = wants_of(model.graph)
    usual = {*wants.indices, *wants.masks, *inputs_that_size(model.graph)}
    usual |= {spec.name for spec in inputs if spec.dtype.endswith("int8") and len(spec.shape) > 2}
    powers = {
        spec.name: int(np.iinfo(spec.dtype).max).bit_length() - 1
        for spec in inputs
        if spec.dtype in _WHOLE and spec.name not in usual
    }
    found: list[tuple[int, Feeds]] = []
    if not powers:
        return found
    with contextlib.suppress(InputError):
        plain = next(_drawn(model, inputs))
        for width in itertools.takewhile(lambda width: width <= max(powers.values()), _WIDTHS):
            for chosen in dict.fromkeys((tuple(powers), tuple(powers)[:1])):
                rng, fed = np.random.default_rng(width), dict(plain)
                for name in chosen:
                    # Near each other, so that a comparison has something to tell apart.
                    near = rng.integers(-3, 10, plain[name].shape)
                    fed[name] = (near + (1 << min(width, powers[name]))).astype(plain[name].dtype)
                found.append((width, fed))
    return found


def _shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in feeds.items()}


def _some(samples: Iterable[Feeds], count: int) -> list[Feeds]:
    """Return the first samples, up to a number of them, or of bytes."""
    found: list[Feeds] = []
    for feeds in itertools.islice(samples, count):
        found.append(feeds)
        if sum(map(bytes_of, found)) > KEPT_BYTES:
            break
    return found


def _drawn(model: Model, inputs: Sequence[TensorSpec]) -> Iterator[Feeds]:
    """Yield feeds that are drawn at random over what a graph's inputs hold."""
    ranges = input_ranges(model)
    trial = Trial(inputs, wants_of(model.graph))
    if trial.choices:
        # What runs in no size, or can't be loaded, whoever asks for the exact answers is told.
        with contextlib.suppress(InputError), exact(model) as session:
            trial.begin(lambda samples: [answers(session, feeds) for feeds in samples])
    setting = replace(trial.first, caution=max(trial.first.caution, 1))
    for seed in itertools.count():
        fed = trial.feeds(replace(setting, turn=seed), seed=seed)
        for name, (low, high) in ranges.items():
            if name in fed:
                share = (np.tanh(fed[name]) + 1) / 2  # within 0 and 1
                fed[name] = (low + (high - low) * share).astype(fed[name].dtype)
        yield fed


def worst(proofs: Sequence[Proof]) -> Proof:
    """Return the output that is furthest from what it should be."""
    return min(proofs, key=lambda proof: (proof.passed, proof.decibels))


def _reason(values: dict[str, float], count: int, floats: str, nothing: float) -> str:
    """Return why an output of an INT8 engine is not what its graph says; empty where it is.

    Args:
        values: Decibels of the engine and the exact answer.
        count: How many numbers there are of the output.
        floats: What float layers run in.
        nothing: Decibels, against the exact answer, of a constant, or of zeros.
    """
    if values["decibels"] >= ENGINE_DECIBELS:
        return ""
    if values["decibels"] < nothing + NEARER_DECIBELS:
        return (
            f"the engine keeps {values['decibels']:.1f} dB of the exact answer, "
            f"zeros or a constant would keep {nothing:.1f} dB"
        )
    loss = ENGINE_LOSS + 30 * math.log10(1 + math.sqrt(4 / count))
    allowed = _noise(values["exact"]) + _noise(FLOAT_DECIBELS[floats])
    if _noise(values["engine"]) <= allowed * 10 ** (loss / 10):
        return ""
    return (
        f"the engine keeps {values['engine']:.1f} dB of the network with float activations, its "
        f"graph keeps {values['exact']:.1f} dB ({values['decibels']:.1f} dB between the two)"
    )


def _constant(exact: Sequence[Array]) -> float:
    """Return how many dB of the exact answer the best constant keeps; 0 is what zeros keep."""
    values = np.concatenate([np.asarray(value, np.float64).ravel() for value in exact])
    values = values[np.isfinite(values)]
    if not values.any():
        return -math.inf
    varying = float(values.var())
    decibels = 10 * math.log10(float(np.mean(values**2)) / varying) if varying else math.inf
    return decibels if decibels < CONSTANT_DECIBELS else 0.0


def _noise(decibels: float) -> float:
    """Return the power of noise over that of the signal."""
    return float(10 ** (-decibels / 10))


def _of_integers(name: str, triples: list[tuple[Array, Array, Array]], quantized: bool) -> Proof:
    """Judge classes and the like: by how often the engine departs from them."""
    total = sum(right.size for _, right, _ in triples) or 1
    apart = sum(int(np.count_nonzero(made != right)) for _, right, made in triples) / total
    moved = sum(int(np.count_nonzero(right != twin)) for twin, right, _ in triples) / total
    # The exact graph departs from its twin by rounding, and a right engine may by as much again.
    allowed = max(2 * moved, 1e-3) if quantized else 1e-3
    reason = "" if apart <= allowed else (
        f"{100 * apart:.2f} % of the positions differ from the exact answer, {100 * allowed:.2f} % "
        "is what rounding explains"
    )  # fmt: skip
    decibels = math.inf if apart == 0 else -10 * math.log10(apart)
    return Proof(name, not reason, decibels, math.inf, decibels, apart, reason)


def _difference(pairs: Sequence[tuple[Array, Array]]) -> Difference:
    difference = Difference()
    for expected, actual in pairs:
        both = ~np.isfinite(expected) & (
            (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        )
        if both.any():  # the same on both sides says nothing
            expected, actual = np.where(both, 0, expected), np.where(both, 0, actual)
        difference.add(expected, actual)
    return difference


def _other_kind(expected: Array, actual: Array | None) -> str:
    if actual is None:
        return "the engine has no such output"
    if actual.shape != expected.shape:
        return f"the engine answers {actual.shape}, its graph says {expected.shape}"
    if actual.dtype.kind != expected.dtype.kind:
        return f"the engine answers {actual.dtype}, its graph says {expected.dtype}"
    return ""
