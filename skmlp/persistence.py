"""Files of plain data: numbers, texts and arrays, without pickle.

A file is a zip archive, as numpy's ``.npz`` are, of uncompressed ``.npy`` arrays and of
``content.json``, which says how they hang together and what the SHA-256 of each is. The
SHA-256 of ``content.json`` itself is the archive's comment. Nothing in such a file is
ever run, and no array is larger than the file says it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import struct
import uuid
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Written into each file; a change that older versions can't read raises it.
FORMAT = 1

_CONTENT = "content.json"
_NAME = "skmlp file"

#: What zipfile and the decoding raise on bytes that are not what was written.
_BROKEN = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    struct.error,
)


class _Encoder:
    """Turns nested plain data into JSON and a list of arrays."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._places: dict[int, int] = {}

    def encode(self, value: Any, where: str) -> Any:
        """`value` as JSON takes it; `where` is for the message.

        Raises
        ------
        ValueError
            Something in it is no plain data.
        """
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), where)}
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, (list, tuple)):
            items = [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, Mapping):
            pairs = [
                [self.encode(k, where), self.encode(v, f"{where}[{k!r}]")]
                for k, v in value.items()
            ]
            return {"dict": pairs}
        if isinstance(value, np.random.RandomState):
            state = value.get_state(legacy=False)
            if state["bit_generator"] == "MT19937":
                return {"RandomState": self.encode(state, where)}
        if isinstance(value, np.ndarray):
            if value.dtype.kind != "O":
                return {"array": self._array(value, where)}
            items = [self.encode(v, where) for v in value.ravel().tolist()]
            return {"objects": items, "shape": list(value.shape)}
        raise ValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which "
            "can't be written without pickle. It takes numbers, texts, arrays, lists, "
            "tuples and dicts of them; joblib.dump keeps everything else."
        )

    def _array(self, value: Array, where: str) -> int:
        if value.dtype.hasobject or value.dtype.kind == "V":
            raise ValueError(f"{where} is an array of dtype {value.dtype}")
        # An array that hangs in two places is written once.
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.arrays)
            self.arrays.append(value)
        return place


def _decode(node: Any, arrays: list[Array]) -> Any:
    """The inverse of `_Encoder.encode`."""
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "scalar" in node:
        return arrays[node["scalar"]][()]
    if "float" in node:
        return float(node["float"])
    if "bytes" in node:
        return base64.b64decode(node["bytes"])
    if "tuple" in node:
        return tuple(_decode(item, arrays) for item in node["tuple"])
    if "dict" in node:
        return {_decode(k, arrays): _decode(v, arrays) for k, v in node["dict"]}
    if "RandomState" in node:
        rng = np.random.RandomState()
        rng.set_state(_decode(node["RandomState"], arrays))
        return rng
    if "objects" in node:
        items = np.empty(len(node["objects"]), dtype=object)
        for i, item in enumerate(node["objects"]):
            items[i] = _decode(item, arrays)
        return items.reshape(node["shape"])
    raise ValueError(f"an unknown kind of value: {sorted(node)}")


def write(path: str | os.PathLike[str], kind: str, value: Any) -> None:
    """Write plain data into a file, in one step: there is the old file or the new one.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : str
        What it is; `read` compares it.
    value : object
        None, bool, int, float, str, bytes, RandomState, numpy arrays and scalars, and
        lists, tuples and dicts of them.

    Raises
    ------
    ValueError
        `value` holds something else; the file is left as it was.
    OSError
        The file can't be written; likewise.
    """
    from skmlp import __version__

    encoder = _Encoder()
    tree = encoder.encode(value, kind)
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    # In the same folder, since a move between file systems is no single step.
    part = f".{os.path.basename(path)}.{uuid.uuid4().hex}.part"
    name = os.path.join(folder, part)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(name, flags, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                sums = [
                    _write_array(archive, f"{i}.npy", array)
                    for i, array in enumerate(encoder.arrays)
                ]
                content = {
                    "what": _NAME,
                    "format": FORMAT,
                    "skmlp": __version__,
                    "kind": kind,
                    "sha256": sums,
                    "content": tree,
                }
                text = json.dumps(content, allow_nan=False).encode()
                archive.writestr(_CONTENT, text)
                archive.comment = hashlib.sha256(text).hexdigest().encode()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class _Hashed(io.RawIOBase):
    """Hands bytes on and hashes them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha.update(data)
        return int(self._stream.write(data))


def _write_array(archive: zipfile.ZipFile, name: str, array: Array) -> str:
    """Write an array; return the SHA-256 of its file."""
    with archive.open(name, "w", force_zip64=True) as stream:
        hashed = _Hashed(stream)
        np.lib.format.write_array(hashed, array, allow_pickle=False)
    return hashed.sha.hexdigest()


def read(path: str | os.PathLike[str], *kinds: str) -> tuple[str, str, Any]:
    """Read a file of plain data.

    Parameters
    ----------
    path : str or path-like
        The file.
    *kinds : str
        What it may be.

    Returns
    -------
    kind, version : str
        What it is, and the version of skmlp that wrote it.
    value : object
        What was written.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        The file is damaged, truncated, of a later format or of something else.
    """
    path = os.fspath(path)
    foreign = f"{path} is not a file of skmlp"
    broken = f"{path} is damaged or truncated"
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise ValueError(f"{foreign}: it does not begin as one")
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read(archive, path, kinds)
        except _BROKEN as error:
            raise ValueError(f"{broken}: {error}") from error


def _read(
    archive: zipfile.ZipFile, path: str, kinds: tuple[str, ...]
) -> tuple[str, str, Any]:
    foreign = f"{path} is not a file of skmlp"
    broken = f"{path} is damaged or truncated"
    if _CONTENT not in archive.namelist():
        raise ValueError(f"{foreign}: it has no {_CONTENT}")
    text = _member(archive, _CONTENT, path)
    if hashlib.sha256(text).hexdigest().encode() != archive.comment:
        raise ValueError(f"{broken}: the checksum of {_CONTENT} is wrong")
    head = json.loads(text)
    if not isinstance(head, dict) or head.get("what") != _NAME:
        raise ValueError(foreign)
    if head["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {head['format']}, written by skmlp {head['skmlp']}; "
            f"this version reads up to {FORMAT}: install a newer one"
        )
    if head["kind"] not in kinds:
        raise ValueError(f"{path} is a {head['kind']}, not a {' or a '.join(kinds)}")
    arrays = []
    for i, wanted in enumerate(head["sha256"]):
        data = _member(archive, f"{i}.npy", path)
        if hashlib.sha256(data).hexdigest() != wanted:
            raise ValueError(f"{broken}: the checksum of array {i} is wrong")
        arrays.append(_array_of(data, f"{broken}: array {i}"))
    return head["kind"], head["skmlp"], _decode(head["content"], arrays)


def _array_of(data: bytes, what: str) -> Array:
    """The array of an ``.npy`` file, never more of it than there are bytes."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError(f"{what} has the dtype {dtype}")
    start = stream.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{what} has the shape {shape}, but {len(data)} bytes")
    flat = np.frombuffer(data, dtype, offset=start).copy()
    return flat.reshape(shape, order="F" if fortran else "C")


def _member(archive: zipfile.ZipFile, name: str, path: str) -> bytes:
    """The bytes of a member, which must not be compressed."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: {name} is missing") from error
    if info.compress_type != zipfile.ZIP_STORED:
        # A small file must not become a large one in memory.
        raise ValueError(f"{path} is not a file of skmlp: {name} is compressed")
    return archive.read(info)
