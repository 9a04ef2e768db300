"""A moto S3 server in a process of its own, whose conditional writes are atomic.

moto looks whether a key exists and then writes it, in two steps: with a thread per request, two of them can
both succeed. This one handles one request at a time.
"""

from __future__ import annotations

import json
import logging
import os
import threading


def main() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)  # noqa: T201
    while os.read(0, 1 << 16):
        pass


if __name__ == "__main__":
    main()
