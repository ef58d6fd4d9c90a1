"""Builds the wheel, in which everything is a part of the package `carry`: docs/decisions/0016-the-wheel.md says why.

The checkout has `carry`, `service` and `training` side by side, and its modules import them by these names. In the
wheel, `service` is `carry._service`, `training` is `carry._training`, and the imports say so.
"""

import ast
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

INSIDE = {"service": "carry._service", "training": "carry._training"}
"""Packages of the checkout, and their names in the wheel."""
MODELS = ("forecast", "text-fast")
"""Names of the models of which the newest version travels in the wheel, in `carry/models`."""


class BuildPy(build_py):
    """Copies the modules with their imports rewritten, and the models."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy a module of a package; returns the copy."""
        copy, copied = super().build_module(module, module_file, package)
        if not self.editable_mode:
            Path(copy).write_text(rewritten(Path(module_file).read_text(encoding="utf-8"), module_file), "utf-8")
        return copy, copied

    def run(self) -> None:
        """Copy everything. What an earlier build left, such as modules that were since removed, must not travel."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for source, copy in self._model_files().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that are written."""
        return [*super().get_outputs(include_bytecode), *map(str, self._model_files().values())]

    def _model_files(self) -> dict[Path, Path]:
        """The files of the models, and their copies. An editable installation has them in the checkout."""
        if self.editable_mode:
            return {}
        copies: dict[Path, Path] = {}
        for name in MODELS:
            newest = max((path for path in Path("models", name).iterdir() if path.name.isdigit()), key=_version)
            files = [path for path in newest.rglob("*") if path.is_file()]
            copies |= {path: Path(self.build_lib, "carry", path) for path in files}
        return copies


class EditableWheel(editable_wheel):
    """An editable installation has the packages of the checkout, as they are."""

    def finalize_options(self) -> None:
        """Before the other commands read them."""
        self.distribution.packages = _packages()
        self.distribution.package_dir = {}
        super().finalize_options()


def rewritten(source: str, file: str) -> str:
    """The source of a module with the names that its imports have in the wheel; also where a string is the name of a
    module. Lines keep their numbers.

    Raises:
        SystemExit: it names a module in a way that cannot be rewritten.
    """
    lines = source.encode().splitlines(keepends=True)
    edits: list[tuple[int, int, int, str]] = []
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            name = node.module or ""
            start = node.col_offset + len("from ")
        elif isinstance(node, ast.Import) and any(_is_ours(each.name) for each in node.names):
            name = node.names[0].name  # `import service.app` would bind the name `service`: refused below
            start = node.col_offset
            if len(node.names) > 1 or node.names[0].asname or name not in INSIDE:
                raise SystemExit(f"{file}:{node.lineno}: write `import {name}` alone, or `from {name} import ...`")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_module(node.value):
            name = node.value
            start = node.col_offset + 1
        else:
            continue
        if not _is_ours(name):
            continue
        as_written, replacement = name, _name_inside(name)
        if isinstance(node, ast.Import):
            package, _, last = replacement.rpartition(".")
            as_written, replacement = f"import {name}", f"from {package} import {last} as {name}"
        end = start + len(as_written)
        if lines[node.lineno - 1][start:end] != as_written.encode():
            raise SystemExit(f"{file}:{node.lineno}: write {name} where the statement or the string begins")
        edits.append((node.lineno - 1, start, end, replacement))
    for line, start, end, replacement in sorted(edits, reverse=True):
        lines[line] = lines[line][:start] + replacement.encode() + lines[line][end:]
    return b"".join(lines).decode()


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in INSIDE


def _is_module(text: str) -> bool:
    """Whether a string is the name of a module of the checkout, such as "service.errors"."""
    if not re.fullmatch(r"\w+(\.\w+)+", text) or not _is_ours(text):
        return False
    path = Path(*text.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _version(folder: Path) -> int:
    return int(folder.name)


def _packages() -> list[str]:
    return find_packages(include=["carry*", *(f"{name}*" for name in INSIDE)])


def _name_inside(package: str) -> str:
    top, dot, rest = package.partition(".")
    return INSIDE.get(top, top) + dot + rest


if __name__ == "__main__":
    setup(
        packages=[_name_inside(package) for package in _packages()],
        package_dir={inside: name for name, inside in INSIDE.items()},
        cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel},
    )
