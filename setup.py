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
_MODULE = re.compile(rf"({'|'.join(INSIDE)})(\.\w+)+")
_FROM = re.compile(rf"(\s*from\s+)({'|'.join(INSIDE)})\b")
_IMPORT = re.compile(rf"(\s*)import ({'|'.join(INSIDE)})(?=\s*(#|$))")


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
        copies = {}
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
    """The source of a module with the names that its imports have in the wheel.

    Raises:
        SystemExit: it names a module in a way that cannot be rewritten.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            line = lines[node.lineno - 1]
            head, tail = line[: node.col_offset], line[node.col_offset :]
            lines[node.lineno - 1] = head + _FROM.sub(lambda match: match[1] + INSIDE[match[2]], tail, count=1)
        elif isinstance(node, ast.Import) and any(name.name.partition(".")[0] in INSIDE for name in node.names):
            # `import service.app` would bind the name `service`, of which no wheel has a module.
            line, changes = _IMPORT.subn(_import_from, lines[node.lineno - 1])
            if not changes:
                raise SystemExit(f"{file}:{node.lineno}: write `import service` alone, or `from service.x import y`")
            lines[node.lineno - 1] = line
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
            raise SystemExit(
                f"{file}:{node.lineno}: the module {node.value!r} has another name in the wheel: use "
                "__package__ or __name__"
            )
    return "".join(lines)


def _import_from(match: "re.Match[str]") -> str:
    package, _, name = INSIDE[match[2]].rpartition(".")
    return f"{match[1]}from {package} import {name} as {match[2]}"


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
