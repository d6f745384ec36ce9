#include <limen/attention/editor.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>

#include <array>
#include <memory>
#include <vector>

#include "../laws.hpp"

using namespace limen;

namespace {

constexpr Index D = 6;
constexpr AttentionConfig C{
    .d_model = D, .n_heads = 2, .d_head = 4, .capacity = 16, .rope = {.base = 50}, .sink = true};
using Heads = Attention<C, double>;

Sequence<double, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}
double distance(const Sequence<double, D>& a, const Sequence<double, D>& b) {
  REQUIRE(a.rows() == b.rows());
  double most = 0;
  for (Index i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(a.data()[i] - b.data()[i]));
  }
  return most;
}

/// Documents back to back in one sequence of n rows: a row sees those of its own document.
std::vector<std::uint8_t> documents(Index n, Index length) {
  std::vector<std::uint8_t> keep;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) keep.push_back(i / length == j / length);
  }
  return keep;
}

}  // namespace

TEST_CASE("Documents that do not see each other are sequences of their own", "[attention][mask]") {
  // Scores depend on distances only, so positions that go on do no harm.
  Random random(1);
  using Model = Repeat<2, Residual<Heads>>;
  const auto model = Model::initialized(random);
  const auto x = noise(12, 2);
  const Index apart[] = {0, 4, 8, 12}, together[] = {0, 12};
  const auto expected = model.forward(x, from_rest(apart));

  const auto keep = documents(12, 4);
  const AttentionMask mask{.queries = 12, .keys = 12, .keep = keep};
  Masked masked(mask);
  Context run{.attention = &masked};
  REQUIRE(distance(model.forward(x, from_rest(together, &run)), expected) < 1e-12);

  const std::uint8_t diagonal[] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  const AttentionMask coarse{.queries = 12, .keys = 12, .keep = diagonal, .block = 4};
  Masked blocks(coarse);
  run.attention = &blocks;
  REQUIRE(distance(model.forward(x, from_rest(together, &run)), expected) < 1e-12);
}

TEST_CASE("A layer learns behind a mask as it does of the same sequences apart",
          "[attention][mask]") {
  Random random(3);
  const auto layer = Heads::initialized(random);
  const auto x = noise(12, 4), dy = noise(12, 5);
  const Index apart[] = {0, 4, 8, 12}, together[] = {0, 12};
  const auto keep = documents(12, 4);
  const AttentionMask mask{.queries = 12, .keys = 12, .keep = keep};
  Masked masked(mask);
  Context run{.attention = &masked};
  const auto learn = [&](auto batch, Heads& gradient) {
    Heads::Cache cache;
    layer.forward(Sequence<double, D>(x), batch, cache);
    return layer.backward(dy, batch, cache, gradient);
  };
  Heads a, b;
  const auto expected = learn(from_rest(apart), a);
  REQUIRE(distance(learn(from_rest(together, &run), b), expected) < 1e-12);
  for_each_tensor(
      [](const auto& left, const auto& right) {
        for (Index i = 0; i < left.size; ++i) {
          REQUIRE(std::abs(left.data()[i] - right.data()[i]) < 1e-11);
        }
      },
      a, b);
}

TEST_CASE("Each head and each sequence may have a mask, also of what a state holds",
          "[attention][mask]") {
  Random random(6);
  auto layer = Heads::initialized(random);
  const auto x = noise(7, 7);
  const auto state = std::make_unique<Heads::State>();
  layer.forward(middle_rows(x, 0, 3), *state);
  // Head 1 may look at nothing, head 0 at everything: that is a model whose head 1 says nothing.
  std::vector<std::uint8_t> keep(2 * 4 * 7, 1);
  std::fill(keep.begin() + 4 * 7, keep.end(), std::uint8_t{0});
  const AttentionMask mask{.queries = 4, .keys = 7, .keep = keep, .by_head = true};
  Masked masked(std::span(&mask, 1));
  Context run{.attention = &masked};
  const auto fork = std::make_unique<Heads::State>(*state);
  const auto y = layer.forward(middle_rows(x, 3, 4), Batch(*state, &run));
  for (Index o = 0; o < D; ++o) {
    for (Index c = 4; c < 8; ++c) layer.o_proj(o, c) = 0;
  }
  REQUIRE(distance(y, layer.forward(middle_rows(x, 3, 4), *fork)) < 1e-12);
  REQUIRE(state->seen == 7);
}

TEST_CASE("Sequences of a batch have masks of their own, there and back", "[attention][mask]") {
  Random random(10);
  const auto layer = Heads::initialized(random);
  const auto x = noise(9, 11), dy = noise(9, 12);
  const Index offsets[] = {0, 4, 4, 9};
  std::vector<std::uint8_t> keep(16 + 25);
  for (auto& k : keep) k = random.below(2) > 0;
  const std::span all(keep);
  const AttentionMask masks[] = {{.queries = 4, .keys = 4, .keep = all.first(16)},
                                 {},  // the sequence has no rows
                                 {.queries = 5, .keys = 5, .keep = all.subspan(16)}};
  const auto learn = [&](std::span<const AttentionMask> m, std::span<const Index> at, Index first,
                         Index rows, Sequence<double, D>& y, Heads& gradient) {
    Masked masked(m);
    Context run{.attention = &masked};
    Heads::Cache cache;
    y = layer.forward(middle_rows(x, first, rows).copy(), from_rest(at, &run), cache);
    masked.restart();
    REQUIRE(distance(y, layer.forward(middle_rows(x, first, rows), from_rest(at, &run))) < 1e-14);
    return layer.backward(middle_rows(dy, first, rows), from_rest(at, &run), cache, gradient);
  };
  Heads together, apart;
  Sequence<double, D> y, part;
  const auto dx = learn(masks, offsets, 0, 9, y, together);
  for (const auto& [b, first, rows] : {std::array<Index, 3>{0, 0, 4}, {2, 4, 5}}) {
    const Index alone[] = {0, rows};
    const auto d = learn(std::span(masks).subspan(static_cast<std::size_t>(b), 1), alone, first,
                         rows, part, apart);
    REQUIRE(distance(part, middle_rows(y, first, rows).copy()) < 1e-14);
    REQUIRE(distance(d, middle_rows(dx, first, rows).copy()) < 1e-13);
  }
  for_each_tensor(
      [](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size; ++i) REQUIRE(std::abs(a.data()[i] - b.data()[i]) < 1e-12);
      },
      together, apart);
}

namespace {

/// Masks for the layer `only`; in others it asks what their number is.
class OneLayer final : public AttentionEditor {
 public:
  OneLayer(Index layer, const AttentionMask& mask) : only_(layer), mask_(mask) {}
  std::vector<Index> others;

 private:
  std::span<const AttentionMask> masks(Index layer) const override {
    return {&mask_, layer == only_ ? std::size_t{1} : 0};
  }
  void attend(Index layer, const AttentionRule<double>& rule,
              std::span<const AttentionCall<double>> calls) override {
    others.push_back(layer);
    attention<double>(rule, calls);
  }
  Index only_;
  const AttentionMask& mask_;
};

}  // namespace

TEST_CASE("An editor may have masks for some layers only", "[attention][mask]") {
  Random random(13);
  const auto model = Repeat<3, Residual<Heads>>::initialized(random);
  const auto x = noise(8, 14);
  const auto keep = documents(8, 4);
  const AttentionMask mask{.queries = 8, .keys = 8, .keep = keep};
  const Index together[] = {0, 8};
  OneLayer second(1, mask);
  Context run{.attention = &second};
  const auto y = model.forward(x, from_rest(together, &run));
  REQUIRE(second.others == std::vector<Index>{0, 2});
  Masked masked(mask);
  Context behind{.attention = &masked};
  auto expected = model.layers[0].forward(x, from_rest(together));
  expected = model.layers[1].forward(expected, from_rest(together, &behind));
  REQUIRE(distance(y, model.layers[2].forward(expected, from_rest(together))) < 1e-12);
}

TEST_CASE("A mask of the wrong size is an error, before anything is written", "[attention][mask]") {
  Random random(8);
  const auto layer = Heads::initialized(random);
  const auto x = noise(6, 9);
  const std::vector<std::uint8_t> entries(72, 1);
  const auto masked = [&](AttentionMask mask, Index n) {
    mask.keep = std::span(entries).first(static_cast<std::size_t>(n));
    Masked editor(mask);
    Context run{.attention = &editor};
    const auto state = std::make_unique<Heads::State>();
    try {
      layer.forward(x, Batch(*state, &run));
    } catch (...) {
      REQUIRE(state->seen == 0);
      throw;
    }
  };
  REQUIRE_NOTHROW(masked({.queries = 6, .keys = 6}, 36));
  REQUIRE_NOTHROW(masked({.queries = 6, .keys = 6, .block = 4}, 4));
  REQUIRE_THROWS_WITH(masked({.queries = 6, .keys = 6}, 35),
                      "attention mask: .keep: wanted 36 entries, found 35");
  REQUIRE_THROWS_WITH(masked({.queries = 6, .keys = 6, .by_head = true}, 36),
                      "attention mask: .keep: wanted 72 entries, found 36");
  REQUIRE_THROWS_WITH(masked({.queries = 6, .keys = 5}, 30),
                      "attention mask: wanted 6 queries by 6 keys, found 6 queries by 5 keys");
  REQUIRE_THROWS_WITH(masked({.queries = 6, .keys = 6, .block = 0}, 36),
                      "attention mask: .block: wanted 1 or more, found 0");
  const AttentionMask two[] = {{.queries = 6, .keys = 6, .keep = entries},
                               {.queries = 6, .keys = 6, .keep = entries}};
  Masked pair{std::span(two)};
  Context run{.attention = &pair};
  const Index offsets[] = {0, 6};
  REQUIRE_THROWS_WITH(layer.forward(x, from_rest(offsets, &run)),
                      "attention masks: wanted 1, or one for all, found 2");
  Heads::Cache cache;
  REQUIRE_THROWS_WITH(layer.forward(Sequence<double, D>(x), from_rest(offsets, &run), cache),
                      "attention masks: wanted 1, or one for all, found 2");
}
