// Verify a webhook with Node alone: node verify-webhook.js SECRET ID TIMESTAMP SIGNATURE < BODY
const crypto = require("node:crypto");
const fs = require("node:fs");

const TOLERANCE_SECONDS = 300;

// Return whether the signature of the body (a Buffer, exactly as received) is valid and recent.
function verify(secret, id, timestamp, signatures, body) {
  const age = Math.abs(Date.now() / 1000 - Number(timestamp));
  if (!/^[0-9]+$/.test(timestamp) || age > TOLERANCE_SECONDS) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const digest = crypto.createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  // There are several while a secret is being replaced; one valid signature is enough.
  return signatures.split(" ").some((text) => {
    const given = Buffer.from(text);
    return given.length === expected.length && crypto.timingSafeEqual(given, expected);
  });
}

if (require.main === module) {
  process.exitCode = verify(...process.argv.slice(2, 6), fs.readFileSync(0)) ? 0 : 1;
}

module.exports = { verify };
