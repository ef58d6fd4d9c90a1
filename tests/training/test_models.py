"""Model folders by the names that people give them."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import SHIPPED
from training.models import find_model, shipped_model


@pytest.fixture
def sales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the versions 2 and 10 of a model `sales`."""
    monkeypatch.chdir(tmp_path)
    manifest = SHIPPED / "forecast/2/manifest.json"
    for version in ("2", "10"):
        folder = tmp_path / "models/sales" / version
        folder.mkdir(parents=True)
        text = manifest.read_text().replace('"name": "forecast"', '"name": "sales"', 1)
        (folder / "manifest.json").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("sales", "models/sales/10"),
        ("sales@2", "models/sales/2"),
        ("models/sales", "models/sales/10"),
        ("models/sales/2", "models/sales/2"),
    ],
)
def test_a_model_is_found_by_its_name_or_its_folder(sales: Path, name: str, folder: str) -> None:
    assert find_model(name, None).path == Path(folder)


def test_another_folder_of_models_is_searched_if_it_is_named(sales: Path) -> None:
    shutil.move(sales / "models", sales / "elsewhere")
    assert find_model("sales", Path("elsewhere")).path == Path("elsewhere/sales/10")
    with pytest.raises(ValueError, match=r"sales/manifest\.json: no such file.*models"):
        find_model("sales", None)


def test_the_models_of_carry_are_found_from_any_folder(sales: Path) -> None:
    assert find_model("text-fast", None).label == "text-fast@1"
    for kind, label in (("forecast", "forecast@2"), ("text", "text-fast@1")):
        shipped = shipped_model(kind)
        assert shipped is not None
        assert (shipped.label, shipped.manifest.kind) == (label, kind)
