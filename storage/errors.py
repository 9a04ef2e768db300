"""The error family of the whole project.

Every error is also a builtin exception and carries the exit code that the command line returns for it.
Only `TransientError` is worth retrying; everything else is permanent until somebody changes something.
"""

from __future__ import annotations


class FpipeError(Exception):
    """Base of all errors that fpipe raises on purpose."""

    exit_code: int = 1


class UsageError(FpipeError, ValueError):
    """Bad arguments: a missing input folder, a shard beyond the last, no dataset at this place."""

    exit_code = 2


class EnvironmentProblem(FpipeError, RuntimeError):  # noqa: N818 - EnvironmentError is a builtin
    """Missing package or library, unwritable folder, full disk, unreachable store."""

    exit_code = 3


class StoreUnusableError(EnvironmentProblem):
    """Credentials, permission, bucket, room: no request of this run will be served until somebody acts."""


class LeaseHeldError(EnvironmentProblem):
    """Another process has the exclusive right to replace shards of this dataset."""


class LeaseLostError(EnvironmentProblem):
    """The exclusive right to replace shards has gone to somebody else, or could not be renewed in time."""


class ConfigError(FpipeError, ValueError):
    """Unknown configuration key or bad value."""

    exit_code = 4


class StoreMismatchError(ConfigError):
    """The existing dataset was made with another configuration or other shared components."""


class SchemaError(FpipeError, ValueError):
    """The store has a major schema version that this program does not know; names the key."""

    exit_code = 4

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class IntegrityError(FpipeError, ValueError):
    """Stored bytes do not match their checksum or their format; names the key and the object."""

    def __init__(self, message: str, *, key: str = "", object_id: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.object_id = object_id


class ObjectUnavailableError(FpipeError, LookupError):
    """The object failed or is absent, so that it has no data to read.

    Attributes:
        object_id: The object that was asked for.
        status: Its `storage.records.Status` as an integer.
        reason: Why there is no data, as recorded when it failed.
    """

    def __init__(self, message: str, *, object_id: str = "", status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.object_id = object_id
        self.status = status
        self.reason = reason


class StaleSnapshotError(FpipeError, RuntimeError):
    """A shard was replaced after this reader looked at it; call `refresh()` and read again."""

    exit_code = 3  # a command that meets it works when it is run again


class TransientError(FpipeError, OSError):
    """A fault that may go away by itself: timeout, reset connection, busy server. Retryable."""

    exit_code = 3  # whoever gives up retrying has an unreachable store
