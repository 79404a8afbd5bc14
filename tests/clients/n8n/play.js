// Plays an n8n workflow: node play.js WORKFLOW.json SETTINGS-AS-JSON. Its HTTP nodes send requests, its expressions and
// code are run as JavaScript, its Wait node is resumed by the webhook that arrives. Prints what the last node returns.
const fs = require("node:fs");
const http = require("node:http");

const workflow = JSON.parse(fs.readFileSync(process.argv[2]));
const given = JSON.parse(process.argv[3]);
const done = {}; // by node's name, its last item

// The value of a parameter, with each {{ expression }} in a text that begins with "=" evaluated.
function evaluate(value, item, execution) {
  if (typeof value !== "string" || !value.startsWith("=")) return value;
  const names = ["$json", "$execution", "$workflow", "$"];
  const values = [item.json, execution, { id: "w1" }, (name) => ({ first: () => done[name] })];
  const run = (text) => new Function(...names, `return (${text});`)(...values);
  const whole = value.match(/^=\{\{((?:(?!\}\}).)*)\}\}$/s);
  if (whole) return run(whole[1]);
  return value.slice(1).replace(/\{\{(.*?)\}\}/gs, (_, text) => String(run(text)));
}

const kinds = {
  manualTrigger: async () => ({ json: {} }),
  async set({ assignments }, item, execution) {
    const pairs = assignments.assignments.map((each) => [each.name, evaluate(each.value, item, execution)]);
    return { json: { ...Object.fromEntries(pairs), ...given } };
  },
  async httpRequest(parameters, item, execution) {
    const read = (value) => evaluate(value, item, execution);
    const url = new URL(read(parameters.url));
    for (const each of parameters.queryParameters?.parameters ?? []) url.searchParams.append(each.name, read(each.value));
    const headers = Object.fromEntries((parameters.headerParameters?.parameters ?? []).map((each) => [each.name, read(each.value)]));
    const body = parameters.sendBody ? read(parameters.jsonBody) : undefined;
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(url, { method: parameters.method ?? "GET", headers, body });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    if (parameters.options.response?.response.responseFormat !== "file") return { json: await answer.json() };
    return { json: {}, binary: { data: Buffer.from(await answer.arrayBuffer()) } };
  },
  async wait({ httpMethod, options }, item, execution) {
    const request = await execution.resumed;
    if (request.method !== httpMethod || !options.rawBody) throw new Error("not what the service sends");
    return { json: { headers: request.headers }, binary: { data: request.body } };
  },
  async code({ jsCode }, item) {
    const AsyncFunction = (async () => {}).constructor;
    const helpers = { getBinaryDataBuffer: async (_, name) => item.binary[name] };
    const run = new AsyncFunction("require", "$input", "$", jsCode);
    return (await run.call({ helpers }, require, { first: () => item }, (name) => ({ first: () => done[name] })))[0];
  },
  async if({ conditions }, item, execution) {
    const holds = conditions.conditions.every((each) => evaluate(each.leftValue, item, execution) === true);
    return { ...item, output: holds ? 0 : 1 };
  },
  async stopAndError({ errorMessage }, item, execution) {
    throw new Error(evaluate(errorMessage, item, execution));
  },
};

async function play(execution) {
  const byName = Object.fromEntries(workflow.nodes.map((each) => [each.name, each]));
  let node = workflow.nodes.find((each) => each.type.endsWith("Trigger"));
  let item = { json: {} };
  const path = [];
  while (node) {
    const kind = node.type.replace("n8n-nodes-base.", "");
    item = await kinds[kind](node.parameters, item, execution);
    done[node.name] = item;
    path.push(node.name);
    node = byName[workflow.connections[node.name]?.main[item.output ?? 0]?.[0]?.node];
  }
  return { path, file: item.binary?.data.toString("base64") };
}

let resume;
const resumed = new Promise((resolve) => (resume = resolve));
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    response.end();
    resume({ method: request.method, headers: request.headers, body: Buffer.concat(chunks) });
  });
});
server.listen(0, "127.0.0.1", async () => {
  const resumeUrl = `http://127.0.0.1:${server.address().port}/webhook-waiting/17`;
  try {
    console.log(JSON.stringify(await play({ id: String(process.pid), resumeUrl, resumed })));
  } catch (error) {
    console.error(String(error));
    process.exitCode = 1;
  }
  server.close();
  server.closeAllConnections();
});
