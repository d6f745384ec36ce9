#!/usr/bin/env python3
"""PyTorch beside the products of bench/kernel/gemm_bench.cpp, float32.

gemv/NxK, gemm/MxNxK, gemm.pack/MxNxK   y = x Wᵀ      x [M x K], W [N x K]
gemm.nn/MxNxK                           y = x W       W [K x N]
gemm.tn/MxNxK                           y += Xᵀ Z     X [K x M], Z [K x N]
"""

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


def gemm_nn(m: int, n: int, k: int):
    x, w = torch.randn(m, k), torch.randn(k, n)

    @torch.inference_mode()
    def call():
        return torch.mm(x, w)

    return call


def gemm_tn(m: int, n: int, k: int):
    x, z, y = torch.randn(k, m), torch.randn(k, n), torch.zeros(m, n)

    @torch.inference_mode()
    def call():
        return y.addmm_(x.t(), z)

    return call


if __name__ == "__main__":
    size = r"/(\d+)x(\d+)x(\d+)"
    common.run(
        {
            rf"gemm(?:\.pack)?{size}": gemm,
            rf"gemm\.nn{size}": gemm_nn,
            rf"gemm\.tn{size}": gemm_tn,
            r"gemv/(\d+)x(\d+)": gemv,
        }
    )
