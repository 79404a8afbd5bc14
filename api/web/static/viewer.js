// One photo large: before and after, zoom, touch-up of its alpha with a brush, and its neighbours.
import { applyStroke, canvasOf, decodeFull, draw, findBox, plan, redoStrokes, solid } from "./compose.js";
import { busy, icon, iconButton, make, moveSplit, textButton, toast } from "./elements.js";
import { decodeOriginal, isForeign } from "./originals.js";
import { hasCut } from "./photos.js";
import { t } from "./texts.js";

const MAX_ZOOM = 16;
// Sides of the copy in which the subject's box is looked for; the file's is of all pixels.
const BOX_SIDE = 1024;
// As on the cards: the handle's radius, and its least distance from a rim, in CSS pixels.
const HANDLE = 15;
const INSET = 20;

export class Viewer {
  constructor(dialog, photos, page) {
    Object.assign(this, { dialog, photos, page, brush: { erase: true, size: 6, softness: 40 }, version: 0 });
    this.#renew();
    this.name = make("h2", { id: "viewer-name" });
    this.canvas = make("canvas", { tabIndex: 0, role: "img" });
    this.split = make("input", { type: "range", min: 0, max: 100, step: "any", class: "viewer-split", oninput: () => this.#setSplit(this.split.value) });
    this.zoomText = make("output", { class: "zoom" });
    this.tabs = ["compare", "touch"].map((mode) =>
      make("button", { class: "tab", "data-mode": mode, onclick: () => this.setMode(mode) }, icon(mode === "touch" ? "brush" : "compare"), make("span", {}, t(mode))));
    this.brushBar = this.#brushBar();
    this.note = make("p", { class: "bar-row note", role: "status" });
    this.splitBar = make("label", { class: "bar-row" }, make("span", {}, t("after")), this.split, make("span", {}, t("before")));
    this.steps = [["previous", -1], ["next", 1]].map(([name, by]) => iconButton(name, t(`${name}Photo`), () => this.step(by)));
    const download = iconButton("download", t("download"), () => busy(download, () => page.download([this.photo])));
    dialog.append(
      make("header", {}, this.name, make("div", { class: "tabs" }, ...this.tabs),
        make("div", { class: "viewer-acts" }, ...this.steps, download, iconButton("close", t("close"), () => dialog.close()))),
      make("div", { class: "stage" }, this.canvas,
        make("div", { class: "zooms" }, iconButton("minus", t("zoomOut"), () => this.zoomBy(1 / 1.5)), this.zoomText,
          iconButton("plus", t("zoomIn"), () => this.zoomBy(1.5)), iconButton("expand", t("fit"), () => this.fit()))),
      make("footer", {}, this.splitBar, this.brushBar, this.note),
    );
    dialog.addEventListener("close", () => this.#closed());
    for (const name of ["changed", "removed"]) photos.addEventListener(name, () => this.photo && this.#showSteps());
    this.#listen();
    new ResizeObserver(() => this.photo && this.fit()).observe(this.canvas.parentElement);
  }

  #brushBar() {
    const kinds = [["keepBrush", false], ["eraseBrush", true]].map(([name, erase]) => {
      const input = make("input", { type: "radio", name: "brush", value: name, checked: erase, onchange: () => (this.brush.erase = erase) });
      return make("label", { class: "tab" }, input, make("span", {}, t(name)));
    });
    this.kinds = kinds;
    const slider = (name, min, max) =>
      make("label", { class: "field" }, make("span", {}, t(name)),
        make("input", { type: "range", min, max, value: this.brush[name], id: `brush-${name}`, oninput: (event) => { this.brush[name] = Number(event.target.value); this.#showCursor(); } }));
    [this.undoButton, this.redoButton] = ["undo", "redo"].map((id) =>
      make("button", { class: "button small-button", id, onclick: () => this[id]() }, icon(id), make("span", {}, t(id))));
    this.resetButton = textButton(t("startOver"), () => this.undo(true), "quiet small-button", { id: "start-over" });
    return make("div", { class: "bar-row brushes" }, make("div", { class: "tabs" }, ...kinds), slider("size", 1, 30), slider("softness", 0, 100),
      make("div", { class: "group" }, this.undoButton, this.redoButton, this.resetButton), make("p", { class: "note keys" }, t("brushKeys")));
  }

  open(photo, mode) {
    this.dialog.showModal();
    this.left = this.page.layers.enter(() => this.dialog.close(), { photo: photo.id, mode });
    this.canvas.focus();
    return this.#show(photo, mode);
  }

  step(by) {
    const photo = this.#neighbour(by);
    if (!photo) return;
    this.#leave();
    this.#show(photo, this.mode);
    if (!this.dialog.querySelector(":focus:enabled")) this.canvas.focus();
  }

  #neighbour(by) {
    const done = this.photos.list.filter((each) => each === this.photo || hasCut(each));
    return done[done.indexOf(this.photo) + by];
  }

  #showSteps() {
    for (const [at, by] of [-1, 1].entries()) this.steps[at].disabled = !this.#neighbour(by);
  }

  // Shows a photo at once with the small pictures, if its card has them, then with those of full size.
  async #show(photo, mode) {
    const visit = {};
    Object.assign(this, { photo, visit, cut: photo.cut, base: photo.cutBase, original: photo.small, box: photo.box, stroke: null, cursor: null, view: null });
    this.#renew();
    const folder = photo.card.folder.textContent;
    this.name.replaceChildren(make("span", { class: "folder" }, folder), make("bdi", {}, photo.name));
    this.name.title = photo.path;
    this.split.setAttribute("aria-label", t("split", { name: folder + photo.name }));
    this.#setSplit(0);
    this.#showSteps();
    this.canvas.parentElement.ariaBusy = this.cut ? null : "true";
    if (!this.cut) this.canvas.width = 1;
    this.setMode(mode);
    const original = this.#bringOriginal(photo, visit);
    try {
      const base = await this.photos.cutout(photo).then(decodeFull);
      if (this.visit !== visit) return base.close();
      Object.assign(this, { base, full: true });
      this.#redo();
      this.canvas.parentElement.ariaBusy = null;
      if (!this.view) this.setMode(this.mode);
    } catch {
      if (this.visit !== visit) return undefined;
      toast(t("error_network"));
      if (!this.cut) return this.dialog.close();
    }
    await original;
    if (this.visit === visit && this.full) this.dialog.dataset.ready = photo.id;
    return undefined;
  }

  async #bringOriginal(photo, visit) {
    const foreign = isForeign(photo);
    this.note.textContent = foreign ? t("drawing") : "";
    try {
      const original = await decodeOriginal(this.photos, photo, decodeFull);
      if (photo.foreign) photo.card.showOriginal();
      if (this.visit !== visit) return original.close();
      this.original = original;
      this.note.textContent = "";
    } catch (error) {
      if (this.visit === visit) this.note.textContent = t("noOriginal", { why: this.page.errorText(error) });
    }
    if (this.visit !== visit) return undefined;
    if (this.full) this.#redo();
    else this.#changed();
    return this.#showControls();
  }

  #closed() {
    const { photo } = this;
    this.#leave();
    this.left();
    const opener = t(this.mode === "touch" ? "touch" : "open");
    [...photo.card.element.querySelectorAll(".acts button")].find((each) => each.title === opener)?.focus();
  }

  // Keeps what was done to the photo, and gives its pictures back.
  #leave() {
    const { photo } = this;
    this.#end();
    this.photo = this.visit = null;
    delete this.dialog.dataset.ready;
    if (this.full) this.base.close();
    if (this.original !== photo.small) this.original?.close();
    Object.assign(this, { full: false, base: null, original: null, cut: null });
    this.#renew();
    if (photo.cutBase) redoStrokes(photo);
    if (photo.card.near) photo.card.draw();
    else {
      photo.card.release();
      photo.cutBlob = null;
    }
    this.photos.keep(photo);
  }

  #redo() {
    const { base, photo } = this;
    if (!base) return this.#changed(); // it is on its way, and comes with all strokes
    this.cut = canvasOf(base.width, base.height, base);
    for (const stroke of photo.strokes) this.#apply(this.cut, stroke);
    return this.#changed();
  }

  #apply(canvas, stroke) {
    if (canvas && (stroke.erase || this.original)) applyStroke(canvas, stroke, this.original, canvas.width / this.photo.width);
  }

  #setSplit(value) {
    moveSplit(this.split, value);
    this.paint();
  }

  #changed() {
    this.version += 1;
    this.box = undefined;
    this.#showControls();
    this.paint();
  }

  // Forgets what was drawn for the screen.
  #renew() {
    this.version += 1;
    Object.assign(this, { layers: {}, copies: {}, scratch: null });
  }

  undo(all = false) {
    const { strokes } = this.photo;
    if (!strokes.length) return;
    this.photo.undone.push(...strokes.splice(all ? 0 : -1).reverse());
    this.#redo();
    this.canvas.focus();
  }

  redo() {
    const stroke = this.photo.undone.pop();
    if (!stroke) return;
    this.photo.strokes.push(stroke);
    this.#apply(this.cut, stroke);
    this.#changed();
    this.canvas.focus();
  }

  setMode(mode) {
    this.mode = mode;
    history.replaceState({ photo: this.photo.id, mode }, "");
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", tab.dataset.mode === mode);
    this.#showControls();
    this.canvas.setAttribute("aria-label", mode === "touch" ? `${t("brushHelp")} ${t("brushKeys")}` : t("viewHelp"));
    this.canvas.classList.toggle("brushing", mode === "touch");
    this.cursor = null;
    this.fit();
    if (mode === "touch" && this.view) this.#showCursor();
  }

  // Shows what can be used: without the photo itself, nothing is compared with it or kept of it.
  #showControls() {
    const { photo, mode, original } = this;
    photo.undone ??= [];
    this.splitBar.hidden = mode !== "compare" || !original;
    this.brushBar.hidden = mode !== "touch";
    this.note.hidden = !this.note.textContent;
    const [keep, erase] = this.kinds.map((each) => each.firstChild);
    keep.disabled = !original;
    if (!original && keep.checked) {
      erase.checked = true;
      this.brush.erase = true;
    }
    this.undoButton.disabled = this.resetButton.disabled = !photo.strokes.length;
    this.redoButton.disabled = !photo.undone.length;
  }

  // Shows the ring of the brush where no pointer is: amid what is seen.
  #showCursor() {
    this.cursor ??= this.#inPicture({ x: this.canvas.width / 2, y: this.canvas.height / 2 });
    this.paint();
  }

  // The size of what is shown, in its own pixels: the result, or the whole picture for the brush.
  get layout() {
    const { photo } = this;
    if (this.mode === "compare" && this.box === undefined && this.cut) this.box = findBox(this.#reduced("cut", this.cut, BOX_SIDE / Math.max(photo.width, photo.height)));
    return this.mode === "touch" ? plan(photo.width, photo.height, null, {}) : plan(photo.width, photo.height, this.box, this.page.look);
  }

  fit() {
    if (!this.cut) return;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const ratio = (this.ratio = Math.min(devicePixelRatio, 2));
    Object.assign(this.canvas, { width: Math.max(1, clientWidth * ratio), height: Math.max(1, clientHeight * ratio) });
    const [w, h] = this.layout.size;
    const space = 24 * ratio;
    this.fitted = Math.min((this.canvas.width - space) / w, (this.canvas.height - space) / h);
    this.view = { scale: this.fitted, x: (this.canvas.width - w * this.fitted) / 2, y: (this.canvas.height - h * this.fitted) / 2 };
    this.paint();
  }

  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const { view } = this;
    if (!view) return;
    const scale = Math.min(Math.max(view.scale * factor, this.fitted / 2), Math.max(MAX_ZOOM, this.fitted));
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    this.paint();
  }

  paint() {
    cancelAnimationFrame(this.frameId);
    this.frameId = requestAnimationFrame(() => this.cut && this.view && this.#paintNow());
  }

  #paintNow() {
    const { canvas, view, layout, mode } = this;
    const [w, h] = layout.size;
    const pen = canvas.getContext("2d");
    const frame = [view.x, view.y, w * view.scale, h * view.scale];
    pen.clearRect(0, 0, canvas.width, canvas.height);
    this.#checker(pen, frame);
    if (mode === "touch") this.#paintTouch(pen, frame);
    else this.#paintCompared(pen, frame);
    this.zoomText.textContent = `${Math.round((view.scale / this.ratio) * 100)} %`;
  }

  // Returns a layer as large as the screen's canvas. It is drawn anew only after something changed, so that
  // a slider or a brush that moves costs pixels of the screen, whatever the photo has.
  #layer(name, render) {
    const { view, canvas, layers } = this;
    const key = [this.version, this.mode, view.scale, view.x, view.y, canvas.width, canvas.height].join();
    const layer = (layers[name] ??= { canvas: canvasOf(1, 1) });
    if (layer.key !== key) {
      Object.assign(layer.canvas, { width: canvas.width, height: canvas.height });
      const pen = layer.canvas.getContext("2d");
      pen.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
      pen.imageSmoothingQuality = "high";
      render(pen);
      layer.key = key;
    }
    return layer.canvas;
  }

  // Returns a copy of a large picture that is still sharp at a scale of the photo. Copies of the cutout
  // are made anew after each stroke.
  #reduced(name, picture, scale = this.view.scale) {
    const level = Math.floor(Math.log2(picture.width / (this.photo.width * scale)));
    if (level < 1) return picture;
    const version = name === "cut" ? this.version : 0;
    const kept = (this.copies[name] ??= {});
    if (kept.picture !== picture || kept.version !== version) Object.assign(kept, { picture, version, levels: [] });
    return (kept.levels[level] ??= canvasOf(Math.max(1, picture.width >> level), Math.max(1, picture.height >> level), picture));
  }

  #paintCompared(pen, frame) {
    const { layout, photo, original, view } = this;
    const look = this.page.look;
    const parts = { cut: this.#reduced("cut", this.cut), original: original && this.#reduced("original", original), photo, scale: view.scale };
    const after = this.#layer("after", (to) => draw(to, layout, look, parts));
    const share = Number(this.split.value) / 100;
    pen.drawImage(after, 0, 0);
    if (!original) return;
    if (share) this.#paintBefore(pen, frame, share, layout, look, parts);
    this.#paintDivider(pen, frame);
  }

  #paintBefore(pen, [x, y, w, h], share, layout, look, parts) {
    const before = this.#layer("before", (to) => draw(to, layout, look, { ...parts, before: true }));
    pen.save();
    pen.beginPath();
    // Two pixels more: at fractions of a pixel, a rim of what is beneath would be left.
    pen.rect(x - 2, y - 2, w * share + 2, h + 4);
    pen.clip();
    pen.clearRect(x - 2, y - 2, w + 4, h + 4);
    pen.drawImage(before, 0, 0);
    pen.restore();
  }

  // The handle stays on the screen, and off the rims.
  get divider() {
    const { view, canvas, ratio, layout: { size } } = this;
    const [w, h] = size.map((each) => each * view.scale);
    const [left, right] = [Math.max(0, view.x), Math.min(canvas.width, view.x + w)];
    const [top, bottom] = [Math.max(0, view.y), Math.min(canvas.height, view.y + h)];
    const x = view.x + (w * this.split.value) / 100;
    const inset = INSET * ratio;
    return { x, w, handle: [Math.min(Math.max(x, left + inset), right - inset), (top + bottom) / 2] };
  }

  #paintDivider(pen, [, y, , h]) {
    const { ratio, divider: { x, handle } } = this;
    pen.save();
    pen.fillStyle = "#fff";
    pen.shadowColor = "#0008";
    pen.shadowBlur = 4;
    pen.fillRect(x - ratio, y, 2 * ratio, h);
    pen.beginPath();
    pen.arc(...handle, HANDLE * ratio, 0, 7);
    pen.fill();
    pen.restore();
    pen.fillStyle = "#33353c";
    for (const side of [-ratio, ratio]) {
      pen.beginPath();
      for (const [across, down] of [[7, 0], [2, -4], [2, 4]]) pen.lineTo(handle[0] + across * side, handle[1] + down * ratio);
      pen.fill();
    }
  }

  #onDivider(at) {
    if (!this.view || this.splitBar.hidden) return false;
    const { x, handle } = this.divider;
    return Math.min(Math.abs(at.x - x), Math.hypot(at.x - handle[0], at.y - handle[1])) < INSET * this.ratio;
  }

  // Shows the whole picture with what was cut away, faintly, so that it can be brushed back; and the brush.
  #paintTouch(pen, frame) {
    const { original, stroke, view, photo } = this;
    const place = [0, 0, photo.width, photo.height];
    const plain = this.page.look.background === "none";
    if (!plain) {
      pen.fillStyle = solid(this.page.look);
      pen.fillRect(...frame);
    }
    const before = original && this.#layer("before", (to) => to.drawImage(this.#reduced("original", original), ...place));
    let cut = this.#layer("cut", (to) => to.drawImage(this.#reduced("cut", this.cut), ...place));
    if (stroke) {
      const scratch = (this.scratch ??= canvasOf(1, 1));
      Object.assign(scratch, { width: cut.width, height: cut.height });
      scratch.getContext("2d").drawImage(cut, 0, 0);
      if (stroke.erase || before) applyStroke(scratch, stroke, before, view.scale, view);
      cut = scratch;
    }
    pen.drawImage(cut, 0, 0);
    if (before) {
      pen.globalAlpha = 0.22;
      pen.globalCompositeOperation = plain ? "source-over" : "multiply";
      pen.drawImage(before, 0, 0);
      pen.globalAlpha = 1;
      pen.globalCompositeOperation = "source-over";
    }
    if (this.cursor) this.#ring(pen);
  }

  #ring(pen) {
    const { view, cursor } = this;
    for (const [color, width] of [["#000", 3], ["#fff", 1.5]]) {
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(view.x + cursor.x * view.scale, view.y + cursor.y * view.scale, Math.max(2, (this.#size * view.scale) / 2), 0, 7);
      pen.stroke();
    }
  }

  #checker(pen, [x, y, w, h]) {
    const style = getComputedStyle(this.canvas);
    const [light, dark] = ["--check-a", "--check-b"].map((name) => style.getPropertyValue(name));
    if (this.checksOf !== light) {
      const tile = canvasOf(24, 24);
      const dots = tile.getContext("2d");
      dots.fillStyle = light;
      dots.fillRect(0, 0, 24, 24);
      dots.fillStyle = dark;
      dots.fillRect(0, 0, 12, 12);
      dots.fillRect(12, 12, 12, 12);
      this.checks = pen.createPattern(tile, "repeat");
      this.checksOf = light;
    }
    pen.fillStyle = this.checks;
    pen.fillRect(x, y, w, h);
  }

  // The brush's width in the picture's pixels.
  get #size() {
    return (this.brush.size / 100) * Math.max(this.photo.width, this.photo.height);
  }

  #at(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / bounds.width;
    return { x: (event.clientX - bounds.left) * ratio, y: (event.clientY - bounds.top) * ratio };
  }

  #inPicture({ x, y }) {
    const { view } = this;
    return { x: (x - view.x) / view.scale, y: (y - view.y) / view.scale };
  }

  #begin({ x, y }) {
    this.stroke = { erase: this.brush.erase, size: this.#size, softness: this.brush.softness / 100, points: [x, y] };
  }

  #end() {
    if (!this.stroke) return;
    const { stroke } = this;
    this.stroke = null;
    this.photo.strokes.push(stroke);
    this.photo.undone = [];
    this.#apply(this.cut, stroke);
    this.#changed();
  }

  #listen() {
    const { canvas } = this;
    const on = canvas.addEventListener.bind(canvas);
    const pointers = new Map();
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, this.#at(event));
      this.dragging = null;
      if (pointers.size > 1) this.stroke = null; // two fingers move and zoom
      else if (this.#onDivider(this.#at(event))) this.dragging = this.divider.x - this.#at(event).x;
      else if (this.mode === "touch" && event.button === 0) {
        this.cursor = this.#inPicture(this.#at(event));
        this.#begin(this.cursor);
      }
      this.paint();
    });
    on("pointermove", (event) => {
      if (!this.view) return;
      const at = this.#at(event);
      if (this.mode === "touch") this.cursor = this.#inPicture(at);
      canvas.classList.toggle("dividing", this.dragging != null || (!pointers.size && this.#onDivider(at)));
      const before = pointers.get(event.pointerId);
      if (before) {
        if (pointers.size === 2) {
          const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
          const far = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
          this.zoomBy(far(at) / far(before), other.x, other.y);
        } else if (this.stroke) {
          const moves = event.getCoalescedEvents?.() ?? [];
          for (const each of moves.length ? moves : [event]) {
            const { x, y } = this.#inPicture(this.#at(each));
            this.stroke.points.push(x, y);
          }
        } else if (this.dragging != null) this.#setSplit((100 * (at.x + this.dragging - this.view.x)) / this.divider.w);
        else {
          this.view.x += at.x - before.x;
          this.view.y += at.y - before.y;
        }
        pointers.set(event.pointerId, at);
      }
      this.paint();
    });
    const up = (event) => {
      this.dragging = null;
      if (pointers.delete(event.pointerId)) this.#end();
    };
    on("pointerup", up);
    on("pointercancel", up);
    on("pointerleave", () => {
      if (!pointers.size) this.cursor = null;
      this.paint();
    });
    on("wheel", (event) => {
      event.preventDefault();
      const { x, y } = this.#at(event);
      this.zoomBy(1.0015 ** -event.deltaY, x, y);
    }, { passive: false });
    on("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("keydown", (event) => this.#stepKey(event));
    on("keyup", (event) => event.key === " " && this.#end());
    on("blur", () => this.photo && !pointers.size && this.#end());
  }

  // Goes on by keys that move nothing else.
  #stepKey(event) {
    const by = { PageUp: -1, PageDown: 1, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    if (event.key.startsWith("Arrow") && this.mode === "touch") return;
    event.preventDefault();
    this.step(by);
  }

  #key(event) {
    if (!this.view) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    const touch = this.mode === "touch";
    if (event.ctrlKey || event.metaKey) {
      const name = event.key.toLowerCase();
      if (touch && (name === "y" || (name === "z" && event.shiftKey))) this.redo();
      else if (touch && name === "z") this.undo();
      else return;
    } else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(0.8);
    else if (event.key === "0") this.fit();
    else if (touch && (event.key === "[" || event.key === "]")) this.#resize(event.key === "[" ? -1 : 1);
    else if (touch && event.key === " ") {
      this.#showCursor();
      if (!event.repeat && !this.stroke) this.#begin(this.cursor);
    } else if (touch && move) this.#step(move, event.shiftKey);
    else if (move && (move[1] || this.view.scale > this.fitted)) {
      this.view.x -= move[0] * 40;
      this.view.y -= move[1] * 40;
      this.paint();
    } else return;
    event.preventDefault();
  }

  #resize(change) {
    const input = this.brushBar.querySelector("#brush-size");
    input.valueAsNumber += change;
    this.brush.size = Number(input.value);
    this.#showCursor();
  }

  // Moves the brush by the keyboard; while the space bar is held, it paints.
  #step([across, down], far) {
    this.#showCursor();
    const { cursor, photo, stroke } = this;
    const step = this.#size * (far ? 2 : 0.25);
    cursor.x = Math.min(Math.max(cursor.x + across * step, 0), photo.width);
    cursor.y = Math.min(Math.max(cursor.y + down * step, 0), photo.height);
    stroke?.points.push(cursor.x, cursor.y);
    this.paint();
  }
}
