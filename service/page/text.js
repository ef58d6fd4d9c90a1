// The tab "Text": what a model expects in a text and after it, and texts that it writes on.
//
// A text is read in pieces, each from the state after the one before, so that a keystroke sends one word, however long
// the text is. Positions are code points, as the API counts them. It knows nothing of what is in a state.

import { elsewhere } from "./api.js";
import { Choice, CopyBlock, Field, Problem, Slider, html, useEffect, useId, useMemo, useRef, useState } from "./ui.js";

const SAMPLE =
  "It was the first warm morning of the year. The old gardener opened the door of the greenhouse, and out walked a ";
const TOP = 6; // candidates at each character
const MAX_DRAWN = 2000; // code points; of a longer text its end is read and drawn
const STEP = 1000; // code points by which the beginning of that end moves, so that it is seldom read again
const CHUNK = 200; // cells that are drawn again together
const PIECE = /^[^]{1,400}(?=\s)|^[^]{0,400}/u; // of one request; the last word is a piece of its own
const START = { text: "", cells: [], next: null, state: "" };
const SHADES = [[0.8, "#0a4640", "#fff"], [0.5, "#0f766e", "#fff"], [0.2, "#62b8ae", "#06201d"],
  [0.05, "#a9dbd5", "#06201d"], [0.01, "#dcf1ee", "#06201d"], [0, "#fff", "#06201d"],
].map(([from, background, color]) => ({ from, style: { background, color, padding: "3px 0" } }));
const NAMES = { " ": "space", "\n": "line end", "\t": "tab" };
const GLYPHS = { " ": "␣", "\n": "↵", "\t": "⇥" };

const named = (token) => NAMES[token] ?? token;
const percent = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "under 0.1 %");

/** A token that can be seen: a mark alone stands on a dotted circle, an invisible character is a dot. */
const glyph = (token) =>
  GLYPHS[token] ?? (/^\p{M}/u.test(token) ? `◌${token}` : /^[\p{Cc}\p{Cf}\p{Z}]$/u.test(token) ? "·" : token);

/** The end of a text that is drawn, in composed form, what is before it, and the code points of all. */
function drawnPart(text) {
  const points = Array.from(text.normalize("NFC"));
  const skipped = Math.max(0, Math.ceil((points.length - MAX_DRAWN) / STEP) * STEP);
  return { before: points.slice(0, skipped).join(""), part: points.slice(skipped).join(""), length: points.length };
}

/** Cells of the map: each token, its probability, and what the model expected in its place. */
const readCells = ({ positions, unknown_characters: unknown }, expected) =>
  positions.map(({ character, probability }, i) => ({
    character,
    probability,
    options: probability === null ? [] : i ? positions[i - 1].next : expected,
    isUnknown: unknown.includes(character.trim() || character),
  }));

/** The same of text that a model wrote. */
const writtenCells = (logprobs) =>
  logprobs.map(({ character, logprob, top }) => ({
    character,
    probability: logprob === null ? null : Math.exp(logprob),
    options: top.map((each) => ({ character: each.character, probability: Math.exp(each.logprob) })),
  }));

/** A text as a model reads it: its cells, and what comes next. A change aborts the request before, and goes on from the
 * state after the last piece that is still there. No piece begins within a word: a word model would read two. */
function useReading(api, model, text) {
  const [reading, setReading] = useState({ text: "", cells: [], next: [] });
  const pieces = useRef([]);
  useEffect(() => {
    if (text === null) return undefined;
    const calling = new AbortController();
    const goesOn = (piece) => text.startsWith(piece.text) && /^(\s|$)/.test(text.slice(piece.text.length));
    const read = async () => {
      let known = pieces.current.filter((piece) => piece.model === model && goesOn(piece));
      for (let last; (last = known.at(-1) ?? START).text !== text || !last.next; pieces.current = known) {
        const [sent] = PIECE.exec(text.slice(last.text.length));
        const body = { model, text: sent, state: last.state, top_k: TOP, per_position: true };
        const { body: answer } = await api.post("predict", body, { signal: calling.signal });
        const { next, state } = answer;
        known = [...known, { model, text: last.text + sent, cells: readCells(answer, last.next), next, state }];
        if (known.at(-1).text !== text) setReading(readingOf(known, []));
      }
      setReading(readingOf(known, known.at(-1).next));
    };
    read().catch((error) => {
      if (calling.signal.aborted) return;
      pieces.current = [];
      setReading((before) => ({ ...before, error }));
    });
    return () => calling.abort();
  }, [model, text]);
  return reading;
}

const readingOf = (pieces, next) => ({ text: pieces.at(-1).text, cells: pieces.flatMap((piece) => piece.cells), next });

/** What a model wrote here last: `write` streams it, `stop` aborts the request. `ending` says in words how it ended. */
function useWriting(api, setText) {
  const [run, setRun] = useState(null);
  const calling = useRef(null);
  const stop = () => calling.current?.abort();
  const write = async (request) => {
    stop();
    const { signal } = (calling.current = new AbortController());
    let [text, cells, error] = [request.prompt, [], null];
    const show = (ending) => {
      if (calling.current.signal !== signal) return; // another run has begun
      setText(text);
      setRun({ ...request, text, cells, error, ending });
    };
    show("");
    try {
      for await (const event of api.stream("generate", { ...request, stream: true, logprobs: TOP }, { signal })) {
        text += event.text ?? "";
        cells = [...cells, ...writtenCells(event.logprobs ?? [])];
        show("");
      }
    } catch (problem) {
      if (!signal.aborted) error = problem;
    }
    const verb = signal.aborted || error ? "Stopped after" : "Wrote";
    show(`${verb} ${cells.length} characters, with seed ${request.seed}.`);
  };
  useEffect(() => stop, []);
  return { run, write, stop };
}

/** Tokens with their probabilities as bars. A click takes one; `taken` cannot be taken again. */
function Bars({ label, options, taken, onTake }) {
  const look = ({ probability }) => ({
    width: "100%", justifyContent: "space-between", border: 0, marginBottom: "3px",
    background: `linear-gradient(to right, color-mix(in srgb, var(--accent) 32%, var(--surface)) ${100 * probability}%,
      var(--sunken) ${100 * probability}%)`,
  });
  return html`<div role="group" aria-label=${label}>
    ${options.map((option) => html`<button key=${option.character} type="button" class="small" style=${look(option)}
      disabled=${option.character === taken} onClick=${() => onTake(option.character)}
      aria-label="${named(option.character)}, ${percent(option.probability)}">
      <span class="mono">${glyph(option.character)}</span>${" "}<span>${percent(option.probability)}</span></button>`)}
  </div>`;
}

/** A part of the map. It is made again only if its cells changed: a long text is drawn while it is written. */
function Cells({ id, cells, start, mark }) {
  const styleOf = (cell, index) => ({
    ...(cell.probability !== null && SHADES.find(({ from }) => cell.probability >= from).style),
    ...(cell.isUnknown && { textDecoration: "underline wavy var(--bad)" }),
    ...(index === mark && { borderLeft: "3px solid var(--bad)" }),
  });
  const draw = (cell, i) => html`<span role="option" id="${id}-${start + i}" data-index=${start + i}
    aria-label=${named(cell.character) + (cell.probability === null ? "" : `, ${percent(cell.probability)}`)}
    style=${styleOf(cell, start + i)}>${{ " ": " ", "\n": "↵\n" }[cell.character] ?? glyph(cell.character)}</span>`;
  return useMemo(() => cells.map(draw), [cells[0], cells.at(-1), cells.length, start, mark]);
}

/** What the model expected in a cell's place, just below the cell. */
function Alternatives({ cell, left, top, onTake }) {
  const place = { position: "absolute", left, top, width: "230px", zIndex: 2, padding: "10px 12px" };
  const share = cell.probability === null ? "is the first: nothing was before it"
    : `${percent(cell.probability)}, ${(-Math.log2(cell.probability)).toFixed(1)} bits`;
  return html`<div class="card" style=${place}>
    <p class="hint" style=${{ marginBottom: "6px" }}><b class="mono">${glyph(cell.character)}</b> ${share}${
      cell.isUnknown && ", unknown to the model"}${cell.options.length > 0 && ". Go on with another:"}</p>
    <${Bars} label="Alternatives" options=${cell.options} taken=${cell.character} onTake=${onTake} />
  </div>`;
}

/** A text, each token the darker the more probable it was. Pointing at one or the arrow keys show its alternatives. */
function HeatMap({ cells, mark, onFork }) {
  const id = useId("map");
  const frame = useRef();
  const [at, setAt] = useState(null);
  const select = (index) => {
    const bounded = Math.max(0, Math.min(index, cells.length - 1));
    const { offsetLeft: left, offsetTop: top, offsetWidth: width, offsetHeight: height } = frame.current
      .querySelector(`[data-index="${bounded}"]`);
    setAt({ index: bounded, box: { left, top, width, height } });
  };
  const onKeyDown = (event) => {
    const to = { ArrowLeft: at?.index - 1, ArrowRight: at?.index + 1, Home: 0, End: cells.length - 1 }[event.key];
    const isInMap = event.target.getAttribute("role") === "listbox";
    if (event.key === "Escape") setAt(null);
    else if (isInMap && to !== undefined) select(to || 0);
    else if (isInMap && event.key === "Enter") frame.current.querySelector("button:enabled")?.focus();
    else return;
    event.preventDefault();
  };
  const onHover = ({ target }) => target.dataset.index && select(Number(target.dataset.index));
  const starts = Array.from({ length: Math.ceil(cells.length / CHUNK) }, (_, i) => i * CHUNK);
  const cell = at && cells[at.index];
  const outline = { position: "absolute", pointerEvents: "none", outline: "2px solid var(--accent)", ...at?.box };
  const onBlur = (event) => frame.current.contains(event.relatedTarget) || setAt(null);
  return html`<div ref=${frame} style=${{ position: "relative" }} onKeyDown=${onKeyDown} onBlurCapture=${onBlur}
    onMouseLeave=${() => setAt(null)}>
    <div role="listbox" tabindex="0" aria-label="The text, character by character" class="mono"
      style=${{ whiteSpace: "pre-wrap", overflowWrap: "anywhere", fontSize: "15px", lineHeight: 1.75 }}
      aria-activedescendant=${cell && `${id}-${at.index}`} onMouseOver=${onHover} onFocus=${() => at || select(0)}>
      ${starts.map((start) => html`<${Cells} key=${start} id=${id} cells=${cells.slice(start, start + CHUNK)}
        start=${start} mark=${mark} />`)}</div>
    ${cell && html`<div style=${outline}></div>
      <${Alternatives} cell=${cell} left=${Math.max(0, Math.min(at.box.left, frame.current.clientWidth - 230))}
        top=${at.box.top + at.box.height} onTake=${(token) => onFork(at.index, token)} />`}
  </div>`;
}

/** What the colours mean. */
const Legend = () => html`<p class="row hint">The darker, the more probable:
  ${SHADES.toReversed().map(({ from, style }) => html`<span style=${{ ...style, padding: "1px 8px" }}>${
    from ? `from ${100 * from} %` : "under 1 %"}</span>`)}</p>`;

/** The same request for a terminal, for Python and for the client of OpenAI's API. */
function Code({ request }) {
  const { model, prompt, max_length: length, temperature, seed } = request;
  const { url, header, load, carryKey, apiKey } = elsewhere();
  const start = load && `${load}\n`;
  const options = `model=${JSON.stringify(model)}, temperature=${temperature}, seed=${seed}`;
  return html`<div class="stack">
    <${CopyBlock} label="curl" text=${`curl -s ${url}/generate${header} -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(request).replaceAll("'", "'\\''")}'`} />
    <${CopyBlock} label="Python" text=${`${start}import carry

client = carry.Client("${url}"${carryKey})
print(client.generate(${JSON.stringify(prompt)}, ${length}, ${options}).text)`} />
    <${CopyBlock} label="openai" text=${`${start}from openai import OpenAI

client = OpenAI(base_url="${url}/v1", api_key=${apiKey})
answer = client.completions.create(prompt=${JSON.stringify(prompt)}, max_tokens=${length}, ${options})
print(answer.choices[0].text)`} />
  </div>`;
}

/** The field to type in. Tab takes the most probable token, but only from who works here, not from who passes by. */
function Editor({ label, text, next, isWriting, onText }) {
  const area = useRef();
  const takesTab = useRef(false);
  useEffect(() => { if (isWriting) area.current.scrollTop = area.current.scrollHeight; }, [text]);
  const onKeyDown = (event) => {
    if (event.key === "Escape") takesTab.current = false;
    if (event.key !== "Tab" || event.shiftKey || !takesTab.current || isWriting || !next.length) return;
    event.preventDefault();
    onText(text + next[0].character);
  };
  const onInput = (event) => {
    takesTab.current = true;
    onText(event.target.value);
  };
  const hint = "Type; Tab takes the most probable character. After Esc, Tab leaves the field.";
  return html`<${Field} label=${label} hint=${hint}>
    <textarea ref=${area} rows="4" spellcheck=${false} value=${text} readonly=${isWriting} onKeyDown=${onKeyDown}
      onInput=${onInput} onPointerDown=${() => (takesTab.current = true)}
      onBlur=${() => (takesTab.current = false)}></textarea>
  <//>`;
}

/** Which characters the model does not know, and what of a long text is not drawn. */
function Notes({ cells, before, length }) {
  const unknown = [...new Set(cells.filter((cell) => cell.isUnknown).map((cell) => cell.character))];
  const code = (token) => `U+${token.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const list = unknown.map((token) => `${glyph(token)} (${code(token)})`).join(", ");
  return html`${before && html`<p class="hint">The text has ${length} characters: only its end is read and drawn.</p>`}
    ${list && html`<p class="hint">The model does not know ${list}. It reads each as the same unknown character.</p>`}`;
}

/** Bits per character: the mean over all tokens but the first, which has nothing before it. */
function bitsOf(cells) {
  const known = cells.filter((cell) => cell.probability !== null);
  const bits = known.reduce((sum, cell) => sum - Math.log2(cell.probability), 0);
  return bits / known.reduce((sum, cell) => sum + Array.from(cell.character).length, 0);
}

/** One text with its model: typed by a person, written on by the model. `again` counts the calls to write all anew. */
function Branch({ api, active, texts, branch, length, seed, again, onAdd, onClose }) {
  const [text, setText] = useState(branch.text);
  const [model, setModel] = useState(branch.model);
  const [temperature, setTemperature] = useState(branch.temperature);
  const [showsCode, showCode] = useState(false);
  const { run, write, stop } = useWriting(api, setText);
  const isWriting = run !== null && !run.ending;
  const prompt = run?.text === text ? run.prompt : text; // a text that a person changed is a new prompt
  const request = { model, prompt, max_length: length, temperature, seed };
  const drawn = drawnPart(isWriting ? prompt : text);
  const reading = useReading(api, model, active ? drawn.part : null);
  const written = run?.text === text && reading.text === drawnPart(prompt).part ? run.cells : [];
  const cells = [...reading.cells, ...written];
  const seen = useRef(branch.writes ? null : again);
  useEffect(() => {
    if (seen.current !== again) write(request);
    seen.current = again;
  }, [again]);
  const fork = (index, token) => onAdd({
    title: `“${glyph(token)}” for “${glyph(cells[index].character)}”`, model, temperature, writes: true, mark: index,
    text: drawn.before + cells.slice(0, index).map((cell) => cell.character).join("") + token,
  });
  const bits = bitsOf(cells);
  return html`<article class="card stack" aria-label=${branch.title}>
    <div class="row" style=${{ alignItems: "start", gap: "16px 24px" }}>
      <div class="stack" style=${{ flex: "3 1 300px" }}>
        <${Editor} label=${branch.title} text=${text} next=${reading.next} isWriting=${isWriting} onText=${setText} />
        <div class="row">
          <button type="button" class="primary" onClick=${isWriting ? stop : () => write({ ...request, prompt: text })}>
            ${isWriting ? "Stop" : prompt === text ? "Write on" : "Go on"}</button>
          <button type="button" disabled=${isWriting || prompt === text} onClick=${() => setText(prompt)}>
            Take back</button>
          <button type="button" onClick=${() => onAdd({ title: "to compare", text: prompt, model, temperature })}>
            Compare</button>
          ${onClose && html`<button type="button" onClick=${onClose}>Close</button>`}
          <span role="status" class="hint">${run?.text === text && run.ending}</span>
        </div>
        <${Problem} error=${(run?.text === text && run.error) || reading.error} />
        ${cells.length > 0 && html`<${HeatMap} cells=${cells} mark=${branch.mark} onFork=${fork} />`}
        <${Notes} cells=${cells} before=${drawn.before} length=${drawn.length} />
        ${!onClose && html`<${Legend} />`}
      </div>
      <div class="stack" style=${{ flex: "1 1 180px" }}>
        <${Choice} label="Model" value=${model} options=${texts} onChange=${setModel} />
        <${Slider} label="Temperature" value=${temperature} min=${0} max=${2} step=${0.1} onInput=${setTemperature}
          format=${(value) => value.toFixed(1)} />
        <p class="hint"><b>Next character</b>: click one to take it.</p>
        <${Bars} label="Next character" options=${isWriting ? [] : reading.next}
          onTake=${(token) => setText(text + token)} />
        <dl class="figures"><div><dt>bits per character</dt><dd>${bits >= 0 ? bits.toFixed(2) : "–"}</dd></div></dl>
      </div>
    </div>
    <details onToggle=${(event) => showCode(event.target.open)}>
      <summary>The same as curl, Python, openai</summary>
      ${showsCode && html`<${Code} request=${request} />`}
    </details>
  </article>`;
}

/** Texts side by side, with the length and the seed that they share. */
export function Tab({ api, models, active }) {
  const [branches, setBranches] = useState([{ id: 1, title: "Text 1", text: SAMPLE, temperature: 0.8 }]);
  const [length, setLength] = useState(200);
  const [seed, setSeed] = useState(7);
  const [again, setAgain] = useState(0);
  const texts = models.filter((model) => model.kind === "text");
  if (!texts.length) return html`<h2>Text</h2><p>No model for text is loaded.</p>`;
  const label = ({ name, version }) => `${name}@${version}`;
  const first = { model: label(texts.find((model) => model.default) ?? texts[0]) };
  const add = (branch) => setBranches((before) => {
    const id = before.at(-1).id + 1;
    return [...before, { ...branch, id, title: `Text ${id}: ${branch.title}` }];
  });
  const close = (id) => setBranches((before) => before.filter((branch) => branch.id !== id));
  const onSeed = ({ target }) => target.value && target.validity.valid && setSeed(Number(target.value));
  const columns = "repeat(auto-fit, minmax(min(100%, 440px), 1fr))";
  return html`<div class="stack">
    <h2>Text</h2>
    <p>Type, and see what the model expects next. Point at a coloured character to see what else it expected there, and
      click one of those to let it go on from there.</p>
    <div class="row" style=${{ alignItems: "end", gap: "8px 24px" }}>
      <div style=${{ flex: "0 1 300px" }}>
        <${Slider} label="Characters to write" value=${length} min=${10} max=${1000} step=${10} onInput=${setLength} />
      </div>
      <${Field} label="Seed: the same gives the same text">
        <input type="number" min="0" step="1" max=${Number.MAX_SAFE_INTEGER} value=${seed} onInput=${onSeed} />
      <//>
      <button type="button" onClick=${() => setSeed(Math.floor(2 ** 31 * Math.random()))}>New seed</button>
      ${branches.length > 1 && html`<button type="button" class="primary" onClick=${() => setAgain(again + 1)}>
        Write all again</button>`}
    </div>
    <div style=${{ display: "grid", gap: "16px", gridTemplateColumns: columns }}>
      ${branches.map((branch) => html`<${Branch} key=${branch.id} branch=${{ ...first, ...branch }} api=${api}
        active=${active} texts=${texts.map(label)} length=${length} seed=${seed} again=${again} onAdd=${add}
        onClose=${branch.id > 1 && (() => close(branch.id))} />`)}
    </div>
  </div>`;
}
