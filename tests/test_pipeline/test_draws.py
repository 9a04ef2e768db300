from __future__ import annotations

import hashlib

from pipeline.train.draws import ObjectDraws, cycle, seeded_generator


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


def test_an_epoch_of_steps_shows_every_object_once_and_every_view_equally_often() -> None:
    draws = ObjectDraws(["a", "b", "c", "d"], [5, 5, 3, 5], seed=1)
    steps = [draws.objects(step, 2) for step in range(2)]
    assert sorted(row for step in steps for row in step) == [0, 1, 2, 3]
    seen = [view for step in range(0, 10, 2) for view in draws.views(0, step, 2, 1)]
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert sorted(draws.views(2, 0, 2, 9)) == [0, 1, 2], "at most as many as there are"


def test_generators_do_not_depend_on_company() -> None:
    alone, together = ObjectDraws(["b"], [1], 0), ObjectDraws(["a", "b"], [1, 1], 0)
    first = alone.generators("warmup", 3, [0])[0]
    assert first.initial_seed() == together.generators("warmup", 3, [0, 1])[1].initial_seed()
    assert first.initial_seed() != alone.generators("joint", 3, [0])[0].initial_seed()
