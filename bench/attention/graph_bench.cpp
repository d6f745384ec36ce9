// Attention along the edges of a random graph: 10,000 nodes, 100,000 edges, 64 wide. Work: flops of
// the products and of the edges (scores and sums), numbers of edges for the softmax alone.

#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>
#include <limen/attention/graph_block.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

namespace {

using namespace limen;

constexpr Index width = 64;

/// Ends are drawn at random, so that in-degrees spread around the mean as they do in practice.
const Graph& graph(Index nodes, Index count) {
  static const Graph made = [=] {
    Random random(1);
    std::vector<Edge> edges;
    const auto node = [&] {
      return static_cast<Index>(random.below(static_cast<std::uint64_t>(nodes)));
    };
    for (Index e = 0; e < count; ++e) edges.push_back({node(), node()});
    return Graph::make(nodes, edges).value();
  }();
  return made;
}

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(2);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <class L>
void add(const std::string& name, Index heads, bool backward, int threads) {
  constexpr Index nodes = 10'000, edges = 100'000;
  std::string full = "graph." + name + (backward ? ".backward/" : ".forward/") +
                     std::to_string(nodes) + "x" + std::to_string(edges) + "x" +
                     std::to_string(width) + "h" + std::to_string(heads);
  if (threads > 1) full += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    Random random(3);
    const L layer = L::initialized(random);
    const GraphRun on{.graph = &graph(nodes, edges)};
    Context context{.graph = &on};
    const Index offsets[] = {0, nodes};
    const auto batch = from_rest(offsets, &context);
    const auto x = noise<width>(nodes), dy = noise<L::out>(nodes);
    typename L::Cache cache;
    L gradient;
    if (backward) {
      layer.forward(Sequence<float, width>(x), batch, cache);
      for (auto _ : run) {
        benchmark::DoNotOptimize(layer.backward(dy, batch, cache, gradient).data());
      }
    } else {
      for (auto _ : run) benchmark::DoNotOptimize(layer.forward(x, batch).data());
    }
    // Matrices of width x width that a row meets; flops of a number of an edge.
    const double matrices = name == "block" ? 11 : (name == "gatv2" ? 2 : 1);
    const double along = (name == "block" ? 4.0 : (name == "gatv2" ? 7.0 : 2.0)) * edges * width;
    const double products = 2.0 * nodes * width * width * matrices;
    run.counters["work"] = (backward ? 2 : 1) * (products + along);
    run.counters["threads"] = threads;
  })->UseRealTime();
}

void add_softmax(Index heads, bool backward, int threads) {
  constexpr Index nodes = 10'000, edges = 100'000;
  std::string name = std::string("graph.segment_softmax") + (backward ? "_backward/" : "/") +
                     std::to_string(nodes) + "x" + std::to_string(edges) + "h" +
                     std::to_string(heads);
  if (threads > 1) name += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    const Graph& g = graph(nodes, edges);
    const auto s = noise<1>(edges * heads), d = noise<1>(edges * heads);
    Sequence<float, 1> p(edges * heads);
    for (auto _ : run) {
      if (backward) {
        segment_softmax_backward(g, heads, s.data(), d.data(), p.data());
      } else {
        segment_softmax(g, heads, s.data(), p.data());
      }
      benchmark::ClobberMemory();
    }
    run.counters["work"] = static_cast<double>(edges * heads);
    run.counters["threads"] = threads;
  })->UseRealTime();
}

template <Index H>
void add_layers() {
  constexpr GraphAttentionConfig c{.d_in = width, .d_head = width / H, .heads = H};
  for (const int threads : {1, 2}) {
    for (const bool backward : {false, true}) {
      add<GraphAttentionV2<c>>("gatv2", H, backward, threads);
      add<GraphAttention<c>>("gat", H, backward, threads);
    }
  }
}

[[maybe_unused]] const bool registered = [] {
  add_layers<4>();
  add_layers<1>();
  add_layers<8>();
  using Block = GraphBlock<GraphBlockConfig{.d_model = width, .heads = 4}>;
  for (const int threads : {1, 2}) {
    for (const bool backward : {false, true}) add<Block>("block", 4, backward, threads);
  }
  for (const Index heads : {1, 4}) {
    add_softmax(heads, false, 1);
    add_softmax(heads, true, 1);
  }
  add_softmax(4, false, 2);
  benchmark::RegisterBenchmark("graph.sort/10000x100000", [](benchmark::State& run) {
    Random random(1);
    std::vector<Edge> edges;
    for (int e = 0; e < 100'000; ++e) {
      edges.push_back(
          {static_cast<Index>(random.below(10'000)), static_cast<Index>(random.below(10'000))});
    }
    for (auto _ : run) benchmark::DoNotOptimize(Graph::make(10'000, edges).value().out());
    run.counters["work"] = 1e5;
    run.counters["threads"] = 1;
  });
  return true;
}();

}  // namespace
