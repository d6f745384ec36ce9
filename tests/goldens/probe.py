#!/usr/bin/env python3
"""probe.py: what PyTorch's hooks and SciPy's fit say about limen/probe, in float64.

    python tests/goldens/probe.py        writes probe_hooks.hpp, probe_growth.hpp

One network of three tokens' reach: an affine embedding, a causal filter around which the stream
goes, two blocks of two layers, an affine read-out. Its taps are modules with forward hooks.
"""

from pathlib import Path

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from scipy.optimize import curve_fit
from torch import nn

torch.set_default_dtype(torch.float64)


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.round(torch.randn(*shape) * scale * 64) / 64


lines: list[str] = []


def write(key: str, value) -> None:
    flat = torch.as_tensor(value).detach().reshape(-1).tolist()
    lines.append(f"inline constexpr double {key}[] = {{{','.join(f'{v:.13g}' for v in flat)}}};")


def save(name: str) -> None:
    torch_version = torch.__version__.split("+")[0]
    head = f"// Made by probe.py with PyTorch {torch_version}, SciPy {scipy.__version__}, float64."
    text = f"#pragma once\n{head}\n// clang-format off\n\nnamespace goldens::{name} {{\n"
    text += "\n".join(lines) + f"\n}}  // namespace goldens::{name}\n"
    Path(__file__).with_name(f"{name}.hpp").write_text(text)
    lines.clear()


class Filter(nn.Module):
    def __init__(self, d: int, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(draw(d, 1, width)), nn.Parameter(draw(d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x.T[None], (self.weight.shape[2] - 1, 0))
        return F.conv1d(padded, self.weight, self.bias, groups=x.shape[1])[0].T


class Block(nn.Module):
    def __init__(self, d: int, h: int):
        super().__init__()
        self.input, self.hidden = nn.Identity(), nn.Tanh()
        self.up, self.mlp = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.hidden(self.up(self.input(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Linear(3, 4), Filter(4, 3)
        self.a, self.b, self.read = Block(4, 6), Block(4, 6), nn.Linear(4, 3)
        for parameter in self.parameters():
            parameter.data = draw(*parameter.shape, scale=0.6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        h = h + self.mix(h)
        return self.read(self.b(self.a(h)))


def run(net: Net, x: torch.Tensor, hooks: dict) -> torch.Tensor:
    """hooks: module -> f(output)"""
    handles = [m.register_forward_hook(lambda _, __, y, f=f: f(y)) for m, f in hooks.items()]
    y = net(x)
    for handle in handles:
        handle.remove()
    return y


def keep(net: Net, x: torch.Tensor, modules: list) -> dict:
    seen = {}
    run(net, x, {m: lambda y, m=m: seen.__setitem__(m, y.detach()) for m in modules})
    return seen


EVERY = slice(None)


def put(values: torch.Tensor, rows=EVERY, columns=EVERY):
    def hook(y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[rows, columns] = values[rows, columns]
        return y

    return hook


def metric(y: torch.Tensor) -> torch.Tensor:
    return y[-1, 0] - y[-1, 2]


def hooks() -> None:
    torch.manual_seed(4)
    net = Net()
    clean, corrupt = draw(5, 3), draw(5, 3)
    for name, value in [("clean", clean), ("corrupt", corrupt)]:
        write(name, value)
        write(f"y_{name}", net(value))
    write("parameters", torch.cat([p.reshape(-1) for p in ordered(net)]))

    every = [net.embed, net.mix, net.a.input, net.a.hidden, net.a.mlp, net.b.input, net.b.hidden]
    every += [net.b.mlp]
    base, source = keep(net, clean, every), keep(net, corrupt, every)
    patched = [
        {net.embed: put(source[net.embed])},
        {net.mix: put(source[net.mix], slice(3, 5))},
        {net.a.hidden: put(source[net.a.hidden], slice(4, 5), slice(1, 4))},
        {net.a.mlp: put(source[net.a.mlp]), net.b.mlp: put(source[net.b.mlp])},
    ]
    write("patched", torch.stack([metric(run(net, clean, p)) for p in patched]))

    sending = {net.a.mlp: put(source[net.a.mlp]), net.b.mlp: put(base[net.b.mlp])}
    reached = {}
    seen = {**sending, net.b.input: lambda y: reached.__setitem__("x", y.detach())}
    direct = metric(run(net, clean, seen))
    through = metric(run(net, clean, {net.b.input: put(reached["x"])}))
    write("path", torch.stack([direct, through]))

    noise = draw(2, 2, 4, scale=2)
    write("noise", noise)
    probability = lambda y: torch.softmax(y[-1], 0)[1]  # noqa: E731
    corrupted, restored = [], []
    for one in noise:

        def add(y: torch.Tensor, one=one) -> torch.Tensor:
            y = y.clone()
            y[2:4] += one
            return y

        corrupted.append(probability(run(net, clean, {net.embed: add})))
        for window in [{net.mix: put(base[net.mix], slice(4, 5))},
                       {net.a.mlp: put(base[net.a.mlp]), net.b.mlp: put(base[net.b.mlp])}]:  # fmt: skip
            restored.append(probability(run(net, clean, {net.embed: add, **window})))
    write("trace_clean", probability(net(clean)))
    write("trace_corrupted", torch.stack(corrupted).mean())
    write("trace_restored", torch.stack(restored).reshape(2, 2).mean(0))

    V = torch.linalg.qr(draw(6, 2))[0].T
    write("V", V)

    def along(y: torch.Tensor) -> torch.Tensor:
        return y + (source[net.b.hidden] - y) @ V.T @ V

    write("subspace", metric(run(net, clean, {net.b.hidden: along})))

    mask = (torch.rand(5, 6) < 0.5).double()
    values, dy = draw(5, 6), draw(5, 3)
    write("mask", mask)
    write("held", values)
    write("dy", dy)
    x = clean.clone().requires_grad_()
    y = run(net, x, {net.a.hidden: lambda h: torch.where(mask > 0, values, h)})
    dx, *gradients = torch.autograd.grad(y, [x, *ordered(net)], dy)
    write("y_held", y)
    write("dx_held", dx)
    write("d_parameters_held", torch.cat([g.reshape(-1) for g in gradients]))

    kept = {}

    def keep_graph(m):
        def hook(y: torch.Tensor) -> None:
            y.retain_grad()
            kept[m] = y

        return hook

    y = run(net, clean.clone().requires_grad_(), {m: keep_graph(m) for m in every})
    metric(y).backward()
    effect = lambda m, r: ((source[m] - base[m]) * kept[m].grad)[r].sum()  # noqa: E731
    write("attributed", torch.stack([effect(net.mix, slice(None)), effect(net.a.mlp, slice(4, 5)),
                                     effect(net.b.hidden, slice(None))]))  # fmt: skip
    hidden = torch.relu(source[net.a.hidden])
    hidden[:, 2] *= 1e-3
    m = hidden.abs().mean(0)
    write("hidden", hidden)
    write("dormant_scores", m / m.mean())
    save("probe_hooks")


def ordered(net: Net) -> list[torch.Tensor]:
    modules = [net.embed, net.mix, net.a.up, net.a.mlp, net.b.up, net.b.mlp, net.read]
    return [p for m in modules for p in (m.weight, m.bias)]


def law(t, A, lam, gamma, t0, K):  # noqa: N803
    x = gamma * t + t0
    return A * np.exp(-lam * x) * np.log(x) + K


def growth() -> None:
    random = np.random.default_rng(2)
    t = np.array([0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400, 500, 700, 1000, 1430], dtype=float)
    for name, truth, noise in [("exact", (3.0, 0.1, 0.2, 1.0, 5.0), 0.0),
                               ("noisy", (900.0, 0.04, 0.05, 1.1, 120.0), 6.0)]:  # fmt: skip
        r = np.round(law(t, *truth) + noise * random.standard_normal(len(t)), 9)
        fit, _ = curve_fit(law, t, r, p0=truth, method="trf", xtol=1e-15, ftol=1e-15, gtol=1e-15,
                           bounds=([-np.inf, 1e-9, 1e-9, 1e-9, -np.inf], np.inf), x_scale=truth,
                           max_nfev=100000)  # fmt: skip
        residual = ((law(t, *fit) - r) ** 2).sum()
        write(f"{name}_r", r)
        write(f"{name}_fit", fit)
        write(f"{name}_at", law(t, *fit))
        write(f"{name}_r_squared", 1 - residual / ((r - r.mean()) ** 2).sum())
    write("t", t)
    save("probe_growth")


hooks()
growth()
