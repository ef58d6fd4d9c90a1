// The tab "Live session": values that arrive one by one, typed or replayed, and a copy of the session for "what if".
// It knows nothing of the service's calls (live.js), nor of how a chart is drawn (chart.js).

import { savedKey } from "./api.js";
import { readCsv } from "./csv.js";
import { FanChart, formatNumber } from "./chart.js";
import { HORIZON, INTERVALS, Live, numbered } from "./live.js";
import { Choice, CopyBlock, Field, Problem, Slider, html, useEffect, useMemo, useReducer, useRef, useState } from "./ui.js";

const STORED = "carry-sessions";
const SOURCES = [{ value: "requests", label: "Requests to a web server" }, { value: "own", label: "My own values" }];
const SPEEDS = [{ value: 2, label: "2 a second" }, { value: 10, label: "10 a second" }, { value: 1000, label: "As it answers" }];
const FIRST = { source: SOURCES[0].value, values: [], notes: "", at: 0, speed: SPEEDS[1].value };
const GONE = {
  session_not_found: "The service does not know this session: another client ended it, or the service lost its store.",
  session_expired: "This session has expired: nobody used it for too long.",
  session_model_gone: "The model of this session is no longer loaded.",
};
const UNSEEN = { position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)" };
const SIDE_BY_SIDE = { display: "grid", gap: "16px", gridTemplateColumns: "repeat(auto-fit, minmax(min(100%, 420px), 1fr))" };
const wide = (share, width) => ({ flex: `${share} 1 ${width}px`, minWidth: 0 });

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(100 * share)} %`;
const rounded = (value) => formatNumber(Number(value.toPrecision(4)));
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** Typed numbers, `null` where one is missing. Throws an Error in words. */
const readTyped = (text) => text.split(/[\s;]+/).filter(Boolean).map((word) => {
  const value = /^null$/i.test(word) ? null : Number(word);
  if (value === null || Number.isFinite(value)) return value;
  throw new Error(`“${word}” is no number. Write 12.5, with blanks between values, and null for a missing one.`);
});

function inWords({ position, values, forecast }) {
  if (!forecast) return "No value yet.";
  const value = values.at(-1) === null ? "is unknown" : `is ${formatNumber(values.at(-1))}`;
  const [low, high] = INTERVALS[80].map((level) => rounded(forecast[level][0]));
  return `Value ${position} ${value}. The next: ${rounded(forecast["0.5"][0])}, with 80 % probability ${low} to ${high}.`;
}

/** Says a text to a screen reader: the newest, at most every five seconds. */
function Announced({ text }) {
  const [said, say] = useState({ text: "", at: -Infinity });
  useEffect(() => {
    const timer = setTimeout(() => say({ text, at: performance.now() }), said.at + 5000 - performance.now());
    return () => clearTimeout(timer);
  }, [text]);
  return html`<p role="status" style=${UNSEEN}>${said.text}</p>`;
}

/** How the forecast of the next value met it, over all values of the session. A tick is at the nominal level. */
function Accuracy({ score: { count, error, change, held } }) {
  return html`<section class="stack" style=${{ gap: "8px" }}><h3>How good each forecast was</h3>
    ${!count && html`<p class="hint">From the second value on.</p>`}
    ${count > 0 && Object.keys(INTERVALS).map((level) => html`<p key=${level}>
      ${level} % interval held ${percent(held[level] / count)} of ${plural(count, "value")}
      <svg viewBox="0 0 100 4" width="100%" height="5" preserveAspectRatio="none" aria-hidden="true">
        <path d="M0 2H100" stroke="var(--line)" stroke-width="4" />
        <path d=${`M0 2H${(100 * held[level]) / count}`} stroke="var(--accent)" stroke-width="4" />
        <path d=${`M${level} 0V4`} stroke="var(--text)" />
      </svg></p>`)}
    ${change > 0 && html`<p>Scaled error ${(error / change).toFixed(2)}: it misses by ${percent(error / change)} of what
      “the same again” misses by.</p>`}
  </section>`;
}

/** The milliseconds of each call, as a line: it stays flat. */
function Cost({ times, position }) {
  const top = 3 * median(times);
  const line = times.map((time, i) => `${(300 * i) / Math.max(1, times.length - 1)},${40 - (40 * Math.min(time, top)) / top}`);
  const [first, now] = [times.slice(0, 50), times.slice(-50)].map((part) => `${median(part)?.toFixed(1)} ms`);
  return html`<section class="stack" style=${{ gap: "8px" }}><h3>What a value costs</h3>
    <p>${plural(position, "value")} seen. ${times.length > 0 && `A call took ${first} at first, and takes ${now} now.`}</p>
    <svg viewBox="0 0 300 40" width="100%" height="44" preserveAspectRatio="none" role="img" aria-label="Milliseconds of each call">
      <polyline points=${line.join(" ")} fill="none" stroke="var(--accent)" vector-effect="non-scaling-stroke" />
    </svg></section>`;
}

/** The versions that the service keeps, oldest first, each by its number of values. */
function Timeline({ live, onRewind }) {
  const button = ({ version, position }) => html`<button key=${version} type="button" class="small"
    aria-current=${version === live.version ? "true" : undefined} disabled=${version === live.version}
    aria-label="Version ${version}, after ${plural(position, "value")}" onClick=${() => onRewind(version)}>${position}</button>`;
  return html`<div class="row" role="group" aria-label="Versions to go back to"><span class="hint">Go back to value</span>
    ${live.versions.toReversed().map(button)}</div>`;
}

/** What FanChart draws of a snapshot. `ghost`: values, of which the later ones are shown, too. */
function chartOf(now, ghost) {
  const x = Array.from({ length: HORIZON }, (_, i) => now.position + 1 + i);
  const fan = ([level, [low, high]]) => ({ level: Number(level), lower: now.forecast[low], upper: now.forecast[high] });
  const columns = (points) => ({ x: points.map(([number]) => number), y: points.map(([, value]) => value) });
  const later = ghost.filter(([number]) => number > now.position);
  return {
    history: columns(numbered(now)),
    forecast: now.forecast && { x, median: now.forecast["0.5"], bands: Object.entries(INTERVALS).map(fan) },
    truth: later.length ? columns(later) : null,
  };
}

function download(name, text) {
  const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(new Blob([text])) });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A session: its fan, its figures, its versions. A copy also shows the later values of its `origin`. */
function Branch({ live, origin, onRewind, onFork, onEnd, onAgain }) {
  const { now } = live;
  const ghost = origin ? origin.seen() : live.ghost;
  const chart = useMemo(() => chartOf(now, ghost), [now, origin?.now, origin?.ghost, live.ghost]);
  const [words, gone] = [inWords(now), GONE[live.error?.code]];
  const save = async () => {
    const exported = await live.export();
    if (exported) download(`session-${now.position}-values.json`, JSON.stringify(exported));
  };
  return html`<article class="card stack" aria-label=${live.name}>
    <div class="row apart"><h3>${live.name} <span class="pill">version ${live.version}</span></h3><div class="row">
      ${onFork && html`<button type="button" class="small" onClick=${onFork}>What if …</button>`}
      <button type="button" class="small" onClick=${save}>Export</button>
      <button type="button" class="small" onClick=${onEnd}>End</button></div></div>
    <${Problem} error=${gone ? { detail: gone } : live.error} />
    ${gone && html`<button type="button" onClick=${onAgain}>Begin again with ${plural(now.values.length, "value")}</button>`}
    ${live.note && html`<p class="problem" role="alert">${live.note}</p>`}
    <div class="row" style=${{ alignItems: "start", gap: "16px 28px" }}>
      <div class="stack" style=${wide(3, 460)}>
        <${FanChart} ...${chart} recent=${150} height=${300} label="${live.name}: ${words}" />
        <p>${words}</p><${Announced} text="${live.name}: ${words}" /><${Timeline} live=${live} onRewind=${onRewind} />
      </div>
      <div class="stack" style=${wide(1, 260)}>
        <${Accuracy} score=${now.score} /><${Cost} times=${live.times} position=${now.position} />
      </div>
    </div></article>`;
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const address = (path) => new URL(path, document.baseURI).href.replace(/[#/]+$/, "");

/** The call as a command. The service knows it by its key: it answers as before, and nothing happens twice. */
function curlOf({ method, path, headers, body }) {
  const all = Object.entries({ ...headers, ...(body && { "Content-Type": "application/json" }) });
  const lines = all.map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
  if (savedKey()) lines.push('-H "Authorization: Bearer $CARRY_API_KEY"');
  if (body) lines.push(`-d ${quoted(JSON.stringify(body))}`);
  return [`curl -X ${method.toUpperCase()} ${quoted(address(path))}`, ...lines].join(" \\\n  ");
}

function pythonOf({ kind, id, body, steps }) {
  const literal = (value) => JSON.stringify(value).replaceAll("null", "None");
  const [load, key] = savedKey() ? ["import os\n\n", ', api_key=os.environ["CARRY_API_KEY"]'] : ["", ""];
  const line = {
    begin: () => `session = client.session(${body.series ? literal(body.series) : `model=${literal(body.model)}`})`,
    import: () => `session = client.session(state=${literal(body.state)})`,
    send: () => `session.observe(${literal(body.series)})\nprint(session.forecast(${HORIZON}, levels=[50, 80, 95]).median)`,
    rewind: () => `session.rewind(${steps})`,
    fork: () => "what_if = session.fork()",
    export: () => "state = session.export()",
    end: () => "session.close()",
  }[kind]();
  const attach = id ? `session = client.attach(${literal(id)})\n` : "";
  return `${load}import carry\n\nclient = carry.Client(${literal(address("."))}${key})\n${attach}${line}`;
}

export function Tab({ api, models }) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  const kept = useMemo(() => JSON.parse(sessionStorage.getItem(STORED) ?? "null") ?? { lives: [], replay: FIRST }, []);
  const [lives, setLives] = useState(() => kept.lives.map((fields) => new Live(api, redraw, fields)));
  const [replay, setReplay] = useState(kept.replay);
  const [playing, play] = useState(false);
  const [typed, setTyped] = useState("");
  const [target, setTarget] = useState("both");
  const [shift, setShift] = useState(0);
  const [error, setError] = useState(null);
  const [opening, stepping, due, newest, last] = [useRef(null), useRef(Promise.resolve()), useRef(0), useRef({}), useRef(null)];
  const model = models.find((each) => each.kind === "forecast" && each.default)?.name;
  const set = (more) => setReplay((newest.current.replay = { ...newest.current.replay, ...more }));

  /** Runs what a person asked for. Resolves to whether it succeeded; a refusal is shown. */
  const attempt = async (action) => {
    setError(null);
    try {
      return (await action()) ?? true;
    } catch (refusal) {
      setError(refusal);
      return false;
    }
  };
  /** Begins a session in the place of `replaced`, or beside the others. */
  const begin = async (name, body, snapshot, replaced) => {
    const live = await Live.begin(api, redraw, name, body, snapshot);
    setLives((all) => (replaced ? all.map((each) => (each === replaced ? live : each)) : [...all, live].slice(-2)));
    return live;
  };
  /** Sends values to the chosen sessions, and to the second one `changed` ones. Begins a session if there is none. */
  const feed = (values, changed = values) => attempt(async () => {
    if (!lives.length) opening.current ??= begin("Session", { model }).finally(() => { opening.current = null; });
    const chosen = lives.length ? lives.filter((live) => lives.length < 2 || ["both", live.id].includes(target)) : [await opening.current];
    const sent = await Promise.all(chosen.map((live) => live.send(live === lives[1] ? changed : values)));
    return sent.every(Boolean);
  });
  const step = () => (stepping.current = stepping.current.then(async () => {
    const { values, at } = newest.current.replay;
    const value = values[at];
    if (await newest.current.feed([value], [value === null ? null : value * (1 + shift / 100)])) set({ at: at + 1 });
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
  newest.current = { step, feed, lives, replay };

  useEffect(() => {
    if (!replay.values.length) choose(replay.source);
    for (const live of lives) live.resume();
    const keep = () => {
      const { lives: all, replay: now } = newest.current;
      sessionStorage.setItem(STORED, JSON.stringify({ lives: all.map((live) => ({ ...live, error: null })), replay: now }));
    };
    addEventListener("pagehide", keep);
    return () => removeEventListener("pagehide", keep);
  }, []);
  useEffect(() => {
    if (!playing) return void lives.forEach((live) => live.refresh());
    if (replay.at >= replay.values.length) return play(false);
    due.current = Math.max(performance.now(), due.current + 1000 / replay.speed);
    const timer = setTimeout(() => newest.current.step(), due.current - performance.now());
    return () => clearTimeout(timer);
  }, [playing, replay.at]);

  const rewind = (live, version) => {
    play(false);
    live.rewind(version);
  };
  const fork = async (live) => {
    const copy = await live.fork();
    if (copy) setLives([live, copy]);
  };
  const end = async (live) => {
    await live.end();
    last.current = live.call;
    if (!live.error || live.error.code in GONE) setLives((all) => all.filter((each) => each !== live));
  };
  const again = (live) => attempt(() => begin(live.name, { series: live.now.values }, live.now, live));
  const take = (file) => attempt(async () => {
    const { state, page } = JSON.parse(await file.text());
    await begin(lives.length ? "Imported" : "Session", { state }, page);
  });
  const drop = (event) => {
    event.preventDefault();
    if (event.type === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  };
  const send = (event) => {
    event.preventDefault();
    attempt(async () => {
      if (await feed(readTyped(typed))) setTyped("");
    });
  };
  const call = [last.current, ...lives.map((live) => live.call)].filter(Boolean).sort((a, b) => a.time - b.time).at(-1);
  const ended = replay.at >= replay.values.length;
  return html`<div class="stack" onDragOver=${drop} onDrop=${drop}>
    <div><h2>Live session</h2><p class="muted">A session is the memory of one series, kept by the service: you send only
      each new value, and its forecast costs as little after a million values as after ten.</p></div>
    <div class="card row" style=${{ alignItems: "end", gap: "12px 16px" }}>
      <button type="button" class="primary" disabled=${!model || !replay.values.length} onClick=${() => {
        if (ended) set({ at: 0 });
        play(!playing);
      }}>${playing ? "Pause" : replay.at && !ended ? "Go on" : "Start the replay"}</button>
      <button type="button" disabled=${!model || playing || ended} onClick=${step}>Step</button>
      <${Choice} label="Series" value=${replay.source} options=${SOURCES} onChange=${(source) => choose(source)} />
      <${Choice} label="Speed" value=${replay.speed} options=${SPEEDS} onChange=${(speed) => set({ speed: Number(speed) })} />
      <form class="row" style=${{ ...wide(1, 260), alignItems: "end", flexWrap: "nowrap" }} onSubmit=${send}>
        <div style=${wide(1, 100)}><${Field} label="Or type new values">
          <input value=${typed} autocomplete="off" placeholder="12.5 13 null" onInput=${(event) => setTyped(event.target.value)} /><//></div>
        <button type="submit" disabled=${!model}>Send</button></form>
      <button type="button" onClick=${(event) => event.currentTarget.nextElementSibling.click()}>Import</button>
      <input type="file" accept=".json" hidden aria-label="Import a session" onChange=${(event) => take(event.target.files[0])} />
      ${replay.source === "own" && html`<div style=${{ flexBasis: "100%" }}><${Field} label="Values to replay" hint=${replay.notes || "Numbers, one a line or with blanks between them, or a CSV."}>
        <textarea rows="3" onChange=${(event) => choose("own", event.target.value)} /><//></div>`}
      ${lives.length > 1 && html`<${Choice} label="Values go to" value=${target} onChange=${setTarget}
          options=${[{ value: "both", label: "Both" }, ...lives.map(({ id, name }) => ({ value: id, label: name }))]} />
        <${Slider} label="Replayed values change for “${lives[1].name}” by" min=${-50} max=${50} value=${shift} onInput=${setShift} format=${(value) => `${value} %`} />`}
    </div>
    <${Problem} error=${error} />
    ${!lives.length && html`<div class="card"><p class="muted">Start the replay, or type a value: here the forecast moves with each
      value that arrives. Then go back to an earlier version, ask “what if” in a copy, or export the session and go on elsewhere.</p></div>`}
    <div style=${SIDE_BY_SIDE}>${lives.map((live, i) => html`<${Branch} key=${live.id} live=${live} origin=${i ? lives[0] : null}
      onRewind=${(version) => rewind(live, version)} onFork=${lives.length < 2 && (() => fork(live))} onEnd=${() => end(live)} onAgain=${() => again(live)} />`)}</div>
    ${call && html`<details class="card"><summary>The last call, the same with curl and Python</summary><div class="stack">
      <${CopyBlock} label="curl" text=${curlOf(call)} /><${CopyBlock} label="Python" text=${pythonOf(call)} /></div></details>`}
  </div>`;
}
