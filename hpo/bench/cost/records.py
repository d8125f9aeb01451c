"""Groups keep what was measured, one model at one size in one interleaved run, as JSON."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.contenders import Kind
from hpo.cells.store import StoreError, cannot_write
from hpo.storage.atomic import write_atomically

SCHEMA = 1


@dataclass(frozen=True)
class Measurement:
    """A measurement is what one contender did on the bench.

    Attributes:
        name, kind, every: see `Contender`.
        seconds: of one step, one for each round; empty where it failed.
        flops: of one step, or None where they could not be counted.
        peak_bytes: memory of one step above the resting state, or None.
        relative_error, cosine: of the hypergradient against the unroll in float64, or None.
        error: why it was not measured, in one line, or None.
        remark: the first line of a warning that it gave, or None.
    """

    name: str
    kind: Kind
    every: int = 1
    seconds: tuple[float, ...] = ()
    flops: float | None = None
    peak_bytes: int | None = None
    relative_error: float | None = None
    cosine: float | None = None
    error: str | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Group:
    """A group is all contenders on one model at one size.

    Attributes:
        case, setting: what was measured, and how.
        parameters: of the model; 0 where it could not be built.
        machine: versions and hardware, for people.
        measurements: one for each contender, in the table's order.
    """

    case: Case
    setting: Setting
    parameters: int
    machine: Mapping[str, str]
    measurements: tuple[Measurement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Group:
        """Reads what `to_dict` returned."""
        rows = (Measurement(**{**m, "seconds": tuple(m["seconds"])}) for m in data["measurements"])
        return cls(
            Case(**data["case"]),
            Setting(**data["setting"]),
            data["parameters"],
            data["machine"],
            tuple(rows),
        )


def group_id(
    case: Case, setting: Setting, names: Sequence[str], peers: Mapping[str, str | None]
) -> str:
    """Returns a readable and stable name, equal for what need not be measured again.

    Args:
        case, setting: what is measured, and how.
        names: of the contenders; times compare within one run only, so one more is another group.
        peers: the installed version of each peer among them, or None.
    """
    identifying = [SCHEMA, asdict(case), asdict(setting), list(names), dict(peers)]
    digest = hashlib.sha256(json.dumps(identifying, sort_keys=True).encode()).hexdigest()[:8]
    slug = f"{case.model}-{case.image_size}px-n{case.batch_size}-m{case.meta_batch_size}"
    return "-".join(filter(None, [slug, setting.variant, digest]))


class GroupStore:
    """The store keeps each group that was measured to its end as `DIR/groups/<group id>.json`."""

    def __init__(self, output: Path):
        self._root = output / "groups"

    def save(self, identity: str, group: Group) -> None:
        """Writes the group so that a kill leaves either nothing or the whole.

        Raises:
            StoreError: the file cannot be written.
        """
        path = self._root / f"{identity}.json"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(group.to_dict(), indent=1))
        except OSError as error:
            raise cannot_write(path, error, "measured groups") from error

    def load(self, identity: str) -> Group | None:
        """Returns the group, or None if it has not been measured.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self._root / f"{identity}.json"
        try:
            return Group.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a readable group ({error}); delete it to measure it again"
            ) from error

    def set_aside(self) -> None:
        """Moves measured groups away under a dated name, so that all are measured again."""
        if self._root.exists():
            self._root.rename(self._root.with_name(time.strftime("groups.before-%Y%m%d-%H%M%S")))
