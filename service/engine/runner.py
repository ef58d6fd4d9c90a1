"""Makes batched calls of an ONNX graph. The only user of ONNX Runtime; knows tensors, not text or series."""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import ModelFailedError
from service.manifest import PER_STEP_OUTPUTS, Graph

Array = NDArray[Any]
States = dict[str, Array]
"""Recurrent state by name, each array (B, ...)."""

# ONNX Runtime logs to standard error in its own format; its errors reach us as exceptions.
onnxruntime.set_default_logger_severity(4)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class GraphMismatchError(Exception):
    """The ONNX file is not the graph that the manifest describes."""


class Runner:
    """An open graph."""

    def __init__(self, folder: Path, graph: Graph, threads: int) -> None:
        """Open the graph.

        Raises:
            GraphMismatchError: the file is no ONNX model, or its inputs and outputs are not those of the manifest.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that spins while it waits takes a core from the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        # Which buffers may share memory takes ONNX Runtime more than half of the time to open a forecaster, and saves
        # neither memory nor time in a call: buffers are freed after their last use all the same.
        options.enable_mem_reuse = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / graph.file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the only common base of ONNX Runtime's exceptions
            raise GraphMismatchError(f"{graph.file} is not a model that ONNX Runtime can load") from error
        self._graph = graph
        self._state_names = [state.name for state in graph.state]
        self._state_outputs = [state.output for state in graph.state]
        self._check()

    def initial_states(self, batch: int) -> States:
        """The states of `batch` empty sequences."""
        return {s.name: np.full((batch, *s.shape), s.initial, dtype=s.dtype) for s in self._graph.state}

    def prefill(
        self,
        inputs: Mapping[str, Array],
        lengths: NDArray[np.int64],
        states: Mapping[str, Array],
        output_names: Sequence[str],
    ) -> tuple[list[Array], States]:
        """One call of a graph that reads: inputs (B, T, ...), of which row b uses the first lengths[b] steps, and
        states -> the named outputs, and the new states.

        Raises:
            ModelFailedError: ONNX Runtime could not run it.
        """
        per_step = np.array(not PER_STEP_OUTPUTS.isdisjoint(output_names))
        return self.run({**inputs, "lengths": lengths, "per_step": per_step}, states, output_names)

    def run(
        self, inputs: Mapping[str, Array], states: Mapping[str, Array], output_names: Sequence[str]
    ) -> tuple[list[Array], States]:
        """One call: the graph's inputs and states -> the named outputs, and the new states.

        Raises:
            ModelFailedError: ONNX Runtime could not run it.
        """
        try:
            arrays = self._session.run([*output_names, *self._state_outputs], {**inputs, **states})
        except Exception as error:  # as above
            raise ModelFailedError("the model failed to run") from error
        count = len(output_names)
        return arrays[:count], dict(zip(self._state_names, arrays[count:], strict=True))

    def _check(self) -> None:
        graph = self._graph
        expected_inputs = {t.name: (t.dtype, _known(t.shape)) for t in graph.inputs}
        expected_inputs |= {s.name: (s.dtype, _known(s.shape)) for s in graph.state}
        expected_outputs = {t.name: (t.dtype, _known(t.shape)) for t in graph.outputs}
        expected_outputs |= {s.output: (s.dtype, _known(s.shape)) for s in graph.state}
        for what, ports, expected in (
            ("inputs", self._session.get_inputs(), expected_inputs),
            ("outputs", self._session.get_outputs(), expected_outputs),
        ):
            actual = {port.name: (_DTYPES.get(port.type, port.type), _known(port.shape[1:])) for port in ports}
            names = sorted(n for n in actual.keys() | expected.keys() if actual.get(n) != expected.get(n))
            if names:
                raise GraphMismatchError(f"{graph.file} and the manifest disagree on the {what} {', '.join(names)}")


def check_outputs(file: str, outputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check a graph's outputs for ordinary input.

    Raises:
        GraphMismatchError: an output has another shape, or is not finite.
    """
    for name, output in outputs.items():
        if output.shape != shapes[name]:
            raise GraphMismatchError(f"{file}: {name} has the shape {output.shape}, not {shapes[name]}")
        if not np.isfinite(output).all():
            raise GraphMismatchError(f"{file}: {name} is not finite for ordinary input")


def _known(shape: Sequence[int | str | None]) -> tuple[int | None, ...]:
    """A shape, with None for sizes that vary from call to call."""
    return tuple(size if isinstance(size, int) else None for size in shape)


_PRODUCT = base64.b64decode(
    "CAUSADpcChgKAXgKAXcSAXkiDU1hdE11bEludGVnZXISAXBaEwoBeBIOCgwIAhIICgIIAQoCCEBaEwoBdxIOCgwIAxIICgIIQAoCCBBiEwoBeRIO"
    "CgwIBhIICgIIAQoCCBBCBAoAEAo="
)
"""An ONNX model of one MatMulInteger: x uint8 (1, 64) by w int8 (64, 16)."""


@cache
def int8_is_exact() -> bool:
    """Whether int8 products are exact on this processor.

    On x86 without VNNI, ONNX Runtime adds pairs of products in 16 bits, where large ones saturate: an int8 graph gives
    other, slightly worse answers than on other processors.
    """
    session = onnxruntime.InferenceSession(_PRODUCT, providers=["CPUExecutionProvider"])
    x, w = np.full((1, 64), 255, dtype=np.uint8), np.full((64, 16), 127, dtype=np.int8)
    [product] = session.run(None, {"x": x, "w": w})
    return bool((product == 64 * 255 * 127).all())
