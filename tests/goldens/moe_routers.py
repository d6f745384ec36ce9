#!/usr/bin/env python3
"""moe_routers.py: routers and their losses by PyTorch, SciPy and NumPy, in float64.

    python tests/goldens/moe_routers.py        writes moe_routers.hpp

Written from the equations of the papers, a token and an expert at a time. `p` are the parameters of
a layer one after the other in the order of its `visit`, `d_p` their gradients. What is drawn is a
multiple of 1/64, so that float and double start from the same numbers.
"""

import math
from pathlib import Path

import numpy as np
import scipy
import scipy.optimize
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        value = torch.as_tensor(value).detach().reshape(-1).tolist()
        text = ",".join(f"{v:.17g}" for v in value)
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, arrays: dict) -> None:
    lines.append(f"\nnamespace {name} {{")
    write(arrays)
    lines.append(f"}}  // namespace {name}")


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def run(name: str, x, parameters, forward, more=None) -> None:
    """forward(x) gives y and a loss of its own."""
    y, loss = forward(x)
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad((y * dy).sum() + loss, [x, *parameters], allow_unused=True)
    gradients = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]
    arrays = {"x": x, "y": y, "dy": dy, "dx": dx, "loss": loss}
    case(name, arrays | {"p": flat(parameters), "d_p": flat(gradients)} | (more or {}))


def tagged(x: torch.Tensor, numbers) -> torch.Tensor:
    column = torch.tensor(numbers, dtype=torch.float64)[:, None]
    return torch.cat([x, column], 1).detach().requires_grad_()


def linear_experts(count: int, d_in: int, d_out: int):
    return [[draw(d_out, d_in), draw(d_out)] for _ in range(count)]


def best(scores: torch.Tensor, k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda e: (-float(scores[e]), e))[:k]


# ── Routers of one choice ────────────────────────────────────────────────────────────────────────


def hash_layer() -> None:
    d, experts, tokens = 3, 3, [4, 0, 2, 2, 1, 3, 4]
    table = [1, 0, 1, 2, 0]
    f = linear_experts(experts, d, 2)

    def forward(x):
        rows = [F.linear(x[t, :d], *f[table[v]]) for t, v in enumerate(tokens)]
        return torch.stack(rows), torch.zeros(())

    run("hash", tagged(draw(7, d), tokens), [p for e in f for p in e], forward, {"table": table})


def base_layer() -> None:
    d, experts, t = 4, 3, 12
    c = draw(experts, d)
    f = [[draw(5, d), draw(5), draw(d, 5), draw(d)] for _ in range(experts)]
    x = draw(t, d)
    a = (x @ c.T).detach().numpy()
    rows, columns = scipy.optimize.linear_sum_assignment(
        np.repeat(a, t // experts, axis=1), maximize=True
    )
    chosen = (columns // (t // experts)).tolist()
    assert rows.tolist() == list(range(t))

    def forward(x):
        y = []
        for i, e in enumerate(chosen):
            w1, b1, w2, b2 = f[e]
            expert = x[i] + F.linear(torch.relu(F.linear(x[i], w1, b1)), w2, b2)
            alpha = torch.sigmoid(x[i] @ c[e])
            y.append(alpha * expert + (1 - alpha) * x[i])
        return torch.stack(y), torch.zeros(())

    run("base", x, [c, *[p for e in f for p in e]], forward, {"chosen": chosen})


# ── Capacity ─────────────────────────────────────────────────────────────────────────────────────


def capacity() -> None:
    d, experts, k, t = 4, 3, 2, 9
    router, f = draw(experts, d), linear_experts(experts, d, 2)
    x = draw(t, d)
    z = (x @ router.T).detach()
    chosen = [best(z[i], k) for i in range(t)]
    room, taken = math.ceil(1.25 * t / experts), [0] * experts
    kept = [[False] * k for _ in range(t)]
    for j in range(k):
        for i in range(t):
            e = chosen[i][j]
            kept[i][j] = taken[e] < room
            taken[e] += 1
    dropped = sum(not keep for row in kept for keep in row)
    assert dropped > 2
    share = torch.zeros(experts)
    for row in chosen:
        for e in row:
            share[e] += 1 / (t * k)

    def forward(x):
        z = x @ router.T
        rows = []
        for i in range(t):
            w = F.softmax(z[i, chosen[i]], 0)
            y = torch.zeros(2)
            for j, e in enumerate(chosen[i]):
                if kept[i][j]:
                    y = y + w[j] * F.linear(x[i], *f[e])
            rows.append(y)
        loss = 0.5 * experts * (share * F.softmax(z, 1).mean(0)).sum()
        return torch.stack(rows), loss

    run("capacity", x, [router, *[p for e in f for p in e]], forward, {"dropped": dropped})


# ── Tasks ────────────────────────────────────────────────────────────────────────────────────────


def gathered(z: torch.Tensor, x: torch.Tensor, f, k: int) -> torch.Tensor:
    """Softmax over all experts, the k largest as they are."""
    p = F.softmax(z, 0)
    return sum(p[e] * F.linear(x, *f[e]) for e in best(z.detach(), k))


def task_gates() -> None:
    d, experts, tasks = 4, 4, [0, 2, 1, 0, 2, 2, 0]
    gates = [draw(experts, d) for _ in range(4)]  # the last task has no rows
    f = linear_experts(experts, d, 2)

    def forward(x):
        rows = [gathered(x[t, :d] @ gates[n].T, x[t, :d], f, 2) for t, n in enumerate(tasks)]
        return torch.stack(rows), torch.zeros(())

    run("task_gates", tagged(draw(7, d), tasks), [*gates, *[p for e in f for p in e]], forward)


def task_windows() -> None:
    """Gate n chooses among three of seven experts, from floor(n (7 - 3) / (4 - 1)) on."""
    d, experts, wide, tasks = 4, 7, 3, [0, 2, 1, 0, 3, 2, 0, 1]
    gates = [draw(wide, d) for _ in range(4)]
    f = linear_experts(experts, d, 2)

    def forward(x):
        rows = []
        for t, n in enumerate(tasks):
            window = f[n * (experts - wide) // 3 :][:wide]
            rows.append(gathered(x[t, :d] @ gates[n].T, x[t, :d], window, 2))
        return torch.stack(rows), torch.zeros(())

    run("task_windows", tagged(draw(8, d), tasks), [*gates, *[p for e in f for p in e]], forward)


def task_features() -> None:
    d, experts, hidden, width, tasks = 3, 4, 5, 2, [0, 2, 1, 0, 2, 2, 0]
    features = [draw(hidden, 3), draw(hidden), draw(width, hidden), draw(width)]
    norm = [draw(width), draw(width)]
    router, f = draw(experts, d + width), linear_experts(experts, d, 2)

    def forward(x):
        w1, b1, w2, b2 = features
        rows = []
        for t, n in enumerate(tasks):
            e = F.linear(F.gelu(F.linear(F.one_hot(torch.tensor(n), 3).double(), w1, b1)), w2, b2)
            e = F.layer_norm(e, (width,), *norm)
            rows.append(gathered(torch.cat([x[t, :d], e]) @ router.T, x[t, :d], f, 2))
        return torch.stack(rows), torch.zeros(())

    parameters = [*features, *norm, router, *[p for e in f for p in e]]
    run("task_features", tagged(draw(7, d), tasks), parameters, forward)


# ── T2MIR ────────────────────────────────────────────────────────────────────────────────────────


def mlp(x, w1, b1, w2, b2):
    return F.linear(F.leaky_relu(F.linear(x, w1, b1), 0.01), w2, b2)


def normalised(z, x, f, k: int):
    y = []
    gates = []
    for t in range(len(x)):
        ids = best(z[t].detach(), k)
        w = F.softmax(z[t, ids], 0)
        y.append(sum(w[j] * mlp(x[t], *f[e]) for j, e in enumerate(ids)))
        gates.append(torch.zeros(z.shape[1]).index_add(0, torch.tensor(ids), w))
    return torch.stack(y), torch.stack(gates)


def squared_variation(v):
    return v.var() / (v.mean() ** 2 + 1e-10)


def balance(z, s, gates, k: int):
    load = torch.zeros(z.shape[1])
    for t in range(len(z)):
        order = best(z[t].detach(), k + 1)
        for e in range(z.shape[1]):
            rival = z[t, order[k]] if e in order[:k] else z[t, order[k - 1]]
            load = load.index_add(
                0,
                torch.tensor([e]),
                torch.special.ndtr((z[t, e] - rival) / s[t, e])[None],
            )
    return squared_variation(gates.sum(0)) + squared_variation(load)


def contrast(z, other, match, offsets, n: int):
    def means(z):
        pairs = zip(offsets, offsets[1:], strict=False)
        return torch.stack([F.softmax(z[a:b], 1).mean(0) for a, b in pairs])

    r, target, labels = means(z), means(other).detach(), torch.arange(n)
    return 0.5 * F.cross_entropy(r[:n] @ match @ target[n:].T, labels) + 0.5 * F.cross_entropy(
        r[n:] @ match @ target[:n].T, labels
    )


def t2mir() -> None:
    d, h, e_token, e_task, t, offsets = 6, 4, 3, 4, 12, [0, 2, 5, 7, 8, 11, 12]
    norm = [draw(d), draw(d)]
    token = [draw(e_token, d), draw(e_token, e_token), draw(e_token, d, scale=0.5)]
    task = [draw(e_task, d), draw(e_task, e_task)]
    match = draw(e_task, e_task, scale=3)
    target = [draw(e_task, d), draw(e_task, e_task)]
    experts = [
        [[draw(h, d), draw(h), draw(d // 2, h), draw(d // 2)] for _ in range(count)]
        for count in (e_token, e_task)
    ]

    def forward(x):
        n = F.layer_norm(x, (d,), *norm)
        z = torch.tanh(n @ token[0].T) @ token[1].T
        s = F.softplus(n @ token[2].T) + 0.01
        left, gates = normalised(z, n, experts[0], 2)
        loss = 0.1 * balance(z, s, gates, 2)
        z = torch.tanh(n @ task[0].T) @ task[1].T
        other = torch.tanh(n @ target[0].T) @ target[1].T
        right, _ = normalised(z, n, experts[1], 2)
        loss = loss + 0.25 * contrast(z, other, match, offsets, 3)
        return x + torch.cat([left, right], 1), loss

    parameters = [
        *norm,
        *token,
        *[p for e in experts[0] for p in e],
        *task,
        match,
        *[p for e in experts[1] for p in e],
    ]
    more = {"target_hidden": target[0], "target": target[1]}
    run("t2mir", draw(t, d), parameters, forward, more)


def hard_router() -> None:
    """One choice for a sequence, by the mean of its rows."""
    d, e, offsets, n = 4, 4, [0, 2, 5, 6, 9], 2
    a, w, match, target = draw(e, d), draw(e, e), draw(e, e, scale=3), [draw(e, d), draw(e, e)]
    f = linear_experts(e, d, 2)

    def forward(x):
        m = torch.stack([x[i:j].mean(0) for i, j in zip(offsets, offsets[1:], strict=False)])
        z = torch.tanh(m @ a.T) @ w.T
        other = torch.tanh(m @ target[0].T) @ target[1].T
        rows = []
        for b in range(2 * n):
            ids = best(z[b].detach(), 2)
            g = F.softmax(z[b, ids], 0)
            for t in range(offsets[b], offsets[b + 1]):
                rows.append(sum(g[j] * F.linear(x[t], *f[i]) for j, i in enumerate(ids)))
        return torch.stack(rows), 0.25 * contrast(z, other, match, list(range(2 * n + 1)), n)

    parameters = [a, w, match, *[p for e in f for p in e]]
    more = {"target_hidden": target[0], "target": target[1]}
    run("hard", draw(offsets[-1], d), parameters, forward, more)


# ── MixER ────────────────────────────────────────────────────────────────────────────────────────


def gate_fit(name: str, contexts, losses, centroids, bias: bool) -> None:
    start = centroids.copy()
    experts = len(centroids)
    for passes in range(1, 20):  # noqa: B007, counted
        distance = np.abs(contexts[:, None] - centroids[None]).mean(-1)
        clusters = distance.argmin(1)
        assert all((clusters == j).any() for j in range(experts)), name
        new = np.stack([contexts[clusters == j].mean(0) for j in range(experts)])
        still = np.allclose(new, centroids, rtol=1e-5, atol=1e-4)
        centroids = new
        if still:
            break
    free = list(range(experts))
    expert_of = []
    for j in range(experts):
        medians = np.median(losses[clusters == j], axis=0)
        e = min(free, key=lambda e: (medians[e], e))
        free.remove(e)
        expert_of.append(e)
    wanted = np.eye(experts)[np.array(expert_of)[clusters]]
    design = np.hstack([contexts, np.ones((len(contexts), 1))]) if bias else contexts
    w, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    case(
        name,
        {
            "contexts": contexts,
            "losses": losses,
            "start": start,
            "centroids": centroids,
            "clusters": clusters,
            "experts": expert_of,
            "passes": passes,
            "weight": w[: contexts.shape[1]].T,
            "bias": w[-1] if bias else np.zeros(1),
            "routes": (design @ w).argmax(1),
        },
    )


def mixer() -> None:
    rng = np.random.default_rng(3)
    rounded = lambda a: np.round(a * 64) / 64  # noqa: E731
    centres = np.array([[0, 0, 0], [2, 1, 0], [0, 3, -2], [-2, 0, 2]])
    contexts = rounded(np.repeat(centres, 4, 0) + 0.4 * rng.normal(size=(16, 3)))
    losses = rounded(rng.uniform(size=(16, 4)))
    gate_fit("mixer", contexts, losses, rounded(centres + 0.8 * rng.normal(size=(4, 3))), True)
    # Fewer environments than columns, two of which are the same: many maps fit, one is shortest.
    few = rounded(np.array([[0.0] * 5, [2.0] * 5])[[0, 1, 0, 1]] + 0.4 * rng.normal(size=(4, 5)))
    few[:, 4] = few[:, 3]
    gate_fit("mixer_few", few, losses[:4, :2], rounded(few[:2] + 0.1), False)


if __name__ == "__main__":
    torch.manual_seed(11)
    hash_layer()
    base_layer()
    capacity()
    task_gates()
    task_features()
    t2mir()
    mixer()
    torch.manual_seed(12)
    hard_router()
    task_windows()
    made = (
        f"PyTorch {torch.__version__.split('+')[0]}, SciPy {scipy.__version__}, "
        f"NumPy {np.__version__}"
    )
    header = f"""#pragma once
// Made by moe_routers.py with {made}, float64.
// clang-format off

namespace goldens::moe_routers {{
"""
    path = Path(__file__).parent / "moe_routers.hpp"
    path.write_text(header + "\n".join(lines) + "\n\n}  // namespace goldens::moe_routers\n")
