// Writes a ZIP archive of files that are compressed already: stored, names in UTF-8.
const TABLE = new Uint32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

async function crc32(blob) {
  let value = ~0;
  const reader = blob.stream().getReader();
  for (;;) {
    const { done, value: bytes } = await reader.read();
    if (done) return ~value >>> 0;
    for (let at = 0; at < bytes.length; at++) value = TABLE[(value ^ bytes[at]) & 255] ^ (value >>> 8);
  }
}

function record(signature, length, fields) {
  const view = new DataView(new ArrayBuffer(length));
  view.setUint32(0, signature, true);
  for (const [at, bytes, value] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
  }
  return view.buffer;
}

function dosTime(date) {
  const time = (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1);
  const day = ((date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate();
  return [time, day];
}

// `files` yields { name, blob }; no archive may reach 4 GiB.
export async function zip(files) {
  const parts = [];
  const directory = [];
  const [time, day] = dosTime(new Date());
  let offset = 0;
  let count = 0;
  for await (const { name, blob } of files) {
    const path = new TextEncoder().encode(name);
    const crc = await crc32(blob);
    const shared = (at) => [
      [at, 2, 20], [at + 2, 2, 0x0800], [at + 4, 2, 0], [at + 6, 2, time], [at + 8, 2, day],
      [at + 10, 4, crc], [at + 14, 4, blob.size], [at + 18, 4, blob.size], [at + 22, 2, path.length],
    ];
    parts.push(record(0x04034b50, 30, shared(4)), path, blob);
    directory.push(record(0x02014b50, 46, [[4, 2, 20], ...shared(6), [42, 4, offset]]), path);
    offset += 30 + path.length + blob.size;
    count += 1;
    if (offset > 0xf0000000) throw new RangeError("zip");
  }
  const size = directory.reduce((sum, each) => sum + each.byteLength, 0);
  const end = record(0x06054b50, 22, [[8, 2, count], [10, 2, count], [12, 4, size], [16, 4, offset]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

// Names each file after its input, in its folder; no name comes twice.
export function fileNamer() {
  const taken = new Set();
  return (path, extension) => {
    const safe = path.split(/[\\/]+/).filter((part) => part && part !== "." && part !== "..")
      .map((part) => part.replace(/[\x00-\x1f\x7f<>:"|?*]+/g, "-")).join("/");
    const stem = safe.replace(/\.[^./]*$/, "") || "photo";
    let name = `${stem}.${extension}`;
    for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${stem}-${number}.${extension}`;
    taken.add(name.toLowerCase());
    return name;
  };
}
