#!/usr/bin/env python3
"""snnTorch, SpikingJelly and Norse beside spiking.inference/784x1000x10/B and
spiking.training_step/784x1000x10/B: two linear maps without bias, each before leaky neurons, 25
steps of inputs that spike at a rate of 0.1. Each as its own tutorials run it: SpikingJelly with all
steps in one call, the others step by step. A library that is not there has no rows.
"""

import importlib.util
from importlib.metadata import version

import common
import torch
from torch import nn

STEPS, RATE = 25, 0.1
BETA = 0.9


def spikes(batch: int):
    return (torch.rand(STEPS, batch, 784) < RATE).float()


def snntorch():
    import snntorch as snn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.ModuleList(
                [nn.Linear(784, 1000, bias=False), nn.Linear(1000, 10, bias=False)]
            )
            self.neurons = nn.ModuleList([snn.Leaky(beta=BETA), snn.Leaky(beta=BETA)])

        def forward(self, x):
            first, second = (neuron.init_leaky() for neuron in self.neurons)
            out = []
            for x_t in x:
                s, first = self.neurons[0](self.maps[0](x_t), first)
                s, second = self.neurons[1](self.maps[1](s), second)
                out.append(s)
            return torch.stack(out)

    return Net()


def spikingjelly():
    from spikingjelly.activation_based import functional, layer, neuron

    def lif():
        return neuron.LIFNode(
            tau=1 / (1 - BETA), decay_input=False, v_reset=None, detach_reset=True
        )

    net = nn.Sequential(
        layer.Linear(784, 1000, bias=False), lif(), layer.Linear(1000, 10, bias=False), lif()
    )
    functional.set_step_mode(net, "m")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            functional.reset_net(self.net)
            return self.net(x)

    return Net()


def norse():
    import norse.torch as norse_torch

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            parts = norse_torch.LIFBoxParameters(tau_mem_inv=torch.tensor((1 - BETA) / 1e-3))
            self.net = norse_torch.SequentialState(
                nn.Linear(784, 1000, bias=False),
                norse_torch.LIFBoxCell(parts),
                nn.Linear(1000, 10, bias=False),
                norse_torch.LIFBoxCell(parts),
            )

        def forward(self, x):
            state, out = None, []
            for x_t in x:
                s, state = self.net(x_t, state)
                out.append(s)
            return torch.stack(out)

    return Net()


def makers(make):
    def inference(batch: int):
        net, x = make(), spikes(batch)

        @torch.inference_mode()
        def call():
            return net(x)

        return call

    def training_step(batch: int):
        """Forward and back, from a gradient of every output spike to those of the weights."""
        net, x, dy = make(), spikes(batch), torch.randn(STEPS, batch, 10)

        def call():
            net.zero_grad(set_to_none=True)
            net(x).backward(dy)

        return call

    return {
        r"spiking\.inference/784x1000x10/(\d+)": inference,
        r"spiking\.training_step/784x1000x10/(\d+)": training_step,
    }


if __name__ == "__main__":
    for library, make in {
        "snntorch": snntorch,
        "spikingjelly": spikingjelly,
        "norse": norse,
    }.items():
        if importlib.util.find_spec(library) is not None:
            common.run(makers(make), peer=library, version=version(library))
