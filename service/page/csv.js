// A pasted or dropped CSV as series: long, wide, or numbers alone. It says what it took and what it left out, with line
// and column; `carry forecast` reads the hard cases. It knows nothing of the page and of the service.

const MISSING = /^(|-|\?|na|n\/a|nan|null|none)$/i;
const NUMERIC = /^[+-]?[.,]?\d[\d.,' ]*(e[+-]?\d+)?$/i;
const NUMBERS = { // with the decimal mark: whole thousands may be grouped by the other one
  ".": /^[+-]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?(e[+-]?\d+)?$/i,
  ",": /^[+-]?(\d{1,3}(\.\d{3})+|\d*)(,\d*)?(e[+-]?\d+)?$/i,
};
const YEAR_FIRST = // 2024, 2024-01, 2024-01-31, 2024/1/31 12:00, 2024-01-31T12:00:00.5Z
  /^(\d{4})(?:([-/])(\d{1,2})(?:\2(\d{1,2}))?)?(?:[T ](\d{1,2}:\d\d(?::\d\d)?)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?)?$/;
const YEAR_LAST = /^(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?: (\d{1,2}:\d\d(?::\d\d)?))?$/;

/** Nothing of the text can be used; the message says why. */
export class CsvError extends Error {}

/** Rows {line, cells}; a quoted cell may hold the delimiter and line ends. */
function rowsOf(text, delimiter) {
  const split = (row, i) => ({ line: i + 1, cells: row.split(delimiter).map((cell) => cell.trim()) });
  if (!text.includes('"')) return text.split("\n").map(split).filter(({ cells }) => cells.some(Boolean));
  const cell = new RegExp(` *("(?:[^"]|"")*"|[^"\\n${delimiter}][^\\n${delimiter}]*|) *(${delimiter}|\\n|$)`, "y");
  const rows = [];
  for (let cells = [], line = 1, start = 1; cell.lastIndex < text.length; ) {
    const match = cell.exec(text);
    if (!match) throw new CsvError(`Line ${line}: a quotation mark is not closed, or stands within a cell.`);
    cells.push(match[1].startsWith('"') ? match[1].slice(1, -1).replaceAll('""', '"').trim() : match[1].trim());
    line += match[0].split("\n").length - 1;
    if (match[2] === delimiter) continue;
    if (cells.some(Boolean)) rows.push({ line: start, cells });
    [cells, start] = [[], line];
  }
  return rows;
}

/** The delimiter that cuts most of the first lines in the same number of cells; a tab if none cuts them. */
function delimiterOf(text) {
  const lines = text.split("\n").filter((line) => line.trim()).slice(0, 50);
  const body = lines.slice(1);
  if (body.length && body.every((line) => /^\s*[+-]?\d+,\d+\s*$/.test(line)) && !/[a-z].*,|,.*[a-z]/i.test(lines[0])) {
    if (/[a-z]/i.test(lines[0])) return "\t"; // one name above numbers with decimal commas
    throw new CsvError("Each line may be two numbers, or one with a decimal comma. Write a line of names above them.");
  }
  const scores = [";", "\t", ","].map((delimiter) => {
    const widths = lines.map((line) => line.replace(/"[^"]*"/g, "").split(delimiter).length);
    return Math.max(...widths.map((width) => (width > 1 ? widths.filter((other) => other === width).length : 0)));
  });
  return [";", "\t", ","][scores.indexOf(Math.max(...scores, 1))] ?? "\t";
}

/** The decimal mark that more cells show, and whether any shows it. 1,234 and 1.234 alone do not. */
function decimalOf(cells, delimiter) {
  const shown = (mark, other) => cells.filter((cell) => (cell.includes(other)
    ? cell.lastIndexOf(mark) > cell.lastIndexOf(other) || cell.split(other).length > 2
    : cell.split(mark).length === 2 && !/^[+-]?[1-9]\d{0,2}[.,]\d{3}$/.test(cell))).length;
  const [commas, points] = [shown(",", "."), shown(".", ",")];
  if (commas || points) return [commas > points ? "," : ".", true];
  const open = cells.find((cell) => /[.,]/.test(cell));
  return [open?.includes(",") && delimiter !== "," ? "," : ".", !open];
}

function numberOf(cell, decimal) {
  const text = cell.replace(/[\s']/g, "");
  if (!/\d/.test(text) || !NUMBERS[decimal].test(text)) return NaN;
  return Number(decimal === "," ? text.replaceAll(".", "").replace(",", ".") : text.replaceAll(",", ""));
}

/** Unix seconds (of UTC where no zone is written), or NaN. `order`: of dates whose year comes last. */
function timeOf(cell, order) {
  let [, year, , month = 1, day = 1, clock = "0:00", zone = "Z"] = YEAR_FIRST.exec(cell) ?? [];
  if (!year) {
    const [, first, , second, written, at = "0:00"] = YEAR_LAST.exec(cell) ?? [];
    [year, clock] = [written, at];
    [day, month] = order === "M/D/Y" ? [second, first] : [first, second];
  }
  const text = `${year}-${String(month).padStart(2, 0)}-${String(day).padStart(2, 0)}`;
  const time = Date.parse(`${text}T${clock.padStart(clock.length > 5 ? 8 : 5, 0)}${zone}`) / 1000;
  return Number(day) < 29 || new Date(`${text}T00:00Z`).toJSON()?.startsWith(text) ? time : NaN; // no 30 February
}

const date = (time) => new Date(time * 1000);
const weekday = (time) => (date(time).getUTCDay() + 6) % 7; // 0 is Monday
const UNITS = [
  { count: (time) => 12 * date(time).getUTCFullYear() + date(time).getUTCMonth(), sizes: { 12: "Y", 3: "Q", 1: "M" } },
  { count: (time) => 5 * Math.floor((time / 86400 + 3) / 7) + Math.min(weekday(time), 4), sizes: { 1: "B" } },
  { count: (time) => time, sizes: { 604800: "W", 86400: "D", 3600: "H", 60: "min", 1: "S" } },
];

/** Of ascending times: the frequency, as the service names it, and the place of each time; null if they are uneven. */
function frequencyOf(times) {
  const whole = times.every((time) => (time - times[0]) % 86400 === 0);
  const day = date(times[0]).getUTCDate();
  const monthly = () => times.every((time) => date(time).getUTCDate() === day)
    || times.every((time) => date(time + 86400).getUTCDate() === 1);
  const workdays = () => times.every((time) => weekday(time) < 5) && times.at(-1) - times[0] > 6 * 86400;
  const fits = [() => whole && monthly(), () => whole && workdays(), () => true];
  for (const [i, { count, sizes }] of UNITS.entries()) {
    if (!fits[i]()) continue;
    const first = count(times[0]);
    const places = times.map((time) => count(time) - first);
    const step = places.slice(1).reduce((least, place, j) => Math.min(least, place - places[j]), Infinity);
    const size = Object.keys(sizes).reverse().find((each) => step % each === 0);
    if (!size || step < 1 || (i === 1 && step > 1) || places.some((place) => place % step)) continue;
    if (places.at(-1) / step > 3 * times.length + 10 || step / size > 9999) continue; // mostly gaps; no such frequency
    return { freq: (step > size ? step / size : "") + sizes[size], places: places.map((place) => place / step) };
  }
  return null;
}

/** Rows {line, time, value} of one series -> {id, timestamps, start, freq, values}; a time without a row is missing. */
function seriesOf(id, rows, notes) {
  const inOrder = { id, timestamps: null, start: null, freq: null, values: rows.map((row) => row.value) };
  if (rows[0].time === null || rows.length < 2) return inOrder;
  const sorted = [...rows].sort((a, b) => a.time - b.time);
  if (sorted.some((row, i) => row !== rows[i])) notes.push(`${id}: sorted by time.`);
  const i = sorted.findIndex((row, at) => row.time === sorted[at + 1]?.time);
  if (i >= 0) throw new CsvError(`${id}: lines ${sorted[i].line} and ${sorted[i + 1].line} have the same time.`);
  const { freq, places } = frequencyOf(sorted.map((row) => row.time)) ?? {};
  if (!freq) {
    notes.push(`${id}: the times are uneven and not used; the values are taken as evenly spaced.`);
    return { ...inOrder, values: sorted.map((row) => row.value) };
  }
  const values = new Array(places.at(-1) + 1).fill(null);
  const timestamps = [...values];
  places.forEach((place, at) => { [values[place], timestamps[place]] = [sorted[at].value, sorted[at].time]; });
  const gaps = values.length - rows.length;
  if (gaps) notes.push(`${id}: no row for ${gaps} of its times; they are missing values.`);
  const step = (sorted.at(-1).time - sorted[0].time) / places.at(-1);
  timestamps.forEach((time, at) => { timestamps[at] = time ?? timestamps[at - 1] + step; });
  const iso = date(timestamps[0]).toISOString().slice(0, 19);
  const isDay = /[YQMWDB]$/.test(freq) && iso.endsWith("T00:00:00");
  return { id, timestamps, start: isDay ? iso.slice(0, 10) : iso, freq, values };
}

const isDate = (cell) => (YEAR_LAST.test(cell) || !NUMERIC.test(cell))
  && ["D/M/Y", "M/D/Y"].some((order) => !Number.isNaN(timeOf(cell, order)));
const isName = (cell) => !MISSING.test(cell) && !NUMERIC.test(cell) && !isDate(cell);

/** The columns {at, name, cells, kind}: time, number, text, or count (1, 2, 3, ..., which is no series). */
function columnsOf(rows, names) {
  return rows[0].cells.map((_, at) => {
    const cells = rows.map((row) => row.cells[at]);
    const some = cells.filter((cell) => !MISSING.test(cell)).slice(0, 1000);
    const mostly = (test) => some.filter(test).length > some.length / 2;
    const rises = rows[0].cells.length > 1 && at === 0 && some.every((cell, i) => !i || cell - some[i - 1] === 1);
    const years = some.every((cell) => /^[12]\d{3}$/.test(cell)) && (rises || /^(year|jahr)$/i.test(names?.[at]));
    const counts = rises && /^(|#|index|row|no\.?|nr\.?|t)$/i.test(names?.[at] ?? "");
    const kind = !some.length ? "number" : years || mostly(isDate) ? "time" : counts ? "count"
      : mostly((cell) => NUMERIC.test(cell)) ? "number" : "text";
    return { at, name: names?.[at] || `column ${at + 1}`, cells, kind };
  });
}

/** The times of a column, all read in one order of day and month. */
function timesOf(column, notes) {
  const read = (order) => column.cells.map((cell) => timeOf(cell, order));
  const dayFirst = read("D/M/Y");
  if (!column.cells.some((cell) => YEAR_LAST.test(cell))) return dayFirst;
  const monthFirst = read("M/D/Y");
  const [bad, worse] = [dayFirst, monthFirst].map((times) => times.filter(Number.isNaN).length);
  const open = bad === worse ? "; no day is above 12, so they might be M/D/Y" : "";
  notes.push(`“${column.name}” is read as ${worse < bad ? "M/D/Y" : "D/M/Y"}${open}.`);
  return worse < bad ? monthFirst : dayFirst;
}

/** The column that names the series: the first by which no two rows have the same time. */
function idOf(columns, times) {
  const repeats = (cells) => new Set(times ? cells.map((cell, i) => `${times[i]} ${cell}`) : cells).size < cells.length;
  const texts = columns.filter((column) => column.kind === "text");
  if (!times) return texts.find((column) => repeats(column.cells)) ?? null;
  if (new Set(times).size === times.length) return null;
  const numbers = columns.filter((column) => column.kind === "number");
  const whole = numbers.filter(({ cells }) => numbers.length > 1 && cells.every((cell) => /^\d+$/.test(cell)));
  const id = [...texts, ...whole].find((column) => !repeats(column.cells)) ?? texts[0];
  if (id) return id;
  const at = times.findIndex((time, i) => times.indexOf(time) < i);
  const first = times.indexOf(times[at]) + 1;
  throw new CsvError(`Row ${at + 1} repeats the time of row ${first}, and no column names the series.`);
}

/** -> {series: [{id, timestamps, start, freq, values}], notes, ignored}: unix seconds or null, numbers or null; what
 *  was taken for granted, and what was left out and why. Raises CsvError if nothing can be used. */
export function readCsv(text) {
  let source = text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n").replace(/^(\s*\n)+|\s*\n\s*$/g, "");
  const [notes, ignored] = [[], []];
  const line = source.replace(/^\[|\]$/g, "").split(source.includes(";") ? /\s*;\s*/ : /[\s,]+/);
  const isList = !source.includes("\n") && line.every((cell) => NUMERIC.test(cell) || MISSING.test(cell));
  if (isList) source = line.join("\n").trim();
  const delimiter = delimiterOf(source);
  const all = rowsOf(`${source}\n`, delimiter);
  const named = all.length > 1 && all[0].cells.some((cell, i) => isName(cell) && !isName(all[1].cells[i] ?? ""));
  const names = named ? all.shift().cells : null;
  const width = (names ?? all[0]?.cells ?? []).length;
  const rows = all.filter(({ cells, line: at }) => {
    if (cells.length !== width) ignored.push(`Line ${at} has ${cells.length} cells, not ${width}.`);
    return cells.length === width;
  });
  if (!rows.length) throw new CsvError("There are no values to read.");
  const columns = columnsOf(rows, names);
  const time = columns.find((column) => column.kind === "time");
  const times = time && timesOf(time, notes);
  const id = idOf(columns, times);
  const numbers = columns.filter((column) => column.kind === "number" && column !== id);
  if (!numbers.length) throw new CsvError("No column holds numbers.");
  for (const { kind, name } of columns.filter((column) => ![...numbers, time, id].includes(column)))
    ignored.push(`“${name}”: ${{ text: "text", time: "a second column of times", count: "counts the rows" }[kind]}.`);
  const written = numbers.flatMap(({ cells }) => cells.filter((cell) => !MISSING.test(cell)));
  const [decimal, sure] = decimalOf(written, delimiter);
  if (decimal === "," || !sure) {
    const open = sure ? "" : "; none shows whether 1,234 or 1.234 is a thousand";
    notes.push(`Numbers are read with a decimal ${decimal === "," ? "comma" : "point"}${open}.`);
  }
  const groups = new Map();
  rows.forEach((row, i) => {
    if (times && Number.isNaN(times[i])) {
      ignored.push(`Line ${row.line}, column ${time.at + 1} (${time.name}): “${time.cells[i]}” is no date.`);
      return;
    }
    for (const { at, name, cells } of numbers) {
      const cell = cells[i];
      const number = MISSING.test(cell) ? null : numberOf(cell, decimal);
      const value = Number.isNaN(number) ? null : number;
      if (number !== value) ignored.push(`Line ${row.line}, column ${at + 1} (${name}): “${cell}” is no number.`);
      const alone = names || numbers.length > 1 ? name : "values";
      const key = id ? id.cells[i] + (numbers.length > 1 ? `, ${name}` : "") : alone;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push({ line: row.line, time: times ? times[i] : null, value });
    }
  });
  const series = [...groups].flatMap(([key, members]) => {
    try {
      return [seriesOf(key, members, notes)];
    } catch (error) {
      if (!(error instanceof CsvError)) throw error;
      ignored.push(error.message);
      return [];
    }
  });
  if (!series.length) throw new CsvError(ignored.join(" ") || "There are no values to read.");
  return { series, notes, ignored };
}
