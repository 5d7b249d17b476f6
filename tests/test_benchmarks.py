"""Every benchmark runs, small, and prints its tables. No figure is looked at."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cases, child, common, cost
from tests.limits import HANG_S

ROOT = Path(__file__).parents[1]
ONE_NET = "--shapes 64-100-10 --dtypes float64"

#: Command, and some of the headers of its tables.
COMMANDS = {
    f"compare {ONE_NET} --peers gemm,sklearn --places process,loky": [
        "ms per epoch",
        "gemm",
        "scikit-learn",
        "against scikit-learn",
        "time / gemm",
        "2 loky against one process",
    ],
    "small": ["scikit-learn", "skmlp", "times as fast"],
    "predict --dtypes float64 --nets 64-100": [
        "scikit-learn, arrays",
        "skmlp, process",
    ],
    f"lbfgs {ONE_NET}": ["scikit-learn", "skmlp", "times as fast"],
    "sparse --dtypes float64": ["scikit-learn", "skmlp", "times as fast"],
    "memory --cases Fortran": ["skmlp, growth", "skmlp, peak"],
    f"ranks {ONE_NET} --only loky,ceiling": [
        "times as fast as 1 rank, 1 BLAS thread",
        "loky / ceiling",
    ],
    f"ranks {ONE_NET} --rule --only n_jobs=2": [
        "times as fast as n_jobs=1",
        "loky, n_jobs=2",
    ],
    f"cluster {ONE_NET}": ["ceiling", "gang", "gang / ceiling", "outside"],
    "start --dtypes float64 --places loky": ["difference", "2 loky"],
    "allreduce": ["float32, us per sum", "skmlp"],
    "many": ["ranks", "first fit", "files"],
    "many --exchange": ["connections", "meeting"],
    f"arrays {ONE_NET} --only torch,on_torch": [
        "skmlp on torch",
        "skmlp on torch / torch",
    ],
}


class Here:
    """A child in this process, which has scikit-learn loaded already."""

    def __init__(self, target, *arguments, **_):
        module, _, name = target.partition(":")
        self._contestant = getattr(importlib.import_module(module), name)(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._contestant.close()

    def send(self, method, *arguments):
        given = json.loads(json.dumps(arguments))
        self._answer = json.loads(child.answer(self._contestant, method, given))

    def receive(self, method):
        assert "error" not in self._answer, self._answer["error"]
        return self._answer["result"]

    def call(self, method, *arguments):
        self.send(method, *arguments)
        return self.receive(method)


def tables(text):
    """The Markdown tables: rows of cells, without the line below the header."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in block.splitlines()
        ]
        del rows[1]
        found.append(rows)
    return found


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process, and return what it prints."""

    def run(command):
        name, *options = command.split()
        if name == "arrays":  # it sets this where scikit-learn asks for it
            monkeypatch.setenv("SCIPY_ARRAY_API", "1")
        module = importlib.import_module(f"benchmarks.{name}")
        for place in (common, module):
            monkeypatch.setattr(place, "Child", Here, raising=False)
        monkeypatch.setattr(sys, "argv", [name, "--quick", *options])
        module.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_command_prints_its_tables(command, run, tmp_path):
    if command.startswith("arrays"):
        pytest.importorskip("torch", reason="it compares with torch")
    copy, raw = tmp_path / "table.md", tmp_path / "raw.json"
    text = run(f"{command} --markdown {copy} --json {raw}")
    assert re.search(r"^BLAS: .* kernels, ", text, re.MULTILINE)
    found = tables(text)
    for rows in found:
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        for row in rows[1:]:
            assert re.fullmatch(r"-?[\d.]+( \(\d\))?", row[-1]), row
    assert set(COMMANDS[command]) <= {header for rows in found for header in rows[0]}
    assert copy.read_text(encoding="utf-8") == text
    assert json.loads(raw.read_text(encoding="utf-8"))["measurements"]


def test_every_command_is_tested():
    scripts = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "start_again(__file__)" in path.read_text(encoding="utf-8")
    }
    # The loads print sentences, no tables: see tests/dask/test_load.py. The network
    # needs root: see tests/soak/test_network.py.
    others = {"load", "network", "cost"}
    assert scripts - others == {command.split()[0] for command in COMMANDS}


def test_the_model_of_the_cost_predicts_what_it_made(tmp_path, monkeypatch, capsys):
    constants = {"a": 3e-5, "b": 2e-9, "r": 1.1}
    settings = []
    for shape, dtype, n, mbit, latency in itertools.product(
        cases.SHAPES[:2], ["float32"], [2, 4, 32], [100, 1000], [0.1, 10]
    ):
        setting = {"workers": n, "mbit": mbit, "latency": latency, "size": 1e6}
        constants[str(shape), dtype] = 0.01 * shape.batch
        one = setting | {"shape": str(shape), "dtype": dtype}
        epoch = 10 * cost.predicted(one, constants, cores=2)
        setting |= {"shape": dataclasses.asdict(shape), "dtype": dtype, "steps": 10}
        settings.append(setting | {"gang": [{"epoch": epoch}]})
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"cores": 2, "measurements": settings}))
    monkeypatch.setattr(sys, "argv", ["cost", str(path)])
    cost.main()
    text = capsys.readouterr().out
    told = "A message takes 30.0 us of a core, a megabyte 2.00 ms; bytes take 1.10"
    assert told in text
    assert "12 of 12 within 20 %; median error 0%, largest 0%." in text


def test_missing_peers_are_left_out_with_a_word(run, monkeypatch):
    compare = importlib.import_module("benchmarks.compare")
    monkeypatch.setattr(compare, "installed", lambda name: False)
    text = run(f"compare {ONE_NET} --peers gemm,torch,jax --places none")
    assert "torch is not installed: its column is left out." in text
    assert "JAX is not installed: its column is left out." in text
    (rows,) = tables(text)
    assert rows[0] == ["ms per epoch", "dtype", "gemm"]


def test_the_script_starts_children_with_the_kernels_of_their_choice():
    """From any folder, also from its own, where ``sparse.py`` lies."""
    done = subprocess.run(
        [
            sys.executable,
            "compare.py",
            *f"--quick --blas-threads 1 {ONE_NET} --peers gemm --places none".split(),
        ],
        cwd=ROOT / "benchmarks",
        env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (kernels,) = re.findall(r"^BLAS: (.*)$", done.stdout, re.MULTILINE)
    assert "Prescott" not in kernels
    assert kernels.endswith(" 1 threads")
    assert len(tables(done.stdout)) == 1


@pytest.mark.parametrize(
    ("target", "method", "message"),
    [
        ("benchmarks.child:Contestant", "dance", "has no attribute 'dance'"),
        ("benchmarks.child:Nobody", "dance", "has no attribute 'Nobody'"),
        ("os:_exit", "dance", r"os:_exit ended in start, with the code 3"),
    ],
)
def test_a_child_that_fails_says_so(target, method, message):
    arguments = [3] if target == "os:_exit" else []
    with (
        child.Child(target, *arguments) as failing,
        pytest.raises(child.ChildFailedError, match=message),
    ):
        failing.call(method)


def test_a_child_that_takes_too_long_is_named_and_ended(monkeypatch):
    monkeypatch.setattr(child, "CALL_LIMIT", 0.5)
    monkeypatch.setattr(child, "FAILED_CLOSE_LIMIT", 0.5)
    message = r"time:sleep\.start did not answer within 0\.5 s"
    with (
        pytest.raises(child.ChildFailedError, match=message),
        child.Child("time:sleep", 1000) as sleeping,
    ):
        sleeping.call("wake")
    assert sleeping._process.poll() is not None
