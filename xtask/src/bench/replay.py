"""Meters one capture with nfstream and prints how many packets it counted in how many flows and how long that took.

Called with the capture's path. Dissection and statistics are off and one meter runs, which is nfstream's fastest way of
counting flows; only the metering is timed, not the start of Python.
"""

import json
import sys
import time

from nfstream import NFStreamer


def main() -> None:
    streamer = NFStreamer(
        source=sys.argv[1],
        n_dissections=0,
        statistical_analysis=False,
        n_meters=1,
        accounting_mode=1,
    )
    started = time.perf_counter()
    flows = packets = 0
    for flow in streamer:
        flows += 1
        packets += flow.bidirectional_packets
    seconds = time.perf_counter() - started
    print(json.dumps({"flows": flows, "packets": packets, "seconds": seconds}))


if __name__ == "__main__":
    main()
