// Keeps in IndexedDB what the page has to find again after it was left.
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

// One record for each photo.
export const keep = (record) => run("photos", "readwrite", (store) => store.put(record));
export const forget = (id) => run("photos", "readwrite", (store) => store.delete(id));
export const kept = async () => (await run("photos", "readonly", (store) => store.getAll())) ?? [];

// The picture behind all photos, one for each owner. Tells whether it is kept.
export const keepBackground = async (owner, file) =>
  (await run("backgrounds", "readwrite", (store) => store.put({ id: owner, file }))) !== undefined;
export const keptBackground = async (owner) => (await run("backgrounds", "readonly", (store) => store.get(owner)))?.file ?? null;
