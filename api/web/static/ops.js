// The operators' view: what the service does now, every two seconds, and the acts on it.
import { byId, make, say, toast, translate } from "./elements.js";
import { keyDialog } from "./key.js";
import { call } from "./service.js";
import { bytes, duration, hasText, t } from "./texts.js";

const PAUSE_MS = 2000;
const LEVELS = ["high", "normal", "low", "other"];
let timer = 0;

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
  return make("button", { type: "button", class: "button small-button", "aria-label": `${t(text)}: ${name}`, "data-act": `${text} ${name}`, onclick: run }, t(text));
}

async function change(method, target, done, json) {
  try {
    await call(method, target, { json });
    say(t(done));
    toast(t(done));
  } catch (error) {
    refused(error);
  }
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

// Puts rows in their place, and the focus back on the button that had it.
function fill(id, rows, nothing) {
  const list = byId(id);
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  if (rows.length) list.setAttribute("role", "list");
  else list.removeAttribute("role");
  list.replaceChildren(...(rows.length ? rows : [make("p", { class: "none" }, t(nothing))]));
  if (focused) [...list.querySelectorAll("[data-act]")].find((each) => each.dataset.act === focused)?.focus({ preventScroll: true });
}

function workerRow(worker) {
  const { name } = worker;
  const drain = () => ask(t("opsDrainTitle", { name }), t("opsDrainWhy"), t("opsDrain"),
    (reason) => change("POST", path("workers", name, "drain"), "opsDrained", reason ? { reason } : {}), true);
  const end = worker.state === "drained"
    ? act("opsUndrain", name, () => change("POST", path("workers", name, "undrain"), "opsUndrained"))
    : act("opsDrain", name, drain);
  const silent = worker.silent_seconds != null && t("opsSilent", { time: duration(worker.silent_seconds) });
  return row(name, worker.state, facts(worker.model, worker.path, t("opsEach", { time: duration(worker.seconds_per_job) }),
    worker.running ? t("opsRunning", { count: worker.running }) : "", ...memory(worker), worker.drained, silent), end);
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
  const again = act("opsRequeue", id, () => change("POST", path("tasks", id, "requeue"), "opsRequeued"));
  const drop = () => ask(t("opsDropTitle"), t("opsDropWhy", { id }), t("opsDrop"), () => change("DELETE", path("dead-letters", id), "opsDropped"));
  return row(id, failure.error, facts(time(failure.finished_at), failure.model, failure.worker, failure.owner, failure.message),
    again, dead ? act("opsDrop", id, drop) : null);
}

function hookRow(hook) {
  const id = hook.webhook_id;
  const next = hook.next_attempt_at && t("opsNext", { time: time(hook.next_attempt_at) });
  const drop = () => ask(t("opsHookTitle"), t("opsHookWhy", { id }), t("opsDrop"), () => change("DELETE", path("webhooks", id), "opsDropped"));
  return row(id, "", facts(hook.host, hook.event, t("opsAttempts", { count: hook.attempts }), next, hook.reason),
    act("opsReplay", id, () => change("POST", path("webhooks", id, "replay"), "opsReplayed")), act("opsDrop", id, drop));
}

function show(state) {
  const { counts, links } = state;
  byId("sum").textContent = t("opsSum", counts);
  for (const name of ["flower", "grafana"]) {
    byId(name).hidden = !links[name];
    if (links[name]) byId(name).href = links[name];
  }
  fill("workers", state.workers.map(workerRow), "opsNoWorkers");
  fill("queues", state.queues.map(queueRow), "opsNoQueues");
  fill("dead", state.dead_letters.map((each) => failureRow(each, true)), "opsNone");
  fill("failed", state.failed.map((each) => failureRow(each, false)), "opsNone");
  fill("hooks-dead", state.dead_webhooks.map(hookRow), "opsNone");
  fill("hooks", state.waiting_webhooks.map(hookRow), "opsNone");
  byId("fault").textContent = state.unreadable.length ? t("opsUnreadable", { ids: state.unreadable.join(", ") }) : "";
}

function refused(error) {
  if (error.status === 401) return;
  if (error.type === "operators_only") return askKey(t("opsOnly"));
  toast(error.type === "network" ? t("error_network") : t("error_unknown", { message: error.message }));
}

// One reading at a time, and none while the page is hidden or a key is asked for.
async function look() {
  clearTimeout(timer);
  try {
    show(await call("GET", "ops"));
    document.body.classList.remove("stale");
  } catch (error) {
    document.body.classList.add("stale");
    if (error.status === 401 || error.type === "operators_only") return refused(error);
    byId("fault").textContent = error.type === "network" ? t("error_network") : t("error_unknown", { message: error.message });
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, PAUSE_MS);
}
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));

const askKey = keyDialog({ title: t("opsKeyTitle"), why: t("opsKeyWhy"), use: look });

await look();
document.documentElement.dataset.ready = "yes";
