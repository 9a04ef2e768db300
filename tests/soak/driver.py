"""`fpipe` itself; the work of a shard is the real one, and leaves notes (see tests.soak.work).

python -m tests.soak.driver NOTES render ROOT …
"""

from __future__ import annotations

if __name__ == "__main__":  # the processes of tasks import this module, too: they need none of it
    import functools
    import sys

    from cli import main
    from pipeline import fit_stage, render_stage
    from tests.soak import work

    folder = sys.argv[1]
    for stage, name in ((render_stage, "render_shard"), (fit_stage, "fit_shard")):
        setattr(stage, name, functools.partial(work.noted, getattr(stage, name), folder))
    sys.argv = ["fpipe", *sys.argv[2:]]
    main.run()
