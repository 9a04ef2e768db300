"""The S3 server of the command line's tests."""

from tests.test_cli.conftest import s3

__all__ = ["s3"]
