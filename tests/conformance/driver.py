"""`fpipe fit-objects` itself, with the work of a shard exchanged for `tests.conformance.work`.

python -m tests.conformance.driver '{"fault": "exit", "shard": 3, "folder": "/tmp/x"}' fit-objects ROOT …
"""

from __future__ import annotations

if __name__ == "__main__":  # the processes of tasks import this module, too: they need none of it
    import functools
    import json
    import sys
    import types

    from cli import main
    from pipeline import fit_stage
    from tests.conformance import work

    plot = work.Plot(**json.loads(sys.argv[1]))
    fit_stage.fit_shard = functools.partial(work.fit_shard, plot=plot)  # type: ignore[assignment]
    fit_stage.FitResources = types.SimpleNamespace(of=lambda *_: None)  # type: ignore[misc,assignment]
    sys.argv = ["fpipe", *sys.argv[2:]]
    main.run()
