#!/usr/bin/env python3
"""PyTorch beside mamba2.ssd.*, gated_delta.*, gla.* and retnet.*: float32, one sequence, the state
carried. torch-recurrent is the loop over rows, torch-chunked the form with products of matrices, in
chunks of 64 (16 where every key decays by itself).
"""

import common
import torch


def ssd_operands(t: int, heads: int, groups: int, keys: int, width: int, decays: int = 1):
    q, k = torch.randn(2, groups, t, keys) * keys**-0.5
    v = torch.randn(heads, t, width)
    log_a = -0.05 * (0.5 + torch.rand(heads, t, decays))
    return q, k, v, log_a, torch.zeros(heads, keys, width)


def decay_matrix(log_a):
    """[..., Q] -> [..., Q, Q]: e^(c_i - c_j) for i >= j."""
    c = log_a.cumsum(-1)
    mask = torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool).triu(1)
    return c, (c[..., :, None] - c[..., None, :]).masked_fill(mask, -torch.inf).exp()


def ssd_chunked(q, k, v, log_a, state, size: int = 64):
    heads, t, width = v.shape
    n = t // size
    q, k = (x.reshape(x.shape[0], n, size, -1) for x in (q, k))
    v, log_a = v.reshape(heads, n, size, width), log_a.reshape(heads, n, size)
    c, gamma = decay_matrix(log_a)
    inside = ((q @ k.mT) * gamma) @ v
    written = (k.mT * (c[..., -1:] - c).exp()[..., None, :]) @ v
    across = []
    for i in range(n):
        across.append(state)
        state = c[:, i, -1].exp()[:, None, None] * state + written[:, i]
    outside = (q @ torch.stack(across, 1)) * c.exp()[..., None]
    return (inside + outside).reshape(heads, t, width), state


def ssd_recurrent(q, k, v, log_a, state):
    a, rows = log_a.exp(), []
    for i in range(v.shape[1]):
        state = a[:, i, :, None] * state + k[:, i, :, None] * v[:, i, None, :]
        rows.append((q[:, i, None, :] @ state)[:, 0])
    return torch.stack(rows, 1), state


def gla_chunked(q, k, v, log_a, state, size: int = 16):
    heads, t, width = v.shape
    q, k, v, log_a = (x.reshape(heads, t // size, size, -1) for x in (q, k, v, log_a))
    c = log_a.cumsum(-2)
    qe, kw = q * c.exp(), k * (c[..., -1:, :] - c).exp()
    inside = ((qe @ (k * (-c).exp()).mT).tril()) @ v
    written = kw.mT @ v
    rows = []
    for i in range(t // size):
        rows.append(inside[:, i] + qe[:, i] @ state)
        state = c[:, i, -1, :, None].exp() * state + written[:, i]
    return torch.cat(rows, 1), state


def delta_recurrent(q, k, v, log_a, state, beta):
    repeat = v.shape[0] // k.shape[0]
    q, k = (x.repeat_interleave(repeat, 0) for x in (q, k))
    a, rows = log_a.exp(), []
    for i in range(v.shape[1]):
        state = a[:, i, :, None] * state
        u = beta[:, i, None] * (v[:, i] - (state * k[:, i, :, None]).sum(1))
        state = state + k[:, i, :, None] * u[:, None, :]
        rows.append((state * q[:, i, :, None]).sum(1))
    return torch.stack(rows, 1), state


def delta_chunked(q, k, v, log_a, state, beta, size: int = 64):
    heads, t, width = v.shape
    repeat, n = heads // k.shape[0], t // size
    q, k = (x.repeat_interleave(repeat, 0).reshape(heads, n, size, -1) for x in (q, k))
    v, b = v.reshape(heads, n, size, width), beta.reshape(heads, n, size, 1)
    c, gamma = decay_matrix(log_a.reshape(heads, n, size))
    system = (b * k) @ k.mT * gamma
    solve = torch.linalg.solve_triangular
    u = solve(system, b * v, upper=False, unitriangular=True)
    w = solve(system, b * c.exp()[..., None] * k, upper=False, unitriangular=True)
    scores = (q @ k.mT) * gamma
    qe, kw = q * c.exp()[..., None], k * (c[..., -1:] - c).exp()[..., None]
    rows = []
    for i in range(n):
        new = u[:, i] - w[:, i] @ state
        rows.append(qe[:, i] @ state + scores[:, i] @ new)
        state = c[:, i, -1].exp()[:, None, None] * state + kw[:, i].mT @ new
    return torch.cat(rows, 1), state


def timed(way: str, f, *inputs):
    if way == "forward":

        @torch.inference_mode()
        def call():
            return f(*inputs)

        return call
    for x in inputs:
        x.requires_grad_()
    y, state = f(*inputs)
    dy, d_state = torch.randn_like(y), torch.randn_like(state)
    return lambda: torch.autograd.grad((y, state), inputs, (dy, d_state), retain_graph=True)


def ssd(form):
    def make(way: str, heads: int, width: int, keys: int, t: int):
        if form is ssd_recurrent and (way == "backward" or t > 1024):
            return None
        return timed(way, form, *ssd_operands(t, heads, 1, keys, width))

    return make


def retnet(form):
    def make(way: str, heads: int, keys: int, width: int, t: int):
        if form is ssd_recurrent and (way == "backward" or t > 1024):
            return None
        return timed(way, form, *ssd_operands(t, heads, heads, keys, width))

    return make


def gla(form):
    def make(way: str, heads: int, keys: int, width: int, t: int):
        if form is ssd_recurrent and (way == "backward" or t > 1024):
            return None
        return timed(way, form, *ssd_operands(t, heads, heads, keys, width, keys))

    return make


def delta(form):
    def make(way: str, groups: int, heads: int, keys: int, width: int, t: int):
        if form is delta_recurrent and (way == "backward" or t > 1024):
            return None
        return timed(way, form, *ssd_operands(t, heads, groups, keys, width), torch.rand(heads, t))

    return make


if __name__ == "__main__":
    way = r"(forward|backward)"
    four, five = (r"x".join([r"(\d+)"] * n) for n in (4, 5))
    for peer, one, keyed, rule in [
        ("torch-recurrent", ssd_recurrent, ssd_recurrent, delta_recurrent),
        ("torch-chunked", ssd_chunked, gla_chunked, delta_chunked),
    ]:
        common.run(
            {
                rf"mamba2\.ssd\.{way}/{four}": ssd(one),
                rf"retnet\.{way}/{four}": retnet(one),
                rf"gla\.{way}/{four}": gla(keyed),
                rf"gated_delta\.{way}/{five}": delta(rule),
            },
            peer=peer,
        )
