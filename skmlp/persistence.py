"""Files of plain data: numbers, texts and arrays, without pickle.

A file is what `numpy.savez` makes of the arrays, with ``content.json`` in it, which
says how they hang together. Reading it runs nothing; the CRC-32 of zip archives shows
damage.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import uuid
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer, LabelEncoder, OneHotEncoder

from skmlp.arrays import Array
from skmlp.model.input_encoding import InputEncoding

#: Written into each file; a change that older versions can't read raises it.
FORMAT = 1

_CONTENT = "content.json"

#: Objects that are plain data with methods.
_OBJECTS = {
    cls.__name__: cls
    for cls in (LabelBinarizer, LabelEncoder, OneHotEncoder, InputEncoding)
}


class _Encoder:
    """Turns nested plain data into JSON and a list of arrays.

    What JSON lacks becomes a dictionary of one entry, whose key says what it is.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._places: dict[int, int] = {}

    def encode(self, value: Any, where: str) -> Any:
        """`value` as JSON takes it; ValueError, with `where`, if it is not plain."""
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, bytes):
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
        if type(value) is _OBJECTS.get(type(value).__name__):
            return {type(value).__name__: self.encode(vars(value), where)}
        if isinstance(value, type) and issubclass(value, np.generic):
            return {"type": np.dtype(value).str}
        if isinstance(value, np.ndarray) and value.dtype == object:
            return {
                "objects": [value.shape, self.encode(value.ravel().tolist(), where)]
            }
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufcmMSU":
            return {"array": self._array(value)}
        raise ValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which "
            "can't be written without pickle. It takes numbers, texts, arrays, lists, "
            "tuples and dicts of them; joblib.dump keeps everything else."
        )

    def _array(self, value: Array) -> int:
        # An array that hangs in two places is written once.
        place = self._places.setdefault(id(value), len(self.arrays))
        if place == len(self.arrays):
            self.arrays.append(value)
        return place


def _decoder(arrays: dict[str, Array]) -> Any:
    """The inverse of `_Encoder.encode`, for each dictionary in JSON, inner first."""

    def decode(node: dict[str, Any]) -> Any:
        if len(node) > 1:
            return node  # the head
        ((kind, value),) = node.items()
        if kind == "array":
            return arrays[f"arr_{value}.npy"]
        if kind == "scalar":
            return arrays[f"arr_{value}.npy"][()]
        if kind == "bytes":
            return base64.b64decode(value)
        if kind == "tuple":
            return tuple(value)
        if kind == "dict":
            return dict(value)
        if kind == "RandomState":
            rng = np.random.RandomState()
            rng.set_state(value)
            return rng
        if kind in _OBJECTS:
            found = object.__new__(_OBJECTS[kind])
            vars(found).update(value)
            return found
        if kind == "type":
            return np.dtype(value).type
        if kind == "objects":
            shape, items = value
            flat = np.empty(len(items), dtype=object)
            for i, item in enumerate(items):
                flat[i] = item
            return flat.reshape(shape)
        raise ValueError(f"an unknown kind of value: {kind}")

    return decode


def write(path: str | os.PathLike[str], kind: str, value: Any) -> None:
    """Write plain data into a file, in one step: there is the old file or the new one.

    Plain are None, bool, int, float, str, bytes, RandomState, scikit-learn's encoders,
    arrays, scalars and types of numpy, and lists, tuples and dicts of them; ValueError
    for anything else. `read` compares `kind`.
    """
    from skmlp import __version__

    encoder = _Encoder()
    head = {"format": FORMAT, "skmlp": __version__, "kind": kind}
    text = json.dumps({**head, "content": encoder.encode(value, kind)})
    path = os.fspath(path)
    # In the same folder, since a move between file systems is no single step.
    part = f".{os.path.basename(path)}.{uuid.uuid4().hex}.part"
    part = os.path.join(os.path.dirname(path), part)
    try:
        with open(part, "x+b") as stream:
            np.savez(stream, *encoder.arrays)
            with zipfile.ZipFile(stream, "a") as archive:
                archive.writestr(_CONTENT, text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def read(path: str | os.PathLike[str], *kinds: str) -> tuple[str, str, Any]:
    """Read a file of one of the kinds: its kind, its version of skmlp, the data.

    ValueError if it is damaged, truncated, of a later format or of something else.
    """
    path = os.fspath(path)
    foreign = f"{path} is not a file of skmlp"
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise ValueError(f"{foreign}: it does not begin as one")
        try:
            head = _content(stream)
        # zipfile, numpy and the decoding raise what they will on foreign bytes.
        except Exception as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(head, dict) or "skmlp" not in head:
        raise ValueError(f"{foreign}: it has no {_CONTENT} of it")
    if head["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {head['format']}, written by skmlp {head['skmlp']}; "
            f"this version reads up to {FORMAT}: install a newer one"
        )
    if head["kind"] not in kinds:
        raise ValueError(f"{path} is a {head['kind']}, not a {' or a '.join(kinds)}")
    return head["kind"], head["skmlp"], head["content"]


def _content(stream: Any) -> Any:
    """What the JSON of an archive says, decoded; None if there is none."""
    text, arrays = None, {}
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.compress_size < info.file_size:
                # A small file must not become a large one in memory.
                raise ValueError(f"{info.filename} is compressed")
            data = archive.read(info)  # the whole of it, so that its CRC-32 is compared
            if info.filename == _CONTENT:
                text = data
            else:
                array = np.load(io.BytesIO(data), allow_pickle=False)
                arrays[info.filename] = array
    return text and json.loads(text, object_hook=_decoder(arrays))
