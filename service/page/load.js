// The tab "load".

import { html } from "./ui.js";

export function Tab() {
  return html`<h2>load</h2>`;
}
