"""axe-core, vendored: what keeps people from using the page who see, hear or move differently."""

import json
from pathlib import Path

from playwright.sync_api import Page

SOURCE = Path(__file__).parent / "vendor" / "axe.js"
SEVERE = ("serious", "critical")
RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, impact, help, nodes }) =>
    nodes.map(({ html, failureSummary }) => ({ id, impact, help, html, failureSummary })));
}"""


def severe_faults(page: Page) -> list[str]:
    """The faults of impact serious or critical in what the page shows now, each with the element that has it."""
    page.evaluate(SOURCE.read_text())
    found = page.evaluate(RUN)
    return [json.dumps(fault, indent=1, ensure_ascii=False) for fault in found if fault["impact"] in SEVERE]
