// The tab "Models": what each loaded model is, how good it is, its pictures; what was refused and why; the reload.

import { html, Problem, useEffect, useRef, useState } from "./ui.js";

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const percent = (share) => `${number.format(100 * share)} %`;

/** Measures in words. A key ends with the measure; before it stands the collection of series, and its frequency. */
const MEASURES = {
  bits_per_character: ["bits per character", (bits) => `as if ${number.format(2 ** bits)} of them were equally likely`],
  bits_per_token: ["bits per word", () => ""],
  nats_per_character: ["nats per character", () => ""],
  mase: ["MASE", () => "mean error over the history's mean change in a season"],
  smape: ["sMAPE, %", () => "mean error in percent of the values"],
  mae: ["mean absolute error", () => "in the unit of the series"],
  mse: ["mean squared error", () => ""],
  scaled_quantile_loss: ["scaled quantile loss", () => "error of all quantiles, in the same unit"],
  coverage_80: ["of the values in the 80 % interval", () => "", percent],
  free_running_mae: ["mean error of the free run", () => "each forecast fed back as if it had come true"],
};
const FREQUENCIES = { Y: "yearly", Q: "quarterly", M: "monthly", W: "weekly", D: "daily", H: "hourly", O: "other" };
const HEADLINES = ["bits_per_character", "mase", "coverage_80", "smape", "mae"];

/** A metric's key, read: {measure, where}, or the key itself as the measure. */
function meaning(key) {
  if (MEASURES[key]) return { measure: key, where: "" };
  const [, name, frequency, measure] = key.match(/^(.+)_([A-Z]|all)_(.+)$/) ?? [];
  if (!MEASURES[measure]) return { measure: key, where: "" };
  const collection = name.replace(/-train$/, "").replace(/^(m\d|nn\d)$/, (each) => each.toUpperCase());
  return { measure, where: `${collection}, ${FREQUENCIES[frequency] ?? frequency}` };
}

function figuresOf(metrics) {
  return Object.entries(metrics).map(([key, value]) => {
    const { measure, where } = meaning(key);
    const [name, explained = () => "", write = number.format] = MEASURES[measure] ?? [measure.replaceAll("_", " ")];
    return { key, measure, where, name, value: write(value), explained: explained(value) };
  });
}

/** At most two figures that say most: of all series together, where there are several collections. */
function headlines(figures) {
  const rank = ({ measure, where }) => HEADLINES.indexOf(measure) + (where.endsWith(", all") || !where ? 0 : 10);
  const known = figures.filter(({ measure }) => HEADLINES.includes(measure));
  const best = known.sort((a, b) => rank(a) - rank(b));
  return best.filter(({ measure }, i) => best.findIndex((each) => each.measure === measure) === i).slice(0, 2);
}

/** A picture of a card. It is fetched once it is near the screen, and shown large at a click. */
function Picture({ api, label, name, caption }) {
  const [source, setSource] = useState(null);
  const [error, setError] = useState(null);
  const button = useRef();
  const dialog = useRef();
  useEffect(() => {
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      api.dataUrl(`models/${label}/pictures/${name}`).then(setSource, setError);
    }, { rootMargin: "200px" });
    seen.observe(button.current);
    return () => seen.disconnect();
  }, []);
  return html`<button type="button" class="picture" ref=${button} title=${caption} aria-label="Enlarge: ${caption}"
      onClick=${() => dialog.current.showModal()}>${source && html`<img src=${source} alt="" />`}</button>
    <${Problem} error=${error} />
    <dialog class="wide" ref=${dialog} aria-label=${caption}>
      <form method="dialog">${source && html`<img src=${source} alt=${caption} />`}
        <p>${caption}</p><div class="row end"><button>Close</button></div></form>
    </dialog>`;
}

/** How the model was made, asked for when it is opened. */
function Provenance({ api, label }) {
  const [manifest, setManifest] = useState(null);
  const [error, setError] = useState(null);
  const look = ({ target }) => {
    if (target.open && !manifest) api.get(`models/${label}`).then(({ body }) => setManifest(body.manifest), setError);
  };
  const made = manifest?.provenance;
  return html`<details onToggle=${look}>
    <summary>How it was made</summary>
    <${Problem} error=${error} />
    ${made && html`<p class="hint">${made.cell === "elman" ? "Elman" : made.cell.toUpperCase()},
      ${" "}${made.layers} ${made.layers === 1 ? "layer" : "layers"} of ${made.hidden} units,
      ${" "}${made.parameters.toLocaleString("en")} parameters. Trained on
      ${" "}${made.data.length} ${made.data.length === 1 ? "file" : "files"}
      ${" "}in ${number.format(made.duration_seconds)} s, seed ${made.seed},
      ${" "}${new Date(made.created_at).toLocaleDateString("en-GB", { dateStyle: "long" })}, by</p>
      <pre class="command" tabindex="0" aria-label="Command">${made.command}</pre>`}
  </details>`;
}

function Card({ api, model }) {
  const { name, version, kind, precision, description, metrics, pictures } = model;
  const label = `${name}@${version}`;
  const figures = figuresOf(metrics);
  return html`<article class="card stack" aria-label=${label}>
    <div class="row apart"><h3>${name} <span class="muted">version ${version}</span></h3>
      <span class="row">${model.default && html`<span class="pill accent">default</span>`}
        <span class="pill">${kind}</span><span class="pill">${precision}</span></span></div>
    <p>${description || "It has no description."}</p>
    <dl class="figures">${headlines(figures).map((each) => html`<div key=${each.key}>
      <dt>${each.name}${each.where && `, ${each.where}`}${each.explained && html`<br />${each.explained}`}</dt>
      <dd>${each.value}</dd></div>`)}</dl>
    ${pictures.length > 0 && html`<div class="pictures">${pictures.map((picture) => html`<${Picture}
      key=${label + picture.name} api=${api} label=${label} ...${picture} />`)}</div>`}
    ${figures.length > 0 && html`<details><summary>All figures</summary><div class="scroll"><table><tbody>
      ${figures.map((each) => html`<tr key=${each.key}><td>${each.name}</td><td class="muted">${each.where}</td>
        <td class="number">${each.value}</td></tr>`)}</tbody></table></div></details>`}
    <${Provenance} key=${label} api=${api} label=${label} />
  </article>`;
}

const changes = ({ loaded, unloaded }) =>
  [loaded.length && `Loaded: ${loaded.join(", ")}.`, unloaded.length && `Unloaded: ${unloaded.join(", ")}.`]
    .filter(Boolean).join(" ") || "Nothing has changed.";

export function Tab({ api, models, refused, onModels }) {
  const [state, setState] = useState({ text: "", busy: false, error: null });
  const reload = async () => {
    setState({ text: "Reading the model folders.", busy: true, error: null });
    try {
      const { body } = await api.post("models/reload", {});
      onModels(body);
      setState({ text: changes(body), busy: false, error: null });
    } catch (error) {
      setState({ text: "", busy: false, error });
    }
  };
  const shown = [...models].sort((a, b) => b.default - a.default);
  return html`<div class="stack">
    <div class="row apart">
      <div><h2>Models</h2>
        <p class="muted">${models.length} loaded. Figures are of the test part, which the model has not seen.</p>
        <p role="status">${state.text}</p></div>
      <button type="button" disabled=${state.busy} onClick=${reload}
        title="Read the model folders again, in all processes">Reload</button>
    </div>
    <${Problem} error=${state.error} />
    ${refused.length > 0 && html`<div class="problem"><h3>Refused</h3><ul>${refused.map((each) => html`
      <li><b>${each.name}@${each.version}</b>: ${each.reason}</li>`)}</ul></div>`}
    <div class="grid">${shown.map((model) => html`<${Card} key=${`${model.name}@${model.version}`} api=${api}
      model=${model} />`)}</div>
  </div>`;
}
