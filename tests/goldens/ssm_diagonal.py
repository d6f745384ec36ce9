#!/usr/bin/env python3
"""ssm_diagonal.py: what transformers and PyTorch compute for the diagonal layers of limen/ssm.

    python tests/goldens/ssm_diagonal.py       writes ssm_mamba.hpp, ssm_griffin.hpp, ssm_linear.hpp,
                                               ssm_gam.hpp, ssm_multi_path.hpp

Needs `pip install transformers==5.24.0 s5-pytorch==0.2.1`. Mamba and Griffin are layers of
transformers, S5 is run by s5-pytorch, S4D is the convolution it stands for. All in float64: forward,
backward and, as `state`, what the last row leaves behind. What is drawn is a multiple of 1/64: float
and double start from the same numbers.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from s5 import s5_model
from transformers import MambaConfig, RecurrentGemmaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.recurrent_gemma import modeling_recurrent_gemma as gemma

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # transformers would round A, D and gates to float32
gemma.RecurrentGemmaRglru._rnn_scan.__defaults__ = (torch.float64,)


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


lines: list[str] = []


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, y, parameters: dict, extra: dict | None = None) -> None:
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    lines.append(f"\nnamespace {name} {{")
    write({"x": x, **parameters, "y": y, "dy": dy, "dx": dx})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    write(extra or {})
    lines.append(f"}}  // namespace {name}")


def past(rows, width: int):
    """The last width - 1 rows, as a short convolution remembers them."""
    return F.pad(rows, (0, 0, width - 1, 0))[-(width - 1) :]


def in_a_row(*parts):
    return torch.cat([p.detach().reshape(-1) for p in parts])


def redraw(module: torch.nn.Module, scale: float = 0.4) -> dict:
    """All parameters anew, and with names that are C++ identifiers."""
    named = {}
    for name, parameter in module.named_parameters():
        parameter.data = draw(*parameter.shape, scale=scale).detach()
        named[name.replace(".", "_")] = parameter
    return named


def plain_scan(u, delta, a, b, c, d):
    """The equations of the selective scan; the last state too."""
    h = torch.zeros(*a.shape)
    rows = []
    for t in range(u.shape[0]):
        h = torch.exp(delta[t, :, None] * a) * h + (delta[t] * u[t])[:, None] * b[t][None, :]
        rows.append(h @ c[t] + d * u[t])
    return torch.stack(rows), h


def mamba() -> None:
    for k, (t, d, n, w, rank, bias) in enumerate(
        [(3, 1, 1, 2, 1, False), (7, 3, 5, 4, 2, True), (19, 9, 16, 4, 1, False)]
    ):
        config = MambaConfig(
            hidden_size=d,
            state_size=n,
            conv_kernel=w,
            time_step_rank=rank,
            expand=2,
            use_bias=bias,
            use_conv_bias=True,
        )
        mixer = MambaMixer(config, layer_idx=0).double()
        p = redraw(mixer)
        x = draw(t, d)
        y = mixer(x[None])[0]
        e = 2 * d
        xz = F.linear(x, mixer.in_proj.weight, mixer.in_proj.bias)
        u = F.conv1d(
            F.pad(xz[:, :e].T[None], (w - 1, 0)), mixer.conv1d.weight, mixer.conv1d.bias, groups=e
        )
        u = F.silu(u[0].T)
        r, b, c = mixer.x_proj(u).split([rank, n, n], dim=-1)
        delta = F.softplus(F.linear(r, mixer.dt_proj.weight, mixer.dt_proj.bias))
        scanned, last = plain_scan(u, delta, -torch.exp(mixer.A_log), b, c, mixer.D)
        plain = F.linear(scanned * F.silu(xz[:, e:]), mixer.out_proj.weight, mixer.out_proj.bias)
        assert torch.allclose(plain, y, atol=1e-12), (plain - y).abs().max()
        case(f"mamba_{k}", x, y, p, {"state": in_a_row(past(xz[:, :e], w), last)})


def griffin() -> None:
    for k, (t, d, width, heads, taps) in enumerate(
        [(3, 1, 1, 1, 2), (6, 3, 4, 2, 4), (17, 5, 18, 3, 4)]
    ):
        config = RecurrentGemmaConfig(
            hidden_size=d,
            lru_width=width,
            num_attention_heads=heads,
            num_key_value_heads=1,
            conv1d_width=taps,
            num_hidden_layers=1,
            intermediate_size=2,
            head_dim=1,
        )
        block = gemma.RecurrentGemmaRecurrentBlock(config, 0).double()
        p = redraw(block)
        x = draw(t, d)
        seen = {}
        for part in ("linear_x", "rg_lru"):
            getattr(block, part).register_forward_hook(
                lambda module, inputs, out, part=part: seen.update({part: out[0]})
            )
        positions = torch.arange(t)[None]
        y = block(x[None], positions, None, use_cache=False)[0][0]
        state = in_a_row(past(seen["linear_x"], taps), seen["rg_lru"][-1])
        case(f"griffin_{k}", x, y, p, {"state": state})


def discretized(rule: str, dt, a):
    if rule == "bilinear":
        return (1 + dt * a / 2) / (1 - dt * a / 2), dt / (1 - dt * a / 2)
    return torch.exp(dt * a), (torch.exp(dt * a) - 1) / a


def linear() -> None:
    for k, (t, e, n, rule) in enumerate(
        [(3, 1, 2, "zoh"), (9, 3, 6, "bilinear"), (19, 18, 4, "zoh")]
    ):
        u = draw(t, e)
        p = {
            "log_dt": draw(e, scale=0.5),
            "C": draw(e, n // 2, 2),
            "log_A_real": draw(e, n // 2, scale=0.5),
            "A_imag": draw(e, n // 2),
            "D": draw(e),
        }
        rate = torch.complex(-torch.exp(p["log_A_real"]), p["A_imag"])
        a, gain = discretized(rule, torch.exp(p["log_dt"])[:, None], rate)
        powers = a[:, :, None] ** torch.arange(t)
        kernel = 2 * torch.einsum("en,enl->el", torch.view_as_complex(p["C"]) * gain, powers).real
        y = F.conv1d(F.pad(u.T[None], (t - 1, 0)), kernel.flip(-1)[:, None], groups=e)[0].T
        state = torch.einsum("enl,le->en", powers.flip(-1), u.to(powers.dtype))
        case(f"s4d_{k}", u, y + p["D"] * u, p, {"state": torch.view_as_real(state)})
    for k, (t, e, states, rule) in enumerate(
        [(3, 1, 1, "bilinear"), (9, 3, 5, "zoh"), (17, 5, 18, "zoh")]
    ):
        u = draw(t, e)
        p = {
            "Lambda_re": draw(states, scale=0.3).detach().abs().neg().sub(1 / 64).requires_grad_(),
            "Lambda_im": draw(states),
            "B": draw(states, e, 2),
            "C": draw(e, states, 2),
            "log_step": draw(states, 1, scale=0.5),
            "D": draw(e),
        }
        rate = torch.complex(p["Lambda_re"], p["Lambda_im"])
        b, c = torch.view_as_complex(p["B"]), torch.view_as_complex(p["C"])
        sample = s5_model.discretize_zoh if rule == "zoh" else s5_model.discretize_bilinear
        a, b = sample(rate, b, torch.exp(p["log_step"][:, 0]))
        y, state = s5_model.apply_ssm(a, b, 2 * c, p["D"], u)
        state = torch.view_as_real(state)
        case(f"s5_{k}", u, y, p, {"state": in_a_row(state[:, 0], state[:, 1])})


def gam() -> None:
    for k, (t, d, slots, width) in enumerate([(3, 1, 1, 2), (7, 3, 4, 3), (6, 17, 5, 3)]):
        u = draw(t, d)
        p = {
            "conv_weight": draw(d, 1, width),
            "conv_bias": draw(d),
            "memory_bank": draw(slots, d, scale=0.5),
            "gate_weight": draw(2 * d, d, scale=0.5),
            "gate_bias": draw(2 * d),
        }
        padded = F.pad(u.T[None], (width - 1, 0))
        local = F.conv1d(padded, p["conv_weight"], p["conv_bias"], groups=d)[0].T
        bank = torch.softmax(u @ p["memory_bank"].T, dim=-1) @ p["memory_bank"]
        a, b = F.linear(u, p["gate_weight"], p["gate_bias"]).chunk(2, dim=-1)
        y = torch.sigmoid(a) * local + torch.sigmoid(b) * bank
        case(f"gam_{k}", u, y, p, {"state": past(u, width)})


# What limen::Random(1).shuffle makes of 0, 1, ..., T - 1.
SHUFFLED = {7: [4, 2, 5, 3, 1, 0, 6], 10: [7, 2, 5, 4, 1, 6, 9, 3, 0, 8]}


def multi_path() -> None:
    """RSMamba's sum of paths, through a short filter and through the mixer of transformers."""
    filtered = [(9, 5, False, True)]
    mambas = [(7, 3, True, True), (10, 2, True, False)]
    for k, (t, d, shuffled, gated) in enumerate([*filtered, *mambas]):
        x = draw(t, d)
        p = {"norm_weight": draw(d), "norm_bias": draw(d)}
        if k == 0:
            p |= {"mixer_weight": draw(d, 1, 3), "mixer_bias": draw(d)}

            def mixer(rows, p=p, d=d):
                padded = F.pad(rows.T[None], (2, 0))
                return F.silu(F.conv1d(padded, p["mixer_weight"], p["mixer_bias"], groups=d)[0].T)

        else:
            config = MambaConfig(hidden_size=d, state_size=2, time_step_rank=1)
            layer = MambaMixer(config, layer_idx=0).double()
            p |= redraw(layer)

            def mixer(rows, layer=layer):
                return layer(rows[None])[0]

        orders = [torch.arange(t), torch.arange(t).flip(0)]
        if shuffled:
            orders.append(torch.tensor(SHUFFLED[t]))
        n = F.layer_norm(x, (d,), p["norm_weight"], p["norm_bias"], eps=1e-6)
        paths = [mixer(n[order])[order.argsort()] for order in orders]
        a = torch.full((len(paths),), 1 / len(paths))
        if gated:
            p["gate"] = draw(len(paths), len(paths) * d)
            a = torch.softmax(p["gate"] @ torch.cat([f.mean(0) for f in paths]), dim=0)
        case(f"paths_{k}", x, x + sum(w * f for w, f in zip(a, paths, strict=True)), p)


for make in (mamba, griffin, linear, gam, multi_path):
    torch.manual_seed(20)
    lines = [
        "#pragma once",
        f"// Made by ssm_diagonal.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
        "// clang-format off",
        "\nnamespace goldens::ssm {",
    ]
    make()
    lines.append("\n}  // namespace goldens::ssm")
    with open(Path(__file__).parent / f"ssm_{make.__name__}.hpp", "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")
