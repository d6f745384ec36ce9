#include <limen/moe/mixture_of_experts.hpp>

#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/min_gru.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "../laws.hpp"

using namespace limen;

namespace {

template <Index D, Index H = 3>
using Ffn = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = H}>;
template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

/// With a router of which small changes change no choice: gaps between scores are wide.
template <class L>
L decided(std::uint64_t seed) {
  Random random(seed);
  L layer = L::initialized(random);
  fill_normal(layer.router.weight, 2, random);
  return layer;
}

template <class L>
void hold(check::Options options = {}) {
  options.nan_stays = false;  // it is an error: see below
  laws::hold(decided<typename L::template with_scalar<double>>(options.seed), options);
  options.slope = 1e3;  // the steps of float are wide enough to change a choice
  laws::hold(decided<typename L::template with_scalar<float>>(options.seed), options);
}

template <Index D>
Sequence<float, D> noise(Index rows, std::uint64_t seed = 3) {
  Random random(seed);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <Index D>
bool same_bits(const Sequence<float, D>& a, const Sequence<float, D>& b) {
  return a.rows() == b.rows() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// Sends row 1 to an expert that there is not.
template <class S>
struct Wrong {
  static constexpr Index in = 5, experts = 2, slots = 1;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  template <class T>
  using with_scalar = Wrong<T>;
  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}

  bool route(SequenceView<Scalar, 5> x, const RoutingRun&, Assignment<Scalar, 1>& to) const {
    to.resize(x.rows());
    for (Index t = 0; t < x.rows(); ++t) to.expert[t] = t == 1 ? 2 : 0;
    return true;
  }
};

/// Every row to expert 0, with a weight of its own, and to one of the others in turn: expert 0 has
/// half of the work.
template <class S>
struct Skewed {
  static constexpr Index in = 24, experts = 8, slots = 2;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  template <class T>
  using with_scalar = Skewed<T>;
  struct Cache {
    double loss = 0;
  };
  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Skewed initialized(Random&) { return {}; }

  bool route(SequenceView<Scalar, in> x, const RoutingRun&, Assignment<Scalar, 2>& to) const {
    to.resize(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      to.expert[2 * t] = 0;
      to.expert[2 * t + 1] = static_cast<std::int32_t>(1 + t % 7);
      to.weight(t, 0) = Scalar(1) / static_cast<Scalar>(2 + t);
      to.weight(t, 1) = Scalar(1) - to.weight(t, 0);
    }
    return true;
  }
  bool route(SequenceView<Scalar, in> x, const RoutingRun& run, Assignment<Scalar, 2>& to,
             Cache&) const {
    return route(x, run, to);
  }
  void backward(SequenceView<Scalar, in>, const RoutingRun&, const Assignment<Scalar, 2>&,
                const Cache&, const Sequence<Scalar, 2>&, Skewed&, Sequence<Scalar, in>&) const {}
};

constexpr TopKRouterConfig two_of_four{.d_model = 5, .n_experts = 4};
constexpr TopKRouterConfig poisoned{.d_model = 5, .n_experts = 4, .bad_scores = BadScores::poison};
constexpr TopKRouterConfig pair{.d_model = 2, .n_experts = 2};

}  // namespace

TEST_CASE("A mixture of one kind keeps the laws of layers", "[moe][laws]") {
  hold<MixtureOfExperts<TopKRouter<two_of_four>, Ffn<5>>>();
  hold<MixtureOfExperts<
      TopKRouter<TopKRouterConfig{.d_model = 17, .n_experts = 3, .top_k = 1, .normalise = false}>,
      Map<17, 2>>>();
  laws::hold_for_composed<MixtureOfExperts<
      TopKRouter<TopKRouterConfig{.d_model = 1, .n_experts = 1, .top_k = 1}>, Ffn<1, 1>>>(
      {.nan_stays = false});
}

TEST_CASE("A mixture of several kinds keeps the laws of layers", "[moe][laws]") {
  hold<MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 5, .n_experts = 3}>, Ffn<5>,
                        Map<5, 5>, Ffn<5, 1>>>();
}

TEST_CASE("Experts with memory remember the rows they saw", "[moe][laws]") {
  using Memory = MinGru<MinGruConfig{.d_in = 5, .d_hidden = 3}>;
  hold<MixtureOfExperts<TopKRouter<two_of_four>, Memory>>();
  hold<MixtureOfExperts<
      TopKRouter<TopKRouterConfig{.d_model = 5, .n_experts = 2, .top_k = 1, .normalise = false}>,
      Memory, Map<5, 3>>>();
}

TEST_CASE("Where rows may be poisoned, NaN stays in its own", "[moe][laws]") {
  using L = MixtureOfExperts<TopKRouter<poisoned>, Ffn<5>>;
  laws::hold(decided<L>(1), {.slope = 1e3});
  laws::hold(decided<L::with_scalar<double>>(1));
}

TEST_CASE("A mixture is the weighted sum of what is chosen", "[moe]") {
  MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 1, .n_experts = 4}, double>,
                   Linear<LinearConfig{.d_in = 1, .d_out = 1, .bias = false}, double>>
      layer;
  const double z[] = {2, 0, 1, -1};
  for (Index e = 0; e < 4; ++e) {
    layer.router.weight[e] = z[e];
    layer.experts.layers[static_cast<std::size_t>(e)].weight[0] = static_cast<double>(e + 1);
  }
  const auto y = forward(layer, Sequence<double, 1>{{1}});  // 0.731059 of 1, 0.268941 of 3
  REQUIRE(y(0, 0) == Approx(1.537883).epsilon(1e-6));
}

TEST_CASE("Equal scores share, and equal experts are one", "[moe]") {
  using L = MixtureOfExperts<TopKRouter<pair, double>, Ffn<2>::with_scalar<double>>;
  Random random(1);
  L layer = L::initialized(random);
  layer.experts.layers[1] = layer.experts.layers[0];
  const Sequence<double, 2> x{{1, 2}, {-3, 1}};
  const auto y = forward(layer, x), bare = forward(layer.experts.layers[0], x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == Approx(bare.data()[i]));
}

TEST_CASE("Half of what is, and half of nothing", "[moe]") {
  using L = MixtureOfExperts<TopKRouter<pair, double>, Map<2, 2>::with_scalar<double>>;
  L layer;  // scores are equal; the second expert gives 0
  for (Index d = 0; d < 2; ++d) layer.experts.layers[0].weight(d, d) = 1;
  const auto y = forward(layer, Sequence<double, 2>{{3, -8}});
  REQUIRE(y(0, 0) == 1.5);
  REQUIRE(y(0, 1) == -4);
}

TEST_CASE("One expert of one is the bare expert, bit for bit", "[moe]") {
  using L = MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 5, .n_experts = 1, .top_k = 1}>,
                             Ffn<5>>;
  Random random(1);
  const L layer = L::initialized(random);
  const auto x = noise<5>(9);
  REQUIRE(same_bits(forward(layer, x), forward(layer.experts.layers[0], x)));
}

TEST_CASE("Scores that name no experts are an error that names the row", "[moe]") {
  using L = MixtureOfExperts<TopKRouter<two_of_four>, Ffn<5>>;
  const L layer = decided<L>(1);
  auto x = noise<5>(4);
  for (Index d = 0; d < 5; ++d) x(2, d) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_THROWS_WITH(forward(layer, x), has_part("row 2"));
  NoState state;
  const auto y = layer.step(x.row(2), state);  // cannot fail
  for (Index d = 0; d < 5; ++d) REQUIRE(std::isnan(y[d]));
  const auto patient = decided<MixtureOfExperts<TopKRouter<poisoned>, Ffn<5>>>(1);
  const auto z = forward(patient, x);
  for (Index d = 0; d < 5; ++d) REQUIRE(std::isnan(z(2, d)));
  for (Index d = 0; d < 5; ++d) REQUIRE(!std::isnan(z(1, d)));
}

TEST_CASE("An expert that was not chosen has no gradient", "[moe]") {
  using L = MixtureOfExperts<TopKRouter<two_of_four>, Ffn<5>>;
  L layer = decided<L>(1), gradient;
  for (Index d = 0; d < 5; ++d) layer.router.weight(3, d) = 0;
  auto x = noise<5>(6);
  for (Index t = 0; t < 6; ++t) {  // experts 0 to 2 like the first number, so 3 is last
    x(t, 0) = 9;
    for (Index e = 0; e < 3; ++e) layer.router.weight(e, 0) = static_cast<float>(e + 3);
  }
  L::Cache cache;
  forward(layer, Sequence<float, 5>(x), cache);
  REQUIRE(cache.load(3) == 0);
  REQUIRE(cache.load(0) + cache.load(1) + cache.load(2) == 12);
  backward(layer, x, cache, gradient);
  for_each_tensor(
      [](const auto& t) {
        for (const float g : t.flat()) REQUIRE(g == 0);
      },
      gradient.experts.layers[3]);
}

namespace {

/// Inference, its prepared form, training and the gradients of all experts, one after the other.
template <class L, Index D = L::in>
Sequence<float, D> all_runs(const L& layer, Index rows, int threads) {
  const auto x = noise<D>(rows), dy = noise<D>(rows, 4);
  const auto fast = prepare(layer);
  const Threads allowed(threads);
  L gradient;
  typename L::Cache cache;
  std::vector<float> all;
  const auto put = [&](std::span<const float> part) {
    all.insert(all.end(), part.begin(), part.end());
  };
  const auto put_rows = [&](const Sequence<float, D>& part) {
    put({part.data(), static_cast<std::size_t>(part.size())});
  };
  put_rows(forward(layer, x));
  put_rows(forward(fast, x));
  put_rows(forward(layer, Sequence<float, D>(x), cache));
  put_rows(backward(layer, dy, cache, gradient));
  for_each_tensor([&](const auto& tensor) { put(tensor.flat()); }, gradient);
  Sequence<float, D> bits(static_cast<Index>(all.size()) / D + 1);
  std::fill_n(bits.data(), bits.size(), 0.0F);
  std::copy(all.begin(), all.end(), bits.data());
  return bits;
}

}  // namespace

TEST_CASE("Threads change no bit of a mixture", "[moe]") {
  constexpr Index D = 24;
  using L =
      MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = 8}>, Ffn<D, 40>>;
  const L layer = decided<L>(1);
  for (const Index rows : {Index{1}, Index{40}, Index{300}}) {
    const auto one = all_runs(layer, rows, 1);
    REQUIRE(same_bits(one, all_runs(layer, rows, 2)));
    REQUIRE(same_bits(one, all_runs(layer, rows, 3)));
  }
}

TEST_CASE("Threads change no bit where one expert has half of the rows", "[moe]") {
  using L = MixtureOfExperts<Skewed<float>, Ffn<24, 40>>;
  Random random(1);
  const L layer = L::initialized(random);
  for (const Index rows : {Index{40}, Index{300}, Index{1000}}) {
    const auto one = all_runs(layer, rows, 1);
    REQUIRE(same_bits(one, all_runs(layer, rows, 2)));
    REQUIRE(same_bits(one, all_runs(layer, rows, 3)));
  }
}

TEST_CASE("An expert may come from the user's own router, if it is there", "[moe]") {
  MixtureOfExperts<Wrong<float>, Ffn<5>> layer;
  REQUIRE_THROWS_WITH(forward(layer, noise<5>(3)), has_part("row 1"));
}

TEST_CASE("The parameters have the names of the blocks they are read from", "[moe]") {
  MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 2, .n_experts = 2, .balance_bias = true}>,
                   Ffn<2>>
      layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names ==
          "gate.weight gate.e_score_correction_bias experts.0.gate experts.0.up experts.0.down "
          "experts.1.gate experts.1.up experts.1.down ");
  static_assert(macs<decltype(layer)>(3) == 3 * (2 * 2 + 2 * 3 * 2 * 3));
}

namespace {
struct NotCausal : TopKRouter<pair> {
  static constexpr bool causal = false;
};
static_assert(Layer<MixtureOfExperts<TopKRouter<pair>, Ffn<2>>>);
static_assert(!Streaming<MixtureOfExperts<NotCausal, Ffn<2>>>);
static_assert(Runs<MixtureOfExperts<NotCausal, Ffn<2>>>);
static_assert(
    Layer<MixtureOfExperts<TopKRouter<pair>, MixtureOfExperts<TopKRouter<pair>, Ffn<2>>>>);
}  // namespace
