"""Sends the example 400 requests at once, more than a short queue holds, and prints how they were answered."""

import collections
import http.client
import threading

REQUESTS = 400

answers = collections.Counter()


def request():
    connection = http.client.HTTPConnection("localhost", 8080, timeout=120)
    connection.request("GET", "/")
    answers[connection.getresponse().status] += 1


threads = [threading.Thread(target=request) for _ in range(REQUESTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(", ".join(f"{count} got {status}" for status, count in sorted(answers.items())))
