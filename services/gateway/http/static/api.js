// What the page asks of its gateway. The key is kept in this module alone, until the page is left.

const SILENT_MS = 60_000; // a gateway says something every 15 seconds

let key = "";

export function setKey(value) {
  key = value.trim();
}

// A request that was refused, or a session that failed: `status` is HTTP's, 0 within a stream or without a response.
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answered ${status}`);
    this.status = status;
  }
}

// Browsers have other words for this, and none of them helps.
function lost(error, signal, message) {
  return signal?.aborted ? error : new Refused(0, { message });
}

async function call(path, options = {}) {
  if (/[^!-~]/.test(key)) throw new Refused(401, { message: "the API key has characters that no key has" });
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw lost(error, options.signal, "the gateway cannot be reached, or has hung up");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error);
}

// A session's events as they come.
export async function* reason(request, signal) {
  const response = await call("/v1/dreamr/reason", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await read(reader, signal);
      if (done) return;
      const pieces = (rest + value).split("\n\n");
      rest = pieces.pop();
      for (const piece of pieces) {
        if (!piece.startsWith("data: ")) continue;
        const event = JSON.parse(piece.slice(6));
        if (event.error) throw new Refused(0, event.error);
        yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

// A connection that is dead does not say so: where nothing comes, the stream ends.
async function read(reader, signal) {
  const silent = setTimeout(() => reader.cancel().catch(() => {}), SILENT_MS);
  try {
    return await reader.read();
  } catch (error) {
    throw lost(error, signal, "the connection to the gateway is lost");
  } finally {
    clearTimeout(silent);
  }
}

export async function recent() {
  return (await call("/v1/dreamr/sessions")).json();
}

export async function session(id) {
  return (await call(`/v1/dreamr/sessions/${encodeURIComponent(id)}`)).json();
}

// A link can show no key, and says nothing where the session is gone: the file is fetched, and handed over.
export function downloads(link, id, failed) {
  link.href = `/v1/dreamr/sessions/${encodeURIComponent(id)}/trace`;
  link.download = `dreamr-${id}.json`;
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      const url = URL.createObjectURL(await (await call(link.href)).blob());
      const file = Object.assign(document.createElement("a"), { href: url, download: link.download });
      file.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      failed(error);
    }
  });
}
