// Keeps in IndexedDB what the page has to find again after it was left, and keeps the windows of a
// browser in step: one tells the others whose record it has changed.
const opened = new Map();

function open(name) {
  if (!opened.has(name)) {
    opened.set(name, new Promise((resolve, reject) => {
      const request = indexedDB.open(name === "photos" ? "rmbg" : `rmbg-${name}`, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(name, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    }));
  }
  return opened.get(name);
}

async function run(name, mode, act) {
  try {
    const transaction = (await open(name)).transaction(name, mode);
    const request = act(transaction.objectStore(name));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } catch {
    return undefined; // Private windows and full disks: the page works, and forgets.
  }
}

// A text of the window or, by `localStorage`, of the browser. Where that is full or blocked, as with all
// cookies, the page itself knows it until it is left.
const texts = {};
export function recall(name, area = "sessionStorage") {
  try {
    return texts[name] ?? window[area].getItem(name);
  } catch {
    return null;
  }
}
export function remember(name, text, area = "sessionStorage") {
  texts[name] = text;
  try {
    window[area].setItem(name, text);
  } catch { /* see above */ }
}

const channel = new BroadcastChannel("rmbg-photos");

// One record for each photo; the other windows are told of each change.
export async function keep(record) {
  await run("photos", "readwrite", (store) => store.put(record));
  channel.postMessage(record.id);
}
export async function forget(id) {
  await run("photos", "readwrite", (store) => store.delete(id));
  channel.postMessage(id);
}
export const kept = async () => (await run("photos", "readonly", (store) => store.getAll())) ?? [];
export const keptOne = (id) => run("photos", "readonly", (store) => store.get(id));
// Calls back with the id of each record that another window has changed.
export const onChange = (act) => channel.addEventListener("message", ({ data }) => act(data));

// Acts for a photo while no other window does. Browsers have locks on secure origins only, and if they keep
// anything. Elsewhere two windows may both send it, and the idempotency key makes one task of that.
const locks = await navigator.locks?.query().then(() => navigator.locks, () => null);
export function alone(id, signal, act) {
  return locks ? locks.request(`rmbg-photo-${id}`, { signal }, act) : act();
}

// The picture behind all photos, one for each owner. Tells whether it is kept.
export const keepBackground = async (owner, file) =>
  (await run("backgrounds", "readwrite", (store) => store.put({ id: owner, file }))) !== undefined;
export const keptBackground = async (owner) => (await run("backgrounds", "readonly", (store) => store.get(owner)))?.file ?? null;
