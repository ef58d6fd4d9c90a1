"""Stores matrices in int8. Knows nothing of ONNX.

A matrix is whole numbers within [-127, 127] times a scale for each output. Scales have 16 significant bits, so that
these products are exact in float32: a network with rounded matrices is the same network, to the bit, after it is read
back. The graphs of a text model in both precisions share the stored matrices.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.nets.text import TextModel


def quantise(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix (inputs, outputs) as symmetric int8 and a scale for each column."""
    scale = (np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127).astype(np.float32)
    # Round up, so that no whole number exceeds 127.
    scale = ((scale.view(np.uint32) + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def round_matrices(network: TextModel) -> None:
    """Round in place every matrix that the exported graphs hold in int8: the layers' and the head's."""
    with torch.no_grad():
        for layer in network.recurrent.layers:
            for parameter in layer.parameters():
                if parameter.dim() == 2 and parameter is not network.recurrent.from_input(0)[0]:
                    _round(parameter, [parameter.shape[1]])
        _round(network.recurrent.from_input(0)[0], network.input_widths)
        _round(network.head.weight, network.head_widths)


def _round(weight: torch.Tensor, widths: Sequence[int]) -> None:
    """weight (outputs, inputs); each block of `widths` inputs has its own scales."""
    for columns in torch.split(weight, list(widths), dim=1):
        matrix, scale = quantise(columns.detach().numpy().T)
        columns.copy_(torch.from_numpy((matrix * scale).T))
