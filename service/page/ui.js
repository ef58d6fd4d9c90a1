// What all tabs share: the library, and small parts of a form. It knows nothing of the service.

import { html, render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "./vendor/preact.js";

export {
  html, render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useReducer, useRef, useState,
};

let ids = 0;
/** An id of this component, the same for its whole life. */
export function useId(prefix = "id") {
  return useState(() => `${prefix}-${++ids}`)[0];
}

/** A labelled control: `children` holds one input, select or textarea. The hint is read with it. */
export function Field({ label, hint, children }) {
  const id = useId("field");
  const field = useRef();
  useLayoutEffect(() => {
    const control = field.current.querySelector("input, select, textarea");
    control.id = id;
    if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  });
  return html`<div class="field" ref=${field}>
    <label for=${id}>${label}</label>
    ${children}
    ${hint && html`<p class="hint" id="${id}-hint">${hint}</p>`}
  </div>`;
}

/** A number to choose by dragging. `onInput` gets the number; `format` writes it. */
export function Slider({ label, value, min, max, step = 1, onInput, format = String }) {
  const id = useId("slider");
  return html`<div class="field slider">
    <label for=${id}>${label}</label>
    <output for=${id}>${format(value)}</output>
    <input id=${id} type="range" min=${min} max=${max} step=${step} value=${value}
      aria-valuetext=${format(value)} onInput=${(event) => onInput(Number(event.target.value))} />
  </div>`;
}

/** One of several options, each a text or {value, label}. `onChange` gets the value as a text. */
export function Choice({ label, value, options, onChange, hint }) {
  return html`<${Field} label=${label} hint=${hint}>
    <select onChange=${(event) => onChange(event.target.value)}>
      ${options.map((option) => {
        const { value: own, label: text } = typeof option === "object" ? option : { value: option, label: option };
        return html`<option key=${own} value=${own} selected=${String(own) === String(value)}>${text}</option>`;
      })}
    </select>
  <//>`;
}

/** An error in words: what was refused, and at which fields. Shows nothing without an error. */
export function Problem({ error }) {
  if (!error) return null;
  const { detail, message, status, code, errors = [], request_id: id } = error;
  const fields = errors.filter((each) => !(detail || "").includes(each.message));
  return html`<div class="problem" role="alert">
    <p>${detail || message || String(error)}</p>
    ${fields.length > 0 &&
    html`<ul>${fields.map((each) => html`<li><code>${each.path}</code> ${each.message}</li>`)}</ul>`}
    ${status > 0 && html`<p class="hint">${status} ${code}${id && `, request ${id}`}</p>`}
  </div>`;
}

/** Text to take away, with a button that copies it. */
export function CopyBlock({ text, label }) {
  const [state, setState] = useState("");
  const block = useRef();
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setState("Copied");
    } catch {
      // Without https a browser gives no clipboard: select the text instead.
      getSelection().selectAllChildren(block.current);
      setState("Selected: press Ctrl+C");
    }
  };
  return html`<div class="copy">
    <div class="copy-head">
      <span>${label}</span><span role="status">${state}</span>
      <button type="button" class="small" aria-label="Copy ${label}" onClick=${copy}>Copy</button>
    </div>
    <pre tabindex="0" aria-label=${label} ref=${block}>${text}</pre>
  </div>`;
}

/** A list of tabs, each {id, title}. Arrow keys, Home and End move; the panel of a tab has the id `panel-<id>`. */
export function Tabs({ label, tabs, selected, onSelect }) {
  const move = (event) => {
    const at = tabs.findIndex((tab) => tab.id === selected);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const { id } = tabs[(to + tabs.length) % tabs.length];
    onSelect(id);
    document.getElementById(`tab-${id}`).focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
    ${tabs.map(
      ({ id, title }) => html`<button key=${id} type="button" role="tab" id="tab-${id}" aria-controls="panel-${id}"
        aria-selected=${id === selected ? "true" : "false"} tabindex=${id === selected ? 0 : -1}
        onClick=${() => onSelect(id)}>${title}</button>`,
    )}
  </div>`;
}
