// Uses the types that openapi-typescript made, with openapi-fetch, as a person would.
import assert from "node:assert";
import createClient from "openapi-fetch";
import type { paths } from "./carry";

const [url, key] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

async function main(): Promise<void> {
  const forecast = await client.POST("/forecast", { body: { series: [3, 4, 6, 5, 7, 8], horizon: 2 } });
  assert.equal(forecast.data?.median.length, 2);
  const text = await client.POST("/generate", { body: { prompt: "The old house ", max_length: 20, seed: 1 } });
  assert(text.data !== undefined && typeof text.data === "object" && "text" in text.data);
  const stream = await client.POST("/generate", {
    body: { prompt: "The old house ", max_length: 20, seed: 1, stream: true },
    parseAs: "text",
  });
  assert(typeof stream.data === "string" && stream.data.includes("finish_reason"));
  const refused = await client.POST("/forecast", { body: { series: [null], horizon: 2 } });
  assert.equal(refused.error?.code, "invalid_request");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
