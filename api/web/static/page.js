// The page: takes photos in, shows their cards, and hands the results out.
import { Card, errorText } from "./card.js";
import { extensionOf, makeFile, sameIn } from "./compose.js";
import { byId, icon, save, say, toast, translate } from "./elements.js";
import { keyDialog } from "./key.js";
import { Layers } from "./layers.js";
import { LookForm } from "./look.js";
import { Photos, RUNNING } from "./photos.js";
import { call, readKey } from "./service.js";
import { bytes, t } from "./texts.js";
import { Viewer } from "./viewer.js";
import { fileNames, zip } from "./zip.js";

const PICTURES = /\.(jpe?g|png|webp|avif|tiff?|bmp|gif|hei[cf])$/i;
const photos = new Photos();
let limits = null;
const layers = new Layers(reopen);

const page = {
  get look() { return form.look; },
  errorText: (error) => errorText(error ?? {}, limits),
  open: (photo, mode) => viewer.open(photo, mode),
  layers,
  drawn: (photo) => history.state?.photo === photo.id && !viewer.photo && reopen(history.state),
  download,
  copy,
};

translate();
byId("close-look").append(icon("close"));
byId("more").prepend(icon("plus"));
const form = new LookForm(drawAll, (again) => {
  photos.options = { ...form.options };
  if (again) {
    form.again.hidden = true;
    photos.list.filter((each) => !RUNNING.has(each.state)).forEach((each) => photos.retry(each));
  }
});
const viewer = new Viewer(byId("viewer"), photos, page);

function drawAll() {
  for (const photo of photos.list) photo.card.draw();
}

photos.addEventListener("added", ({ photo }) => {
  const card = new Card(photo, photos, page);
  byId("grid").append(card.element);
  summarize();
});
photos.addEventListener("changed", ({ photo }) => {
  photo.card?.update();
  summarize();
});
photos.addEventListener("removed", ({ photo }) => {
  photo.card.element.remove();
  summarize();
});

// Seconds of running photos tick, while there are any.
setInterval(() => {
  for (const photo of photos.list) if (photo.state === "processing") photo.card.update();
}, 100);

function summarize() {
  const count = (state) => photos.list.filter((each) => each.state === state).length;
  const [all, done, failed] = [photos.list.length, count("done"), count("failed")];
  document.body.classList.toggle("empty", all === 0);
  byId("sum").hidden = all === 0;
  byId("sum").textContent = t(failed ? "sumFailed" : "sum", { all, done, failed });
  for (const id of ["download-all", "download-all-dock"]) byId(id).disabled = done === 0 || page.packing;
}

// Taking photos in.

function take(files) {
  const chosen = files.filter(({ file, folder }) => !folder || PICTURES.test(file.name));
  const left = files.length - chosen.length;
  if (left) toast(t("leftOut", { count: left }));
  photos.add(chosen);
}

function fromInput(input, folder) {
  take([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name, folder })));
  input.value = "";
}

async function readEntry(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: path + file.name, folder: path !== "" }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const each of some) found.push(...(await readEntry(each, `${path}${entry.name}/`)));
  }
}

async function fromTransfer(data) {
  const entries = [...data.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const text = data.getData("text/uri-list") || data.getData("text/plain");
  if (!entries.length) return addAddresses(text.split("\n").filter((line) => !line.startsWith("#")).join("\n"));
  const files = [];
  for (const entry of entries.filter(Boolean)) {
    if (entry instanceof File) files.push({ file: entry, path: entry.name });
    else files.push(...(await readEntry(entry).catch(() => [])));
  }
  take(files);
  return true;
}

// Returns the file name of an address as people read it, or as it is written where that is no UTF-8.
function nameOf(url) {
  const name = url.pathname.split("/").pop();
  try {
    return decodeURIComponent(name) || url.hostname;
  } catch {
    return name;
  }
}

// Adds photos by address, one a line; returns a line that is none.
function addAddresses(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const wrong = lines.find((line) => !/^https?:\/\/\S+$/i.test(line) || !URL.canParse(line));
  if (wrong !== undefined || !lines.length) return wrong ?? "";
  photos.add(lines.map((url) => ({ url, path: nameOf(new URL(url)) })));
  return null;
}

byId("choose").onclick = byId("more").onclick = () => byId("files").click();
byId("choose-folder").onclick = () => byId("folder").click();
byId("files").onchange = () => fromInput(byId("files"), false);
byId("folder").onchange = () => fromInput(byId("folder"), true);

let inside = 0;
const carries = (event) => event.dataTransfer && !event.dataTransfer.types.every((type) => type === "text/html");
addEventListener("dragenter", (event) => {
  if (carries(event)) byId("over").classList.toggle("shown", ++inside > 0);
});
addEventListener("dragleave", () => byId("over").classList.toggle("shown", (inside = Math.max(0, inside - 1)) > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  byId("over").classList.remove("shown");
  fromTransfer(event.dataTransfer);
});
addEventListener("paste", (event) => {
  if (event.target.closest?.("input, textarea")) return;
  fromTransfer(event.clipboardData);
});

byId("by-address").onclick = () => byId("address-dialog").showModal();
byId("address-cancel").onclick = () => byId("address-dialog").close();
byId("address-form").onsubmit = (event) => {
  event.preventDefault();
  const wrong = addAddresses(byId("addresses").value);
  byId("address-fault").textContent = wrong === null ? "" : t("addressWrong", { line: wrong });
  if (wrong !== null) return;
  byId("addresses").value = "";
  byId("address-dialog").close();
};

// Handing results out.

async function make1(photo, look) {
  try {
    return await makeFile(photos, photo, look);
  } catch (error) {
    const why = error.type ? page.errorText(error) : t("drawFailed");
    toast(t("downloadFailed", { name: photo.name, why }));
    return null;
  }
}

async function download(chosen) {
  for (const photo of chosen) {
    const blob = await make1(photo, page.look);
    if (blob) save(blob, fileNames([{ path: photo.name }], extensionOf(blob))[0]);
  }
}

async function copy(photo) {
  try {
    const png = makeFile(photos, photo, sameIn("png", page.look));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
    toast(t("copied"));
  } catch {
    toast(t("copyFailed"));
  }
}

async function downloadAll() {
  const done = photos.list.filter((each) => each.state === "done");
  const buttons = [byId("download-all"), byId("download-all-dock")];
  page.packing = true;
  summarize();
  async function* files() {
    const taken = { png: [], webp: [], jpg: [] };
    for (const [at, photo] of done.entries()) {
      for (const button of buttons) button.textContent = t("packing", { done: at + 1, all: done.length });
      const blob = await make1(photo, page.look);
      if (!blob) continue;
      const extension = extensionOf(blob);
      taken[extension].push(photo);
      yield { name: fileNames(taken[extension], extension).pop(), blob };
    }
  }
  try {
    if (done.length === 1) await download(done);
    else save(await zip(files()), "cutouts.zip");
  } catch (error) {
    toast(t(error instanceof RangeError ? "tooLargeZip" : "drawFailed"));
  } finally {
    page.packing = false;
    for (const button of buttons) button.textContent = t("downloadAll");
    summarize();
  }
}

byId("download-all").onclick = byId("download-all-dock").onclick = downloadAll;
byId("clear").onclick = () => {
  for (const photo of [...photos.list]) photos.remove(photo);
  byId("choose").focus();
};

// The look's sheet on narrow screens.

let leaveLook = () => {};
function showLook(shown) {
  if (shown) leaveLook = layers.enter(() => showLook(false), { look: true });
  else leaveLook();
  document.body.classList.toggle("look-shown", shown);
  byId("open-look").setAttribute("aria-expanded", shown);
  (shown ? byId("close-look") : byId("open-look")).focus();
}
byId("open-look").onclick = () => showLook(!document.body.classList.contains("look-shown"));
byId("close-look").onclick = () => showLook(false);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.classList.contains("look-shown")) showLook(false);
});

// Who asks.

keyDialog({
  title: t("keyTitle"),
  why: t("keyWhy"),
  use(key, former) {
    if (key !== former) {
      photos.forgetAll();
      form.look.picture = null;
    }
    return start();
  },
});

async function start() {
  form.build({});
  try {
    const info = await call("GET", "info");
    limits = photos.limits = info.limits;
    byId("open-key").hidden = !readKey();
    byId("ops").hidden = !info.operator;
    byId("limits").textContent = t("limits", {
      formats: info.input_formats.map((each) => each.toUpperCase()).join(", "), size: bytes(limits.max_image_bytes),
      megapixels: limits.max_megapixels,
    });
    form.build(info);
  } catch (error) {
    if (error.status === 401) return;
    toast(page.errorText(error));
  }
  form.bringPicture();
  const found = await photos.restore();
  if (found) say(t("found", { count: found }));
}

// Opens the photo of an entry of the history: at a reload, or as Forward comes to it. One that is not
// drawn yet follows when it is.
function reopen({ photo: id, mode, look }) {
  if (look) return matchMedia("(max-width: 820px)").matches && showLook(true);
  const photo = photos.list.find((each) => each.id === id);
  if (!photo) history.replaceState(null, "");
  else if (photo.state === "done" && photo.cut) viewer.open(photo, mode);
  return undefined;
}

await start();
if (history.state) reopen(history.state);
document.documentElement.dataset.ready = "yes";
