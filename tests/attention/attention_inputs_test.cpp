#include <limen/attention/attention_inputs.hpp>

#include <cmath>
#include <string>

#include <limen/attention/multi_head_attention.hpp>
#include <limen/core/random.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig gated(GatePosition at, QkNorm norm) {
  AttentionConfig c{.d_model = 10, .n_heads = 4, .n_kv_heads = 2, .d_head = 6, .capacity = 16};
  c.rope = {.base = 100, .width = 4};
  c.gate.position = at;
  c.qk_norm = norm;
  c.bias = true;
  return c;
}

template <class L>
L made(Random& random) {
  auto layer = L::initialized(random);
  const auto shake = [&](const std::string&, auto& tensor) {
    for (Index i = 0; i < tensor.size; ++i) tensor.data()[i] += 0.2 * random.normal();
  };
  for_each_parameter(shake, layer);
  return layer;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("Many rows become what each becomes alone, at its position",
                       "[attention][attention_inputs]", ((AttentionConfig C), C),
                       (gated(GatePosition::none, QkNorm::none)),
                       (gated(GatePosition::G2, QkNorm::rms)),
                       (gated(GatePosition::G3, QkNorm::layer)),
                       (gated(GatePosition::G4, QkNorm::l2))) {
  using L = Attention<C, double>;
  Random random(1);
  const auto layer = made<L>(random);
  Sequence<double, L::D> x(5);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  typename L::Cache c;
  c.sequences = Buffer<detail::SequenceRows>(3);  // at 0, no rows, and after seven others
  c.sequences[0] = {0, 2, 0, 2, 0};
  c.sequences[1] = {2, 0, 2, 0, 3};
  c.sequences[2] = {2, 3, 2, 3, 7};
  const detail::AttentionInputs<L> inputs{layer};
  inputs.template run<true>(x, c, nullptr);
  const std::int64_t position[] = {0, 1, 7, 8, 9};
  for (Index t = 0; t < 5; ++t) {
    const auto z = inputs.row_scores(x.row(t));
    const auto places = inputs.places(z.data());
    auto q = inputs.query(x.row(t), places);
    const auto [k, v] = inputs.key_and_value(x.row(t), places, position[t], q.matrix());
    for (Index i = 0; i < q.size(); ++i) REQUIRE(std::abs(c.q(t, i) - q[i]) < 1e-12);
    for (Index i = 0; i < k.size(); ++i) {
      REQUIRE(std::abs(c.k(t, i) - k[i]) < 1e-12);
      REQUIRE(std::abs(c.v(t, i) - v[i]) < 1e-12);
    }
  }
}

TEST_CASE("Values do not turn, keys do", "[attention][attention_inputs]") {
  using L = Attention<gated(GatePosition::none, QkNorm::none), double>;
  Random random(2);
  const auto layer = made<L>(random);
  const detail::AttentionInputs<L> inputs{layer};
  Vector<double, 10> x;
  for (double& value : x.values) value = random.normal();
  const auto places = inputs.places(nullptr);
  const auto at_0 = inputs.key_and_value(x, places, 0, {}),
             at_5 = inputs.key_and_value(x, places, 5, {});
  for (Index i = 0; i < at_0.v.size(); ++i) REQUIRE(at_0.v[i] == at_5.v[i]);
  for (Index h = 0; h < 2; ++h) {  // the first 4 of 6 channels turn, and keep their length
    double length[2] = {}, apart = 0;
    for (Index c = 0; c < 6; ++c) {
      const double a = at_0.k[h * 6 + c], b = at_5.k[h * 6 + c];
      if (c >= 4) REQUIRE(a == b);
      length[0] += a * a;
      length[1] += b * b;
      apart += std::abs(a - b);
    }
    REQUIRE(std::abs(length[0] - length[1]) < 1e-12);
    REQUIRE(apart > 0.1);
  }
}
