// A photo's card: picture, state, and what can be done with it.
import { PREVIEW, decodeSmall, draw, plan, preparePreview, redoStrokes } from "./compose.js";
import { decodeOriginal, differs, isForeign } from "./originals.js";
import { busy, icon, iconButton, make, moveSplit, say, textButton } from "./elements.js";
import { RUNNING, hasCut, nearness, patiently } from "./photos.js";
import { bytes, duration, hasText, t } from "./texts.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Errors that the same picture meets again: another try would only disappoint.
export const FINAL = new Set([
  "image_too_large", "upload_too_large", "too_many_pixels", "side_too_long", "image_too_small", "unsupported_format",
  "invalid_image", "empty_image", "image_too_complex", "url_not_allowed", "expired", "gone",
]);

export function errorText({ type, message }, limits) {
  const name = `error_${type === "upload_too_large" ? "image_too_large" : type}`;
  if (!hasText(name)) return message || t("error_unknown", { message: type });
  return t(name, { size: limits ? bytes(limits.max_image_bytes) : "", megapixels: limits?.max_megapixels ?? "", side: limits?.max_side ?? "" });
}

// Returns why nothing is sent for now, and when it goes on.
export function holdText({ type, until }) {
  const name = `hold_${type}`;
  return t(hasText(name) ? name : "busy", { time: duration(Math.max(1, Math.ceil((until - Date.now()) / 1000))) });
}

export class Card {
  constructor(photo, photos, page) {
    Object.assign(this, { photo, photos, page, split: 0 });
    // The picture before and the result lie on each other; the slider only moves where each is cut off.
    this.before = make("canvas", { class: "before", "aria-hidden": "true" });
    this.after = make("canvas", { class: "after", role: "img", "aria-label": photo.name });
    this.range = make("input", {
      type: "range", min: 0, max: 100, value: 0, class: "split", "aria-label": t("split", { name: photo.name }),
      oninput: () => this.setSplit(Number(this.range.value)),
    });
    this.divider = make("span", { class: "divider", "aria-hidden": "true" });
    for (const event of ["pointerenter", "focus"]) this.range.addEventListener(event, () => this.askOriginal());
    this.frame = make("div", { class: "frame", "data-kind": /[^.]*$/.exec(photo.name)[0].slice(0, 5).toUpperCase() }, this.after, this.before, this.range, this.divider);
    this.meter = make("progress", { class: "meter", max: 100, "aria-label": photo.name });
    this.state = make("p", { class: "state" });
    this.acts = make("div", { class: "acts" });
    this.folder = make("span", { class: "folder" });
    this.element = make(
      "li", { class: "card", "data-id": photo.id },
      make("div", { class: "picture" }, this.frame, icon("warn"), this.meter),
      make("div", { class: "about" }, make("h2", { class: "name", title: photo.path }, this.folder, make("bdi", {}, photo.name)), this.state),
      this.acts,
    );
    this.element.card = photo.card = this;
    this.update();
  }

  // Tells photos of the same name apart: by their folders, and those of the same folder by a number.
  distinguish(among, number) {
    const { photo } = this;
    const folder = photo.path.slice(0, -photo.name.length);
    this.folder.textContent = among ? (number ? `${number} · ` : "") + folder : "";
    this.range.setAttribute("aria-label", t("split", { name: this.folder.textContent + photo.name }));
  }

  // Has pictures while it is near to what is seen, and gives their memory back when it is not.
  setNear(near, { width = 0 } = {}) {
    if (this.near === near) return;
    this.near = near;
    // As many pixels as the screen has for it, in steps: each one more is drawn and kept in memory.
    if (near) this.side = Math.min(PREVIEW, Math.ceil((width * devicePixelRatio) / 160) * 160 || PREVIEW);
    const { photo } = this;
    if (near) {
      this.showOriginal();
      if (hasCut(photo)) this.showCutout(false);
    } else {
      this.leaving?.abort();
      this.release();
    }
  }

  release() {
    const { photo } = this;
    if (this.page.isOpen(photo)) return;
    for (const name of ["small", "cutBase"]) {
      photo[name]?.close();
      photo[name] = undefined;
    }
    photo.cut = photo.blurred = null;
    this.element.classList.remove("shown");
    for (const canvas of [this.before, this.after]) canvas.width = canvas.height = 0;
  }

  // Shows the photo as it was. One that the browser cannot draw is drawn by the service, only if `ask`.
  async showOriginal({ ask = false } = {}) {
    const { photo } = this;
    try {
      if (!photo.file && !photo.taskId) return; // an address that the service has not fetched yet
      const small = await decodeOriginal(this.photos, photo, decodeSmall, { ask });
      if (!this.near) return small?.close();
      photo.small = small;
      photo.originalFault = null;
    } catch (error) {
      photo.small = null;
      if (ask) photo.originalFault = error;
    }
    this.frame.classList.toggle("blank", photo.small === null);
    if (photo.cutBase && photo.strokes.some((each) => !each.erase)) redoStrokes(photo);
    this.draw();
  }

  async askOriginal() {
    const { photo } = this;
    if (!hasCut(photo) || !isForeign(photo) || photo.drawing) return;
    const shown = this.showOriginal({ ask: true });
    this.update();
    await shown;
    this.update();
  }

  setSplit(value) {
    this.split = value;
    moveSplit(this.range, value);
    this.showSplit();
  }

  showSplit() {
    this.frame.style.setProperty("--split", hasCut(this.photo) && this.photo.cut ? this.split : 100);
  }

  async showCutout(reveal = true) {
    const { photo } = this;
    this.leaving?.abort();
    const { signal } = (this.leaving = new AbortController());
    try {
      await preparePreview(photo, await patiently(() => this.photos.cutout(photo, nearness(photo)), signal));
    } catch {
      return;
    }
    // Only now the size is known of what the service read.
    if (photo.small && photo.file && !photo.foreign && await differs(photo.file, photo.small, photo)) {
      photo.foreign = true;
      photo.small = null;
    }
    if (!this.near) return this.release();
    this.draw();
    if (reveal && !this.split) this.reveal();
    if (photo.small === undefined || (photo.url && !photo.small)) this.showOriginal();
  }

  // Sweeps from the photo to the cutout, once.
  reveal() {
    if (calm.matches || document.hidden || !this.photo.small) return this.setSplit(0);
    const began = performance.now();
    const step = (now) => {
      const share = Math.min(1, (now - began) / 700);
      this.setSplit(Math.round(100 * (1 - share) ** 3));
      if (share < 1) requestAnimationFrame(step);
    };
    this.setSplit(100);
    requestAnimationFrame(step);
  }

  draw() {
    if (!this.near) return;
    cancelAnimationFrame(this.frameId);
    this.frameId = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    const { photo } = this;
    const done = hasCut(photo) && photo.cut;
    // Until the cutout is there, the photo before would look as if it were the result.
    const shown = hasCut(photo) && !this.element.classList.contains("shown") ? photo.cut : done || photo.small;
    if (!this.near || !shown) return;
    const look = this.page.look;
    const width = done ? photo.width : photo.small.width;
    const height = done ? photo.height : photo.small.height;
    const layout = plan(width, height, done ? photo.box : null, done ? look : {});
    const parts = { cut: photo.cut, original: photo.small, photo };
    if (done) this.drawOn(this.after, layout, look, parts);
    if (done && look.background === "blur" && !photo.originalFault) this.askOriginal();
    this.before.hidden = !photo.small;
    if (photo.small) this.drawOn(this.before, layout, look, { ...parts, before: true });
    this.frame.style.setProperty("--ratio", layout.size[0] / layout.size[1]);
    this.showSplit();
    this.state.textContent = this.text();
    this.element.classList.toggle("shown", true);
  }

  drawOn(canvas, layout, look, parts) {
    const scale = Math.min(1, this.side / Math.max(...layout.size));
    const [w, h] = layout.size.map((each) => Math.max(1, Math.round(each * scale)));
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, w, h);
    pen.setTransform(w / layout.size[0], 0, 0, h / layout.size[1], 0, 0);
    draw(pen, layout, look, { ...parts, scale });
  }

  update() {
    const { photo, element } = this;
    const state = photo.state;
    const [before, cut] = [element.dataset.state, hasCut(photo)];
    if (before !== state || cut !== "cut" in element.dataset) {
      element.dataset.state = state;
      element.toggleAttribute("data-cut", cut);
      this.setActs(state);
      if (state === "done") {
        if (this.near) this.showCutout();
        say(t("spokenDone", { name: photo.name }));
      } else if (state === "failed") say(t("spokenFailed", { name: photo.name, why: this.page.errorText(photo.error) }));
      else if (before === "done" && !cut) this.draw();
    }
    this.range.hidden = this.divider.hidden = !cut;
    this.meter.hidden = !RUNNING.has(state);
    if (state === "uploading" && !photo.notice) this.meter.value = photo.percent ?? 0;
    else this.meter.removeAttribute("value");
    this.state.textContent = this.text();
    this.state.title = state === "done" ? photo.model ?? "" : "";
  }

  // Shows what time alone has changed.
  tick() {
    const text = this.text();
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  // Another window has changed the photo's touch-up.
  touched() {
    if (!this.photo.cutBase) return;
    redoStrokes(this.photo);
    this.draw();
  }

  text() {
    const { photo } = this;
    if (photo.notice && photo.state !== "failed") return holdText(photo.notice);
    switch (photo.state) {
      case "uploading": return t("uploading", { percent: photo.percent ?? 0 });
      case "queued": return this.queueText();
      case "processing": return t("processing", { seconds: ((Date.now() - (photo.began ?? Date.now())) / 1000).toFixed(1) });
      case "done": if (photo.drawing) return t("drawing");
        if (photo.originalFault) return t("noOriginal", { why: this.page.errorText(photo.originalFault) });
        if (photo.error) return t("formerCut", { why: this.page.errorText(photo.error) });
        if (photo.box === null) return this.withModel(t("nothingFound"), t("otherModel"));
        return this.withModel(t(photo.cached ? "cached" : "done", { seconds: ((photo.elapsed ?? 0) / 1000).toFixed(1) }), photo.model);
      case "failed": return this.page.errorText(photo.error);
      default: return t(photo.state);
    }
  }

  // Says more of the model where there are others.
  withModel(text, more) {
    return this.page.severalModels ? text + t("and") + more : text;
  }

  queueText() {
    const { ahead, expected } = this.photo;
    if (expected === null) return t("nobody");
    const place = ahead > 0 ? t("queued", { ahead }) : t("next");
    const seconds = Math.ceil(((expected ?? 0) - Date.now()) / 1000);
    return seconds > 1 ? t("expected", { place, time: duration(seconds) }) : place;
  }

  setActs(state) {
    const { photo, photos, page } = this;
    const focused = this.acts.contains(document.activeElement);
    const acts = [];
    if (hasCut(photo)) {
      const download = iconButton("download", t("download"), () => busy(download, () => page.download([photo])));
      acts.push(download);
      if (navigator.clipboard?.write) {
        const copy = iconButton("copy", t("copy"), () => busy(copy, () => page.copy(photo)));
        acts.push(copy);
      }
      acts.push(iconButton("brush", t("touch"), () => page.open(photo, "touch")));
      acts.push(iconButton("expand", t("open"), () => page.open(photo, "compare")));
    }
    if (state === "canceled" || (state === "failed" && !FINAL.has(photo.error?.type))) {
      acts.push(textButton(t("retry"), () => photos.retry(photo), "small-button"));
    }
    if (RUNNING.has(state)) {
      acts.push(textButton(t("cancel"), () => photos.cancel(photo), "quiet small-button"));
    } else {
      acts.push(iconButton("trash", t("remove"), () => this.remove(), "push"));
    }
    this.acts.replaceChildren(...acts);
    if (focused) acts[0].focus();
  }

  remove() {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    (next ?? document).querySelector(".acts button").focus();
    this.page.remove([this.photo]);
  }
}
