// Holds dms.mjs to the golden vectors of a folder: node test.mjs FOLDER

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { schedule } from "./dms.mjs";

/** A hexadecimal float, such as -0x1.8p+3, or nan, inf or -inf. */
export function parseHex(text) {
  const words = { nan: NaN, inf: Infinity, "-inf": -Infinity };
  if (text in words) return words[text];
  const [, sign, whole, fraction = "", exponent] =
    /^(-?)0x([01])(?:\.([0-9a-f]+))?p([+-]\d+)$/.exec(text);
  // At most 53 bits, then a power of two: both are exact.
  const digits = parseInt(whole + fraction, 16);
  return (sign ? -1 : 1) * digits * 2 ** (Number(exponent) - 4 * fraction.length);
}

const numbers = (texts) => texts.map((x) => (typeof x === "string" ? parseHex(x) : x));
const arrays = (given) =>
  Object.fromEntries(
    Object.entries(given).map(([name, { shape, values }]) => [
      name,
      { shape, values: numbers(values) },
    ]),
  );

/** What is wrong with the outputs of a vector, in words; nothing if it conforms. */
function problems(vector) {
  let result;
  try {
    result = schedule(vector.spec, arrays(vector.arrays), arrays(vector.parameters));
  } catch (error) {
    const refused = error.constructor.name;
    return refused === vector.refusal ? [] : [`${refused}: ${error.message}`];
  }
  if (vector.refusal) return [`there is an answer in place of ${vector.refusal}`];
  const { shape, values } = vector.active;
  const [count, width] = shape;
  const active = values.map(Boolean);
  const found = [];
  const wrong = (name, i, what) => found.push(`${name}[${i}]: ${what}`);
  const flat = (name, rows, [height, columns]) => {
    const good = rows.length === height && rows.every((row) => row.length === columns);
    if (!good) found.push(`${name} has the wrong shape`);
    return good ? rows.flat() : null;
  };
  flat("active", result.active, shape)?.forEach((x, i) => {
    if (x !== active[i]) wrong("active", i, `is ${x}`);
  });
  const members = Array.from({ length: count }, (_, b) =>
    active.slice(b * width, (b + 1) * width).filter(Boolean).length,
  );
  const [eps, k] = [parseHex(vector.eps), parseHex(vector.k)];
  for (const [name, expected] of Object.entries(vector.expected)) {
    const exact = numbers(expected.values);
    const scale = numbers(expected.scale);
    const allowance = expected.allowance ? numbers(expected.allowance) : null;
    const rows = Object.hasOwn(vector.spec.signals, name) ? result.signals[name] : result[name];
    flat(name, rows, expected.shape)?.forEach((x, i) => {
      const row = Math.floor(i / expected.shape[1]);
      // Exact: what is not active, what has nothing active, infinities, and the only one's weight.
      const inactive = name === "fused" ? members[row] === 0 : !active[i];
      const only = name === "weights" && members[row] === 1;
      if (inactive || only || !Number.isFinite(exact[i])) {
        if (x !== exact[i]) wrong(name, i, `is ${x}, not exactly ${exact[i]}`);
        return;
      }
      const error = Math.abs(x - exact[i]);
      const allowed = k * eps * scale[i] + (allowance?.[i] ?? 0);
      // Written so that NaN is wrong.
      if (!(Number.isFinite(x) && error <= allowed)) {
        wrong(name, i, `is ${x}, off by ${error}, ${allowed} is allowed`);
      }
    });
  }
  result.weights.forEach((row, b) => {
    if (row.some((w) => w < 0)) wrong("weights", b, "one is negative");
    const off = Math.abs(row.reduce((total, w) => total + w, 0) - 1);
    if (members[b] && !(off <= 4 * width * eps)) wrong("weights", b, `the sum is off by ${off}`);
  });
  return found;
}

const folder = process.argv[2];
if (!folder) {
  console.error("usage: node test.mjs FOLDER");
  process.exit(2);
}
const names = readdirSync(folder).filter((name) => name.endsWith(".json")).sort();
const clauses = new Map();
let [total, failed] = [0, 0];
for (const name of names) {
  const file = JSON.parse(readFileSync(join(folder, name), "utf8"));
  if (file.format !== "dms-vectors" || file.format_version !== 1) {
    console.error(`${name} is not of format dms-vectors, version 1`);
    process.exit(2);
  }
  for (const vector of file.vectors) {
    const found = problems(vector);
    total += 1;
    failed += found.length > 0;
    for (const problem of found) {
      console.log(`${name}: ${vector.description}, ${vector.dtype}: ${problem}`);
    }
    for (const clause of vector.clauses) {
      const row = clauses.get(clause) ?? { vectors: 0, passed: 0 };
      clauses.set(clause, {
        vectors: row.vectors + 1,
        passed: row.passed + (found.length === 0),
      });
    }
  }
}
console.log("clause      vectors  passed");
for (const [clause, { vectors, passed }] of [...clauses].sort(([a], [b]) => (a < b ? -1 : 1))) {
  console.log(`${clause}  ${String(vectors).padStart(8)}${String(passed).padStart(8)}`);
}
console.log(`${total - failed} of ${total} vectors passed, ${clauses.size} clauses`);
process.exit(failed || !total ? 1 : 0);
