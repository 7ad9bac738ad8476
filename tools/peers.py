# SPDX-License-Identifier: MIT
"""What others cost on the same work, and the goals: docs/peers.csv."""

import csv
import os

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "peers.csv")


def read(path=PATH):
    """{(bench, work): {who: value}}"""
    peers = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            peers.setdefault((row["bench"], row["work"]), {})[row["who"]] = float(row["value"])
    return peers
