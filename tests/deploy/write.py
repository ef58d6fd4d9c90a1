"""Writes the PrometheusRule for Kubernetes from the rules of Prometheus: `python -m tests.deploy.write`."""

from pathlib import Path

import yaml

from tests.docs.blocks import ROOT

RULES = ROOT / "deploy/prometheus/rules.yml"
MANIFEST = ROOT / "deploy/kubernetes/monitored/prometheusrule.yaml"
HEAD = """\
# The rules of deploy/prometheus/rules.yml, as `python -m tests.deploy.write` puts them here.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: carry
  labels: {app.kubernetes.io/name: carry}
spec:
"""


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def prometheus_rule(rules: Path = RULES) -> str:
    """The manifest that holds the rules."""
    lines = yaml.dump(yaml.safe_load(rules.read_text()), Dumper=_Dumper, sort_keys=False, width=1000).splitlines()
    return HEAD + "".join(f"  {line}\n" for line in lines)


if __name__ == "__main__":
    MANIFEST.write_text(prometheus_rule())
