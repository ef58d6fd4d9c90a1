// What the page asks the service about a series, and the seasonal naive forecast to compare with. A series is one of
// csv.js: {id, timestamps, start, freq, values}; options are {horizon, level, holdOut}. Draws nothing.

const INNER_LEVELS = [80, 50, 20];
export const ANOMALY_LEVEL = 99;
const JUDGED = 10000; // the newest values; those before are only read, since a verdict costs more
const BATCH = 500; // series in one call of /forecast/batch

const levelsOf = (level) => [level, ...INNER_LEVELS.filter((inner) => inner <= level - 10)];
const edgesOf = (level) => [(100 - level) / 200, (100 + level) / 200];
const mean = (numbers) => (numbers.length ? numbers.reduce((sum, each) => sum + each, 0) / numbers.length : null);

/** The list of a level, whose name may have more digits: 1 - 0.05 is 0.95 only nearly. */
const quantile = (quantiles, edge) => quantiles[Object.keys(quantiles).find((name) => Math.abs(name - edge) < 1e-9)];

/** The body of a forecast, or of a backtest whose one window is the last `horizon` values. */
export function bodyOf(series, { horizon, level, holdOut }) {
  const times = series.freq ? { start: series.start, freq: series.freq } : {};
  return { series: series.values, ...times, horizon, levels: levelsOf(level), ...(holdOut && { windows: 1 }) };
}

export async function askForecast(api, series, options, signal) {
  const route = options.holdOut ? "cross_validation" : "forecast";
  const { body } = await api.post(route, bodyOf(series, options), { signal });
  const window = options.holdOut ? body.windows[0] : { ...body, cutoff: series.values.length, actual: null };
  const bands = levelsOf(options.level).map((level) => {
    const [lower, upper] = edgesOf(level).map((edge) => quantile(window.quantiles, edge));
    return { level, lower, upper };
  });
  return { series, options, ...window, bands, metrics: body.metrics, seasons: body.season_length };
}

/** The places of the values outside of the interval forecast just before them, from the place `from` on. */
export async function askAnomalies(api, series, signal) {
  const from = Math.max(0, series.values.length - JUDGED);
  const times = series.freq ? { freq: series.freq } : {};
  const before = { ...times, series: series.values.slice(0, from), horizon: 1, state: "" };
  const start = from ? { state: (await api.post("forecast", before, { signal })).body.state } : times;
  const body = { ...start, series: series.values.slice(from), level: ANOMALY_LEVEL };
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
    .filter(([now, before]) => now !== null && before !== null).map(([now, before]) => Math.abs(now - before));
  const sizes = changes(season).sort((a, b) => a - b);
  const width = sizes[Math.min(sizes.length - 1, Math.floor((options.level / 100) * sizes.length))] ?? NaN;
  const forecast = actual.map((_, step) => {
    let at = cutoff + step;
    do at -= season; while (at >= cutoff || (at >= 0 && past[at] === null));
    return at >= 0 ? past[at] : null;
  });
  const errors = actual.map((value, step) => [Math.abs(value - forecast[step]), step])
    .filter((_, step) => actual[step] !== null && forecast[step] !== null);
  const within = errors.filter(([error, step]) => error <= width * Math.sqrt(1 + Math.floor(step / season)));
  const scale = mean(changes(seasons?.[0] ?? 1));
  return {
    season, forecast, mase: errors.length && scale ? mean(errors.map(([error]) => error)) / scale : null,
    coverage: errors.length && !Number.isNaN(width) ? within.length / errors.length : null,
  };
}

/** The better of the naive forecasts over the seasons that weighed: the stronger rival. */
export function rivalOf(result) {
  if (!result.actual) return null;
  const seasons = (result.seasons ?? [1]).filter((season) => season < result.cutoff);
  const rivals = (seasons.length ? seasons : [1]).map((season) => seasonalNaive(result, season));
  return rivals.reduce((best, each) => ((each.mase ?? Infinity) < (best.mase ?? Infinity) ? each : best));
}

const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);

/** The forecasts of all series as CSV, in the columns of Carry's data frames; and which have none, and why. */
export async function forecastAll(api, all, { horizon, level }) {
  const levels = levelsOf(level);
  const rows = [["unique_id", "ds", "median", ...levels.flatMap((each) => [`lo-${each}`, `hi-${each}`])]];
  const failed = [];
  for (let from = 0; from < all.length; from += BATCH) {
    const part = all.slice(from, from + BATCH);
    const requests = part.map((series) => bodyOf(series, { horizon, level }));
    const { body } = await api.post("forecast/batch", { requests });
    body.results.forEach((answer, i) => {
      if (!answer.median) return failed.push(`${part[i].id}: ${answer.detail}`);
      const edges = levels.flatMap(edgesOf).map((edge) => quantile(answer.quantiles, edge));
      return answer.median.forEach((median, step) => {
        const time = answer.timestamps?.[step] ?? part[i].values.length + step + 1;
        rows.push([part[i].id, time, median, ...edges.map((each) => each[step])]);
      });
    });
  }
  const text = rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
  return { csv: text, count: all.length - failed.length, failed };
}
