// The photos of the page: each goes up, waits, is cut out, and comes back.
import { refusalOf } from "./checks.js";
import * as service from "./service.js";
import { forget, keep, kept } from "./storage.js";

const UPLOADS = 3;
const FETCHES = 3;
const FOLLOWED = 100;
const TRIES = 40;
// What is made anew, and what would fill the disk.
const DROPPED_FIELDS = [
  "cutBlob", "cut", "cutBase", "small", "box", "blurred", "drawn", "drawing", "originalFault", "undone", "controller", "card",
];

// Lets a number of tasks run at once; the others wait in order.
export function limiter(most) {
  let running = 0;
  const waiting = [];
  return async (act) => {
    if (running >= most) await new Promise((resolve) => waiting.push(resolve));
    running += 1;
    try {
      return await act();
    } finally {
      running -= 1;
      waiting.shift()?.();
    }
  };
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((each) => each.toString(16).padStart(2, "0")).join("");
}

// Tells whose photos are kept in a browser that several people use; not a secret.
export function ownerMark() {
  let mark = 0x811c9dc5;
  for (const each of service.readKey()) mark = Math.imul(mark ^ each.charCodeAt(0), 0x01000193) >>> 0;
  return mark.toString(36);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", stop);
    };
    const go = () => { done(); resolve(); };
    const stop = () => { done(); reject(new DOMException("Aborted", "AbortError")); };
    const timer = setTimeout(go, seconds * 1000);
    addEventListener("online", go, { once: true });
    signal.addEventListener("abort", stop);
  });
}

export const RUNNING = new Set(["waiting", "uploading", "queued", "processing", "fetching"]);

// Asks again while the service is busy or away.
export async function patiently(act, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await act();
    } catch (error) {
      if (!error.passing || tries === TRIES) throw error;
      await pause(error.retryAfter || Math.min(tries, 5), signal);
    }
  }
}

export class Photos extends EventTarget {
  list = [];
  // The options of the API that the service applies: model and edges.
  options = {};
  #upload = limiter(UPLOADS);
  #fetch = limiter(FETCHES);
  #following = null;

  add(sources) {
    for (const { file, url, path } of sources) {
      const photo = {
        id: newId(), owner: ownerMark(), path, name: path.split("/").pop(), file, url,
        state: "waiting", attempt: 1, strokes: [], added: Date.now() + this.list.length / 1000,
      };
      this.list.push(photo);
      this.#emit("added", photo);
      this.#keep(photo);
      this.#run(photo);
    }
  }

  // Finds the photos of an earlier visit, those that run as well as those that are done.
  async restore() {
    const records = (await kept()).filter((each) => each.owner === ownerMark());
    records.sort((one, other) => one.added - other.added);
    for (const photo of records) {
      if (this.list.some((each) => each.id === photo.id)) continue;
      this.list.push(photo);
      this.#emit("added", photo);
      if (photo.state === "done") this.#bring(photo);
      else if (photo.taskId && RUNNING.has(photo.state)) this.#set(photo, "queued");
      else if (RUNNING.has(photo.state)) this.#run(photo);
    }
    this.#followAll();
    return records.length;
  }

  forgetAll() {
    for (const photo of this.list.splice(0)) {
      photo.controller?.abort();
      this.#emit("removed", photo);
    }
    this.#followAll();
  }

  async cancel(photo) {
    photo.controller?.abort();
    if (photo.taskId) {
      try {
        await service.cancelTask(photo.taskId);
      } catch (error) {
        if (error.type === "task_finished") return; // its end is on the way
      }
    }
    this.#set(photo, "canceled");
    this.#followAll();
  }

  async retry(photo) {
    photo.attempt += 1;
    photo.error = null;
    const former = photo.taskId;
    if (!photo.file && !photo.url && former) {
      this.#set(photo, "waiting");
      try {
        photo.file = await service.getOriginal(former);
      } catch (error) {
        return this.#fail(photo, error);
      }
    }
    photo.taskId = null;
    this.#keep(photo);
    await this.#run(photo);
    if (former && photo.taskId && photo.taskId !== former) service.eraseTask(former).catch(() => {});
  }

  remove(photo) {
    photo.controller?.abort();
    this.list.splice(this.list.indexOf(photo), 1);
    forget(photo.id);
    for (const id of [photo.taskId, photo.drawnTask]) if (id) service.eraseTask(id).catch(() => {});
    this.#emit("removed", photo);
    this.#followAll();
  }

  keep(photo) {
    this.#keep(photo);
  }

  // Returns the picture as it was submitted.
  async original(photo) {
    photo.file ??= await this.#fetch(() => service.getOriginal(photo.taskId));
    return photo.file;
  }

  async cutout(photo) {
    photo.cutBlob ??= await service.getResult(photo.taskId);
    return photo.cutBlob;
  }

  async #run(photo) {
    const controller = (photo.controller = new AbortController());
    this.#set(photo, "waiting");
    try {
      const task = await this.#upload(async () => {
        const type = photo.file && this.limits && await refusalOf(photo.file, this.limits);
        if (type) throw new service.ServiceError(type, "");
        return this.#submit(photo, controller.signal);
      });
      photo.taskId = task.task_id;
      this.#take(photo, task);
      this.#followAll();
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(photo, error);
    }
  }

  async #submit(photo, signal) {
    const progress = (sent, all) => {
      photo.notice = null;
      photo.percent = Math.floor((100 * sent) / all);
      this.#set(photo, "uploading", { quiet: true });
    };
    for (let tries = 1; ; tries++) {
      signal.throwIfAborted();
      try {
        return await service.submit(photo, this.options, { signal, progress, keep: () => this.#keep(photo) });
      } catch (error) {
        if (error.name === "AbortError" || !(error.passing || error.type?.startsWith("upload_not")) || tries === TRIES) throw error;
        const seconds = error.retryAfter || Math.min(2 ** Math.min(tries - 1, 4), 15);
        photo.notice = error.type === "network" ? { text: "sendingAgain" } : { text: "busy", seconds };
        this.#set(photo, photo.state, { quiet: true });
        await pause(seconds, signal);
      }
    }
  }

  // Takes what the service says of a photo's task.
  #take(photo, task) {
    photo.notice = null;
    photo.ahead = task.position ?? 0;
    if (task.status === "queued") this.#set(photo, "queued");
    else if (task.status === "processing") {
      photo.began ??= Date.now();
      this.#set(photo, "processing");
    } else if (task.status === "succeeded") {
      Object.assign(photo, {
        model: task.model, elapsed: task.elapsed_ms, cached: task.cached, width: task.width, height: task.height,
      });
      this.#bring(photo);
    } else if (task.status === "canceled") this.#set(photo, "canceled");
    else if (task.status === "expired") this.#fail(photo, { type: "expired", message: "" });
    else if (task.status === "failed") this.#fail(photo, task.error ?? { type: "unknown", message: "" });
  }

  async #bring(photo) {
    photo.began = null;
    photo.cutBlob = null;
    photo.cut = null;
    const controller = (photo.controller = new AbortController());
    this.#set(photo, "fetching", { keep: false });
    try {
      photo.cutBlob = await this.#fetch(() => patiently(() => service.getResult(photo.taskId, controller.signal), controller.signal));
      this.#set(photo, "done");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#fail(photo, { type: { task_not_found: "gone", task_expired: "expired" }[error.type] ?? error.type, message: error.message });
    }
  }

  #fail(photo, { type, message }) {
    photo.began = null;
    photo.error = { type: type ?? "unknown", message: message ?? "" };
    this.#set(photo, "failed");
  }

  // Follows all tasks that are not final by one stream; begins anew when their number changes.
  #followAll() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.#followNow(), 60);
  }

  async #followNow() {
    this.#following?.abort();
    const controller = (this.#following = new AbortController());
    const pending = () => this.list.filter((each) => each.taskId && ["queued", "processing"].includes(each.state));
    while (pending().length && !controller.signal.aborted) {
      const ids = pending().slice(0, FOLLOWED).map((each) => each.taskId);
      const heard = new Set();
      try {
        await service.follow(ids, (task) => {
          heard.add(task.task_id);
          const photo = this.list.find((each) => each.taskId === task.task_id);
          if (photo && ["queued", "processing"].includes(photo.state)) this.#take(photo, task);
        }, controller.signal);
        // Without a place to wait in, the stream ends at once; what it leaves out is gone.
        for (const photo of pending()) {
          if (ids.includes(photo.taskId) && !heard.has(photo.taskId)) this.#fail(photo, { type: "gone", message: "" });
        }
        if (pending().length) await pause(1, controller.signal);
      } catch (error) {
        if (error.name === "AbortError" || error.status === 401) return;
        await pause(2, controller.signal).catch(() => {});
      }
    }
  }

  #set(photo, state, { quiet = false, keep: store = true } = {}) {
    photo.state = state;
    if (!quiet && store) this.#keep(photo);
    this.#emit("changed", photo);
  }

  #keep(photo) {
    if (!this.list.includes(photo)) return undefined;
    const record = { ...photo };
    for (const name of DROPPED_FIELDS) delete record[name];
    // Once the service has the picture, its own copy is enough.
    if (photo.taskId) delete record.file;
    return keep(record);
  }

  #emit(name, photo) {
    this.dispatchEvent(Object.assign(new Event(name), { photo }));
  }
}
