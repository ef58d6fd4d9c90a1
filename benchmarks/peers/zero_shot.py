"""Chronos-Bolt-tiny and TiRex, of their own packages and sizes, with weights that are not trained: for their time only.

Runs in an environment of its own. Reads a line `MODEL ROWS STEPS`, forecasts 24 values of so many series of so many
values, and answers with the seconds that it took.
"""

import sys
import time
from collections.abc import Callable

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
from tirex.models.tirex import TiRexZero
from torch import Tensor
from transformers import T5Config

HORIZON = 24
DECILES = [round(0.1 * i, 1) for i in range(1, 10)]


def chronos_bolt_tiny() -> Callable[[Tensor], Tensor]:
    """9 million parameters: the configuration published with the model."""
    config = T5Config(d_model=256, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4, num_heads=4, vocab_size=2)
    config.is_gated_act, config.dense_act_fn = False, "relu"
    config.decoder_start_token_id = config.pad_token_id = 0
    config.chronos_config = {
        "context_length": 2048,
        "prediction_length": 64,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "quantiles": DECILES,
        "use_reg_token": True,
    }
    pipeline = ChronosBoltPipeline(ChronosBoltModelForForecasting(config).eval())
    return lambda series: pipeline.predict(series, prediction_length=HORIZON)


def tirex() -> Callable[[Tensor], Tensor]:
    """35 million parameters: sizes as in Auer et al. 2025, and the backend for processors."""
    sizes = {
        "input_patch_size": 32,
        "output_patch_size": 32,
        "quantiles": DECILES,
        "block_kwargs": {"embedding_dim": 512, "num_heads": 4, "num_blocks": 12},
        "input_ff_dim": 2048,
    }
    model = TiRexZero("torch", sizes, train_ctx_len=2048).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return lambda series: model.forecast(context=series, prediction_length=HORIZON)[0]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {"chronos-bolt-tiny": chronos_bolt_tiny(), "tirex": tirex()}
    for line in sys.stdin:
        name, rows, steps = line.split()
        series = torch.randn(int(rows), int(steps)).cumsum(1)
        started = time.perf_counter()
        with torch.inference_mode():
            found = models[name](series)
        assert HORIZON in found.shape
        sys.stdout.write(f"{time.perf_counter() - started}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
