from __future__ import annotations

import pytest

from pipeline.shard_spec import members, parse_shards, shards_text
from storage.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "shards"),
    [
        ("3", [3]),
        ("0..3", [0, 1, 2, 3]),
        ("0,4,7-9", [0, 4, 7, 8, 9]),
        (" 2, 1 ,1", [1, 2]),
        ("1/4", [1, 5, 9]),
        ("0/1", list(range(10))),
        ("9/20", [9]),
        ("15/20", []),
        ("all", list(range(10))),
    ],
)
def test_forms(spec, shards):
    assert parse_shards(spec, 10, {}) == shards


@pytest.mark.parametrize(
    ("shards", "text"),
    [([], ""), ([3], "3"), ([4, 3], "3-4"), ([0, 4, 9, 10, 11, 12], "0,4,9-12"), (range(100_000), "0-99999")],
)
def test_the_text_of_many_shards_is_short(shards, text):
    assert shards_text(shards) == text
    assert not text or parse_shards(text, 100_000, {}) == sorted(shards)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("10", "shards 0..9"),
        ("8..12", "shard 12 does not exist"),
        ("5..3", "backwards"),
        ("x", "not understood"),
        ("-1", "not understood"),
        ("", "not understood"),
        ("4/4", "0 <= i < n"),
        ("0/0", "0 <= i < n"),
        ("auto", "none of"),
    ],
)
def test_refusals_say_why(spec, said):
    with pytest.raises(UsageError, match=said):
        parse_shards(spec, 10, {})


@pytest.mark.parametrize(
    ("environment", "shards"),
    [
        ({"FPIPE_SHARD": "2/5"}, [2, 7]),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, [3, 7]),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            [2, 6],
        ),
        ({"JOB_COMPLETION_INDEX": "0", "FPIPE_NUM_SHARDS": "6"}, [0, 6]),
    ],
)
def test_auto_reads_the_job_array(environment, shards):
    assert parse_shards("auto", 10, environment) == shards


def test_members_of_a_job_array_share_the_shards_without_overlap():
    members = [
        parse_shards("auto", 23, {"JOB_COMPLETION_INDEX": str(i), "FPIPE_NUM_SHARDS": "5"}) for i in range(5)
    ]
    assert sorted(shard for member in members for shard in member) == list(range(23))


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_ARRAY_TASK_ID": "3"},
        {"JOB_COMPLETION_INDEX": "1"},
        {"JOB_COMPLETION_INDEX": "x", "FPIPE_NUM_SHARDS": "2"},
    ],
)
def test_an_incomplete_job_array_is_refused(environment):
    with pytest.raises(UsageError, match="incomplete or not numeric"):
        parse_shards("auto", 10, environment)


@pytest.mark.parametrize("number", ["3", "7"])
def test_the_members_of_an_array_with_gaps_are_told_what_to_do_instead(number):
    some = {"MIN": "3", "MAX": "7", "STEP": "1", "COUNT": "2", "ID": number}  # sbatch --array=3,7
    environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in some.items()}
    with pytest.raises(UsageError, match=rf"from 3 to 7, with gaps.*--array=0-1.*FPIPE_SHARD={number}/16"):
        parse_shards("auto", 10, environment)
    assert parse_shards("auto", 10, {**environment, "FPIPE_SHARD": "7/8"}) == [7]


@pytest.mark.parametrize(
    ("spec", "environment", "count"),
    [
        ("all", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, 1),
        ("0..7", {}, 1),
        ("2/16", {}, 16),
        ("auto", {"FPIPE_SHARD": "2/5"}, 5),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, 4),
        ("auto", {"JOB_COMPLETION_INDEX": "0", "FPIPE_NUM_SHARDS": "6"}, 6),
    ],
)
def test_how_many_commands_share_the_shards(spec, environment, count):
    assert members(spec, environment) == count


def test_a_message_names_some_shards_and_says_that_there_are_more():
    assert shards_text(range(0, 100, 2), at_most=3) == "0,2,4,…"
    assert shards_text([0, 1, 5], at_most=2) == "0-1,5"
