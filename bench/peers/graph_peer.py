#!/usr/bin/env python3
"""PyTorch Geometric beside graph.gatv2|gat.forward|backward/NODESxEDGESxWIDTHhHEADS and
graph.segment_softmax[_backward]/NODESxEDGEShHEADS, float32, edges of the same kind. Its edges are
sorted by destination, as it likes them best. Backward is that of a graph kept from one forward, all
gradients.
"""

import sys

import common
import torch

try:
    import torch_geometric
    from torch_geometric.nn import GATConv, GATv2Conv
    from torch_geometric.utils import softmax
except ImportError:  # an optional peer
    print("graph_peer: no torch_geometric, skipped", file=sys.stderr)
    sys.exit(0)


def edges_of(nodes: int, count: int) -> torch.Tensor:
    edges = torch.randint(0, nodes, (2, count))
    return edges[:, torch.argsort(edges[1], stable=True)].contiguous()


def layer(kind: str, what: str, nodes: int, count: int, width: int, heads: int):
    make = GATv2Conv if kind == "gatv2" else GATConv
    conv = make(width, width // heads, heads=heads, add_self_loops=False)
    edges, x = edges_of(nodes, count), torch.randn(nodes, width)
    if what == "forward":

        @torch.inference_mode()
        def call():
            return conv(x, edges)

        return call
    x.requires_grad_()
    y, dy = conv(x, edges), torch.randn(nodes, width)
    wanted = [x, *conv.parameters()]
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def segment_softmax(backward: str | None, nodes: int, count: int, heads: int):
    to, s = edges_of(nodes, count)[1], torch.randn(count, heads)
    if not backward:
        return lambda: softmax(s, to, num_nodes=nodes)
    s.requires_grad_()
    p, dp = softmax(s, to, num_nodes=nodes), torch.randn(count, heads)
    return lambda: torch.autograd.grad(p, s, dp, retain_graph=True)


if __name__ == "__main__":
    common.run(
        {
            r"graph\.(gatv2|gat)\.(forward|backward)/(\d+)x(\d+)x(\d+)h(\d+)": layer,
            r"graph\.segment_softmax(_backward)?/(\d+)x(\d+)h(\d+)": segment_softmax,
        },
        peer="pyg",
        version=torch_geometric.__version__,
    )
