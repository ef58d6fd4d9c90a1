// One session of the service as this page knows it: its version and, for each version, a snapshot of values and
// forecast, so that going back shows the past again. It knows nothing of how anything is drawn.

export const HORIZON = 24;
export const INTERVALS = { 50: ["0.25", "0.75"], 80: ["0.1", "0.9"], 95: ["0.025", "0.975"] };
const FORECAST = { horizon: HORIZON, quantiles: [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975] };
const AGAIN = [0, 429, 503]; // no answer, and the two that ask for patience
const MOST = { values: 500, versions: 9, times: 500, marks: 8 };
const UNSCORED = { count: 0, error: 0, change: 0, held: { 50: 0, 80: 0, 95: 0 } };
const EMPTY = { position: 0, values: [], forecast: null, score: UNSCORED };

const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");

/** The newest values of a snapshot as [number of the value, value]. */
export const numbered = ({ position, values }) => values.map((value, i) => [position - values.length + 1 + i, value]);

/** The score with one more value. `last`: the value before it; `ahead(level)`: a quantile that was forecast for it. */
function scored(score, value, last, ahead) {
  const held = Object.entries(INTERVALS).map(([level, [low, high]]) =>
    [level, score.held[level] + (ahead(low) <= value && value <= ahead(high) ? 1 : 0)]);
  const [error, change] = [Math.abs(value - ahead("0.5")), Math.abs(value - last)];
  return { count: score.count + 1, error: score.error + error, change: score.change + change,
    held: Object.fromEntries(held) };
}

/** The snapshot after a forecast that brought `values`. Values that another client sent are unknown: null. */
function advanced(snapshot, values, { session: { position }, history, quantiles }) {
  const before = snapshot.position + values.length > position ? EMPTY : snapshot;
  let [score, last] = [before.score, before.values.findLast((value) => value !== null)];
  values.forEach((value, i) => {
    if (value === null) return;
    const ahead = (level) => history.quantiles[level][i];
    if (ahead("0.5") !== null && last !== undefined) score = scored(score, value, last, ahead);
    last = value;
  });
  const unknown = Array(Math.min(MOST.values, position - before.position - values.length)).fill(null);
  const newest = [...before.values, ...unknown, ...values].slice(-MOST.values);
  return { position, values: newest, forecast: quantiles, score };
}

/** The answer to a call. It is sent again while there is none: its key keeps it from counting twice. */
async function answerTo(api, { method, path, body, headers }, onWait) {
  for (let wait = 250; ; wait *= 2) {
    const began = performance.now();
    try {
      const answer = await api[method](path, ...(body ? [body] : []), { headers });
      return { ...answer.body, milliseconds: performance.now() - began };
    } catch (error) {
      if (!AGAIN.includes(error.status) || wait > 4000) throw error;
      onWait();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** What a session becomes by the answer to a call, by its kind. What is returned is the result of the call. */
const AFTER = {
  send(live, { body }, answer) {
    live.times = [...live.times, answer.milliseconds].slice(-MOST.times);
    const { position } = live.now;
    live.moveTo(answer.session, advanced(live.now, body.series, answer));
    if (Math.floor(position / live.every) < Math.floor(live.now.position / live.every)) live.mark();
  },
  rewind: (live, { body }, answer) => live.goBack(answer, live.snapshots[body.version]),
  restore: (live, { body }, answer) =>
    live.goBack(answer, live.marks.find(({ state }) => state === body.state)?.snapshot),
  fork: (live, call, { id, version }) =>
    live.copy({ id, version, snapshots: { [version]: live.now }, marks: live.marks }),
  export: (live, call, { model, session, state }) => ({ model, session, state, page: live.now }),
  end: () => {},
};

export class Live {
  #api;
  #notify;
  #turn = Promise.resolve();

  /** `fields`: `name, id, version, snapshots`, and more of a session that a page kept. `notify()` tells of a change. */
  constructor(api, notify, fields) {
    const fresh = { ghost: [], marks: [], every: HORIZON, times: [], call: null, pending: null, error: null, note: "" };
    Object.assign(this, fresh, fields);
    this.versions ??= [{ version: this.version, position: this.now.position }];
    [this.#api, this.#notify] = [api, notify];
  }

  /** A new session. `body`: of POST /sessions; `snapshot`: what the page knows of the values that it has read. */
  static async begin(api, notify, name, body, snapshot = EMPTY) {
    const kind = body.state ? "import" : "begin";
    const call = { kind, method: "post", path: "sessions", body, headers: { "Idempotency-Key": newKey() } };
    const { id, version, position } = await answerTo(api, call, notify);
    const snapshots = { [version]: { ...snapshot, position } };
    const live = new Live(api, notify, { name, id, version, snapshots, call: { ...call, time: Date.now() } });
    if (position > 0) await live.read();
    return live;
  }

  copy = (fields) => new Live(this.#api, this.#notify, { ...fields, name: "What if" });
  send(series) {
    const body = { session_id: this.id, series, ...FORECAST, include_history: true };
    return this.#act("send", "post", "forecast", body);
  }
  restore = ({ state }) => this.#act("restore", "put", `sessions/${this.id}/state`, { state });
  rewind = (version) => this.#act("rewind", "post", `sessions/${this.id}/rewind`, { version });
  fork = () => this.#act("fork", "post", `sessions/${this.id}/fork`, {});
  export = () => this.#act("export", "get", `sessions/${this.id}/state`);
  end = () => this.#act("end", "delete", `sessions/${this.id}`);

  get now() {
    return this.snapshots[this.version];
  }

  /** All values that the page knows, also those that a rewind left behind, as `numbered` has them. */
  seen = () => [...new Map([...this.ghost, ...numbered(this.now)])].sort(([a], [b]) => a - b);

  /** Goes on after a reload: repeats the call that was on its way, and looks at which version the session is. */
  resume = () => this.#inTurn(async () => {
    if (this.pending) await this.#make(this.pending);
    await this.#look();
  });

  /** Asks for the versions that the service keeps. */
  refresh = () => this.#inTurn(() => this.#look());

  #act(kind, method, path, body) {
    const call = { kind, method, path, body, id: this.id, time: Date.now() };
    call.steps = this.versions.findIndex(({ version }) => version === body?.version);
    return this.#inTurn(() => {
      // The same once more after there was no answer: the service may have made the change, and knows the key.
      const isSame = this.pending?.path === path && JSON.stringify(this.pending.body) === JSON.stringify(body);
      return this.#make(isSame ? this.pending : call);
    });
  }

  /** Makes a call of the version that the page knows: of any other, it changes nothing. Returns AFTER's result. */
  async #make(call) {
    call.headers ??= { "If-Match": `"${this.version}"`, "Idempotency-Key": newKey() };
    this.pending = call;
    const answer = await answerTo(this.#api, call, () => {
      this.note = "No answer yet. The same call is sent again; its key keeps it from counting twice.";
      this.#notify();
    });
    Object.assign(this, { pending: null, call, note: "" });
    return (await AFTER[call.kind](this, call, answer)) ?? true;
  }

  #inTurn(action) {
    const run = async () => {
      Object.assign(this, { error: null, note: "" });
      try {
        return await action();
      } catch (error) {
        await this.#explain(error);
        return null;
      } finally {
        this.#notify();
      }
    };
    return (this.#turn = this.#turn.then(run, run));
  }

  async #explain(error) {
    if (error.status === undefined) throw error;
    if (!AGAIN.includes(error.status)) this.pending = null;
    Object.assign(this, { error, note: "" });
    if (![409, 412].includes(error.status) || error.code === "session_model_gone") return;
    try {
      await this.#look();
      if (error.code === "version_not_kept") return;
      const note = "Another client changed this session. Its newest version is shown; your change was not made.";
      Object.assign(this, { error: null, note });
    } catch (newer) {
      this.error = newer;
    }
  }

  async goBack(answer, snapshot) {
    this.ghost = this.seen().filter(([number]) => number > answer.position);
    this.moveTo(answer, snapshot ?? EMPTY);
    if (!snapshot && answer.position > 0) await this.read();
  }

  /** Keeps the session's state, to go back further than the service's versions reach: every `HORIZON` values, and
   * every second of these marks when they are too many. */
  mark = () => this.#inTurn(async () => {
    const { session, state } = (await this.#api.get(`sessions/${this.id}/state`)).body;
    if (session.version !== this.version) return;
    const others = this.marks.filter(({ position }) => position !== session.position);
    this.marks = [...others, { position: session.position, state, snapshot: this.now }];
    if (this.marks.length <= MOST.marks) return;
    this.every *= 2;
    this.marks = this.marks.sort((a, b) => a.position - b.position).filter((mark, i) => i % 2);
  });

  moveTo({ version, position }, snapshot) {
    this.version = version;
    this.versions = [{ version, position }, ...this.versions].slice(0, Math.max(MOST.versions, this.versions.length));
    const kept = this.versions.filter((each) => this.snapshots[each.version]);
    this.snapshots = Object.fromEntries(kept.map((each) => [each.version, this.snapshots[each.version]]));
    this.snapshots[version] = { ...snapshot, position };
  }

  async #look() {
    const { version, position, versions } = (await this.#api.get(`sessions/${this.id}`)).body;
    const before = this.now;
    Object.assign(this, { version, versions: [{ version, position }, ...versions] });
    if (this.snapshots[version]) return;
    this.snapshots[version] = position > 0 ? before : EMPTY;
    if (position > 0) await this.read();
  }

  /** Asks for the forecast after the newest value, which changes nothing. Without a value there is none. */
  async read() {
    const body = { session_id: this.id, series: [], commit: false, ...FORECAST };
    this.snapshots[this.version] = advanced(this.now, [], (await this.#api.post("forecast", body)).body);
  }
}
