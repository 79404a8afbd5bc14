// The operators' view: what the service does now, every two seconds, and the acts on it.
import { byId, make, say, textButton, toast, translate } from "./elements.js";
import { keyDialog } from "./key.js";
import { call, readKey } from "./service.js";
import { bytes, duration, hasText, t } from "./texts.js";

const PAUSE_MS = 2000;
const LEVELS = ["high", "normal", "low", "other"];
// The reason of a drain that nobody gave one for.
const BY_OPERATOR = "by an operator";
// Lists that have acts on all that they show, and their titles.
const LISTS = { dead: "opsDead", failed: "opsFailed", "hooks-dead": "opsHooksDead", hooks: "opsHooks" };
let timer = 0;
let state = null;
let readAt = null;
const drawn = {};

for (const [id, title] of Object.entries(LISTS)) {
  const head = [make("h2", { id: `${id}-title` }, t(title)), make("span", { class: "count", id: `${id}-count` }), make("div", { class: "group", id: `${id}-all` })];
  document.querySelector("main").append(make("section", { "aria-labelledby": `${id}-title` }, make("div", { class: "section-head" }, ...head), make("div", { class: "rows", id })));
}
translate();

const time = (text) => (text ? new Date(text).toLocaleString(document.documentElement.lang) : "–");
const facts = (...each) => each.filter(Boolean).join(" · ");
const path = (...parts) => ["ops", ...parts.map(encodeURIComponent)].join("/");

function row(name, badge, text, ...acts) {
  return make("div", { class: "row", role: "listitem", "data-name": name },
    make("p", { class: "row-name" }, name, badge && make("span", { class: `badge ${badge}` }, hasText(`ops_${badge}`) ? t(`ops_${badge}`) : badge)),
    make("p", { class: "row-facts" }, text),
    make("div", { class: "row-acts" }, ...acts));
}

// A button of a row; its label names the row for those who do not see it.
function act(text, name, run) {
  return textButton(t(text), run, "small-button", { "aria-label": `${t(text)}: ${name}`, "data-act": `${text} ${name}` });
}

// Does one act, and tells of which worker, task or webhook it was.
async function change(method, target, done, name, json) {
  try {
    await call(method, target, { json });
    const text = t(done, { name });
    say(text);
    toast(text);
  } catch (error) {
    refused(error);
  }
  await look();
}

// Does an act on each of a list, and tells how many took it and why others did not.
async function changeAll(ids, method, target, button) {
  const [label, reasons] = [button.textContent, new Map()];
  let done = 0;
  button.disabled = true;
  clearTimeout(timer);
  for (const id of ids) {
    button.textContent = t("packing", { done: done + 1, all: ids.length });
    try {
      await call(method, target(id));
      done += 1;
    } catch (error) {
      reasons.set(error.message, (reasons.get(error.message) ?? 0) + 1);
      // What refuses one refuses them all for now.
      if (error.passing || error.status === 401 || error.type === "operators_only") break;
    }
  }
  button.textContent = label;
  button.disabled = false;
  const why = [...reasons].map(([text, count]) => `${count} × ${text}`).join(" ");
  toast([t("opsDone", { done, all: ids.length }), why].filter(Boolean).join(" "), { seconds: 12 });
  await look();
}

// Asks before what is not undone with one press; with a field for a reason, or without.
function ask(title, why, go, run, reason = false) {
  byId("sure-title").textContent = title;
  byId("sure-why").textContent = why;
  byId("sure-go").textContent = go;
  byId("reason-field").hidden = !reason;
  byId("reason").value = "";
  byId("sure-form").onsubmit = (event) => {
    event.preventDefault();
    byId("sure").close();
    run(byId("reason").value.trim());
  };
  byId("sure").showModal();
}
byId("sure-back").onclick = () => byId("sure").close();

// Puts rows in their place if they have changed, and the focus back on the button that had it.
function fill(id, all, rowOf, nothing, total = all.length) {
  const list = byId(id);
  const asked = id in LISTS ? byId("filter").value.trim().toLowerCase() : "";
  const shown = asked ? all.filter((each) => Object.values(each).join(" ").toLowerCase().includes(asked)) : all;
  const now = JSON.stringify([shown, total]);
  if (drawn[id] === now) return;
  drawn[id] = now;
  if (id in LISTS) headOf(id, shown, total);
  const rows = shown.map(rowOf);
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  if (rows.length) list.setAttribute("role", "list");
  else list.removeAttribute("role");
  list.replaceChildren(...(rows.length ? rows : [make("p", { class: "none" }, t(all.length ? "opsNoMatch" : nothing))]));
  if (focused) [...list.querySelectorAll("[data-act]")].find((each) => each.dataset.act === focused)?.focus({ preventScroll: true });
}

// Whether a worker takes jobs.
const takes = ({ state: now }) => now === "ready" || now === "busy";

// The head of a list: how many there are, and acts on all that are shown.
function headOf(id, shown, total) {
  byId(`${id}-count`).textContent = shown.length < total ? t("opsOf", { shown: shown.length, total }) : total || "";
  const ids = shown.map((each) => each.task_id ?? each.webhook_id);
  const many = (text, method, target) => {
    const button = textButton(t(text), () =>
      ask(t(`${text}Title`, { count: ids.length }), t(`${text}Why`), t(text), () => changeAll(ids, method, target, button)), "small-button");
    return button;
  };
  const acts = id.startsWith("hooks")
    ? [many("opsReplayAll", "POST", (each) => path("webhooks", each, "replay"))]
    : [many("opsRequeueAll", "POST", (each) => path("tasks", each, "requeue"))];
  if (id === "dead") acts.push(many("opsDropAll", "DELETE", (each) => path("dead-letters", each)));
  byId(`${id}-all`).replaceChildren(...(ids.length > 1 ? acts : []));
}

// Warns of models whose photos nobody takes.
function warn() {
  const models = [...new Set(state.workers.map((each) => each.model))].filter(Boolean);
  const unserved = models.filter((model) => !state.workers.some((each) => each.model === model && takes(each)));
  const queues = new Set(unserved.flatMap((model) => [`model.${model}`, ...state.workers.filter((each) => each.model === model).map((each) => each.queue)]));
  const queued = state.queues.filter((each) => queues.has(each.name)).flatMap((each) => Object.values(each.waiting)).reduce((sum, each) => sum + each, 0);
  byId("unserved").hidden = !unserved.length;
  byId("unserved").textContent = unserved.length ? t("opsUnserved", { models: unserved.join(", "), queued }) : "";
}

function workerRow(worker) {
  const { name } = worker;
  const last = takes(worker) && !state.workers.some((each) => each !== worker && each.model === worker.model && takes(each));
  const why = [t("opsDrainWhy"), last && t("opsDrainLast", { model: worker.model })].filter(Boolean).join(" ");
  const drain = () => ask(t("opsDrainTitle", { name }), why, t("opsDrain"),
    (reason) => change("POST", path("workers", name, "drain"), "opsDrained", name, reason ? { reason } : {}), true);
  const end = worker.state === "drained"
    ? act("opsUndrain", name, () => change("POST", path("workers", name, "undrain"), "opsUndrained", name))
    : act("opsDrain", name, drain);
  const silent = worker.silent_seconds != null && t("opsSilent", { time: duration(worker.silent_seconds) });
  return row(name, worker.state, facts(worker.model, worker.path, t("opsEach", { time: duration(worker.seconds_per_job) }),
    worker.running ? t("opsRunning", { count: worker.running }) : "", ...memory(worker), worker.drained === BY_OPERATOR ? t("opsByOperator") : worker.drained, silent), end);
}

// What a worker's processes hold, and its GPU; workers of older versions do not say.
function memory({ resident_bytes: resident, gpu_used_bytes: used, gpu_total_bytes: total }) {
  return [
    resident && t("opsMemory", { size: bytes(resident) }),
    total && t("opsGpu", { used: bytes(used), total: bytes(total) }),
  ];
}

function queueRow(queue) {
  const levels = LEVELS.filter((level) => level in queue.waiting).map((level) => `${t(`ops_${level}`)} ${queue.waiting[level]}`);
  const wait = queue.expected_seconds == null ? t("opsNobody") : t("opsWait", { time: duration(queue.expected_seconds) });
  return row(queue.name, "", facts(...levels, t("opsRunning", { count: queue.running }), wait));
}

function failureRow(failure, dead) {
  const id = failure.task_id;
  const again = act("opsRequeue", id, () => change("POST", path("tasks", id, "requeue"), "opsRequeued", id));
  const drop = () => ask(t("opsDropTitle"), t("opsDropWhy", { id }), t("opsDrop"), () => change("DELETE", path("dead-letters", id), "opsDropped", id));
  return row(id, failure.error, facts(time(failure.finished_at), failure.model, failure.worker, failure.owner, failure.message),
    again, dead ? act("opsDrop", id, drop) : null);
}

function hookRow(hook) {
  const id = hook.webhook_id;
  const next = hook.next_attempt_at && t("opsNext", { time: time(hook.next_attempt_at) });
  const drop = () => ask(t("opsHookTitle"), t("opsHookWhy", { id }), t("opsDrop"), () => change("DELETE", path("webhooks", id), "opsDropped", id));
  return row(id, "", facts(hook.host, hook.event, t("opsAttempts", { count: hook.attempts }), next, hook.reason),
    act("opsReplay", id, () => change("POST", path("webhooks", id, "replay"), "opsReplayed", id)), act("opsDrop", id, drop));
}

function show() {
  const { counts, links, totals } = state;
  byId("sum").textContent = t("opsSum", counts);
  for (const name of ["flower", "grafana"]) {
    byId(name).hidden = !links[name];
    if (links[name]) byId(name).href = links[name];
  }
  warn();
  fill("workers", state.workers, workerRow, "opsNoWorkers");
  fill("queues", state.queues, queueRow, "opsNoQueues");
  fill("dead", state.dead_letters, (each) => failureRow(each, true), "opsNone", totals.dead_letters);
  fill("failed", state.failed, (each) => failureRow(each, false), "opsNone", totals.failed);
  fill("hooks-dead", state.dead_webhooks, hookRow, "opsNone", totals.dead_webhooks);
  fill("hooks", state.waiting_webhooks, hookRow, "opsNone", totals.waiting_webhooks);
  byId("fault").textContent = state.unreadable.length ? t("opsUnreadable", { ids: state.unreadable.join(", ") }) : "";
}
byId("filter").oninput = () => state && show();

function refused(error) {
  if (error.status === 401) return;
  if (error.type === "operators_only") return askKey(t("opsOnly"));
  toast(error.type === "network" ? t("error_network") : t("error_unknown", { message: error.message }));
}

// Says what keeps the page from being up to date, and of when it is.
function stale(error) {
  document.body.classList.add("stale");
  const key = error.status === 401 || error.type === "operators_only";
  const why = key ? t("opsKeyGone") : error.type === "network" ? t("error_network") : t("error_unknown", { message: error.message });
  byId("fault").textContent = [why, readAt && t("opsAsOf", { time: time(readAt) })].filter(Boolean).join(" ");
  if (key) {
    byId("open-key").hidden = false;
    refused(error);
  }
  return key;
}

// One reading at a time, and none while the page is hidden or a key is asked for.
async function look() {
  clearTimeout(timer);
  try {
    state = await call("GET", "ops");
    readAt = Date.now();
    byId("open-key").hidden = !readKey();
    show();
    document.body.classList.remove("stale");
  } catch (error) {
    if (stale(error)) return;
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, PAUSE_MS);
}
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));

const askKey = keyDialog({ title: t("opsKeyTitle"), why: t("opsKeyWhy"), use: look });

await look();
document.documentElement.dataset.ready = "yes";
