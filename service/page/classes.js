// The tab "Classes": which class a series or a text is, and how probable each class was after every step of it.

import { curlOf, pythonOf } from "./api.js";
import { axis, colour, formatNumber, usePlot } from "./chart.js";
import { readCsv } from "./csv.js";
import { Choice, Elsewhere, Field, Problem, percent, useAnswer } from "./ui.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

const TEXT = "Das alte Haus stand am Rande des Waldes";
const SERIES = { // by the name of the model
  "control-charts": "0.3 -1.1 0.8 0.1 -0.6 1.2 -0.4 0.5 -0.9 0.2 -0.3 0.7 2.6 1.9 2.2 3.1 1.4 2.7 2.0 2.9",
};
const COLOURS = ["--chart-median", "--chart-naive", "--chart-blue", "--chart-violet", "--chart-anomaly",
  "--chart-truth"]; // of the most probable classes; others are not drawn
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000]; // between two marks of the axis
const LETTER = 12; // px: with so much room for each character, the text itself is the axis

const labelOf = ({ name, version }) => `${name}@${version}`;
const shareOf = (share) => percent(share, 1);

/** What the model reads of what a person typed: a text, or the columns of a table by the names of its features. */
function sequenceOf({ features }, typed) {
  if (!features.length) return { text: typed };
  const { series } = readCsv(typed);
  if (series.length < features.length)
    throw new Error(`The model reads ${features.length} columns of numbers: ${features.join(", ")}.`);
  const valuesOf = (name, i) => (series.find(({ id }) => id === name) ?? series[i]).values;
  return { series: Object.fromEntries(features.map((name, i) => [name, valuesOf(name, i)])) };
}

/** The answer in words, and since which step it has been the same. */
function inWords({ label, probabilities, per_step: shares, steps }) {
  const changed = shares?.[label].findLastIndex((share, i) => Object.values(shares).some((each) => each[i] > share));
  const since = shares && (changed < 0 ? ", from the first step on" : `, since step ${changed + 2}`);
  return `${label}: ${shareOf(probabilities[label])} after ${steps} steps${since ?? ""}.`;
}

/** A line for each class over the steps, and behind them the series. `letters`: the characters of a text, which then
 * stand below the lines. */
function Steps({ shares, series = {}, letters, label }) {
  const shown = useRef();
  shown.current = letters;
  const [features, names] = [Object.keys(series), Object.keys(shares).slice(0, COLOURS.length)];
  const lines = [...Object.values(series), ...names.map((name) => shares[name])];
  const columns = [lines[0].map((_, i) => i + 1), ...lines];
  const colours = [...features.map(() => "--chart-text"), ...COLOURS];
  const [box, plot] = usePlot({
    height: 280, padding: [10, 12, 0, 4], cursor: { drag: { x: false } },
    legend: { markers: { width: 0, fill: (u, i) => (i ? `var(${colours[i - 1]})` : "transparent") } },
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [
      axis({ size: 30, incrs: STEPS, space: (u, i, low, high, width) =>
        (shown.current && width / (high - low) > LETTER ? LETTER : 50),
      values: (u, marks, i, space, apart) => marks.map((at) => (apart > 1 ? at : shown.current?.[at - 1] ?? at)) }),
      axis({ size: 56, values: (u, marks) => marks.map((share) => percent(share)) }),
    ],
    series: [
      { label: "Step", value: (u, at) => (at === null ? "" : `${at} ${shown.current?.[at - 1] ?? ""}`) },
      ...[...features, ...names].map((name, i) => ({ label: name, stroke: colour(colours[i]), points: { show: false },
        ...(i < features.length ? { scale: "value", width: 1, dash: [2, 3] } : { width: 2 }),
        value: (u, value) => (i < features.length || value === null ? formatNumber(value) : shareOf(value)) })),
    ],
  }, columns, JSON.stringify([features, names]));
  useEffect(() => plot.current.setData(columns), [shares]);
  return html`<div class="chart" role="img" aria-label=${label} ref=${box}></div>`;
}

/** The request for a terminal, and for Python. */
function callsOf({ model, text, series }) {
  const sequence = series ? JSON.stringify(series).replaceAll("null", "None") : JSON.stringify(text);
  const Python = pythonOf(`print(client.classify(${sequence}, model="${model}"))`);
  return { curl: curlOf("classify", { model, text, series }), Python };
}

/** A sequence with its classes, as it is typed. */
export function Tab({ api, models, active }) {
  const [chosen, choose] = useState(null);
  const [typed, setTyped] = useState({}); // by the model
  const classifiers = models.filter(({ kind }) => kind === "classify").map(labelOf);
  const model = classifiers.includes(chosen) ? chosen : classifiers[0];
  const { answer: loaded, error: unknown } = useAnswer(
    active && model && (async () => (await api.get(`models/${model}`)).body.manifest), [active, model]);
  const manifest = loaded && labelOf(loaded) === model ? loaded : null;
  const { name, features = [], classes = [] } = manifest ?? {};
  const text = typed[model] ?? (features.length ? SERIES[name] ?? "" : TEXT);
  const { answer, error, busy } = useAnswer(manifest && text.trim() && (async (signal) => {
    const request = { model: labelOf(manifest), ...sequenceOf(manifest, text) };
    const { body } = await api.post("classify", { ...request, per_step: manifest.directions === 1 }, { signal });
    return { ...body, request };
  }), [manifest, text], 150);
  const isLetters = manifest?.unit === "character" && answer?.request.text;
  return html`<div class="split">
    <section class="card stack" aria-label="Sequence to classify">
      <h2>Which class is it?</h2>
      <${Choice} label="Model" value=${model} options=${classifiers.map((each) => [each, each])} onChange=${choose} />
      <${Field} label=${features.length ? "CSV" : "Text"} tag="textarea" rows="8" spellcheck=${false} value=${text}
        class=${features.length ? "mono" : ""} placeholder=${features.join(",")}
        onInput=${({ target }) => setTyped((last) => ({ ...last, [model]: target.value }))}
        hint=${features.length > 0 && `A row for each step: ${features.join(", ")}.`} />
      ${manifest && html`<p class="hint">${classes.length} classes: ${classes.join(", ")}.</p>`}
    </section>
    <section class="card stack first" aria-label="Result" aria-busy=${busy}>
      <${Problem} error=${unknown ?? error} />
      ${answer && html`<p role="status">${inWords(answer)}</p>
        <div class="grid" role="group" aria-label="Probabilities">
          ${Object.entries(answer.probabilities).slice(0, COLOURS.length).map(([each, share], i) => html`<label>
            <span class="row apart"><span>${each}</span><span class="number">${shareOf(share)}</span></span>
            <progress value=${share} max="1" style=${{ accentColor: `var(${COLOURS[i]})` }} /></label>`)}</div>
        ${answer.per_step && html`<${Steps} shares=${answer.per_step} series=${answer.request.series}
          letters=${isLetters && Array.from(answer.request.text.normalize("NFC"))}
          label="Probabilities after each step. At the end ${inWords(answer)}" />`}
        <${Elsewhere} title="The same as curl, Python" calls=${() => callsOf(answer.request)} />`}
    </section>
  </div>`;
}
