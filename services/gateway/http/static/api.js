// What the page asks of its gateway. The key is kept in this module alone, until the page is left.

let key = "";

export function setKey(value) {
  key = value.trim();
}

// A request that was refused, or a session that failed: `status` is HTTP's, 0 within a stream.
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answered ${status}`);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
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
      const { done, value } = await reader.read();
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

export async function recent() {
  return (await call("/v1/dreamr/sessions")).json();
}

export async function session(id) {
  return (await call(`/v1/dreamr/sessions/${encodeURIComponent(id)}`)).json();
}

export function tracePath(id) {
  return `/v1/dreamr/sessions/${encodeURIComponent(id)}/trace`;
}

// A link cannot show a key: where there is one, the file is fetched, and the link leads to what came.
export function downloads(link, id, failed) {
  link.href = tracePath(id);
  link.download = `dreamr-${id}.json`;
  link.addEventListener("click", async (event) => {
    if (!key) return;
    event.preventDefault();
    try {
      const url = URL.createObjectURL(await (await call(tracePath(id))).blob());
      const file = Object.assign(document.createElement("a"), { href: url, download: link.download });
      file.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      failed(error);
    }
  });
}
