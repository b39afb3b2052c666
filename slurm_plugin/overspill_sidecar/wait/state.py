"""The wait model's memory as bytes: versioned, checked, and nothing in it can run.

A list of plain values in JSON and the arrays beside it. What it may hold is named here: anything else is refused, both
ways. The shape of every class is part of the version, so that a state of another shape is not taken for one's own.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from overspill.certificates import write_file
from overspill.errors import InvalidRequestError
from overspill_sidecar.wait.accounts import PartitionShare, Share, Shares, UserShare
from overspill_sidecar.wait.blend import Blend
from overspill_sidecar.wait.bound import AdaptiveShare
from overspill_sidecar.wait.crowd import Crowd
from overspill_sidecar.wait.decaying import DecayingPeak, DecayingSum, RecentMean
from overspill_sidecar.wait.features import NAMES
from overspill_sidecar.wait.forest import ANCHORS_S, Forest
from overspill_sidecar.wait.learner import Learner
from overspill_sidecar.wait.lookalikes import Lookalikes
from overspill_sidecar.wait.online import OnlineModel, Waiting
from overspill_sidecar.wait.order import ServiceOrder
from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.releases import Releases
from overspill_sidecar.wait.run_times import RunTimes
from overspill_sidecar.wait.samples import Samples
from overspill_sidecar.wait.tracked import Bounded, Tracked

_MAGIC = b"overspill wait model\n"
_DIGEST_BYTES = 32
#: By hand, for changes that no class's shape shows.
_FORMAT = 1
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(AdaptiveShare, Blend, Bounded, Crowd, DecayingPeak, DecayingSum, Forest, Learner, Lookalikes, OnlineModel),
        *(
            PartitionShare,
            QueueState,
            RecentMean,
            Releases,
            RunTimes,
            ServiceOrder,
            Samples,
            Share,
            Shares,
            Tracked,
            UserShare,
            Waiting,
        ),
    )
}
_Array = NDArray[np.generic]


def dump(model: OnlineModel) -> bytes:
    """Return everything that `model` knows. Costs 50 ms for each thousand jobs in the queue: not often.

    Nothing may happen to the model meanwhile. It may be asked in other threads (`outlook_of`), which have their turns
    all the time: nothing in here keeps the interpreter to itself for more than a few milliseconds.
    """
    model.asked = None
    model.queue.sum_up()
    writer = _Writer()
    text = io.StringIO()
    text.writelines(_encoded(writer.plain(model)))
    file = io.BytesIO()
    arrays = {f"array{number}": array for number, array in enumerate(writer.arrays)}
    np.savez(file, allow_pickle=False, state=np.frombuffer(text.getvalue().encode(), np.uint8), **arrays)
    payload = _version() + file.getvalue()
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def restore(data: bytes) -> OnlineModel:
    """Return the model that `dump` was given, which goes on as if nothing had been.

    Raises:
        InvalidRequestError: if this is no such state, a damaged one, or one of another version.
    """
    if not data.startswith(_MAGIC):
        raise InvalidRequestError("it is no state of the wait model")
    digest, payload = _split(data[len(_MAGIC) :], _DIGEST_BYTES)
    if hashlib.sha256(payload).digest() != digest:
        raise InvalidRequestError("it is damaged: its checksum does not fit")
    version, archive = _split(payload, _DIGEST_BYTES)
    if version != _version():
        raise InvalidRequestError("another version of Overspill has written it")
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
        text = arrays["state"].tobytes().decode()
        reader = _Reader([arrays[f"array{number}"] for number in range(len(arrays.files) - 1)])
    model = reader.value(json.loads(text))
    if not isinstance(model, OnlineModel):
        raise InvalidRequestError("it holds no wait model")
    return model


def _split(data: bytes, at: int) -> tuple[bytes, bytes]:
    return data[:at], data[at:]


def _version() -> bytes:
    """Return a digest of all that must be the same for a state to be understood."""
    shapes = [(name, _attributes(kind)) for name, kind in sorted(_CLASSES.items())]
    return hashlib.sha256(repr((_FORMAT, shapes, NAMES, GRID_S, ANCHORS_S)).encode()).digest()


def _attributes(kind: type) -> tuple[str, ...]:
    """Return the names of what an object of this class consists of."""
    if hasattr(kind, "__dataclass_fields__"):
        return tuple(field.name for field in fields(kind))
    slots = (cast("Iterable[str]", each.__dict__.get("__slots__", ())) for each in kind.__mro__)
    return tuple(name for names in slots for name in names)


_ATTRIBUTES = {kind: _attributes(kind) for kind in _CLASSES.values()}
#: What JSON has.
_PLAIN = frozenset({type(None), bool, int, float, str})


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def _encoded(plain: object) -> Iterator[str]:
    """Yield JSON in pieces, and take each out of its list: no other thread goes on before the encoder has ended.

    Nor before a large list has gone with all that is in it.
    """
    if not isinstance(plain, list) or all(type(each) in _PLAIN for each in plain):
        yield _ENCODE(plain)
        return
    plain.reverse()
    before = "["
    while plain:
        yield before
        yield from _encoded(plain.pop())
        before = ","
    yield "]"


class _Writer:
    """Turns objects into lists: a tag, then what it is made of. An object that stands in several places comes once."""

    def __init__(self) -> None:
        self.arrays: list[_Array] = []
        self._known: dict[int, int] = {}

    def plain(self, value: object) -> object:
        if isinstance(value, bool | int | float | str | None):
            return value
        if isinstance(value, np.ndarray):
            self.arrays.append(value)
            return ["array", len(self.arrays) - 1]
        if isinstance(value, dict):
            tag = "ordered" if isinstance(value, OrderedDict) else "dict"
            return [tag, *([self.plain(key), self.plain(entry)] for key, entry in value.items())]
        if isinstance(value, deque):
            return ["deque", value.maxlen, *self._each(value)]
        if type(value) is list or type(value) is tuple:
            return [type(value).__name__, *self._each(value)]
        return self._object(value)

    def _each(self, values: Iterable[object]) -> list[object]:
        """Return all of them plain; most are already, and a call for each would be most of the time."""
        return [value if type(value) in _PLAIN else self.plain(value) for value in values]

    def _object(self, value: object) -> object:
        number = self._known.get(id(value))
        if number is not None:
            return ["again", number]
        self._known[id(value)] = len(self._known)
        kind = type(value)
        if _CLASSES.get(kind.__name__) is not kind:
            raise TypeError(f"a wait model holds no {kind.__name__}")
        return [kind.__name__, *self._each(getattr(value, attribute) for attribute in _ATTRIBUTES[kind])]


class _Reader:
    def __init__(self, arrays: list[_Array]) -> None:
        self._arrays = arrays
        self._known: list[object] = []

    def value(self, plain: object) -> object:
        if not isinstance(plain, list):
            return plain
        tag, *parts = plain
        if tag in _CLASSES:
            return self._object(_CLASSES[tag], parts)
        return _MAKERS[tag](self, parts)

    def array(self, number: int) -> _Array:
        return self._arrays[number]

    def again(self, number: int) -> object:
        return self._known[number]

    def _object(self, kind: type, parts: list[object]) -> object:
        made: object = object.__new__(kind)
        # Before its parts: this is the order in which objects were numbered.
        self._known.append(made)
        for attribute, part in zip(_ATTRIBUTES[kind], parts, strict=True):
            value = self.value(part) if isinstance(part, list) else part
            object.__setattr__(made, attribute, value)
        return made


def _pairs(reader: _Reader, parts: list[object]) -> Iterable[tuple[object, object]]:
    return ((reader.value(key), reader.value(value)) for key, value in cast("list[list[object]]", parts))


_MAKERS: dict[str, Callable[[_Reader, list[object]], object]] = {
    "array": lambda reader, parts: reader.array(cast("int", parts[0])),
    "again": lambda reader, parts: reader.again(cast("int", parts[0])),
    "dict": lambda reader, parts: dict(_pairs(reader, parts)),
    "ordered": lambda reader, parts: OrderedDict(_pairs(reader, parts)),
    "deque": lambda reader, parts: deque(map(reader.value, parts[1:]), cast("int | None", parts[0])),
    "list": lambda reader, parts: list(map(reader.value, parts)),
    "tuple": lambda reader, parts: tuple(map(reader.value, parts)),
}


def save(model: OnlineModel, path: Path) -> None:
    """Write `model` to `path` in one step: whoever reads it finds the old state or the new one.

    Raises:
        OSError: if it cannot be written; what was there is still there.
    """
    write_file(path, dump(model))


def load(path: Path, cpus: int) -> tuple[OnlineModel, str]:
    """Return the model that was saved at `path`, or a new one and why it had to be new."""
    try:
        return restore(path.read_bytes()), ""
    except FileNotFoundError:
        return OnlineModel(cpus), f"{path} is not there yet"
    except OSError as error:
        return OnlineModel(cpus), f"{path} cannot be read: {error.strerror}"
    except InvalidRequestError as error:
        return OnlineModel(cpus), f"{path} is not used: {error.reason}"
