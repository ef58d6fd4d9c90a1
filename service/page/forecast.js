// The tab Forecast: a series in, its forecast as a fan over the history; what Carry would have said before the last
// values came, beside the seasonal naive forecast; anomalies, a table, CSV of all series, and the same call elsewhere.

import { FanChart, dateFormat, formatNumber } from "./chart.js";
import { CsvError, readCsv } from "./csv.js";
import { ANOMALY_LEVEL, askAnomalies, askForecast, forecastAll, rivalOf } from "./series.js";
import { callsOf } from "./snippets.js";
import { Choice, CopyBlock, Field, Problem, Slider, html, useEffect, useMemo, useRef, useState } from "./ui.js";

const SAMPLES = [
  { value: "co2", label: "CO₂ over Mauna Loa, monthly" },
  { value: "requests", label: "A server's requests, hourly (invented)" },
  { value: "demand", label: "A shop's demand, daily (invented)" },
  { value: "own", label: "Your own" },
];
const UNITS = {
  Y: "year", Q: "quarter", M: "month", W: "week", D: "day", B: "weekday", H: "hour", min: "minute", S: "second",
};
const HORIZONS = { Y: 6, Q: 8, M: 24, W: 26, D: 28, B: 20, H: 48 };
const MAX_HORIZON = 200;
const SHOWN_TEXT = 200000; // characters; a longer text is read, but not written into the field
const DEBOUNCE_MS = 150;
const SHOWN_NOTES = 6;
const NONE = [];

const unitOf = (series) => UNITS[series.freq] ?? "value";
const plural = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"}`;
const counted = (count) => count.toLocaleString("en");
const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
const secondsOf = (timestamp) => Date.parse(timestamp.length > 10 ? `${timestamp}Z` : timestamp) / 1000;

/** Writes numbers to a thousandth of the range of these. */
function roundFor(values) {
  const [low, high] = values.reduce(([least, most], value) =>
    (value === null ? [least, most] : [Math.min(least, value), Math.max(most, value)]), [Infinity, -Infinity]);
  const digits = high > low ? Math.max(0, 3 - Math.floor(Math.log10(high - low))) : 9;
  return (value) => formatNumber(digits > 9 ? value : Number(value.toFixed(digits)));
}

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** The text as series, or the error that says why not. */
function read(text) {
  if (text === null) return {};
  try {
    return readCsv(text);
  } catch (error) {
    if (error instanceof CsvError) return { error };
    throw error;
  }
}

/** What a delayed call answers for `inputs`: {answer, error, busy}. New inputs abort the call before. */
function useAnswer(call, inputs) {
  const [state, setState] = useState({ answer: null, error: null, busy: false });
  useEffect(() => {
    if (!call) return setState({ answer: null, error: null, busy: false });
    const abort = new AbortController();
    setState((last) => ({ ...last, busy: true }));
    const timer = setTimeout(async () => {
      try {
        const answer = await call(abort.signal);
        if (!abort.signal.aborted) setState({ answer, error: null, busy: false });
      } catch (error) {
        if (!abort.signal.aborted) setState({ answer: null, error, busy: false });
      }
    }, DEBOUNCE_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, inputs);
  return state;
}

/** Whether there is no room beside the controls: then the forecast comes first. */
function useNarrow() {
  const query = useMemo(() => matchMedia("(max-width: 900px)"), []);
  const [narrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const follow = () => setNarrow(query.matches);
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, []);
  return narrow;
}

/** The times of a result, of its history and ahead; and how to write one. */
function timesOf({ series, cutoff, median, timestamps }) {
  const { timestamps: past } = series;
  if (!past) {
    const count = (list, from) => list.map((_, i) => from + i + 1);
    return { past: count(series.values, 0), ahead: count(median, cutoff), write: String };
  }
  const step = past.length > 1 ? past.at(-1) - past.at(-2) : 1;
  return { past, ahead: timestamps.map(secondsOf), write: dateFormat(step) };
}

/** A series without a forecast, as a result. */
function historyOf(series) {
  return { series, cutoff: series.values.length, median: NONE, timestamps: NONE, bands: NONE, actual: null };
}

function chartOf(result, rival, anomalies, narrow) {
  const { series, cutoff, median, bands, actual } = result;
  const { past, ahead } = timesOf(result);
  return {
    time: series.timestamps !== null,
    history: { x: past.slice(0, cutoff), y: series.values.slice(0, cutoff) },
    forecast: median.length ? { x: ahead, median, bands } : null,
    truth: actual && { x: ahead, y: actual },
    naive: rival && { x: ahead, y: rival.forecast },
    anomalies: anomalies.filter((index) => index < cutoff),
    recent: narrow ? Math.max(3 * median.length, 60) : Math.max(8 * median.length, 150),
  };
}

function seasonText({ seasons, series }) {
  if (!seasons) return "Not used";
  if (seasons[0] > 1) return `${seasons.join(" and ")} ${unitOf(series)}s`;
  return seasons.length > 1 ? `None, or ${seasons[1]} ${unitOf(series)}s` : "None";
}

const figure = (name, value) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

function Summary({ result, anomalies }) {
  const { series, cutoff, median, bands, options } = result;
  const { ahead, write } = timesOf(result);
  const [{ lower, upper }] = bands;
  const last = median.length - 1;
  const round = roundFor(series.values);
  const among = anomalies?.from ? `, in the newest ${counted(cutoff - anomalies.from)}` : "";
  return html`<p role="status">The next ${plural(last + 1, unitOf(series))}. For ${series.timestamps ? "" : "value "}
      ${write(ahead[last])} Carry expects ${round(median[last])}, and with ${options.level} % probability between
      ${" "}${round(lower[last])} and ${round(upper[last])}.</p>
    <dl class="figures">
      ${figure("Values read", counted(cutoff))}
      ${figure("Season that weighed most", seasonText(result))}
      ${anomalies && figure(`Anomalies, outside of ${ANOMALY_LEVEL} %${among}`, anomalies.found.length)}
    </dl>`;
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
function HoldOut({ result: { metrics, options, median, series }, rival }) {
  const unit = unitOf(series);
  const [ours, theirs] = [metrics.mase, rival.mase];
  const unseen = median.length > 1 ? plural(median.length, unit) : unit;
  const repeated = rival.season > 1 ? `the last ${plural(rival.season, unit)}` : "the last value";
  const mase = (value) => (value === null ? "–" : value.toFixed(2));
  return html`<p role="status">Carry did not see the last ${unseen}. ${verdictOf(ours, theirs, repeated)}</p>
    <dl class="figures">
      ${figure("MASE of Carry", mase(ours))}
      ${figure("MASE of the seasonal naive", mase(theirs))}
      ${figure(`True values in the ${options.level} % interval`, percent(metrics.coverage[String(options.level)]))}
      ${figure("In the interval of the naive", percent(rival.coverage))}
    </dl>
    <p class="hint">MASE: the mean error, over the mean change from one season to the next; 0 is perfect.</p>`;
}

function Values({ result, rival }) {
  const { median, bands, actual, options } = result;
  const { ahead, write } = timesOf(result);
  const [{ lower, upper }] = bands;
  const columns = [["Median", median], [`${options.level} % from`, lower], ["to", upper],
    ...(actual ? [["True value", actual], ["Seasonal naive", rival.forecast]] : [])];
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of the forecast"
    style=${{ maxHeight: "420px", overflowY: "auto" }}><table>
    <thead><tr><th>Time</th>${columns.map(([name]) => html`<th class="number">${name}</th>`)}</tr></thead>
    <tbody>${ahead.map((time, i) => html`<tr key=${i}><th scope="row">${write(time)}</th>
      ${columns.map(([, numbers]) => html`<td class="number">${formatNumber(numbers[i])}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

function Check({ label, checked, onChange }) {
  return html`<label class="row" style=${{ flexWrap: "nowrap" }}>
    <input type="checkbox" checked=${checked} onChange=${(event) => onChange(event.target.checked)} />
    ${" "}${label}</label>`;
}

function Notes({ notes, ignored }) {
  const lines = [...notes, ...ignored.map((line) => `Left out: ${line}`)];
  if (!lines.length) return null;
  return html`<ul class="hint" aria-label="How the text was read">
    ${lines.slice(0, SHOWN_NOTES).map((line) => html`<li>${line}</li>`)}
    ${lines.length > SHOWN_NOTES && html`<li>And ${lines.length - SHOWN_NOTES} more.</li>`}
  </ul>`;
}

export function Tab({ api, active }) {
  const [started, setStarted] = useState(false); // nothing is asked before the tab was seen
  const [sample, setSample] = useState("co2");
  const [source, setSource] = useState({ text: null, name: "" });
  const [at, setAt] = useState(0);
  const [newest, setNewest] = useState(Infinity);
  const [options, setOptions] = useState({ horizon: 24, level: 95, holdOut: false });
  const [marks, setMarks] = useState(true);
  const [loading, setLoading] = useState(null);
  const [out, setOut] = useState({});
  const narrow = useNarrow();
  const file = useRef(null);

  const table = useMemo(() => read(source.text), [source]);
  const whole = table.series?.[at] ?? null;
  const series = useMemo(() => whole && {
    ...whole, values: whole.values.slice(-newest), timestamps: whole.timestamps?.slice(-newest) ?? null,
  }, [whole, newest]);
  const set = (change) => setOptions((last) => ({ ...last, ...change }));

  const take = (text, name) => {
    setSource({ text, name });
    setAt(0);
    setNewest(Infinity);
    setOut({});
    const first = read(text).series?.[0];
    if (first) set({ horizon: Math.max(1, Math.min(HORIZONS[first.freq] ?? 24, Math.floor(first.values.length / 3))) });
  };
  useEffect(() => {
    if (active) setStarted(true);
  }, [active]);
  useEffect(() => {
    if (!started || sample === "own") return;
    api.text(`page/samples/${sample}.csv`).then((text) => take(text, sample), setLoading);
  }, [sample, started]);
  const drop = async (file) => {
    if (!file) return;
    setSample("own");
    take(await file.text(), file.name);
  };

  const tooShort = series && options.holdOut && series.values.length <= options.horizon;
  const { answer, error, busy } = useAnswer(
    series && !tooShort && ((signal) => askForecast(api, series, options, signal)), [series, options],
  );
  const result = answer?.series === series ? answer : null;
  const judged = useAnswer(
    result && marks && ((signal) => askAnomalies(api, series, signal)), [result?.series, marks],
  );
  const anomalies = marks && judged.answer?.series === series ? judged.answer : null;
  const rival = useMemo(() => result && rivalOf(result), [result]);
  const chart = useMemo(
    () => series && chartOf(result ?? historyOf(series), rival, anomalies?.found ?? NONE, narrow),
    [series, result, rival, anomalies, narrow],
  );
  const refused = (field) => (error?.errors?.[0]?.path.startsWith(`$.${field}`) ? error : null);
  const elsewhere = error && !refused("horizon") && !refused("levels") && !refused("series") ? error : null;
  const calls = useMemo(() => result && callsOf(result.series, result.options), [result]);

  const saveAll = async () => {
    setOut({ text: "Forecasting …" });
    try {
      const { csv, count, failed } = await forecastAll(api, table.series, options);
      if (count) save("forecast.csv", csv, "text/csv");
      setOut({ text: `${count} of ${table.series.length} series are in the file.`, failed });
    } catch (problem) {
      setOut({ error: problem });
    }
  };
  const fewer = series && 10 ** Math.floor(Math.log10(series.values.length - 1));

  const drawn = series && `${series.id}: history and forecast. The table below has the numbers.`;
  const example = "date,sales\n2026-01-01,112\n2026-01-02,118";
  const blank = source.name ? `${source.name} is read. Paste here to replace it.` : example;
  const choose = (value) => {
    setSample(value);
    if (value === "own") take("", "");
  };
  const type = (event) => {
    setSample("own");
    take(event.target.value, "pasted text");
  };
  const controls = html`<div key="controls" class="stack">
      <section class="card stack" aria-label="Series to forecast">
        <h2>What comes next?</h2>
        <${Choice} label="Data" value=${sample} options=${SAMPLES} onChange=${choose} />
        <${Field} label="CSV" hint=${html`Paste, edit or drop it: one series a column, or a column that
          ${" "}names the series. The command <code>carry forecast</code> reads Excel and harder tables.`}>
          <textarea class="mono" rows="5" spellcheck=${false} placeholder=${blank} onInput=${type}
            value=${source.text?.length > SHOWN_TEXT ? "" : source.text ?? ""}></textarea>
        <//>
        <div class="row">
          <button type="button" class="small" onClick=${() => file.current.click()}>Choose a file</button>
          <input type="file" ref=${file} accept=".csv,.tsv,.txt" hidden aria-label="CSV file"
            onChange=${(event) => drop(event.target.files[0])} />
        </div>
        ${source.text?.trim() && html`<${Problem} error=${table.error} />`}
        <${Problem} error=${loading ?? refused("series")} />
        ${refused("series")?.code === "limit_exceeded" && html`<button type="button" onClick=${() => setNewest(fewer)}>
          Forecast from the newest ${counted(fewer)} values</button>`}
        ${table.series && html`<${Notes} ...${table} />`}
        ${table.series?.length > 1 && html`<${Choice} label="Show" value=${at}
          onChange=${(value) => setAt(Number(value))}
          options=${table.series.map(({ id }, i) => ({ value: i, label: id }))} />`}
      </section>
      <section class="card stack" aria-label="Forecast settings">
        <${Slider} label="Horizon" value=${options.horizon} min=${1} max=${MAX_HORIZON}
          format=${(value) => plural(value, series ? unitOf(series) : "value")}
          onInput=${(horizon) => set({ horizon })} />
        <${Problem} error=${refused("horizon")} />
        <${Slider} label="Outermost interval" value=${options.level} min=${50} max=${99}
          format=${(value) => `${value} %`} onInput=${(level) => set({ level })} />
        <${Problem} error=${refused("levels")} />
        <${Check} label="Hold out the last ${options.horizon} and compare" checked=${options.holdOut}
          onChange=${(holdOut) => set({ holdOut })} />
        ${tooShort && html`<p role="alert" class="problem">To hold out ${plural(options.horizon, "value")}, the series
          ${" "}needs at least ${options.horizon + 1}; it has ${series.values.length}.</p>`}
        <${Check} label="Mark anomalies" checked=${marks} onChange=${setMarks} />
      </section>
    </div>`;
  const outcome = html`<div key="outcome" class="stack" aria-busy=${busy}>
      <section class="card stack result" aria-label="Result">
        <h2>${series?.id ?? "No series yet"}</h2>
        <div class="stack words">
          <${Problem} error=${elsewhere} />
          <${Problem} error=${judged.error} />
          ${busy && !result && html`<p role="status">Forecasting …</p>`}
          ${result && (rival ? html`<${HoldOut} result=${result} rival=${rival} />`
            : html`<${Summary} result=${result} anomalies=${anomalies} />`)}
        </div>
        ${chart && html`<${FanChart} ...${chart} label=${drawn} />`}
      </section>
      ${result && html`<section class="card stack" aria-label="Take away">
        <details><summary>Table</summary><${Values} result=${result} rival=${rival} /></details>
        <details><summary>The same as curl, Python, nixtla</summary><div class="stack">
          ${calls.file && html`<div><button type="button"
            onClick=${() => save("request.json", calls.file, "application/json")}>Save request.json</button></div>`}
          ${["curl", "Python", "nixtla"].map((name) => html`<${CopyBlock} key=${name} label=${name}
            text=${calls[name]} />`)}
        </div></details>
        <div class="row"><button type="button" onClick=${saveAll}>
          Save ${table.series.length > 1 ? `all ${table.series.length} forecasts` : "the forecast"} as CSV</button>
          <span role="status">${out.text}</span></div>
        <${Problem} error=${out.error} />
        ${out.failed?.length > 0 && html`<ul aria-label="Series without a forecast">
          ${out.failed.map((line) => html`<li>${line}</li>`)}</ul>`}
      </section>`}
    </div>`;
  return html`<div class="split" onDragOver=${(event) => event.preventDefault()}
      onDrop=${(event) => { event.preventDefault(); drop(event.dataTransfer.files[0]); }}>
    ${narrow ? [outcome, controls] : [controls, outcome]}
  </div>`;
}
