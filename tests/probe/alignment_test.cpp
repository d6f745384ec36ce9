#include <limen/probe/alignment.hpp>

#include "../catch.hpp"
#include "models.hpp"

using namespace probed;

namespace {

/// z = (h · r, 0) where r is hidden in h: which of two classes, read along one direction.
using Reader = Sequential<Tap<"h", Map<6, 6, false>>, Tap<"z", Map<6, 2, false>>>;

Reader reader(const Direction& r) {
  Reader model;
  for (Index d = 0; d < 6; ++d) {
    get<0>(model.layers).inner.weight[d * 6 + d] = 1;
    get<1>(model.layers).inner.weight[d] = r[static_cast<std::size_t>(d)];
  }
  return model;
}

Interchange<Reader> pairs_for(const Reader& model, Index count, std::uint64_t seed) {
  Random random(seed);
  Interchange<Reader> pairs;
  const auto draw = [&] {
    Sequence<double, 6> x(2);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
    return x;
  };
  for (Index i = 0; i < count; ++i) {
    pairs.bases.push_back(draw());
    pairs.sources.push_back(draw());
    const auto y = forward(model, pairs.sources.back());
    pairs.labels.push_back(y(1, 0) > y(1, 1) ? 0 : 1);
  }
  return pairs;
}

}  // namespace

TEST_CASE("The slope of the interchange loss is its slope", "[probe][alignment]") {
  Random random(4);
  Net net = Net::initialized(random);
  Interchange<Net> pairs;
  for (int i = 0; i < 3; ++i) {
    Sequence<double, 3> a(4), b(4);
    for (Index n = 0; n < a.size(); ++n) {
      a.data()[n] = random.normal();
      b.data()[n] = random.normal();
    }
    pairs.bases.push_back(std::move(a));
    pairs.sources.push_back(std::move(b));
    pairs.labels.push_back(i);
  }
  const Site site{.tap = "2.blocks.0.inner.2.hidden", .rows = {1, 3}, .columns = {1, 4}};
  std::vector<Direction> V(2, Direction(4));
  for (auto& v : V) {
    for (double& x : v) x = random.normal();
  }
  auto loss = interchange_loss(net, pairs, site, V);
  REQUIRE(loss);
  for (auto& v : V) {
    for (std::size_t d = 0; d < 4; ++d) {
      const double before = v[d], h = 1e-6;
      v[d] = before + h;
      const double up = interchange_loss(net, pairs, site, V)->value;
      v[d] = before - h;
      const double down = interchange_loss(net, pairs, site, V)->value;
      v[d] = before;
      INFO("direction " << (&v - V.data()) << ", number " << d);
      REQUIRE(loss->dV[static_cast<std::size_t>(&v - V.data())][d] ==
              Approx((up - down) / (2 * h)).margin(1e-8).epsilon(1e-6));
    }
  }
}

TEST_CASE("The direction that the answer is read along is found", "[probe][alignment]") {
  const Direction r{2, 0, -1, 0, 0, 2};  // of length 3
  const auto model = reader(r);
  const auto pairs = pairs_for(model, 60, 1);
  auto none = align_subspace(model, pairs, {.tap = "0.h"}, {.steps = 0, .seed = 3});
  auto found = align_subspace(model, pairs, {.tap = "0.h"}, {.steps = 150, .rate = 1, .seed = 3});
  REQUIRE((none && found));
  REQUIRE(found->V.size() == 1);
  REQUIRE(detail::length(found->V[0]) == Approx(1));
  REQUIRE(std::abs(detail::dot(found->V[0], r)) / 3 > 0.99);
  REQUIRE(found->accuracy > 0.97);
  REQUIRE(none->accuracy < 0.9);
  REQUIRE(found->loss < none->loss);
  REQUIRE(found->losses.front() == Approx(none->loss));
  // and it does so for pairs that it was not chosen for
  auto others = interchange_loss(model, pairs_for(model, 200, 9), {.tap = "0.h"}, found->V);
  REQUIRE(others->accuracy > 0.97);
}

TEST_CASE("All directions together are the whole patch", "[probe][alignment]") {
  const auto model = reader({1, 2, 3, 0, 0, 1});
  const auto pairs = pairs_for(model, 20, 5);
  auto all = align_subspace(model, pairs, {.tap = "0.h"}, {.directions = 6, .steps = 3});
  REQUIRE(all);
  REQUIRE(all->accuracy == Approx(1));
  REQUIRE(all->losses.back() == Approx(all->losses.front()));  // there is nothing to turn
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      REQUIRE(detail::dot(all->V[i], all->V[j]) == Approx(i == j ? 1 : 0).margin(1e-12));
    }
  }
}

TEST_CASE("Searches that cannot be are errors", "[probe][alignment]") {
  const auto model = reader({1, 0, 0, 0, 0, 0});
  auto pairs = pairs_for(model, 3, 5);
  REQUIRE_FALSE(align_subspace(model, pairs, {.tap = "0.h"}, {.directions = 7}));
  REQUIRE_FALSE(align_subspace(model, pairs, {.tap = "0.h"}, {.directions = 0}));
  REQUIRE_FALSE(align_subspace(model, pairs, {.tap = "0.h"}, {.rate = 0}));
  REQUIRE_FALSE(interchange_loss(model, pairs, {.tap = "0.h"}, {}));
  REQUIRE_FALSE(interchange_loss(model, pairs, {.tap = "0.h"}, {Direction(5)}));
  REQUIRE_THAT(align_subspace(model, pairs, {.tap = "hh"}).error().message(),
               has_part("wanted one like 0.h"));
  pairs.labels[1] = 2;
  REQUIRE_FALSE(align_subspace(model, pairs, {.tap = "0.h"}));
  pairs.labels.pop_back();
  REQUIRE_FALSE(align_subspace(model, pairs, {.tap = "0.h"}));
}
