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
export const saveKey = (key) => sessionStorage.setItem(KEY, key);

async function refusalOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Refusal({ detail: `The service answered ${answer.status}.`, ...problem, status: answer.status });
}

async function send(method, path, body, { headers, signal } = {}, isRetry = false) {
  const key = savedKey();
  const all = { ...headers, ...(key && { Authorization: `Bearer ${key}` }) };
  if (body !== undefined) all["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`./${path}`, { method, signal, headers: all, cache: "no-store", body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ code: "no_answer", detail: "The service does not answer." });
  }
  if (answer.ok) return answer;
  const refusal = await refusalOf(answer);
  if (answer.status !== 401 || !askForKey || isRetry) throw refusal;
  const isNew = savedKey() !== key; // another call has asked meanwhile
  if (isNew || (await askForKey(refusal))) return send(method, path, body, { headers, signal }, true);
  throw refusal;
}

const parsed = async (answer) => ({ body: answer.status === 204 ? null : await answer.json() });

/** The data of each server-sent event, parsed. `[DONE]` ends the stream; an event `error` is thrown as a Refusal. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let buffer = "", read; !(read = await reader.read()).done; ) {
      const parts = (buffer + read.value.replaceAll("\r", "")).split("\n\n");
      buffer = parts.pop();
      for (const part of parts) {
        const [data] = /(?<=^data: ?).*/m.exec(part) ?? [];
        if (data === "[DONE]") return;
        if (/^event: ?error$/m.test(part)) throw new Refusal(JSON.parse(data));
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

export const api = {
  get: async (path, options) => parsed(await send("GET", path, undefined, options)),
  post: async (path, body, options) => parsed(await send("POST", path, body, options)),
  delete: async (path, options) => parsed(await send("DELETE", path, undefined, options)),
  text: async (path, options) => (await send("GET", path, undefined, options)).text(),
  /** The address of an answer's content, for an image: an <img> itself sends no key. */
  dataUrl: async (path, options) => {
    const reader = new FileReader();
    const ended = new Promise((...ends) => { [reader.onload, reader.onerror] = ends; });
    reader.readAsDataURL(await (await send("GET", path, undefined, options)).blob());
    return ended.then(() => reader.result);
  },
  stream: async function* (path, body, options) {
    yield* events(await send("POST", path, body, options));
  },
};

/** How a program elsewhere calls this service: its address, and the key if one is in use, as Python's clients write
 * them. The key itself stays here: they read it from the environment. */
export function elsewhere() {
  const url = new URL(".", document.baseURI).href.replace(/\/$/, "");
  if (!savedKey()) return { url, load: "", apiKey: '"any"' };
  return { url, load: "import os\n", apiKey: 'os.environ["CARRY_API_KEY"]' };
}

/** A request as curl sends it; `data` is its body as a shell writes it. */
export function curlOf(path, body, data = `'${JSON.stringify(body).replaceAll("'", "'\\''")}'`) {
  const key = savedKey() ? ' -H "Authorization: Bearer $CARRY_API_KEY"' : "";
  return `curl -s ${elsewhere().url}/${path}${key} -H 'Content-Type: application/json' -d ${data}`;
}

/** Lines of Python that use Carry's `client`. */
export function pythonOf(lines, imports = "") {
  const { url, load, apiKey } = elsewhere();
  return `${imports}${load}import carry\n\nclient = carry.Client("${url}"${load && `, api_key=${apiKey}`})\n${lines}`;
}
