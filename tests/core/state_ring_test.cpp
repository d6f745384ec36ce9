#include <limen/core/state_ring.hpp>

#include <limen/core/random.hpp>
#include <limen/ssm/mamba2.hpp>

#include <memory>
#include <vector>

#include "../allocations.hpp"
#include "../catch.hpp"

using namespace limen;

namespace {
struct Count {
  int value;
};
}  // namespace

TEST_CASE("A ring goes back as far as it remembers, and no further", "[core][state_ring]") {
  StateRing<Count, 3> ring;
  REQUIRE(ring.depth() == 0);
  REQUIRE_FALSE(ring.roll_back());
  for (int i = 1; i <= 10; ++i) {
    ring.advance();
    ring.now().value = i;
  }
  REQUIRE(ring.depth() == 3);
  REQUIRE(ring.before(0).value == 10);
  REQUIRE(ring.before(3).value == 7);
  REQUIRE_FALSE(ring.roll_back(4));
  REQUIRE_FALSE(ring.roll_back(-1));
  REQUIRE(ring.now().value == 10);  // a refusal changes nothing
  REQUIRE(ring.roll_back(2));
  REQUIRE(ring.now().value == 8);
  REQUIRE(ring.depth() == 1);
  ring.advance();
  REQUIRE(ring.now().value == 8);  // starts from the present
  ring.now().value = 20;
  REQUIRE(ring.roll_back(2));
  REQUIRE(ring.now().value == 7);
  REQUIRE(ring.roll_back(0));
}

TEST_CASE("A stream that took back its drafts continues as if they never were",
          "[core][state_ring]") {
  using Model = Mamba2<Mamba2Config{.d_model = 8, .d_state = 8, .head_dim = 4}>;
  Random random(1);
  const auto model = Model::initialized(random);
  Sequence<float, 8> x(40);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());

  const auto plain = std::make_unique<Model::State>();
  const auto ring = std::make_unique<StateRing<Model::State, 4>>();
  const std::size_t before = allocations();
  for (Index t = 0; t < 30; ++t) {
    const auto expected = model.step(x.row(t), *plain);
    for (Index draft = 0; draft < t % 5; ++draft) {  // up to four tokens nobody wanted
      ring->advance();
      model.step(x.row(39 - draft), ring->now());
    }
    const bool back = ring->roll_back(t % 5);
    const auto y = model.step(x.row(t), ring->now());
    const bool same = std::memcmp(y.data(), expected.data(), sizeof(y.values)) == 0;
    if (!back || !same) REQUIRE(false);
  }
  REQUIRE(allocations() == before);
}

TEST_CASE("A prefix is read once and continued many times", "[core][state_ring]") {
  using Model = Mamba2<Mamba2Config{.d_model = 8, .d_state = 8, .head_dim = 4}>;
  Random random(2);
  const auto model = Model::initialized(random);
  Sequence<float, 8> x(60);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto prefix = std::make_unique<Model::State>();
  model.forward(middle_rows(x, 0, 50), *prefix);
  for (const Index from : {50, 55}) {
    const auto fork = std::make_unique<Model::State>(*prefix);  // a copy is a fork
    const auto y = model.forward(middle_rows(x, from, 5), *fork);
    Sequence<float, 8> whole(55);
    std::memcpy(whole.data(), x.data(), sizeof(float) * 8 * 50);
    std::memcpy(whole.row_data(50), x.data() + from * 8, sizeof(float) * 8 * 5);
    const auto expected = forward(model, whole);
    for (Index i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(y.data()[i] - expected.data()[50 * 8 + i]) < 1e-4f);
    }
  }
}
