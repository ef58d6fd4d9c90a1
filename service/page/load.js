// The tab "Load": the service's own figures of the last fifteen minutes, from its metrics (Prometheus' text format).

import { axis, colour, usePlot } from "./chart.js";
import { Problem } from "./ui.js";
import { html, useEffect, useState } from "./vendor/preact.js";

const POLL = 5; // seconds
const KEPT = 15 * 60; // seconds of the charts
const SMOOTHED = 30; // seconds that a rate, a latency or a batch is the mean of
const OWN = /^\/(health.*|metrics|ping|version|openapi\.json|docs|redoc|page\/.*|)$/; // probes, and the page itself
const ABSENT = {
  403: "This key may not read the metrics: it has not the scope “metrics”.",
  404: "The service shows its metrics on a port of their own (CARRY_METRICS_PORT), which this page cannot read.",
};

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
  const recent = earlier ? since(samples, earlier) : [];
  const named = (name, labels = {}, from = recent) => from.filter((each) => each.name === name
    && !OWN.test(each.labels.route) && Object.entries(labels).every(([label, value]) => each.labels[label] === value));
  const rate = (samples) => (earlier ? sum(samples) / seconds : null);
  const requests = named("carry_http_requests_total");
  const latency = named("carry_http_request_duration_seconds_bucket");
  const [read, decoded] = ["prefill", "decode"].map((phase) => named("carry_engine_steps_total", { phase }));
  const [reads, decodes] = ["prefill", "decode"].map((phase) => named("carry_engine_batch_rows_count", { phase }));
  return {
    at,
    requests: rate(requests.filter(({ labels }) => labels.status < 400)),
    refused: rate(requests.filter(({ labels }) => labels.status >= 400)),
    p50: quantile(latency, 0.5),
    p95: quantile(latency, 0.95),
    waiting: sum(named("carry_engine_waiting_steps", {}, samples)),
    read: rate(named("carry_steps_read_total")),
    predicted: rate(named("carry_steps_predicted_total")),
    reading: sum(read) / sum(reads) || null,
    decoding: sum(decoded) / sum(decodes) || null,
    sessions: sum(named("carry_sessions", {}, samples)),
  };
}

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
const count = (value) => (value === null ? "–" : number.format(value));
const inUnit = (value) => (value < 1 ? `${count(1000 * value)} ms` : `${count(value)} s`);
const time = (value) => (value === null ? "–" : inUnit(value));

const CHARTS = [
  { title: "Requests a second", lines: { requests: "answered", refused: "refused or failed" }, format: count },
  { title: "Latency", lines: { p50: "half within", p95: "95 % within" }, format: time },
  { title: "Waiting steps", lines: { waiting: "queued for the models" }, format: count },
  { title: "Steps a second", lines: { read: "read", predicted: "predicted" }, format: count },
  { title: "Batch: steps in one call of a model", lines: { reading: "reading", decoding: "decoding" }, format: count },
  { title: "Sessions", lines: { sessions: "in the store" }, format: count },
];
const COLOURS = ["--chart-median", "--chart-naive"];

/** Lines over the last fifteen minutes, with the newest figures in words above. */
function Chart({ title, lines, format, points }) {
  const names = Object.keys(lines);
  const columns = [points.map(({ at }) => at), ...names.map((name) => points.map((each) => each[name]))];
  const [box, plot] = usePlot({
    height: 130, legend: { show: false }, cursor: { show: false }, padding: [6, 22, 0, 0],
    scales: {
      x: { range: (u, low, high) => [high - KEPT, high] }, y: { range: (u, low, high) => [0, 1.1 * high || 1] },
    },
    axes: [
      axis({ size: 26, splits: (u, i, low, high) => [0, 300, 600, 900].map((ago) => high - ago),
        values: () => ["now", "5 min", "10 min", "15 min ago"] }),
      axis({ size: 58, space: 34, values: (u, at) => at.map(format) }),
    ],
    series: [{}, ...names.map((name, i) => ({ stroke: colour(COLOURS[i]), width: 2, points: { show: false } }))],
  }, columns);
  useEffect(() => plot.current.setData(columns), [points]);
  return html`<figure class="card stack">
    <figcaption><h3>${title}</h3>
      <p class="row">${names.map((name, i) => html`<span class="muted newest">
        <b style=${{ color: `var(${COLOURS[i]})` }}>${format(points.at(-1)[name])}</b> ${lines[name]}</span>`)}</p>
    </figcaption>
    <div class="chart" aria-hidden="true" ref=${box}></div>
  </figure>`;
}

export function Tab({ api, active }) {
  const [points, setPoints] = useState([]);
  const [error, setError] = useState(null);
  useEffect(() => {
    const answers = []; // the newest first: {at, values}
    const poll = async () => {
      const samples = parseMetrics(await api.text("metrics"));
      const at = Date.now() / 1000;
      const before = answers.find((each) => at - each.at >= SMOOTHED - 1) ?? answers.at(-1);
      answers.unshift({ at, values: new Map(samples.map(({ key, value }) => [key, value])) });
      answers.splice(2 + SMOOTHED / POLL);
      const newest = point(at, samples, before?.values, before && at - before.at);
      setPoints((old) => [...old.filter((each) => at - each.at <= KEPT), newest]);
      setError(null);
    };
    const explain = ({ status, message, ...more }) => setError({ ...more, status, message: ABSENT[status] ?? message });
    const look = () => poll().catch(explain);
    look();
    const timer = setInterval(look, 1000 * POLL);
    return () => clearInterval(timer);
  }, []);
  return html`<div class="stack">
    <div><h2>Load</h2>
      <p class="muted">All processes of this machine, while this page is open. Rates, latencies and batches are those of
        the last ${SMOOTHED} seconds; probes and the page's own files are not counted. A step is a value that a model
        reads or writes, or a character.</p>
    </div>
    <${Problem} error=${error} />
    ${active && points.length > 0 && html`<div class="grid">
      ${CHARTS.map((chart) => html`<${Chart} key=${chart.title} ...${chart} points=${points} />`)}</div>`}
  </div>`;
}
