"""Files of plain data come back as they were, and nothing else is read as one."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp import persistence

SHARED = np.arange(6.0)
VALUES = {
    "nothing": None,
    "bools": [True, False],
    "integers": [0, -1, 2**80],
    "reals": [0.1, 1e-310, -0.0, float("inf"), float("nan")],
    "texts": ["", "é\n\0"],
    "bytes": b"\x00\xff",
    "nested": {"a": (1, [2, (3,)]), 5: {"b": ()}, (1, 2): "key"},
    "arrays": [SHARED.reshape(2, 3), np.array([], np.float32), np.array(3, np.int8)],
    "fortran": np.asfortranarray(SHARED.reshape(2, 3)),
    "strings": np.array(["one", "three"]),
    "objects": np.array([["a", 1], [None, 2.5]], dtype=object),
    "scalars": [np.float32(0.1), np.int64(3), np.bool_(True), np.str_("x")],
    "complex": np.array([1j]),
    "twice": [SHARED, SHARED],
}


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_equal(list(one.values()), list(other.values()))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert_array_equal(one, other)
        if one.dtype != object:
            assert one.tobytes() == other.tobytes()
    else:
        assert repr(one) == repr(other)


@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back(name, tmp_path):
    path = tmp_path / "file"
    persistence.write(path, "thing", VALUES[name])
    kind, version, value = persistence.read(path, "other", "thing")
    assert kind == "thing"
    assert version
    assert_equal(value, VALUES[name])
    assert os.listdir(tmp_path) == ["file"]


def test_a_random_state_goes_on(tmp_path):
    rng = np.random.RandomState(3)
    rng.normal(size=3)  # a Gaussian is left over
    persistence.write(tmp_path / "file", "thing", rng)
    _, _, again = persistence.read(tmp_path / "file", "thing")
    assert_array_equal(again.normal(size=5), rng.normal(size=5))


def test_an_array_in_two_places_is_written_once(tmp_path):
    big = np.zeros(10**5)
    persistence.write(tmp_path / "file", "thing", [big, {"again": big}])
    assert (tmp_path / "file").stat().st_size < 1.1 * big.nbytes


@pytest.mark.parametrize(
    "value",
    [print, {1, 2}, np.array([print]), [np.random.default_rng(0)], object()],
    ids=["function", "set", "array of objects", "generator", "object"],
)
def test_what_is_no_plain_data_is_refused(value, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"as it was")
    with pytest.raises(ValueError, match=r"^thing\['here'\].*without pickle"):
        persistence.write(path, "thing", {"here": value})
    assert path.read_bytes() == b"as it was"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    persistence.write(path, "thing", 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        persistence.write(path, "thing", 2)
    assert persistence.read(path, "thing")[2] == 1
    assert os.listdir(tmp_path) == ["file"]


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "file"
    persistence.write(path, "thing", {"a": SHARED, "b": [1.5, "text"]})
    whole = path.read_bytes()
    unnoticed = []
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        )
        try:
            _, _, value = persistence.read(path, "thing")
        except ValueError:
            continue
        # Each part has a CRC-32, and the archive's directory names and places that are
        # compared. A date or a version in it may change; the contents may not.
        assert_equal(value, {"a": SHARED, "b": [1.5, "text"]})
        unnoticed.append(place)
    assert len(unnoticed) < len(whole) / 4
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged|not a file of skmlp"):
            persistence.read(path, "thing")


def rewritten(path: Any, **changes: Any) -> None:
    """Write the file anew with other entries in its head."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    head = json.loads(members["content.json"])
    members["content.json"] = json.dumps({**head, **changes}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_numpy_reads_the_arrays_and_json_the_rest(tmp_path):
    persistence.write(tmp_path / "file", "thing", {"a": SHARED, "b": [1.5, "text"]})
    with np.load(tmp_path / "file", allow_pickle=False) as arrays:
        assert_array_equal(arrays["arr_0"], SHARED)
    with zipfile.ZipFile(tmp_path / "file") as archive:
        head = json.loads(archive.read("content.json"))
    assert head["kind"] == "thing"
    assert ["b", [1.5, "text"]] in head["content"]["dict"]


@pytest.mark.parametrize("content", ["[]", "[1]", '{"a": 1, "b": 2}', '{"a": 1}', "x"])
def test_json_of_others_is_refused(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("content.json", content)
    with pytest.raises(ValueError, match=r"not a file of skmlp|damaged"):
        persistence.read(tmp_path / "file", "thing")


def test_no_pickle_is_loaded(tmp_path):
    persistence.write(tmp_path / "file", "thing", SHARED)
    with zipfile.ZipFile(tmp_path / "file") as archive:
        text = archive.read("content.json")
    np.savez(tmp_path / "other", np.array([print], dtype=object))
    with zipfile.ZipFile(tmp_path / "other.npz", "a") as archive:
        archive.writestr("content.json", text)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        persistence.read(tmp_path / "other.npz", "thing")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        persistence.read(path, "thing")
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ValueError, match="not a file of skmlp"):
        persistence.read(path, "thing")
    np.savez(tmp_path / "numpy.npz", a=SHARED)
    with pytest.raises(ValueError, match="not a file of skmlp"):
        persistence.read(tmp_path / "numpy.npz", "thing")
    persistence.write(path, "thing", 1)
    with pytest.raises(ValueError, match="is a thing, not a estimator or a model"):
        persistence.read(path, "estimator", "model")
    rewritten(path, format=99)
    with pytest.raises(ValueError, match=r"format 99.*install a newer one"):
        persistence.read(path, "thing")


def test_an_archive_that_would_swell_is_refused(tmp_path):
    path = tmp_path / "file"
    persistence.write(path, "thing", SHARED)
    with zipfile.ZipFile(path) as archive:
        text = archive.read("content.json")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", bytes(10**6))
        archive.writestr("content.json", text)
    with pytest.raises(ValueError, match="compressed"):
        persistence.read(path, "thing")
