#include <limen/attention/caches.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/rms_norm.hpp>

#include <memory>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index D = 8;
constexpr RmsNormConfig norm{.d = D};
constexpr AttentionConfig grows{.d_model = D, .n_heads = 2, .capacity = 40, .rope = {.base = 100}};
constexpr AttentionConfig ring{.d_model = D,
                               .n_heads = 2,
                               .n_kv_heads = 1,
                               .window = 5,
                               .first = 2,
                               .rollback = 3,
                               .rope = {.base = 100},
                               .gate = {.position = GatePosition::G1}};
constexpr DepthwiseConvConfig conv{.d = D};

template <class Real, AttentionConfig C>
using Block = Residual<Sequential<RmsNorm<norm, Real>, Attention<C, Real>>>;
template <class Real>
using Model = Sequential<Block<Real, grows>, Repeat<2, Block<Real, ring>>, RmsNorm<norm, Real>>;
template <class Real>
using Hybrid = Sequential<Repeat<2, Block<Real, ring>>, Residual<DepthwiseConv<conv, Real>>,
                          Block<Real, grows>>;

Sequence<double, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}
double distance(const Sequence<double, D>& a, Index row, const Vector<double, D>& b) {
  double most = 0;
  for (Index c = 0; c < D; ++c) most = std::max(most, std::abs(a(row, c) - b[c]));
  return most;
}

}  // namespace

TEST_CASE("A whole model takes tokens back", "[attention][caches]") {
  using M = Model<double>;
  Random random(1);
  const auto model = M::initialized(random);
  const auto x = noise(30, 2), guesses = noise(3, 3);
  const auto y = forward(model, x);
  const auto state = std::make_unique<M::State>();
  model.forward(middle_rows(x, 0, 20), *state);
  for (Index t = 20; t < 30; ++t) {
    model.forward(guesses, *state);
    REQUIRE(truncate(*state, 3));
    REQUIRE(distance(y, t, model.step(x.row(t), *state)) < 1e-12);
  }
}

TEST_CASE("All layers take back, or none", "[attention][caches]") {
  using M = Model<double>;
  const M model{};
  const auto state = std::make_unique<M::State>();
  model.forward(noise(20, 4), *state);
  const auto before = save_used(*state);
  REQUIRE_FALSE(truncate(*state, 4));  // the first layer could, the rings have room for three
  REQUIRE_FALSE(truncate(*state, -1));
  REQUIRE(save_used(*state) == before);
  REQUIRE(truncate(*state, 3));
  REQUIRE(get<1>(get<0>(*state)).seen == 17);
  REQUIRE(get<1>(get<1>(*state)[1]).seen == 17);
  REQUIRE_FALSE(truncate(*state, 1));
}

TEST_CASE("A fork and what was saved go on like the stream", "[attention][caches]") {
  using M = Hybrid<double>;
  Random random(5);
  const auto model = M::initialized(random);
  const auto x = noise(30, 6);
  const auto y = forward(model, x);
  const auto state = std::make_unique<M::State>(), fork = std::make_unique<M::State>(),
             loaded = std::make_unique<M::State>();
  model.forward(middle_rows(x, 0, 6), *state);
  const auto early = save_used(*state);
  model.forward(middle_rows(x, 6, 14), *state);
  const auto bytes = save_used(*state);
  REQUIRE(early.size() < bytes.size());
  REQUIRE(bytes.size() < sizeof(M::State));
  copy_used(*state, *fork);
  REQUIRE(load_used(bytes, *loaded));
  for (Index t = 20; t < 30; ++t) {
    for (auto* s : {state.get(), fork.get(), loaded.get()}) {
      REQUIRE(distance(y, t, model.step(x.row(t), *s)) < 1e-12);
    }
  }
  REQUIRE(load_used(early, *state));
  REQUIRE(distance(y, 6, model.step(x.row(6), *state)) < 1e-12);
}

TEST_CASE("Only what was saved is loaded, all of it or nothing", "[attention][caches]") {
  using M = Hybrid<double>;
  Random random(7);
  const auto model = M::initialized(random);
  const auto state = std::make_unique<M::State>(), other = std::make_unique<M::State>();
  model.forward(noise(9, 8), *state);
  model.forward(noise(12, 9), *other);
  const auto bytes = save_used(*state), before = save_used(*other);
  const auto refused = [&](std::span<const std::byte> wrong) {
    REQUIRE_FALSE(load_used(wrong, *other));
    REQUIRE(save_used(*other) == before);
  };
  for (std::size_t n = 0; n < bytes.size(); n += n < 40 ? 1 : 37)
    refused(std::span(bytes).first(n));
  refused(std::span(bytes).first(bytes.size() - 1));
  auto wrong = bytes;
  wrong.push_back(std::byte{0});
  refused(wrong);
  wrong = bytes;
  wrong[7] = std::byte{0xFF};  // a cache of 2^63 bytes
  refused(wrong);
  REQUIRE(load_used(wrong, *other).error().who == "state");
  wrong = bytes;
  wrong[8] = std::byte{0xFF};  // of more tokens than it was ever given
  refused(wrong);
  REQUIRE(load_used(wrong, *other).error().who == "KV cache");
  REQUIRE(load_used(bytes, *other));
  REQUIRE(save_used(*other) == bytes);
}
