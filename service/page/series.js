// What the page asks the service about a series, the seasonal naive forecast to compare with, and the same calls
// elsewhere. A series is one of csv.js: {id, timestamps, start, freq, values}; options are {horizon, level, holdOut}.

import { curlOf, elsewhere, pythonOf } from "./api.js";

const INNER_LEVELS = [80, 50, 20];
export const ANOMALY_LEVEL = 99;
const JUDGED = 10000; // the newest values: a verdict costs more than a reading
export const INLINE = 500; // values in a call elsewhere; a longer series comes from the file request.json
const MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const levelsOf = (level) => [level, ...INNER_LEVELS.filter((inner) => inner <= level - 10)];
const mean = (numbers) => (numbers.length ? numbers.reduce((sum, each) => sum + each, 0) / numbers.length : null);
const timesOf = ({ start, freq }) => (freq ? { start, freq } : {});

/** The intervals {level, lower, upper} of quantiles. A name may have more digits: 1 - 0.05 is 0.95 only nearly. */
export const bandsOf = (quantiles, levels) => levels.map((level) => {
  const edge = (share) => quantiles[Object.keys(quantiles).find((name) => Math.abs(name - share) < 1e-9)];
  return { level, lower: edge((100 - level) / 200), upper: edge((100 + level) / 200) };
});

/** The body of a forecast, or of a backtest whose one window is the last `horizon` values. */
export const bodyOf = (series, { horizon, level, holdOut }) =>
  ({ series: series.values, ...timesOf(series), horizon, levels: levelsOf(level), ...(holdOut && { windows: 1 }) });

export async function askForecast(api, series, options, signal) {
  const route = options.holdOut ? "cross_validation" : "forecast";
  const { body } = await api.post(route, bodyOf(series, options), { signal });
  const window = options.holdOut ? body.windows[0] : { ...body, cutoff: series.values.length, actual: null };
  const bands = bandsOf(window.quantiles, levelsOf(options.level));
  const result = { series, options, ...window, bands, metrics: body.metrics, seasons: body.season_length };
  return { ...result, rival: rivalOf(result) };
}

/** The places of the values outside of the interval forecast just before them, from the place `from` on. */
export async function askAnomalies(api, series, signal) {
  const from = Math.max(0, series.values.length - JUDGED);
  const body = { series: series.values.slice(from), freq: series.freq, level: ANOMALY_LEVEL };
  const { anomaly } = (await api.post("anomalies", body, { signal })).body;
  return { series, from, found: anomaly.flatMap((is, i) => (is ? [from + i] : [])) };
}

/**
 * The seasonal naive forecast of the values after the cutoff: each is that of a season before. Its interval has the
 * width that the level's share of such differences in the history had, and grows with the root of the seasons ahead.
 * Errors are scaled as those of the service: by the mean difference over the first of its seasons.
 */
function seasonalNaive({ series, cutoff, actual, seasons, options }, season) {
  const past = series.values.slice(0, cutoff);
  const changes = (lag) => past.slice(lag).map((value, i) => [value, past[i]])
    .filter((pair) => !pair.includes(null)).map(([now, before]) => Math.abs(now - before));
  const sizes = changes(season).sort((a, b) => a - b);
  const width = sizes[Math.min(sizes.length - 1, Math.floor((options.level / 100) * sizes.length))];
  const forecast = actual.map((_, step) => {
    let at = cutoff + step;
    do at -= season; while (at >= cutoff || past[at] === null);
    return past[at] ?? null;
  });
  const errors = actual.map((value, step) => ({ step, error: Math.abs(value - forecast[step]) }))
    .filter(({ step }) => actual[step] !== null && forecast[step] !== null);
  const within = errors.filter(({ step, error }) => error <= width * Math.sqrt(1 + Math.floor(step / season)));
  const error = mean(errors.map((each) => each.error));
  const scale = mean(changes(seasons?.[0] ?? 1));
  const mase = scale && error !== null ? error / scale : null;
  return { season, forecast, mase, coverage: errors.length ? within.length / errors.length : null };
}

/** The better of the naive forecasts over the seasons that weighed: the stronger rival. */
function rivalOf(result) {
  if (!result.actual) return null;
  const seasons = (result.seasons ?? []).filter((season) => season < result.cutoff);
  const rivals = (seasons.length ? seasons : [1]).map((season) => seasonalNaive(result, season));
  return rivals.reduce((best, each) => ((each.mase ?? Infinity) < (best.mase ?? Infinity) ? each : best));
}

/** The forecasts of all series as CSV, in the columns of Carry's data frames; and which have none, and why. */
export async function forecastAll(api, all, { horizon, level }) {
  const requests = all.map((series) => bodyOf(series, { horizon, level }));
  const { results } = (await api.post("forecast/batch", { requests })).body;
  const levels = levelsOf(level);
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const head = ["unique_id", "ds", "median", ...levels.flatMap((each) => [`lo-${each}`, `hi-${each}`])];
  const rows = results.flatMap(({ median = [], quantiles, timestamps }, i) => {
    const columns = quantiles ? bandsOf(quantiles, levels).flatMap(({ lower, upper }) => [lower, upper]) : [];
    const time = (step) => timestamps?.[step] ?? all[i].values.length + step + 1;
    return median.map((value, step) => [quoted(all[i].id), time(step), value, ...columns.map((each) => each[step])]);
  });
  const failed = results.flatMap(({ detail }, i) => (detail ? [`${all[i].id}: ${detail}`] : []));
  const csv = [head, ...rows].map((row) => `${row.join(",")}\n`).join("");
  return { csv, failed, count: all.length - failed.length };
}

/** pandas' name of the frequency, or null where it has none for the first day. */
function pandasFreq({ start, freq, timestamps }) {
  const [, count, unit] = /^(\d*)(\w+)$/.exec(freq);
  const [first, next] = [0, 86400].map((seconds) => new Date((timestamps[0] + seconds) * 1000));
  if (unit === "W") return count ? null : `W-${WEEKDAYS[first.getUTCDay()]}`;
  if (!"YQM".includes(unit)) return count + ({ H: "h", S: "s" }[unit] ?? unit);
  const edge = start.endsWith("-01") ? "S" : next.getUTCDate() === 1 ? "E" : null;
  return edge && count + unit + edge + (unit === "M" ? "" : `-${MONTHS[first.getUTCMonth()]}`);
}

/** The call as curl, Python and nixtla's client make it. */
export function callsOf(series, options) {
  const { url, load, apiKey } = elsewhere();
  const body = bodyOf(series, options);
  const isLong = series.values.length > INLINE;
  const route = options.holdOut ? "cross_validation" : "forecast";
  const numbers = JSON.stringify(series.values).replaceAll("null", "None");
  const values = isLong ? 'json.load(open("request.json"))["series"]' : numbers;
  const times = series.freq ? `, start="${series.start}", freq="${series.freq}"` : "";
  const imports = isLong ? "import json\n" : "";
  const freq = series.freq && pandasFreq(series);
  const ds = freq ? `pd.date_range("${series.start}", periods=len(y), freq="${freq}")` : "range(len(y))";
  const list = `[${body.levels.join(", ")}]`;
  return {
    curl: curlOf(route, body, isLong ? "@request.json" : undefined),
    Python: pythonOf(`answer = client.${options.holdOut ? "backtest" : "forecast"}(
    ${values},
    ${body.horizon}, levels=${list}${times},
)
print(${options.holdOut ? "answer.metrics" : `answer.median, answer.interval(${options.level})`})`, imports),
    nixtla: `${imports}${load}import pandas as pd
from nixtla import NixtlaClient

y = ${values}
df = pd.DataFrame({"unique_id": ${JSON.stringify(series.id)}, "ds": ${ds}, "y": y})
client = NixtlaClient(base_url="${url}", api_key=${apiKey})
print(client.${route}(df, h=${body.horizon}, level=${list}, freq=${freq ? `"${freq}"` : 1}))`,
  };
}
