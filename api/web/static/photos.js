// The photos of the page: each goes up, waits, is cut out, and comes back.
import { refusalOf } from "./checks.js";
import * as service from "./service.js";
import { alone, forget, keep, kept, keptOne, onChange } from "./storage.js";

const UPLOADS = 3;
const FETCHES = 3;
const FOLLOWED = 100;
// So often an upload is begun anew that the service has lost.
const TRIES = 5;
// How long a removal can be taken back, and then how much longer it is another window's to complete.
export const UNDO_MS = 8000;
const GRACE_MS = 4000;
// What is kept of a photo: neither pictures in memory nor what only this window has.
const KEPT = [
  "id", "owner", "path", "name", "file", "url", "state", "attempt", "strokes", "added", "taskId", "drawnTask", "foreign", "uploadId",
  "error", "model", "elapsed", "cached", "width", "height", "removed", "former",
];
// What is told of a cutout, and comes back with it where a new one does not come about.
const TOLD = ["taskId", "model", "elapsed", "cached", "width", "height"];

// Errors of a picture that the service does not have any more, as the cards name them.
const GONE = { task_not_found: "gone", task_expired: "expired" };

// Lets a number of tasks run at once. The next is the first of those that wait whose rank is highest by then.
export function limiter(most) {
  let running = 0;
  const waiting = [];
  return async (act, rank = () => 0) => {
    if (running >= most) await new Promise((go) => waiting.push({ go, rank }));
    running += 1;
    try {
      return await act();
    } finally {
      running -= 1;
      const ranks = waiting.map((each) => each.rank());
      waiting.splice(ranks.indexOf(Math.max(...ranks)), 1)[0]?.go();
    }
  };
}

// Ranks: of what a person waits for, and of a card's picture, by whether it is near to what is seen.
export const urgent = () => 2;
export const nearness = (photo) => () => (photo.card?.near ? 1 : 0);

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((each) => each.toString(16).padStart(2, "0")).join("");
}

// Tells whose photos are kept in a browser that several people use; not a secret.
export function ownerMark() {
  let mark = 0x811c9dc5;
  for (const each of service.readKey()) mark = Math.imul(mark ^ each.charCodeAt(0), 0x01000193) >>> 0;
  return mark.toString(36);
}

// Erases a task for which nobody waits any more.
const discard = (id) => service.eraseTask(id).catch(() => {});

// Waits some seconds, or until the connection or the key is there again.
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", go);
      document.removeEventListener("key-given", go);
      signal.removeEventListener("abort", stop);
    };
    const go = () => { done(); resolve(); };
    const stop = () => { done(); reject(new DOMException("Aborted", "AbortError")); };
    const timer = setTimeout(go, Math.min(seconds, 86400) * 1000);
    addEventListener("online", go);
    document.addEventListener("key-given", go);
    signal.addEventListener("abort", stop);
  });
}

export const RUNNING = new Set(["waiting", "uploading", "queued", "processing", "fetching"]);

// Whether there is a cutout to be shown and taken: also the former one, while the photo is cut again.
export const hasCut = (photo) => photo.state === "done" || Boolean(photo.former);

// Asks again while the service is busy or away, or wants another key.
export async function patiently(act, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await act();
    } catch (error) {
      if (!error.passing && error.status !== 401) throw error;
      await pause(error.status === 401 ? Infinity : error.retryAfter || Math.min(tries, 5), signal);
    }
  }
}

const FOLLOWING = new Set(["queued", "processing"]);

export class Photos extends EventTarget {
  list = [];
  // The options of the API that the service applies: model and edges.
  options = {};
  // Why nothing is sent for now, and until when: the service has refused for a while.
  held = null;
  #upload = limiter(UPLOADS);
  #fetch = limiter(FETCHES);
  #erase = limiter(FETCHES);
  #following = null;
  // Those that can be taken back, by the ids of their photos.
  #removals = new Map();

  constructor() {
    super();
    onChange((id) => this.#adopt(id));
    addEventListener("pagehide", () => {
      for (const complete of new Set(this.#removals.values())) complete({ keepalive: true });
    });
  }

  add(sources) {
    for (const { file, url, path } of sources) {
      const photo = this.#takeIn({
        id: newId(), owner: ownerMark(), path, name: path.split("/").pop(), file, url,
        state: "waiting", attempt: 1, strokes: [], added: Date.now() + this.list.length / 1000,
      }, { fresh: true });
      // Only now, so that this window is the first to ask for its lock.
      this.#write(photo);
    }
  }

  // Finds the photos of an earlier visit, those that run as well as those that are done. Of a key that is
  // refused, only those that it has not sent.
  async restore({ sent = true } = {}) {
    const records = (await kept()).filter((each) => each.owner === ownerMark() && (sent || !each.taskId));
    records.sort((one, other) => one.added - other.added);
    let found = 0;
    for (const record of records) {
      if (record.removed) {
        if (Date.now() - record.removed > UNDO_MS + GRACE_MS) this.#eraseForGood(record);
      } else if (!this.#find(record.id)) {
        this.#takeIn(record);
        found += 1;
      }
    }
    return found;
  }

  // Another person has come: shows nothing more of the one before.
  forgetAll() {
    this.#hold(null);
    for (const photo of this.list.splice(0)) {
      photo.controller?.abort();
      this.#emit("removed", photo);
    }
    this.#followAll();
  }

  // The same person has another key. What the old one has sent is out of reach, and is sent again.
  changeKey() {
    this.#hold(null);
    for (const photo of this.list.filter((each) => RUNNING.has(each.state))) {
      photo.controller?.abort();
      Object.assign(photo, { owner: ownerMark(), uploadId: null, former: null, attempt: photo.attempt + 1 });
      if (photo.file || photo.url) photo.taskId = null;
      this.#resume(photo);
      this.keep(photo);
    }
    document.dispatchEvent(new Event("key-given"));
  }

  async cancel(photo) {
    if (photo.state === "fetching" && !photo.former) return; // it is cut out already
    photo.controller?.abort();
    if (photo.taskId && photo.taskId !== photo.former?.taskId) {
      try {
        await service.cancelTask(photo.taskId);
      } catch (error) {
        if (error.type === "task_finished" && !photo.former) return this.#followAll(); // its end is on the way
      }
    }
    if (RUNNING.has(photo.state)) this.#stop(photo);
    this.#followAll();
  }

  // Cuts a photo again; its cutout stays until the new one is there.
  async retry(photo) {
    const former = photo.taskId;
    photo.error = null;
    if (photo.state === "done") photo.former = Object.fromEntries(TOLD.map((name) => [name, photo[name]]));
    if (!photo.file && !photo.url && former) {
      this.#show(photo, "waiting");
      try {
        photo.file = await service.getOriginal(former);
      } catch (error) {
        return this.#fail(photo, error);
      }
      if (photo.state !== "waiting") return; // canceled meanwhile
    }
    Object.assign(photo, { taskId: null, began: null, attempt: photo.attempt + 1 });
    const run = this.#run(photo, { fresh: true });
    this.keep(photo);
    await run;
    if (former && photo.taskId && photo.taskId !== former && !photo.former) discard(former);
  }

  // Takes photos off the list, and some seconds later off the service; returns what takes that back.
  remove(photos) {
    const end = () => {
      clearTimeout(timer);
      return photos.filter(({ id }) => this.#removals.delete(id));
    };
    const complete = (options) => {
      for (const photo of end()) {
        photo.controller?.abort();
        this.#eraseForGood(photo, options);
      }
    };
    const timer = setTimeout(complete, UNDO_MS);
    for (const photo of photos) {
      this.#removals.set(photo.id, complete);
      this.list.splice(this.list.indexOf(photo), 1);
      photo.removed = Date.now();
      this.#write(photo);
      this.#emit("removed", photo);
    }
    this.#followAll();
    return () => {
      for (const photo of end()) {
        photo.removed = undefined;
        this.#insert(photo);
        this.#write(photo);
      }
      this.#followAll();
    };
  }

  // Whether a photo's file can be read. One that has gone or changed since it was chosen gives way to the
  // browser's own copy.
  async #readable(photo) {
    const reads = (file) => file?.slice(0, 1).arrayBuffer().then(() => true, () => false);
    if (await reads(photo.file)) return true;
    const copy = (await keptOne(photo.id))?.file;
    if (!await reads(copy)) return false;
    photo.file = copy;
    return true;
  }

  // Returns the picture as it was submitted.
  async original(photo) {
    if (photo.file && photo.taskId && !await this.#readable(photo)) photo.file = null;
    photo.file ??= await this.#fetch(() => service.getOriginal((photo.former ?? photo).taskId), nearness(photo));
    return photo.file;
  }

  async cutout(photo, rank = urgent) {
    let coming;
    try {
      // Whoever asks meanwhile waits for the same answer.
      coming = photo.coming ??= photo.cutBlob ?? this.#fetch(() => service.getResult((photo.former ?? photo).taskId), rank);
      const blob = await coming;
      if (photo.coming === coming) photo.cutBlob = blob; // no newer one has come meanwhile
    } catch (error) {
      if (GONE[error.type] && photo.coming === coming) {
        if (photo.state === "done") this.#fail(photo, error);
        else if (photo.former) {
          photo.former = null;
          this.#set(photo, photo.state);
        }
      }
      throw error;
    } finally {
      if (photo.coming === coming) photo.coming = null;
    }
    return photo.cutBlob;
  }

  #find(id) {
    return this.list.find((each) => each.id === id);
  }

  #insert(photo) {
    const at = this.list.findIndex((each) => each.added > photo.added);
    this.list.splice(at < 0 ? this.list.length : at, 0, photo);
    this.#emit("added", photo);
  }

  #takeIn(record, options) {
    const photo = { strokes: [], ...record };
    this.#insert(photo);
    if (RUNNING.has(photo.state)) this.#resume(photo, options);
    return photo;
  }

  // Goes on with a photo that runs, from wherever it is.
  #resume(photo, options) {
    if (!photo.taskId) return this.#run(photo, options);
    this.#show(photo, "queued");
    this.#followAll();
  }

  // Takes over what another window has made of a photo.
  async #adopt(id) {
    const record = await keptOne(id);
    const photo = this.#find(id);
    if (!record || record.removed || record.owner !== ownerMark()) {
      if (photo && photo.owner === ownerMark()) this.#drop(photo);
      return;
    }
    if (!photo) {
      if (!this.#removals.has(id)) this.#takeIn(record);
      return;
    }
    if (JSON.stringify(record.strokes) !== JSON.stringify(photo.strokes)) {
      photo.strokes = record.strokes;
      this.#emit("touched", photo);
    }
    const ended = ["failed", "canceled"].includes(record.state) && RUNNING.has(photo.state);
    const other = record.attempt > photo.attempt || (record.taskId && record.taskId !== photo.taskId);
    if (record.attempt < photo.attempt || !(ended || other)) return;
    photo.controller?.abort();
    for (const name of KEPT) if (name in record || name === "taskId" || name === "former") photo[name] = record[name];
    Object.assign(photo, { coming: null, cutBlob: null, notice: null });
    if (RUNNING.has(photo.state)) this.#resume(photo);
    else this.#show(photo, photo.state);
  }

  #drop(photo) {
    photo.controller?.abort();
    this.list.splice(this.list.indexOf(photo), 1);
    this.#emit("removed", photo);
    this.#followAll();
  }

  // Without an answer the record stays, and the next visit tries again.
  async #eraseForGood({ id, taskId, drawnTask, former }, options) {
    const gone = (error) => {
      if (!GONE[error.type]) throw error;
    };
    // A page that is left has no time for one after the other.
    const inTurn = options?.keepalive ? (act) => act() : this.#erase;
    try {
      await Promise.all([taskId, drawnTask, former?.taskId].filter(Boolean).map((each) => inTurn(() => service.eraseTask(each, options).catch(gone))));
      await forget(id);
    } catch { /* see above */ }
  }

  // Sends a photo, unless another window does or has. Of a fresh one, which only this window can have
  // begun, no record is read: that would wait until the files of all others are written.
  async #run(photo, { fresh = false } = {}) {
    const { signal } = (photo.controller = new AbortController());
    this.#show(photo, "waiting");
    try {
      await alone(photo.id, signal, async () => {
        const record = fresh ? null : await keptOne(photo.id);
        if (record?.attempt >= photo.attempt && (record.taskId || record.state === "canceled")) return this.#adopt(photo.id);
        const task = await this.#upload(async () => {
          const type = photo.file && this.limits && await refusalOf(photo.file, this.limits);
          if (type) throw new service.ServiceError(type, "");
          return this.#submit(photo, signal);
        });
        photo.taskId = task.task_id;
        this.#take(photo, task);
        await this.#write(photo);
        this.#followAll();
      });
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(photo, error);
    }
  }

  async #submit(photo, signal) {
    const progress = (sent, all) => {
      photo.notice = null;
      photo.percent = Math.floor((100 * sent) / all);
      this.#show(photo, "uploading");
    };
    for (let tries = 1, losses = 0; ; tries++) {
      await this.#room(photo, signal);
      try {
        const task = await service.submit(photo, this.options, { signal, progress, keep: () => this.keep(photo) });
        this.#hold(null);
        return task;
      } catch (error) {
        const lost = error.type?.startsWith("upload_not") || error.type === "upload_expired";
        const unknown = error.status === 401;
        if (error.type === "network" && photo.file && !await this.#readable(photo)) throw new service.ServiceError("file_gone", "");
        if (error.name === "AbortError" || !(error.passing || lost || unknown) || (lost && ++losses === TRIES)) throw error;
        const seconds = unknown ? Infinity : error.retryAfter || Math.min(2 ** Math.min(tries - 1, 4), 15);
        this.#hold(lost ? null : { type: error.type, until: Date.now() + seconds * 1000 });
      }
    }
  }

  // Waits while the service takes nothing, so that no photo goes up only to be refused.
  async #room(photo, signal) {
    signal.throwIfAborted();
    while (this.held && this.held.until > Date.now()) {
      photo.notice = this.held;
      this.#show(photo, photo.state);
      await pause((this.held.until - Date.now()) / 1000, signal);
      signal.throwIfAborted();
      // All go on at once when the connection is back, or a key is given.
      if (["network", "unauthorized"].includes(this.held?.type)) break;
    }
  }

  #hold(held) {
    if (!held && !this.held) return;
    this.held = held;
    this.dispatchEvent(new Event("held"));
  }

  // Takes what the service says of a photo's task.
  #take(photo, task) {
    photo.notice = null;
    photo.ahead = task.position ?? 0;
    // When it is begun, as far as known; null while no worker runs such tasks.
    photo.expected = task.expected_seconds == null ? task.expected_seconds : Date.now() + 1000 * task.expected_seconds;
    if (task.status === "queued") this.#set(photo, "queued");
    else if (task.status === "processing") {
      photo.began ??= Date.now();
      this.#set(photo, "processing");
    } else if (task.status === "succeeded") {
      Object.assign(photo, {
        model: task.model, cached: task.cached, width: task.width, height: task.height,
        // Of the work alone, without the wait for it.
        elapsed: task.started_at ? Date.parse(task.finished_at) - Date.parse(task.started_at) : task.elapsed_ms,
      });
      this.#bring(photo);
    } else if (task.status === "canceled") this.#stop(photo);
    else if (task.status === "expired") this.#fail(photo, { type: "task_expired", message: "" });
    else if (task.status === "failed") this.#fail(photo, task.error ?? { type: "unknown", message: "" });
  }

  async #bring(photo) {
    photo.began = null;
    const { signal } = (photo.controller = new AbortController());
    this.#set(photo, "fetching");
    try {
      const cutBlob = await this.#fetch(() => patiently(() => service.getResult(photo.taskId, signal), signal), nearness(photo));
      const { former } = photo;
      Object.assign(photo, { cutBlob, coming: null, former: null, box: undefined });
      this.#set(photo, "done");
      if (former) discard(former.taskId);
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(photo, error);
    }
  }

  #fail(photo, { type, message }) {
    photo.began = null;
    photo.notice = null;
    photo.error = { type: GONE[type] ?? type ?? "unknown", message: message ?? "" };
    this.#stop(photo, "failed");
  }

  // Ends a photo without a new cutout: it has its former one again, and of the try nothing stays on the service.
  #stop(photo, state = "canceled") {
    if (!photo.former) return this.#set(photo, state);
    const { taskId } = photo;
    Object.assign(photo, photo.former, { former: null, began: null, notice: null });
    this.#set(photo, "done");
    if (taskId && taskId !== photo.taskId) discard(taskId);
  }

  // Follows all tasks that are not final by one stream; begins anew when their number changes.
  #followAll() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.#followNow(), 60);
  }

  async #followNow() {
    this.#following?.abort();
    const { signal } = (this.#following = new AbortController());
    const pending = () => this.list.filter((each) => each.taskId && FOLLOWING.has(each.state));
    while (pending().length && !signal.aborted) {
      const ids = pending().slice(0, FOLLOWED).map((each) => each.taskId);
      const heard = new Set();
      try {
        await service.follow(ids, (task) => {
          heard.add(task.task_id);
          const photo = this.list.find((each) => each.taskId === task.task_id);
          if (photo && FOLLOWING.has(photo.state)) this.#take(photo, task);
        }, signal);
        // Without a place to wait in, the stream ends at once; what it leaves out is gone.
        for (const photo of pending()) {
          if (ids.includes(photo.taskId) && !heard.has(photo.taskId)) this.#fail(photo, { type: "gone", message: "" });
        }
        if (pending().length) await pause(1, signal);
      } catch (error) {
        if (error.name === "AbortError" || error.status === 401) return;
        await pause(2, signal).catch(() => {});
      }
    }
  }

  #show(photo, state) {
    photo.state = state;
    this.#emit("changed", photo);
  }

  #set(photo, state) {
    photo.state = state;
    this.keep(photo);
    this.#show(photo, state);
  }

  keep(photo) {
    return this.list.includes(photo) ? this.#write(photo) : undefined;
  }

  #write(photo) {
    const record = Object.fromEntries(KEPT.filter((name) => photo[name] !== undefined).map((name) => [name, photo[name]]));
    // Once the service has the picture, its own copy is enough.
    if (photo.taskId) delete record.file;
    return keep(record);
  }

  #emit(name, photo) {
    this.dispatchEvent(Object.assign(new Event(name), { photo }));
  }
}
