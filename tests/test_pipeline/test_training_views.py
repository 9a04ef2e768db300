from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.train.training_views import TrainingViews, over_white
from tests.test_pipeline.toy import toy_object


def test_only_training_views_are_kept() -> None:
    toy = toy_object(0, views=6, heldout=2)
    views = toy.training()
    assert len(views.rgba) == 4
    np.testing.assert_array_equal(views.cam2world, toy.cam2world[~toy.heldout])
    with pytest.raises(ValueError, match="no training view"):
        TrainingViews.of("x", toy.images, toy.cam2world, toy.intrinsics, np.ones(6, bool))


def test_straight_alpha_is_composited_over_white() -> None:
    # a = 51/255 = 0.2: 0.2 · 1 + 0.8 = 1, 0.2 · 0 + 0.8 = 0.8, 0.2 · 102/255 + 0.8 = 0.88.
    rgba = torch.tensor([[[[255, 0, 102, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(over_white(rgba)[0, :, 0, 0], torch.tensor([1.0, 0.8, 0.88]))
