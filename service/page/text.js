// The tab "text".

import { html } from "./ui.js";

export function Tab() {
  return html`<h2>text</h2>`;
}
