// Charts with uPlot, in the colours of style.css: any lines, and a series with its forecast as a fan of intervals.
// Knows nothing of the service, of CSV or of sessions.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import uPlot from "./vendor/uplot.js";

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 6, useGrouping: false });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 5, notation: "compact" });

/** A number in at most about eight characters; "–" if there is none. */
export function formatNumber(value) {
  const size = Math.abs(value ?? NaN);
  if (Number.isNaN(size)) return "–";
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

/** A function that reads a colour of style.css: uPlot calls it at each draw. */
export const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** An axis of uPlot in the page's colours. */
export const axis = (more) => ({
  stroke: colour("--chart-text"), font: "12px system-ui, sans-serif", ticks: { show: false },
  grid: { stroke: colour("--chart-grid"), width: 1 }, ...more,
});

/** A plot of `columns` as wide as its box: refs [box, plot]. It is made anew when `shape` changes. */
export function usePlot(options, columns, shape) {
  const [box, plot] = [useRef(), useRef()];
  useEffect(() => {
    const { height } = options;
    const made = new uPlot({ ...options, width: box.current.clientWidth || 600 }, columns, box.current);
    plot.current = made;
    const resize = new ResizeObserver(([{ contentRect: { width } }]) => width && made.setSize({ width, height }));
    const theme = matchMedia("(prefers-color-scheme: dark)");
    const repaint = () => made.redraw(false);
    resize.observe(box.current);
    theme.addEventListener("change", repaint);
    return () => {
      resize.disconnect();
      theme.removeEventListener("change", repaint);
      made.destroy();
    };
  }, [shape]);
  return [box, plot];
}

const LINES = { // by kind: its colour, its style
  upper: ["--chart-band", { width: 0, points: { show: false } }],
  lower: ["--chart-band", { width: 0, points: { show: false } }],
  naive: ["--chart-naive", { width: 1.75, dash: [3, 4], points: { show: false } }],
  median: ["--chart-median", { width: 2 }],
  value: ["--chart-line", { width: 1.25 }],
  truth: ["--chart-truth", { width: 1.5, points: { show: true, size: 4 } }],
  anomaly: ["--chart-anomaly", { width: 0, paths: () => null, points: { show: true, size: 10, width: 2 } }],
};

/** The lines {kind, label, column}, each column as long as past and future together. */
function arrange({ past, ahead, values, median, bands, naive, truth, truthName, anomalies }) {
  const last = values.findLastIndex((value) => value !== null);
  const fromNewest = (numbers) => [...values.map((value, i) => (i === last ? value : null)), ...numbers];
  const inPast = (numbers) => [...numbers, ...ahead.map(() => null)];
  const marked = new Set(anomalies);
  return [
    ...bands.flatMap(({ level, lower, upper }) => [
      { kind: "upper", label: `${level} %`, column: fromNewest(upper) }, { kind: "lower", column: fromNewest(lower) },
    ]),
    naive && { kind: "naive", label: "Seasonal naive", column: fromNewest(naive) },
    median && { kind: "median", label: "Median", column: fromNewest(median) },
    { kind: "value", label: "Value", column: inPast(values) },
    truth && { kind: "truth", label: truthName, column: truth },
    marked.size && { kind: "anomaly", label: "Anomaly",
      column: inPast(values.map((value, i) => (marked.has(i) ? value : null))) },
  ].filter(Boolean);
}

/** What uPlot needs to know of the lines; its legend reads their values at the cursor. */
function optionsOf(lines, { past, ahead, isTime }, height, onZoom) {
  const series = lines.map(({ kind, label }, i) => {
    const [name, { points, ...style }] = LINES[kind];
    const stroke = colour(name);
    const value = (u, number, at, row) => (row === null ? ""
      : (kind === "upper" ? `${formatNumber(u.data[i + 2][row])} to ` : "") + formatNumber(number));
    const fill = kind === "anomaly" ? "transparent" : stroke;
    return { ...style, label, class: kind, stroke, value, points: { size: 4, ...points, stroke, fill } };
  });
  const step = past.length > 1 ? past.at(-1) - past.at(-2) : (ahead[0] - past[0] || 1);
  const when = isTime ? dateFormat(step) : String;
  const marks = (u, ticks, at, space, apart) => ticks.map(isTime ? dateFormat(apart) : (n) => (n % 1 ? "" : String(n)));
  const legend = (u, i) => (i ? `var(${LINES[lines[i - 1].kind][0]})` : "transparent");
  return {
    height, padding: [10, 12, 0, 4],
    series: [{ label: isTime ? "Time" : "Number", value: (u, x) => (x === null ? "" : when(x)) }, ...series],
    bands: lines.flatMap(({ kind }, i) => (kind === "upper" ? [{ series: [i + 1, i + 2],
      fill: () => `color-mix(in srgb, ${colour("--chart-band")()} 16%, transparent)` }] : [])),
    axes: [axis({ values: marks, space: isTime ? 90 : 50 }), axis({
      values: (u, ticks) => ticks.map(formatNumber),
      size: (u, texts) => 16 + 7 * Math.max(2, ...(texts ?? []).map((text) => text.length)),
    })],
    scales: { x: { time: isTime, range: (u, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: { points: { size: 6 }, drag: { x: true, y: false } },
    legend: { markers: { width: 0, fill: legend } },
    hooks: { setSelect: [(u) => u.select.width
      && onZoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"))] },
  };
}

/**
 * data: {past, ahead, values, median, bands, naive, truth, truthName, anomalies, isTime}: x of history and forecast are
 * unix seconds (`isTime`) or plain numbers; `values` are those of the history, null where missing; median, naive, and
 * lower and upper of each band {level, lower, upper} those ahead; truth those of all x; anomalies are indices into
 * the history. At first the newest `recent` values are shown; dragging zooms, a double click shows all.
 */
export function FanChart({ data, recent, label, height = 360 }) {
  const zoom = useRef({});
  const lines = useMemo(() => arrange(data), [data]);
  const x = useMemo(() => [...data.past, ...data.ahead], [data]);
  const columns = [x, ...lines.map(({ column }) => column)];
  const newest = Math.max(0, data.past.length - recent);
  const show = () => plot.current.setScale("x", { min: x[newest], max: x.at(-1), ...zoom.current.range });
  const onZoom = (min, max) => { zoom.current.range = { min, max }; };
  const look = (range) => {
    zoom.current.range = range;
    show();
  };
  const shape = JSON.stringify([lines.map(({ kind, label: name }) => kind + name), data.isTime, x[0]]);
  const [box, plot] = usePlot(optionsOf(lines, data, height, onZoom), columns, shape);
  useEffect(() => {
    if (zoom.current.start !== x[0]) zoom.current = { start: x[0] };
    plot.current.setData(columns, false);
    if (x.length) show();
  }, [data]);
  const button = (text, range) =>
    html`<button type="button" class="small" onClick=${() => look(range)}>${text}</button>`;
  return html`<figure class="stack" onDblClick=${() => { zoom.current.range = { min: x[0] }; }}>
    <div class="chart" ref=${box} role="img" aria-label=${label}></div>
    ${newest > 0 && html`<figcaption class="row end">
      ${button("Newest", null)}${button("All", { min: x[0] })}</figcaption>`}
  </figure>`;
}
