// The photo itself, as a picture that this browser draws: of the file that was submitted or, where the
// browser does not read that as the service does, of the JPEG that the service makes of it.
import { limiter, patiently } from "./photos.js";
import * as service from "./service.js";

// At full size, so that what is brushed back is as sharp in the file as on the screen.
const AS_JPEG = Object.freeze({ output: "original", output_format: "jpg", matte_color: "white" });
const WAIT_SECONDS = 30;
const asking = limiter(2);

// Whether the photo cannot be drawn unless the service is asked for it.
export const isForeign = (photo) => photo.foreign === true && !photo.drawn && !photo.drawnTask;

// Decodes a photo by `decode`; the service is asked for a JPEG of a foreign one only if `ask` is set.
// Returns null where it would have to be asked.
export async function decodeOriginal(photos, photo, decode, { ask = true } = {}) {
  if (!photo.foreign) {
    const file = await photos.original(photo);
    const picture = await decode(file, photo).catch((error) => {
      if (photo.small) throw error; // the browser reads it, and lacks memory for its full size
    });
    if (picture && !(await differs(file, picture, photo))) return picture;
    photo.foreign = true;
  }
  if (!ask && isForeign(photo)) return null;
  photo.drawing ??= asking(() => bring(photos, photo)).finally(() => (photo.drawing = null));
  return decode(await photo.drawing, photo);
}

// Whether the browser draws a photo otherwise than the service. It may turn it otherwise: of a WebP, for
// one, it does not heed the EXIF data.
export async function differs(file, picture, { width, height }) {
  if (!width) return false; // not known yet
  if (Math.abs((picture.width * height) / width - picture.height) > 1.5) return true;
  const head = new Uint8Array(await file.slice(0, 21).arrayBuffer());
  return String.fromCharCode(...head.subarray(8, 16)) === "WEBPVP8X" && (head[20] & 8) > 0;
}

async function bring(photos, photo) {
  const { signal } = new AbortController();
  photo.drawn ??= await former(photo, signal) ?? await anew(photos, photo, signal);
  return photo.drawn;
}

// Returns what an earlier visit asked for, while the service has it.
async function former(photo, signal) {
  if (!photo.drawnTask) return null;
  try {
    return await patiently(() => service.getResult(photo.drawnTask, signal), signal);
  } catch (error) {
    if (error.status !== 404 && error.status !== 410) throw error;
    photo.drawnTask = null;
    return null;
  }
}

async function anew(photos, photo, signal) {
  const file = await photos.original(photo);
  const source = { id: `${photo.id}-original`, attempt: Date.now(), name: photo.name, file };
  const sending = { signal, progress() {}, keep() {} };
  let task = await patiently(() => service.submit(source, AS_JPEG, sending), signal);
  if (!photos.list.includes(photo)) { // removed meanwhile
    service.eraseTask(task.task_id).catch(() => {});
    throw new service.ServiceError("gone", "");
  }
  photo.drawnTask = task.task_id;
  photos.keep(photo);
  while (["queued", "processing"].includes(task.status)) {
    task = await patiently(() => service.call("GET", `tasks/${task.task_id}?wait=${WAIT_SECONDS}`, { signal }), signal);
  }
  if (task.status === "succeeded") return patiently(() => service.getResult(task.task_id, signal), signal);
  photo.drawnTask = null;
  throw new service.ServiceError(task.error?.type ?? "gone", task.error?.message ?? "");
}
