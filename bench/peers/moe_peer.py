#!/usr/bin/env python3
"""The mixture of experts of transformers (Mixtral, its loop over experts) beside moe.layer/EekK/T
and moe.train/EekK/T: float32, d 512, hidden 1024.
"""

import common
import torch
import transformers
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock


def block(experts: int, k: int) -> MixtralSparseMoeBlock:
    config = MixtralConfig(
        hidden_size=512,
        intermediate_size=1024,
        num_local_experts=experts,
        num_experts_per_tok=k,
        experts_implementation="eager",
    )
    layer = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.03)
    return layer


def layer(experts: int, k: int, rows: int):
    f, x = block(experts, k).eval(), torch.randn(1, rows, 512)

    @torch.inference_mode()
    def call():
        return f(x)

    return call


def train(experts: int, k: int, rows: int):
    f, x = block(experts, k), torch.randn(1, rows, 512, requires_grad=True)
    dy = torch.randn(1, rows, 512)
    return lambda: f(x).backward(dy)


if __name__ == "__main__":
    size = r"/E(\d+)k(\d+)/(\d+)"
    common.run(
        {rf"moe\.layer{size}": layer, rf"moe\.train{size}": train},
        peer="transformers",
        version=transformers.__version__,
    )
