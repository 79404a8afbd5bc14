// Asks for the API key in a dialog of its own, and keeps it for this tab.
import { byId, make, textButton } from "./elements.js";
import { readKey, writeKey } from "./service.js";
import { t } from "./texts.js";

// Makes the dialog that asks for a key when the service refuses one, and returns what opens it.
// It calls `use` with the new key, the former one, and whether the service refused that.
export function keyDialog({ title, why, use }) {
  const input = make("input", { type: "password", id: "key", autocomplete: "off", spellcheck: false, required: true });
  const fault = make("p", { class: "fault", role: "alert" });
  const form = make("form", { method: "dialog" },
    make("h2", { id: "key-title" }, title), make("p", {}, `${why} ${t("keyStays")}`),
    make("label", { class: "field" }, make("span", {}, t("key")), input), fault,
    make("div", { class: "group end" },
      textButton(t("back"), () => dialog.close(), "quiet"),
      make("button", { type: "submit", class: "button primary" }, t("useKey"))));
  const dialog = make("dialog", { id: "key-dialog", class: "small", "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);

  let refused = false;
  function ask(text = "") {
    fault.textContent = text;
    if (!dialog.open) dialog.showModal();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = input.value.trim();
    // A header holds no other characters.
    if (/[^\x21-\x7e]/.test(key)) return ask(t("keyWrong"));
    const former = readKey();
    input.value = "";
    writeKey(key);
    dialog.close();
    const was = refused;
    refused = false;
    return use(key, former, was);
  });
  document.addEventListener("key-refused", () => {
    refused = true;
    byId("open-key").hidden = false;
    ask(readKey() ? t("keyWrong") : "");
  });
  byId("open-key").onclick = () => ask();
  return ask;
}
