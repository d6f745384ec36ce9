#include <limen/attention/cross_rows.hpp>

#include <vector>

#include <limen/attention/kv_cache.hpp>
#include <limen/core/random.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index H = 4, K = 2, d = 3;
using State = KvCache<KvCacheConfig{.heads = K, .d_key = d, .d_value = d, .capacity = 16}, double>;

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

detail::Attending<double> heads() {
  detail::Attending<double> how;
  how.rule.query_heads = H;
  how.rule.key_heads = K;
  return how;
}

void same(const Buffer<detail::SequenceRows>& rows,
          const std::vector<detail::SequenceRows>& expected) {
  REQUIRE(rows.size() == static_cast<Index>(expected.size()));
  for (std::size_t b = 0; b < expected.size(); ++b) {
    const auto &r = rows[static_cast<Index>(b)], &e = expected[b];
    INFO("sequence " << b);
    REQUIRE((r.row == e.row && r.rows == e.rows && r.key == e.key && r.keys == e.keys));
  }
}

}  // namespace

TEST_CASE("Rows meet the context of their sequence, or the one for all", "[attention][cross]") {
  const Index rows[] = {0, 2, 2, 7}, contexts[] = {0, 4, 5, 5}, one[] = {0, 5};
  REQUIRE(detail::contexts_fit(from_rest(rows), 7, from_rest(contexts), 5));
  same(detail::rows_with_contexts(from_rest(rows), 7, from_rest(contexts), 5),
       {{0, 2, 0, 4, 0}, {2, 0, 4, 1, 0}, {2, 5, 5, 0, 0}});
  REQUIRE(detail::contexts_fit(from_rest(rows), 7, from_rest(one), 5));
  same(detail::rows_with_contexts(from_rest(rows), 7, from_rest(one), 5), {{0, 7, 0, 5, 0}});
}

TEST_CASE("Contexts that are fewer than sequences, and not one, do not fit", "[attention][cross]") {
  const Index rows[] = {0, 2, 2, 7}, two[] = {0, 4, 5};
  REQUIRE_THROWS_WITH(detail::contexts_fit(from_rest(rows), 7, from_rest(two), 5),
                      "CrossAttention: contexts: wanted 3, or one for all, found 2");
  REQUIRE_THROWS(detail::contexts_fit(from_rest(rows), 8, {}, 5));
  REQUIRE_THROWS(detail::contexts_fit(from_rest(rows), 7, from_rest(two), 6));
}

TEST_CASE("States are read as they lie as if they were joined", "[attention][cross]") {
  Random random(2);
  std::vector<State> states(4);
  const Index held[] = {7, 0, 1, 16};
  for (std::size_t b = 0; b < 4; ++b) {
    const auto k = noise<K * d>(held[b], random), v = noise<K * d>(held[b], random);
    states[b].append(k.matrix(), v.matrix());
  }
  const Index offsets[] = {0, 5, 7, 7, 19};  // more than a handful, without a context, no rows
  const auto q = noise<H * d>(19, random);
  const Batch<State> batch(states, offsets);
  auto lying = Sequence<double, H * d>::zeros(19);
  Sequence<double, H * d> joined(19);
  const auto ask = std::as_const(q).matrix();
  REQUIRE(detail::attend_states<double>(heads(), batch, ask, lying.matrix()));
  REQUIRE(detail::attend_joined<double>(heads(), batch, ask, joined.matrix()));
  for (Index t = 0; t < 19; ++t) {
    for (Index c = 0; c < H * d; ++c) {
      REQUIRE(std::abs(lying(t, c) - joined(t, c)) < 1e-12);
      if (t == 5 || t == 6) REQUIRE(lying(t, c) == 0);
    }
  }
  for (std::size_t b = 0; b < 4; ++b) REQUIRE(states[b].seen == held[b]);

  // An editor has them joined: here one that sees no keys but the first two of sequence 0.
  std::vector<std::uint8_t> first(5 * 7), none(12 * 16);
  for (std::size_t i = 0; i < 5; ++i) first[7 * i] = first[7 * i + 1] = 1;
  const AttentionMask masks[] = {{.queries = 5, .keys = 7, .keep = first},
                                 {.queries = 2, .keys = 0},
                                 {},
                                 {.queries = 12, .keys = 16, .keep = none}};
  Masked masked(masks);
  Context run{.attention = &masked};
  auto y = Sequence<double, H * d>::zeros(19);
  REQUIRE(
      detail::attend_states<double>(heads(), Batch<State>(states, offsets, &run), ask, y.matrix()));
  State two{};
  Sequence<double, K * d> k(7), v(7);
  states[0].gather(k.matrix(), v.matrix());
  two.append(std::as_const(k).matrix().middle_rows(0, 2),
             std::as_const(v).matrix().middle_rows(0, 2));
  auto expected = Sequence<double, H * d>::zeros(19);
  REQUIRE(detail::attend_states<double>(heads(), Batch<State>(two), ask.middle_rows(0, 5),
                                        expected.matrix().middle_rows(0, 5)));
  for (Index i = 0; i < y.size(); ++i) REQUIRE(std::abs(y.data()[i] - expected.data()[i]) < 1e-12);
}

TEST_CASE("An error of an editor is one of the rows it was asked for", "[attention][cross]") {
  Random random(4);
  std::vector<State> states(2);
  for (Index b = 0; b < 2; ++b) {  // maps want as many keys of both
    const auto k = noise<K * d>(2 + b, random);
    states[static_cast<std::size_t>(b)].append(k.matrix(), k.matrix());
  }
  auto edits = edit_maps([](Index, auto&) {});
  Context run{.attention = &edits};
  const Index offsets[] = {0, 2, 4};
  const auto q = noise<H * d>(4, random);
  auto y = Sequence<double, H * d>::zeros(4);
  REQUIRE_THROWS_WITH(detail::attend_states<double>(heads(), Batch<State>(states, offsets, &run),
                                                    q.matrix(), y.matrix()),
                      "attention maps: wanted 2 x 2 for every sequence, found 2 x 3");
}

TEST_CASE("Without states nothing is read", "[attention][cross]") {
  Random random(3);
  const auto q = noise<H * d>(3, random);
  auto y = Sequence<double, H * d>::zeros(3);
  REQUIRE(detail::attend_states<double>(heads(), Batch<State>(), q.matrix(), y.matrix()));
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == 0);
}

TEST_CASE("Masks are enough: their editor is not asked again", "[attention][cross][mask]") {
  const std::uint8_t keep[] = {1, 0, 1, 1, 1, 0};
  const AttentionMask mask{.queries = 2, .keys = 3, .keep = keep};
  Masked masked(mask);
  AttentionEditor* editor = &masked;
  Buffer<detail::SequenceRows> rows(1);
  rows[0] = {0, 2, 0, 3, 0};
  REQUIRE(detail::put_masks_of<true>(editor, rows, H));
  REQUIRE(editor == nullptr);
  REQUIRE(rows[0].keep == keep);
  // One that edits maps has none, and no place in training.
  auto edits = edit_maps([](Index, auto&) {});
  editor = &edits;
  rows[0] = {0, 2, 0, 3, 0};
  REQUIRE(detail::put_masks_of<false>(editor, rows, H));
  REQUIRE(editor == &edits);
  REQUIRE(rows[0].keep == nullptr);
  REQUIRE_THROWS_WITH(detail::put_masks_of<true>(editor, rows, H),
                      "CrossAttention with an editor: wanted inference, found training");
}
