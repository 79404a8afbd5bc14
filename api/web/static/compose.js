// Draws results: layout, background, shadow and touch-up, by the rules of the service's pipeline.
import { decodeOriginal } from "./originals.js";
import { limiter, nearness, urgent } from "./photos.js";

// Width of the pictures on the cards, in pixels.
export const PREVIEW = 640;
// As in the service: the least alpha of 255 that counts as subject, and the shadow's measures.
const SUBJECT = 13;
const BLUR = 0.02;
const VISIBLE = 0.05;
const DROP = 0.03;
const decoding = limiter(2);

export const PLAIN = Object.freeze({
  background: "none", color: "#f2c14e", picture: null, blur: 40, shadow: false, shadowOpacity: 50,
  crop: false, margin: 10, canvas: "", scale: 0, format: "png", quality: 92, maxSide: 0,
});

// Decodes off the main thread, at a size for the cards.
export const decodeSmall = (blob, photo) =>
  decoding(() => createImageBitmap(blob, { resizeWidth: PREVIEW, resizeQuality: "medium" }), nearness(photo));
// Decodes at full size: a person waits for this file.
export const decodeFull = (blob) => decoding(() => createImageBitmap(blob), urgent);

export function canvasOf(width, height, source) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  if (source) canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return canvas;
}

// Returns the smallest box around the subject as shares of the sides; null without one.
export function findBox(canvas) {
  const { width, height } = canvas;
  // Of a copy in main memory, so that the canvas itself stays where drawing is quick.
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  let left = width, right = -1, top = height, bottom = -1;
  for (let y = 0, at = 3; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      if (data[at] < SUBJECT) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  if (right < 0) return null;
  return { x: left / width, y: top / height, w: (right + 1 - left) / width, h: (bottom + 1 - top) / height };
}

// Applies a stroke of the brush to a cutout. `scale` is the canvas's pixels for one of the picture, whose
// corner is at `x` and `y`; the original covers all of the canvas.
export function applyStroke(canvas, stroke, original, scale, { x = 0, y = 0 } = {}) {
  const { size, softness, points } = stroke;
  const width = size * scale;
  const reach = width * (0.6 + softness);
  const xs = points.filter((_, at) => at % 2 === 0).map((each) => each * scale + x);
  const ys = points.filter((_, at) => at % 2 === 1).map((each) => each * scale + y);
  const left = Math.max(0, Math.floor(Math.min(...xs) - reach));
  const top = Math.max(0, Math.floor(Math.min(...ys) - reach));
  const right = Math.min(canvas.width, Math.ceil(Math.max(...xs) + reach));
  const bottom = Math.min(canvas.height, Math.ceil(Math.max(...ys) + reach));
  if (right <= left || bottom <= top) return;
  const mask = canvasOf(right - left, bottom - top);
  const pen = mask.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Math.max(1, width * (1 - 0.6 * softness));
  // The soft edge is a shadow, whose outline is drawn where nobody sees it.
  const away = softness > 0 ? 2 * (right - left) + width : 0;
  if (away) {
    pen.shadowColor = "#000";
    pen.shadowBlur = width * softness * 0.6;
    pen.shadowOffsetX = away;
  }
  pen.beginPath();
  pen.moveTo(xs[0] - left - away, ys[0] - top);
  for (let at = 0; at < xs.length; at++) pen.lineTo(xs[at] - left - away + (at ? 0 : 0.01), ys[at] - top);
  pen.stroke();
  const target = canvas.getContext("2d");
  target.save();
  if (stroke.erase) target.globalCompositeOperation = "destination-out";
  else {
    pen.shadowColor = "transparent";
    pen.globalCompositeOperation = "source-in";
    const across = original.width / canvas.width;
    const down = original.height / canvas.height;
    pen.drawImage(original, left * across, top * down, mask.width * across, mask.height * down, 0, 0, mask.width, mask.height);
  }
  target.drawImage(mask, left, top);
  target.restore();
}

// At least one pixel.
const whole = (length) => Math.max(1, Math.round(length));

function canvasSize(look) {
  const found = /^(\d+)\s*[x×]\s*(\d+)$/.exec(look.canvas);
  return found && [Number(found[1]), Number(found[2])];
}

function overlap({ x, y, w, h }, width, height) {
  const [left, top] = [Math.max(0, x), Math.max(0, y)];
  return { x: left, y: top, w: Math.min(width, x + w) - left, h: Math.min(height, y + h) - top };
}

// Moves a place on an axis so that as much as can be is within the photo.
const shift = (at, room) => Math.min(Math.max(at, Math.min(0, room)), Math.max(0, room));

// Returns where the picture goes in the result: its size, and the part of the picture and its place.
export function plan(width, height, box, look) {
  const subject = box && { x: Math.round(box.x * width), y: Math.round(box.y * height), w: whole(box.w * width), h: whole(box.h * height) };
  // Beyond the photo's rim, the subject would end within a band of its background.
  const within = look.background === "blur";
  let view = { x: 0, y: 0, w: width, h: height };
  if (look.crop && subject) {
    const side = Math.max(subject.w, subject.h);
    const seen = look.shadow ? Math.round(side * VISIBLE) : 0;
    const drop = look.shadow ? Math.round(side * DROP) : 0;
    const across = Math.round((subject.w * look.margin) / 100) + seen;
    const down = Math.round((subject.h * look.margin) / 100);
    view = {
      x: subject.x - across, y: subject.y - down - Math.max(0, seen - drop),
      w: subject.w + 2 * across, h: subject.h + 2 * down + Math.max(0, seen - drop) + seen + drop,
    };
    if (within) view = overlap(view, width, height);
  }
  let size = [view.w, view.h];
  const wanted = canvasSize(look);
  if (wanted) {
    const [across, down] = wanted;
    const w = Math.max(view.w, Math.round((view.h * across) / down));
    const h = Math.max(view.h, Math.round((view.w * down) / across));
    view = { x: view.x - Math.floor((w - view.w) / 2), y: view.y - Math.floor((h - view.h) / 2), w, h };
    if (within) view = { ...view, x: shift(view.x, width - w), y: shift(view.y, height - h) };
    size = wanted;
  } else if (look.maxSide && look.maxSide < Math.max(...size)) {
    const factor = look.maxSide / Math.max(...size);
    size = size.map((each) => whole(each * factor));
  }
  const [across, down] = [size[0] / view.w, size[1] / view.h];
  const map = (part) => {
    const x = Math.round((part.x - view.x) * across);
    const y = Math.round((part.y - view.y) * down);
    return { x, y, w: whole((part.x + part.w - view.x) * across - x), h: whole((part.y + part.h - view.y) * down - y) };
  };
  if (subject && look.scale) {
    const factor = (look.scale / 100) * Math.min(size[0] / subject.w, size[1] / subject.h);
    const w = Math.min(size[0], whole(subject.w * factor));
    const h = Math.min(size[1], whole(subject.h * factor));
    const target = { x: Math.round((size[0] - w) / 2), y: Math.round((size[1] - h) / 2), w, h };
    return { size, source: subject, target, subject: target, picture: [width, height] };
  }
  const source = { x: 0, y: 0, w: width, h: height };
  return { size, source, target: map(source), subject: subject && map(subject), picture: [width, height] };
}

// Draws a picture so that it fills a size; the excess is cropped.
function cover(pen, picture, width, height) {
  const factor = Math.max(width / picture.width, height / picture.height);
  const [w, h] = [width / factor, height / factor];
  pen.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
}

// Returns where the whole picture lies in a result.
function pictureIn({ source, target, picture }) {
  const [across, down] = [target.w / source.w, target.h / source.h];
  return [target.x - source.x * across, target.y - source.y * down, picture[0] * across, picture[1] * down];
}

export const solid = (look) => (look.background === "color" ? look.color : "#ffffff");

function drawBackground(pen, look, original, layout, photo) {
  const { size } = layout;
  if (["white", "color"].includes(look.background) || look.format === "jpg") { // as the file, which has no transparency
    pen.fillStyle = solid(look);
    pen.fillRect(0, 0, ...size);
  }
  if (look.background === "picture" && look.picture) cover(pen, look.picture, ...size);
  else if (look.background === "blur" && original) drawBlurred(pen, layout, look.blur, original, photo);
}

// Draws the blurred photo in its place. Beyond its rims it fades into a blur of all of it.
function drawBlurred(pen, { size, ...layout }, strength, original, photo) {
  if (photo.blurred?.strength !== strength) photo.blurred = { strength, canvas: blurred(original, strength) };
  let { canvas } = photo.blurred;
  const [x, y, w, h] = pictureIn(layout);
  const { width, height } = canvas;
  const fade = Math.min(width, height) / 3;
  const [right, bottom] = [size[0] - x - w, size[1] - y - h];
  const rims = [[x, 0, 0, fade, 0], [y, 0, 0, 0, fade], [right, width, 0, width - fade, 0], [bottom, 0, height, 0, height - fade]].filter(([gap]) => gap > 0);
  if (rims.length) {
    cover(pen, blurred(canvas, 240), ...size);
    canvas = canvasOf(width, height, canvas);
    const eraser = canvas.getContext("2d");
    eraser.globalCompositeOperation = "destination-out";
    for (const [, ...line] of rims) {
      eraser.fillStyle = eraser.createLinearGradient(...line);
      eraser.fillStyle.addColorStop(0, "#000");
      eraser.fillStyle.addColorStop(1, "#0000");
      eraser.fillRect(0, 0, width, height);
    }
  }
  pen.drawImage(canvas, x, y, w, h);
}

// Blurs a picture. The result can be small: enlarging it is smooth.
function blurred(original, strength) {
  const width = 256;
  const height = whole((256 * original.height) / original.width);
  const canvas = canvasOf(width, height);
  const pen = canvas.getContext("2d");
  const radius = Math.max(0.5, (width * strength) / 1600);
  if ("filter" in pen) {
    // Beneath and a little larger, so that the blur does not fade out at the rim.
    pen.drawImage(original, 0, 0, width, height);
    pen.filter = `blur(${radius}px)`;
    pen.drawImage(original, -2 * radius, -2 * radius, width + 4 * radius, height + 4 * radius);
  } else {
    const small = canvasOf(Math.max(4, width / (2 * radius)), Math.max(4, height / (2 * radius)), original);
    pen.drawImage(small, 0, 0, width, height);
  }
  return canvas;
}

// Draws a result, or the picture before, into the present transform scaled by `scale`.
export function draw(pen, layout, look, { cut, original, photo, before = false, scale = 1 }) {
  const { size, source, target } = layout;
  const [width, height] = layout.picture;
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, ...size);
  pen.clip();
  pen.imageSmoothingQuality = "high";
  if (before) {
    pen.drawImage(original, ...pictureIn(layout));
    pen.restore();
    return;
  }
  drawBackground(pen, look, original, layout, photo);
  if (look.shadow && layout.subject) {
    const side = Math.max(layout.subject.w, layout.subject.h);
    pen.shadowColor = `rgb(0 0 0 / ${look.shadowOpacity}%)`;
    pen.shadowBlur = 2 * BLUR * side * scale;
    pen.shadowOffsetY = Math.round(DROP * side) * scale;
  }
  const [across, down] = [cut.width / width, cut.height / height];
  pen.drawImage(cut, source.x * across, source.y * down, source.w * across, source.h * down, target.x, target.y, target.w, target.h);
  pen.restore();
}

// Prepares a photo's cutout for the cards, with its touch-up.
export async function preparePreview(photo, cutBlob) {
  photo.cutBase = await decodeSmall(cutBlob, photo);
  redoStrokes(photo);
}

export function redoStrokes(photo) {
  const { cutBase } = photo;
  photo.cut = canvasOf(cutBase.width, cutBase.height, cutBase);
  const scale = cutBase.width / photo.width;
  for (const stroke of photo.strokes) {
    if (stroke.erase || photo.small) applyStroke(photo.cut, stroke, photo.small, scale);
  }
  photo.box = findBox(photo.cut);
}

// The look of a picture that another format than the look's shows in the same way.
export const sameIn = (format, look) =>
  ({ ...look, format, background: look.format === "jpg" && look.background === "none" ? "white" : look.background });

const MEDIA = { png: "image/png", webp: "image/webp", jpg: "image/jpeg" };

function untouched(look, photo) {
  return look.background === "none" && !look.shadow && !look.crop && !look.canvas && !look.scale && !look.maxSide
    && look.format === "png" && !photo.strokes.length;
}

// Makes the file of a photo at full size.
export async function makeFile(photos, photo, look) {
  const cutBlob = await photos.cutout(photo);
  if (untouched(look, photo)) return cutBlob;
  const bitmap = await decodeFull(cutBlob);
  const cut = canvasOf(bitmap.width, bitmap.height, bitmap);
  bitmap.close();
  const needed = look.background === "blur" || photo.strokes.some((each) => !each.erase);
  const original = needed ? await decodeOriginal(photos, photo, decodeFull) : null;
  for (const stroke of photo.strokes) applyStroke(cut, stroke, original, 1);
  const layout = plan(cut.width, cut.height, findBox(cut), look);
  const canvas = canvasOf(...layout.size);
  const pen = canvas.getContext("2d");
  draw(pen, layout, look, { cut, original, photo });
  original?.close();
  const made = await new Promise((resolve) => canvas.toBlob(resolve, MEDIA[look.format], look.quality / 100));
  if (!made) throw new RangeError("draw");
  return made;
}

// What the file is, which for WebP depends on the browser.
export const extensionOf = (blob) => ({ "image/jpeg": "jpg", "image/webp": "webp" })[blob.type] ?? "png";
