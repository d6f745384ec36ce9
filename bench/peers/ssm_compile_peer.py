#!/usr/bin/env python3
"""torch.compile beside mamba1.block.*: the mixer of transformers, float32, compiled before the clock
starts. Its first run takes a minute; the next ones find what it compiled.
"""

import functools

import common
import ssm_scan_peer as eager
import torch


def compiled(make):
    def maker(*sizes: int):
        call = make(*sizes, form=functools.partial(torch.compile, dynamic=False))
        if call is not None:
            call()
        return call

    return maker


if __name__ == "__main__":
    common.run(
        {
            r"mamba1\.block\.prefill/(\d+)x(\d+)": compiled(eager.prefill),
            r"mamba1\.block\.training/(\d+)x(\d+)x(\d+)": compiled(eager.training),
        },
        peer="torch_compile",
    )
