// The tab "Live session": values arrive one by one, typed or replayed, and the forecast moves with them; a copy asks
// "what if". What is shown of a session is what the service says of it; the page only remembers its values.

import { curlOf, pythonOf } from "./api.js";
import { FanChart, formatNumber } from "./chart.js";
import { readCsv } from "./csv.js";
import { bandsOf } from "./series.js";
import { Choice, Elsewhere, Field, Figures, Problem, Slider, percent, plural, save, useAnswer } from "./ui.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";

const SAMPLES = [["requests", "Requests to a web server"], ["co2", "CO₂ in the air"], ["demand", "Bread sold a day"]];
const SPEEDS = [[2, "2 a second"], [10, "10 a second"], [1000, "As it answers"]];
const LEVELS = [95, 80, 50];
const ASKED = { horizon: 24, levels: LEVELS };
const MAX_TIMES = 500;
const NEW = { values: [], known: {}, times: [], left: { from: 0, values: [] } };

const ifMatch = ({ version }) => ({ headers: { "If-Match": `"${version}"` } });
const rounded = (value) => formatNumber(Number(value.toPrecision(4)));
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** A session as the service has it now. `values`: all that the page knows; those of another client stay null.
 * `answer`: the forecast after the newest value, if it is at hand. */
async function look(api, live, values = live.values, answer = null) {
  const { version, position, versions, accuracy } = (await api.get(`sessions/${live.id}`)).body;
  const read = { session_id: live.id, series: [], commit: false, ...ASKED };
  const forecast = answer ?? (position > 0 ? (await api.post("forecast", read)).body : null);
  const all = Array.from({ length: position }, (_, i) => values[i] ?? null);
  const known = { ...live.known, [version]: all }; // by version, to show them again after a rewind
  return { ...live, version, position, versions, accuracy, forecast, values: all, known };
}

async function begin(api, name, body, values = []) {
  const { id } = (await api.post("sessions", body)).body;
  return look(api, { ...NEW, id, name }, values);
}

async function send(api, live, series) {
  const start = performance.now();
  const body = { session_id: live.id, series, include_history: true, ...ASKED }; // so that each value is scored
  const { body: answer } = await api.post("forecast", body, ifMatch(live));
  const times = [...live.times, performance.now() - start].slice(-MAX_TIMES);
  return look(api, { ...live, times }, [...live.values, ...series], answer);
}

async function rewind(api, live, { version, position }) {
  await api.post(`sessions/${live.id}/rewind`, { version }, ifMatch(live));
  const values = [live.values, live.left.values].find((each) => each.length > position) ?? [];
  const left = { from: position, values, name: "Before the rewind" };
  return look(api, { ...live, left }, live.known[version]);
}

async function fork(api, live) {
  const { id } = (await api.post(`sessions/${live.id}/fork`, {}, ifMatch(live))).body;
  return look(api, { ...NEW, id, name: "What if", left: { from: live.position, values: [] } }, live.values);
}

/** The sessions, at most two, and `act`: one action on them after the other. */
function useSessions(api) {
  const [lives, setLives] = useState([]);
  const [error, setError] = useState(null);
  const newest = useRef({ lives: [], turn: Promise.resolve() }).current;
  const put = (all) => setLives((newest.lives = all.slice(-2)));
  /** `action(lives)` resolves to the sessions after it. This resolves to whether it did; a refusal is shown. */
  const act = (action) => (newest.turn = newest.turn.then(async () => {
    try {
      put(await action(newest.lives));
      setError(null);
      return true;
    } catch (problem) {
      setError(problem); // another client may have changed a session
      put(await Promise.all(newest.lives.map((live) => look(api, live).catch(() => live))));
      return false;
    }
  }));
  return { lives, error, act };
}

/** Typed numbers, `null` where one is missing. Throws an Error in words. */
const readTyped = (text) => text.split(/[\s;]+/).filter(Boolean).map((word) => {
  const value = /^null$/i.test(word) ? null : Number(word);
  if (value === null || Number.isFinite(value)) return value;
  throw new Error(`“${word}” is no number. Write 12.5, with blanks between values, and null for a missing one.`);
});

function inWords({ position, values, forecast }) {
  if (!forecast) return "No value yet.";
  const [{ lower, upper }] = bandsOf(forecast.quantiles, [80]);
  const value = values.at(-1) === null ? "unknown" : formatNumber(values.at(-1));
  return `Value ${position} is ${value}. The next: ${rounded(forecast.median[0])}, with 80 % probability ${
    rounded(lower[0])} to ${rounded(upper[0])}.`;
}

/** `left`: values that went another way, from a position on. */
function chartOf({ values, position, forecast }, left) {
  const past = values.map((_, i) => i + 1);
  const ahead = forecast ? forecast.median.map((_, i) => position + 1 + i) : [];
  const truth = [...past, ...ahead].map((number) => (number < left.from ? null : left.values[number - 1] ?? null));
  return {
    past, ahead, values, median: forecast?.median, bands: forecast ? bandsOf(forecast.quantiles, LEVELS) : [],
    truth: left.values.length > left.from ? truth : null, truthName: left.name, anomalies: [], isTime: false,
  };
}

/** The newest value, sent by a program. */
const callsOf = ({ id, values }) => ({
  curl: curlOf("forecast", { session_id: id, series: values.slice(-1), ...ASKED }),
  Python: pythonOf(`session = client.attach("${id}")
session.observe([${values.at(-1) ?? "None"}])
print(session.forecast(24, levels=[${LEVELS}]).median)`),
});

/** How the forecast of each next value met it, as the service counts it. */
const Accuracy = ({ accuracy }) => html`<section class="stack"><h3>How good each forecast was</h3>
  ${!accuracy && html`<p class="hint">From the third value on.</p>`}
  ${accuracy && html`
    <${Figures} of=${[["values met", accuracy.values], ["MASE", accuracy.mase?.toFixed(2) ?? "–"]]} />
    <p class="hint">MASE: its mean error, over that of repeating the last value.</p>
    ${Object.entries(accuracy.coverage).map(([level, share]) => html`<label key=${level} class="stack">
      <span>The ${level} % interval held ${percent(share)}</span><progress value=${share} max="1" /></label>`)}
    <p class="hint">The newest hundred values count most.</p>`}
</section>`;

/** The milliseconds of each call, as a line: it stays flat. */
function Cost({ times, position }) {
  const top = 3 * median(times);
  const line = times.map((time, i) => `${i},${40 - (40 * Math.min(time, top)) / top}`).join(" ");
  const [first, now] = [times.slice(0, 50), times.slice(-50)].map((part) => `${median(part)?.toFixed(1)} ms`);
  const words = times.length < 100 ? `A call takes ${now}.` : `A call took ${first} at first, and takes ${now} now.`;
  return html`<section class="stack"><h3>What a value costs</h3>
    <p>${plural(position, "value")} seen. ${times.length > 0 && words}</p>
    <svg role="img" aria-label="Milliseconds of each call" viewBox="0 0 ${Math.max(1, times.length - 1)} 40"
      preserveAspectRatio="none"><polyline points=${line} vector-effect="non-scaling-stroke" /></svg></section>`;
}

/** A session: its forecast, its versions to go back to, and how good and how dear each forecast was. */
function Session({ live, left, isPlaying, onBack, actions }) {
  const chart = useMemo(() => chartOf(live, left), [live, left.values, left.from]);
  const words = inWords(live);
  const versions = [...live.versions.toReversed(), live];
  return html`<article class="card stack" aria-label=${live.name}>
    <div class="row apart"><h3>${live.name} <span class="pill">version ${live.version}</span></h3>
      <div class="row">${actions.map(([name, act]) => html`<button key=${name} type="button" class="small"
        onClick=${act}>${name}</button>`)}</div></div>
    <div class="row wide">
      <div class="stack">
        <${FanChart} data=${chart} recent=${150} height=${300} label="${live.name}: ${words}" />
        <p role="status" aria-live=${isPlaying ? "off" : "polite"}>${words}</p>
        <div class="row" role="group" aria-label="Versions to go back to"><span class="hint">Go back to value</span>
          ${versions.map((each) => html`<button key=${each.version} type="button" class="small"
            aria-label="Version ${each.version}, after ${plural(each.position, "value")}" disabled=${each === live}
            onClick=${() => onBack(each)}>${each.position}</button>`)}</div>
      </div>
      <div class="stack"><${Accuracy} ...${live} /><${Cost} ...${live} /></div>
    </div>
    <${Elsewhere} title="Send it values with curl, Python" calls=${() => callsOf(live)} />
  </article>`;
}

export function Tab({ api, models }) {
  const { lives, error, act } = useSessions(api);
  const [source, setSource] = useState({ sample: SAMPLES[0][0] });
  const [speed, setSpeed] = useState(10);
  const [playing, play] = useState(false);
  const [text, setText] = useState("");
  const [target, setTarget] = useState("all");
  const [shift, setShift] = useState(0);
  const next = useRef({ at: 0, due: 0 }).current;
  const model = models.find((each) => each.kind === "forecast" && each.default)?.name;
  const { sample, file } = source;
  const loaded = useAnswer(async () =>
    readCsv(await (file ? file.text() : api.text(`page/samples/${sample}.csv`))).series[0].values, [source]);
  const values = loaded.answer ?? [];
  const isOver = next.at >= values.length;

  /** Sends the values of `read()` to the chosen sessions, or to all; to the second one `factor` times as much. */
  const feed = (read, factor = 1) => act(async (all) => {
    const series = read();
    const to = all.length ? all : [await begin(api, "Session", { model })];
    const isChosen = ({ id }) => id === target || !to.some((each) => each.id === target);
    const changed = series.map((value) => (value === null ? null : value * factor));
    return Promise.all(to.map((live, i) => (isChosen(live) ? send(api, live, i ? changed : series) : live)));
  });
  const step = async () => {
    const value = values[next.at++];
    if (await feed(() => [value], 1 + shift / 100)) return;
    next.at -= 1;
    play(false);
  };
  useEffect(() => {
    if (!playing || isOver) return play(false);
    next.due = Math.max(performance.now(), next.due + 1000 / speed);
    const timer = setTimeout(step, next.due - performance.now());
    return () => clearTimeout(timer);
  }, [playing, lives]);
  const replay = (chosen) => {
    play(false);
    next.at = 0;
    setSource(chosen);
  };
  const toggle = () => {
    if (isOver) next.at = 0;
    play(!playing);
  };
  const type = async (event) => {
    event.preventDefault();
    if (await feed(() => readTyped(text))) setText("");
  };
  const bring = (chosen) => (/\.json$/i.test(chosen.name) ? act(async (all) => {
    const { state, values: known } = await chosen.text().then(JSON.parse).catch(() => ({}));
    if (!state) throw new Error(`“${chosen.name}” holds no session. Choose a file that “Export” has made.`);
    return [...all, await begin(api, all.length ? "Imported" : "Session", { state }, known)];
  }) : replay({ file: chosen }));
  /** `action(live, lives)` on a session as it is by then. */
  const on = ({ id }, action) => act(async (all) => {
    const live = all.find((each) => each.id === id);
    return live ? action(live, all) : all;
  });
  const actionsOf = (session) => [
    lives.length < 2 && ["What if …", () => on(session, async (live, all) => [...all, await fork(api, live)])],
    ["Export", () => on(session, async (live, all) => {
      const { state } = (await api.get(`sessions/${live.id}/state`)).body;
      save(`session-${live.position}-values.json`, JSON.stringify({ state, values: live.values }));
      return all;
    })],
    ["End", () => on(session, async (live, all) => {
      await api.delete(`sessions/${live.id}`).catch((problem) => {
        if (![404, 410].includes(problem.status)) throw problem; // it has ended already
      });
      return all.filter((each) => each !== live);
    })],
  ].filter(Boolean);
  const onBack = (session) => (version) => {
    play(false);
    on(session, async (live, all) => {
      const after = await rewind(api, live, version);
      return all.map((each) => (each === live ? after : each));
    });
  };
  const onDrop = (event) => {
    event.preventDefault();
    bring(event.dataTransfer.files[0]);
  };
  return html`<div class="stack" onDragOver=${(event) => event.preventDefault()} onDrop=${onDrop}>
    <div><h2>Live session</h2><p class="muted">A session is the memory of one series, kept by the service: you send only
      each new value, and its forecast costs as little after a million values as after ten.</p></div>
    <div class="card row bottom">
      <button type="button" class="primary" disabled=${!model || !values.length} onClick=${toggle}>
        ${playing ? "Pause" : next.at && !isOver ? "Go on" : "Start the replay"}</button>
      <button type="button" disabled=${!model || playing || isOver} onClick=${step}>Step</button>
      <${Choice} label="Series" value=${sample ?? "own"} onChange=${(value) => replay({ sample: value })}
        options=${[...SAMPLES, ...(file ? [["own", file.name]] : [])]} />
      <${Choice} label="Speed" value=${speed} options=${SPEEDS} onChange=${(value) => setSpeed(Number(value))} />
      <form class="row bottom grow" onSubmit=${type}>
        <${Field} label="Or type new values" value=${text} autocomplete="off" placeholder="12.5 13 null"
          onInput=${(event) => setText(event.target.value)} />
        <button type="submit" disabled=${!model}>Send</button></form>
      <button type="button" title="A session that was exported, or a CSV to replay"
        onClick=${(event) => event.currentTarget.nextElementSibling.click()}>Import</button>
      <input type="file" accept=".json,.csv" hidden aria-label="Import a session or a CSV"
        onClick=${(event) => { event.target.value = ""; }} onChange=${(event) => bring(event.target.files[0])} />
      ${lives.length > 1 && html`<div class="row line">
        <${Choice} label="Values go to" value=${target} onChange=${setTarget}
          options=${[["all", "Both"], ...lives.map(({ id, name }) => [id, name])]} />
        <${Slider} label="The replay for “${lives[1].name}” is changed by" min=${-50} max=${50} value=${shift}
          onInput=${setShift} format=${(value) => `${value} %`} /></div>`}
    </div>
    <${Problem} error=${error ?? loaded.error} />
    ${!lives.length && html`<p class="card muted">Start the replay, or type a value: here the forecast moves with each
      value that arrives. Then go back to an earlier version, ask “what if” in a copy, or export the session and go on
      with it elsewhere.</p>`}
    <div class="grid wide">${lives.map((live, i) => html`<${Session} key=${live.id} live=${live} isPlaying=${playing}
      left=${i ? { ...live.left, values: lives[0].values, name: lives[0].name } : live.left}
      onBack=${onBack(live)} actions=${actionsOf(live)} />`)}</div>
  </div>`;
}
