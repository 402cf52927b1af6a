"""Sends numbered events over UDP, as many to a datagram as fit: udp.py [PORT]"""

import sys

from eventstream import Priority, UdpPublisher

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8082
with UdpPublisher("127.0.0.1", port) as publisher:
    for number in range(10_000):
        publisher.publish("sensor/temp", b'{"temp": %d}' % number, priority=Priority.HIGH)
print("sent, as far as anybody knows")
