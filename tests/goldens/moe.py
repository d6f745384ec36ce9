#!/usr/bin/env python3
"""moe.py: what transformers computes for its mixtures of experts, forward and backward, in float64.

    python tests/goldens/moe.py        writes moe_blocks.hpp

The blocks convert scores to float32 on the way; here `float` is told to stay double. Weights are
stacked as the blocks hold them: gate_up [E, 2H, D], down [E, D, H]. What is drawn is a multiple of
1/64, so that float and double start from the same numbers.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import DeepseekV3Config, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
    load_balancing_loss_func,
)
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

torch.set_default_dtype(torch.float64)
torch.Tensor.float = lambda self: self
torch.Tensor.type = lambda self, *_: self
softmax = F.softmax
F.softmax = lambda x, dim=None, dtype=None: softmax(x, dim=dim)

D, H, T = 6, 5, 7
lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.round(torch.randn(*shape) * scale * 64) / 64


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.15g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, block, gated: bool = False, shared: str = "") -> None:
    block = block.double()
    parameters = {
        "router": block.gate.weight,
        "gate_up": block.experts.gate_up_proj,
        "down": block.experts.down_proj,
    }
    if shared:
        mlp = getattr(block, shared)
        for part in ("gate", "up", "down"):
            parameters["shared_" + part] = getattr(mlp, part + "_proj").weight
    if gated:
        parameters["shared_expert_gate"] = block.shared_expert_gate.weight
    with torch.no_grad():
        for p in parameters.values():
            p.copy_(draw(*p.shape))
    x = draw(1, T, D).requires_grad_()
    arrays = {"x": x, **parameters}
    if hasattr(block.gate, "e_score_correction_bias"):
        bias = draw(*block.gate.e_score_correction_bias.shape, scale=0.3)
        block.gate.e_score_correction_bias = torch.nn.Buffer(bias)
        arrays["correction"] = bias
    y = block(x)
    y = y[0] if isinstance(y, tuple) else y
    dy = draw(*y.shape)
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    lines.append(f"\nnamespace {name} {{")
    write({**arrays, "y": y, "dy": dy, "dx": dx})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {name}")


def loss() -> None:
    z = draw(T, 4).requires_grad_()
    value = load_balancing_loss_func((z,), num_experts=4, top_k=2)
    (dz,) = torch.autograd.grad(value, z)
    lines.append("\nnamespace balance {")
    write({"z": z, "loss": value, "dz": dz})
    lines.append("}  // namespace balance")


if __name__ == "__main__":
    torch.manual_seed(7)
    common = {"hidden_size": D, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    case(
        "mixtral",
        MixtralSparseMoeBlock(MixtralConfig(intermediate_size=H, num_local_experts=4, **common)),
    )
    for name, normalise in (("qwen3", True), ("qwen3_gather", False)):
        config = Qwen3MoeConfig(
            moe_intermediate_size=H, num_experts=4, norm_topk_prob=normalise, **common
        )
        case(name, Qwen3MoeSparseMoeBlock(config))
    config = Qwen2MoeConfig(
        moe_intermediate_size=H, num_experts=4, shared_expert_intermediate_size=3, **common
    )
    case("qwen2", Qwen2MoeSparseMoeBlock(config), gated=True, shared="shared_expert")
    config = DeepseekV3Config(
        moe_intermediate_size=H,
        n_routed_experts=6,
        n_shared_experts=2,
        n_group=3,
        topk_group=2,
        routed_scaling_factor=2.5,
        **common,
    )
    case("deepseek_v3", DeepseekV3MoE(config), shared="shared_experts")
    loss()
    made = f"transformers {transformers.__version__}, PyTorch {torch.__version__.split('+')[0]}"
    header = f"""#pragma once
// Made by moe.py with {made}, float64.
// clang-format off

namespace goldens::moe {{
"""
    path = Path(__file__).parent / "moe_blocks.hpp"
    path.write_text(header + "\n".join(lines) + "\n\n}  // namespace goldens::moe\n")
