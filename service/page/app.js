// The frame of the page: header, tabs, the dialog for the API key. It keeps the list of models for all tabs; what a tab
// does is its own module's.

import { api, onKeyNeeded, saveKey, savedKey } from "./api.js";
import { Problem, useAnswer } from "./ui.js";
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./vendor/preact.js";

const TABS = [ // a third item: the kind of model that has to be loaded
  ["forecast", "Forecast"], ["session", "Live session"], ["text", "Text"], ["classes", "Classes", "classify"],
  ["models", "Models"], ["load", "Load"],
];
const OTHERS_SECONDS = 3; // until the tabs that are not shown are loaded: the one that is shown does not wait for them

const tabOfHash = () => (TABS.find(([id]) => `#${id}` === location.hash) ?? TABS[0])[0];

/** The dialog that asks for the API key: at a refusal, or by its button. All calls that were refused wait for it. */
function KeyDialog({ onKey }) {
  const dialog = useRef();
  const waiting = useRef([]);
  const [reason, setReason] = useState("");
  const open = (why) => new Promise((resolve) => {
    waiting.current.push(resolve);
    setReason(why);
    if (!dialog.current.open) dialog.current.showModal();
  });
  const whyOf = () => (savedKey() ? "The service refused this key." : "The service wants a key.");
  useEffect(() => onKeyNeeded(() => open(whyOf())), []);
  const close = () => {
    const form = dialog.current.querySelector("form");
    const key = dialog.current.returnValue === "use" ? form.elements.key.value.trim() : null;
    if (key) saveKey(key);
    form.reset();
    dialog.current.returnValue = "";
    for (const resolve of waiting.current.splice(0)) resolve(key);
  };
  return html`<button type="button" onClick=${async () => (await open("")) && onKey()}>API key</button>
    <dialog ref=${dialog} onClose=${close} aria-labelledby="key-title">
      <form method="dialog">
        <h2 id="key-title">API key</h2>
        <p role="status">${reason}</p>
        <label for="key">Key</label>
        <input id="key" name="key" type="password" autocomplete="off" spellcheck=${false} />
        <p class="hint">It stays in this tab and is forgotten when you close it.</p>
        <div class="row end">
          <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
          <button type="submit" value="use" class="primary">Use key</button>
        </div>
      </form>
    </dialog>`;
}

/** One tab's panel. It stays mounted while another is shown; a fault in it takes no other tab down. */
function Panel({ id, title, active, wanted, ...shared }) {
  const [fault] = useErrorBoundary();
  const isSeen = useRef(false);
  isSeen.current ||= wanted;
  const { answer, error } = useAnswer(isSeen.current && (() => import(`./${id}.js`)), [isSeen.current]);
  return html`<section id="panel-${id}" aria-label=${title} hidden=${!active}>
    <${Problem} error=${fault ?? error} />
    ${!fault && answer && html`<${answer.Tab} api=${api} active=${active} ...${shared} />`}
  </section>`;
}

function App() {
  const [selected, select] = useState(tabOfHash);
  const [listed, setListed] = useState({ models: [], refused: [] });
  const [error, setError] = useState(null);
  const [others, setOthers] = useState(false);
  const list = () => api.get("models").then(({ body }) => setError(null) ?? setListed(body), setError);
  useEffect(() => {
    addEventListener("hashchange", () => select(tabOfHash()));
    setTimeout(() => setOthers(true), 1000 * OTHERS_SECONDS);
    list();
  }, []);
  const isOffered = (kind) => !kind || listed.models.some((each) => each.kind === kind);
  const shown = TABS.filter(([id, , kind]) => (listed.models.length || id !== selected ? isOffered(kind) : true));
  const current = shown.some(([id]) => id === selected) ? selected : TABS[0][0];
  const skip = (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  };
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to content</a>
    <header>
      <h1><img src="page/icon.svg" alt="" width="24" height="24" /> Carry</h1>
      <nav class="tabs" aria-label="Parts of the page">${shown.map(([id, title]) => html`<a key=${id} href="#${id}"
        aria-current=${id === current ? "page" : undefined}>${title}</a>`)}</nav>
      <div class="header-end"><a href="docs">API</a><${KeyDialog} onKey=${list} /></div>
    </header>
    <main id="main" tabindex="-1">
      <${Problem} error=${error} />
      ${shown.map(([id, title]) => html`<${Panel} key=${id} id=${id} title=${title} active=${id === current}
        wanted=${others || id === current} ...${listed} onModels=${setListed} />`)}
    </main>`;
}

render(html`<${App} />`, document.getElementById("app"));
