from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from pipeline.train.draws import ObjectDraws, cycle, every_nth_window, seeded_generator


def test_seeds_do_not_depend_on_the_process() -> None:
    # sha256 of "fit", "0" and "car" joined by \x1f, first 8 bytes little-endian, halved: a change changes
    # every fit.
    digest = hashlib.sha256(b"fit\x1f0\x1fcar").digest()
    generator = seeded_generator("fit", 0, "car")
    assert generator.initial_seed() == int.from_bytes(digest[:8], "little") // 2 == 7692578285195233130
    assert seeded_generator("fit", 0, "car").initial_seed() == generator.initial_seed()
    assert seeded_generator("fit", 1, "car").initial_seed() != generator.initial_seed()


def test_cycle_shows_every_item_once_per_round() -> None:
    whole = cycle(5, 15, 0, "x")
    assert [sorted(whole[k : k + 5]) for k in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert cycle(5, 4, 3, "x") == whole[3:7]
    assert cycle(5, 15, 0, "y") != whole


def test_an_epoch_of_steps_shows_every_object_once() -> None:
    draws = ObjectDraws(["a", "b", "c", "d"], [5, 5, 3, 5], seed=1)
    steps = [draws.objects(step, 2) for step in range(2)]
    assert sorted(row for step in steps for row in step) == [0, 1, 2, 3]
    assert draws.objects(1, 2) == list(draws.views(1, 2, 1))
    whole = draws.views(0, 4, 9)
    assert sorted(whole[2]) == [0, 1, 2], "at most as many as there are"


@pytest.mark.parametrize(("per_step", "views"), [(12, 1), (12, 2), (7, 1), (20, 3), (1, 1)])
def test_every_view_is_seen_equally_often(per_step: int, views: int) -> None:
    """As in the demo: 20 objects of 36 views, 12 of them a step, which does not divide 20."""
    draws = ObjectDraws([f"{i}" for i in range(20)], [36] * 20, seed=0)
    seen = np.zeros((20, 36), int)
    n_steps = math.lcm(720, per_step * views) // (per_step * views)
    for step in range(n_steps):
        drawn = draws.views(step, per_step, views)
        assert sum(len(own) for own in drawn.values()) == per_step * views
        for row, own in drawn.items():
            np.add.at(seen[row], own, 1)
        assert (seen.max(1) - seen.min(1) <= 1).all(), step
    assert (seen == n_steps * per_step * views // 720).all()
    assert per_step != 12 or (seen == 1).all()


def test_every_nth_window_does_not_depend_on_the_ranks() -> None:
    ids, n_views = ["a", "b", "c"], [5, 6, 7]
    whole = ObjectDraws(ids, n_views, seed=3)
    parts = [ObjectDraws(ids[rank::2], n_views[rank::2], seed=3) for rank in range(2)]
    seen = set()
    for step in range(30):
        windows = [(ids[row], view) for row, own in whole.views(step, 3, 2).items() for view in own]
        chosen, count = every_nth_window([whole], [3], 0, step, 2, 4)
        assert len(chosen) == count == 2, "of six windows the first and the fifth, in a seeded order"
        together = []
        for rank, part in enumerate(parts):
            drawn = part.views(step, [2, 1][rank], 2)
            own = [(part.object_ids[row], view) for row, some in drawn.items() for view in some]
            found, everyone = every_nth_window(parts, [2, 1], rank, step, 2, 4)
            assert everyone == count
            together += [own[index] for index in found]
        assert sorted(together) == sorted(windows[index] for index in chosen)
        seen.update(together)
    assert len(seen) >= 16, "all views have their turn"
    assert every_nth_window([whole], [3], 0, 0, 2, 1) == (list(range(6)), 6)


def test_generators_do_not_depend_on_company() -> None:
    alone, together = ObjectDraws(["b"], [1], 0), ObjectDraws(["a", "b"], [1, 1], 0)
    first = alone.generators("warmup", 3, [0])[0]
    assert first.initial_seed() == together.generators("warmup", 3, [0, 1])[1].initial_seed()
    assert first.initial_seed() != alone.generators("joint", 3, [0])[0].initial_seed()
