"""The example's application: every request takes SERVICE_SECONDS."""

import os
import time

SERVICE_SECONDS = float(os.environ.get("SERVICE_SECONDS", "0.1"))


def application(_environ, start_response):
    time.sleep(SERVICE_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
