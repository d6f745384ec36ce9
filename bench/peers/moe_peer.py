#!/usr/bin/env python3
"""Mixtures of experts of transformers (their loop over experts) beside moe.layer/EekK/T (Mixtral),
moe.train/EekK/T and moe.block/MODEL/T, and adapters as PyTorch runs them beside adapter.KIND/T:
float32, d 512, hidden 1024.
"""

import common
import torch
import torch.nn.functional as F
import transformers
from transformers import DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock


def mixtral(experts: int, k: int):
    return MixtralSparseMoeBlock(
        MixtralConfig(
            hidden_size=512,
            intermediate_size=1024,
            num_local_experts=experts,
            num_experts_per_tok=k,
            experts_implementation="eager",
        )
    )


def qwen3():
    return Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(
            hidden_size=512,
            moe_intermediate_size=1024,
            num_experts=64,
            num_experts_per_tok=8,
            norm_topk_prob=True,
            experts_implementation="eager",
        )
    )


def deepseek_v3():
    return DeepseekV3MoE(
        DeepseekV3Config(
            hidden_size=512,
            moe_intermediate_size=1024,
            n_routed_experts=64,
            num_experts_per_tok=8,
            n_shared_experts=1,
            n_group=8,
            topk_group=4,
            experts_implementation="eager",
        )
    )


def filled(layer):
    with torch.no_grad():
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.03)
    return layer


def inference(f, rows: int):
    f, x = f.eval(), torch.randn(1, rows, 512)

    @torch.inference_mode()
    def call():
        return f(x)

    return call


def layer(experts: int, k: int, rows: int):
    return inference(filled(mixtral(experts, k)), rows)


def block(model: str, rows: int):
    return inference(filled({"qwen3": qwen3, "deepseek_v3": deepseek_v3}[model]()), rows)


def train(experts: int, k: int, rows: int):
    f, x = filled(mixtral(experts, k)), torch.randn(1, rows, 512, requires_grad=True)
    dy = torch.randn(1, rows, 512)
    return lambda: f(x).backward(dy)


def adapter(kind: str, training: str | None, rows: int):
    """LoRA of rank 8; mixtures of 8 adapters by the shapes of mttl, a mixture for each row."""
    d, skills, learns = 512, 8, training is not None
    heads, rank = {"lora": (1, 8), "polytropon": (1, 4), "mhr": (64, 1)}[kind]
    weight, bias = 0.05 * torch.randn(d, d), torch.randn(d)
    x, dy = torch.randn(rows, d, requires_grad=learns), torch.randn(rows, d)
    if kind == "lora":
        a = (0.05 * torch.randn(rank, d)).requires_grad_(learns)
        b = (0.05 * torch.randn(d, rank)).requires_grad_(learns)

        def run():
            return F.linear(x, weight, bias) + 2 * F.linear(F.linear(x, a), b)
    else:
        a = (0.05 * torch.randn(skills, heads, d // heads, rank)).requires_grad_(learns)
        b = (0.05 * torch.randn(skills, rank, heads, d // heads)).requires_grad_(learns)
        z = torch.randn(4, heads * skills, requires_grad=learns)
        tasks = torch.arange(rows) % 4

        def run():
            w = torch.sigmoid(z[tasks]).view(-1, heads, skills)
            w = w / (w.sum(-1, keepdim=True) + 1e-12)
            mixed_a = torch.einsum("tqs,sqdr->tqdr", w, a).reshape(rows, d, rank)
            mixed_b = torch.einsum("tqs,srqd->trqd", w, b).reshape(rows, rank, d)
            change = torch.bmm(torch.bmm(x[:, None], mixed_a), mixed_b)[:, 0]
            return F.linear(x, weight, bias) + change

    if learns:
        return lambda: run().backward(dy)
    return torch.inference_mode()(run)


if __name__ == "__main__":
    size = r"/E(\d+)k(\d+)/(\d+)"
    common.run(
        {
            rf"moe\.layer{size}": layer,
            rf"moe\.train{size}": train,
            r"moe\.block/(\w+)/(\d+)": block,
            r"adapter\.(lora|polytropon|mhr)(\.train)?/(\d+)": adapter,
        },
        peer="transformers",
        version=transformers.__version__,
    )
