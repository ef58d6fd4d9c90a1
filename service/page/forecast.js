// The tab Forecast: a series in, its forecast as a fan over the history; what Carry would have said before the last
// values came, beside the seasonal naive forecast; anomalies, a table, CSV of all series, and the same call elsewhere.

import { FanChart, dateFormat, formatNumber } from "./chart.js";
import { CsvError, readCsv } from "./csv.js";
import { ANOMALY_LEVEL, INLINE, askAnomalies, askForecast, bodyOf, callsOf, forecastAll } from "./series.js";
import { Choice, Elsewhere, Field, Figures, Problem, Slider, percent, plural, save, useAnswer, useTask } from "./ui.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";

const SAMPLES = [
  ["co2", "CO₂ over Mauna Loa, monthly"], ["requests", "A server's requests, hourly (invented)"],
  ["demand", "A shop's demand, daily (invented)"], ["own", "Your own"],
];
const EXAMPLE = "date,sales\n2026-01-01,112\n2026-01-02,118";
const UNITS = {
  Y: "year", Q: "quarter", M: "month", W: "week", D: "day", B: "weekday", H: "hour", min: "minute", S: "second",
};
const HORIZONS = { Y: 6, Q: 8, M: 24, W: 26, D: 28, B: 20, H: 48 };
const SHOWN_TEXT = 200000; // characters; a longer text is read, but not written into the field
const SHOWN_NOTES = 6;
const NONE = [];

const unitOf = (series) => UNITS[series?.freq] ?? "value";
const rounded = (value) => formatNumber(Number(value.toPrecision(5)));

/** The text as {series, notes}, or the error that says why not. */
function read(text) {
  if (!text.trim()) return {};
  try {
    return readCsv(text);
  } catch (error) {
    if (error instanceof CsvError) return { error };
    throw error;
  }
}

/** What is drawn of a result; without one, of the series alone. `times` are those ahead, `write` writes a time. */
function chartOf(series, result, anomalies) {
  const { cutoff = series.values.length, median = NONE, bands = NONE, actual, rival, timestamps } = result ?? {};
  const values = series.values.slice(0, cutoff);
  const isTime = series.timestamps !== null;
  const past = (series.timestamps ?? series.values.map((_, i) => i + 1)).slice(0, cutoff);
  const seconds = (text) => Date.parse(text.length > 10 ? `${text}Z` : text) / 1000;
  const ahead = median.map((_, i) => (isTime ? seconds(timestamps[i]) : cutoff + i + 1));
  return {
    isTime, past, ahead, values, median, bands, naive: rival?.forecast, truthName: "True value",
    truth: actual && [...Array(cutoff - 1).fill(null), values.at(-1), ...actual],
    anomalies: anomalies.filter((index) => index < cutoff),
    write: isTime ? dateFormat(past.length > 1 ? past.at(-1) - past.at(-2) : 1) : String,
  };
}

function Summary({ result: { series, cutoff, median, bands, options, seasons }, anomalies, chart: { ahead, write } }) {
  const unit = unitOf(series);
  const last = median.length - 1;
  const [{ lower, upper }] = bands;
  const among = anomalies?.from ? `, in the newest ${(cutoff - anomalies.from).toLocaleString("en")}` : "";
  const season = !seasons ? "Not used" : seasons[0] > 1 ? `${seasons.join(" and ")} ${unit}s`
    : seasons.length > 1 ? `None, or ${seasons[1]} ${unit}s` : "None";
  return html`<p role="status">The next ${plural(last + 1, unit)}. For ${series.timestamps ? "" : "value "}
      ${write(ahead[last])} Carry expects ${rounded(median[last])}, and with ${options.level} % probability between
      ${" "}${rounded(lower[last])} and ${rounded(upper[last])}.</p>
    <${Figures} of=${[["Values read", cutoff.toLocaleString("en")], ["Season that weighed most", season],
      ...(anomalies ? [[`Anomalies, outside of ${ANOMALY_LEVEL} %${among}`, anomalies.found.length]] : [])]} />`;
}

/** Which of two MASE is better, in words; `repeated` is what the seasonal naive forecast repeats. */
function verdictOf(ours, theirs, repeated) {
  if (ours === null || theirs === null) return "There is nothing to scale errors by, so neither can be called better.";
  if (ours === theirs) return `Repeating ${repeated} is as close to them.`;
  const smaller = `the error is ${percent(1 - Math.min(ours, theirs) / Math.max(ours, theirs))} smaller.`;
  if (ours > theirs) return `Repeating ${repeated} is closer to them: ${smaller}`;
  return `Its forecast is closer to them than ${repeated} repeated (the seasonal naive forecast): ${smaller}`;
}

/** How good the forecast of the held-out values was, beside the naive one. */
function HoldOut({ result: { metrics, options, median, series, rival } }) {
  const unit = unitOf(series);
  const unseen = median.length > 1 ? plural(median.length, unit) : unit;
  const repeated = rival.season > 1 ? `the last ${plural(rival.season, unit)}` : "the last value";
  const mase = (value) => (value === null ? "–" : value.toFixed(2));
  return html`<p role="status">Carry did not see the last ${unseen}. ${
      verdictOf(metrics.mase, rival.mase, repeated)}</p>
    <${Figures} of=${[["MASE of Carry", mase(metrics.mase)], ["MASE of the seasonal naive", mase(rival.mase)],
      [`True values in the ${options.level} % interval`, percent(metrics.coverage[options.level])],
      ["In the interval of the naive", percent(rival.coverage)]]} />
    <p class="hint">MASE: the mean error, over the mean change from one season to the next; 0 is perfect.</p>`;
}

function Values({ result: { median, bands: [{ lower, upper }], actual, rival, options }, chart: { ahead, write } }) {
  const columns = [["Median", median], [`${options.level} % from`, lower], ["to", upper],
    ...(actual ? [["True value", actual], ["Seasonal naive", rival.forecast]] : [])];
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of the forecast"><table>
    <thead><tr><th>Time</th>${columns.map(([name]) => html`<th class="number">${name}</th>`)}</tr></thead>
    <tbody>${ahead.map((time, i) => html`<tr key=${i}><th scope="row">${write(time)}</th>
      ${columns.map(([, numbers]) => html`<td class="number">${formatNumber(numbers[i])}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

const Check = ({ label, checked, onChange }) => html`<label class="check"><input type="checkbox" checked=${checked}
  onChange=${(event) => onChange(event.target.checked)} />${" "}${label}</label>`;

const List = ({ label, lines = NONE }) => lines.length > 0 && html`<ul class="hint" aria-label=${label}>
  ${lines.slice(0, SHOWN_NOTES).map((line) => html`<li>${line}</li>`)}
  ${lines.length > SHOWN_NOTES && html`<li>And ${lines.length - SHOWN_NOTES} more.</li>`}</ul>`;

/** What the series are read from: a sample, a text, a file; and which one is shown. */
function Source({ source: { sample, text, name }, table, at, setAt, onSample, onText, onFile, error }) {
  const file = useRef();
  return html`<section class="card stack" aria-label="Series to forecast">
    <h2>What comes next?</h2>
    <${Choice} label="Data" value=${sample} options=${SAMPLES} onChange=${onSample} />
    <${Field} label="CSV" tag="textarea" class="mono" rows="5" spellcheck=${false}
      placeholder=${name ? `${name} is read. Paste here to replace it.` : EXAMPLE}
      value=${text.length > SHOWN_TEXT ? "" : text} onInput=${(event) => onText(event.target.value)}
      hint=${html`Paste, edit or drop it: one series a column, or a column that names the series. The
        ${" "}command <code>carry forecast</code> reads Excel and harder tables.`} />
    <div><button type="button" class="small" onClick=${() => file.current.click()}>Choose a file</button></div>
    <input type="file" ref=${file} accept=".csv,.tsv,.txt" hidden aria-label="CSV file"
      onChange=${(event) => onFile(event.target.files[0])} />
    <${Problem} error=${error ?? table.error} />
    <${List} label="How the text was read" lines=${table.notes} />
    ${table.series?.length > 1 && html`<${Choice} label="Show" value=${at} onChange=${(value) => setAt(Number(value))}
      options=${table.series.map(({ id }, i) => [i, id])} />`}
  </section>`;
}

export function Tab({ api, active }) {
  const started = useRef(false); // nothing is asked before the tab was seen
  started.current ||= active;
  const [source, setSource] = useState({ sample: "co2", text: "" });
  const [at, setAt] = useState(0);
  const [options, setOptions] = useState({ horizon: 24, level: 95, holdOut: false });
  const [marks, setMarks] = useState(true);
  const [saving, runSaving] = useTask();
  const set = (change) => setOptions((last) => ({ ...last, ...change }));

  const take = (text, sample = "own", name = "") => {
    setSource({ sample, text, name });
    setAt(0);
    const first = read(text).series?.[0];
    if (first) set({ horizon: Math.max(1, Math.min(HORIZONS[first.freq] ?? 24, Math.floor(first.values.length / 3))) });
  };
  const { sample } = source;
  const isOwn = sample === "own";
  const loaded = useAnswer(started.current && !isOwn && (() => api.text(`page/samples/${sample}.csv`)),
    [sample, started.current]);
  useEffect(() => {
    if (loaded.answer) take(loaded.answer, sample);
  }, [loaded.answer]);
  const onSample = (value) => {
    if (value === "own") take("");
    else if (value !== sample) setSource({ sample: value, text: "" });
  };
  const onFile = async (file) => file && take(await file.text(), "own", file.name);

  const table = useMemo(() => read(source.text), [source.text]);
  const series = table.series?.[at];
  const { answer, error, busy } = useAnswer(
    series && ((signal) => askForecast(api, series, options, signal)), [series, options], 150);
  const result = answer?.series === series ? answer : null;
  const judged = useAnswer(result && marks && ((signal) => askAnomalies(api, series, signal)), [result?.series, marks]);
  const anomalies = marks && judged.answer?.series === series ? judged.answer : null;
  const chart = useMemo(() => series && chartOf(series, result, anomalies?.found ?? NONE), [series, result, anomalies]);
  const saveAll = () => runSaving(async () => {
    const { csv, ...rest } = await forecastAll(api, table.series, options);
    if (rest.count) save("forecast.csv", csv);
    return rest;
  });
  const label = series && `${series.id}: history and forecast. The table below has the numbers.`;
  const recent = Math.max((innerWidth < 900 ? 3 : 8) * (result?.median.length ?? 0), innerWidth < 900 ? 60 : 150);
  return html`<div class="split" onDragOver=${(event) => event.preventDefault()}
      onDrop=${(event) => { event.preventDefault(); onFile(event.dataTransfer.files[0]); }}>
    <div class="stack">
      <${Source} ...${{ source, table, at, setAt, onSample, onText: take, onFile, error: loaded.error }} />
      <section class="card stack" aria-label="Forecast settings">
        <${Slider} label="Horizon" value=${options.horizon} min=${1} max=${200}
          format=${(value) => plural(value, unitOf(series))} onInput=${(horizon) => set({ horizon })} />
        <${Slider} label="Outermost interval" value=${options.level} min=${50} max=${99}
          format=${(value) => `${value} %`} onInput=${(level) => set({ level })} />
        <${Check} label="Hold out the last ${options.horizon} and compare" checked=${options.holdOut}
          onChange=${(holdOut) => set({ holdOut })} />
        <${Check} label="Mark anomalies" checked=${marks} onChange=${setMarks} />
      </section>
    </div>
    <div class="stack first" aria-busy=${busy}>
      <section class="card stack result" aria-label="Result">
        <h2>${series?.id ?? "No series yet"}</h2>
        <div class="stack words">
          <${Problem} error=${error ?? judged.error} />
          ${busy && !result && html`<p role="status">Forecasting …</p>`}
          ${result && html`<${result.rival ? HoldOut : Summary} ...${{ result, anomalies, chart }} />`}
        </div>
        ${chart && html`<${FanChart} data=${chart} recent=${recent} label=${label} />`}
      </section>
      ${result && html`<section class="card stack" aria-label="Take away">
        <details><summary>Table</summary><${Values} ...${{ result, chart }} /></details>
        <${Elsewhere} title="The same as curl, Python, nixtla" calls=${() => callsOf(series, result.options)}>
          ${series.values.length > INLINE && html`<div><button type="button" onClick=${() =>
            save("request.json", JSON.stringify(bodyOf(series, result.options)))}>Save request.json</button></div>`}<//>
        <div class="row"><button type="button" onClick=${saveAll}>
          Save ${table.series.length > 1 ? `all ${table.series.length} forecasts` : "the forecast"} as CSV</button>
          <span role="status">${saving.busy ? "Forecasting …"
            : saving.answer && `${saving.answer.count} of ${table.series.length} series are in the file.`}</span></div>
        <${Problem} error=${saving.error} />
        <${List} label="Series without a forecast" lines=${saving.answer?.failed} />
      </section>`}
    </div>
  </div>`;
}
