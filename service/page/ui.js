// What all tabs share: parts of a form, calls that answer later, text to take away. It knows nothing of the service.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";

let ids = 0;
/** An id of this component, the same for its whole life. */
export const useId = (prefix) => useState(() => `${prefix}-${++ids}`)[0];

export const percent = (share, digits = 0) => (share === null ? "–" : `${(100 * share).toFixed(digits)} %`);
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** What `call(signal)` answers: {answer, error, busy}. New inputs abort the call before, and call after `wait` ms. */
export function useAnswer(call, inputs, wait = 0) {
  const [state, setState] = useState({});
  useEffect(() => {
    if (!call) return setState({});
    const calling = new AbortController();
    const set = (more) => calling.signal.aborted || setState(more);
    setState((last) => ({ ...last, busy: true }));
    const ask = () => call(calling.signal).then((answer) => set({ answer }), (error) => set({ error }));
    const timer = setTimeout(ask, wait);
    return () => {
      clearTimeout(timer);
      calling.abort();
    };
  }, inputs);
  return state;
}

/** Runs what a person asks for: [{answer, error, busy}, run(action)]. */
export function useTask() {
  const [state, setState] = useState({});
  const run = (action) => {
    setState({ busy: true });
    return action().then((answer) => setState({ answer }), (error) => setState({ error }));
  };
  return [state, run];
}

/** A labelled control: `tag`, with all other properties. The hint is read with it. */
export function Field({ label, hint, tag = "input", children, ...control }) {
  const id = useId("field");
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <${tag} id=${id} aria-describedby=${hint && `${id}-hint`} ...${control}>${children}<//>
    ${hint && html`<p class="hint" id="${id}-hint">${hint}</p>`}
  </div>`;
}

/** One of several options, each [value, label]. `onChange` gets the value as a text. */
export function Choice({ value, options, onChange, ...field }) {
  return html`<${Field} tag="select" ...${field} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([each, label]) => html`<option key=${each} value=${each} selected=${String(each) === String(value)}>
      ${label}</option>`)}<//>`;
}

/** A slider with its value beside the label; `format` writes it. */
export function Slider({ label, value, onInput, format = String, ...range }) {
  const id = useId("slider");
  return html`<div class="field slider">
    <label for=${id}>${label}</label><output for=${id}>${format(value)}</output>
    <input id=${id} type="range" ...${range} value=${value} aria-valuetext=${format(value)}
      onInput=${(event) => onInput(Number(event.target.value))} />
  </div>`;
}

/** An error in words: what was refused, and at which fields. Shows nothing without an error. */
export function Problem({ error }) {
  if (!error) return null;
  const { message, status, code, errors = [], request_id: id } = error;
  const fields = errors.filter((each) => !message.includes(each.message));
  return html`<div class="problem" role="alert"><p>${message}</p>
    ${fields.map((each) => html`<p><code>${each.path}</code> ${each.message}</p>`)}
    ${status > 0 && html`<p class="hint">${status} ${code}${id && `, request ${id}`}</p>`}</div>`;
}

/** Figures, each [name, value, what it means]. */
export const Figures = ({ of }) => html`<dl class="figures">${of.map(([name, value, title]) => html`<div key=${name}
  title=${title}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** Text to take away, with a button that copies it. */
function CopyBlock({ text, label }) {
  const [state, setState] = useState("");
  const block = useRef();
  const select = () => { // without https a browser gives no clipboard
    getSelection().selectAllChildren(block.current);
    setState("Selected: press Ctrl+C");
  };
  const copy = () => (async () => navigator.clipboard.writeText(text))().then(() => setState("Copied"), select);
  return html`<div class="copy">
    <div class="row"><b>${label}</b><span role="status">${state}</span>
      <button type="button" class="small" aria-label="Copy ${label}" onClick=${copy}>Copy</button></div>
    <pre tabindex="0" aria-label=${label} ref=${block}>${text}</pre>
  </div>`;
}

/** The same request elsewhere: `calls()` gives each way's text by its name, once a person looks. */
export function Elsewhere({ calls, title, children }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.target.open)}>
    <summary>${title}</summary>
    ${isOpen && html`<div class="stack">${children}${Object.entries(calls()).map(([label, text]) =>
      html`<${CopyBlock} key=${label} label=${label} text=${text} />`)}</div>`}
  </details>`;
}

/** Offers a text as a file. */
export function save(name, text) {
  const href = URL.createObjectURL(new Blob([text]));
  const link = Object.assign(document.createElement("a"), { download: name, href });
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}
