// One session of the service as this page knows it: its version and, for each version, a snapshot of values and forecast,
// so that going back shows the past again. It knows nothing of how anything is drawn.

export const HORIZON = 24;
export const INTERVALS = { 50: ["0.25", "0.75"], 80: ["0.1", "0.9"], 95: ["0.025", "0.975"] };
const FORECAST = { horizon: HORIZON, quantiles: [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975] };
const MOST = { values: 500, versions: 9, times: 500 };
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
function advanced(snapshot, values, { session: { position }, history, quantiles, season_length: season }) {
  const before = snapshot.position + values.length > position ? EMPTY : snapshot;
  let [score, last] = [before.score, before.values.findLast((value) => value !== null)];
  values.forEach((value, i) => {
    if (value === null) return;
    const ahead = (level) => history.quantiles[level][i];
    if (ahead("0.5") !== null && last !== undefined) score = scored(score, value, last, ahead);
    last = value;
  });
  const unknown = Array(Math.min(MOST.values, position - before.position - values.length)).fill(null);
  return { position, values: [...before.values, ...unknown, ...values].slice(-MOST.values), forecast: quantiles, season, score };
}

/** The answer to a call. It is sent again while there is none: its key keeps it from counting twice. */
async function answerTo(api, { method, path, body, headers }, onWait) {
  for (let wait = 250; ; wait *= 2) {
    const began = performance.now();
    try {
      const answer = await api[method](path, ...(body ? [body] : []), { headers });
      return { ...answer.body, milliseconds: performance.now() - began };
    } catch (error) {
      if (![0, 429, 503].includes(error.status) || wait > 4000) throw error;
      onWait();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** What a session becomes by the answer to a call, by its kind. The result is that of `Live.act`. */
const AFTER = {
  send(live, { body }, answer) {
    live.times = [...live.times, answer.milliseconds].slice(-MOST.times);
    live.moveTo(answer.session, advanced(live.now, body.series, answer));
  },
  async rewind(live, { body }, answer) {
    live.ghost = live.seen().filter(([number]) => number > answer.position);
    const snapshot = live.snapshots[body.version];
    live.moveTo(answer, snapshot ?? EMPTY);
    if (!snapshot && answer.position > 0) await live.read();
  },
  fork: (live, call, { id, version }) => live.sibling({ name: "What if", id, version, snapshots: { [version]: live.now } }),
  export: (live, call, { model, session, state }) => ({ model, session, state, page: live.now }),
  end: () => {},
};

export class Live {
  #api;
  #notify;
  #turn = Promise.resolve();

  /** `fields`: of a session that a page kept, or at least its `id`; `notify()` is called when something changed. */
  constructor(api, notify, fields) {
    Object.assign(this, { version: 0, snapshots: {}, ghost: [], times: [], call: null, pending: null, note: "" }, fields);
    this.versions ??= [{ version: this.version, position: this.now.position }];
    [this.#api, this.#notify] = [api, notify];
  }

  /** A new session. `body`: of POST /sessions; `snapshot`: what the page knows of the values that it has read. */
  static async begin(api, notify, name, body, snapshot = EMPTY) {
    const headers = { "Idempotency-Key": newKey() };
    const call = { kind: body.state ? "import" : "begin", method: "post", path: "sessions", body, headers, time: Date.now() };
    const { id, version, position } = await answerTo(api, call, notify);
    const live = new Live(api, notify, { name, id, version, call, snapshots: { [version]: { ...snapshot, position } } });
    if (position > 0) await live.read();
    return live;
  }

  sibling = (fields) => new Live(this.#api, this.#notify, fields);
  send = (series) => this.#act("send", "post", "forecast", { session_id: this.id, series, ...FORECAST, include_history: true });
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
  async resume() {
    if (this.pending) await this.#run(this.pending);
    await this.refresh();
  }

  /** Asks for the versions that the service keeps. */
  refresh = () => this.#inTurn(() => this.#look());

  #act(kind, method, path, body) {
    return this.#run({ kind, method, path, body, id: this.id, time: Date.now() });
  }

  /** Runs a call once the calls before it have ended. Resolves to its result, or to null if it was refused. The call
   * names the version that the page knows: of any other, it changes nothing. */
  #run(call) {
    return this.#inTurn(async () => {
      call.headers ??= { "If-Match": `"${this.version}"`, "Idempotency-Key": newKey() };
      call.steps = this.versions.findIndex(({ version }) => version === call.body?.version);
      this.pending = call;
      const answer = await answerTo(this.#api, call, () => {
        this.note = "No answer yet. The same call is sent again; its key keeps it from counting twice.";
        this.#notify();
      });
      Object.assign(this, { pending: null, call });
      return (await AFTER[call.kind](this, call, answer)) ?? true;
    });
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
    if (error.status > 0) this.pending = null;
    this.error = error;
    if (error.status !== 412 && error.code !== "session_conflict") return;
    try {
      await this.#look();
      this.error = null;
      this.note = "Another client changed this session. Its newest version is shown; your change was not made.";
    } catch (newer) {
      this.error = newer;
    }
  }

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
