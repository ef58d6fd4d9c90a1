// Calls of the service. It knows the forms of its errors and streams, and the API key; it knows nothing of the page.
//
// Paths are relative ("./forecast"), since the service may stand behind a prefix.

const KEY = "carry-api-key";
let askForKey = null;

/** An answer that is not the one asked for: the service's problem+json, or no answer at all (status 0). */
export class Refusal extends Error {
  constructor({ status = 0, code = "", detail = "", errors = [], request_id = "" }) {
    super(detail);
    Object.assign(this, { status, code, detail, errors, request_id });
  }
}

/** Registers `ask(refusal)`, which resolves to a new key, or to null if the person gives none. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** The key of this tab's session, or null. It is never stored longer than the tab lives. */
export const savedKey = () => sessionStorage.getItem(KEY);

export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

async function refusalOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  const detail = problem.detail || `The service answered ${answer.status} ${answer.statusText}`.trim() + ".";
  return new Refusal({ ...problem, detail, status: answer.status });
}

async function send(method, path, { body, headers = {}, signal } = {}, isRetry = false) {
  const key = savedKey();
  const request = { method, signal, headers: { ...headers }, cache: "no-store" };
  if (key) request.headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path.replace(/^\/?/, "./").replace(/^\.\/\.\//, "./"), request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ code: "no_answer", detail: "The service does not answer." });
  }
  if (answer.ok) return answer;
  const refusal = await refusalOf(answer);
  const isKeyWanted = answer.status === 401 || (answer.status === 403 && refusal.code !== "cross_origin");
  if (isKeyWanted && askForKey && !isRetry) {
    // Another call may have asked meanwhile.
    if (savedKey() !== key || (await askForKey(refusal))) return send(method, path, { body, headers, signal }, true);
  }
  throw refusal;
}

async function parsed(answer) {
  const text = await answer.text();
  return { body: text ? JSON.parse(text) : null, headers: answer.headers };
}

/** The data of each server-sent event, parsed. `[DONE]` ends the stream; an event `error` is thrown as a Refusal. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value.replaceAll("\r", "");
      for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
        const lines = buffer.slice(0, end).split("\n");
        const field = (name) =>
          lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
        const data = field("data").join("\n");
        if (!data) continue;
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (field("event")[0] === "error") throw new Refusal(event);
        yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

export const api = {
  get: async (path, options) => parsed(await send("GET", path, options)),
  post: async (path, body, options) => parsed(await send("POST", path, { ...options, body })),
  put: async (path, body, options) => parsed(await send("PUT", path, { ...options, body })),
  delete: async (path, options) => parsed(await send("DELETE", path, options)),
  text: async (path, options) => (await send("GET", path, options)).text(),
  /** The address of an answer's content, for an image: an <img> itself sends no key. */
  dataUrl: async (path, options) => {
    const content = await (await send("GET", path, options)).blob();
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(content);
    });
  },
  stream: async function* (path, body, options) {
    yield* events(await send("POST", path, { ...options, body }));
  },
};

/** How a program elsewhere calls this service: its address, and the key if one is in use, as curl, Python and the
 *  clients in Python write them. The key itself stays here: they read it from the environment. */
export function elsewhere() {
  const url = new URL(".", document.baseURI).href.replace(/\/$/, "");
  if (!savedKey()) return { url, header: "", load: "", carryKey: "", apiKey: '"any"' };
  const apiKey = 'os.environ["CARRY_API_KEY"]';
  const header = ' -H "Authorization: Bearer $CARRY_API_KEY"';
  return { url, header, load: "import os\n", carryKey: `, api_key=${apiKey}`, apiKey };
}
