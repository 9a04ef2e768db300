"""Errors as s3fs, botocore and aiohttp raise them; that real servers lead to these is in test_s3_requests."""

from __future__ import annotations

import errno

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from s3fs.errors import translate_boto_error

from storage.errors import StoreUnusableError, TransientError
from storage.remote_errors import means_exists, translated


def answered(code: str, status: int = 400, words: str = "") -> BaseException:
    """What s3fs makes of a server's error."""
    error = {"Code": code, "Message": words}
    response = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(boto.ClientError(response, "PutObject"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileExistsError("k"), True),  # AWS through s3fs
        (answered("PreconditionFailed", 412), True),  # Ceph
        (answered("412", 412), True),
        (answered("InvalidRequest"), False),
        (TimeoutError(), False),
        (answered("ConditionalRequestConflict", 409), False),  # nobody has won yet
    ],
)
def test_refusals_in_every_phrasing(error: BaseException, expected: bool) -> None:
    assert means_exists(error) is expected


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("t"),
        ConnectionResetError("r"),
        OSError(errno.EBUSY, "SlowDown"),
        answered("SlowDown", 503),
        answered("InternalError", 500),
        answered("503", 503),  # a HEAD
        answered("SomethingNew", 502),
        answered("TooManyRequests", 429),
        answered("ConditionalRequestConflict", 409),
        answered("BadDigest"),
        boto.EndpointConnectionError(endpoint_url="http://x"),
        boto.ConnectionClosedError(endpoint_url="http://x"),
        boto.ReadTimeoutError(endpoint_url="http://x"),
        boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        ResponseParserError("invalid XML"),
        aiohttp.ClientPayloadError("not completed"),
        aiohttp.ServerDisconnectedError(),
    ],
)
def test_what_may_pass(error: BaseException) -> None:
    mapped = translated(error, "s3://b/the/key")
    assert type(mapped) is TransientError
    assert "s3://b/the/key" in str(mapped)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            answered("ExpiredToken", 400, "The provided token has expired."),
            "ExpiredToken: The provided",
        ),
        (answered("ExpiredToken"), "renew the credentials"),
        (answered("InvalidAccessKeyId", 403), "AWS_ACCESS_KEY_ID"),
        (answered("SignatureDoesNotMatch", 403), "AWS_SECRET_ACCESS_KEY"),
        (answered("AccessDenied", 403), "permission to list the bucket"),
        (answered("403", 403), "permission"),
        (answered("OddRefusal", 403), "OddRefusal"),
        (answered("NoSuchBucket", 404), "create the bucket first"),
        (answered("PermanentRedirect", 301), "AWS_REGION"),
        (answered("AuthorizationHeaderMalformed"), "AWS_REGION"),
        (answered("QuotaExceeded", 403), "make room"),
        (boto.NoCredentialsError(), "check the AWS settings"),
        (boto.ProfileNotFound(profile="nobody"), "nobody"),
        (boto.SSLError(endpoint_url="https://x", error="self-signed"), "AWS_CA_BUNDLE"),
    ],
)
def test_what_somebody_must_mend_is_said(error: BaseException, said: str) -> None:
    mapped = translated(error, "s3://b/the/key")
    assert type(mapped) is StoreUnusableError
    assert said in str(mapped)
    assert str(mapped).startswith("s3://b/the/key: ")
    assert "\n" not in str(mapped)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("k"), answered("NoSuchKey", 404), answered("InvalidRange", 416), KeyError("a bug")],
)
def test_the_others_stay(error: BaseException) -> None:
    assert translated(error, "k") is error
