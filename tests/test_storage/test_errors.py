from __future__ import annotations

import pickle

import pytest

from storage import errors


@pytest.mark.parametrize(
    ("error", "code", "builtin"),
    [
        (errors.UsageError("x"), 2, ValueError),
        (errors.EnvironmentProblem("x"), 3, RuntimeError),
        (errors.ConfigError("x"), 4, ValueError),
        (errors.StoreMismatchError("x"), 4, errors.ConfigError),
        (errors.SchemaError("x"), 4, ValueError),
        (errors.IntegrityError("x", key="k", object_id="o"), 1, ValueError),
        (errors.ObjectUnavailableError("x", object_id="o", status=2, reason="r"), 1, LookupError),
        (errors.StaleSnapshotError("x"), 3, RuntimeError),
        (errors.StoreUnusableError("x"), 3, errors.EnvironmentProblem),
        (errors.LeaseHeldError("x"), 3, errors.EnvironmentProblem),
        (errors.LeaseLostError("x"), 3, errors.EnvironmentProblem),
        (errors.TransientError("x"), 3, OSError),
    ],
)
def test_errors_carry_exit_codes_and_survive_the_way_between_processes(
    error: errors.FpipeError, code: int, builtin: type
) -> None:
    assert error.exit_code == code and isinstance(error, builtin) and isinstance(error, errors.FpipeError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == "x" and vars(copy) == vars(error)
