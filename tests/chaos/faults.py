"""What the proxy injects: the kinds of faults, how often, and which requests they may hit.

Whether a request is hit depends on the seed, its method, its path and how many such requests came before, not
on what other clients do at the same time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

ERROR_500 = "error_500"
SLOW_DOWN = "slow_down"
RESET_BEFORE = "reset_before"
RESET_AFTER = "reset_after"
STALL = "stall"
LATE = "late"
TRUNCATE = "truncate"
LOST_PUT = "lost_put"

KINDS: dict[str, str] = {
    ERROR_500: "answer 500 InternalError; the server never sees the request",
    SLOW_DOWN: "answer 503 SlowDown; the server never sees the request",
    RESET_BEFORE: "reset the connection before the request was forwarded",
    RESET_AFTER: "forward the request, then reset the connection instead of answering",
    STALL: "no answer for stall_s, then a reset; the server never sees the request",
    LATE: "hold the request for stall_s, then forward it, although the client has given up",
    TRUNCATE: "send the headers and half of the body of a GET, then close",
    LOST_PUT: "forward a PUT; when the server has done it, reset the connection instead of saying so",
}
_METHODS = {TRUNCATE: frozenset({"GET"}), LOST_PUT: frozenset({"PUT"})}


@dataclass(frozen=True)
class Faults:
    """What is injected.

    Attributes:
        rates: Kind -> probability per request that it can hit; their sum is at most 1.
        latency_ms: Added to every request before it is forwarded.
        stall_s: How long a stalled or late request is held; more than the client's read timeout.
        seed: Of all draws.
        methods: Only requests with these methods are hit; all when empty.
        prefixes: Only keys that begin with one of these are hit, a listing by its prefix; all when empty.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float = 0.0
    stall_s: float = 5.0
    seed: int = 0
    methods: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.rates) - set(KINDS)):
            raise ValueError(f"unknown faults {unknown}; there are {', '.join(KINDS)}")
        if min(self.rates.values(), default=0.0) < 0.0 or sum(self.rates.values()) > 1.0:
            raise ValueError(f"rates {dict(self.rates)} are no probabilities")
        if self.latency_ms < 0.0 or self.stall_s < 0.0:
            raise ValueError(f"latency_ms {self.latency_ms} and stall_s {self.stall_s} must not be negative")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Faults:
        """Make faults from what `as_json` returned."""
        lists = {name: tuple(values[name]) for name in ("methods", "prefixes") if name in values}
        return replace(cls(), **{**values, **lists})

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def parse_rates(text: str) -> dict[str, float]:
    """Read 'lost_put=0.05,truncate=0.02', or 'all=0.02' for every kind at that rate."""
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, rate = part.partition("=")
        for name in KINDS if kind == "all" else (kind,):
            rates[name] = float(rate)
    return rates


class Dice:
    """Decides for each request which fault hits it, if any."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._seen: Counter[tuple[str, str]] = Counter()

    def draw(self, method: str, path: str, key: str) -> str | None:
        """Return the kind of fault for one request, None for none."""
        faults = self.faults
        self._seen[method, path] += 1
        if faults.methods and method not in faults.methods:
            return None
        if faults.prefixes and not key.startswith(faults.prefixes):
            return None
        draw = random.Random(f"{faults.seed} {method} {path} {self._seen[method, path]}").random()
        for kind, rate in faults.rates.items():
            if method in _METHODS.get(kind, {method}):
                if draw < rate:
                    return kind
                draw -= rate
        return None
