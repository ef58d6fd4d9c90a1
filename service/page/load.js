// The tab "Load": the service's own figures of the last fifteen minutes, from its metrics (Prometheus' text format).

import { html, Problem, useEffect, useRef, useState } from "./ui.js";
import uPlot from "./vendor/uplot.js";

const POLL = 5; // seconds
const KEPT = 15 * 60; // seconds of the charts
const SMOOTHED = 30; // seconds that a rate, a latency or a batch is the mean of
const OWN = /^\/(health.*|metrics|ping|version|openapi\.json|docs|redoc|page\/.*|)$/; // probes, and the page itself

/** Samples, each {name, labels, key, value}; `key` is the name with the labels. */
export function parseMetrics(text) {
  const samples = text.matchAll(/^(\w+)(\{.*\})? (\S+)$/gm);
  return Array.from(samples, ([, name, braces = "", value]) => {
    const pairs = Array.from(braces.matchAll(/(\w+)=("(?:[^"\\]|\\.)*")/g), ([, key, text]) => [key, JSON.parse(text)]);
    const number = Number(value.replace("Inf", "Infinity"));
    return { name, labels: Object.fromEntries(pairs), key: name + braces, value: number };
  });
}

const sum = (samples) => samples.reduce((total, { value }) => total + value, 0);

/** The quantile `q` of cumulative buckets, as Prometheus estimates it: linear within a bucket. null of none. */
export function quantile(buckets, q) {
  const counts = new Map();
  for (const { labels, value } of buckets) counts.set(labels.le, (counts.get(labels.le) ?? 0) + value);
  const sorted = [...counts].map(([le, n]) => [le === "+Inf" ? Infinity : Number(le), n]).sort(([a], [b]) => a - b);
  const rank = q * (sorted.at(-1)?.[1] ?? 0);
  if (!rank) return null;
  const at = sorted.findIndex(([, n]) => n >= rank);
  const [low, before] = at ? sorted[at - 1] : [0, 0];
  const [high, n] = sorted[at];
  return high === Infinity ? low : low + ((high - low) * (rank - before)) / (n - before);
}

/** What each counter counted since an earlier answer. A service that started again counts from zero. */
const since = (samples, earlier) =>
  samples.map((each) => ({ ...each, value: each.value - Math.min(each.value, earlier.get(each.key) ?? 0) }));

/** The figures of one moment, from the samples and those of `seconds` before. */
function point(at, samples, earlier, seconds) {
  const named = (name, from = samples) => from.filter((each) => each.name === name && !OWN.test(each.labels.route));
  const recent = earlier ? since(samples, earlier) : [];
  const rate = (name) => (earlier ? sum(named(name, recent)) / seconds : null);
  const phase = (name, phase) => sum(named(name, recent).filter(({ labels }) => labels.phase === phase));
  const batch = (name) => phase("carry_engine_steps_total", name) / phase("carry_engine_calls_total", name) || null;
  const latency = named("carry_request_seconds_bucket", recent);
  return {
    at,
    requests: rate("carry_requests_total"),
    p50: quantile(latency, 0.5),
    p95: quantile(latency, 0.95),
    waiting: sum(named("carry_engine_waiting_steps")),
    read: rate("carry_steps_read_total"),
    predicted: rate("carry_steps_predicted_total"),
    reading: batch("read"),
    decoding: batch("decode"),
    sessions: sum(named("carry_sessions")),
  };
}

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
const count = (value) => (value === null ? "–" : number.format(value));
const inUnit = (value) => (value < 1 ? `${count(1000 * value)} ms` : `${count(value)} s`);
const time = (value) => (value === null ? "–" : inUnit(value));

const CHARTS = [
  { title: "Requests a second", lines: { requests: "" }, format: count },
  { title: "Latency", lines: { p50: "half within", p95: "95 % within" }, format: time },
  { title: "Waiting steps", lines: { waiting: "" }, format: count },
  { title: "Steps a second", lines: { read: "read", predicted: "predicted" }, format: count },
  { title: "Batch: steps in one call of a model", lines: { reading: "reading", decoding: "decoding" }, format: count },
  { title: "Sessions", lines: { sessions: "in the store" }, format: count },
];
const COLOURS = ["--chart-median", "--chart-naive"];
const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const HEIGHT = 130;

/** Lines over the last fifteen minutes, with the newest figures in words above. */
function Chart({ title, lines, format, points }) {
  const box = useRef();
  const plot = useRef();
  const names = Object.keys(lines);
  const columns = [points.map(({ at }) => at), ...names.map((name) => points.map((each) => each[name]))];
  useEffect(() => {
    const axis = { stroke: colour("--chart-text"), ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const grid = { stroke: colour("--chart-grid"), width: 1 };
    const past = { size: 26, grid, splits: (u, i, low, high) => [0, 300, 600, 900].map((ago) => high - ago) };
    plot.current = new uPlot({
      width: 320, height: HEIGHT, legend: { show: false }, cursor: { show: false }, padding: [6, 22, 0, 0],
      scales: {
        x: { range: (u, low, high) => [high - KEPT, high] },
        y: { range: (u, low, high) => [0, 1.1 * high || 1] },
      },
      axes: [
        { ...axis, ...past, values: () => ["now", "5 min", "10 min", "15 min ago"] },
        { ...axis, grid, size: 58, space: 34, values: (u, at) => at.map(format) },
      ],
      series: [{}, ...names.map((name, i) => ({ stroke: colour(COLOURS[i]), width: 2, points: { show: false } }))],
    }, columns, box.current);
    const resize = new ResizeObserver(([{ contentRect: { width } }]) =>
      width && plot.current.setSize({ width, height: HEIGHT }));
    resize.observe(box.current);
    return () => resize.disconnect() ?? plot.current.destroy();
  }, []);
  useEffect(() => plot.current.setData(columns), [points]);
  const newest = points.at(-1);
  return html`<figure class="card stack">
    <figcaption>
      <h3>${title}</h3>
      <p class="row">${names.map((name, i) => html`<span class="muted newest">
        <b style=${{ color: `var(${COLOURS[i]})` }}>${format(newest[name])}</b> ${lines[name]}</span>`)}</p>
    </figcaption>
    <div class="chart" aria-hidden="true" ref=${box}></div>
  </figure>`;
}

/** Each route with its answers by status, and its latency, since the service started. */
function Routes({ samples }) {
  const answered = samples.filter(({ name, labels }) => name === "carry_requests_total" && !OWN.test(labels.route));
  const routes = [...new Set(answered.map(({ labels }) => `${labels.method} ${labels.route}`))].sort();
  const rows = routes.map((name) => {
    const [method, route] = name.split(" ");
    const mine = answered.filter(({ labels }) => labels.method === method && labels.route === route);
    const timed = samples.filter((each) => each.name === "carry_request_seconds_bucket");
    const buckets = timed.filter(({ labels }) => labels.route === route);
    return { name, mine, latency: [0.5, 0.95].map((q) => time(quantile(buckets, q))) };
  });
  if (!rows.length) return html`<p class="muted">No request yet. Forecast something, and look again.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Requests by route"><table>
    <thead><tr><th>Route</th><th class="number">Requests</th><th>By status</th>
      <th class="number">Half within</th><th class="number">95 % within</th></tr></thead>
    <tbody>${rows.map(({ name, mine, latency }) => html`<tr key=${name}>
      <td><code>${name}</code></td><td class="number">${sum(mine).toLocaleString("en")}</td>
      <td><span class="row">${mine.map(({ labels: { status }, value }) => html`<span class="pill"
        data-state=${status < 400 ? "good" : status < 500 ? "" : "bad"}>${status}: ${count(value)}</span>`)}</span></td>
      ${latency.map((each) => html`<td class="number">${each}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

export function Tab({ api, active }) {
  const [{ samples, points }, setState] = useState({ samples: [], points: [] });
  const [error, setError] = useState(null);
  useEffect(() => {
    const answers = []; // the newest first: {at, values}
    const poll = async () => {
      try {
        const samples = parseMetrics(await api.text("metrics"));
        const at = Date.now() / 1000;
        const before = answers.find((each) => at - each.at >= SMOOTHED - 1) ?? answers.at(-1);
        answers.unshift({ at, values: new Map(samples.map(({ key, value }) => [key, value])) });
        answers.splice(2 + SMOOTHED / POLL);
        const newest = point(at, samples, before?.values, before && at - before.at);
        setState((old) => ({ samples, points: [...old.points.filter((each) => at - each.at <= KEPT), newest] }));
        setError(null);
      } catch (problem) {
        setError(problem);
      }
    };
    poll();
    const timer = setInterval(poll, 1000 * POLL);
    return () => clearInterval(timer);
  }, []);
  return html`<div class="stack">
    <div>
      <h2>Load</h2>
      <p class="muted">All processes of this machine, while this page is open. Rates, latencies and batches are those of
        the last ${SMOOTHED} seconds; probes and the page's own files are not counted.</p>
    </div>
    <${Problem} error=${error} />
    ${active && points.length > 0 && html`<div class="grid">
      ${CHARTS.map((chart) => html`<${Chart} key=${chart.title} ...${chart} points=${points} />`)}</div>
      <div class="card stack"><h3>Requests since the service started</h3><${Routes} samples=${samples} /></div>`}
  </div>`;
}
