// The page: takes photos in, shows their cards, and hands the results out.
import { Card, FINAL, errorText, holdText } from "./card.js";
import { extensionOf, makeFile, preparePreview, sameIn } from "./compose.js";
import { byId, icon, keepFocus, make, save, say, toast, translate } from "./elements.js";
import { keyDialog } from "./key.js";
import { Layers } from "./layers.js";
import { LookForm } from "./look.js";
import { Photos, RUNNING, UNDO_MS, hasCut } from "./photos.js";
import { call, readKey } from "./service.js";
import { bytes, t } from "./texts.js";
import { Viewer } from "./viewer.js";
import { fileNamer, zip } from "./zip.js";

const PICTURES = /\.(jpe?g|png|webp|avif|tiff?|bmp|gif|hei[cf]|jpe|jfif|mpo|apng|dib)$/i;
const photos = new Photos();
const downloads = [byId("download-all"), byId("download-all-dock")];
let limits = null;
const layers = new Layers(reopen);
// Whether the service did not answer when it was asked about itself.
let away = false;

const page = {
  get look() { return form.look; },
  severalModels: false,
  errorText: (error) => errorText(error ?? {}, limits),
  open: (photo, mode) => viewer.open(photo, mode),
  isOpen: (photo) => viewer.photo === photo,
  remove,
  layers,
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
    cutAgain().forEach((each) => photos.retry(each));
  }
});
const viewer = new Viewer(byId("viewer"), photos, page);

function drawAll() {
  for (const photo of photos.list) photo.card.draw();
}

// Only cards near to what is seen have their pictures in memory.
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting, boundingClientRect } of entries) target.card.setNear(isIntersecting, boundingClientRect);
}, { rootMargin: "50% 0px" });

photos.addEventListener("added", ({ photo }) => {
  const { element } = photo.card ?? new Card(photo, photos, page);
  const next = photos.list[photos.list.indexOf(photo) + 1]?.card.element ?? null;
  byId("grid").insertBefore(element, next);
  near.observe(element);
  distinguish(photo.name);
  summarizeSoon();
});
photos.addEventListener("changed", ({ photo }) => {
  photo.card?.update();
  summarizeSoon();
});
photos.addEventListener("touched", ({ photo }) => photo.card.touched());
photos.addEventListener("removed", ({ photo }) => {
  near.unobserve(photo.card.element);
  photo.card.setNear(false);
  photo.card.element.remove();
  distinguish(photo.name);
  summarizeSoon();
});
photos.addEventListener("held", tellState);

// Tells photos of one name apart.
function distinguish(name) {
  const equal = photos.list.filter((each) => each.name === name);
  for (const each of equal) {
    const same = equal.filter(({ path }) => path === each.path);
    each.card.distinguish(equal.length > 1, same.length > 1 && same.indexOf(each) + 1);
  }
}

// What changes with time alone, while there is any: seconds that run, and those until it goes on.
setInterval(() => {
  for (const photo of photos.list) if (photo.state === "processing" || photo.state === "queued" || photo.notice) photo.card.tick();
  if (photos.held) tellState();
}, 100);

let summarizing = 0;
function summarizeSoon() {
  summarizing ||= requestAnimationFrame(summarize);
}

function summarize() {
  summarizing = 0;
  if (page.waiting && !running().length) downloadAll();
  const count = (state) => photos.list.filter((each) => each.state === state).length;
  const [done, failed, canceled] = [count("done"), count("failed"), count("canceled")];
  const all = photos.list.length - canceled;
  const more = [failed && t("countFailed", { failed }), canceled && t("countCanceled", { canceled })].filter(Boolean);
  document.body.classList.toggle("empty", photos.list.length === 0);
  byId("sum").hidden = photos.list.length === 0;
  // A line ends between the counts, never within one.
  const parts = [t("sum", { all, done }), ...more];
  byId("sum").replaceChildren(...parts.flatMap((part, at) => [make("span", {}, part + (at + 1 < parts.length ? t("and").trim() : "")), " "]));
  document.title = done + failed < all ? `${done}/${all} · ${t("pageTitle")}` : t("pageTitle");
  const again = retriable().length;
  byId("retry-all").hidden = again < 2;
  byId("retry-all").textContent = t("retryAll", { count: again });
  byId("cancel-all").hidden = running().length < 2;
  if (form.again) {
    const count = cutAgain().length;
    form.again.textContent = t("edgesAgain", { count });
    form.again.disabled = !count;
  }
  const ready = photos.list.filter(hasCut).length;
  for (const button of downloads.filter(() => !page.packing)) {
    button.disabled = ready === 0;
    button.textContent = page.waiting ? t("waitingFor", { count: running().length })
      : ready && ready < photos.list.length ? t("downloadSome", { count: ready, all: photos.list.length }) : t("downloadAll");
  }
  tellLeft();
  keepFocus(byId(photos.list.length ? "photos" : "choose"));
}

const running = () => photos.list.filter(({ state }) => RUNNING.has(state));
const retriable = () => photos.list.filter(({ state, error }) => state === "canceled" || (state === "failed" && !FINAL.has(error?.type)));
const cutAgain = () => [...photos.list.filter(({ state }) => state === "done"), ...retriable()];
byId("retry-all").onclick = () => retriable().forEach((photo) => photos.retry(photo));
byId("cancel-all").onclick = () => running().forEach((photo) => photos.cancel(photo));

// Says above the photos what keeps all of them from going on, and what to do.
function tellState() {
  const held = photos.held?.until > Date.now() ? photos.held : null;
  let text = "";
  if (!navigator.onLine) text = t("offline");
  else if (away || held?.type === "network") text = t("away");
  else if (held?.type === "unauthorized") text = t("hold_unauthorized");
  else if (held) text = t("holding", { why: holdText(held) });
  const shown = byId("banner-text");
  if (shown.textContent !== text) shown.textContent = text;
  byId("banner").hidden = !text;
  byId("banner-key").hidden = held?.type !== "unauthorized";
}
addEventListener("online", tellState);
addEventListener("offline", tellState);

// Taking photos in.

function take(files) {
  const chosen = files.filter(({ file, folder }) => !folder || PICTURES.test(file.name));
  const left = files.length - chosen.length;
  if (left) toast(t("leftOut", { count: left }));
  add(chosen);
}

// Adds photos and brings the first of them into sight, unless somebody looks at another or types.
function add(sources) {
  photos.add(sources);
  const first = photos.list.at(-sources.length);
  if (!sources.length || viewer.photo || document.activeElement?.matches("#look-form :is([type=number], [type=text])")) return;
  summarize(); // the list may still be hidden
  first.card.element.scrollIntoView({ block: "nearest" });
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
  add(lines.map((url) => ({ url, path: nameOf(new URL(url)) })));
  return null;
}

// The same ways on the empty page and behind the button above the photos.
for (const each of document.querySelectorAll("[data-add]")) {
  each.addEventListener("click", () => {
    byId("ways").hidePopover?.();
    if (each.dataset.add === "address") byId("address-dialog").showModal();
    else byId(each.dataset.add).click();
  });
}
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

// Returns the file of a photo; null, after saying why, if it cannot be made.
async function makeOrSay(photo, look) {
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
    const blob = await makeOrSay(photo, page.look);
    if (blob) save(blob, fileNamer()(photo.name, extensionOf(blob)));
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

// Whether a photo's cutout shows nothing; one that was not drawn yet is looked at.
async function isEmpty(photo) {
  try {
    if (photo.box === undefined) await preparePreview(photo, await photos.cutout(photo));
  } catch {
    return false; // what is wrong is told as its file is made
  }
  if (!photo.card.near) photo.card.release();
  return photo.box === null && photo.strokes.every((each) => each.erase);
}

// Packs all cutouts that are there, and tells what is not among them and why.
async function downloadAll() {
  page.waiting = false;
  const done = photos.list.filter(hasCut);
  if (!done.length) return;
  const name = fileNamer();
  const fetched = new Set();
  const left = photos.list.filter((each) => !hasCut(each)).map(({ path, state }) => [path, RUNNING.has(state) ? "running" : state]);
  page.packing = true;
  for (const button of downloads) button.ariaBusy = "true"; // not disabled: it keeps the focus
  async function* files() {
    for (const [at, photo] of done.entries()) {
      for (const button of downloads) {
        button.textContent = t("packing", { done: at + 1, all: done.length });
        button.style.setProperty("--done", `${(100 * at) / done.length}%`);
      }
      // While one is drawn, the next one comes.
      for (const each of done.slice(at, at + 2).filter((one) => !one.cutBlob)) {
        fetched.add(each);
        photos.cutout(each).catch(() => {});
      }
      const empty = await isEmpty(photo);
      const blob = empty ? null : await makeOrSay(photo, page.look);
      // What is fetched for the archive alone is not kept in memory beside it.
      if (fetched.has(photo) && !photo.card.near) photo.cutBlob = null;
      if (blob) yield { name: name(photo.path, extensionOf(blob)), blob };
      else left.push([photo.path, empty ? "empty" : "unmade"]);
    }
  }
  try {
    if (done.length === 1) await download(done);
    else {
      const archive = await zip(files());
      if (left.length < photos.list.length) save(archive, "cutouts.zip");
    }
    const names = left.slice(0, 5).map(([path, why]) => `${path} (${t(`left_${why}`)})`).join(t("and"));
    if (left.length) toast(t("notPacked", { names: left.length > 5 ? `${names} …` : names, count: left.length }), { seconds: 20 });
  } catch (error) {
    toast(t(error instanceof RangeError ? "tooLargeZip" : "drawFailed"));
  } finally {
    page.packing = false;
    for (const button of downloads) button.ariaBusy = null;
    summarize();
  }
}

// Asks, while some still run, whether to wait for them; a second click ends the waiting.
for (const button of downloads) {
  button.onclick = () => {
    if (page.packing) return undefined;
    if (page.waiting) {
      page.waiting = false;
      return summarize();
    }
    if (!running().length) return downloadAll();
    return byId("some").showModal();
  };
}
function tellLeft() {
  const count = photos.list.filter(hasCut).length;
  byId("some-title").textContent = t("someTitle", { count, all: photos.list.length });
  byId("some-why").textContent = t("someWhy", { count: running().length });
  byId("some-take").textContent = t("someTake", { count });
}
byId("some-form").onsubmit = ({ submitter }) => {
  page.waiting = submitter.value === "wait";
  if (submitter.value === "take") downloadAll();
  summarize();
};

// Removes photos, with some seconds to think better of it.
function remove(chosen) {
  const running = chosen.filter((each) => RUNNING.has(each.state)).length;
  const back = photos.remove(chosen);
  summarize(); // the list may be hidden from now on, or shown again
  const undo = () => {
    back();
    summarize();
    chosen[0].card.element.querySelector(".acts button").focus();
  };
  const text = t("removed", { count: chosen.length, name: chosen[0].name });
  const more = running ? t(chosen.length > 1 ? "removedRunning" : "removedRunningOne", { count: running }) : "";
  toast([text, more].filter(Boolean).join(" "), { act: undo, label: t("undo"), seconds: UNDO_MS / 1000 });
}

byId("clear").onclick = () => remove([...photos.list]);

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

const askKey = keyDialog({
  title: t("keyTitle"),
  why: t("keyWhy"),
  use(key, former, refused) {
    if (key !== former) form.look.picture = null;
    // Where the service has refused the former one, the same person goes on with another.
    if (refused && photos.list.length) photos.changeKey();
    else if (key !== former) photos.forgetAll();
    return start();
  },
});
byId("banner-key").onclick = () => askKey();

async function start() {
  if (!limits && !away) form.build({});
  let refused = false;
  try {
    await learn();
  } catch (error) {
    // There is something to be seen meanwhile, without a key too.
    refused = error.status === 401;
    away = !refused;
    if (away) setTimeout(start, 3000);
  }
  tellState();
  if (!refused) form.bringPicture();
  const found = await photos.restore({ sent: !refused });
  if (found) say(t("found", { count: found }));
  if (history.state && !viewer.photo) reopen(history.state);
}

// Asks the service for its limits, models and presets.
async function learn() {
  const info = await call("GET", "info");
  away = false;
  limits = photos.limits = info.limits;
  byId("open-key").hidden = !readKey();
  byId("ops").hidden = !info.operator;
  byId("limits").textContent = t("orPaste") + t("limits", {
    formats: info.input_formats.map((each) => each.toUpperCase()).join(", "), size: bytes(limits.max_image_bytes),
    megapixels: limits.max_megapixels,
  });
  page.severalModels = info.models.length > 1;
  form.build(info);
  summarize();
}

// Opens the photo of an entry of the history, at a reload or as Forward comes to it: at once or not at all.
function reopen({ photo: id, mode, look }) {
  if (look) return matchMedia("(max-width: 820px)").matches && showLook(true);
  const photo = photos.list.find((each) => each.id === id);
  if (photo && hasCut(photo)) viewer.open(photo, mode);
  else history.replaceState(null, "");
  return undefined;
}

await start();
document.documentElement.dataset.ready = "yes";
