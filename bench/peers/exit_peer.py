#!/usr/bin/env python3
"""PyTorch beside exit.network.run|single/RxD/leave:P: the same network, rows that leave taken out by
boolean indexing, thresholds set so that P percent of the rows leave at each of the first three heads.
"""

import common
import torch
import torch.nn.functional as F


class Net:
    def __init__(self, d: int):
        def linear(o):
            bound = 3 * d**-0.5
            return (torch.rand(o, d) * 2 - 1) * bound, (torch.rand(o) * 2 - 1) * bound

        self.maps = [[linear(d), linear(d)] for _ in range(4)]
        self.heads = [linear(10) for _ in range(4)]

    def stage(self, k, h):
        for w, b in self.maps[k]:
            h = F.silu(F.linear(h, w, b))
        return h

    def thresholds(self, x, share):
        """So that `share` of all rows leave at each of the first three heads."""
        thresholds, h, n = [], x, x.shape[0]
        for k in range(3):
            h = self.stage(k, h)
            p = F.softmax(F.linear(h, *self.heads[k]), -1).amax(-1)
            leave = int(n * share)
            thresholds.append(p.sort(descending=True).values[leave - 1].item() if leave else 2.0)
            h = h[p < thresholds[-1]]
        return thresholds

    def run(self, x, thresholds):
        out = torch.empty(x.shape[0], 10)
        rows, h = torch.arange(x.shape[0]), x
        for k in range(4):
            h = self.stage(k, h)
            z = F.linear(h, *self.heads[k])
            if k == 3:
                out[rows] = z
                break
            leave = F.softmax(z, -1).amax(-1) >= thresholds[k]
            out[rows[leave]] = z[leave]
            h, rows = h[~leave], rows[~leave]
            if len(rows) == 0:
                break
        return out


def network(way: str, rows: int, d: int, percent: int):
    net, x = Net(d), torch.randn(rows, d)
    with torch.inference_mode():
        thresholds = net.thresholds(x, percent / 100)
    pieces = [x] if way == "run" else list(x.split(1))

    @torch.inference_mode()
    def call():
        for piece in pieces:
            net.run(piece, thresholds)

    return call


def full(way: str, rows: int, d: int):
    net, x = Net(d), torch.randn(rows, d)
    pieces = [x] if way == "run" else list(x.split(1))

    @torch.inference_mode()
    def call():
        for h in pieces:
            for k in range(4):
                h = net.stage(k, h)
            F.linear(h, *net.heads[3])

    return call


if __name__ == "__main__":
    common.run(
        {
            r"exit\.network\.(run|single)/(\d+)x(\d+)/leave:(\d+)": network,
            r"exit\.network\.(run|single)/(\d+)x(\d+)/full": full,
        }
    )
