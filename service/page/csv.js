// A pasted or dropped CSV as series: long, wide, or numbers alone. PapaParse cuts the text into rows; here is what they
// mean. Notes say what was taken for granted and left out; `carry forecast` reads the hard cases.

import Papa from "./vendor/papaparse.js";

const MISSING = /^(|-|\?|na|n\/a|nan|null|none)$/i;
const NUMERIC = /^[+-]?[.,]?\d[\d.,' ]*(e[+-]?\d+)?$/i;
const NUMBERS = { // by the decimal mark; whole thousands may be grouped by the other one
  ".": /^[+-]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?(e[+-]?\d+)?$/i,
  ",": /^[+-]?(\d{1,3}(\.\d{3})+|\d*)(,\d*)?(e[+-]?\d+)?$/i,
};
const DATE = // 2024, 2024-01, 2024-01-31, 31.1.2024 12:00, 2024-01-31T12:00:00.5Z
  /^(\d+)(?:[-/.](\d\d?)(?:[-/.](\d+))?)?(?:[T ](\d\d?):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?:Z|([+-]\d\d):(\d\d))?)?$/;
const ORDERS = { "Y-M-D": [0, 1, 2], "D/M/Y": [2, 1, 0], "M/D/Y": [2, 0, 1] };

/** Nothing of the text can be used; the message says why. */
export class CsvError extends Error {}

/** Unix seconds (of UTC where no zone is written), or NaN. */
function timeOf(cell, order) {
  const [, ...parts] = DATE.exec(cell) ?? [];
  const [year, month = 1, day = 1] = ORDERS[order].map((at) => parts[at]);
  const [hour = 0, minute = 0, second = 0, zone = 0, zoneMinute = 0] = parts.slice(3);
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  if (year?.length !== 4 || date.getUTCMonth() !== month - 1 || hour > 23) return NaN; // no 30 February
  return date / 1000 - 3600 * zone - Math.sign(zone) * 60 * zoneMinute;
}

function numberOf(cell, decimal) {
  const text = cell.replace(/[\s']/g, "");
  if (!/\d/.test(text) || !NUMBERS[decimal].test(text)) return NaN;
  return Number(decimal === "," ? text.replaceAll(".", "").replace(",", ".") : text.replaceAll(",", ""));
}

const DAY = 86400; // seconds
const date = (time) => new Date(time * 1000);
const weekday = (time) => (date(time).getUTCDay() + 6) % 7; // 0 is Monday
const COUNTS = [ // how to count times, and what so many of a kind are called: months, weekdays, seconds
  [(time) => 12 * date(time).getUTCFullYear() + date(time).getUTCMonth(), { 1: "M", 3: "Q", 12: "Y" }],
  [(time) => 5 * Math.floor((time / DAY + 3) / 7) + weekday(time), { 1: "B" }],
  [(time) => time, { 1: "S", 60: "min", 3600: "H", [DAY]: "D", [7 * DAY]: "W" }],
];

/** Of ascending times: the frequency, as the service names it, and the place of each time; null if they are uneven. */
function frequencyOf(times) {
  const days = times.map((time) => date(time).getUTCDate());
  const areDays = times.every((time) => (time - times[0]) % DAY === 0);
  const areMonths = areDays && days.every((day) => Math.abs(day - days[0]) < 4); // each month's last day, say
  const areWorkdays = areDays && times.every((time) => weekday(time) < 5) && times.at(-1) - times[0] > 6 * DAY;
  for (const [i, [count, names]] of COUNTS.entries()) {
    const counts = times.map((time) => count(time) - count(times[0]));
    const step = counts.slice(1).reduce((least, each, at) => Math.min(least, each - counts[at]), Infinity);
    const size = Object.keys(names).findLast((each) => step % each === 0);
    const isUneven = step < 1 || counts.some((each) => each % step) || counts.at(-1) / step > 3 * times.length + 10;
    if (![areMonths, areWorkdays && step === 1, true][i] || isUneven || !size || step / size > 9999) continue;
    return { freq: (step > size ? step / size : "") + names[size], places: counts.map((each) => each / step) };
  }
  return null;
}

/** Rows {time, value} of one series -> {id, timestamps, start, freq, values}; a time without a row is missing. */
function seriesOf(id, rows, notes) {
  const sorted = rows[0].time === null ? rows : [...rows].sort((a, b) => a.time - b.time);
  const inOrder = { id, timestamps: null, start: null, freq: null, values: sorted.map((row) => row.value) };
  if (rows[0].time === null || rows.length < 2) return inOrder;
  const { freq, places } = frequencyOf(sorted.map((row) => row.time)) ?? {};
  if (!freq) notes.push(`${id}: its times are uneven or stand twice, and not used; the values are in their order.`);
  if (!freq) return inOrder;
  const values = Array(places.at(-1) + 1).fill(null);
  const timestamps = [...values];
  places.forEach((place, i) => { [values[place], timestamps[place]] = [sorted[i].value, sorted[i].time]; });
  if (values.length > rows.length)
    notes.push(`${id}: no row for ${values.length - rows.length} of its times; they are missing values.`);
  const step = (sorted.at(-1).time - sorted[0].time) / places.at(-1);
  timestamps.forEach((time, i) => { timestamps[i] = time ?? timestamps[i - 1] + step; });
  const start = date(timestamps[0]).toISOString().slice(0, 19);
  return { id, timestamps, start: /[YQMWDB]$/.test(freq) ? start.replace("T00:00:00", "") : start, freq, values };
}

const isDate = (cell) => (/^\d+\.\d+\.\d{4}/.test(cell) || !NUMERIC.test(cell))
  && Object.keys(ORDERS).some((order) => !Number.isNaN(timeOf(cell, order)));
const isName = (cell) => !MISSING.test(cell) && !NUMERIC.test(cell) && !isDate(cell);

/** The columns {name, cells, kind}: time, number, text, or index (1, 2, 3, ..., which is no series). */
function columnsOf(rows, names) {
  return rows[0].map((_, at) => {
    const cells = rows.map((row) => row[at]);
    const name = names?.[at] ?? `column ${at + 1}`;
    const some = cells.filter((cell) => !MISSING.test(cell)).slice(0, 1000);
    const mostly = (test) => some.filter(test).length > some.length / 2;
    const rises = rows[0].length > 1 && at === 0 && some.every((cell, i) => !i || cell - some[i - 1] === 1);
    const areYears = some.every((cell) => /^[12]\d{3}$/.test(cell)) && (rises || /^(year|jahr)$/i.test(name));
    const kind = some.length && (areYears || mostly(isDate)) ? "time"
      : rises && /^(|#|index|row|no\.?|nr\.?|t)$/i.test(name) ? "index"
        : mostly((cell) => NUMERIC.test(cell)) || !some.length ? "number" : "text";
    return { name, cells, kind };
  });
}

/** The times of a column, in the order of year, month and day that reads most of them. */
function timesOf({ name, cells }, notes) {
  const bad = ({ times }) => times.filter(Number.isNaN).length;
  const readings = Object.keys(ORDERS).map((order) => ({ order, times: cells.map((cell) => timeOf(cell, order)) }));
  const [best, next] = readings.sort((a, b) => bad(a) - bad(b));
  const open = bad(best) === bad(next) ? `; no day is above 12, so they might be ${next.order}` : "";
  if (best.order !== "Y-M-D") notes.push(`“${name}” is read as ${best.order}${open}.`);
  return best.times;
}

/** The column that names the series, if any: the first by which no two rows have the same time. */
function idOf(columns, times) {
  const texts = columns.filter(({ kind }) => kind === "text");
  const repeats = ({ cells }) => new Set(cells.map((cell, i) => `${times?.[i]} ${cell}`)).size < cells.length;
  if (!times) return texts.find(repeats);
  if (new Set(times).size === times.length) return undefined;
  if (texts.length) return texts.find((column) => !repeats(column)) ?? texts[0];
  throw new CsvError("Several rows have the same time, and no column of text names the series.");
}

/** A text as rows of cells, without empty ones. One line of numbers, or a JSON list, is a column. */
function rowsOf(text) {
  const source = text.replace(/^\uFEFF/, "").trimEnd();
  const list = source.replace(/^\s*\[|\]$/g, "").split(/[\s,;]+/);
  const isList = !source.includes("\n") && list.every((cell) => NUMERIC.test(cell) || MISSING.test(cell));
  const delimitersToGuess = [";", "\t", ","];
  const { data, errors, meta } = Papa.parse(isList ? list.join("\n") : source, { delimitersToGuess });
  if (errors.some(({ type }) => type === "Quotes")) throw new CsvError("A quotation mark is not closed.");
  const rows = data.map((row) => row.map((cell) => cell.trim()));
  return { rows: rows.filter((row) => row.some(Boolean)), delimiter: meta.delimiter };
}

/** Whether the decimal mark is a comma: some number shows it, and none shows a point. */
const hasComma = (cells) => cells.some((cell) => /^[^,]*\d,\d*$/.test(cell))
  && !cells.some((cell) => NUMERIC.test(cell) && /,.*\.|^[^.]*\.\d{1,2}$/.test(cell));

/** -> {series: [{id, timestamps, start, freq, values}], notes}: unix seconds or null, numbers or null. Throws CsvError
 * if nothing can be used. */
export function readCsv(text) {
  const { rows: all, delimiter } = rowsOf(text);
  const isNamed = all.length > 1 && all[0].some((cell, i) => isName(cell) && !isName(all[1][i] ?? ""));
  const names = isNamed ? all.shift() : null;
  const width = (names ?? all[0] ?? []).length;
  const rows = all.filter((row) => row.length === width);
  if (!rows.length) throw new CsvError("There are no values to read.");
  const notes = [];
  if (rows.length < all.length) notes.push(`Left out: ${all.length - rows.length} rows that have not ${width} cells.`);
  const columns = columnsOf(rows, names);
  const time = columns.find(({ kind }) => kind === "time");
  const times = time && timesOf(time, notes);
  const id = idOf(columns, times);
  const numbers = columns.filter(({ kind }) => kind === "number");
  if (!numbers.length) throw new CsvError("No column holds numbers.");
  for (const column of columns.filter((each) => ![...numbers, time, id].includes(each)))
    notes.push(`Left out: “${column.name}”, which holds no series.`);
  const isComma = delimiter !== "," && hasComma(numbers.flatMap(({ cells }) => cells));
  if (isComma) notes.push("Numbers are read with a decimal comma.");
  const groups = new Map();
  rows.forEach((row, i) => {
    const leave = ({ name, cells }, what) =>
      notes.push(`Left out: “${cells[i]}” in row ${i + 1}, ${name}, which is no ${what}.`);
    if (times && Number.isNaN(times[i])) return leave(time, "date");
    return numbers.forEach((column) => {
      const cell = column.cells[i];
      const value = MISSING.test(cell) ? null : numberOf(cell, isComma ? "," : ".");
      if (Number.isNaN(value)) leave(column, "number");
      const name = names || numbers.length > 1 ? column.name : "values";
      const key = id ? id.cells[i] + (numbers.length > 1 ? `, ${name}` : "") : name;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push({ time: times?.[i] ?? null, value: Number.isNaN(value) ? null : value });
    });
  });
  if (!groups.size) throw new CsvError(notes.join(" "));
  return { series: [...groups].map(([name, members]) => seriesOf(name, members, notes)), notes };
}
