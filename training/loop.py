"""The training loop: truncated backpropagation with carried state, for any network whose `forward` returns a loss.

Knows nothing of series or text. Everything random is a function of (seed, epoch), so that a killed and resumed run ends
with the same weights as an uninterrupted one. Several processes (`torchrun`) train one network through PyTorch's
DistributedDataParallel, each on its share of the data.
"""

import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.checkpoint import LOG_FILE, Identity, RunError, how_to_go_on, resumable_checkpoint, save_checkpoint
from training.data.tbptt_batches import Batch
from training.nets.cells import Recurrent
from training.progress import counted, say, track

Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["cosine", "wsd"]
Device = Literal["auto", "cpu", "cuda"]
DECAY = 0.3
"""The last part of a run, in which the schedule wsd lowers the rate."""


class Stream(Protocol):
    """The batches of an epoch (0, 1, ...), about `steps` of them; without a generator, those of a validation pass."""

    @property
    def steps(self) -> int: ...

    def batches(self, rng: np.random.Generator | None, epoch: int = 0) -> Iterator[Batch]: ...


@runtime_checkable
class Network(Protocol):
    """A module whose `forward(*batch.arguments, state)` returns (loss, new state)."""

    def initial_state(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class LoopConfig:
    """How long and how to train.

    patience: epochs without a better validation loss after which training stops; 0: never. average: validate and keep
    weights averaged over about 1 / (1 - average) steps; 0: the weights themselves. muon: train the matrices of the
    recurrent layers by Muon (Jordan et al. 2024), which orthogonalises each step, scaled to AdamW's length (Liu et al.
    2025); everything else by AdamW. schedule: after a linear warm-up the learning rate falls to a hundredth, in a
    cosine (Loshchilov and Hutter 2017), or stays and falls linearly in the last DECAY of the run (warm-up, stable,
    decay; Hu et al. 2024). device: auto is a GPU if there is one.
    """

    epochs: int
    learning_rate: float
    patience: int
    clip: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.02
    seed: int = 1
    precision: Precision = "auto"
    average: float = 0.0
    muon: bool = False
    schedule: Schedule = "cosine"
    device: Device = "auto"


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Losses in the network's unit, that of validation None if nothing is held out for it; speed
    in predictions (of steps or characters) per second."""

    epoch: int
    train_loss: float
    valid_loss: float | None
    learning_rate: float
    seconds: float
    speed: float


class StoppedError(KeyboardInterrupt):
    """A person stopped the training; the message says where, and how it goes on."""


def kept_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are kept: that of the lowest validation loss, or the last one without any."""
    validated = [epoch for epoch in history if epoch.valid_loss is not None]
    return min(validated, key=lambda epoch: epoch.valid_loss or 0.0, default=history[-1])


def select_device(device: Device = "auto") -> torch.device:
    """The GPU of this process if there is one and `device` allows it, else the CPU.

    Raises:
        RunError: `device` is cuda and there is no GPU.
    """
    if device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device == "cuda":
        raise RunError("--device cuda: PyTorch finds no GPU here; --device auto trains without one")
    return torch.device("cpu")


def autocast(
    precision: Precision, device: torch.device, network: nn.Module
) -> Callable[[], AbstractContextManager[Any]]:
    """bfloat16 autocast, if the processor multiplies bfloat16 natively and the layers are wide enough to gain."""
    if precision == "auto":
        widest = max(parameter.shape[0] for parameter in network.parameters() if parameter.dim() == 2)
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.backends.cpu.get_cpu_capability() != "AVX2"
        precision = "bfloat16" if fast and widest >= 1024 else "float32"
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def fit(
    network: nn.Module, train: Stream, valid: Stream | None, config: LoopConfig, run: Path, identity: Identity
) -> list[Epoch]:
    """Train in place. The network ends with its best weights on the validation part, or with the last ones without it.

    `run` is the folder of the checkpoint and the log; a run of the same identity in it is resumed. Gradients are
    clipped by their norm.

    Raises:
        RunError: the folder holds an unfinished run of another identity, the training part has no value to predict, or
            the training diverges.
    """
    run.mkdir(parents=True, exist_ok=True)
    device = select_device(config.device)
    network.to(device)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = distributed.get_rank() if ranks > 1 else 0
    trained: nn.Module = DistributedDataParallel(network) if ranks > 1 else network
    optimisers = _optimisers(network, config)
    cast = autocast(config.precision, device, network)
    averaged = AveragedModel(network, multi_avg_fn=_moving(config.average)) if config.average else None
    validated = network if averaged is None else averaged.module

    history: list[Epoch] = []
    best, best_epoch, best_weights = math.inf, 0, _weights(network)
    rate = config.learning_rate
    saved = resumable_checkpoint(run, identity, device)
    wrote = None
    if saved is not None:
        network.load_state_dict(saved["network"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        if averaged is not None:
            averaged.load_state_dict(saved["averaged"])
        history = [Epoch(**line) for line in saved["history"]]
        best, best_epoch, best_weights = saved["best"], saved["best_epoch"], saved["best_weights"]
        wrote = saved["wrote"]

    if history:
        _say_resumed(history, config)
    first = saved_epochs = len(history)
    try:
        with track(config.epochs) as update:
            for epoch in range(first, config.epochs):
                if _has_no_gain(epoch - 1, best_epoch, config):
                    break
                started = time.monotonic()
                torch.manual_seed(config.seed * 1_000_003 + epoch * ranks + rank)
                rng = np.random.default_rng([config.seed, epoch, rank])
                total, count = 0.0, 0
                trained.train()
                with _uneven_shares(trained):
                    for step, (loss, weight) in enumerate(_losses(trained, network, train.batches(rng, epoch), cast)):
                        done = min(1.0, step / train.steps)
                        rate = _learning_rate(config, (epoch + done) / config.epochs)
                        for optimiser in optimisers:
                            for group in optimiser.param_groups:
                                group["lr"] = rate
                            optimiser.zero_grad(set_to_none=True)
                        torch.autograd.backward(loss)
                        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
                        if not math.isfinite(norm):
                            raise _diverged(epoch, "a gradient", float(norm), config)
                        for optimiser in optimisers:
                            optimiser.step()
                        if averaged is not None:
                            averaged.update_parameters(network)
                        total, count = total + loss.item() * weight, count + weight
                        speed = count * ranks / (time.monotonic() - started)
                        place = f"epoch {epoch + 1} of {config.epochs}"
                        figures = f"loss {total / max(count, 1):.4f}, {speed:,.0f} predictions/s"
                        update(epoch + done, f"{place}, {100 * done:.0f} %, {figures}")
                train_loss = _mean(total, count, ranks, device)
                if math.isnan(train_loss):
                    raise RunError(f"epoch {epoch + 1}: the training part holds no value that could be predicted")
                seconds = time.monotonic() - started
                valid_loss = evaluate(validated, valid, cast) if valid is not None else None
                if valid_loss is not None and not math.isfinite(valid_loss):
                    raise _diverged(epoch, "the validation loss", valid_loss, config)
                history.append(Epoch(epoch + 1, train_loss, valid_loss, rate, seconds, count * ranks / seconds))
                if valid_loss is None:
                    best_epoch, best_weights = epoch, _weights(validated)
                elif valid_loss < best:
                    best, best_epoch, best_weights = valid_loss, epoch, _weights(validated)
                if rank == 0:
                    state = {
                        "identity": dict(identity),
                        "wrote": wrote,
                        "network": network.state_dict(),
                        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                        "averaged": None if averaged is None else averaged.state_dict(),
                        "history": [vars(line) for line in history],
                        "best": best,
                        "best_epoch": best_epoch,
                        "best_weights": best_weights,
                    }
                    save_checkpoint(run, state)
                    saved_epochs = epoch + 1
                    write_log(history, run / LOG_FILE)
                update(epoch + 1, f"epoch {epoch + 1} of {config.epochs}: {_figures(history[-1])}", always=True)
    except KeyboardInterrupt:
        newest = min(saved_epochs + 1, config.epochs)
        raise StoppedError(f"stopped at epoch {newest} of {config.epochs}; {how_to_go_on(run, saved_epochs)}") from None
    if len(history) > first:
        _say_trained(history, config)
    network.load_state_dict(best_weights)
    return history


def _has_no_gain(epoch: int, best_epoch: int, config: LoopConfig) -> bool:
    """Whether the validation loss has not fallen for so many epochs up to this one (0, 1, ...) that training stops."""
    return bool(config.patience) and epoch - best_epoch >= config.patience


def _figures(epoch: Epoch) -> str:
    validation = "" if epoch.valid_loss is None else f"validation {epoch.valid_loss:.4f}, "
    return f"loss {epoch.train_loss:.4f}, {validation}{epoch.speed:,.0f} predictions/s"


def _say_resumed(history: Sequence[Epoch], config: LoopConfig) -> None:
    done, last = len(history), kept_epoch(history).epoch
    if done >= config.epochs or _has_no_gain(done - 1, last - 1, config):
        say(f"all epochs of this run are trained ({done}); --restart begins anew")
    else:
        say(f"resuming at epoch {done + 1} of {config.epochs}; --restart begins anew")


def _say_trained(history: Sequence[Epoch], config: LoopConfig) -> None:
    """Say how many epochs were trained, why they ended, and which weights are kept."""
    best, done = kept_epoch(history), len(history)
    trained = f"trained {counted(done, 'epoch')} in {sum(epoch.seconds for epoch in history):,.0f} s"
    if best.valid_loss is None:
        say(f"{trained}, the last loss {best.train_loss:.4f}; nothing is held out to choose")
        return
    end = ""
    if done < config.epochs:
        end = f", not {config.epochs}: the validation loss has not fallen for {config.patience} epochs (--patience)"
    say(f"{trained}{end}; kept is epoch {best.epoch}, validation loss {best.valid_loss:.4f}")


def _optimisers(network: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    recurrent = [module for module in network.modules() if isinstance(module, Recurrent)]
    matrices = [p for module in recurrent for p in module.parameters() if p.dim() == 2] if config.muon else []
    others = [p for p in network.parameters() if not any(p is matrix for matrix in matrices)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay)
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimisers


def _moving(decay: float) -> Callable[..., None]:
    average: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return average


def evaluate(
    network: nn.Module, stream: Stream, cast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float:
    """Mean loss over one pass of the stream, with the state carried along each row; NaN if nothing in it counts."""
    network.eval()
    with torch.no_grad():
        total, count = 0.0, 0
        for loss, weight in _losses(network, network, stream.batches(None), cast):
            total, count = total + loss.item() * weight, count + weight
    return total / count if count else math.nan


def write_log(history: list[Epoch], path: Path) -> None:
    """Write the history as CSV, one line per epoch; an empty cell where nothing is held out to validate on."""
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, fieldnames=list(Epoch.__dataclass_fields__), lineterminator="\n")
        lines.writeheader()
        for epoch in history:
            lines.writerow({name: "" if value is None else f"{value:.6g}" for name, value in vars(epoch).items()})


def _losses(
    forward: nn.Module, network: nn.Module, batches: Iterator[Batch], cast: Callable[[], AbstractContextManager[Any]]
) -> Iterator[tuple[Tensor, int]]:
    """Run the batches in order: carry each row's state from window to window and cut the gradient between them."""
    assert isinstance(network, Network)
    device = next(network.parameters()).device
    state: dict[str, Tensor] | None = None
    for batch in batches:
        fresh = batch.fresh.to(device)
        if state is None or bool(fresh.all()):
            state = network.initial_state(len(fresh), device)
        state = {
            name: tensor.detach().masked_fill(fresh.view(-1, *[1] * (tensor.dim() - 1)), 0.0)
            for name, tensor in state.items()
        }
        with cast():
            loss, after = forward(*(argument.to(device) for argument in batch.arguments), state)
        state = {name: tensor.to(state[name].dtype) for name, tensor in after.items()}
        if batch.weight:
            yield loss, batch.weight


def _learning_rate(config: LoopConfig, progress: float) -> float:
    warm = min(1.0, (progress + 1e-3) / config.warmup) if config.warmup else 1.0
    if config.schedule == "wsd":
        return config.learning_rate * warm * max(0.01, min(1.0, (1 - progress) / DECAY))
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _uneven_shares(trained: nn.Module) -> AbstractContextManager[Any]:
    """Lets a process without batches wait for the others (PyTorch's Join)."""
    return trained.join() if isinstance(trained, DistributedDataParallel) else nullcontext()


def _mean(total: float, count: int, ranks: int, device: torch.device) -> float:
    sums = torch.tensor([total, float(count)], dtype=torch.float64, device=device)
    if ranks > 1:
        distributed.all_reduce(sums)
    return float(sums[0] / sums[1])


def _diverged(epoch: int, what: str, value: float, config: LoopConfig) -> RunError:
    return RunError(
        f"epoch {epoch + 1}: {what} is {value}: the training diverges. A lower --learning-rate helps "
        f"(now {config.learning_rate:g}; try {config.learning_rate / 3:.1g}); --restart begins anew"
    )


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
