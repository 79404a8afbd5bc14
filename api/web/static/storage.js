// Keeps what the page has to find again after it was left: one record for each photo, in IndexedDB.
const STORE = "photos";
let opened;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("rmbg", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, act) {
  try {
    const transaction = (await open()).transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } catch {
    return undefined; // Private windows and full disks: the page works, and forgets.
  }
}

export const keep = (record) => run("readwrite", (store) => store.put(record));
export const forget = (id) => run("readwrite", (store) => store.delete(id));
export const kept = async () => (await run("readonly", (store) => store.getAll())) ?? [];
