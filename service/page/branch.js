// A live session as a person sees it: the fan, how good and how dear each forecast was, the versions to go back to.
// It knows nothing of the service's calls (live.js), nor of where values come from (session.js).

import { FanChart, formatNumber } from "./chart.js";
import { HORIZON, INTERVALS, numbered } from "./live.js";
import { Problem, html, useEffect, useMemo, useState } from "./ui.js";

const GONE = {
  session_not_found: "The service does not know this session: another client ended it, or the service lost its store.",
  session_expired: "This session has expired: nobody used it for too long.",
  session_model_gone: "The model of this session is no longer loaded.",
};
const UNSEEN = { position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)" };
const share = (grow, width) => ({ flex: `${grow} 1 ${width}px`, minWidth: 0 });

export const isGone = (live) => live.error?.code in GONE;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const percent = (part) => `${Math.round(100 * part)} %`;
const rounded = (value) => formatNumber(Number(value.toPrecision(4)));
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

function inWords({ position, values, forecast }) {
  if (!forecast) return "No value yet.";
  const value = values.at(-1) === null ? "is unknown" : `is ${formatNumber(values.at(-1))}`;
  const [low, high] = INTERVALS[80].map((level) => rounded(forecast[level][0]));
  const next = rounded(forecast["0.5"][0]);
  return `Value ${position} ${value}. The next: ${next}, with 80 % probability ${low} to ${high}.`;
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

/** How the forecast of each next value met it, over all values. A tick stands at the nominal level. */
function Accuracy({ score: { count, error, change, held } }) {
  return html`<section class="stack" style=${{ gap: "8px" }}>
    <h3>How good each forecast was</h3>
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
  const x = (i) => (300 * i) / Math.max(1, times.length - 1);
  const line = times.map((time, i) => `${x(i)},${40 - (40 * Math.min(time, top)) / top}`);
  const [first, now] = [times.slice(0, 50), times.slice(-50)].map((part) => `${median(part)?.toFixed(1)} ms`);
  const words = times.length < 100 ? `A call takes ${now}.` : `A call took ${first} at first, and takes ${now} now.`;
  return html`<section class="stack" style=${{ gap: "8px" }}>
    <h3>What a value costs</h3>
    <p>${plural(position, "value")} seen. ${times.length > 0 && words}</p>
    <svg viewBox="0 0 300 40" width="100%" height="44" preserveAspectRatio="none" role="img"
      aria-label="Milliseconds of each call">
      <polyline points=${line.join(" ")} fill="none" stroke="var(--accent)" vector-effect="non-scaling-stroke" />
    </svg>
  </section>`;
}

/** Where the session can go back to, each by its number of values: states that the page kept, then the versions that
 * the service keeps. */
function Timeline({ live, onBack }) {
  const isKept = (position) => live.versions.some((each) => each.position === position);
  const marks = live.marks.filter(({ position }) => !isKept(position)).sort((a, b) => a.position - b.position);
  const button = (position, label, go, isNow = false) => html`<button key=${label} type="button" class="small"
    aria-label="${label}, after ${plural(position, "value")}" aria-current=${isNow ? "true" : undefined}
    disabled=${isNow} onClick=${() => onBack(go)}>${position}</button>`;
  return html`<div class="row" role="group" aria-label="Versions to go back to">
    <span class="hint">Go back to value</span>
    ${marks.map((mark) => button(mark.position, "Kept state", () => live.restore(mark)))}
    ${marks.length > 0 && html`<span class="hint" aria-hidden="true">…</span>`}
    ${live.versions.toReversed().map(({ version, position }) =>
      button(position, `Version ${version}`, () => live.rewind(version), version === live.version))}
  </div>`;
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

/** A session. A copy also shows the later values of its `origin`. */
export function Branch({ live, origin, onBack, onFork, onExport, onEnd, onAgain }) {
  const { now, note, error } = live;
  const ghost = origin ? origin.seen() : live.ghost;
  const chart = useMemo(() => chartOf(now, ghost), [now, live.ghost, origin?.now, origin?.ghost]);
  const words = inWords(now);
  return html`<article class="card stack" aria-label=${live.name}>
    <div class="row apart"><h3>${live.name} <span class="pill">version ${live.version}</span></h3><div class="row">
      ${onFork && html`<button type="button" class="small" onClick=${onFork}>What if …</button>`}
      <button type="button" class="small" onClick=${onExport}>Export</button>
      <button type="button" class="small" onClick=${onEnd}>End</button>
    </div></div>
    <${Problem} error=${isGone(live) ? { detail: GONE[error.code] } : error} />
    ${isGone(live) && html`<button type="button" onClick=${onAgain}>
      Begin again with ${plural(now.values.length, "value")}</button>`}
    ${note && html`<p class="problem" role="alert">${note}</p>`}
    <div class="row" style=${{ alignItems: "start", gap: "16px 28px" }}>
      <div class="stack" style=${share(3, 460)}>
        <${FanChart} ...${chart} recent=${150} height=${300} label="${live.name}: ${words}" />
        <p>${words}</p>
        <${Announced} text="${live.name}: ${words}" />
        <${Timeline} live=${live} onBack=${onBack} />
      </div>
      <div class="stack" style=${share(1, 260)}>
        <${Accuracy} score=${now.score} />
        <${Cost} times=${live.times} position=${now.position} />
      </div>
    </div>
  </article>`;
}
