"""An engine as a stage: the layers that its library made of the graph's nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxgraft.graph.model import Model
from onnxgraft.run.layer_nodes import Placed, Planned, call, place
from onnxgraft.run.layers import Layer, plain_precision
from onnxgraft.stages.validate.views.graph.data import Shown, ShownTensor, Stage
from onnxgraft.stages.validate.views.graph.scopes import fold

__all__ = ["stage_of_engine"]

# What libraries call a constant that they keep, and the ends of the network: no layers to draw.
_CONSTANTS = frozenset({"Const", "Constant"})
_ENDS = frozenset({"Input", "Output", "Parameter", "Result"})
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def stage_of_engine(
    title: str,
    model: Model,
    layers: Sequence[Layer],
    graph: Stage,
    milliseconds: Mapping[str, float],
) -> tuple[Stage, list[tuple[int, int]]]:
    """Return an engine as a stage, and the pairs of a node of its graph and the layer it is in.

    Args:
        title: Of the stage.
        model: That the engine was built from.
        layers: As its library tells them.
        graph: The same model as a stage.
        milliseconds: By node of the graph, where layers themselves were not timed.
    """
    return _Drawing(title, model, _drawn(place(model, layers)), graph, milliseconds).made()


def _drawn(placed: Sequence[Placed]) -> list[Placed]:
    """Return the layers without the ends, and without what is computed of constants alone."""
    constant: set[str] = set()
    found = []
    for one in placed:
        layer = one.layer
        fixed = layer.kind in _CONSTANTS or (layer.reads and constant.issuperset(layer.reads))
        if fixed and not one.nodes:
            constant.update(layer.makes)
        elif layer.kind not in _ENDS or one.nodes:
            found.append(one)
    return found


class _Drawing:
    """A stage in the making.

    A tensor is known by the library's name, or by its place in the graph.
    """

    def __init__(
        self,
        title: str,
        model: Model,
        placed: Sequence[Placed],
        graph: Stage,
        milliseconds: Mapping[str, float],
    ) -> None:
        self.stage = Stage(title, "engine")
        self._model, self._placed, self._graph = model, placed, graph
        self._planned, self._milliseconds = Planned(model), milliseconds
        self._where = where = graph.places()
        self._nodes = [[where[name] for name in one.nodes if name in where] for one in placed]
        self._tensors: dict[str | int, int] = {}
        self._scopes: list[tuple[str, ...]] = []
        # What the graph's inputs are called, which libraries call so too.
        self._inputs = {
            graph.tensors[t].name: t for n in graph.nodes if n.role == "input" for t in n.outputs
        }
        self._makers: dict[int, int] = {}  # of the graph's tensors: the layer
        inside: dict[int, int] = {}
        for number, nodes in enumerate(self._nodes):
            for node in nodes:
                inside.setdefault(node, number)
                for tensor in graph.nodes[node].outputs:
                    self._makers.setdefault(tensor, number)
        # The tensors that leave the layer that makes them.
        self._leaving = {
            tensor for place, node in enumerate(graph.nodes) for tensor in node.inputs
            if inside.get(place) != self._makers.get(tensor)
        }  # fmt: skip
        self._theirs = {name for one in placed for name in one.layer.makes}

    def made(self) -> tuple[Stage, list[tuple[int, int]]]:
        """Return the stage, and which nodes are in which of its layers."""
        pairs: list[tuple[int, int]] = []
        ends = [(place, node) for place, node in enumerate(self._graph.nodes) if node.role]
        for at, end in ends:
            if end.role == "input":
                pairs.append((at, self._end(end)))
        for number, one in enumerate(self._placed):
            pairs += [(node, len(self.stage.nodes)) for node in self._nodes[number]]
            self.stage.nodes.append(self._layer(number, one))
            self._scopes.append(self._scope(one))
        for at, end in ends:
            if end.role == "output":
                pairs.append((at, self._end(end)))
        self.stage.blocks = fold(self.stage.nodes, self._scopes)
        return self.stage, pairs

    def _end(self, end: Shown) -> int:
        inputs, outputs = ([*map(self._tensor, side)] for side in (end.inputs, end.outputs))
        self.stage.nodes.append(
            Shown(end.name, end.operator, inputs=inputs, outputs=outputs, role=end.role)
        )
        self._scopes.append(())
        return len(self.stage.nodes) - 1

    def _tensor(self, key: str | int) -> int:
        """Return the place of a tensor in this stage."""
        if key not in self._tensors:
            self._tensors[key] = len(self.stage.tensors)
            self.stage.tensors.append(
                ShownTensor(key) if isinstance(key, str) else self._graph.tensors[key]
            )
        return self._tensors[key]

    def _reads(self, number: int, layer: Layer) -> list[str | int]:
        """Return what a layer reads: as its library tells it, or else as its nodes do."""
        told: list[str | int] = [
            self._inputs.get(name, name) for name in layer.reads
            if name in self._theirs or name in self._inputs
        ]  # fmt: skip
        return told or [
            tensor for node in self._nodes[number] for tensor in self._graph.nodes[node].inputs
            if self._makers.get(tensor) != number
        ]  # fmt: skip

    def _makes(self, number: int, layer: Layer) -> list[str | int]:
        own: list[str | int] = [
            tensor for node in self._nodes[number] for tensor in self._graph.nodes[node].outputs
            if self._makers.get(tensor) == number and tensor in self._leaving
        ]  # fmt: skip
        return [*own, *layer.makes]

    def _scope(self, one: Placed) -> tuple[str, ...]:
        """Return the scope of the last node that is in a layer, or that it is beside."""
        named = [name for name in (*reversed(one.nodes), one.beside) if name in self._where]
        block = self._graph.nodes[self._where[named[0]]].block if named else -1
        scope: list[str] = []
        while block >= 0:
            scope.insert(0, self._graph.blocks[block].name)
            block = self._graph.blocks[block].parent
        return tuple(scope)

    def _layer(self, number: int, one: Placed) -> Shown:
        layer, nodes = one.layer, [self._graph.nodes[place] for place in self._nodes[number]]
        named = self._planned.nodes(one.nodes)
        runs, stands = plain_precision(layer.precision), self._planned.of(one.nodes)
        worst = min((n for n in nodes if n.sqnr is not None), key=_signal, default=Shown("", ""))
        return Shown(
            layer.name, layer.kind, role="" if layer.role == "layer" else layer.role,
            origin=call(self._model, named).layer if named else "",
            inputs=list(dict.fromkeys(map(self._tensor, self._reads(number, layer)))),
            outputs=list(dict.fromkeys(map(self._tensor, self._makes(number, layer)))),
            attributes={"runs in": layer.precision} if layer.precision else {},
            precision=runs, graph=stands if runs and stands != runs else "",
            macs=sum(node.macs for node in nodes), milliseconds=self._spent(one),
            error=worst.error, sqnr=worst.sqnr, arrived=worst.arrived,
            notes=[*_told(one, nodes, runs, stands)],
        )  # fmt: skip

    def _spent(self, one: Placed) -> float | None:
        """Return the milliseconds of a layer: its own, or those of the nodes in it."""
        if one.layer.milliseconds is not None or one.layer.role != "layer":
            return one.layer.milliseconds
        known = [self._milliseconds[n] for n in one.nodes if n in self._milliseconds]
        return sum(known) if known else None


def _signal(node: Shown) -> float:
    return node.sqnr or 0.0


def _told(one: Placed, nodes: Sequence[Shown], runs: str, stands: str) -> list[str]:
    """Return what a layer is made of, in sentences."""
    told = []
    own = [node for node in nodes if node.operator not in _QUANTIZERS] or nodes
    if own:
        told.append(f"computes {', '.join(f'{node.operator} {node.name}' for node in own)}")
    if one.layer.tactic:
        told.append(f"runs {one.layer.tactic}")
    if one.layer.change:
        told.append(f"changes {one.layer.change}")
    if one.beside:
        told.append(f"is there for {one.beside}")
    if one.layer.role == "layer" and runs and stands and runs != stands:
        told.append(f"the graph has it in {stands}, and the engine computes it in {runs}")
    return told
