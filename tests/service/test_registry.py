"""Model folders: which are loaded, which are refused and why, and that a refused folder harms no other model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnx
import pytest
import torch
from starlette.testclient import TestClient

from service import registry
from service.app import create_app
from service.kinds import KINDS
from service.manifest import sha256_of
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests.builders import character_model, write_model


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def truncate(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def rehash(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(folder, graph=manifest["graph"] | {"sha256": sha256_of(folder / "model.onnx")})


def tamper(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def truncate_and_rehash(folder: Path) -> None:
    truncate(folder)
    rehash(folder)


def rename_an_output(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    [first, *_] = model.graph.output
    model.graph.node.append(onnx.helper.make_node("Identity", [first.name], ["another"]))
    first.name = "another"
    onnx.save(model, folder / "model.onnx")
    rehash(folder)


def claim_a_longer_horizon(folder: Path) -> None:
    edit(folder, horizon=99)


def describe_a_state(folder: Path, *shape: int) -> None:
    graph = json.loads((folder / "manifest.json").read_text())["graph"]
    graph["state"][0]["shape"] = shape
    edit(folder, graph=graph)


def enlarge_the_state(folder: Path, size: int) -> None:
    """Add a state to the graph and to the manifest, so that they agree. The graph returns it unchanged."""
    model = onnx.load(folder / "model.onnx")
    for name, ports in (("ballast", model.graph.input), ("ballast_out", model.graph.output)):
        ports.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("B", size)))
    model.graph.node.append(onnx.helper.make_node("Identity", ["ballast"], ["ballast_out"]))
    onnx.save(model, folder / "model.onnx")
    graph = json.loads((folder / "manifest.json").read_text())["graph"]
    graph["state"].append({"name": "ballast", "output": "ballast_out", "dtype": "float32", "shape": [size]})
    edit(folder, graph=graph)
    rehash(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
    "no json": (lambda folder: (folder / "manifest.json").write_text("{"), "Invalid JSON"),
    "an unknown field": (lambda folder: edit(folder, colour="red"), "colour"),
    "a missing field": (lambda folder: edit(folder, graph=None), "graph"),
    "descending levels": (lambda folder: edit(folder, quantile_levels=[0.9, 0.5]), "ascend"),
    "another name": (lambda folder: edit(folder, name="other"), "the folder"),
    "a wrong hash": (
        lambda folder: edit(
            folder, graph=json.loads((folder / "manifest.json").read_text())["graph"] | {"sha256": "0" * 64}
        ),
        "sha256",
    ),
    "no graph": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
    "a tampered graph": (tamper, "not the file that was exported"),
    "a truncated graph": (truncate, "not the file that was exported"),
    "a truncated graph with its hash": (truncate_and_rehash, "not a model that ONNX Runtime can load"),
    "an output renamed": (rename_an_output, "disagree on the outputs"),
    "a horizon that the graph has not": (claim_a_longer_horizon, "the shape"),
    "a state of another size": (lambda folder: describe_a_state(folder, 3), "disagree on the inputs"),
    "a state of negative size": (lambda folder: describe_a_state(folder, -1), "greater than 0"),
    "a state of very many axes": (lambda folder: describe_a_state(folder, *[9] * 10**6), "at most 8 items"),
    "a state beyond all memory": (lambda folder: enlarge_the_state(folder, 10**12), "bytes of state for one sequence"),
    "a state that a few calls have no memory for": (
        lambda folder: enlarge_the_state(folder, 5 * 10**6),
        "bytes of state for one sequence",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_with_its_reason_and_harms_no_other(name: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    breaks, reason = BROKEN[name]
    breaks(tmp_path / "models/forecast/1")
    with TestClient(create_app(Settings(models_dir=tmp_path / "models"))) as client:
        listed = client.get("/models").json()
        assert [model["name"] for model in listed["models"]] == ["text", "weather"]
        [refused] = listed["refused"]
        assert (refused["name"], refused["version"]) == ("forecast", "1")
        assert reason in refused["reason"]
        answer = client.post("/forecast", json={"series": [1, 2], "model": "forecast"})
        assert answer.status_code == 409
        assert answer.json()["code"] == "model_refused"
        assert client.get("/models/forecast").status_code == 409
        assert client.post("/forecast", json={"series": {"f0": [1], "f1": ["a"]}}).status_code == 200
        assert client.get("/health/ready").status_code == 200


def flip_a_weight(folder: Path) -> None:
    content = bytearray((folder / "model.weights").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.weights").write_bytes(content)


def forget_the_newest_controls(folder: Path) -> None:
    """Make the folder like one that an earlier version exported."""
    decode = json.loads((folder / "manifest.json").read_text())["decode"]
    newest = ("frequency_penalty", "presence_penalty")
    edit(folder, decode=decode | {"inputs": [port for port in decode["inputs"] if port["name"] not in newest]})


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (lambda folder: (folder / "model.weights").unlink(), "model.weights cannot be read"),
        (flip_a_weight, "model.weights is not the file that was exported"),
        (forget_the_newest_controls, "decode.onnx does not take frequency_penalty, presence_penalty: an earlier"),
    ],
    ids=["no weights", "a tampered weight", "an earlier version"],
)
def test_a_text_model_that_is_not_whole_is_refused(
    breaks: Callable[[Path], object], reason: str, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models, tmp_path / "models")
    breaks(tmp_path / "models/text/1")
    with TestClient(create_app(Settings(models_dir=tmp_path / "models"))) as client:
        [refused] = client.get("/models").json()["refused"]
        assert refused["name"] == "text"
        assert reason in refused["reason"]


def test_the_graphs_of_a_text_model_share_their_weights_and_their_hash_covers_them(tmp_path: Path) -> None:
    first, second = character_model(), character_model()
    with torch.no_grad():
        second.head.weight.mul_(2)
    folders = [write_model(network, tmp_path, name) for network, name in ((first, "first"), (second, "second"))]
    for folder in folders:
        float32_bytes = sum(p.numel() * p.element_size() for p in first.parameters())
        assert (folder / "model.weights").stat().st_size < float32_bytes
        onnx.checker.check_model(str(folder / "decode.onnx"))
    hashes = [json.loads((folder / "manifest.json").read_text())["decode"]["sha256"] for folder in folders]
    assert hashes[0] != hashes[1]


def test_the_newest_version_that_loads_is_the_default(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    for version in (2, 10, 11):
        shutil.copytree(models / "forecast/1", tmp_path / f"models/forecast/{version}")
        edit(tmp_path / f"models/forecast/{version}", version=version)
    truncate(tmp_path / "models/forecast/11")
    with TestClient(create_app(Settings(models_dir=tmp_path / "models"))) as client:
        answer = client.post("/forecast", json={"series": [1, 2]}).json()
        assert answer["model"] == {"name": "forecast", "version": 10}
        shown = client.get("/models/forecast").json()
        assert shown["versions"] == [10, 2, 1]
        assert [refused["version"] for refused in shown["refused"]] == ["11"]
        assert client.get("/models/forecast@2").json()["manifest"]["version"] == 2


def test_without_models_the_service_lives_but_is_not_ready(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(models_dir=tmp_path / "nothing"))) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["code"] == "not_ready"
        assert client.post("/forecast", json={"series": [1]}).status_code == 404


def test_the_folder_of_a_running_export_is_ignored(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "models/forecast/.partial-x").mkdir()
    with TestClient(create_app(Settings(models_dir=tmp_path / "models"))) as client:
        assert client.get("/models").json()["refused"] == []


def test_auto_serves_float32_where_the_processor_multiplies_int8_inexactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x86 without VNNI saturates: the same seed would give other texts than on other replicas."""
    write_model(character_model(), tmp_path, "text", "int8")
    precisions: tuple[Literal["auto", "int8"], ...] = ("auto", "int8")
    served = {}
    for exact in (True, False):
        monkeypatch.setattr(registry, "int8_is_exact", lambda exact=exact: exact)
        for precision in precisions:
            opened = Registry(Settings(models_dir=tmp_path, precision=precision), KINDS, Metrics())
            served[exact, precision] = opened.models[0].precision
            opened.close()
    assert served == {
        (True, "auto"): "int8",
        (True, "int8"): "int8",
        (False, "auto"): "float32",
        (False, "int8"): "int8",
    }
