"""The manifests of deploy/kubernetes are valid, agree with each other, and set what the service has."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from starlette.testclient import TestClient

from service.settings import Settings, unknown_settings
from service.workers.supervisor import KILL_AFTER
from tests.conftest import SHIPPED
from tests.deploy import write

ROOT = SHIPPED.parent
FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ("base", "monitored", "one-pod")
KUBERNETES = "1.34"
"""The version whose schemas count."""
SECRETS = {"session-store": "redis://redis:6379/0"}
"""Values of the Secret `carry` that an environment variable takes."""

Manifest = dict[str, Any]

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}


def _exactly(required: Mapping[str, Any], **optional: Any) -> Manifest:
    properties = dict(required) | optional
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


OPERATOR = {
    "ServiceMonitor": _exactly(
        {
            "selector": _exactly({"matchLabels": _TEXTS}),
            "endpoints": {
                "type": "array",
                "minItems": 1,
                "items": _exactly({"port": _TEXT, "path": _TEXT, "interval": _DURATION, "scrapeTimeout": _DURATION}),
            },
        },
        jobLabel=_TEXT,
    ),
    "PrometheusRule": _exactly(
        {
            "groups": {
                "type": "array",
                "minItems": 1,
                "items": _exactly(
                    {
                        "name": _TEXT,
                        "rules": {
                            "type": "array",
                            "items": {
                                "oneOf": [
                                    _exactly({"record": _TEXT, "expr": _TEXT}, labels=_TEXTS),
                                    _exactly(
                                        {"alert": _TEXT, "expr": _TEXT},
                                        annotations=_TEXTS,
                                        keep_firing_for=_DURATION,
                                        labels=_TEXTS,
                                        **{"for": _DURATION},
                                    ),
                                ]
                            },
                        },
                    },
                    interval=_DURATION,
                ),
            }
        }
    ),
}
"""The `spec` of the Prometheus Operator's kinds, as far as it is used here; its own schemas are in no package."""


def read(path: Path) -> list[Manifest]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@cache
def build(overlay: str) -> dict[str, Manifest]:
    """The manifests of an overlay as kustomize makes them, by kind."""
    command = [["kubectl", "kustomize"], ["kustomize", "build"]]
    tool = next((words for words in command if shutil.which(words[0])), None)
    if tool is None:
        assert not os.environ.get("CI"), "the tests need kubectl or kustomize on the PATH"
        pytest.skip("neither kubectl nor kustomize is on the PATH")
    built = subprocess.run([*tool, str(FOLDER / overlay)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len({document["kind"] for document in documents})
    return {document["kind"]: document for document in documents}


def validate(manifest: Manifest) -> None:
    """Raises if the manifest has a field that its kind does not know, lacks one, or has a wrong type."""
    if manifest["apiVersion"] == "monitoring.coreos.com/v1":
        jsonschema.validate(manifest["spec"], OPERATOR[manifest["kind"]])
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def container(deployment: Manifest) -> Manifest:
    """The only container of a Deployment."""
    [only] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(deployment: Manifest) -> dict[str, str]:
    """The variables that a pod gets."""
    values = {}
    for variable in container(deployment)["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            values[variable["name"]] = SECRETS[source["secretKeyRef"]["key"]]
        elif "resourceFieldRef" in source:
            assert source["resourceFieldRef"] == {"resource": "limits.cpu", "divisor": "1"}
            values[variable["name"]] = container(deployment)["resources"]["limits"]["cpu"]
        else:
            values[variable["name"]] = variable["value"]
    return values


SOURCES = [
    path
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml" and path != FOLDER / "one-pod/deployment.yaml"  # that is a patch
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_manifest_is_valid(path: Path) -> None:
    for manifest in read(path):
        validate(manifest)
        assert manifest["metadata"]["labels"] == {"app.kubernetes.io/name": "carry"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_is_valid(overlay: str) -> None:
    for manifest in build(overlay).values():
        validate(manifest)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("Deployment", {"spec": {"replica": 2}}),
        ("ServiceMonitor", {"spec": {"selector": {"matchLabels": {}}, "endpoints": [{"port": "http"}]}}),
        (
            "PrometheusRule",
            {"spec": {"groups": [{"name": "a", "rules": [{"alert": "A", "record": "b", "expr": "1"}]}]}},
        ),
    ],
)
def test_the_validation_refuses_what_is_wrong(kind: str, wrong: Manifest) -> None:
    version = "apps/v1" if kind == "Deployment" else "monitoring.coreos.com/v1"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate({"apiVersion": version, "kind": kind, "metadata": {"name": "carry"}} | wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_that_accepts_its_value(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = environment(build(overlay)["Deployment"])
    assert unknown_settings(values) == {}
    assert values["CARRY_PROCESSES"] == "2"
    keys = values.pop("CARRY_API_KEYS_FILE")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.session_store == ("sqlite:////data/carry.db" if overlay == "one-pod" else "redis://redis:6379/0")
    mounts = {mount["mountPath"]: mount["name"] for mount in container(build(overlay)["Deployment"])["volumeMounts"]}
    folder, file = keys.rsplit("/", 1)
    volumes = {volume["name"]: volume for volume in build(overlay)["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert [item["path"] for item in volumes[mounts[folder]]["secret"]["items"]] == [file]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_is_given_more_time_than_it_may_take_to_end(overlay: str) -> None:
    deployment = build(overlay)["Deployment"]
    values = environment(deployment)
    [word, pause] = container(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    ending = int(pause) + float(values["CARRY_DRAIN_SECONDS"]) + float(values["CARRY_SHUTDOWN_GRACE"]) + KILL_AFTER
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > ending


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_meets_the_restricted_profile_of_pod_security(overlay: str) -> None:
    pod = build(overlay)["Deployment"]["spec"]["template"]["spec"]
    assert (
        pod["securityContext"]
        | {
            "runAsNonRoot": True,
            "runAsGroup": 0,  # the group that may write to /data, whatever the user
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        == pod["securityContext"]
    )
    assert pod["securityContext"]["runAsUser"] > 0
    [only] = pod["containers"]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert set(only["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_labels_and_paths_agree(overlay: str, client: TestClient) -> None:
    kinds = build(overlay)
    template = kinds["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    only = container(kinds["Deployment"])
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}

    assert ports == {"http": 8000}  # that of the image
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = only[probe]["httpGet"]
        assert asked["port"] in ports
        assert client.get(asked["path"]).status_code == 200
    for kind, *where in (
        ("Deployment", "selector", "matchLabels"),
        ("Service", "selector"),
        ("PodDisruptionBudget", "selector", "matchLabels"),
        ("NetworkPolicy", "podSelector", "matchLabels"),
    ):
        selector = kinds[kind]["spec"]
        for name in where:
            selector = selector[name]
        assert selector.items() <= labels.items(), kind
    assert [port["targetPort"] for port in kinds["Service"]["spec"]["ports"]] == ["http"]
    [allowed] = kinds["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in allowed["ports"]] == ["http"]
    if monitor := kinds.get("ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= kinds["Service"]["metadata"]["labels"].items()
        assert kinds["Service"]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "carry"
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in kinds["Service"]["spec"]["ports"]}
        assert client.get(endpoint["path"]).status_code == 200


def test_the_autoscaler_alone_sets_the_number_of_pods_by_a_metric_of_the_service() -> None:
    kinds = build("monitored")
    autoscaler = kinds["HorizontalPodAutoscaler"]["spec"]
    assert "replicas" not in kinds["Deployment"]["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    assert autoscaler["minReplicas"] == build("base")["Deployment"]["spec"]["replicas"]
    [metric] = autoscaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    source = (ROOT / "service/metrics.py").read_text()
    assert f'"{name}"' in source
    assert f"seriesQuery: '{name}{{" in (FOLDER / "monitored/scaling.yaml").read_text()


def test_the_rules_are_those_of_prometheus() -> None:
    assert write.MANIFEST.read_text() == write.prometheus_rule(), "python -m tests.deploy.write"
    assert read(write.MANIFEST)[0]["spec"] == yaml.safe_load(write.RULES.read_text())


def test_one_pod_keeps_its_file_on_the_volume_and_ends_before_the_next_begins() -> None:
    kinds = build("one-pod")
    deployment = kinds["Deployment"]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in deployment["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    [mount] = [mount for mount in container(kinds["Deployment"])["volumeMounts"] if mount["name"] in claims]
    assert claims[mount["name"]] == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    assert environment(kinds["Deployment"])["CARRY_SESSION_STORE"].startswith(f"sqlite:///{mount['mountPath']}/")
    size = kinds["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi")
    assert int(size.removesuffix("Gi")) * 2**30 > Settings().max_session_store_bytes


def test_the_image_has_the_version_of_this_checkout() -> None:
    [image] = read(FOLDER / "base/kustomization.yaml")[0]["images"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image == {"name": "carry", "newTag": version}
    assert container(build("base")["Deployment"])["image"] == f"carry:{version}"
