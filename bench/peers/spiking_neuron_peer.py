#!/usr/bin/env python3
"""snnTorch, SpikingJelly and Norse beside spiking.lif.forward|backward/TxBxD, spiking.lif.step/D and
spiking.synaptic.forward|backward/TxBxD: neurons alone, without the maps before them. SpikingJelly
with all steps in one call, the others step by step, as their own tutorials do. A library that is not
there has no rows.
"""

import importlib.util
from importlib.metadata import version

import common
import torch


def snntorch(kind: str):
    import snntorch as snn

    if kind == "synaptic":
        neuron = snn.Synaptic(alpha=0.8, beta=0.9)

        def run(x):
            i, v = torch.zeros_like(x[0]), torch.zeros_like(x[0])
            out = []
            for x_t in x:
                s, i, v = neuron(x_t, i, v)
                out.append(s)
            return torch.stack(out)

        return run
    neuron = snn.Leaky(beta=0.9)

    def run(x):
        v, out = torch.zeros_like(x[0]), []
        for x_t in x:
            s, v = neuron(x_t, v)
            out.append(s)
        return torch.stack(out)

    return run


def spikingjelly(kind: str):
    from spikingjelly.activation_based import functional, neuron

    if kind == "synaptic":
        return None
    node = neuron.LIFNode(tau=10.0, decay_input=False, v_reset=None, step_mode="m")

    def run(x):
        functional.reset_net(node)
        return node(x)

    return run


def norse(kind: str):
    import norse.torch as norse_torch

    rate = torch.tensor(100.0)  # per second, and a step is a millisecond: 0.9 is left
    if kind == "synaptic":
        cell = norse_torch.LIFCell(norse_torch.LIFParameters(tau_mem_inv=rate))
    else:
        cell = norse_torch.LIFBoxCell(norse_torch.LIFBoxParameters(tau_mem_inv=rate))

    def run(x):
        state, out = None, []
        for x_t in x:
            s, state = cell(x_t, state)
            out.append(s)
        return torch.stack(out)

    return run


def makers(make):
    def forward(kind: str, steps: int, batch: int, width: int):
        run, x = make(kind), torch.randn(steps, batch, width) + 0.3
        if run is None:
            return None

        @torch.inference_mode()
        def call():
            return run(x)

        return call

    def backward(kind: str, steps: int, batch: int, width: int):
        """Only the way back: the graph is kept."""
        run, x = make(kind), (torch.randn(steps, batch, width) + 0.3).requires_grad_()
        if run is None:
            return None
        s = run(x)
        ds = torch.randn_like(s)

        def call():
            return torch.autograd.grad(s, x, ds, retain_graph=True)

        call()  # the first of a process imports for a second
        return call

    def step(width: int):
        return forward("lif", 1, 1, width)

    sizes = r"(\d+)x(\d+)x(\d+)"
    return {
        rf"spiking\.(lif|synaptic)\.forward/{sizes}": forward,
        rf"spiking\.(lif|synaptic)\.backward/{sizes}": backward,
        r"spiking\.lif\.step/(\d+)": step,
    }


if __name__ == "__main__":
    for library, make in {
        "snntorch": snntorch,
        "spikingjelly": spikingjelly,
        "norse": norse,
    }.items():
        if importlib.util.find_spec(library) is not None:
            common.run(makers(make), peer=library, version=version(library))
