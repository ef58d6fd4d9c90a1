// A series, its forecast as a fan of nested intervals, and what came true. Draws with uPlot and reads colours from
// style.css at each draw. Knows nothing of the service, of CSV or of sessions.
import uPlot from "./vendor/uplot.js";
import { html, useEffect, useMemo, useRef, useState } from "./ui.js";

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 6, useGrouping: false });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 5, notation: "compact" });

/** A number in at most about eight characters; "–" if there is none. */
export function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-5)) return value.toExponential(3);
  return (size >= 1e6 ? short : plain).format(value);
}

/** A function from unix seconds to a date in UTC, as fine as the times are apart (`step`, in seconds). */
export function dateFormat(step) {
  const parts = { timeZone: "UTC", year: "numeric" };
  if (step < 330 * 86400) parts.month = "short";
  if (step < 27 * 86400) parts.day = "numeric";
  if (step < 86400) Object.assign(parts, { hour: "2-digit", minute: "2-digit" });
  if (step < 60) parts.second = "2-digit";
  const format = new Intl.DateTimeFormat("en-GB", parts);
  return (seconds) => format.format(seconds * 1000);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The columns that uPlot draws: x, then one of each line, all as long as history and forecast together. */
function arrange({ history, forecast, truth, naive, anomalies }) {
  const count = history.x.length;
  const parts = [forecast, truth, naive].filter(Boolean);
  const after = [...new Set(parts.flatMap((part) => Array.from(part.x)))].sort((a, b) => a - b);
  const place = new Map(after.map((x, i) => [x, count + i]));
  let last = count - 1;
  while (last >= 0 && history.y[last] === null) last -= 1;
  const empty = () => new Array(count + after.length).fill(null);
  const tail = (x, y, joined) => {
    const column = empty();
    if (joined && last >= 0) column[last] = history.y[last]; // the fan opens from the newest value
    x.forEach((time, i) => { column[place.get(time)] = y[i]; });
    return column;
  };
  const marked = empty();
  for (const index of anomalies) marked[index] = history.y[index];
  const bands = forecast ? [...forecast.bands].sort((a, b) => b.level - a.level) : [];
  const lines = [
    ...bands.flatMap(({ level, lower, upper }) => [
      { kind: "upper", level, column: tail(forecast.x, upper, true) },
      { kind: "lower", level, column: tail(forecast.x, lower, true) },
    ]),
    { kind: "naive", column: naive && tail(naive.x, naive.y, true) },
    { kind: "median", column: forecast && tail(forecast.x, forecast.median, true) },
    { kind: "history", column: [...history.y, ...after.map(() => null)] },
    { kind: "truth", column: truth && tail(truth.x, truth.y, true) },
    { kind: "anomaly", column: anomalies.length > 0 && marked },
  ].filter((line) => line.column);
  return { x: [...history.x, ...after], lines, count, newest: Math.max(last, 0) };
}

const COUNTS = [1, 10, 100, 1000, 10000, 100000].flatMap((unit) => [unit, 2 * unit, 5 * unit]);
const isAhead = (kind) => kind !== "history" && kind !== "anomaly";

const STYLES = {
  upper: { colour: "--chart-band", width: 0, points: { show: false } },
  lower: { colour: "--chart-band", width: 0, points: { show: false } },
  naive: { colour: "--chart-naive", width: 1.75, dash: [3, 4], points: { show: false } },
  median: { colour: "--chart-median", width: 2 },
  history: { colour: "--chart-line", width: 1.25 },
  truth: { colour: "--chart-truth", width: 1.5, points: { show: true, size: 4 } },
  anomaly: { colour: "--chart-anomaly", width: 0, paths: () => null, points: { show: true, size: 10, width: 2 } },
};

const linear = uPlot.paths.linear();

/** Lines that begin at the newest value are drawn from there, or each would search a long history for its begin. */
function seriesOf({ kind, level }, lines, newest) {
  const { colour: name, points, ...style } = STYLES[kind];
  const stroke = () => colour(name);
  const fill = kind === "anomaly" ? "transparent" : stroke;
  const paths = (u, series, from, to) => (to <= newest() ? null : linear(u, series, Math.max(from, newest()), to));
  const series = { ...style, stroke, points: { size: 4, ...points, stroke, fill } };
  const inner = level !== undefined && level !== lines[0].level; // the outermost interval sets the scale
  return isAhead(kind) ? { ...series, paths, auto: !inner } : series;
}

const DATES = [
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
];

function optionsOf({ lines, newest, time, width, height, onZoom, onCursor }) {
  const axis = (more) => ({
    stroke: () => colour("--chart-text"),
    font: "12px system-ui, sans-serif",
    grid: { stroke: () => colour("--chart-grid"), width: 1 },
    ticks: { show: false },
    ...more,
  });
  const edges = lines.map((line, i) => ({ ...line, i: i + 1 })).filter((line) => line.kind === "upper");
  return {
    width,
    height,
    legend: { show: false },
    padding: [10, 12, 0, 4],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { x: { time, range: (u, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) } },
    axes: [
      axis(time ? { values: DATES } : { values: (u, splits) => splits.map(String), incrs: COUNTS }),
      axis({
        values: (u, splits) => splits.map(formatNumber),
        size: (u, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((value) => value.length)),
      }),
    ],
    series: [{}, ...lines.map((line) => seriesOf(line, lines, newest))],
    bands: edges.map(({ i }) => ({
      series: [i, i + 1],
      fill: () => `color-mix(in srgb, ${colour("--chart-band")} 16%, transparent)`,
    })),
    cursor: { points: { size: 6 }, drag: { x: true, y: false, setScale: true } },
    hooks: { setSelect: [(u) => u.select.width > 0 && onZoom(true)], setCursor: [onCursor] },
  };
}

const NAMES = { history: "Value", truth: "True value", median: "Median", naive: "Seasonal naive", anomaly: "Anomaly" };

/** What the lines are, and their values at the cursor. It alone is drawn again when the cursor moves. */
function Legend({ data: { x, lines, count }, time, listener }) {
  const [cursor, setCursor] = useState(null);
  listener.current = setCursor;
  const when = useMemo(() => (time ? dateFormat(x.length > 1 ? x.at(-1) - x.at(-2) : 1) : String), [x, time]);
  const at = cursor !== null && cursor < x.length ? cursor : null;
  const value = ({ kind, column }) =>
    at === null || column[at] === null || (at < count && isAhead(kind)) ? "" : formatNumber(column[at]);
  const text = (line, i) => (line.kind === "upper" && value(line) ? `${value(lines[i + 1])} to ` : "") + value(line);
  const swatch = (kind, i) => ({
    display: "inline-block", width: "14px", height: kind === "upper" ? "12px" : "3px", borderRadius: "2px",
    verticalAlign: "middle", background: `var(${STYLES[kind].colour})`,
    opacity: kind === "upper" ? 1 - 0.84 ** (i / 2 + 1) : 1, // as the bands, each over those around it
  });
  return html`${at !== null && html`<span>${when(x[at])}</span>`}
    ${lines.map((line, i) => line.kind !== "lower" && html`<span key=${i}>
      <i style=${swatch(line.kind, i)}></i> ${line.kind === "upper" ? `${line.level} %` : NAMES[line.kind]}
      ${" "}<b>${text(line, i)}</b></span>`)}`;
}

const NONE = [];

/**
 * history: {x, y}; forecast: {x, median, bands: [{level, lower, upper}]} or null; truth, naive: {x, y} or null, at
 * times after the history; anomalies: indices into the history. x are unix seconds (`time`) or plain indices, null in
 * y is missing. At first the newest `recent` values are shown; dragging zooms, a double click shows all.
 */
export function FanChart({
  history, forecast = null, truth = null, naive = null, anomalies = NONE, time = false, recent = Infinity, label,
  height = 360,
}) {
  const box = useRef(null);
  const plot = useRef(null);
  const view = useRef({});
  const listener = useRef(null);
  const data = useMemo(
    () => arrange({ history, forecast, truth, naive, anomalies }),
    [history, forecast, truth, naive, anomalies],
  );
  const first = Math.max(0, data.count - recent);
  const show = (from) => plot.current.setScale("x", { min: data.x[from], max: data.x.at(-1) });

  useEffect(() => {
    const shape = JSON.stringify([data.lines.map((line) => [line.kind, line.level]), time, height]);
    const columns = [data.x, ...data.lines.map((line) => line.column)];
    const kept = view.current.zoomed && view.current.start === data.x[0] && plot.current.scales.x;
    const range = kept && { min: kept.min, max: kept.max };
    const isNew = view.current.shape !== shape;
    view.current = { shape, start: data.x[0], zoomed: Boolean(range), newest: data.newest };
    if (isNew) {
      plot.current?.destroy();
      const onZoom = () => { view.current.zoomed = true; };
      const onCursor = (u) => listener.current?.(u.cursor.idx ?? null);
      const newest = () => view.current.newest;
      const width = box.current.clientWidth || 600;
      const options = optionsOf({ lines: data.lines, newest, time, width, height, onZoom, onCursor });
      plot.current = new uPlot(options, columns, box.current);
      plot.current.over.addEventListener("dblclick", onZoom);
    } else plot.current.setData(columns, false);
    if (range) plot.current.setScale("x", range);
    else if (data.x.length) show(first);
  }, [data, time, height]);

  useEffect(() => {
    const resize = new ResizeObserver(() => {
      if (box.current?.clientWidth) plot.current.setSize({ width: box.current.clientWidth, height });
    });
    const theme = matchMedia("(prefers-color-scheme: dark)");
    const repaint = () => plot.current.redraw(false);
    resize.observe(box.current);
    theme.addEventListener("change", repaint);
    return () => {
      resize.disconnect();
      theme.removeEventListener("change", repaint);
    };
  }, [height]);
  useEffect(() => () => plot.current.destroy(), []);

  const look = (zoomed, from) => () => {
    view.current.zoomed = zoomed;
    show(from);
  };
  return html`<figure class="chart">
    <div ref=${box} role="img" aria-label=${label}></div>
    <figcaption class="row hint">
      <${Legend} data=${data} time=${time} listener=${listener} />
      ${first > 0 && html`<span class="row" style=${{ marginLeft: "auto" }}>
        <button type="button" class="small" onClick=${look(false, first)}>Newest</button>
        <button type="button" class="small" onClick=${look(true, 0)}>All</button>
      </span>`}
    </figcaption>
  </figure>`;
}
