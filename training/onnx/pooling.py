"""Running figures of the outputs of layers, as operators: their mean and their maximum so far. Knows no networks.

Sums are taken in the order of the steps, so that they have the same bits however a sequence is cut.
"""

import numpy as np
import onnx
from onnx import helper

from training.nets.classifier import LOWEST
from training.onnx.backend import OnnxBackend, Value
from training.onnx.layers import row_ends
from training.onnx.operations import F32, Builder, Port


class Pool:
    """The mean and the maximum of outputs, and with `minimum` also the maximum of the negated ones.

    every (T, B, width): the outputs; row b counts its first `lengths`[b] ones, perhaps none. The states have the prefix
    in their names. lowest: no output is lower, nor, with `minimum`, larger negated.
    """

    def __init__(
        self,
        f: OnnxBackend,
        prefix: str,
        width: int,
        every: str,
        lengths: str = "lengths",
        minimum: bool = False,
        lowest: float = LOWEST,
    ) -> None:
        g = self._g = f.g
        self._lowest = lowest
        self._f, self._every, self._lengths = f, every, lengths
        self._sum, self._largest = f"{prefix}_sum", f"{prefix}_largest"
        self._compared = g.op("Concat", every, g.op("Neg", every), axis=2) if minimum else every
        # The sum before the first step, and after every step.
        self._sums = g.op("CumSum", g.op("Concat", self._row(self._sum), every, axis=0), g.const(0))
        compared = 2 * width if minimum else width
        self.state = [
            (Port(self._sum, "float32", (width,)), Port(f"{self._sum}_out", "float32", (width,))),
            (
                Port(self._largest, "float32", (compared,), lowest),
                Port(f"{self._largest}_out", "float32", (compared,), lowest),
            ),
        ]

    def _row(self, name: str) -> str:
        return self._g.op("Unsqueeze", name, self._g.const([0]))

    def before(self, b: Builder, count: Value) -> list[str]:
        """The mean and the maximum before the first step, each (B, ...). count (B, 1): outputs of earlier calls, at
        least 1 where the result matters."""
        return [b.op("Div", self._sum, b.op("Cast", count.name, to=F32)), self._largest]

    def at_end(self, count: Value) -> list[str]:
        """The mean and the maximum at each row's end, each (B, ...); writes the new state.

        count (B, 1): the outputs so far, at least 1."""
        g = self._g
        after = g.op("Add", self._lengths, g.const(1))
        total = g.op("GatherND", self._sums, row_ends(g, after), name=f"{self._sum}_out")
        steps = g.op("Unsqueeze", g.positions(self._every, 0), g.const([1]))
        inside = g.op("Unsqueeze", g.op("Less", steps, self._row(self._lengths)), g.const([2]))
        counted = g.op("Where", inside, self._compared, g.const(self._lowest, "float32"))
        highest = g.op("ReduceMax", counted, g.const([0]), keepdims=0)
        largest = g.op("Max", self._largest, highest, name=f"{self._largest}_out")
        return [g.op("Div", total, self._f.cast(count, "float32").name), largest]

    def at_every_step(self, b: Builder, count: Value) -> list[str]:
        """The same after every step, each (T, B, ...), in a branch of the graph. count (B, 1): the outputs before."""
        sums = b.op("Slice", self._sums, b.const([1]), b.const([np.iinfo(np.int64).max]), b.const([0]))
        step = b.op("Unsqueeze", b.positions(self._every, 0), b.const([1, 2]))
        counts = b.op("Add", b.op("Add", step, b.const(1)), count.name)  # (T, 1, 1) + (B, 1) -> (T, B, 1)
        body = Builder(prefix="largest_step_")
        body.op("Max", "before", "output", name="after")
        body.op("Identity", "after", name="largest")

        def row(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, F32, None)

        graph = helper.make_graph(
            body.nodes, "largest", [row("before"), row("output")], [row("after"), row("largest")], body.constants
        )
        _, largest = b.ops("Scan", self._largest, self._compared, names=[None, None], body=graph, num_scan_inputs=1)
        return [b.op("Div", sums, b.op("Cast", counts, to=F32)), largest]
