#!/usr/bin/env python3
"""ssm_matrix.py: what transformers and PyTorch compute for the layers of limen/ssm with a matrix as
state.

    python tests/goldens/ssm_matrix.py         writes ssm_mamba2.hpp, ssm_delta.hpp and
                                               ssm_linear_attention.hpp

Needs `pip install transformers==5.24.0` and `pip install --no-deps fla-core==0.6.0` (it would ask for
a GPU). Mamba-2 and Gated DeltaNet are layers of transformers; DeltaNet is put together around its
recurrence, retention and gated linear attention around the naive forms of flash-linear-attention. All
in float64: forward, backward and, as `state`, what the last row leaves behind, rows before a
convolution first. What is drawn is a multiple of 1/64: float and double start from the same numbers.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.float32 = torch.float = torch.float64  # the recurrences would go down to float32
torch.Tensor.float = torch.Tensor.double

import transformers  # noqa: E402
from transformers import Mamba2Config, Qwen3NextConfig  # noqa: E402
from transformers.models.mamba2 import modeling_mamba2 as mamba2  # noqa: E402
from transformers.models.qwen3_next import modeling_qwen3_next as qwen  # noqa: E402


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


lines: list[str] = []


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.12g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, y, parameters: dict, state) -> None:
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    lines.append(f"\nnamespace {name} {{")
    write({"x": x, **parameters, "y": y, "dy": dy, "dx": dx})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    write({"state": state})
    lines.append(f"}}  // namespace {name}")


def naive(op: str):
    """The plain PyTorch forms of an operation of flash-linear-attention, whose packages need Triton."""
    folder = importlib.util.find_spec("fla").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(op, f"{folder}/ops/{op}/naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_a_row(*parts):
    return torch.cat([p.detach().reshape(-1) for p in parts])


def past(rows, width: int = 4):
    """The last width - 1 rows, as a short convolution remembers them."""
    return F.pad(rows, (0, 0, width - 1, 0))[-(width - 1) :]


def rows_before_conv(call):
    """Runs call(); what it gives, and the rows [T, C] that passed through its convolution."""
    original, kept = F.conv1d, []

    def watched(x, *args, **kwargs):
        kept.append(x[0].T)
        return original(x, *args, **kwargs)

    F.conv1d = watched
    result = call()
    F.conv1d = original
    (rows,) = kept
    return result, rows


def redraw(module: torch.nn.Module, order: list[str], scale: float = 0.5) -> dict:
    """All parameters anew, in the given order, with names that are C++ identifiers."""
    named = dict(module.named_parameters())
    assert sorted(named) == sorted(order), named.keys()
    for parameter in named.values():
        parameter.data = draw(*parameter.shape, scale=scale).detach()
    return {name.replace(".", "_"): named[name] for name in order}


def last_state(module, function: str, call):
    """Runs call() with `function` of the module asked for its last state, which is returned too."""
    original, kept = getattr(module, function), []

    def asking(*args, **kwargs):
        key = "output_final_state" if "output_final_state" in kwargs else "return_final_states"
        kwargs[key] = True
        y, state = original(*args, **kwargs)
        kept.append(state)
        return (y, state) if key == "output_final_state" else y

    setattr(module, function, asking)
    y = call()
    setattr(module, function, original)
    (state,) = kept
    return y, state


def mamba2_layers() -> None:
    shapes = [(3, 4, 3, 2, 1, False), (19, 6, 5, 3, 2, True), (70, 4, 16, 8, 1, False)]
    for k, (t, d, n, p, groups, bias) in enumerate(shapes):
        config = Mamba2Config(
            hidden_size=d,
            state_size=n,
            head_dim=p,
            num_heads=2 * d // p,
            n_groups=groups,
            expand=2,
            use_bias=bias,
            chunk_size=16,
            layer_norm_epsilon=1e-5,
            num_hidden_layers=1,
            time_step_limit=(0.25, 1.5) if k == 1 else (0.0, float("inf")),
        )
        layer = mamba2.Mamba2Mixer(config, 0).eval()
        order = ["in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias", "dt_bias"]
        order += ["A_log", "D", "norm.weight", "out_proj.weight", "out_proj.bias"]
        parameters = redraw(layer, [o for o in order if bias or not o.endswith("proj.bias")])
        x = draw(1, t, d)
        (y, state), rows = rows_before_conv(
            lambda: last_state(mamba2, "mamba2_chunk_scan", lambda: layer(x))
        )
        state = state[0].transpose(1, 2)  # [H][P][N] -> [H][N][P]
        case(f"mamba2_{k}", x, y, parameters, in_a_row(past(rows), state))


def delta_layers() -> None:
    shapes = [(3, 3, 1, 1, 2, 3), (19, 4, 2, 4, 3, 2), (70, 4, 1, 2, 8, 4)]
    for k, (t, d, key_heads, value_heads, key, value) in enumerate(shapes):
        config = Qwen3NextConfig(
            hidden_size=d,
            linear_num_key_heads=key_heads,
            linear_num_value_heads=value_heads,
            linear_key_head_dim=key,
            linear_value_head_dim=value,
            linear_conv_kernel_dim=4,
            rms_norm_eps=1e-6,
            num_hidden_layers=4,
        )
        layer = qwen.Qwen3NextGatedDeltaNet(config, 0).eval()
        order = ["in_proj_qkvz.weight", "in_proj_ba.weight", "conv1d.weight", "dt_bias", "A_log"]
        parameters = redraw(layer, [*order, "norm.weight", "out_proj.weight"])
        x = draw(1, t, d)
        (y, state), rows = rows_before_conv(
            lambda: last_state(qwen, "torch_chunk_gated_delta_rule", lambda: layer(x))
        )
        case(f"gated_delta_{k}", x, y, parameters, in_a_row(past(rows), state))

    for k, (t, heads, width, gate, negative) in enumerate(
        [(3, 1, 3, False, False), (19, 2, 3, True, False), (40, 2, 4, False, True)]
    ):
        d = heads * width
        w = {f"{p}_proj_weight": draw(d, d, scale=0.5) for p in "qkv"}
        w["b_proj_weight"] = draw(heads, d, scale=0.5)
        w |= {f"{p}_conv1d_weight": draw(d, 1, 4, scale=0.5) for p in "qkv"}
        if gate:
            w["g_proj_weight"] = draw(d, d, scale=0.5)
        w |= {"o_norm_weight": draw(width), "o_proj_weight": draw(d, d, scale=0.5)}
        x = draw(t, d)

        def short(p):
            rows = F.pad((x @ w[f"{p}_proj_weight"].T).T[None], (3, 0))
            return F.silu(F.conv1d(rows, w[f"{p}_conv1d_weight"], groups=d))[0].T

        q, k_, v = (short(p).reshape(1, t, heads, width) for p in "qkv")
        beta = torch.sigmoid(x @ w["b_proj_weight"].T)[None] * (2 if negative else 1)
        o, state = qwen.torch_recurrent_gated_delta_rule(
            q, k_, v, torch.zeros_like(beta), beta, None, True, use_qk_l2norm_in_kernel=True
        )
        h = F.rms_norm(o[0], (width,), w["o_norm_weight"], eps=1e-5).reshape(t, d)
        if gate:
            h = h * F.silu(x @ w["g_proj_weight"].T)
        inputs = [past(x @ w[f"{p}_proj_weight"].T) for p in "qkv"]
        case(f"delta_{k}", x, h @ w["o_proj_weight"].T, w, in_a_row(*inputs, state))


def rotate(x):
    """[T, H, K] turned by position, halves against each other."""
    t, _, width = x.shape
    angle = torch.arange(t)[:, None] * 1e4 ** (-torch.arange(0, width, 2) / width)
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def linear_attention_layers() -> None:
    shapes = [(3, 4, 1, 4, 3), (19, 4, 2, 8, 6), (40, 3, 3, 6, 9)]
    for k, (t, d, heads, keys, values) in enumerate(shapes):
        key, value = keys // heads, values // heads
        w = {
            "q_proj_weight": draw(keys, d),
            "k_proj_weight": draw(keys, d),
            "v_proj_weight": draw(values, d),
            "g_proj_weight": draw(values, d),
            "norm_weight": draw(value),
            "o_proj_weight": draw(d, values),
        }
        x = draw(t, d)
        q, k_ = (rotate((x @ w[f"{p}_proj_weight"].T).reshape(t, heads, key)) for p in "qk")
        v = (x @ w["v_proj_weight"].T).reshape(t, heads, value)
        heads_first = (r.transpose(0, 1)[None] for r in (q, k_, v))
        o = naive("retention").naive_retention(*heads_first)[0].transpose(0, 1)
        h = F.rms_norm(o, (value,), w["norm_weight"], eps=1e-5).reshape(t, values)
        y = (h * F.silu(x @ w["g_proj_weight"].T)) @ w["o_proj_weight"].T
        gamma = 1 - 2.0 ** (-5 - torch.arange(heads))
        state = torch.einsum("jh,jhk,jhv->hkv", gamma ** torch.arange(t).flip(0)[:, None], k_, v)
        case(f"retnet_{k}", x, y, w, state)

    for k, (t, d, heads, keys, values, rank) in enumerate(
        [(3, 2, 1, 2, 3, 1), (19, 4, 2, 6, 4, 2), (40, 3, 3, 6, 9, 2)]
    ):
        key, value = keys // heads, values // heads
        w = {
            "q_proj_weight": draw(keys, d),
            "k_proj_weight": draw(keys, d),
            "v_proj_weight": draw(values, d),
            "g_proj_weight": draw(values, d),
            "gk_0_weight": draw(rank, d),
            "gk_1_weight": draw(keys, rank),
            "gk_1_bias": draw(keys),
            "norm_weight": draw(value),
            "o_proj_weight": draw(d, values),
        }
        x = draw(t, d)
        q, k_ = ((x @ w[f"{p}_proj_weight"].T).reshape(t, heads, key) for p in "qk")
        v = (x @ w["v_proj_weight"].T).reshape(t, heads, value)
        gk = x @ w["gk_0_weight"].T @ w["gk_1_weight"].T + w["gk_1_bias"]
        log_decay = (F.logsigmoid(gk) / 16).reshape(t, heads, key)
        rows = (r[None] for r in (q, k_, v, log_decay))
        o, state = naive("gla").naive_recurrent_gla(*rows, output_final_state=True)
        o = o[0]
        h = F.rms_norm(o, (value,), w["norm_weight"], eps=1e-5).reshape(t, values)
        y = (h * F.silu(x @ w["g_proj_weight"].T)) @ w["o_proj_weight"].T
        case(f"gla_{k}", x, y, w, state)


def write_file(name: str, make) -> None:
    torch.manual_seed(1)
    lines[:] = [
        "#pragma once",
        f"// Made by ssm_matrix.py with PyTorch {torch.__version__.split('+')[0]} and transformers "
        f"{transformers.__version__}, float64.",
        "// clang-format off",
        "",
        "namespace goldens::ssm {",
    ]
    make()
    lines.append("\n}  // namespace goldens::ssm")
    path = Path(__file__).parent / f"{name}.hpp"
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_file("ssm_mamba2", mamba2_layers)
    write_file("ssm_delta", delta_layers)
    write_file("ssm_linear_attention", linear_attention_layers)
