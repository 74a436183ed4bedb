/**
 * Logs of responses, read where they are dropped: traces.jsonl of a run, TRL's completions (parquet or JSON lines) and
 * verl's rollouts (JSON lines), gzipped or not. Pure functions: bytes in, traces out. The same rules as mpo_nb.runs; a
 * test compares the two.
 *
 * A trace is { tokens, mask, logps, oldLogps, entropies, prompt, step, group, index, reward, advantage, finished,
 * answer, correct, note }; a number that is not known is NaN.
 */

import { parquetMetadata, parquetReadObjects } from "./hyparquet.js";

// ---------------------------------------------------------------------------------------------------------------------
// Text

const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's \s
const WORD = "\\p{L}\\p{N}_"; // Python's \w
const PIECE = new RegExp(
  `(?:(?!\\n)[${SPACE}])?[\\p{L}\\p{Nl}\\p{No}_]+|(?:(?!\\n)[${SPACE}])?\\p{Nd}` +
    `|(?:(?!\\n)[${SPACE}])?[^${WORD}${SPACE}]|[${SPACE}]`,
  "gu",
);

/** Half of a surrogate pair becomes U+FFFD. */
export function writable(text) {
  return text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

/** A text cut at words, digits and signs, each with the space before it; joined, they are the text. */
export function cutText(text) {
  return writable(text).match(PIECE) || [];
}

/** JSON as Python writes it. */
function pythonJson(value, ascii) {
  if (Array.isArray(value)) return `[${value.map((item) => pythonJson(item, ascii)).join(", ")}]`;
  if (value && typeof value === "object") {
    const parts = Object.entries(value).map(([key, item]) => `${pythonJson(key, ascii)}: ${pythonJson(item, ascii)}`);
    return `{${parts.join(", ")}}`;
  }
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  const text = JSON.stringify(value) ?? "null";
  if (!ascii) return text;
  return text.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const isRecord = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
const isMissing = (x) => x === null || x === undefined || (typeof x === "number" && Number.isNaN(x));

// ---------------------------------------------------------------------------------------------------------------------
// Messages

const THOUGHTS = ["reasoning_content", "reasoning", "thinking"]; // where a message keeps what was thought

function partText(part) {
  if (typeof part === "string") return part;
  if (!isRecord(part)) return "";
  const key = ["text", ...THOUGHTS, "content"].find((name) => typeof part[name] === "string");
  return key ? part[key] : "";
}

function fieldText(value) {
  if (isMissing(value)) return "";
  if (typeof value === "string" || isRecord(value)) return partText(value);
  return Array.isArray(value) ? value.map(partText).join("") : String(value);
}

function toolCalls(message) {
  const given = message.tool_calls;
  const calls = Array.isArray(given) ? given : typeof given === "string" || isRecord(given) ? [given] : [];
  const there = [...calls, message.function_call].filter((call) => !isMissing(call) && call !== "");
  return there.map((call) => (typeof call === "string" ? call : pythonJson(call, true))).join("");
}

/** The text of a message: what was thought, what was said, and calls of tools. */
export function messageText(message) {
  const body = fieldText(message.content);
  let thoughts = [...new Set(THOUGHTS.map((key) => fieldText(message[key])).filter(Boolean))];
  if (body.includes("</" + "think>")) {
    const opened = body.trimStart().replace(/^<think>/, "").trimStart();
    thoughts = thoughts.filter((thought) => !opened.startsWith(thought.trim()));
  }
  return [...thoughts, body + toolCalls(message)].filter(Boolean).join("\n\n");
}

/** A prompt as text; a conversation has its roles in front. */
export function promptText(prompt) {
  if (typeof prompt === "string") return prompt;
  if (isMissing(prompt)) return "";
  const messages = isRecord(prompt) ? [prompt] : prompt;
  if (!Array.isArray(messages)) return String(prompt);
  const line = (message) => isRecord(message) ? `${message.role || "user"}: ${messageText(message)}` : String(message);
  return messages.map(line).join("\n");
}

/** A completion as tokens and mask: 1 for what the assistant said, 0 for a tool's reply. */
export function completionTokens(completion) {
  const messages = Array.isArray(completion) ? completion : completion === null ? [] : [completion ?? []].flat();
  const tokens = [];
  const mask = [];
  for (const message of messages) {
    const text = isRecord(message) ? messageText(message) : String(message);
    const own = !isRecord(message) || (message.role || "assistant") === "assistant";
    const pieces = cutText(text);
    tokens.push(...pieces);
    mask.push(...pieces.map(() => Number(own)));
  }
  return { tokens, mask };
}

// ---------------------------------------------------------------------------------------------------------------------
// Lines of JSON

const NAN = "\u0001NaN"; // stands for a NaN while a line is parsed

/** The value of a line. Python writes NaN and Infinity, which JSON does not have. `floats` gathers names of floats. */
export function parseLine(line, floats = null) {
  const text = line.replace(/^[\0 \t\r\n\ufeff]+|[\0 \t\r\n]+$/g, "");
  if (!text) return undefined;
  let source = text;
  let odd = false;
  if (/\b(?:NaN|Infinity)\b/.test(text)) {
    source = text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (part) => {
      if (part[0] === '"') return part;
      odd = true;
      return { NaN: JSON.stringify(NAN), Infinity: "1e999", "-Infinity": "-1e999" }[part] ?? part;
    });
  }
  if (!odd && !floats) return JSON.parse(source);
  return JSON.parse(source, (key, value, context) => {
    const float = value === NAN || (typeof value === "number" && /[.eE]/.test(context?.source ?? String(value)));
    if (float && floats) floats.add(key);
    return value === NAN ? NaN : value;
  });
}

/** The rows of a text of JSON lines. A last line without its end counts only where `unfinished` says so. */
export function jsonRows(text, name, { unfinished, floats = null }) {
  const lines = text.split("\n");
  const rows = [];
  let torn = false;
  lines.forEach((line, i) => {
    const last = i === lines.length - 1;
    if (last && !unfinished) {
      torn = line.replace(/[\0 \t\r]/g, "") !== "";
      return;
    }
    try {
      const row = parseLine(line, floats);
      if (row !== undefined) rows.push(row);
    } catch {
      if (!last) throw new Error(`Line ${i + 1} of ${name} is not JSON.`);
      torn = true;
    }
  });
  return { rows, torn };
}

// ---------------------------------------------------------------------------------------------------------------------
// traces.jsonl of a run

const real = (value) => (value === null || value === undefined ? NaN : Number(value));

function perToken(row, name, fallback, where) {
  const values = row[name] ?? [];
  if (!Array.isArray(values)) throw new Error(`${where} is no trace: ${name} is no list.`);
  if (!values.length) return fallback;
  if (values.length !== fallback.length) {
    throw new Error(`${where} is no trace: ${name} has ${values.length} values for ${fallback.length} tokens.`);
  }
  if (values.some((value) => value !== null && typeof value !== "number")) {
    throw new Error(`${where} is no trace: ${name} holds what is no number.`);
  }
  return values.map(real);
}

/** One record of traces.jsonl. */
export function traceOf(row, where) {
  const tokens = isRecord(row) ? row.tokens : null;
  if (!Array.isArray(tokens) || tokens.some((token) => typeof token !== "string")) {
    throw new Error(`${where} is no trace: it has no list of texts named tokens.`);
  }
  const unknown = tokens.map(() => NaN);
  const logps = perToken(row, "logps", unknown, where);
  return {
    tokens: tokens.map(writable),
    mask: perToken(row, "mask", tokens.map(() => 1), where),
    logps,
    oldLogps: perToken(row, "old_logps", logps, where),
    entropies: perToken(row, "entropies", unknown, where),
    prompt: row.prompt ?? "",
    step: row.step ?? 0,
    group: row.group ?? 0,
    index: row.index ?? 0,
    reward: real(row.reward),
    advantage: row.advantage === undefined ? 0 : real(row.advantage),
    finished: row.finished ?? true,
    answer: row.answer ?? null,
    correct: row.correct ?? null,
    note: row.note ?? "",
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// What TRL and verl have in common

/** The step of a row: its own, or the one in the file's name. */
function rowStep(row, name) {
  const step = row.step;
  if (isMissing(step) || step === "") return Number((name.match(/\d+/) || [0])[0]);
  const number = typeof step === "string" && !step.trim() ? NaN : Number(step);
  if (!Number.isInteger(number)) {
    throw new Error(`${name} holds step=${JSON.stringify(step)}, which is no whole number.`);
  }
  return number;
}

/** A number, or null for what is none; a truth value is none. */
const numberOrNull = (value) => (typeof value === "number" ? value : null);

function loggedTrace(completion, fields) {
  const { tokens, mask } = completionTokens(completion);
  const unknown = tokens.map(() => NaN);
  return {
    tokens,
    mask,
    logps: unknown,
    oldLogps: unknown,
    entropies: unknown,
    finished: true,
    answer: null,
    ...fields,
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// TRL's completions

const FIXED = ["step", "prompt", "completion", "advantage"];
const MEASURES = new Set(
  ("length len lengths token tokens chars words temperature time seconds latency step steps epoch id idx index seed " +
    "num count level difficulty logp logps logprob logprobs entropy ratio loss kl turns calls confidence probability " +
    "weight").split(" "),
);
const PAID = new Set(["reward", "rewards", "penalty", "score", "bonus"]);

const wordsOf = (name) => (name.match(/[A-Z]?[a-z]+|[A-Z]+(?![a-z])/g) || []).map((word) => word.toLowerCase());

function numberColumns(rows) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((name) => !FIXED.includes(name));
  return columns.filter((name) => {
    const there = rows.map((row) => row[name]).filter((value) => value !== null && value !== undefined);
    return there.length > 0 && there.every((value) => numberOrNull(value) !== null);
  });
}

function candidateRewards(rows, floatNames) {
  const numbers = numberColumns(rows);
  const floats = numbers.filter((name) => floatNames.has(name));
  const may = (name) =>
    !wordsOf(name).some((word) => MEASURES.has(word)) || wordsOf(name).some((word) => PAID.has(word));
  let candidates = numbers.filter(may);
  if (!candidates.length) candidates = (floats.length ? floats : numbers).slice(0, 1);
  return floats.includes(candidates[0]) ? candidates.filter((name) => floats.includes(name)) : candidates;
}

const mean = (x) => x.reduce((a, b) => a + b, 0) / x.length;
const centred = (x) => x.map((value) => value - mean(x));
const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
const largest = (x) => Math.max(...x.map(Math.abs));

/** Whether advantages are the sums less their mean, times something positive. */
function proportional(sums, advantages) {
  const r = centred(sums);
  const A = centred(advantages);
  if (largest(A) < 1e-6) return largest(r) < 1e-6;
  const norms = Math.sqrt(dot(r, r) * dot(A, A));
  return dot(r, A) >= 0.999 * norms && norms > 0;
}

/** Whether the advantages follow the sum of these columns in each group, and at least one group says so. */
function follows(groups, columns) {
  let decided = false;
  for (const rows of groups) {
    const advantages = rows.map((row) => numberOrNull(row.advantage) ?? NaN);
    if (rows.length < 2 || !advantages.every(Number.isFinite)) continue;
    const sums = rows.map((row) => columns.map((name) => row[name]).filter(Number.isFinite).reduce((a, b) => a + b, 0));
    decided = true;
    if (!proportional(sums, advantages)) return false;
  }
  return decided;
}

/** The columns that are rewards: the longest leading part that the advantages follow, else by their names. */
export function chooseRewards(groups, floatNames) {
  const rows = groups.flat();
  const candidates = candidateRewards(rows, floatNames);
  const leading = candidates.map((_, i) => candidates.slice(0, candidates.length - i));
  const last = candidates.findLastIndex((name) =>
    wordsOf(name).some((word) => word === "reward" || word === "rewards")
  );
  const byName = last < 0 ? candidates : candidates.slice(0, last + 1);
  const chosen = leading.find((columns) => follows(groups, columns)) || byName;
  return { chosen, others: numberColumns(rows).filter((name) => !chosen.includes(name)) };
}

/** The rows of each group: as many as follow each other with the same prompt. */
function groupsByPrompt(rows) {
  const groups = [];
  let before = null;
  for (const row of rows) {
    const prompt = JSON.stringify(row.prompt ?? null);
    if (prompt !== before) groups.push([]);
    before = prompt;
    groups[groups.length - 1].push(row);
  }
  return groups;
}

/** TRL's tables as traces. tables: [{ name, rows, floats }, ...] in the order of their steps. */
export function trlTraces(tables) {
  for (const { name, rows } of tables) {
    const columns = new Set(rows.flatMap((row) => (isRecord(row) ? Object.keys(row) : [])));
    const missing = ["step", "prompt", "completion"].filter((column) => !columns.has(column));
    if (rows.length && missing.length) {
      throw new Error(`${name} has no column ${missing.join(", ")}; drop what TRL logs with log_completions=True.`);
    }
  }
  const looked = tables.slice(0, 8);
  const floats = new Set(looked.flatMap((table) => [...table.floats]));
  const { chosen, others } = chooseRewards(looked.flatMap((table) => groupsByPrompt(table.rows)), floats);
  const traces = [];
  let before = null;
  for (const { name, rows } of tables) {
    const texts = JSON.stringify(rows.map((row) => [row.prompt, row.completion]));
    if (texts === before) continue; // logged again, for another update
    before = texts;
    groupsByPrompt(rows).forEach((rows, group) =>
      rows.forEach((row, index) => {
        const known = chosen.map((column) => row[column]).filter(Number.isFinite);
        const trace = loggedTrace(row.completion, {
          prompt: promptText(row.prompt),
          step: rowStep(row, name),
          group,
          index,
          reward: known.length ? known.reduce((a, b) => a + b, 0) : NaN,
          advantage: "advantage" in row ? numberOrNull(row.advantage) ?? 0 : NaN,
          correct: null,
          note: "logged by TRL, not the model's own tokens",
        });
        traces.push(trace);
      })
    );
  }
  return { traces, chosen, others };
}

// ---------------------------------------------------------------------------------------------------------------------
// verl's rollouts

const TRUTH = { true: true, 1: true, "1.0": true, false: false, 0: false, "0.0": false };

function scoreOf(value, where) {
  if (value === null || value === undefined || value === "") return NaN;
  const number = typeof value === "string" && value.trim() ? Number(value) : value;
  if (typeof number === "boolean") return Number(number);
  if (typeof number !== "number" || (typeof value === "string" && Number.isNaN(number) && value !== "nan")) {
    throw new Error(`${where} has score=${JSON.stringify(value).slice(0, 40)}, which is no number.`);
  }
  return number;
}

const asText = (value) => isMissing(value) ? null : typeof value === "string" ? value : pythonJson(value, false);

function uidParts(row) {
  const parts = typeof row.uid === "string" ? row.uid.match(/^(.*)_(\d+)_(\d+)$/s) : null;
  return parts ? [parts[1], Number(parts[2]), Number(parts[3])] : null;
}

function isRight(row) {
  if (!Number.isFinite(row.score)) return null;
  const acc = typeof row.acc === "string" ? TRUTH[row.acc.toLowerCase()] : row.acc;
  return acc === true || acc === 1 ? true : acc === false || acc === 0 ? false : null;
}

/** One of verl's files as traces. */
export function verlTraces(rows, name) {
  const scored = rows.some((row) => isRecord(row) && "score" in row);
  const groups = new Map();
  rows.forEach((row, i) => {
    const where = `Record ${i + 1} of ${name}`;
    const needed = ["input", "output", "score"].filter((key) => key !== "score" || !scored);
    const missing = needed.filter((key) => !isRecord(row) || !(key in row));
    if (missing.length) {
      throw new Error(`${where} has no ${missing.join(", ")}; drop what verl writes into trainer.rollout_data_dir.`);
    }
    const input = row.input !== null && typeof row.input === "object" ? promptText(row.input) : asText(row.input) ?? "";
    const whole = { ...row, input, score: scoreOf(row.score, where) };
    const uid = uidParts(row);
    const key = uid ? JSON.stringify(["uid", uid[0]]) : JSON.stringify([input, asText(row.gts)]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push([uid ? uid[1] : i, uid ? uid[2] : 0, i, whole]);
  });
  const inOrder = (a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
  return [...groups.values()].flatMap((members, group) =>
    members.sort(inOrder).map(([, , , row], index) =>
      loggedTrace(row.output, {
        prompt: row.input,
        step: rowStep(row, name),
        group,
        index,
        reward: row.score,
        advantage: NaN,
        answer: asText(row.gts),
        correct: isRight(row),
        note: "dumped by verl, not the model's own tokens",
      })
    )
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

const MOST = 2 ** 28; // bytes of one file, unpacked: what a page holds as one text without trouble

function startsWith(bytes, ...codes) {
  return codes.every((code, i) => bytes[i] === code);
}

async function unpacked(bytes, name) {
  if (!startsWith(bytes, 0x1f, 0x8b)) return bytes;
  try {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error(`${name} cannot be unpacked: it is damaged, or still being written.`);
  }
}

/** Whole numbers of 64 bits as numbers, lists and records as they are. */
function plain(value) {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (isRecord(value) && !(value instanceof Date)) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value === undefined ? null : value;
}

async function parquetTable(bytes, name) {
  const file = bytes.slice().buffer;
  try {
    const metadata = parquetMetadata(file);
    const rows = await parquetReadObjects({ file, metadata });
    const leaves = metadata.schema.filter((leaf) => leaf.type === "DOUBLE" || leaf.type === "FLOAT");
    return { name, rows: rows.map(plain), floats: new Set(leaves.map((leaf) => leaf.name)) };
  } catch (error) {
    throw new Error(`${name} cannot be read as parquet (${String(error.message).split("\n")[0].replace(/\.$/, "")}).`);
  }
}

/** What one file holds: { kind, ... } with kind "traces" | "trl" | "verl" | "text". */
async function fileContent(name, given) {
  const bytes = await unpacked(given, name);
  if (!bytes.length) throw new Error(`${name} is empty.`);
  if (bytes.length > MOST) {
    throw new Error(`${name} is larger than ${MOST / 2 ** 20} MiB: drop a part of it, or read it with load_traces.`);
  }
  if (startsWith(bytes, 0x50, 0x41, 0x52, 0x31)) return { kind: "trl", table: await parquetTable(bytes, name) };
  if (startsWith(bytes, 0xff, 0xfe) || startsWith(bytes, 0xfe, 0xff) || startsWith(bytes, 0x7b, 0)) {
    throw new Error(`${name} is written in UTF-16, not in UTF-8; save it as UTF-8.`);
  }
  const unknown = new Error(
    `${name} is none of the files that this page reads: traces.jsonl of a run, TRL's completions (.parquet or .jsonl),` +
      " verl's rollouts (.jsonl), each also as .gz, and plain text (.txt, .md).",
  );
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw unknown;
  }
  if (text.includes("\0\0")) throw unknown;
  if (/\.(txt|md)$/i.test(name)) return { kind: "text", text };
  let first;
  try {
    first = parseLine(text.slice(0, (text.indexOf("\n") + 1 || text.length + 1) - 1));
  } catch {
    if (/\.jsonl(\.gz)?$/i.test(name)) throw new Error(`Line 1 of ${name} is not JSON.`);
    throw unknown;
  }
  const has = (...keys) => isRecord(first) && keys.every((key) => key in first);
  if (has("tokens")) {
    const { rows, torn } = jsonRows(text, name, { unfinished: false });
    return { kind: "traces", traces: rows.map((row, i) => traceOf(row, `Record ${i + 1} of ${name}`)), torn };
  }
  if (has("prompt", "completion")) {
    const floats = new Set();
    const { rows, torn } = jsonRows(text, name, { unfinished: true, floats });
    return { kind: "trl", table: { name, rows, floats }, torn };
  }
  if (has("input", "output", "score")) {
    const { rows, torn } = jsonRows(text, name, { unfinished: true });
    return { kind: "verl", traces: verlTraces(rows, name), torn };
  }
  throw unknown;
}

const KINDS = { traces: "a run's traces", trl: "TRL's completions", verl: "verl's rollouts", text: "plain text" };

/**
 * Files as traces: [{ name, bytes }, ...] -> { traces, kind, said }. `said` are sentences on what was read and how.
 * Throws an Error with one sentence for files that cannot be read.
 */
export async function readFiles(files) {
  const place = ({ name }) => Number((name.match(/\d+/) || [0])[0]);
  const ordered = [...files].sort((a, b) => place(a) - place(b) || (a.name < b.name ? -1 : 1));
  const contents = [];
  for (const { name, bytes } of ordered) contents.push(await fileContent(name, bytes));
  const kinds = [...new Set(contents.map((content) => content.kind))];
  if (kinds.length > 1) {
    throw new Error(`These files are of several kinds: ${kinds.map((kind) => KINDS[kind]).join(", ")}. Drop one kind.`);
  }
  const [kind] = kinds;
  const said = [];
  if (kind === "text") return { kind, text: contents[0].text, traces: [], said };
  let traces = contents.flatMap((content) => content.traces || []);
  if (kind === "trl") {
    const read = trlTraces(contents.map((content) => content.table));
    traces = read.traces;
    if (read.chosen.length) said.push(`Taken for the reward: ${read.chosen.join(", ")}.`);
    if (read.others.length) said.push(`Not taken for it: ${read.others.join(", ")}.`);
  }
  const names = ordered.map((file) => file.name);
  if (!traces.length) throw new Error(`${names.join(", ")}: there is no response in it.`);
  const torn = ordered.filter((_, i) => contents[i].torn).map((file) => file.name);
  if (torn.length) said.push(`${torn.join(", ")} ends in the middle of a line, which is left out.`);
  return { kind, traces, said, source: KINDS[kind] };
}
