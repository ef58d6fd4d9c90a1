"""Stacked layers of one cell, Elman, Jordan, LSTM or GRU: inputs + state -> outputs + state.

The state is a flat dict of tensors (B, hidden), named as in the exported graph.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Cell = Literal["elman", "jordan", "lstm", "gru"]
CELLS: tuple[Cell, ...] = get_args(Cell)

RecurrentState = Mapping[str, Tensor]


class JordanLayer(nn.Module):
    """Jordan's network as a layer: its output feeds back, not its hidden layer.

    h_t = tanh(W x_t + b + U y_{t-1}), y_t = tanh(V h_t + c)
    (M. I. Jordan, "Serial order: a parallel distributed processing approach", 1986).
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, hidden)
        self.from_output = nn.Linear(hidden, hidden, bias=False)
        self.to_output = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, inputs) and the previous output y (B, hidden) -> outputs (B, T, hidden) and the last output."""
        outputs = []
        for step in self.from_input(x).unbind(dim=1):
            y = torch.tanh(self.to_output(torch.tanh(step + self.from_output(y))))
            outputs.append(y)
        return torch.stack(outputs, dim=1), y


class LockedDropout(nn.Module):
    """Dropout of the same features in all steps of a window (Gal and Ghahramani 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, features) -> the same shape."""
        if not self.training or not self.rate:
            return x
        return x * nn.functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.rate)


_LAYERS: dict[Cell, type[nn.Module]] = {"elman": nn.RNN, "jordan": JordanLayer, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Layers of one cell.

    Dropout acts on the outputs of every layer but the last, as in PyTorch's stacks; `locked`: with one mask for all
    steps of a window. Weight dropout acts on the recurrent weights, always with one mask for a window (DropConnect, as
    in AWD-LSTM: Merity, Keskar and Socher 2018). `residual`: every layer but the first adds its input to its output.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        hidden: int,
        layers: int,
        dropout: float,
        weight_dropout: float = 0.0,
        residual: bool = False,
        locked: bool = False,
        prefix: str = "layer",
    ) -> None:
        super().__init__()
        self.cell = cell
        self.prefix = prefix
        self.residual = residual
        self.hidden = hidden
        layer_type = _LAYERS[cell]
        options = {} if cell == "jordan" else {"batch_first": True}
        self.layers = nn.ModuleList(layer_type(inputs if i == 0 else hidden, hidden, **options) for i in range(layers))
        self.dropout = LockedDropout(dropout) if locked else nn.Dropout(dropout)
        self.weight_dropout = weight_dropout
        for layer in self.layers:
            _initialise(layer, hidden)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors, each (B, hidden) and initially zero."""
        return tuple(f"{self.prefix}{i}_{part}" for i in range(len(self.layers)) for part in self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the state of a layer consists of."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    def from_input(self, i: int) -> tuple[Tensor, Tensor]:
        """A layer's weights from its input, and the sum of all biases that are added to the same product."""
        layer = self.layers[i]
        if isinstance(layer, JordanLayer):
            return layer.from_input.weight, layer.from_input.bias
        bias: Tensor = layer.get_parameter("bias_hh_l0")
        if self.cell == "gru":  # the last gate multiplies its recurrent bias by the reset gate
            bias = torch.cat([bias[: 2 * self.hidden], torch.zeros(self.hidden)])
        return layer.get_parameter("weight_ih_l0"), layer.get_parameter("bias_ih_l0") + bias

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """The state of `batch` sequences before their first step."""
        return {name: torch.zeros(batch, self.hidden, device=device) for name in self.state_names}

    def forward(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, dict[str, Tensor]]:
        """x (B, T, inputs) and the state before it -> outputs (B, T, hidden) and the state after it."""
        x, after, _ = self.run(x, state)
        return x, after

    def run(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """As `forward`, and the outputs of every layer."""
        after: dict[str, Tensor] = {}
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if i:
                x = self.dropout(x)
            layer_input = x
            names = [f"{self.prefix}{i}_{part}" for part in self.parts]
            h = state[names[0]]
            match self.cell:
                case "jordan":
                    x, after[names[0]] = layer(x, h)
                case "lstm":
                    carried = (h[None], state[names[1]][None])
                    x, last, cell_state = torch.lstm(x, carried, self._weights(layer), *self._mode)
                    after[names[0]], after[names[1]] = last[0], cell_state[0]
                case _:
                    run = torch.gru if self.cell == "gru" else torch.rnn_tanh
                    x, last = run(x, h[None], self._weights(layer), *self._mode)
                    after[names[0]] = last[0]
            if i and self.residual:
                x = x + layer_input
            outputs.append(x)
        return x, after, outputs

    @property
    def _mode(self) -> tuple[bool, int, float, bool, bool, bool]:
        """PyTorch's arguments after the weights: biases, layers, dropout, training, bidirectional, batch first."""
        return True, 1, 0.0, self.training, False, True

    def _weights(self, layer: nn.Module) -> list[Tensor]:
        weights = dict(layer.named_parameters())
        recurrent: Tensor = weights["weight_hh_l0"]
        if self.training and self.weight_dropout:
            recurrent = nn.functional.dropout(recurrent, self.weight_dropout)
        return [weights["weight_ih_l0"], recurrent, weights["bias_ih_l0"], weights["bias_hh_l0"]]


def _initialise(layer: nn.Module, hidden: int) -> None:
    """Orthogonal recurrent weights (Saxe et al. 2014), LSTM forget gates that start open (Jozefowicz et al. 2015)."""
    for name, parameter in layer.named_parameters():
        if "weight_hh" in name or "from_output" in name:
            for gate in torch.split(parameter, hidden):
                nn.init.orthogonal_(gate)
        elif parameter.dim() == 2:
            bound = math.sqrt(3 / parameter.shape[1])
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.zeros_(parameter)
    if isinstance(layer, nn.LSTM):
        with torch.no_grad():
            layer.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1.0
