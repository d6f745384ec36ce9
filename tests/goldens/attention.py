#!/usr/bin/env python3
"""attention.py: what PyTorch and transformers compute for limen/attention, in float64.

    python tests/goldens/attention.py

writes attention_{layers,cross,linear,unit,local,normed,perceiver}.hpp

Layers are those of transformers (Llama, Qwen3, Qwen3-Next), or written with PyTorch's
scaled_dot_product_attention. Where transformers computes in float32 whatever it is given (norms,
angles), the same in float64 is put in its place; the frequencies of scaled rotations are its own.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_next import modeling_qwen3_next

torch.set_default_dtype(torch.float64)
lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, y, parameters: dict) -> None:
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy, retain_graph=True)
    lines.append(f"\nnamespace {name} {{")
    write({"x": x, "y": y, "dy": dy, "dx": dx, **parameters})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {name}")


def angles(rows: int, width: int, base: float):
    """cos and sin as transformers hands them to its layers, halves side by side."""
    f = base ** (-torch.arange(0, width, 2) / width)
    a = torch.outer(torch.arange(rows, dtype=torch.float64), f)
    a = torch.cat([a, a], -1)[None]
    return a.cos(), a.sin()


class RmsNorm(torch.nn.Module):
    def __init__(self, d: int, eps: float, offset: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(d))
        self.eps, self.offset = eps, offset

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.offset + self.weight, self.eps)


def fill(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(draw(*p.shape, scale=0.5))


def window_mask(rows: int, window: int) -> torch.Tensor:
    i, j = torch.arange(rows)[:, None], torch.arange(rows)[None]
    return (j <= i) & (j > i - window)


def of(module, *names: str) -> dict:
    return {n.replace("_proj.", "_").replace("_norm.", "_norm_"): module.get_parameter(n)
            for n in names}  # fmt: skip


WEIGHTS = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"]


def llama() -> None:
    for rows, d_model, heads, kv, d in [(1, 4, 1, 1, 4), (7, 12, 4, 2, 6), (9, 4, 2, 1, 16)]:
        config = modeling_llama.LlamaConfig(
            hidden_size=d_model,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            head_dim=d,
            attention_bias=rows == 9,
        )
        config._attn_implementation = "sdpa"
        layer = modeling_llama.LlamaAttention(config, 0)
        fill(layer)
        x = draw(1, rows, d_model)
        mask = window_mask(rows, rows)[None, None]
        y = layer(x, position_embeddings=angles(rows, d, 1e4), attention_mask=mask)[0]
        names = WEIGHTS
        if rows == 9:
            names = [n for w in WEIGHTS for n in (w, w.replace("weight", "bias"))]
        case(f"llama_{rows}", x, y, of(layer, *names))


def qwen3() -> None:
    for rows, d_model, heads, kv, d, window in [(6, 6, 2, 1, 8, 6), (8, 5, 4, 4, 2, 3)]:
        config = modeling_qwen3.Qwen3Config(
            hidden_size=d_model, num_attention_heads=heads, num_key_value_heads=kv, head_dim=d
        )
        config._attn_implementation = "sdpa"
        layer = modeling_qwen3.Qwen3Attention(config, 0)
        layer.q_norm, layer.k_norm = RmsNorm(d, 1e-6, 0), RmsNorm(d, 1e-6, 0)
        fill(layer)
        x = draw(1, rows, d_model)
        mask = window_mask(rows, window)[None, None]
        y = layer(x, position_embeddings=angles(rows, d, 1e4), attention_mask=mask)[0]
        case(f"qwen3_{rows}", x, y, of(layer, *WEIGHTS, "q_norm.weight", "k_norm.weight"))


def qwen3_next() -> None:
    for rows, d_model, heads, kv, d in [(5, 6, 2, 2, 4), (7, 4, 4, 2, 8), (3, 3, 3, 1, 20)]:
        config = modeling_qwen3_next.Qwen3NextConfig(
            hidden_size=d_model, num_attention_heads=heads, num_key_value_heads=kv, head_dim=d
        )
        config._attn_implementation = "sdpa"
        layer = modeling_qwen3_next.Qwen3NextAttention(config, 0)
        layer.q_norm, layer.k_norm = RmsNorm(d, 1e-6, 1), RmsNorm(d, 1e-6, 1)
        fill(layer)
        x = draw(1, rows, d_model)
        mask = window_mask(rows, rows)[None, None]
        y = layer(x, position_embeddings=angles(rows, d // 2, 1e7), attention_mask=mask)[0]
        case(f"qwen3_next_{rows}", x, y, of(layer, *WEIGHTS, "q_norm.weight", "k_norm.weight"))


def plain() -> None:
    """Not causal; soft-cap and ALiBi; sinks as gpt-oss has them: a column that gives no value."""
    for rows, d_model, heads, d in [(4, 3, 1, 3), (6, 8, 2, 4), (5, 3, 3, 17)]:
        p = {n: draw(heads * d, d_model, scale=0.5) for n in ("q_weight", "k_weight", "v_weight")}
        p["o_weight"] = draw(d_model, heads * d, scale=0.5)
        x = draw(1, rows, d_model)
        q, k, v = (
            F.linear(x, p[n + "_weight"]).view(1, rows, heads, d).transpose(1, 2) for n in "qkv"
        )

        def out(o, rows=rows, p=p):
            return F.linear(o.transpose(1, 2).reshape(1, rows, -1), p["o_weight"])

        case(f"whole_{rows}", x, out(F.scaled_dot_product_attention(q, k, v)), p)
        i = torch.arange(rows)
        power = 2 ** math.floor(math.log2(heads))
        slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
        slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
        s = q @ k.transpose(-1, -2) / math.sqrt(d)
        s = s - torch.tensor(slopes)[:, None, None] * (i[:, None] - i).abs()
        s = 1.5 * torch.tanh(s / 1.5)
        s = s.masked_fill(~window_mask(rows, rows), -math.inf)
        sinks = draw(heads)
        s = torch.cat([s, sinks.view(1, heads, 1, 1).expand(1, heads, rows, 1)], -1)
        o = s.softmax(-1)[..., :-1] @ v
        case(f"bent_{rows}", x, out(o), p | {"sinks": sinks})


def normed() -> None:
    """Queries and keys through LayerNorm, or brought to length one with a scale for each head."""
    for rows, d_model, heads, kv, d, kind in [(6, 5, 2, 1, 4, "layer"), (4, 6, 3, 3, 2, "l2")]:
        p = {
            "q_weight": draw(heads * d, d_model, scale=0.5),
            "k_weight": draw(kv * d, d_model, scale=0.5),
            "v_weight": draw(kv * d, d_model, scale=0.5),
            "o_weight": draw(d_model, heads * d, scale=0.5),
        }
        x = draw(1, rows, d_model)
        q, k, v = (
            F.linear(x, p[n + "_weight"]).view(1, rows, -1, d).transpose(1, 2) for n in "qkv"
        )
        if kind == "layer":
            for n in ("q_norm", "q_norm_bias", "k_norm", "k_norm_bias"):
                p[n] = draw(d)
            q = F.layer_norm(q, (d,), p["q_norm"], p["q_norm_bias"], 1e-6)
            k = F.layer_norm(k, (d,), p["k_norm"], p["k_norm_bias"], 1e-6)
        else:
            p["logit_scale"] = draw(heads, scale=3)
            q = q / (q.norm(dim=-1, keepdim=True) + 1e-6) * p["logit_scale"].view(-1, 1, 1)
            k = k / (k.norm(dim=-1, keepdim=True) + 1e-6)
        o = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True, scale=1.0 if kind == "l2" else None
        )
        y = F.linear(o.transpose(1, 2).reshape(1, rows, -1), p["o_weight"])
        case(f"normed_{kind}", x, y, p)


def frequencies() -> None:
    lines.append("\nnamespace frequencies {")
    common = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
    kinds = {
        "linear": {},
        "yarn": {},
        "yarn_far": {"original_max_position_embeddings": 4096},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }
    for kind, more in kinds.items():
        config = modeling_llama.LlamaConfig(
            hidden_size=32,
            num_attention_heads=1,
            head_dim=32,
            max_position_embeddings=512,
            rope_parameters={"rope_type": kind.split("_")[0], **common, **more},
        )
        f, scale = ROPE_INIT_FUNCTIONS[kind.split("_")[0]](config, "cpu")
        write({kind: f, kind + "_scale": torch.tensor([scale])})
    lines.append("}  // namespace frequencies")


def cross() -> None:
    for rows, context_rows, d_model, d_context, heads in [
        (1, 1, 2, 3, 1),
        (4, 6, 6, 4, 3),
        (7, 3, 8, 5, 2),
    ]:
        layer = torch.nn.MultiheadAttention(
            d_model, heads, kdim=d_context, vdim=d_context, batch_first=True
        )
        fill(layer)
        x, c = draw(1, rows, d_model), draw(1, context_rows, d_context)
        y, _ = layer(x, c, c, need_weights=False)
        dy = draw(*y.shape).detach()
        weights = {
            "q_weight": layer.q_proj_weight,
            "k_weight": layer.k_proj_weight,
            "v_weight": layer.v_proj_weight,
            "in_bias": layer.in_proj_bias,
            "o_weight": layer.out_proj.weight,
            "o_bias": layer.out_proj.bias,
        }
        dx, dc, *slopes = torch.autograd.grad(y, [x, c, *weights.values()], dy)
        both = weights | {"d_" + n: g for n, g in zip(weights, slopes, strict=True)}
        for prefix in ("", "d_"):  # their biases are one tensor
            for n, part in zip("qkv", both.pop(prefix + "in_bias").chunk(3), strict=True):
                both[f"{prefix}{n}_bias"] = part
        lines.append(f"\nnamespace cross_{rows} {{")
        write({"x": x, "context": c, "y": y, "dy": dy, "dx": dx, "d_context": dc} | both)
        lines.append(f"}}  // namespace cross_{rows}")


def linear() -> None:
    maps = {
        "elu": lambda a: F.elu(a) + 1,
        "relu": lambda a: F.relu(a) + 1e-3,
        "identity": lambda a: a,
    }
    for rows, d_model, heads, d, kind, causal in [
        (1, 1, 1, 1, "elu", True),
        (20, 6, 3, 5, "elu", True),
        (4, 17, 1, 17, "identity", True),
        (5, 6, 2, 3, "relu", False),
        (6, 3, 1, 16, "elu", False),
        (7, 6, 2, 5, "softmax", False),
    ]:
        p = {n + "_weight": draw(heads * d, d_model, scale=0.5) for n in "qkv"}
        p["o_weight"] = draw(d_model, heads * d, scale=0.5)
        x = draw(1, rows, d_model)
        q, k, v = (
            F.linear(x, p[n + "_weight"]).view(1, rows, heads, d).transpose(1, 2) for n in "qkv"
        )
        if kind == "softmax":
            a = q.softmax(-1) @ k.softmax(-2).transpose(-1, -2)
        else:
            a = maps[kind](q) @ maps[kind](k).transpose(-1, -2)
        if causal:
            a = a.tril()
        o = a @ v
        if kind not in ("identity", "softmax"):
            o = o / (a.sum(-1, keepdim=True) + 1e-6)
        y = F.linear(o.transpose(1, 2).reshape(1, rows, -1), p["o_weight"])
        case(f"linear_{rows}", x, y, p)


def random_features() -> None:
    """FAVOR+ with the largest key so far taken out; gradients through all of it."""
    for rows, d_model, heads, d, r, causal in [(9, 4, 2, 3, 5, True), (6, 4, 2, 3, 5, False)]:
        p = {n + "_weight": draw(heads * d, d_model, scale=0.5) for n in "qkv"}
        p["o_weight"] = draw(d_model, heads * d, scale=0.5)
        omega = draw(r, d).detach()
        x = draw(1, rows, d_model)
        q, k, v = (
            F.linear(x, p[n + "_weight"]).view(1, rows, heads, d).transpose(1, 2) for n in "qkv"
        )
        q, k = q * d**-0.25, k * d**-0.25
        q_top, k_top = (q @ omega.T).amax(-1), (k @ omega.T).amax(-1).clamp(min=0)
        k_top = k_top.cummax(-1)[0] if causal else k_top.amax(-1, keepdim=True).expand_as(k_top)
        phi_q = torch.exp(q @ omega.T - (q * q).sum(-1, keepdim=True) / 2 - q_top[..., None])
        phi_k = torch.exp(k @ omega.T - (k * k).sum(-1, keepdim=True) / 2)
        a = phi_q @ phi_k.transpose(-1, -2) / r * torch.exp(-k_top)[..., None]
        if causal:
            a = a.tril()
        o = (a @ v) / (a.sum(-1, keepdim=True) + 1e-12)
        y = F.linear(o.transpose(1, 2).reshape(1, rows, -1), p["o_weight"])
        case(f"random_{rows}", x, y, p)
        end = lines.pop()
        write({"features": omega})
        lines.append(end)


def unit() -> None:
    """Gated attention units, with and without chunks: every pair of rows written out."""
    for rows, d_model, e, s, reach, causal, chunk in [
        (1, 1, 2, 1, 1, True, 0),
        (9, 4, 6, 3, 5, True, 0),
        (6, 3, 4, 5, 3, False, 0),
        (11, 4, 5, 3, 4, True, 4),
        (7, 2, 3, 4, 3, False, 3),
    ]:
        sizes = {"u": e, "v": e, "z": s}
        p = {}
        for n, size in sizes.items():
            p[n + "_weight"] = draw(size, d_model, scale=0.7)
            p[n + "_bias"] = draw(size, scale=0.5)
        p["o_weight"] = draw(d_model, e, scale=0.7)
        p["scale"], p["shift"] = draw(4 if chunk else 2, s), draw(4 if chunk else 2, s, scale=0.5)
        p["distance_bias"] = draw(reach if causal else 2 * reach - 1, scale=0.5)
        x = draw(rows, d_model)
        u, v, z = (F.silu(F.linear(x, p[n + "_weight"], p[n + "_bias"])) for n in "uvz")
        made = z[None] * p["scale"][:, None] + p["shift"][:, None]
        i, j = torch.arange(rows)[:, None], torch.arange(rows)[None]
        far = (i - j).clamp(1 - reach, reach - 1)
        n = torch.full((rows, 1), chunk) if chunk else (i + 1 if causal else i * 0 + rows)
        seen = j <= i if causal else j == j
        if chunk:
            seen = seen & (i // chunk == j // chunk)
        bias = p["distance_bias"][far.clamp(min=0) if causal else far + reach - 1]
        a = F.relu(made[0] @ made[1].T / n + bias) ** 2
        o = (a * seen) @ v
        if chunk:
            before = (j // chunk < i // chunk) / chunk if causal else torch.ones(rows, rows) / rows
            o = o + (made[2] @ made[3].T * before) @ v
        case(f"{'flash' if chunk else 'unit'}_{rows}", x, F.linear(u * o, p["o_weight"]), p)


def local() -> None:
    """Learned queries over windows, each window a softmax of its own."""
    for rows, d_model, d_out, heads, d, behind, ahead in [
        (1, 2, 2, 1, 2, 2, 0),
        (8, 4, 3, 2, 3, 3, 0),
        (5, 6, 6, 3, 2, 1, 1),
    ]:
        p = {
            "query": draw(heads * d),
            "k_weight": draw(heads * d, d_model),
            "v_weight": draw(heads * d, d_model, scale=0.5),
            "v_bias": draw(heads * d),
            "o_weight": draw(d_out, heads * d, scale=0.5),
            "o_bias": draw(d_out),
            "by_place": draw(heads, behind + 1 + ahead),
        }
        x = draw(rows, d_model)
        q = p["query"].view(heads, d)
        q = q / (q.norm(dim=-1, keepdim=True) + 1e-6) / math.sqrt(d)
        s = torch.einsum("thd,hd->th", F.linear(x, p["k_weight"]).view(rows, heads, d), q)
        v = F.linear(x, p["v_weight"], p["v_bias"]).view(rows, heads, d)
        o = []
        for t in range(rows):
            j0, j1 = max(0, t - behind), min(rows, t + ahead + 1)
            places = p["by_place"][:, j0 - t + behind : j1 - t + behind]
            w = (s[j0:j1].T + places).softmax(-1)
            o.append(torch.einsum("hj,jhd->hd", w, v[j0:j1]).reshape(-1))
        y = F.linear(torch.stack(o), p["o_weight"], p["o_bias"])
        case(f"local_{rows}", x, y, p)


def perceiver() -> None:
    """Cells read latents, latents read cells and then each other; the latents are the first rows."""
    rows, latents, D, heads, cell_heads, cell_width, self_heads, widening = 6, 2, 4, 2, 1, 2, 2, 2
    p: dict[str, torch.Tensor] = {}

    def norm(name: str, x):
        p[name + "_w"], p[name + "_b"] = draw(D), draw(D, scale=0.5)
        return F.layer_norm(x, (D,), p[name + "_w"], p[name + "_b"], 1e-5)

    def ask(name: str, q, c, n: int, width: int, offsets: int = 0):
        for w in "qkv":
            p[f"{name}_{w}_w"] = draw(width, D, scale=0.5)
        p[f"{name}_o_w"], p[f"{name}_o_b"] = draw(D, width, scale=0.5), draw(D, scale=0.5)
        k = F.linear(c, p[f"{name}_k_w"])
        if offsets:
            p[f"{name}_offset"] = draw(offsets, width)
            k = k + p[f"{name}_offset"]
        q, k, v = (
            x.view(1, -1, n, width // n).transpose(1, 2)
            for x in (F.linear(q, p[f"{name}_q_w"]), k, F.linear(c, p[f"{name}_v_w"]))
        )
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)
        return F.linear(o, p[f"{name}_o_w"], p[f"{name}_o_b"])

    def mlp(name: str, x, wide: int):
        n = norm(name + "_norm", x)
        p[name + "_up_w"], p[name + "_up_b"] = draw(wide, D, scale=0.5), draw(wide, scale=0.5)
        p[name + "_down_w"], p[name + "_down_b"] = draw(D, wide, scale=0.5), draw(D, scale=0.5)
        up = F.gelu(F.linear(n, p[name + "_up_w"], p[name + "_up_b"]))
        return x + F.linear(up, p[name + "_down_w"], p[name + "_down_b"])

    both = draw(rows, D)
    z, x = both[:latents], both[latents:]
    x = x + ask("c", norm("c_qn", x), norm("c_kn", z), cell_heads, cell_width)
    x = mlp("c_mlp", x, D)
    z = z + ask("l", norm("l_qn", z), norm("l_kn", x), heads, D, rows - latents)
    z = mlp("l_mlp", z, D)
    n = norm("s_norm", z)
    z = mlp("s_mlp", z + ask("s", n, n, self_heads, D), widening * D)
    case(f"perceiver_{rows}", both, torch.cat([z, x]), p)


def write_header(name: str, *makers) -> None:
    torch.manual_seed(30)
    lines[:] = [
        "#pragma once",
        f"// Made by attention.py with PyTorch {torch.__version__.split('+')[0]} and transformers "
        f"{transformers.__version__}.",
        "// clang-format off",
        "\nnamespace goldens::attention {",
    ]
    for make in makers:
        make()
    lines.append("\n}  // namespace goldens::attention")
    path = Path(__file__).parent / f"attention_{name}.hpp"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


write_header("layers", llama, qwen3, qwen3_next, plain, frequencies)
write_header("cross", cross)
write_header("linear", linear, random_features)
write_header("unit", unit)
write_header("local", local)
write_header("normed", normed)
write_header("perceiver", perceiver)
