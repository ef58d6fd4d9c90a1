// The tab "session".

import { html } from "./ui.js";

export function Tab() {
  return html`<h2>session</h2>`;
}
