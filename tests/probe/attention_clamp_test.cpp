#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/probe/attention_clamp.hpp>

#include <functional>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig one_head{.d_model = 2, .n_heads = 1, .capacity = 16};
constexpr AttentionConfig two_heads{.d_model = 8, .n_heads = 2, .capacity = 16, .sink = true};
template <class Real>
using Model =
    Sequential<Residual<Attention<two_heads, Real>>, Residual<Attention<two_heads, Real>>>;

template <class Real>
Sequence<Real, 8> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<Real, 8> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

Activations zeros(Index rows, Index cols) {
  return {rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols))};
}
std::vector<double> last_row(const Activations& P) {
  return {P.values.end() - P.cols, P.values.end()};
}

/// y of a run under clamps, and what the heads looked at then.
template <class M, class X>
auto run(const M& model, const X& x, AttentionClamps& clamps, AttentionPatterns& seen) {
  auto edit = edit_maps([&](Index layer, auto& maps) {
    clamps(layer, maps);
    seen(layer, maps);
  });
  Context context{.attention = &edit};
  typename M::State state{};
  clamps.begin();
  return model.forward(x, Batch<typename M::State>(state, &context));
}

}  // namespace

TEST_CASE("Patterns of a previous token, of induction, of a match", "[probe][attention_clamp]") {
  auto P = zeros(3, 3);
  REQUIRE(previous_token_pattern(P, 0.8));
  REQUIRE(P.values == std::vector<double>{1, 0, 0, 0.8, 1 - 0.8, 0, 0, 0.8, 1 - 0.8});
  REQUIRE_FALSE(previous_token_pattern(P, 1.1));
  auto wide = zeros(1, 3);
  REQUIRE_FALSE(previous_token_pattern(wide, 0.5));

  // item, label 4, item, label 7, item, label 4, query
  auto Q = zeros(7, 7);
  REQUIRE(induction_pattern(Q, {1, 3, 5}, {4, 7, 4}, 4, 0.5));
  REQUIRE(last_row(Q) == std::vector<double>{0, 0.25, 0, 0.5, 0, 0.25, 0});
  REQUIRE_FALSE(induction_pattern(Q, {1, 3, 5}, {4, 7, 4}, 5, 0.5));
  REQUIRE_FALSE(induction_pattern(Q, {1}, {4}, 4, 0.5));
  REQUIRE(induction_pattern(Q, {1}, {4}, 4, 1));
  REQUIRE_FALSE(induction_pattern(Q, {1, 7}, {4, 7}, 4, 0.5));

  const Activations items{3, 2, {1, 0, 0, 2, 5, 0}};
  REQUIRE(match_pattern(Q, {1, 3, 5}, items, {3, 0}, 0));
  REQUIRE(last_row(Q) == std::vector<double>{0, 0.5, 0, 0, 0, 0.5, 0});  // both as near
  REQUIRE(match_pattern(Q, {1, 3, 5}, items, {3, 0}, 0.5));
  const double e = std::exp(2.0);  // cosines 1, 0, 1
  REQUIRE(Q(6, 1) == Approx(e / (2 * e + 1)));
  REQUIRE(Q(6, 3) == Approx(1 / (2 * e + 1)));
  REQUIRE_FALSE(match_pattern(Q, {1, 3, 5}, items, {0, 0}, 0.5));
  REQUIRE_FALSE(match_pattern(Q, {1, 3}, items, {3, 0}, 0.5));
}

TEST_CASE("What is disallowed is 0 and the rest as the softmax without it",
          "[probe][attention_clamp]") {
  Activations P{1, 3, {0.5, 0.3, 0.2}};
  REQUIRE(disallow(P, 0, 0));
  REQUIRE(P(0, 0) == 0);
  REQUIRE(P(0, 1) == Approx(0.6));
  REQUIRE(P(0, 2) == Approx(0.4));
  Activations sink{1, 2, {0.5, 0.2}};  // 0.3 goes to a sink
  REQUIRE(disallow(sink, 0, 0));
  REQUIRE(sink(0, 1) == Approx(0.2 / 0.5));
  Activations alone{1, 2, {1, 0}};
  REQUIRE_FALSE(disallow(alone, 0, 0));
  REQUIRE_FALSE(disallow(alone, 1, 0));
}

TEST_CASE("A head that looks at the token before gives what it had", "[probe][attention_clamp]") {
  using Layer = Attention<one_head, double>;
  Random random(1);
  const auto layer = Layer::initialized(random);
  const Sequence<double, 2> x{{1, 2}, {3, -1}, {0, 5}, {2, 2}};
  AttentionClamps clamps;
  AttentionPatterns seen;
  clamps.previous_token({}, 1);
  const auto y = run(layer, x, clamps, seen);
  REQUIRE(clamps.outcome());
  for (Index t = 0; t < 4; ++t) {
    // a token alone looks at itself
    const auto before = forward(layer, middle_rows(x, std::max<Index>(t - 1, 0), 1));
    for (Index d = 0; d < 2; ++d) REQUIRE(y(t, d) == Approx(before(0, d)).epsilon(1e-12));
  }
  REQUIRE(seen.find(0, 0, 0)->values[4] == 1);
}

TEMPLATE_TEST_CASE("Held patterns stand while what feeds them falls", "[probe][attention_clamp]",
                   float, double) {
  using M = Model<TestType>;
  Random random(2);
  const auto model = M::initialized(random);
  const auto x = noise<TestType>(6, 3);
  AttentionClamps none, ablated, held;
  AttentionPatterns clean, moved, kept;
  const auto y = run(model, x, none, clean);
  const auto plain = forward(model, x);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(y.data()[i] == Approx(plain.data()[i]).margin(1e-5));
  }
  REQUIRE(clean.layers() == 2);
  for (AttentionClamps* clamps : {&ablated, &held}) {
    clamps->ablate({.layer = 0, .head = 0});
    clamps->ablate({.layer = 0, .head = 1});
  }
  held.hold({.layer = 1, .head = 0}, clean);
  held.hold({.layer = 1, .head = 1}, clean);
  run(model, x, ablated, moved);
  const auto direct = run(model, x, held, kept);
  REQUIRE((ablated.outcome() && held.outcome()));
  REQUIRE(moved.find(1, 0, 0)->values != clean.find(1, 0, 0)->values);
  REQUIRE(kept.find(1, 0, 0)->values == clean.find(1, 0, 0)->values);
  REQUIRE(kept.find(1, 0, 1)->values == clean.find(1, 0, 1)->values);
  for (const double p : moved.find(0, 0, 1)->values) REQUIRE(p == 0);
  // Nothing of layer 0 is left: layer 1 by itself, with the patterns of the clean run
  const Sequential<Residual<Attention<two_heads, TestType>>> second{{get<1>(model.layers)}};
  auto as_before = edit_maps([&](Index, auto& maps) {
    for (Index h = 0; h < 2; ++h) {
      for (Index i = 0; i < 6; ++i) {
        for (Index j = 0; j < 6; ++j) {
          const auto p = maps(0, h);
          p(i, j) =
              static_cast<std::remove_cvref_t<decltype(p(i, j))>>((*clean.find(1, 0, h))(i, j));
        }
      }
    }
  });
  Context context{.attention = &as_before};
  const Index offsets[] = {0, 6};
  const auto alone = second.forward(x, from_rest(offsets, &context));
  for (Index i = 0; i < alone.size(); ++i) {
    REQUIRE(alone.data()[i] == Approx(direct.data()[i]).margin(1e-5));
  }
}

TEST_CASE("Clamps of one head of one sequence leave the others alone", "[probe][attention_clamp]") {
  Random random(2);
  const auto model = Model<double>::initialized(random);
  const auto x = noise<double>(8, 3);
  const Index offsets[] = {0, 4, 8};
  AttentionPatterns clean, seen;
  AttentionClamps clamps;
  clamps.disallow({.layer = 0, .head = 1, .sequence = 1}, 3, 2);
  const auto with = [&](AttentionClamps* edits, AttentionPatterns& to) {
    auto edit = edit_maps([&](Index layer, auto& maps) {
      if (edits != nullptr) (*edits)(layer, maps);
      to(layer, maps);
    });
    Context context{.attention = &edit};
    return model.forward(x, from_rest(offsets, &context));
  };
  with(nullptr, clean);
  clamps.begin();
  with(&clamps, seen);
  REQUIRE(clamps.outcome());
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 2; ++h) {
      REQUIRE((seen.find(0, b, h)->values == clean.find(0, b, h)->values) == !(b == 1 && h == 1));
    }
  }
  REQUIRE((*seen.find(0, 1, 1))(3, 2) == 0);
  REQUIRE((*seen.find(0, 1, 1))(2, 1) == (*clean.find(0, 1, 1))(2, 1));
}

TEST_CASE("Clamps that cannot be are errors", "[probe][attention_clamp]") {
  Random random(2);
  const auto model = Model<double>::initialized(random);
  const auto x = noise<double>(4, 3);
  AttentionPatterns seen;
  const auto why = [&](AttentionClamps& clamps) {
    run(model, x, clamps, seen);
    return clamps.outcome() ? std::string() : clamps.outcome().error().message();
  };
  AttentionClamps none, twice, nowhere, sums;
  REQUIRE(why(none).empty());
  twice.ablate({.layer = 1, .head = 1});
  twice.previous_token({.layer = 1, .head = 1}, 0.5);
  REQUIRE_THAT(why(twice), has_part("head 1 of attention layer 1: wanted one"));
  nowhere.ablate({.layer = 2});
  REQUIRE_THAT(why(nowhere), has_part("attention layer 2"));
  sums.pattern({}, [](Activations& P) -> Status {
    P(1, 0) = 0.7;
    P(1, 1) = 0.7;
    return {};
  });
  REQUIRE_THAT(why(sums), has_part("row 1: wanted numbers from 0 on with sum 1"));
  AttentionPatterns short_run;
  AttentionClamps clean, held;
  run(model, noise<double>(3, 1), clean, short_run);
  held.hold({}, short_run);
  REQUIRE_THAT(why(held), has_part("[4 x 4]"));
}
