"""Trains and looks at the second generation. python -m training.try_lags DATA RUN EPOCHS STEPS"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from training.covariates import Covariates
from training.forking import Bucket, ForkingStream
from training.global_forecaster import GlobalForecaster
from training.loop import LoopConfig, fit
from training.train_global import HORIZON, QUANTILE_LEVELS, read_pool, season_of
from training.windows import read_benchmark

MID = QUANTILE_LEVELS.index(0.5)


@torch.no_grad()
def predict(net, series, told, rows=32):
    out = [None] * len(series)
    order = sorted(range(len(series)), key=lambda i: len(series[i]))
    groups = {}
    for i in order:
        groups.setdefault(len(series[i]), []).append(i)
    for size, ids in groups.items():
        for s in range(0, len(ids), rows):
            some = ids[s : s + rows]
            v = torch.tensor(np.array([series[i] for i in some]))[..., None]
            st = net.fresh_state(len(some))
            st["season"] = torch.tensor([told[i] for i in some])
            q = net.predict(torch.nan_to_num(v), torch.isfinite(v).float(), st).numpy()
            for r, i in enumerate(some):
                out[i] = q[r]
    return out


def far(net, y, told, horizon):
    y = np.asarray(y, float)
    q = predict(net, [y], [told])[0]
    found = [q]
    while sum(map(len, found)) < horizon:
        y = np.concatenate([y, found[-1][:, MID]])
        found.append(predict(net, [y], [told])[0])
    return np.concatenate(found)[:horizon]


def evaluate(net, data):
    net.eval()
    for name in ("m3", "m1", "m4/Hourly-train.csv.gz", "m4/Weekly-train.csv.gz"):
        ws = read_benchmark(data / (name if "/" in name else f"{name}.jsonl.gz"))
        groups = sorted({w.group for w in ws})
        total = []
        for tell in (True, False):
            ser = [w.history[-2000:, 0] for w in ws]
            qs = predict(net, ser, [[season_of(w), 1] if tell else [1, 1] for w in ws])
            line = []
            for g in [*groups, None]:
                e, sm, c = [], [], []
                for w, q in zip(ws, qs):
                    if g is not None and w.group != g:
                        continue
                    h, m = len(w.truth), w.season
                    y = w.history[:, 0]
                    d = np.nanmean(np.abs(y[m:] - y[:-m])) if len(y) > m else np.nan
                    if not d > 0:
                        continue
                    f = q[:h, MID]
                    e.append(np.nanmean(np.abs(f - w.truth[: len(f)])) / d)
                    sm.append(np.nanmean(200 * np.abs(f - w.truth[: len(f)]) / (np.abs(f) + np.abs(w.truth[: len(f)]))))
                    c.append(np.mean((w.truth[: len(f)] >= q[:h, 4 - 1]) & (w.truth[: len(f)] <= q[:h, 11])))
                line.append(f"{g or 'all'} {np.mean(e):.3f}/{np.mean(sm):.2f}/{np.mean(c):.2f}")
            print(name, "told" if tell else "    ", "  ".join(line), flush=True)
    rng = np.random.default_rng(0)
    T = np.arange(248)
    for noise in (0, 0.2):
        line = []
        for p in (7.3, 20, 31.4, 62.8, 100):
            ys = [np.sin(2 * np.pi * T / p + rng.uniform(0, 6.28)) for _ in range(20)]
            qs = predict(net, [y[:200] + rng.normal(size=200) * noise for y in ys], [[1, 1]] * 20)
            line.append(f"{p}: {np.mean([np.abs(q[:, MID] - y[200:]).mean() for q, y in zip(qs, ys)]):.3f}")
        print("sine noise", noise, line)
    f = far(net, np.sin(np.arange(36.0)), [1, 1], 36)
    print("sin(0..35)", np.abs(f[:, MID] - np.sin(np.arange(36, 72))).mean())
    T = np.arange(150.0)
    print(
        "line+3",
        np.mean(
            [
                np.abs(far(net, 2 * T[:102] + rng.normal(size=102) * 3, [1, 1], 48)[:, MID] - 2 * T[102:]).mean()
                for _ in range(8)
            ]
        ),
    )
    y = 100 * 1.03 ** np.arange(100.0)
    f = far(net, y[:76], [1, 1], 24)
    print("3%", np.abs(f[:, MID] / y[76:] - 1).mean())
    freq = {"D": [7, 1], "MS": [12, 1], "h": [24, 168], "1min": [1, 1], None: [1, 1]}
    tot = []
    for l in open(data.parent / "silly-forecasts.jsonl"):
        d = json.loads(l)
        y = np.array([np.nan if v is None else v for v in d["values"]], float)
        f = far(net, y[-4000:], freq[d.get("freq")], d["horizon"])
        m = f[:, MID]
        t = d.get("truth")
        mae = np.abs(m - np.array(t, float)).mean() if t else np.nan
        tot.append(mae / d["mae"] if t and d.get("mae") else np.nan)
        print(
            f"{d['name']:32s} was {d.get('mae')} now {mae:.4g}",
            np.round(m[[0, 1, 2, -1]], 3),
            "80%:",
            np.round([f[-1, 3], f[-1, 11]], 2),
            "expected",
            d["expected"][:40],
            np.round(t[:3], 2).tolist() if t else "",
        )
    print("mean log ratio", np.nanmean(np.log(np.array(tot) + 1e-3)))


if __name__ == "__main__":
    data, run, epochs, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = GlobalForecaster(Covariates.none(), "lstm", 128, 2, 0.0, HORIZON, QUANTILE_LEVELS)
    if epochs:
        names = "nngc1 australia-panels currencies-monthly currencies-annual gapminder-yearly gefcom2012 daily-and-faster nab-real chicago-daily wikipedia-daily daily-mixed hourly-mixed pjm-hourly jewelry-weekly"
        files = [data / f"{n}.jsonl.gz" for n in names.split()] + [
            data / "m4/Hourly-train.csv.gz",
            data / "m4/Weekly-train.csv.gz",
        ]
        pool = read_pool(files, [data / "m3.jsonl.gz", data / "m1.jsonl.gz", data / "nn3.jsonl.gz"])
        print("series", len(pool.series), flush=True)
        buckets = (
            Bucket(12, 256, 4, 12, 0.1),
            Bucket(24, 160, 5, 18, 0.16),
            Bucket(64, 96, 6, 24, 0.25),
            Bucket(144, 48, 8, 36, 0.3),
            Bucket(384, 24, 12, 48, 0.18),
            Bucket(1024, 10, 20, 48, 0.12),
        )
        stream = ForkingStream(pool.series, steps, buckets, (), 0.45)
        start = time.time()
        fit(
            net,
            stream,
            None,
            LoopConfig(epochs=epochs, learning_rate=2e-3, patience=0, seed=1, precision="float32", average=0.998),
            run,
            {},
        )
        print("minutes", (time.time() - start) / 60)
        torch.save(net.state_dict(), run / "final.pt")
    else:
        saved = torch.load(run / sys.argv[5], map_location="cpu", weights_only=True)
        net.load_state_dict(saved.get("weights", saved) if "average" not in saved else saved["average"], strict=False)
    evaluate(net, data)
