"""Publishes numbered events and says what became of them: publish.py [PORT]"""

import collections
import sys

from eventstream import Client

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8081
with Client("127.0.0.1", port) as client:
    futures = [client.publish("sensor/temp", b'{"temp": %d}' % number) for number in range(10_000)]
print(collections.Counter(future.result().status.name for future in futures))
