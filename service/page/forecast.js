// The tab "forecast".

import { html } from "./ui.js";

export function Tab() {
  return html`<h2>forecast</h2>`;
}
