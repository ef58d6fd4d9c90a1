// The tab "Text": what a model expects in a text and after it, and texts that it writes on.
//
// A text is read in pieces, each from the state after the one before, so that a keystroke sends one word, however long
// the text is. Positions are code points, as the API counts them. It knows nothing of what is in a state.

import { curlOf, elsewhere, pythonOf } from "./api.js";
import { Choice, Elsewhere, Field, Figures, Problem, Slider, percent, useAnswer, useId } from "./ui.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

const SAMPLE =
  "It was the first warm morning of the year. The old gardener opened the door of the greenhouse, and out walked a ";
const TOP = 6; // candidates at each character
const MAX_DRAWN = 2000; // code points; of a longer text its end is read and drawn
const STEP = 1000; // code points by which the beginning of that end moves, so that it is seldom read again
const PIECE = /^[^]{1,400}(?=\s)|^[^]{0,400}/u; // of one request; the last word is a piece of its own
const START = { text: "", cells: [], next: null, state: "" };
const SHADES = [ // from a probability on: background, text
  [0.8, "#0a4640", "#fff"], [0.5, "#0f766e", "#fff"], [0.2, "#62b8ae", "#06201d"], [0.05, "#a9dbd5", "#06201d"],
  [0.01, "#dcf1ee", "#06201d"], [0, "#fff", "#06201d"],
].map(([from, background, color]) => ({ from, style: { background, color } }));
const NAMES = { " ": ["space", "␣"], "\n": ["line end", "↵"], "\t": ["tab", "⇥"] };

const shareOf = (probability) => (probability >= 0.0005 ? percent(probability, 1) : "under 0.1 %");
const named = ({ character, probability }) =>
  (NAMES[character]?.[0] ?? character) + (probability === null ? "" : `, ${shareOf(probability)}`);

/** A token that can be seen: a mark alone stands on a dotted circle, an invisible character is a dot. */
const glyph = (token) =>
  NAMES[token]?.[1] ?? (/^\p{M}/u.test(token) ? `◌${token}` : /^[\p{Cc}\p{Cf}\p{Z}]$/u.test(token) ? "·" : token);

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

const readingOf = (pieces, next) => ({ text: pieces.at(-1).text, cells: pieces.flatMap((piece) => piece.cells), next });

/** A text as a model reads it: its cells, and what comes next. A change aborts the request before, and goes on from the
 * state after the last piece that is still there. No piece begins within a word: a word model would read two. */
function useReading(api, model, text) {
  const [reading, setReading] = useState({ text: "", cells: [], next: [] });
  const pieces = useRef([]);
  const { error } = useAnswer(text !== null && (async (signal) => {
    const goesOn = (piece) => text.startsWith(piece.text) && /^(\s|$)/.test(text.slice(piece.text.length));
    let known = pieces.current.filter((piece) => piece.model === model && goesOn(piece));
    for (let last; (last = known.at(-1) ?? START).text !== text || !last.next; pieces.current = known) {
      const [sent] = PIECE.exec(text.slice(last.text.length));
      const body = { model, text: sent, state: last.state, top_k: TOP, per_position: true };
      const { body: answer } = await api.post("predict", body, { signal }).catch((problem) => {
        if (!signal.aborted) pieces.current = []; // a state may have become unknown
        throw problem;
      });
      known = [...known, { ...answer, model, text: last.text + sent, cells: readCells(answer, last.next) }];
      if (known.at(-1).text !== text) setReading(readingOf(known, []));
    }
    setReading(readingOf(known, known.at(-1).next));
  }), [model, text]);
  return { ...reading, error };
}

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
      setRun({ request, text, cells, error, ending });
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
  const bar = (share) => `linear-gradient(to right, var(--accent-bar) ${100 * share}%, var(--sunken) ${100 * share}%)`;
  return html`<div role="group" aria-label=${label} class="bars">${options.map((option) => html`<button type="button"
      key=${option.character} class="small" style=${{ background: bar(option.probability) }} aria-label=${named(option)}
      disabled=${option.character === taken} onClick=${() => onTake(option.character)}>
    <span class="mono">${glyph(option.character)} </span><span>${shareOf(option.probability)}</span></button>`)}</div>`;
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
    setAt({ index: bounded, left, top, width, height });
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
  const draw = (each, i) => html`<span role="option" key=${i} id="${id}-${i}" data-index=${i} aria-label=${named(each)}
    data-mark=${i === mark} data-unknown=${each.isUnknown}
    style=${each.probability !== null && SHADES.find(({ from }) => each.probability >= from).style}>${
    { " ": " ", "\n": "↵\n" }[each.character] ?? glyph(each.character)}</span>`;
  const cell = at && cells[at.index];
  return html`<div ref=${frame} class="map" onKeyDown=${onKeyDown} onMouseLeave=${() => setAt(null)}
    onBlurCapture=${(event) => frame.current.contains(event.relatedTarget) || setAt(null)}>
    <div role="listbox" tabindex="0" aria-label="The text, character by character" class="mono"
      aria-activedescendant=${cell && `${id}-${at.index}`} onFocus=${() => at || select(0)}
      onMouseOver=${({ target }) => target.dataset.index && select(Number(target.dataset.index))}>
      ${cells.map(draw)}</div>
    ${cell && html`<div class="outline" style=${at}></div>
      <div class="card" style=${{ top: at.top + at.height, left: Math.min(at.left, frame.current.clientWidth - 230) }}>
        <p class="hint"><b class="mono">${glyph(cell.character)}</b> ${cell.probability === null
          ? "is the first: nothing was before it"
          : `${shareOf(cell.probability)}, ${(-Math.log2(cell.probability)).toFixed(1)} bits`}${
          cell.isUnknown && ", unknown to the model"}${cell.options.length > 0 && ". Go on with another:"}</p>
        <${Bars} label="Alternatives" options=${cell.options} taken=${cell.character}
          onTake=${(token) => setAt(null) ?? onFork(at.index, token)} /></div>`}
  </div>`;
}

/** The same request for a terminal, for Python and for the client of OpenAI's API. */
function callsOf(request) {
  const { model, prompt, max_length: length, temperature, seed } = request;
  const { url, load, apiKey } = elsewhere();
  const options = `model=${JSON.stringify(model)}, temperature=${temperature}, seed=${seed}`;
  return {
    curl: curlOf("generate", request),
    Python: pythonOf(`print(client.generate(${JSON.stringify(prompt)}, ${length}, ${options}).text)`),
    openai: `${load}from openai import OpenAI

client = OpenAI(base_url="${url}/v1", api_key=${apiKey})
answer = client.completions.create(prompt=${JSON.stringify(prompt)}, max_tokens=${length}, ${options})
print(answer.choices[0].text)`,
  };
}

/** Which characters the model does not know, and what of a long text is not drawn. */
function Notes({ cells, before, length }) {
  const unknown = [...new Set(cells.filter((cell) => cell.isUnknown).map((cell) => cell.character))];
  const code = (token) => token.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const list = unknown.map((token) => `${glyph(token)} (U+${code(token)})`).join(", ");
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
  const { run, write, stop } = useWriting(api, setText);
  const isWriting = run !== null && !run.ending;
  const shown = run?.text === text ? run : null; // a text that a person changed is a new prompt
  const prompt = shown?.request.prompt ?? text;
  const request = { model, prompt, max_length: length, temperature, seed };
  const drawn = drawnPart(isWriting ? prompt : text);
  const reading = useReading(api, model, active ? drawn.part : null);
  const written = shown && reading.text === drawnPart(prompt).part ? shown.cells : [];
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
  const button = (name, onClick, disabled) =>
    html`<button type="button" disabled=${disabled} onClick=${onClick}>${name}</button>`;
  return html`<article class="card stack" aria-label=${branch.title}>
    <div class="row wide">
      <div class="stack">
        <${Field} label=${branch.title} tag="textarea" rows="4" spellcheck=${false} value=${text}
          readonly=${isWriting} onInput=${(event) => setText(event.target.value)} />
        <div class="row">
          <button type="button" class="primary" onClick=${isWriting ? stop : () => write({ ...request, prompt: text })}>
            ${isWriting ? "Stop" : prompt === text ? "Write on" : "Go on"}</button>
          ${button("Take back", () => setText(prompt), isWriting || prompt === text)}
          ${button("Compare", () => onAdd({ title: "to compare", text: prompt, model, temperature }))}
          ${onClose && button("Close", onClose)}
          <span role="status" class="hint">${shown?.ending}</span>
        </div>
        <${Problem} error=${shown?.error || reading.error} />
        ${cells.length > 0 && html`<${HeatMap} cells=${cells} mark=${branch.mark} onFork=${fork} />`}
        <${Notes} cells=${cells} before=${drawn.before} length=${drawn.length} />
        ${!onClose && html`<p class="row hint">The darker, the more probable: ${SHADES.toReversed().map((shade) =>
          html`<span style=${shade.style}>${shade.from ? `from ${100 * shade.from} %` : "under 1 %"}</span>`)}</p>`}
      </div>
      <div class="stack">
        <${Choice} label="Model" value=${model} options=${texts.map((each) => [each, each])} onChange=${setModel} />
        <${Slider} label="Temperature" value=${temperature} min=${0} max=${2} step=${0.1} onInput=${setTemperature}
          format=${(value) => value.toFixed(1)} />
        <p class="hint"><b>Next character</b>: click one to take it.</p>
        <${Bars} label="Next character" options=${isWriting ? [] : reading.next}
          onTake=${(token) => setText(text + token)} />
        <${Figures} of=${[["bits per character", bits >= 0 ? bits.toFixed(2) : "–"]]} />
        ${bits >= 0 && html`<p class="hint">The text surprised the model as if ${(2 ** bits).toFixed(1)} characters had
          been equally likely at each place.</p>`}
      </div>
    </div>
    <${Elsewhere} title="The same as curl, Python, openai" calls=${() => callsOf(shown?.request ?? request)} />
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
  return html`<div class="stack">
    <div><h2>Text</h2><p class="muted">Type, and see what the model expects next. Point at a coloured character to see
      what else it expected there, and click one of those to let it go on from there.</p></div>
    <div class="row bottom">
      <${Slider} label="Characters to write" value=${length} min=${10} max=${1000} step=${10} onInput=${setLength} />
      <${Field} label="Seed: the same gives the same text" type="number" min="0" step="1" value=${seed}
        max=${Number.MAX_SAFE_INTEGER} onInput=${onSeed} />
      <button type="button" onClick=${() => setSeed(Math.floor(2 ** 31 * Math.random()))}>New seed</button>
      ${branches.length > 1 && html`<button type="button" class="primary" onClick=${() => setAgain(again + 1)}>
        Write all again</button>`}
    </div>
    <div class="grid wide">
      ${branches.map((branch) => html`<${Branch} key=${branch.id} branch=${{ ...first, ...branch }} api=${api}
        active=${active} texts=${texts.map(label)} length=${length} seed=${seed} again=${again} onAdd=${add}
        onClose=${branch.id > 1 && (() => close(branch.id))} />`)}
    </div>
  </div>`;
}
