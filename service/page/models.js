// The tab "Models": what each loaded model is, how good it is, its pictures; what was refused and why; the reload.

import { Figures, Problem, useAnswer, useTask } from "./ui.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

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
  accuracy: ["of the sequences in the right class", () => "", percent],
  exact_match: ["of the texts exactly right", () => "", percent],
  free_running_mae: ["mean error of the free run", () => "each forecast fed back as if it had come true"],
};
const FREQUENCIES = { Y: "yearly", Q: "quarterly", M: "monthly", W: "weekly", D: "daily", H: "hourly", O: "other" };
const HEADLINES = ["accuracy", "exact_match", "bits_per_character", "mase", "coverage_80", "smape", "mae"];

/** A metric in words. Its key ends with the measure; before it may stand a collection of series and its frequency. */
function figureOf([key, value]) {
  const [, collection, frequency, end] = /^(?:(.+)_([A-Z]|all)_)?(.+)$/.exec(key);
  const measure = MEASURES[end] ? end : key;
  const [name, explained = () => "", write = number.format] = MEASURES[measure] ?? [key.replaceAll("_", " ")];
  const series = collection?.replace(/-train$/, "").replace(/^(m\d|nn\d)$/, (each) => each.toUpperCase());
  const where = measure === end && series ? `${series}, ${FREQUENCIES[frequency] ?? frequency}` : "";
  return { key, measure, where, name, value: write(value), explained: explained(value) };
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
  const [seen, setSeen] = useState(false);
  const [button, dialog] = [useRef(), useRef()];
  const { answer: source, error } = useAnswer(seen && (() => api.dataUrl(`models/${label}/pictures/${name}`)), [seen]);
  useEffect(() => {
    const near = new IntersectionObserver(([entry]) => entry.isIntersecting && setSeen(true), { rootMargin: "200px" });
    near.observe(button.current);
    return () => near.disconnect();
  }, []);
  return html`<button type="button" class="picture" ref=${button} title=${caption} aria-label="Enlarge: ${caption}"
      onClick=${() => dialog.current.showModal()}>${source && html`<img src=${source} alt="" />`}</button>
    <${Problem} error=${error} />
    <dialog class="wide" ref=${dialog} aria-label=${caption}>
      <form method="dialog">${source && html`<img src=${source} alt=${caption} />`}
        <p>${caption}</p><div class="row end"><button>Close</button></div></form>
    </dialog>`;
}

function Card({ api, model: { name, version, kind, precision, description, metrics, pictures, ...model } }) {
  const label = `${name}@${version}`;
  const figures = Object.entries(metrics).map(figureOf);
  const means = precision === "int8" ? "Weights of 8 bits: faster, a little less exact" : "Full precision, as trained";
  return html`<article class="card stack" aria-label=${label}>
    <div class="row apart"><h3>${name} <span class="muted">version ${version}</span></h3>
      <span class="row">${model.default && html`<span class="pill accent">default</span>`}
        <span class="pill">${kind}</span><span class="pill" title=${means}>${precision}</span></span></div>
    <p>${description || "It has no description."}</p>
    <${Figures} of=${headlines(figures).map((each) => [html`${each.name}${each.where && `, ${each.where}`}${
      each.explained && html`<br />${each.explained}`}`, each.value])} />
    ${pictures.length > 0 && html`<div class="pictures">${pictures.map((picture) => html`<${Picture}
      key=${label + picture.name} api=${api} label=${label} ...${picture} />`)}</div>`}
    ${figures.length > 0 && html`<details><summary>All figures</summary><div class="scroll"><table><tbody>
      ${figures.map((each) => html`<tr key=${each.key}><td>${each.name}</td><td class="muted">${each.where}</td>
        <td class="number">${each.value}</td></tr>`)}</tbody></table></div></details>`}
  </article>`;
}

const changes = ({ loaded, unloaded }) =>
  [loaded.length && `Loaded: ${loaded.join(", ")}.`, unloaded.length && `Unloaded: ${unloaded.join(", ")}.`]
    .filter(Boolean).join(" ") || "Nothing has changed.";

export function Tab({ api, models, refused, onModels }) {
  const [{ answer, error, busy }, run] = useTask();
  const reload = () => run(async () => {
    const { body } = await api.post("models/reload", {});
    onModels(body);
    return changes(body);
  });
  const shown = [...models].sort((a, b) => b.default - a.default);
  return html`<div class="stack">
    <div class="row apart">
      <div><h2>Models</h2>
        <p class="muted">${models.length} loaded. Figures are of the test part, which the model has not seen.</p>
        <p role="status">${busy ? "Reading the model folders." : answer}</p></div>
      <button type="button" disabled=${busy} onClick=${reload}
        title="Read the model folders again, in all processes">Reload</button>
    </div>
    <${Problem} error=${error} />
    ${refused.length > 0 && html`<div class="problem"><h3>Refused</h3><ul>${refused.map((each) => html`
      <li><b>${each.name}@${each.version}</b>: ${each.reason}</li>`)}</ul></div>`}
    <div class="grid">${shown.map((model) => html`<${Card} key=${`${model.name}@${model.version}`} api=${api}
      model=${model} />`)}</div>
  </div>`;
}
