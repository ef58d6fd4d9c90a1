// The tab "Live session": values that arrive one by one, typed or replayed, and a copy of the session for "what if".
// It knows nothing of the service's calls (live.js), nor of what a session looks like (branch.js).

import { elsewhere } from "./api.js";
import { Branch, isGone } from "./branch.js";
import { readCsv } from "./csv.js";
import { HORIZON, Live } from "./live.js";
import { Choice, CopyBlock, Field, Problem, Slider, html, useEffect, useReducer, useRef, useState } from "./ui.js";

const STORED = "carry-sessions";
const SOURCES = [{ value: "requests", label: "Requests to a web server" }, { value: "own", label: "My own values" }];
const SPEEDS = [
  { value: 2, label: "2 a second" }, { value: 10, label: "10 a second" }, { value: 1000, label: "As it answers" },
];
const FIRST = { source: SOURCES[0].value, values: [], notes: "", at: 0, speed: SPEEDS[1].value };
const ENDS = { alignItems: "end", gap: "12px 16px" };
const WHOLE = { flexBasis: "100%" };
const COLUMNS = { gridTemplateColumns: "repeat(auto-fit, minmax(min(100%, 420px), 1fr))" };

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const address = (path) => new URL(path, document.baseURI).href.replace(/[#/]+$/, "");

/** The call as a command. The service knows it by its key: it answers as before, and nothing happens twice. */
function curlOf({ method, path, headers, body }) {
  const all = Object.entries({ ...headers, ...(body && { "Content-Type": "application/json" }) });
  const lines = all.map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
  const { header } = elsewhere();
  if (header) lines.push(header.trim());
  if (body) lines.push(`-d ${quoted(JSON.stringify(body))}`);
  return [`curl -X ${method.toUpperCase()} ${quoted(address(path))}`, ...lines].join(" \\\n  ");
}

function pythonOf({ kind, id, body, steps }) {
  const literal = (value) => JSON.stringify(value).replaceAll("null", "None");
  const { url, load, carryKey } = elsewhere();
  const line = {
    begin: () => `session = client.session(${body.series ? literal(body.series) : `model=${literal(body.model)}`})`,
    import: () => `session = client.session(state=${literal(body.state)})`,
    send: () => `session.observe(${literal(body.series)})\n` +
      `print(session.forecast(${HORIZON}, levels=[50, 80, 95]).median)`,
    rewind: () => `session.rewind(${steps})`,
    restore: () => `session.restore(${literal(body.state)})`,
    fork: () => "what_if = session.fork()",
    export: () => "state = session.export()",
    end: () => "session.close()",
  }[kind]();
  const attach = id ? `session = client.attach(${literal(id)})\n` : "";
  return `${load && `${load}\n`}import carry\n\nclient = carry.Client(${literal(url)}${carryKey})\n${attach}${line}`;
}

/** Typed numbers, `null` where one is missing. Throws an Error in words. */
const readTyped = (text) => text.split(/[\s;]+/).filter(Boolean).map((word) => {
  const value = /^null$/i.test(word) ? null : Number(word);
  if (value === null || Number.isFinite(value)) return value;
  throw new Error(`“${word}” is no number. Write 12.5, with blanks between values, and null for a missing one.`);
});

function download(name, text) {
  const href = URL.createObjectURL(new Blob([text]));
  const link = Object.assign(document.createElement("a"), { download: name, href });
  link.click();
  URL.revokeObjectURL(href);
}

/** The sessions of this tab, at most two, and what can be done with them. `kept`: from before a reload. */
function useSessions(api, model, kept, attempt) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  const [lives, setLives] = useState(() => kept.map((fields) => new Live(api, redraw, fields)));
  const [opening, ended] = [useRef(null), useRef(null)];
  useEffect(() => lives.forEach((live) => live.resume()), []);

  /** Begins a session in the place of `replaced`, or beside the others. */
  const begin = async (name, body, snapshot, replaced) => {
    const live = await Live.begin(api, redraw, name, body, snapshot);
    setLives((all) => (replaced ? all.map((each) => (each === replaced ? live : each)) : [...all, live].slice(-2)));
    return live;
  };
  const first = async () => {
    opening.current ??= begin("Session", { model }).finally(() => { opening.current = null; });
    return [await opening.current];
  };
  return {
    lives,
    /** The newest call of all, also of a session that has ended. */
    call: [ended.current, ...lives.map((live) => live.call)].filter(Boolean).sort((a, b) => a.time - b.time).at(-1),
    /** Sends values to the session with the id `target`, or to all: to the second one those that are `changed`. */
    feed: (values, target, changed = values) => attempt(async () => {
      const chosen = lives.filter(({ id }) => id === target);
      const to = lives.length === 0 ? await first() : chosen.length === 0 ? lives : chosen;
      const sent = await Promise.all(to.map((live) => live.send(live === lives[1] ? changed : values)));
      return sent.every(Boolean);
    }),
    fork: async (live) => {
      const copy = await live.fork();
      if (copy) setLives([live, copy]);
    },
    save: async (live) => {
      const exported = await live.export();
      if (exported) download(`session-${live.now.position}-values.json`, JSON.stringify(exported));
    },
    end: async (live) => {
      await live.end();
      ended.current = live.call;
      if (!live.error || isGone(live)) setLives((all) => all.filter((each) => each !== live));
    },
    again: (live) => attempt(() => begin(live.name, { series: live.now.values }, live.now, live)),
    take: (file) => attempt(async () => {
      const { state, page } = await file.text().then(JSON.parse).catch(() => ({}));
      if (!state) throw new Error(`“${file.name}” holds no session. Choose a file that “Export” has made.`);
      await begin(lives.length ? "Imported" : "Session", { state }, page);
    }),
  };
}

/** A series that is replayed at some speed by `sendOne(value)`, which resolves to whether it was taken. */
function useReplay(kept, sendOne, attempt) {
  const [replay, setReplay] = useState(kept);
  const [playing, play] = useState(false);
  const newest = useRef({ replay });
  newest.current.sendOne = sendOne;
  const [steps, due] = [useRef(Promise.resolve()), useRef(0)];
  const set = (more) => setReplay((newest.current.replay = { ...newest.current.replay, ...more }));
  const step = () => (steps.current = steps.current.then(async () => {
    const { values, at } = newest.current.replay;
    if (await newest.current.sendOne(values[at])) set({ at: at + 1 });
    else play(false);
  }));
  const choose = (source, text) => attempt(async () => {
    play(false);
    set({ source, values: [], at: 0, notes: "" });
    text ??= source === "own" ? "" : await (await fetch(`page/samples/${source}.csv`)).text();
    if (!text) return;
    const { series: [{ id, values }, ...others], notes, ignored } = readCsv(text);
    const left = others.length ? [`Of ${others.length + 1} series, the first is taken: ${id}.`] : [];
    set({ values, notes: [...notes, ...left, ...ignored].join(" ") });
  });
  const isOver = replay.at >= replay.values.length;
  useEffect(() => {
    if (!replay.values.length) choose(replay.source);
  }, []);
  useEffect(() => {
    if (!playing || isOver) return play(false);
    due.current = Math.max(performance.now(), due.current + 1000 / replay.speed);
    const timer = setTimeout(step, due.current - performance.now());
    return () => clearTimeout(timer);
  }, [playing, replay.at]);
  const toggle = () => {
    if (isOver) set({ at: 0 });
    play(!playing);
  };
  return { replay, set, playing, isOver, pause: () => play(false), toggle, step, choose };
}

/** The replay: start and pause, the series, its speed. */
function Player({ ready, player: { replay, set, playing, isOver, toggle, step, choose } }) {
  const hint = replay.notes || "Numbers, one a line or with blanks between them, or a CSV.";
  return html`<button type="button" class="primary" disabled=${!ready || !replay.values.length} onClick=${toggle}>
      ${playing ? "Pause" : replay.at && !isOver ? "Go on" : "Start the replay"}</button>
    <button type="button" disabled=${!ready || playing || isOver} onClick=${step}>Step</button>
    <${Choice} label="Series" value=${replay.source} options=${SOURCES} onChange=${(source) => choose(source)} />
    <${Choice} label="Speed" value=${replay.speed} options=${SPEEDS}
      onChange=${(speed) => set({ speed: Number(speed) })} />
    ${replay.source === "own" && html`<div style=${{ ...WHOLE, order: 1 }}>
      <${Field} label="Values to replay" hint=${hint}>
        <textarea rows="3" onChange=${(event) => choose("own", event.target.value)} />
      <//></div>`}`;
}

/** Values that a person types. `onSend(values)` resolves to whether they were taken. */
function Typing({ ready, onSend, attempt }) {
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    attempt(async () => (await onSend(readTyped(text))) && setText(""));
  };
  return html`<form class="row" style=${{ ...ENDS, flex: "1 1 260px", flexWrap: "nowrap" }} onSubmit=${send}>
    <div style=${{ flex: 1, minWidth: 0 }}><${Field} label="Or type new values">
      <input value=${text} autocomplete="off" placeholder="12.5 13 null"
        onInput=${(event) => setText(event.target.value)} />
    <//></div>
    <button type="submit" disabled=${!ready}>Send</button>
  </form>`;
}

export function Tab({ api, models }) {
  const kept = useRef(null);
  kept.current ??= JSON.parse(sessionStorage.getItem(STORED) ?? "null") ?? { lives: [], replay: FIRST };
  const [error, setError] = useState(null);
  const [target, setTarget] = useState("all");
  const [shift, setShift] = useState(0);
  /** Runs what a person asked for. Resolves to its result; a refusal is shown. */
  const attempt = async (action) => {
    setError(null);
    try {
      return await action();
    } catch (refusal) {
      setError(refusal);
      return false;
    }
  };
  const model = models.find((each) => each.kind === "forecast" && each.default)?.name;
  const sessions = useSessions(api, model, kept.current.lives, attempt);
  const { lives, call } = sessions;
  const changed = (value) => (value === null ? null : value * (1 + shift / 100));
  const sendOne = (value) => sessions.feed([value], target, [changed(value)]);
  const player = useReplay(kept.current.replay, sendOne, attempt);

  kept.current = { lives, replay: player.replay };
  useEffect(() => {
    const plain = (live) => ({ ...live, error: null });
    const keep = () =>
      sessionStorage.setItem(STORED, JSON.stringify({ ...kept.current, lives: kept.current.lives.map(plain) }));
    addEventListener("pagehide", keep);
    return () => removeEventListener("pagehide", keep);
  }, []);
  useEffect(() => {
    if (!player.playing) for (const live of lives) live.refresh();
  }, [player.playing]);

  const read = async (file) =>
    file.name.endsWith(".csv") ? player.choose("own", await file.text()) : sessions.take(file);
  const onDrop = (event) => {
    event.preventDefault();
    for (const file of [...event.dataTransfer.files].slice(0, 1)) read(file);
  };
  const onBack = (go) => {
    player.pause();
    go();
  };
  return html`<div class="stack" onDragOver=${(event) => event.preventDefault()} onDrop=${onDrop}>
    <div><h2>Live session</h2><p class="muted">A session is the memory of one series, kept by the service: you send only
      each new value, and its forecast costs as little after a million values as after ten.</p></div>
    <div class="card row" style=${ENDS}>
      <${Player} ready=${Boolean(model)} player=${player} />
      <${Typing} ready=${Boolean(model)} onSend=${(values) => sessions.feed(values, target)} attempt=${attempt} />
      <button type="button" onClick=${(event) => event.currentTarget.nextElementSibling.click()}>Import</button>
      <input type="file" accept=".json" hidden aria-label="Import a session"
        onChange=${({ target: input }) => sessions.take(input.files[0]).then(() => { input.value = ""; })} />
      ${lives.length > 1 && html`<div class="row" style=${{ ...WHOLE, columnGap: "24px" }}>
        <${Choice} label="Values go to" value=${target} onChange=${setTarget}
          options=${[{ value: "all", label: "Both" }, ...lives.map(({ id, name }) => ({ value: id, label: name }))]} />
        <div style=${{ width: "min(320px, 100%)" }}><${Slider} label="The replay for “${lives[1].name}” is changed by"
          min=${-50} max=${50} value=${shift} onInput=${setShift} format=${(value) => `${value} %`} /></div></div>`}
    </div>
    <${Problem} error=${error} />
    ${!lives.length && html`<p class="card muted">Start the replay, or type a value: here the forecast moves with each
      value that arrives. Then go back to an earlier version, ask “what if” in a copy, or export the session and go on
      with it elsewhere.</p>`}
    <div class="grid" style=${COLUMNS}>
      ${lives.map((live, i) => html`<${Branch} key=${live.id} live=${live} origin=${i ? lives[0] : null}
        onBack=${onBack} onFork=${lives.length < 2 && (() => sessions.fork(live))}
        onExport=${() => sessions.save(live)} onEnd=${() => sessions.end(live)}
        onAgain=${() => sessions.again(live)} />`)}
    </div>
    ${call && html`<details class="card"><summary>The last call, the same with curl and Python</summary>
      <div class="stack">
        <${CopyBlock} label="curl" text=${curlOf(call)} />
        <${CopyBlock} label="Python" text=${pythonOf(call)} />
      </div></details>`}
  </div>`;
}
