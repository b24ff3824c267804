"""A WSGI application whose every request takes SERVICE_SECONDS."""

import os
import time

SERVICE_SECONDS = float(os.environ["SERVICE_SECONDS"])


def application(_environ, start_response):
    time.sleep(SERVICE_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
