#include <limen/attention/dynamic_perceiver.hpp>
#include <limen/attention/editor.hpp>

#include <vector>

#include "../goldens/attention_perceiver.hpp"
#include "../goldens/golden.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

using Config = DynamicPerceiverConfig;
constexpr Config one{.d_model = 1, .latents = 1, .cell_narrow = 1, .widening = 1};
constexpr Config small{.d_model = 6,
                       .latents = 2,
                       .cells = 3,
                       .heads = 2,
                       .cell_narrow = 3,
                       .self_layers = 2,
                       .self_heads = 3,
                       .widening = 2};
constexpr Config wide{.d_model = 16, .latents = 3, .cells = 9, .cell_heads = 2, .cell_narrow = 4};

}  // namespace

TEMPLATE_TEST_CASE_SIG("DynamicPerceiver keeps the laws that apply", "[attention][perceiver][laws]",
                       ((Config C), C), (one), (small), (wide)) {
  // A width of one is all zeros behind its norm: ε keeps it from being a cliff.
  laws::hold_for_composed<DynamicPerceiver<C>>({.causal = false, .most_slopes = 40});
}

TEST_CASE("Cells read latents, latents read cells as these are then", "[attention][perceiver]") {
  Random random(3);
  using L = DynamicPerceiver<small, double>;
  const auto layer = L::initialized(random);
  Sequence<double, 6> both(7);
  for (Index i = 0; i < both.size(); ++i) both.data()[i] = random.normal();
  const auto y = forward(layer, both);
  // By hand: the parts one after the other.
  const auto z = middle_rows(both, 0, 2).copy();
  const auto x = layer.to_cells.forward(middle_rows(both, 2, 5).copy(), z, {}, {});
  const auto read = layer.to_latents.forward(Sequence<double, 6>(z), x, {}, {});
  const auto last = forward(layer.self, SequenceView<double, 6>(read));
  for (Index t = 0; t < 7; ++t) {
    for (Index c = 0; c < 6; ++c) REQUIRE(y(t, c) == (t < 2 ? last(t, c) : x(t - 2, c)));
  }
}

TEST_CASE("Latents do not know in which order cells without offsets come",
          "[attention][perceiver]") {
  Random random(4);
  auto layer = DynamicPerceiver<small, double>::initialized(random);
  Sequence<double, 6> both(6), turned(6);
  for (Index i = 0; i < both.size(); ++i) both.data()[i] = random.normal();
  for (Index t = 0; t < 6; ++t) {
    std::copy_n(both.row_data(t < 2 ? t : 7 - t), 6, turned.row_data(t));
  }
  const auto distance = [&] {
    const auto y = forward(layer, both), z = forward(layer, turned);
    double most = 0;
    for (Index i = 0; i < 12; ++i) most = std::max(most, std::abs(y.data()[i] - z.data()[i]));
    return most;
  };
  REQUIRE(distance() < 1e-12);
  fill_normal(layer.to_latents.attention.key_offset, 1, random);
  REQUIRE(distance() > 1e-3);
}

// The numbers: tests/goldens/attention.py, perceiver(): PyTorch's modules.
TEST_CASE("DynamicPerceiver computes what PyTorch's modules do", "[attention][perceiver][golden]") {
  namespace g = goldens::attention::perceiver_6;
  constexpr Config C{.d_model = 4,
                     .latents = 2,
                     .cells = 4,
                     .heads = 2,
                     .cell_narrow = 2,
                     .self_heads = 2,
                     .widening = 2};
#define LIMEN_PART(name) {g::name, g::d_##name}
#define LIMEN_MLP(at)                                                                             \
  LIMEN_PART(at##_norm_w), LIMEN_PART(at##_norm_b), LIMEN_PART(at##_up_w), LIMEN_PART(at##_up_b), \
      LIMEN_PART(at##_down_w), LIMEN_PART(at##_down_b)
#define LIMEN_ASK(at)                                                                     \
  LIMEN_PART(at##_q_w), LIMEN_PART(at##_k_w), LIMEN_PART(at##_v_w), LIMEN_PART(at##_o_w), \
      LIMEN_PART(at##_o_b)
  golden::check_in_double_and_float<DynamicPerceiver<C>>(
      {g::x, g::y, g::dy, g::dx},
      {LIMEN_PART(c_qn_w), LIMEN_PART(c_qn_b), LIMEN_PART(c_kn_w), LIMEN_PART(c_kn_b), LIMEN_ASK(c),
       LIMEN_MLP(c_mlp), LIMEN_PART(l_qn_w), LIMEN_PART(l_qn_b), LIMEN_PART(l_kn_w),
       LIMEN_PART(l_kn_b), LIMEN_ASK(l), LIMEN_PART(l_offset), LIMEN_MLP(l_mlp),
       LIMEN_PART(s_norm_w), LIMEN_PART(s_norm_b), LIMEN_ASK(s), LIMEN_MLP(s_mlp)},
      1e-4);
#undef LIMEN_ASK
#undef LIMEN_MLP
#undef LIMEN_PART
}

TEST_CASE("An editor means the latents among themselves", "[attention][perceiver][editor]") {
  Random random(5);
  const auto layer = DynamicPerceiver<small, double>::initialized(random);
  Sequence<double, 6> both(7);
  for (Index i = 0; i < both.size(); ++i) both.data()[i] = random.normal();
  std::vector<Index> layers;
  auto looks = edit_maps([&](Index number, auto& maps) {
    layers.push_back(number);
    REQUIRE((maps.queries() == 2 && maps.keys() == 2));
  });
  Context run{.attention = &looks};
  const Index offsets[] = {0, 7};
  const auto y = layer.forward(both, from_rest(offsets, &run)), quiet = forward(layer, both);
  REQUIRE(layers == std::vector<Index>{0, 1});
  for (Index i = 0; i < y.size(); ++i) REQUIRE(std::abs(y.data()[i] - quiet.data()[i]) < 1e-12);
}

TEST_CASE("DynamicPerceiver has no step", "[attention][perceiver]") {
  STATIC_REQUIRE(Trainable<DynamicPerceiver<small>>);
  STATIC_REQUIRE_FALSE(Streaming<DynamicPerceiver<small>>);
  STATIC_REQUIRE(Runs<prepared_form<DynamicPerceiver<small>>>);
}
