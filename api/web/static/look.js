// The form of the look: presets, background, shadow, frame, file, and the service's own parameters.
import { PLAIN } from "./compose.js";
import { byId, make, textButton, toast } from "./elements.js";
import { ownerMark } from "./photos.js";
import { keepBackground, keptBackground, recall, remember } from "./storage.js";
import { hasText, t } from "./texts.js";

const KEPT = "rmbg-look";
const KEPT_OPTIONS = "rmbg-options";
// Parameters that only the service can apply; which of them there are, its table says.
const EDGES = /^(mask_|refine$)/;
const UNITS = { mask_threshold: " %", mask_offset: " px", mask_feather: " px" };
const SIZES = ["", "1080x1080", "1600x1600", "2000x2000", "1080x1350", "1920x1080"];

export class LookForm {
  constructor(onChange, onOptions) {
    Object.assign(this, { onChange, onOptions, look: { ...PLAIN, ...kept(KEPT) }, options: kept(KEPT_OPTIONS) });
    this.form = byId("look-form");
    this.form.addEventListener("submit", (event) => event.preventDefault());
  }

  // Brings the picture of an earlier visit; without it the background is none.
  async bringPicture() {
    if (this.look.background !== "picture") return;
    const file = await keptBackground(ownerMark());
    const picture = file && await createImageBitmap(file).catch(() => null);
    if (this.look.background !== "picture" || (!picture && this.look.picture)) return;
    if (!picture) toast(t("pictureGone"));
    this.set(picture ? { picture } : { background: "none" });
  }

  set(changes) {
    Object.assign(this.look, changes);
    remember(KEPT, JSON.stringify({ ...this.look, picture: null }), "localStorage");
    this.refresh();
    this.onChange();
  }

  // Applies a preset in the place of the one before; without one, takes that back. What somebody has
  // changed since stays.
  #usePreset(name) {
    const { wanted, former = {} } = this.#active() ?? {};
    const back = Object.fromEntries(Object.keys(former).filter((each) => this.look[each] === wanted[each]).map((each) => [each, former[each]]));
    const preset = name ? asLook(this.presets[name]) : {};
    const before = { ...this.look, ...back };
    this.set({ ...back, ...preset, preset: name, former: Object.fromEntries(Object.keys(preset).map((each) => [each, before[each]])) });
  }

  // Returns what the preset in use has set, and what was there before.
  #active() {
    const parameters = this.presets?.[this.look.preset];
    return parameters && { wanted: asLook(parameters), former: this.look.former };
  }

  // Marks the controls that are as the preset in use has set them.
  #markPreset() {
    const { wanted, former } = this.#active() ?? {};
    for (const [name, field] of this.fields) {
      field.classList.toggle("of-preset", Boolean(wanted) && this.look[name] === wanted[name] && former[name] !== wanted[name]);
    }
  }

  // Builds the form from what the service says of itself.
  build({ presets = [], parameters = [], models = [] }) {
    this.parameters = parameters.filter((each) => EDGES.test(each.name));
    this.refreshers = [];
    this.fields = new Map();
    this.presets = Object.fromEntries(presets.map((each) => [each.name, each.parameters]));
    if (parameters.length) this.#keepKnown(models);
    this.form.replaceChildren(
      ...(presets.length ? [this.#presets(presets)] : []),
      this.#background(), this.#shadow(), this.#frame(), this.#file(), this.#reset(), this.#service(models),
    );
    this.refreshers.push(() => this.#markPreset());
    this.refresh();
  }

  // Drops options of an earlier visit that the service does not have any more.
  #keepKnown(models) {
    const known = new Set(this.parameters.map(({ name }) => name));
    if (models.some(({ name }) => name === this.options.model)) known.add("model");
    this.options = Object.fromEntries(Object.entries(this.options).filter(([name]) => known.has(name)));
    this.onOptions(false);
  }

  refresh() {
    for (const each of this.refreshers ?? []) each(this.look);
  }

  #group(title, ...children) {
    return make("fieldset", {}, make("legend", {}, title), ...children);
  }

  #presets(presets) {
    const titleOf = (name) => (hasText(`preset_${name}`) ? t(`preset_${name}`) : name);
    const chips = presets.map(({ name }) =>
      make("button", { class: "chip", "data-preset": name, onclick: () => this.#usePreset(this.look.preset === name ? "" : name) }, titleOf(name)));
    const note = make("p", { class: "note" });
    this.refreshers.push(({ preset }) => {
      for (const chip of chips) chip.setAttribute("aria-pressed", chip.dataset.preset === preset);
      note.hidden = !this.#active();
      note.textContent = t("presetNote", { preset: titleOf(preset) });
    });
    return this.#group(t("presets"), make("div", { class: "chips" }, ...chips), note);
  }

  #reset() {
    const button = textButton(t("lookReset"), () => this.set({ ...PLAIN, picture: this.look.picture, preset: "", former: {} }), "quiet small-button", { id: "look-reset" });
    this.refreshers.push((look) => (button.hidden = Object.keys(PLAIN).every((name) => name === "picture" || look[name] === PLAIN[name])));
    return button;
  }

  // Notes which control is that of a value of the look.
  #field(name, field) {
    this.fields.set(name, field);
    return field;
  }

  #background() {
    const kinds = ["none", "white", "color", "picture", "blur"];
    const picker = make("input", { type: "color", id: "color", "aria-label": t("color"), oninput: () => this.set({ background: "color", color: picker.value }) });
    const file = make("input", { type: "file", accept: "image/*", id: "background-file", hidden: true, onchange: () => this.#picture(file) });
    const radios = kinds.map((kind) =>
      make("input", {
        type: "radio", name: "background", value: kind, id: `background-${kind}`,
        onclick: () => kind === "picture" && !this.look.picture && file.click(), // also where it is chosen already
        onchange: () => kind === "picture" && !this.look.picture ? this.refresh() : this.set({ background: kind }),
      }));
    const swatches = kinds.map((kind, at) =>
      make("label", { class: "swatch", for: radios[at].id }, radios[at], make("span", { class: `dot of-${kind}`, "aria-hidden": "true" }), make("span", {}, t(kind))));
    const blur = this.#slider("blur", t("blurStrength"), 5, 100);
    const color = make("label", { class: "field line" }, make("span", {}, t("color")), picker);
    const again = textButton(t("choosePicture"), () => file.click(), "small-button");
    this.refreshers.push((look) => {
      radios.forEach((radio) => (radio.checked = radio.value === look.background));
      picker.value = look.color;
      swatches[2].style.setProperty("--color", look.color);
      color.hidden = look.background !== "color";
      blur.hidden = look.background !== "blur";
      again.hidden = look.background !== "picture";
    });
    return this.#group(t("background"), this.#field("background", make("div", { class: "swatches" }, ...swatches)), color, blur, again, file);
  }

  async #picture(file) {
    const [chosen] = file.files;
    file.value = "";
    const picture = chosen && await createImageBitmap(chosen).catch(() => toast(t("noPicture", { name: chosen.name })));
    if (!picture) return this.refresh();
    this.set({ background: "picture", picture });
    if (!await keepBackground(ownerMark(), chosen)) toast(t("pictureNotKept"));
  }

  #slider(name, label, min, max, unit = "%") {
    const out = make("output", {});
    const input = make("input", { type: "range", min, max, id: `look-${name}`, oninput: () => this.set({ [name]: Number(input.value) }) });
    this.refreshers.push((look) => {
      input.value = look[name];
      out.textContent = `${look[name]}${unit}`;
    });
    return this.#field(name, make("label", { class: "field", for: input.id }, make("span", { class: "line" }, label, out), input));
  }

  // Makes a checkbox: it shows the value of `read()`, and calls `write` when the user changes it.
  #checkbox(id, label, read, write, more) {
    const input = make("input", { type: "checkbox", id, onchange: () => write(input.checked), ...more });
    this.refreshers.push(() => (input.checked = read()));
    return make("label", { class: "check", for: id }, input, make("span", {}, label));
  }

  #choice(id, label, choices, read, write, more) {
    const input = make("select", { id, onchange: () => write(input.value), ...more }, ...choices.map(([value, text]) => make("option", { value }, text ?? value)));
    this.refreshers.push(() => (input.value = read()));
    return make("label", { class: "field line", for: id }, make("span", {}, label), input);
  }

  // Makes the control of a value of the look.
  #control(build, name, ...parts) {
    return this.#field(name, build.call(this, `look-${name}`, ...parts, () => this.look[name], (value) => this.set({ [name]: value })));
  }

  #shadow() {
    const strength = this.#slider("shadowOpacity", t("strength"), 5, 100);
    this.refreshers.push((look) => (strength.hidden = !look.shadow));
    return this.#group(t("shadow"), this.#control(this.#checkbox, "shadow", t("shadowOn")), strength);
  }

  #frame() {
    const margin = this.#slider("margin", t("margin"), 0, 50);
    const fill = this.#slider("scale", t("fill"), 10, 100);
    const sizes = this.#control(this.#choice, "canvas", t("canvas"), SIZES.map((size) => [size, size.replace("x", " × ") || t("asIs")]));
    this.refreshers.push((look) => {
      margin.hidden = !look.crop;
      fill.hidden = !look.scale;
    });
    return this.#group(
      t("frame"), sizes, this.#control(this.#checkbox, "crop", t("crop")), margin,
      this.#checkbox("look-scaled", t("fill"), () => this.look.scale > 0, (on) => this.set({ scale: on ? 85 : 0 })), fill,
    );
  }

  #file() {
    const quality = this.#slider("quality", t("quality"), 1, 100, "");
    const note = make("p", { class: "note" }, t("jpgNote"));
    const side = make("input", {
      type: "number", min: 16, max: 16384, id: "look-maxSide", inputMode: "numeric", placeholder: t("asIs"),
      onchange: () => this.set({ maxSide: side.value ? Math.min(16384, Math.max(16, Number(side.value) || 0)) : 0 }),
    });
    this.refreshers.push((look) => {
      quality.hidden = look.format === "png";
      note.hidden = look.format !== "jpg" || look.background !== "none";
      side.value = look.maxSide || "";
    });
    return this.#group(
      t("file"), this.#control(this.#choice, "format", t("format"), [["png", "PNG"], ["webp", "WebP"], ["jpg", "JPEG"]]), quality, note,
      make("label", { class: "field line", for: side.id }, make("span", {}, t("maxSide")), side),
    );
  }

  // What the service applies, and so needs a new cutout: edges and model.
  #service(models) {
    const fields = this.parameters.map((each) => this.#parameter(each));
    if (models.length > 1) {
      const usual = models.find((model) => model.default)?.name;
      fields.unshift(this.#choice("param-model", t("model"), models.map(({ name, title }) => [name, title]), () => this.options.model ?? usual, (name) => this.#option("model", name)));
    }
    this.again = textButton(t("edgesAgain"), () => this.onOptions(true), "small-button wide", { id: "edges-again", hidden: true });
    const reset = textButton(t("edgesReset"), () => this.#setOptions({}), "quiet small-button wide", { id: "edges-reset" });
    const mark = make("span", { class: "mark" }, t("changed"));
    this.refreshers.push(() => (reset.hidden = mark.hidden = !Object.keys(this.options).length));
    return make("details", { class: "more" }, make("summary", {}, t("edges"), " ", mark), make("p", { class: "note" }, t("edgesNote")), ...fields, this.again, reset);
  }

  #setOptions(options) {
    this.options = options;
    remember(KEPT_OPTIONS, JSON.stringify(options), "localStorage");
    this.again.hidden = false;
    this.refresh();
    this.onOptions(false);
  }

  #option(name, value, usual) {
    const { [name]: _, ...others } = this.options;
    this.#setOptions(value === usual ? others : { ...others, [name]: value });
  }

  // Makes the control of a parameter, with what it does beneath.
  #parameter({ name, type, default: usual, minimum, maximum, description, choices }) {
    const label = hasText(`param_${name}`) ? t(`param_${name}`) : name;
    const id = `param-${name}`;
    const help = make("p", { class: "note", id: `${id}-help` }, hasText(`help_${name}`) ? t(`help_${name}`) : description);
    const more = { "aria-describedby": help.id };
    const explained = (control) => make("div", { class: "explained" }, control, help);
    const value = () => this.options[name] ?? usual;
    const write = (chosen) => this.#option(name, chosen, usual);
    if (type === "boolean") return explained(this.#checkbox(id, label, value, write, more));
    if (choices?.length) return explained(this.#choice(id, label, choices.map((each) => [each]), value, write, more));
    if (minimum == null || maximum == null) {
      const line = make("input", { id, type: "text", onchange: () => this.#option(name, line.value || undefined, usual ?? undefined), ...more });
      this.refreshers.push(() => (line.value = value() ?? ""));
      return explained(make("label", { class: "field line", for: id }, make("span", {}, label), line));
    }
    // What is off by default is off one step below its least value.
    const step = type === "integer" ? 1 : (maximum - minimum) / 100;
    const off = usual == null ? minimum - step : null;
    const read = () => (Number(range.value) === off ? null : Number(range.value));
    const out = make("output", {});
    const show = () => (out.textContent = read() === null ? t("off") : `${read()}${UNITS[name] ?? ""}`);
    const range = make("input", { id, type: "range", min: off ?? minimum, max: maximum, step, oninput: show, onchange: () => this.#option(name, read(), usual ?? null), ...more });
    this.refreshers.push(() => {
      range.value = value() ?? off;
      show();
    });
    return explained(make("label", { class: "field", for: id }, make("span", { class: "line" }, label, out), range));
  }
}

function kept(name) {
  try {
    return JSON.parse(recall(name, "localStorage") ?? "{}");
  } catch {
    return {};
  }
}

// Turns the API's parameters of a preset into a look.
function asLook(parameters) {
  const percent = (text, usual) => (text ? Number.parseFloat(text) : usual);
  const color = parameters.matte_color?.toLowerCase();
  const white = color === "white" || color === "#ffffff" || color === "#fff";
  return {
    background: !color ? "none" : white ? "white" : "color",
    ...(color && !white ? { color } : {}),
    shadow: (parameters.shadow ?? "none") !== "none",
    shadowOpacity: parameters.shadow_opacity ?? 50,
    crop: parameters.crop ?? false,
    margin: percent(parameters.crop_margin, 10),
    canvas: parameters.canvas ?? "",
    scale: percent(parameters.scale, 0),
    format: parameters.output_format ?? "png",
    quality: parameters.quality ?? 92,
    maxSide: parameters.max_side ?? 0,
  };
}
