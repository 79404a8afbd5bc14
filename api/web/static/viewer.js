// One photo large: before and after, zoom, and touch-up of its alpha with a brush.
import { applyStroke, canvasOf, decodeFull, draw, findBox, plan, redoStrokes } from "./compose.js";
import { icon, iconButton, make, toast } from "./elements.js";
import { decodeOriginal, isForeign } from "./originals.js";
import { t } from "./texts.js";

const MAX_ZOOM = 16;
// Sides of the copy in which the subject's box is looked for; the file's is of all pixels.
const BOX_SIDE = 1024;

export class Viewer {
  constructor(dialog, photos, page) {
    Object.assign(this, { dialog, photos, page, brush: { erase: true, size: 6, softness: 40 }, version: 0 });
    this.#renew();
    this.name = make("h2", { id: "viewer-name" });
    this.canvas = make("canvas", { tabIndex: 0, role: "img" });
    this.split = make("input", { type: "range", min: 0, max: 100, class: "viewer-split", oninput: () => this.paint() });
    this.zoomText = make("output", { class: "zoom" });
    this.tabs = ["compare", "touch"].map((mode) =>
      make("button", { type: "button", class: "tab", "data-mode": mode, onclick: () => this.setMode(mode) }, icon(mode === "touch" ? "brush" : "compare"), make("span", {}, t(mode))));
    this.brushBar = this.#brushBar();
    this.note = make("p", { class: "bar-row note", role: "status" });
    this.splitBar = make("label", { class: "bar-row" }, make("span", {}, t("before")), this.split, make("span", {}, t("after")));
    dialog.append(
      make("header", {}, this.name, make("div", { class: "tabs" }, ...this.tabs), iconButton("close", t("close"), () => dialog.close())),
      make("div", { class: "stage" }, this.canvas,
        make("div", { class: "zooms" }, iconButton("minus", t("zoomOut"), () => this.zoomBy(1 / 1.5)), this.zoomText,
          iconButton("plus", t("zoomIn"), () => this.zoomBy(1.5)), iconButton("expand", t("fit"), () => this.fit()))),
      make("footer", {}, this.splitBar, this.brushBar, this.note),
    );
    dialog.addEventListener("close", () => this.#closed());
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
    this.undoButton = make("button", { type: "button", class: "button small-button", id: "undo", onclick: () => this.undo() }, icon("undo"), make("span", {}, t("undo")));
    this.redoButton = make("button", { type: "button", class: "button small-button", id: "redo", onclick: () => this.redo() }, icon("redo"), make("span", {}, t("redo")));
    this.resetButton = make("button", { type: "button", class: "button quiet small-button", id: "start-over", onclick: () => this.undo(true) }, t("startOver"));
    return make("div", { class: "bar-row brushes" }, make("div", { class: "tabs" }, ...kinds), slider("size", 1, 30), slider("softness", 0, 100),
      make("div", { class: "group" }, this.undoButton, this.redoButton, this.resetButton), make("p", { class: "note keys" }, t("brushKeys")));
  }

  async open(photo, mode) {
    Object.assign(this, { photo, cut: photo.cut, base: photo.cutBase, original: photo.small, box: photo.box, stroke: null, cursor: null });
    this.#renew();
    this.name.textContent = photo.name;
    this.split.value = 0;
    this.split.setAttribute("aria-label", t("split", { name: photo.name }));
    this.dialog.showModal();
    this.left = this.page.layers.enter(() => this.dialog.close(), { photo: photo.id, mode });
    this.setMode(mode);
    this.canvas.focus();
    // At once with the small pictures, then with those of full size.
    const original = this.#bringOriginal(photo);
    try {
      const base = await this.photos.cutout(photo).then(decodeFull);
      if (this.photo !== photo) return base.close();
      Object.assign(this, { base, full: true });
      this.#redo();
    } catch {
      toast(t("error_network"));
    }
    await original;
    if (this.photo === photo && this.full) this.dialog.dataset.ready = photo.id;
  }

  async #bringOriginal(photo) {
    const foreign = isForeign(photo);
    this.note.textContent = foreign ? t("drawing") : "";
    try {
      const original = await decodeOriginal(this.photos, photo, decodeFull);
      if (photo.foreign) photo.card.showOriginal();
      if (this.photo !== photo) return original.close();
      this.original = original;
      this.note.textContent = "";
    } catch (error) {
      if (this.photo === photo) this.note.textContent = t("noOriginal", { why: this.page.errorText(error) });
    }
    if (this.photo !== photo) return undefined;
    if (this.full) this.#redo();
    else this.#changed();
    return this.#showControls();
  }

  #closed() {
    const { photo } = this;
    this.#end();
    this.photo = null;
    delete this.dialog.dataset.ready;
    if (this.full) this.base.close();
    if (this.original !== photo.small) this.original?.close();
    Object.assign(this, { full: false, base: null, original: null, cut: null });
    this.#renew();
    this.left();
    if (photo.cutBase) redoStrokes(photo);
    photo.card.draw();
    this.photos.keep(photo);
    const opener = t(this.mode === "touch" ? "touch" : "open");
    [...photo.card.element.querySelectorAll(".acts button")].find((each) => each.title === opener)?.focus();
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
    this.canvas.setAttribute("aria-label", t(mode === "touch" ? "brushHelp" : "viewHelp"));
    this.canvas.classList.toggle("brushing", mode === "touch");
    this.cursor = null;
    this.fit();
    if (mode === "touch") this.#showCursor();
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
    if (!this.photo) return;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const ratio = Math.min(devicePixelRatio, 2);
    Object.assign(this.canvas, { width: Math.max(1, clientWidth * ratio), height: Math.max(1, clientHeight * ratio) });
    const [w, h] = this.layout.size;
    const space = 24 * ratio;
    this.fitted = Math.min((this.canvas.width - space) / w, (this.canvas.height - space) / h);
    this.view = { scale: this.fitted, x: (this.canvas.width - w * this.fitted) / 2, y: (this.canvas.height - h * this.fitted) / 2 };
    this.paint();
  }

  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const { view } = this;
    const scale = Math.min(Math.max(view.scale * factor, this.fitted / 2), Math.max(MAX_ZOOM, this.fitted));
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    this.paint();
  }

  paint() {
    cancelAnimationFrame(this.frameId);
    this.frameId = requestAnimationFrame(() => this.cut && this.#paintNow());
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
    this.zoomText.textContent = `${Math.round((view.scale / Math.min(devicePixelRatio, 2)) * 100)} %`;
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
    const [x, y, w, h] = frame;
    const share = Number(this.split.value) / 100;
    pen.drawImage(after, 0, 0);
    if (!share || !original) return;
    const before = this.#layer("before", (to) => draw(to, layout, look, { ...parts, before: true }));
    const at = x + w * share;
    pen.save();
    pen.beginPath();
    // Two pixels more: at fractions of a pixel, a rim of what is beneath would be left.
    pen.rect(x - 2, y - 2, w * share + 2, h + 4);
    pen.clip();
    pen.clearRect(x - 2, y - 2, w + 4, h + 4);
    pen.drawImage(before, 0, 0);
    pen.restore();
    pen.save();
    pen.fillStyle = "#fff";
    pen.shadowColor = "#0008";
    pen.shadowBlur = 4;
    pen.fillRect(at - 1, y, 2, h);
    pen.restore();
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
    if (!this.checks) {
      const tile = canvasOf(24, 24);
      const dots = tile.getContext("2d");
      dots.fillStyle = "#fff";
      dots.fillRect(0, 0, 24, 24);
      dots.fillStyle = "#dcdce0";
      dots.fillRect(0, 0, 12, 12);
      dots.fillRect(12, 12, 12, 12);
      this.checks = pen.createPattern(tile, "repeat");
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
    const pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, this.#at(event));
      if (pointers.size > 1) this.stroke = null; // two fingers move and zoom
      else if (this.mode === "touch" && event.button === 0) {
        this.cursor = this.#inPicture(this.#at(event));
        this.#begin(this.cursor);
      }
      this.paint();
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = this.#at(event);
      if (this.mode === "touch") this.cursor = this.#inPicture(at);
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
        } else {
          this.view.x += at.x - before.x;
          this.view.y += at.y - before.y;
        }
        pointers.set(event.pointerId, at);
      }
      this.paint();
    });
    const up = (event) => {
      if (pointers.delete(event.pointerId)) this.#end();
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => {
      if (!pointers.size) this.cursor = null;
      this.paint();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = this.#at(event);
      this.zoomBy(1.0015 ** -event.deltaY, x, y);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => event.key === " " && this.#end());
    canvas.addEventListener("blur", () => this.photo && !pointers.size && this.#end());
  }

  #key(event) {
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
    else if (move) {
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

function solid(look) {
  return look.background === "color" ? look.color : "#ffffff";
}
