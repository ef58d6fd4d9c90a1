// The tab "models".

import { html } from "./ui.js";

export function Tab() {
  return html`<h2>models</h2>`;
}
