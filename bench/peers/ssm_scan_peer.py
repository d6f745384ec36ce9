#!/usr/bin/env python3
"""PyTorch beside mamba1.*: the reference loop of the scan, and the mixer of transformers (if that is
installed: pip install transformers) as it comes; ssm_compile_peer.py has it through torch.compile.

float32. Decoding uses the cache of transformers.
"""

import logging

import common
import torch
import torch.nn.functional as F

try:
    from transformers import MambaConfig
    from transformers import logging as transformers_logging
    from transformers.models.mamba.modeling_mamba import MambaMixer, MambaModel

    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
except ImportError:
    MambaConfig = None


def reference_scan(u, delta, a, b, c, d, z):
    """u, delta, z [L x E]; b, c [L x N]; a [E x N]"""
    delta = F.softplus(delta)
    decay = torch.exp(torch.einsum("le,en->len", delta, a))
    inputs = torch.einsum("le,ln,le->len", delta, b, u)
    h, rows = torch.zeros_like(a), []
    # unbind, not decay[t]: the gradient of an index is as large as what is indexed
    for decay_t, input_t, c_t in zip(decay.unbind(0), inputs.unbind(0), c.unbind(0), strict=True):
        h = decay_t * h + input_t
        rows.append(torch.einsum("en,n->e", h, c_t))
    return (torch.stack(rows) + u * d) * F.silu(z)


def scan_inputs(e: int, n: int, t: int):
    a = -torch.arange(1, n + 1, dtype=torch.float32).expand(e, n).contiguous()
    u, z, delta = torch.randn(t, e), torch.randn(t, e), torch.randn(t, e) - 4
    return [u, delta, a, torch.randn(t, n), torch.randn(t, n), torch.randn(e), z]


def scan(way: str, e: int, n: int, t: int):
    inputs = scan_inputs(e, n, t)
    if way in ("forward", "powers"):

        @torch.inference_mode()
        def call():
            return reference_scan(*inputs)

        return call
    for x in inputs:
        x.requires_grad_()
    y = reference_scan(*inputs)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def mixer(d: int):
    config = MambaConfig(hidden_size=d, state_size=16, use_bias=False)
    return MambaMixer(config, layer_idx=0)


def as_it_comes(module):
    return module


def prefill(d: int, t: int, form=as_it_comes):
    if MambaConfig is None:
        return None
    m, x = form(mixer(d).eval()), torch.randn(1, t, d)

    @torch.inference_mode()
    def call():
        return m(x)

    return call


def step(d: int):
    """One layer of a model with its cache: everything around the layer is small beside it."""
    if MambaConfig is None:
        return None
    config = MambaConfig(
        hidden_size=d, state_size=16, use_bias=False, num_hidden_layers=1, vocab_size=8
    )
    model, token = MambaModel(config).eval(), torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode():
        cache = model(torch.zeros(1, 4, dtype=torch.long), use_cache=True)
    key = "cache" if "cache" in cache else "cache_params"
    kept = {key: cache[key]}

    @torch.inference_mode()
    def call():
        return model(token, use_cache=True, **kept)

    return call


def training(d: int, t: int, batch: int, form=as_it_comes):
    if MambaConfig is None:
        return None
    if form is as_it_comes and torch.get_num_threads() > 1:
        return None  # a quarter of a minute, or half of one: once is enough
    m = form(mixer(d))
    x, dy = torch.randn(batch, t, d, requires_grad=True), torch.randn(batch, t, d)

    def call():
        m(x).backward(dy)

    return call


if __name__ == "__main__":
    common.run(
        {
            r"mamba1\.scan\.(forward|powers|backward)/(\d+)x(\d+)x(\d+)": scan,
            r"mamba1\.block\.prefill/(\d+)x(\d+)": prefill,
            r"mamba1\.block\.step/(\d+)": step,
            r"mamba1\.block\.training/(\d+)x(\d+)x(\d+)": training,
        }
    )
