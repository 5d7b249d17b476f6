"""The walls of the package: who may import whom, and how large a file may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import sklearn.neural_network

import skmlp
from tests.limits import HANG_S

ROOT = Path(__file__).parents[1]

#: The floors of ``skmlp/`` from the top. A module may import its own floor and those
#: below, never a higher one. Described in docs/decisions/0001-floor-plan.rst.
FLOORS = (
    ("testing",),
    ("onnx",),
    ("estimators",),
    ("predict",),
    ("checkpoints",),
    ("callbacks", "display", "versions"),
    ("quasi_newton",),
    ("supervise", "persistence"),
    ("build",),
    ("train", "evaluate"),
    ("commit", "lanes", "steps", "stopping", "validate"),
    ("constant", "shard_work"),
    ("launch",),
    ("data",),
    ("plan", "state", "twister"),
    ("comm",),
    ("metrics",),
    ("model",),
    ("optim",),
    ("kernels",),
    ("config", "cores", "exceptions"),
)

#: Pairs that may not meet although the floors would allow it.
APART = {
    ("model", "optim"): "gradients know nothing of the steps taken with them",
}

#: The one name of the package's top that every floor may ask for.
VERSION = "__version__"

#: Other projects' modules, and the units that alone may import them.
ONLY_IN = {
    "sklearn.base": ("estimators",),
    "sklearn.neural_network": ("estimators",),
}

#: A file of more lines holds two things.
LINE_LIMIT = 500


# ---- The checker -------------------------------------------------------------------


def imports_of(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """All names that `module` imports, absolute, but for those under TYPE_CHECKING.

    ``from a import b`` gives ``a.b``: whether b is a module or not, it lies in a.
    """
    for_types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def lies_in(name: str, package: str) -> bool:
    """Whether `name` is `package` or lies below it."""
    return f"{name}.".startswith(f"{package}.")


def unit_of(name: str) -> str:
    """The part of the package that a name belongs to; '' for the package itself."""
    return name.partition(".")[2].partition(".")[0]


def violations(
    package: Path,
    floors: Sequence[Sequence[str]] = FLOORS,
    apart: Mapping[tuple[str, str], str] = APART,
    only_in: Mapping[str, Sequence[str]] = ONLY_IN,
) -> list[str]:
    """Every import below the folder `package` that breaks a rule, as a sentence."""
    height = {unit: -i for i, floor in enumerate(floors) for unit in floor}
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        unit = unit_of(module)
        if unit and unit not in height:
            found.append(f"{module} has no floor: add it to the floor plan")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports_of(tree, module, is_package):
            for foreign, allowed in only_in.items():
                if lies_in(name, foreign) and unit not in allowed:
                    found.append(f"{module} imports {foreign}")
            target = unit_of(name)
            if not unit or not lies_in(name, package.name) or target == VERSION:
                continue
            if target not in height:
                found.append(f"{module} imports {name}, from the top of the package")
            elif height[target] > height[unit]:
                found.append(f"{module} imports {name}, which is a higher floor")
            elif (unit, target) in apart:
                found.append(f"{module} imports {name}: {apart[unit, target]}")
    return found


def copied_runs(text: str, original: str, length: int = 5) -> list[str]:
    """Runs of `length` successive lines that `text` shares with `original`.

    Blank lines, imports and lines of less than ten characters do not count.
    """

    def runs(source: str) -> set[str]:
        lines = [line.strip() for line in source.splitlines()]
        lines = [
            line
            for line in lines
            if len(line) >= 10 and not line.startswith(("import ", "from "))
        ]
        return {
            "\n".join(lines[i : i + length]) for i in range(len(lines) - length + 1)
        }

    return sorted(runs(text) & runs(original))


def python_files(*folders: str) -> Iterable[Path]:
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    return set(done.stdout.split())


# ---- The package -------------------------------------------------------------------


def test_lower_floors_never_import_higher_ones():
    assert violations(ROOT / "skmlp") == []


def test_importing_the_package_is_light():
    assert not loaded_by("import skmlp") & {"dask", "distributed", "numba", "llvmlite"}


@pytest.mark.parametrize(
    "path",
    python_files("skmlp", "tests", "examples", "benchmarks"),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_holds_one_thing(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= LINE_LIMIT, f"{path} has {n_lines} lines: it holds two things"


def test_the_public_names_are_the_documented_ones():
    documented = set()
    for block in re.split(r"\.\. autosummary::", read("docs/api.rst"))[1:]:
        entries = indented_lines(block)
        documented |= {line for line in entries if not line.startswith(":")}
    assert documented == {n for n in skmlp.__all__ if n != "__version__"}
    assert skmlp.__all__ == sorted(skmlp.__all__)
    for name in skmlp.__all__:
        assert getattr(skmlp, name) is not None


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def indented_lines(block: str) -> list[str]:
    """The indented lines, stripped, that follow a directive up to the next text."""
    lines = block.splitlines()[1:]
    end = next((i for i, s in enumerate(lines) if s and not s[0].isspace()), None)
    return [line.strip() for line in lines[:end] if line.strip()]


def test_no_text_of_scikit_learns_own_test_is_copied():
    original = original_test().read_text(encoding="utf-8")
    for path in python_files("skmlp", "tests", "examples", "benchmarks"):
        copied = copied_runs(path.read_text(encoding="utf-8"), original)
        assert not copied, f"{path} repeats scikit-learn's test:\n{copied[0]}"


def original_test() -> Path:
    (package,) = sklearn.neural_network.__path__
    return Path(package, "tests", "test_mlp.py")


# ---- The checker itself ------------------------------------------------------------

BAD_TREE = {
    "__init__.py": "from .attic import roof\nimport sklearn.base",
    "attic/__init__.py": "",
    "attic/roof.py": "from ..cellar import wine\nimport sklearn.base",
    "attic/window.py": "from house.attic import roof\nfrom sklearn.base import clone",
    "cellar/__init__.py": "from . import wine",
    "cellar/wine.py": "def f():\n    import house.attic.roof",
    "cellar/beer.py": "from ..attic import roof",
    "cellar/cider.py": "from house import attic",
    "cellar/juice.py": "import house\nfrom house import __version__",
    "cellar/cork.py": "from sklearn.base import clone",
    "cellar/label.py": "from house.well import water",
    "cellar/typed.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from house.attic import roof\n"
        "else:\n    from house.attic import window\n"
    ),
    "well.py": "import sys",
    "shed.py": "import os",
}

BAD_IMPORTS = [
    "house.cellar.beer imports house.attic.roof, which is a higher floor",
    "house.cellar.cider imports house.attic, which is a higher floor",
    "house.cellar.cork imports sklearn.base",
    "house.cellar.juice imports house, from the top of the package",
    "house.cellar.label imports house.well.water: water spoils wine",
    "house.cellar.typed imports house.attic.window, which is a higher floor",
    "house.cellar.wine imports house.attic.roof, which is a higher floor",
    "house.shed has no floor: add it to the floor plan",
    "house imports sklearn.base",
]


def test_the_checker_finds_what_is_wrong(tmp_path):
    for name, text in BAD_TREE.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = violations(
        tmp_path / "house",
        floors=(("attic",), ("cellar",), ("well",)),
        apart={("cellar", "well"): "water spoils wine"},
        only_in={"sklearn.base": ("attic",)},
    )
    assert sorted(found) == sorted(BAD_IMPORTS)


def test_loaded_by_sees_what_is_loaded():
    assert "dask" in loaded_by("import dask.base")


def test_copied_lines_are_seen():
    lines = original_test().read_text(encoding="utf-8").splitlines()
    middle = len(lines) // 2
    text = "\n".join(lines[middle : middle + 20])
    assert copied_runs(f"x = 'my own line'\n{text}\n", "\n".join(lines))
    assert not copied_runs("x = 'my own line'\n" * 9, "\n".join(lines))
