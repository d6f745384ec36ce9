#include <limen/attention/gated_attention_unit.hpp>

#include "../goldens/attention_unit.hpp"
#include "../goldens/golden.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

using Config = GatedAttentionUnitConfig;
constexpr Config one{.d_model = 1, .d_value = 1, .d_key = 1, .capacity = 64};
constexpr Config turned{.d_model = 5,
                        .d_value = 17,
                        .d_key = 8,
                        .capacity = 64,
                        .distances = 3,
                        .rope = {.base = 100},
                        .bias = true};
constexpr Config chunks{.d_model = 6,
                        .d_value = 7,
                        .d_key = 4,
                        .chunk = 3,
                        .distances = 2,
                        .rope = {.base = 100, .width = 2}};
constexpr Config whole{.d_model = 4, .d_key = 16, .causal = false, .distances = 2};
constexpr Config whole_chunks{.d_model = 3, .d_value = 5, .d_key = 6, .causal = false, .chunk = 4};
constexpr Config of_length{.d_model = 3, .d_key = 5, .capacity = 64, .length = 10};

template <class Real, Config C>
auto noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<Real, C.d_model> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

/// A layer whose β and b are not zero: else a bug in their gradients would not show.
template <Config C, class Real>
GatedAttentionUnit<C, Real> made(std::uint64_t seed) {
  Random random(seed);
  auto layer = GatedAttentionUnit<C, Real>::initialized(random);
  fill_normal(layer.scale, 1, random);
  fill_normal(layer.shift, 0.5, random);
  if constexpr (C.distances > 0) fill_normal(layer.distance_bias, 0.5, random);
  return layer;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("GatedAttentionUnit keeps the laws of layers", "[attention][unit][laws]",
                       ((Config C), C), (one), (turned), (chunks), (of_length)) {
  STATIC_REQUIRE(limen::check::names_every_member<GatedAttentionUnit<C>>);
  laws::hold(made<C, double>(1), {.state_has_slope = false});
  laws::hold(made<C, float>(1), {.state_has_slope = false});
}

TEMPLATE_TEST_CASE_SIG("GatedAttentionUnit that sees the future keeps the laws that apply",
                       "[attention][unit][laws]", ((Config C), C), (whole), (whole_chunks)) {
  laws::hold(made<C, double>(2), {.causal = false});
  laws::hold(made<C, float>(2), {.causal = false});
}

TEST_CASE("GatedAttentionUnit reads squares of scores", "[attention][unit]") {
  // silu is not the identity: of a projection w it makes u = v = z = silu(w x). With γ_1 such that
  // q_i k_j / n_i = z_i z_j, and the row at position 1 over n = 2:
  constexpr Config C{.d_model = 1, .d_value = 1, .d_key = 1, .capacity = 4};
  GatedAttentionUnit<C, double> layer;
  layer.u_proj[0] = layer.v_proj[0] = layer.z_proj[0] = layer.o_proj[0] = 1;
  layer.scale[0] = layer.scale[1] = 1;
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const double a = silu(1), b = silu(2);
  const auto y = forward(layer, Sequence<double, 1>{{1}, {2}});
  const auto square = [](double x) { return x * x; };
  REQUIRE(std::abs(y(0, 0) - a * square(a * a) * a) < 1e-12);
  REQUIRE(std::abs(y(1, 0) - b * (square(b * a / 2) * a + square(b * b / 2) * b)) < 1e-12);
}

TEST_CASE("A negative score has no weight, and a row without any reads zeros",
          "[attention][unit]") {
  constexpr Config C{.d_model = 1, .d_value = 1, .d_key = 1, .capacity = 4, .distances = 1};
  GatedAttentionUnit<C, double> layer;
  layer.u_proj[0] = layer.v_proj[0] = layer.o_proj[0] = 1;
  layer.distance_bias[0] = -1;
  REQUIRE(forward(layer, Sequence<double, 1>{{1}, {2}})(1, 0) == 0);
  layer.distance_bias[0] = 2;  // all scores are 2: the sum of 4 v
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const auto y = forward(layer, Sequence<double, 1>{{1}, {2}});
  REQUIRE(std::abs(y(1, 0) - silu(2) * 4 * (silu(1) + silu(2))) < 1e-12);
}

TEST_CASE("A chunk reads those before it as a sum, and its own rows one by one",
          "[attention][unit]") {
  // No rows are seen one by one (γ_0 = 0): what is left is p S.
  constexpr Config C{.d_model = 1, .d_value = 1, .d_key = 1, .chunk = 2};
  GatedAttentionUnit<C, double> layer;
  layer.u_proj[0] = layer.v_proj[0] = layer.z_proj[0] = layer.o_proj[0] = 1;
  layer.scale[2] = 3;
  layer.scale[3] = 5;
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const double v[] = {silu(1), silu(2), silu(-1), silu(0.5), silu(3)};
  const auto y = forward(layer, Sequence<double, 1>{{1}, {2}, {-1}, {0.5}, {3}});
  double sum = 0;
  for (Index t = 0; t < 5; ++t) {
    if (t == 2 || t == 4) sum += 5 * (v[t - 2] * v[t - 2] + v[t - 1] * v[t - 1]) / 2;
    REQUIRE(std::abs(y(t, 0) - v[t] * 3 * v[t] * sum) < 1e-12);
  }
}

TEST_CASE("A sequence longer than the tiles of the kernel is its steps", "[attention][unit]") {
  constexpr Config long_chunks{.d_model = 3, .d_key = 5, .chunk = 150, .distances = 7};
  constexpr Config long_cache{.d_model = 3, .d_key = 5, .capacity = 700, .distances = 600};
  const auto check = [](const auto& layer, const auto& x) {
    using Unit = std::remove_cvref_t<decltype(layer)>;
    const auto state = std::make_unique<typename Unit::State>();
    for (const int threads : {1, 2}) {
      const Threads allowed(threads);
      const auto y = forward(layer, x);
      *state = {};
      for (Index t = 0; t < x.rows(); ++t) {
        const auto row = layer.step(x.row(t), *state);
        for (Index c = 0; c < 3; ++c) {
          REQUIRE(std::abs(row[c] - y(t, c)) < 1e-9 * (1 + std::abs(y(t, c))));
        }
      }
    }
  };
  check(made<long_chunks, double>(3), noise<double, long_chunks>(640, 4));
  check(made<long_cache, double>(3), noise<double, long_cache>(640, 4));
}

TEST_CASE("A full cache of a unit refuses", "[attention][unit]") {
  constexpr Config C{.d_model = 1, .d_value = 1, .d_key = 1, .capacity = 2};
  const auto layer = made<C, float>(5);
  GatedAttentionUnit<C>::State state{};
  layer.forward(Sequence<float, 1>{{1}}, state);
  REQUIRE_THROWS_WITH(layer.forward(Sequence<float, 1>{{1}, {2}}, state),
                      "KV cache of sequence 0: wanted at most 2 tokens, found 3");
  REQUIRE(std::isfinite(layer.step(Vector<float, 1>{1}, state)[0]));
  REQUIRE(std::isnan(layer.step(Vector<float, 1>{1}, state)[0]));
  REQUIRE(state.refused == 1);
}

TEST_CASE("A unit counts what its rows see of each other", "[attention][unit]") {
  // D = 3, E = 5, S = 6: 63 for the projections of a row, 60 for its sums, 11 for a score.
  constexpr Config causal{.d_model = 3, .d_value = 5, .d_key = 6, .chunk = 4};
  using Chunks = GatedAttentionUnit<causal>;
  STATIC_REQUIRE(Chunks::macs(0) == 0);
  STATIC_REQUIRE(Chunks::macs(4) == 4 * (63 + 60) + 10 * 11);
  STATIC_REQUIRE(Chunks::macs(10) == 10 * (63 + 60) + (10 + 10 + 3) * 11);
  STATIC_REQUIRE(GatedAttentionUnit<whole_chunks>::macs(9) == 9 * (63 + 60) + (16 + 16 + 1) * 11);
  STATIC_REQUIRE(GatedAttentionUnit<whole>::macs(0) == 0);
}

// The numbers: tests/goldens/attention.py, unit(): all pairs at once, chunks summed one by one.
TEST_CASE("GatedAttentionUnit computes what PyTorch does pair by pair",
          "[attention][unit][golden]") {
#define LIMEN_UNIT(name, ...)                                                  \
  {                                                                            \
    namespace g = goldens::attention::name;                                    \
    golden::check_in_double_and_float<GatedAttentionUnit<Config __VA_ARGS__>>( \
        {g::x, g::y, g::dy, g::dx},                                            \
        {{g::u_weight, g::d_u_weight},                                         \
         {g::u_bias, g::d_u_bias},                                             \
         {g::v_weight, g::d_v_weight},                                         \
         {g::v_bias, g::d_v_bias},                                             \
         {g::z_weight, g::d_z_weight},                                         \
         {g::z_bias, g::d_z_bias},                                             \
         {g::o_weight, g::d_o_weight},                                         \
         {g::scale, g::d_scale},                                               \
         {g::shift, g::d_shift},                                               \
         {g::distance_bias, g::d_distance_bias}},                              \
        1e-4);                                                                 \
  }
  LIMEN_UNIT(unit_1,
             {.d_model = 1, .d_value = 2, .d_key = 1, .capacity = 1, .distances = 1, .bias = true})
  LIMEN_UNIT(unit_9,
             {.d_model = 4, .d_value = 6, .d_key = 3, .capacity = 9, .distances = 5, .bias = true})
  LIMEN_UNIT(
      unit_6,
      {.d_model = 3, .d_value = 4, .d_key = 5, .causal = false, .distances = 3, .bias = true})
  LIMEN_UNIT(flash_11,
             {.d_model = 4, .d_value = 5, .d_key = 3, .chunk = 4, .distances = 4, .bias = true})
  LIMEN_UNIT(flash_7, {.d_model = 2,
                       .d_value = 3,
                       .d_key = 4,
                       .causal = false,
                       .chunk = 3,
                       .distances = 3,
                       .bias = true})
#undef LIMEN_UNIT
}

namespace {
template <Config C>
concept Steps = Streaming<GatedAttentionUnit<C>>;
}

TEST_CASE("GatedAttentionUnit has a step where it is causal", "[attention][unit]") {
  STATIC_REQUIRE(Layer<GatedAttentionUnit<turned>>);
  STATIC_REQUIRE(Layer<GatedAttentionUnit<chunks>>);
  STATIC_REQUIRE(Trainable<GatedAttentionUnit<whole>>);
  STATIC_REQUIRE_FALSE(Steps<whole>);
  STATIC_REQUIRE(std::is_empty_v<GatedAttentionUnit<whole_chunks>::State>);
  STATIC_REQUIRE(Preparable<GatedAttentionUnit<chunks>>);
  // The size of a state in chunks does not depend on how much it has seen.
  STATIC_REQUIRE(sizeof(GatedAttentionUnit<chunks>::State) < (2 * 4 * 7 + 3 * (4 + 7)) * 4 + 256);
}
