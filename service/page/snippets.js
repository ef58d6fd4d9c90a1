// A forecast's call as curl, Python (carry) and nixtla's client would make it. Knows nothing of the page around it.

import { elsewhere } from "./api.js";
import { bodyOf } from "./series.js";

const INLINE = 500; // values; a longer series comes from a file
const MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/** pandas' name of the frequency, or null where it has none for the first day. */
function pandasFreq({ start, freq, timestamps }) {
  const [, count, unit] = /^(\d*)(\w+)$/.exec(freq);
  const [first, next] = [new Date(timestamps[0] * 1000), new Date((timestamps[0] + 86400) * 1000)];
  if (unit === "W") return count ? null : `W-${WEEKDAYS[first.getUTCDay()]}`;
  if (!"YQM".includes(unit)) return count + ({ H: "h", S: "s" }[unit] ?? unit);
  const edge = start.endsWith("-01") ? "S" : next.getUTCDate() === 1 ? "E" : null;
  const month = edge && unit !== "M" ? `-${MONTHS[first.getUTCMonth()]}` : "";
  return edge && count + unit + edge + month;
}

/** The call of the page in three other ways. A long series comes from the file `request.json`. */
export function callsOf(series, options) {
  const { url, header, load, carryKey, apiKey } = elsewhere();
  const body = bodyOf(series, options);
  const { horizon, levels } = body;
  const isLong = series.values.length > INLINE;
  const route = options.holdOut ? "cross_validation" : "forecast";
  const numbers = JSON.stringify(series.values).replaceAll("null", "None");
  const values = isLong ? 'json.load(open("request.json"))["series"]' : numbers;
  const times = series.freq ? `, start="${series.start}", freq="${series.freq}"` : "";
  const imports = (isLong ? "import json\n" : "") + load;
  const freq = series.freq && pandasFreq(series);
  const ds = freq ? `pd.date_range("${series.start}", periods=len(y), freq="${freq}")` : "range(len(y))";
  const list = `[${levels.join(", ")}]`;
  return {
    curl: `curl -s ${url}/${route} -H 'Content-Type: application/json'${header} `
      + (isLong ? "-d @request.json" : `-d '${JSON.stringify(body)}'`),
    Python: `${imports}import carry

client = carry.Client("${url}"${carryKey})
answer = client.${options.holdOut ? "backtest" : "forecast"}(
    ${values},
    ${horizon}, levels=${list}${times},
)
print(${options.holdOut ? "answer.metrics" : `answer.median, answer.interval(${options.level})`})`,
    nixtla: `${imports}import pandas as pd
from nixtla import NixtlaClient

y = ${values}
df = pd.DataFrame({"unique_id": ${JSON.stringify(series.id)}, "ds": ${ds}, "y": y})
client = NixtlaClient(base_url="${url}", api_key=${apiKey})
print(client.${route}(df, h=${horizon}, level=${list}, freq=${freq ? `"${freq}"` : 1}))`,
    file: isLong ? JSON.stringify(body) : null,
  };
}
