// Calls the API of this origin: requests with the key, uploads with progress, tus, events.
import { recall, remember } from "./storage.js";

const KEY = "rmbg-key";
// The key is never in an address, and gone with the tab.
export const readKey = () => recall(KEY) ?? "";
export const writeKey = (key) => remember(KEY, key);

const withKey = (headers = {}) => (readKey() ? { ...headers, "X-API-Key": readKey() } : headers);
const API = "api/v1/";

export class ServiceError extends Error {
  constructor(type, message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { type, status, retryAfter });
  }
  // Whether the same request may succeed a little later, without anybody's help.
  get passing() {
    return this.type === "network" || this.status === 429 || this.status === 503 || this.status === 423
      || this.type === "idempotency_in_progress";
  }
}

function failure(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch { /* a proxy's own page */ }
  const type = body.error?.type ?? (status === 413 ? "image_too_large" : status >= 502 ? "network" : "unknown");
  const message = body.message ?? `HTTP ${status}`;
  if (status === 401) document.dispatchEvent(new CustomEvent("key-refused"));
  return new ServiceError(type, message, { status, retryAfter: Number(retryAfter) || 0 });
}

// A connection that broke, be it before an answer or within one.
function broken(error) {
  throw error.name === "AbortError" ? error : new ServiceError("network", String(error));
}

async function request(method, path, { headers, body, signal, keepalive } = {}) {
  const answer = await fetch(path, { method, headers: withKey(headers), body, signal, keepalive, cache: "no-store" }).catch(broken);
  if (!answer.ok) throw failure(answer.status, await answer.text().catch(broken), answer.headers.get("Retry-After"));
  return answer;
}

export async function call(method, path, { json, ...options } = {}) {
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers = { ...options.headers, "Content-Type": "application/json" };
  }
  const answer = await request(method, API + path, options);
  return (await answer.json().catch(broken)).data;
}

export const cancelTask = (id) => call("POST", `tasks/${id}/cancel`);
export const eraseTask = (id, options) => call("DELETE", `tasks/${id}`, options);
const blobOf = async (path, signal) => (await request("GET", API + path, { signal })).blob().catch(broken);
export const getResult = (id, signal) => blobOf(`tasks/${id}/result?redirect=false`, signal);
export const getOriginal = (id, signal) => blobOf(`tasks/${id}/original`, signal);

// Sends a form; `fetch` knows no progress of what it sends, this does.
function send(method, path, { headers, body, signal, progress }) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open(method, path);
    for (const [name, value] of Object.entries(withKey(headers))) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => progress(event.loaded, event.total);
    xhr.onload = () =>
      xhr.status < 300 ? resolve(xhr) : reject(failure(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After")));
    xhr.onerror = xhr.ontimeout = () => reject(new ServiceError("network", "The connection broke."));
    const abort = () => {
      xhr.abort();
      reject(new DOMException("Aborted", "AbortError"));
    };
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort);
    xhr.send(body);
  });
}

// From this size on a file goes up in pieces, so that a broken connection costs one piece.
const LARGE = 6 * 2 ** 20;
const PIECE = 4 * 2 ** 20;
const TUS = { "Tus-Resumable": "1.0.0" };

// Submits a photo and returns its task. `photo.uploadId` is kept, to go on after a break.
export async function submit(photo, options, { signal, progress, keep }) {
  const headers = { "Idempotency-Key": `${photo.id}-${photo.attempt}` };
  if (photo.url) return call("POST", "remove-bg", { json: { ...options, image_url: photo.url }, headers, signal });
  if (photo.file.size >= LARGE) {
    await upload(photo, { signal, progress, keep });
    try {
      return await call("POST", "remove-bg", { json: { ...options, upload_id: photo.uploadId }, headers, signal });
    } catch (error) {
      if (error.type === "upload_not_found" || error.type === "upload_expired") photo.uploadId = null;
      throw error;
    }
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, String(value));
  form.append("image", photo.file, photo.name);
  const answer = await send("POST", `${API}remove-bg`, { headers, body: form, signal, progress });
  return JSON.parse(answer.responseText).data;
}

async function upload(photo, { signal, progress, keep }) {
  const { file } = photo;
  let offset = photo.uploadId ? await uploaded(photo, signal) : 0;
  if (!photo.uploadId) {
    const name = btoa(String.fromCharCode(...new TextEncoder().encode(photo.name)));
    const headers = { ...TUS, "Upload-Length": String(file.size), "Upload-Metadata": `filename ${name}` };
    const begun = await request("POST", `${API}uploads`, { headers, signal });
    photo.uploadId = begun.headers.get("Location").split("/").pop();
    await keep();
  }
  while (offset < file.size) {
    progress(offset, file.size);
    const start = offset;
    const headers = { ...TUS, "Upload-Offset": String(start), "Content-Type": "application/offset+octet-stream" };
    try {
      const answer = await send("PATCH", `${API}uploads/${photo.uploadId}`, {
        headers, signal, body: file.slice(start, start + PIECE), progress: (sent) => progress(start + sent, file.size),
      });
      offset = Number(answer.getResponseHeader("Upload-Offset"));
    } catch (error) {
      if (error.type !== "upload_offset_mismatch") throw error;
      offset = await uploaded(photo, signal);
    }
  }
}

// Asks how much of an upload has come; forgets it if it is gone.
async function uploaded(photo, signal) {
  try {
    const answer = await request("HEAD", `${API}uploads/${photo.uploadId}`, { headers: TUS, signal });
    return Number(answer.headers.get("Upload-Offset"));
  } catch (error) {
    if (error.status !== 404 && error.status !== 410) throw error;
    photo.uploadId = null;
    return 0;
  }
}

// Reads the events of tasks until all are final; `EventSource` could not send the key.
export async function follow(ids, onTask, signal) {
  const answer = await request("GET", `${API}events?ids=${ids.join(",")}`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) onTask(JSON.parse(data.slice(6)));
    }
  }
}
