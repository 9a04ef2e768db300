"""Shape annotations for tensors, with a fallback for environments without jaxtyping.

Modules of ``pipeline.model`` import the names from here: ``Float[Tensor, "b 3 f k k"]`` is checked by
jaxtyping and beartype in the tests (see ``tests/test_pipeline/conftest.py``) and is documentation elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Unchecked:
            """Stands for a jaxtyping dtype: ``Float[Tensor, "..."]`` is then ``Tensor``."""

            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Bool = Float = Int = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "UInt8"]
