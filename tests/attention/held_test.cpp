#include <limen/attention/held.hpp>

#include <vector>

#include <limen/attention/kv_cache.hpp>
#include <limen/core/random.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index K = 2, d = 3, N = K * d;
using Grows = KvCache<KvCacheConfig{.heads = K, .d_key = d, .d_value = d, .capacity = 8}, double>;
using Turns = KvCache<KvCacheConfig{.heads = K, .d_key = d, .d_value = d, .window = 4}, double>;

Sequence<double, N> numbered(Index rows, double first) {
  Sequence<double, N> x(rows);
  for (Index t = 0; t < rows; ++t) {
    for (Index c = 0; c < N; ++c) x(t, c) = first + static_cast<double>(t) + 0.1 * double(c);
  }
  return x;
}

template <class State>
State holding(Index rows, double first) {
  State state;
  const auto k = numbered(rows, first), v = numbered(rows, -first);
  state.append(k.matrix(), v.matrix());
  return state;
}

}  // namespace

TEST_CASE("A cache that would overflow is an error that names its sequence", "[attention][held]") {
  std::vector<Grows> states{holding<Grows>(2, 0), holding<Grows>(5, 0)};
  const Index fits[] = {0, 6, 9}, too_many[] = {0, 6, 10};
  REQUIRE(detail::has_room(Batch<Grows>(states, fits), 9));
  REQUIRE_THROWS_WITH(detail::has_room(Batch<Grows>(states, too_many), 10),
                      "KV cache of sequence 1: wanted at most 8 tokens, found 9");
  std::vector<Turns> rings(2);
  REQUIRE(detail::has_room(Batch<Turns>(rings, too_many), 10));
}

TEST_CASE("Masks are one for each sequence or one for all, as large as what that sees",
          "[attention][held]") {
  const std::vector<std::uint8_t> keep(100, 1);
  const auto mask = [&](Index queries, Index keys) {
    return AttentionMask{.queries = queries,
                         .keys = keys,
                         .keep = std::span(keep).first(static_cast<std::size_t>(queries * keys))};
  };
  std::vector<Grows> states{holding<Grows>(2, 0), holding<Grows>(0, 0), holding<Grows>(4, 0)};
  const Index offsets[] = {0, 3, 3, 4};
  const Batch<Grows> batch(states, offsets);
  const auto fit = [&](std::vector<AttentionMask> masks, Index first = 0) {
    return detail::masks_fit(masks, batch, 4, 1, first);
  };
  REQUIRE(fit({}));
  REQUIRE(fit({mask(3, 5), mask(9, 9), mask(1, 5)}));  // nobody asks for that of no rows
  REQUIRE_THROWS_WITH(fit({mask(3, 5), mask(1, 5)}),
                      "attention masks: wanted 3, or one for all, found 2");
  REQUIRE_THROWS_WITH(fit({mask(3, 5), mask(0, 0), mask(1, 4)}),
                      "attention mask: wanted 1 queries by 5 keys, found 1 queries by 4 keys");
  REQUIRE_THROWS_WITH(fit({mask(3, 5)}),
                      "attention mask: wanted 1 queries by 5 keys, found 3 queries by 5 keys");
  REQUIRE_THROWS(fit({mask(3, 5), mask(0, 0), mask(1, 5)}, 2));
}

TEST_CASE("What was held comes before what is new, sequence by sequence", "[attention][held]") {
  std::vector<Grows> states{holding<Grows>(2, 10), holding<Grows>(0, 0), holding<Grows>(3, 20),
                            holding<Grows>(1, 30)};
  const Index offsets[] = {0, 1, 3, 3, 5};
  const Batch<Grows> batch(states, offsets);
  auto sequences = detail::rows_of(batch, 5);
  auto k = numbered(5, 100), v = numbered(5, 200);
  detail::gather_held<double>(batch, sequences, k, v);
  // The third has no rows, so nobody sees what it holds.
  const double keys_of[] = {10, 11, 100, 101, 102, 30, 103, 104};
  const double values_of[] = {-10, -9, 200, 201, 202, -30, 203, 204};
  REQUIRE(k.rows() == 8);
  for (Index t = 0; t < 8; ++t) {
    REQUIRE(k(t, 0) == keys_of[t]);
    REQUIRE(v(t, 0) == values_of[t]);
  }
  const Index keys[] = {3, 2, 0, 3}, key[] = {0, 3, 5, 5};
  for (Index b = 0; b < 4; ++b) {
    REQUIRE(sequences[b].keys == keys[b]);
    REQUIRE(sequences[b].key == key[b]);
  }
  const std::span<const detail::SequenceRows> rows(sequences.data(), 4);
  detail::remember<double>(batch, rows, k, v);
  const std::int64_t seen[] = {3, 2, 3, 3};
  for (std::size_t b = 0; b < 4; ++b) REQUIRE(states[b].seen == seen[b]);
  const auto back = detail::of_new_rows(std::move(k), rows, 5);
  for (Index t = 0; t < 5; ++t) REQUIRE(back(t, 0) == 100 + static_cast<double>(t));
}

TEST_CASE("Few rows read a cache as all rows do that are joined to it", "[attention][held]") {
  constexpr Index H = 4;
  detail::Attending<double> how;
  how.rule.query_heads = H;
  how.rule.key_heads = K;
  how.rule.causal = true;
  Random random(3);
  const auto noise = [&]<Index W>(std::integral_constant<Index, W>, Index rows) {
    Sequence<double, W> x(rows);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
    return x;
  };
  std::vector<Grows> states{holding<Grows>(0, 0), Grows(), holding<Grows>(2, 0.5)};
  const auto held = noise(std::integral_constant<Index, N>(), 3);
  states[1].append(held.matrix(), held.matrix());
  const auto before = states;
  const Index offsets[] = {0, 2, 5, 6};
  const auto q = noise(std::integral_constant<Index, H * d>(), 6);
  auto k = noise(std::integral_constant<Index, N>(), 6),
       v = noise(std::integral_constant<Index, N>(), 6);
  auto few = Sequence<double, H * d>::zeros(6);
  Sequence<double, H * d> all(6);
  for (const int threads : {1, 2}) {
    const Threads allowed(threads);
    states = before;
    const Batch<Grows> batch(states, offsets);
    auto sequences = detail::rows_of(batch, 6);
    detail::read_few(how, batch, sequences, q, k, v, few);
    REQUIRE(sequences[0].rows == 2);  // nothing held: left for the others
    REQUIRE((sequences[1].rows == 0 && sequences[2].rows == 0));
    REQUIRE((states[0].seen == 0 && states[1].seen == 6 && states[2].seen == 3));
  }
  states = before;
  const Batch<Grows> batch(states, offsets);
  auto sequences = detail::rows_of(batch, 6);
  detail::gather_held<double>(batch, sequences, k, v);
  detail::attend_batch<double>(how, {sequences.data(), 3}, q.matrix(), std::as_const(k).matrix(),
                               std::as_const(v).matrix(), all.matrix(), nullptr);
  for (Index t = 2; t < 6; ++t) {
    for (Index c = 0; c < H * d; ++c) REQUIRE(std::abs(few(t, c) - all(t, c)) < 1e-12);
  }
}
