#!/usr/bin/env python3
"""PyTorch beside gemm/MxNxK and gemv/NxK:  y = x Wᵀ,  x [M x K], W [N x K], float32."""

import common
import torch
import torch.nn.functional as F


def gemm(m: int, n: int, k: int):
    x, w = torch.randn(m, k), torch.randn(n, k)

    @torch.inference_mode()
    def call():
        return F.linear(x, w)

    return call


def gemv(n: int, k: int):
    return gemm(1, n, k)


if __name__ == "__main__":
    common.run({r"gemm/(\d+)x(\d+)x(\d+)": gemm, r"gemv/(\d+)x(\d+)": gemv})
