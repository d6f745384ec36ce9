#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>

#include <limen/core/random.hpp>

#include <numeric>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index N = 9, F = 3, E = 30;
constexpr GraphAttentionConfig C{.d_in = F, .d_head = 4, .heads = 2, .d_edge = 2, .relations = 3};

/// Edges, what they say, and what their nodes hold.
struct World {
  std::vector<Edge> edges;
  std::vector<double> said;
  std::vector<std::uint8_t> keep;
  Sequence<double, F> x{N};
};

template <class L>
struct Answer {
  Sequence<double, L::out> y;
  Sequence<double, F> dx;
  L gradient;
};

template <class L>
Answer<L> ask(const L& layer, const World& w, const Sequence<double, L::out>& dy) {
  const Graph graph = Graph::make(N, w.edges, {.self_loops = true, .loop_type = 2}).value();
  GraphRun run{.graph = &graph, .keep = w.keep};
  run.doubles.features = {w.said.data(), E, 2, 2};
  Context context{.graph = &run};
  const Index rows[] = {0, N};
  Answer<L> a;
  typename L::Cache cache;
  a.y = layer.forward(Sequence<double, F>(w.x), from_rest(rows, &context), cache);
  a.dx = layer.backward(dy, from_rest(rows, &context), cache, a.gradient);
  return a;
}

template <class L>
void names_do_not_matter() {
  Random random(1);
  const L layer = L::initialized(random);
  World w;
  for (Index e = 0; e < E; ++e) {
    w.edges.push_back({static_cast<Index>(random.below(N)), static_cast<Index>(random.below(N - 1)),
                       static_cast<Index>(random.below(3))});
    w.keep.push_back(random.below(4) > 0);
  }
  for (Index i = 0; i < 2 * E; ++i) w.said.push_back(random.normal());
  Sequence<double, L::out> dy(N), other_dy(N);
  for (Index i = 0; i < w.x.size(); ++i) w.x.data()[i] = random.normal();
  for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = random.normal();

  std::vector<Index> node(N), order(E);  // new names, and which edge comes next
  std::iota(node.begin(), node.end(), Index{0});
  std::iota(order.begin(), order.end(), Index{0});
  random.shuffle(std::span(node));
  random.shuffle(std::span(order));
  const auto name = [&](Index i) { return node[static_cast<std::size_t>(i)]; };
  World other;
  for (const Index k : order) {
    const auto e = static_cast<std::size_t>(k);
    other.edges.push_back({name(w.edges[e].from), name(w.edges[e].to), w.edges[e].type});
    other.keep.push_back(w.keep[e]);
    other.said.insert(other.said.end(), {w.said[2 * e], w.said[2 * e + 1]});
  }
  for (Index i = 0; i < N; ++i) {
    for (Index c = 0; c < F; ++c) other.x(name(i), c) = w.x(i, c);
    for (Index c = 0; c < L::out; ++c) other_dy(name(i), c) = dy(i, c);
  }
  const auto a = ask(layer, w, dy), b = ask(layer, other, other_dy);
  for (Index i = 0; i < N; ++i) {
    for (Index c = 0; c < L::out; ++c) REQUIRE(std::abs(a.y(i, c) - b.y(name(i), c)) < 1e-13);
    for (Index c = 0; c < F; ++c) REQUIRE(std::abs(a.dx(i, c) - b.dx(name(i), c)) < 1e-12);
  }
  for_each_tensor(
      [](const auto& left, const auto& right) {
        for (Index i = 0; i < left.size; ++i) {
          REQUIRE(std::abs(left.data()[i] - right.data()[i]) < 1e-12);
        }
      },
      a.gradient, b.gradient);
}

}  // namespace

TEST_CASE("What nodes are called and which edge comes first does not matter",
          "[attention][graph]") {
  names_do_not_matter<GraphAttention<C, double>>();
  names_do_not_matter<GraphAttentionV2<C, double>>();
}
