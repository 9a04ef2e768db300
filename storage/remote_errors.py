"""What errors of remote stores mean: exists, may pass, or what somebody must change.

s3fs turns most answers of a server into builtin errors and keeps botocore's as their cause, which carries the
server's own code. Names of classes are compared, so that nothing here needs botocore.
"""

from __future__ import annotations

import errno
from typing import Any

from .errors import FpipeError, StoreUnusableError, TransientError

_EXISTS_CODES = {"PreconditionFailed", "412"}
_TRANSIENT_CODES = {
    "ConditionalRequestConflict",  # a race that is not decided yet
    "OperationAborted",
    "BadDigest",  # damaged on the way
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNO = {
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.EPIPE,
    errno.EAGAIN,
}
# Bases of what botocore raises without an answer of the server; all of aiohttp's errors are of this kind.
_TRANSIENT_CLASSES = {
    "HTTPClientError",
    "ConnectionError",
    "IncompleteReadError",
    "ResponseParserError",
    "CredentialRetrievalError",  # the machine's metadata service did not answer
    "MetadataRetrievalError",
}
_NETWORK_MODULES = ("botocore", "aiobotocore", "aiohttp", "urllib3")

_RENEW = "renew the credentials (AWS_SESSION_TOKEN or the profile), then run the same command again"
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_RIGHTS = "these credentials need permission to list the bucket and to read and write objects there"
_REGION = "set AWS_REGION to the region of the bucket, or AWS_ENDPOINT_URL to its server"
_ADVICE = {
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "RequestExpired": _RENEW,
    "InvalidToken": _RENEW,
    "InvalidAccessKeyId": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "UnrecognizedClientException": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "NoSuchBucket": "create the bucket first, or correct its name",
    "InvalidBucketName": "correct the name of the bucket",
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "307": _REGION,
    "QuotaExceeded": "make room in the bucket or raise its quota",
    "XMinioStorageFull": "make room on the server",
    "InsufficientStorage": "make room on the server",
    "EntityTooLarge": "the server takes no objects of this size: its limit must be raised",
}


def means_exists(error: BaseException) -> bool:
    """Say whether a conditional write was refused: the key exists, or has another version."""
    if isinstance(error, FileExistsError):
        return True
    return server_code(error) in _EXISTS_CODES or "PreconditionFailed" in str(error)


def means_unsupported(error: BaseException) -> bool:
    """Say whether the server does not know what it was asked to do."""
    return server_code(error) in {"NotImplemented", "501"}


def translated(error: BaseException, where: str) -> BaseException:
    """Turn an fsspec or network error into one of ours.

    Args:
        error: What was raised.
        where: URL or key, for the message.

    Returns:
        TransientError, StoreUnusableError, or the error itself: FileNotFoundError and what is unknown.
    """
    if isinstance(error, FpipeError):
        return error
    code, status = server_code(error), _status(error)
    if code in _ADVICE:
        return StoreUnusableError(f"{where}: {_said(error)}: {_ADVICE[code]}")
    if type(error).__name__ == "RedirectedError":
        return StoreUnusableError(f"{where}: {error}: {_REGION}")
    if isinstance(error, FileNotFoundError):
        return error
    if isinstance(error, PermissionError) or status in (401, 403):
        return StoreUnusableError(f"{where}: access refused ({_said(error)}): {_RIGHTS}")
    if _may_pass(error, code, status):
        return TransientError(f"{where}: {_said(error)}")
    if type(error).__name__ == "SSLError":
        return StoreUnusableError(f"{where}: {error}: check the certificate, or AWS_CA_BUNDLE")
    if _is_of_network(error) and not code:  # what botocore says before any request
        return StoreUnusableError(f"{where}: {_said(error)}: check the AWS settings of this machine")
    return error


def server_code(error: BaseException) -> str:
    """Return the code that a server gave, '' where it gave none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def lacks_reason(error: BaseException) -> bool:
    """Say whether a request was refused by a bare status: answers to HEAD have no text."""
    return server_code(error) in {"400", "401", "403", "301", "307"}


def _may_pass(error: BaseException, code: str, status: int) -> bool:
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if code or status:
        return code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS or code in map(str, _TRANSIENT_STATUS)
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    names = {base.__name__ for base in type(error).__mro__} - {"SSLError"}
    if type(error).__name__ == "SSLError":
        return False
    return _is_of_network(error) and (bool(names & _TRANSIENT_CLASSES) or _module(error) == "aiohttp")


def _is_of_network(error: BaseException) -> bool:
    return _module(error) in _NETWORK_MODULES


def _module(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


def _said(error: BaseException) -> str:
    """Return the server's code and words, or the error's class and words."""
    code = server_code(error)
    words = str(_answer(error).get("Error", {}).get("Message", "") or error).strip().rstrip(".")
    return f"{code or type(error).__name__}: {words}" if words else code or type(error).__name__


def _answer(error: BaseException) -> dict[str, Any]:
    response = getattr(error.__cause__ or error, "response", None)
    return response if isinstance(response, dict) else {}


def _status(error: BaseException) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
