// The frame of the page: header, tabs, the dialog for the API key. It keeps the list of models for all tabs; what a tab
// does is its own module's.

import { api, onKeyNeeded, saveKey, savedKey } from "./api.js";
import { Problem, Tabs, html, render, useEffect, useErrorBoundary, useRef, useState } from "./ui.js";

const TABS = [
  { id: "forecast", title: "Forecast", load: () => import("./forecast.js") },
  { id: "session", title: "Live session", load: () => import("./session.js") },
  { id: "text", title: "Text", load: () => import("./text.js") },
  { id: "models", title: "Models", load: () => import("./models.js") },
  { id: "load", title: "Load", load: () => import("./load.js") },
];
const STATUS_SECONDS = 10;
const OTHERS_SECONDS = 3; // until the tabs that are not shown are loaded: the one that is shown does not wait for them

const tabOfHash = () => TABS.find((tab) => `#${tab.id}` === location.hash)?.id ?? TABS[0].id;

/** The version and the readiness of the service, asked again now and then while the page is seen. */
function Status() {
  const [version, setVersion] = useState("");
  const [ready, setReady] = useState(null);
  useEffect(() => {
    const look = async () => {
      if (document.hidden) return;
      try {
        await api.get("health/ready");
        setReady({ text: "Ready", state: "good" });
      } catch (error) {
        setReady({ text: error.status ? "Not ready" : "No answer", state: "bad", reason: error.detail });
      }
    };
    look();
    api.get("version").then(({ body }) => setVersion(body.version), () => {});
    const timer = setInterval(look, 1000 * STATUS_SECONDS);
    return () => clearInterval(timer);
  }, []);
  const { text, state, reason } = ready ?? { text: "Asking" };
  return html`<span class="muted">${version && `Version ${version}`}</span>
    <span class="pill" role="status" data-state=${state} title=${reason}>${text}</span>`;
}

/** The dialog that asks for the API key: at a refusal, or by its button. All calls that were refused wait for it. */
function KeyDialog({ onKey }) {
  const dialog = useRef();
  const waiting = useRef([]);
  const [reason, setReason] = useState("");
  const open = (refusal) =>
    new Promise((resolve) => {
      waiting.current.push(resolve);
      setReason(!refusal ? "" : savedKey() ? "The service refused this key." : "The service wants a key.");
      if (!dialog.current.open) dialog.current.showModal();
    });
  useEffect(() => onKeyNeeded(open), []);
  const close = () => {
    const form = dialog.current.querySelector("form");
    const key = dialog.current.returnValue === "use" ? form.elements.key.value.trim() : null;
    if (key) saveKey(key);
    form.reset();
    dialog.current.returnValue = "";
    for (const resolve of waiting.current.splice(0)) resolve(key);
  };
  return html`<button type="button" class="quiet" onClick=${async () => (await open(null)) && onKey()}>API key</button>
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
function Panel({ id, active, wanted, load, ...shared }) {
  const [Content, setContent] = useState(null);
  const [failed, setFailed] = useState(null);
  const [fault] = useErrorBoundary();
  useEffect(() => {
    if (wanted && !Content) load().then(({ Tab }) => setContent(() => Tab), setFailed);
  }, [wanted]);
  const error = fault ?? failed;
  return html`<section role="tabpanel" id="panel-${id}" aria-labelledby="tab-${id}" hidden=${!active}>
    ${error ? html`<${Problem} error=${error} />`
      : Content && html`<${Content} api=${api} active=${active} ...${shared} />`}
  </section>`;
}

function App() {
  const [selected, select] = useState(tabOfHash);
  const [listed, setListed] = useState({ models: [], refused: [] });
  const [error, setError] = useState(null);
  const [others, setOthers] = useState(false);
  const list = () =>
    api.get("models").then(({ body }) => {
      setListed(body);
      setError(null);
    }, setError);
  useEffect(() => {
    const follow = () => select(tabOfHash());
    addEventListener("hashchange", follow);
    list();
    const timer = setTimeout(() => setOthers(true), 1000 * OTHERS_SECONDS);
    return () => {
      clearTimeout(timer);
      removeEventListener("hashchange", follow);
    };
  }, []);
  const shared = { models: listed.models, refused: listed.refused, onModels: setListed };
  return html`<a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>Skip to content</a>
    <header>
      <h1><img src="page/icon.svg" alt="" width="24" height="24" /> Carry</h1>
      <${Tabs} label="Parts of the page" tabs=${TABS} selected=${selected} onSelect=${(id) => (location.hash = id)} />
      <div class="header-end">
        <${Status} /><a href="docs">API</a><${KeyDialog} onKey=${list} />
      </div>
    </header>
    <main id="main" tabindex="-1">
      <${Problem} error=${error} />
      ${TABS.map(({ id, load }) => html`<${Panel} key=${id} id=${id} load=${load} active=${id === selected}
        wanted=${others || id === selected} ...${shared} />`)}
    </main>`;
}

render(html`<${App} />`, document.getElementById("app"));
