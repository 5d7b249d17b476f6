"""The structure of the package: who may import whom, and how large it may grow."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sklearn.neural_network

import skmlp
from tests.limits import HANG_S

ROOT = Path(__file__).parents[1]

#: The floors of ``skmlp/`` from the top. A module may import its own floor and those
#: below, never a higher one. Described in docs/development/architecture.rst.
FLOORS = (
    ("testing",),
    ("onnx", "saving"),
    ("tabular",),
    ("estimators",),
    ("display", "versions"),
    ("dask",),
    ("launch",),
    ("training",),
    ("data",),
    ("plan", "state", "persistence"),
    ("comm",),
    ("model",),
    ("optim",),
    ("kernels",),
    ("arrays", "fused"),
    ("config", "cores", "exceptions", "rng_state", "threads"),
)

#: Pairs that may not meet although the floors would allow it.
APART = {
    ("model", "optim"): "gradients know nothing of the steps taken with them",
}

#: The one name of the package's top that every floor may ask for.
VERSION = "__version__"

#: Other projects' modules, and the units that alone may import them.
ONLY_IN = {
    "sklearn.base": ("estimators", "tabular"),
    "sklearn.neural_network": ("estimators",),
}

#: Lines of a file, and files of a folder (without ``__init__`` and sub-folders).
MOST_LINES_OF_A_FILE = 500
MOST_FILES_OF_A_FOLDER = 15

#: Lines of code in ``skmlp/`` (without blank lines, comments and docstrings), and all
#: lines, by what they are for. A feature may add a row, once.
LINES = {
    "the house": (16_835, 26_390),
    "types of the estimators, assignments in constructors": (390, 390),
    "errors that point to what was meant, what a fit tells": (200, 380),
    "estimators of raw tables": (1_215, 2_130),
    "raw tables: lazy intervals, scorers of the user's rows, odd columns": (275, 400),
    "rows that are encoded by the minibatch; ramps and categories so": (205, 350),
    "networks of a table end with a fit that fails": (50, 75),
    "UNIX sockets between ranks of one host": (60, 100),
    "compiled steps of ranks beside others": (180, 270),
    "sums of many ranks; which batch and how many workers would do": (300, 480),
    "arrays of other libraries, on their devices": (810, 1_240),
    "one process of several compiles a kernel": (45, 60),
}
MOST_LINES_OF_CODE = sum(code for code, _ in LINES.values())
MOST_LINES = sum(lines for _, lines in LINES.values())


# ---- The checker -------------------------------------------------------------------


def imports_of(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """All names that `module` imports, absolute; also inside functions and for types.

    ``from a import b`` gives ``a.b``: whether b is a module or not, it lies in a.
    """
    for node in ast.walk(tree):
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


def module_of(path: Path, package: Path) -> tuple[str, bool]:
    """The dotted name of a file, and whether it is a package's ``__init__``."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


def circles(package: Path) -> list[tuple[str, ...]]:
    """The groups of files that import each other, directly or through others.

    The package's own ``__init__`` does not count: everybody asks it for the version.
    """
    files = dict(module_of(path, package) for path in package.rglob("*.py"))
    del files[package.name]
    imports: dict[str, set[str]] = {}
    for module, is_package in files.items():
        path = package.parent.joinpath(*module.split("."))
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = set(imports_of(tree, module, is_package))
        names |= {name.rpartition(".")[0] for name in names if name not in files}
        imports[module] = (names & set(files)) - {module}
    reached: dict[str, set[str]] = {}
    for module in imports:
        reached[module], waiting = set(), [module]
        while waiting:
            new = imports[waiting.pop()] - reached[module]
            reached[module] |= new
            waiting += new
    found = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in imports
        if module in reached[module]
    }
    return sorted(found)


def lines_of_code(text: str) -> int:
    """Lines with a token of code: no blank lines, comments or docstrings."""
    tree, docstrings = ast.parse(text), set()
    for node in ast.walk(tree):
        owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, owners) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            docstrings |= set(range(docstring.lineno, docstring.end_lineno + 1))
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            found |= set(range(token.start[0], token.end[0] + 1))
    return len(found - docstrings)


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


def test_no_file_is_too_long():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files("skmlp", "tests", "examples", "benchmarks")
    }
    long = {path: n for path, n in lengths.items() if n > MOST_LINES_OF_A_FILE}
    assert not long, f"each of these files holds two things: {long}"


def test_no_folder_is_too_full():
    counts = Counter(
        str(path.parent.relative_to(ROOT / "skmlp"))
        for path in python_files("skmlp")
        if path.name != "__init__.py"
    )
    full = {folder: n for folder, n in counts.items() if n > MOST_FILES_OF_A_FOLDER}
    assert not full, f"split these by topic: {full}"


def test_no_files_import_each_other():
    assert circles(ROOT / "skmlp") == []


def test_the_package_is_small():
    texts = [path.read_text(encoding="utf-8") for path in python_files("skmlp")]
    code = sum(lines_of_code(text) for text in texts)
    lines = sum(len(text.splitlines()) for text in texts)
    print(f"{len(texts)} files, {code} lines of code, {lines} lines")
    assert code <= MOST_LINES_OF_CODE
    assert lines <= MOST_LINES


def test_silenced_checks_have_a_reason():
    for path in python_files("skmlp"):
        for line in path.read_text(encoding="utf-8").splitlines():
            for silenced in re.finditer(r"# (type: ignore|noqa)[^#]*", line):
                rest = line[silenced.end() :]
                assert rest.startswith("# ") or " - " in silenced[0], f"{path}: {line}"


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
    "house.cellar.typed imports house.attic.roof, which is a higher floor",
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
    circle = ("house.attic.roof", "house.cellar.wine")
    assert circles(tmp_path / "house") == [circle]


def test_lines_of_code_are_counted():
    text = '"""A docstring.\n\nOf three lines.\n"""\n\n# a comment\nx = [\n    1,\n]\n'
    assert lines_of_code(text) == 3


def test_loaded_by_sees_what_is_loaded():
    assert "dask" in loaded_by("import dask.base")


def test_copied_lines_are_seen():
    lines = original_test().read_text(encoding="utf-8").splitlines()
    middle = len(lines) // 2
    text = "\n".join(lines[middle : middle + 20])
    assert copied_runs(f"x = 'my own line'\n{text}\n", "\n".join(lines))
    assert not copied_runs("x = 'my own line'\n" * 9, "\n".join(lines))
