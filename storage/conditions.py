"""Which conditional writes a store honours: found out once, when a dataset is created, and written down.

Where create-only writes are ignored, two writers of one shard would both believe that they had won: such a
dataset takes one writer at a time. Where only comparisons (`If-Match`) are ignored, replacements look before
they write, and the lease waits after it is taken (see `lease`).
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass

from .documents import SCHEMA_VERSION, dump_document, parse_document


@dataclass(frozen=True)
class Conditions:
    """What a store honours.

    Attributes:
        create: "Write this unless the key exists" is decided by the store.
        swap: "Write this if the object has still this version" is decided by the store.
        bare: It compares versions without their quotes, and refuses all that have them: Ceph 16.
    """

    create: bool = True
    swap: bool = True
    bare: bool = False


HONOURED = Conditions()
UNKNOWN = Conditions(create=False, swap=False)
"""What is assumed while the record is damaged: always look first."""


def dump_conditions(found: Conditions) -> bytes:
    """Serialise what a probe found."""
    probed = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return dump_document({"schema_version": SCHEMA_VERSION, **asdict(found), "probed": probed})


def parse_conditions(data: bytes, key: str) -> Conditions:
    """Read what `dump_conditions` wrote; raises IntegrityError when it is damaged."""
    values = parse_document(data, key)
    return Conditions(bool(values["create"]), bool(values["swap"]), bool(values.get("bare")))
