#include <limen/kernel/attention.hpp>
#include <limen/kernel/attention_decode.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class T>
std::vector<T> numbers(Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& value : x) value = static_cast<T>(static_cast<float>(random.normal()));
  return x;
}

/// A few queries against a cache, by attention_decode and by attention.
template <class Real, class Stored>
void compare(AttentionRule<Real> rule, Index Tq, Index Tk, Index d, Index dv, double tolerance) {
  INFO("Tq " << Tq << ", Tk " << Tk << ", d " << d << ", dv " << dv);
  const Index Hq = rule.query_heads, Hk = rule.key_heads;
  const auto q = numbers<Real>(Tq * Hq * d, 1);
  const auto k = numbers<Stored>(Hk * Tk * d, 2), v = numbers<Stored>(Hk * Tk * dv, 3);
  // The same, tokens outside and heads inside, as `attention` takes them.
  std::vector<Real> k_rows(k.size()), v_rows(v.size());
  for (Index h = 0; h < Hk; ++h) {
    for (Index j = 0; j < Tk; ++j) {
      for (Index c = 0; c < d; ++c) {
        k_rows[static_cast<std::size_t>((j * Hk + h) * d + c)] = static_cast<Real>(
            static_cast<float>(k[static_cast<std::size_t>((h * Tk + j) * d + c)]));
      }
      for (Index c = 0; c < dv; ++c) {
        v_rows[static_cast<std::size_t>((j * Hk + h) * dv + c)] = static_cast<Real>(
            static_cast<float>(v[static_cast<std::size_t>((h * Tk + j) * dv + c)]));
      }
    }
  }
  std::vector<Real> y(static_cast<std::size_t>(Tq * Hq * dv)),
      lse(static_cast<std::size_t>(Tq * Hq));
  auto expected = y, expected_lse = lse;
  AttentionCall<Real> call;
  call.q = {q.data(), Tq, Hq * d, Hq * d};
  call.k = {k_rows.data(), Tk, Hk * d, Hk * d};
  call.v = {v_rows.data(), Tk, Hk * dv, Hk * dv};
  call.y = {expected.data(), Tq, Hq * dv, Hq * dv};
  call.lse = expected_lse.data();
  attention<Real>(rule, std::span(&call, 1));

  call.k = call.v = {};
  call.y.data = y.data();
  call.lse = lse.data();
  std::vector<Real> room(
      static_cast<std::size_t>(attention_decode_room<Real>(Tq, Hq, Hk, Tk, d, dv)));
  const CacheView<Stored> cache{k.data(), v.data(), Tk, d, dv, Tk * d, Tk * dv};
  attention_decode<Real, Stored>(rule, call, cache, room.data());
  for (std::size_t i = 0; i < y.size(); ++i) {
    INFO("y[" << i << "]");
    REQUIRE(std::abs(y[i] - expected[i]) <= tolerance);
  }
  for (std::size_t i = 0; i < lse.size(); ++i) {
    INFO("lse[" << i << "]");
    REQUIRE((lse[i] == expected_lse[i] || std::abs(lse[i] - expected_lse[i]) <= tolerance));
  }
  const auto once = y;
  for (const int threads : {2, 3}) {
    const Threads allowed(threads);
    std::fill(y.begin(), y.end(), Real(0));
    attention_decode<Real, Stored>(rule, call, cache, room.data());
    REQUIRE(y == once);
  }
}

}  // namespace

TEST_CASE("A few queries against a cache are attention", "[kernel][attention]") {
  const float sinks[] = {0.5f, -1, 2, 0}, slopes[] = {0.5f, 0.25f, 0.1f, 0};
  for (const Index Tk : {0, 1, 3, 4, 17, 511, 512, 513, 1300}) {
    for (const Index Tq : {1, 3}) {
      if (Tq > Tk) continue;
      AttentionRule<float> rule;
      rule.query_heads = 4;
      rule.key_heads = 2;
      rule.causal = true;
      compare<float, float>(rule, Tq, Tk, 16, 16, 2e-5);
      compare<float, float>(rule, Tq, Tk, 5, 70, 2e-5);
      compare<float, bfloat16>(rule, Tq, Tk, 37, 19, 2e-5);
      compare<float, bfloat16>(rule, Tq, Tk, 64, 70, 2e-5);
      rule.window = 40;
      rule.sinks = sinks;
      rule.slopes = slopes;
      rule.soft_cap = 5;
      compare<float, float>(rule, Tq, Tk, 16, 8, 2e-5);
    }
  }
  AttentionRule<double> rule;
  rule.query_heads = 7;
  rule.key_heads = 1;
  compare<double, double>(rule, 1, 700, 9, 11, 1e-12);
}

TEST_CASE("A cache in stretches is read as one, from where each begins", "[kernel][attention]") {
  // First tokens that stay, then a ring in two pieces, the first of them longer than a chunk.
  constexpr Index Hq = 4, Hk = 2, d = 6, dv = 5, Tq = 2;
  struct Stretch {
    Index first, size;
  };
  const Stretch given[] = {{0, 2}, {90, 1030}, {1120, 515}};
  constexpr Index Tk = 2 + 1030 + 515;
  const auto q = numbers<double>(Tq * Hq * d, 1);
  const auto k = numbers<double>(Tk * Hk * d, 2), v = numbers<double>(Tk * Hk * dv, 3);
  const double slopes[] = {0.01, 0.002, 0.03, 0}, sinks[] = {1, -1, 0.5, 2};
  std::vector<Index> positions;
  std::vector<CacheView<double>> parts;
  for (const auto& [first, size] : given) {  // rows of all heads, as they lie in k and v
    const auto begin = static_cast<Index>(positions.size());
    parts.push_back({k.data() + begin * Hk * d, v.data() + begin * Hk * dv, size, Hk * d, Hk * dv,
                     d, dv, first});
    for (Index j = 0; j < size; ++j) positions.push_back(first + j);
  }
  AttentionRule<double> rule;
  rule.query_heads = Hq;
  rule.key_heads = Hk;
  rule.causal = true;
  rule.slopes = slopes;
  rule.sinks = sinks;
  std::vector<double> expected(Tq * Hq * dv), y(expected.size());
  AttentionCall<double> call;
  call.q = {q.data(), Tq, Hq * d, Hq * d};
  call.k = {k.data(), Tk, Hk * d, Hk * d};
  call.v = {v.data(), Tk, Hk * dv, Hk * dv};
  call.y = {expected.data(), Tq, Hq * dv, Hq * dv};
  call.offset = positions.back() - 1;
  call.positions = positions.data();
  attention<double>(rule, std::span(&call, 1));

  call.k = call.v = {};
  call.positions = nullptr;
  call.y.data = y.data();
  const std::span<const CacheView<double>> cache(parts);
  const auto same = [&] {
    for (std::size_t i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(y[i] - expected[i]) < 1e-12);
      y[i] = 0;
    }
  };
  Buffer<double> step_room(attention_step_room<double>(Tq, Hq, Hk, d, dv)),
      room(attention_decode_room<double>(Tq, Hq, Hk, Tk, d, dv, 3));
  attention_step<double, double>(rule, call, cache, step_room.data());
  same();
  for (const int threads : {1, 2}) {
    const Threads allowed(threads);
    attention_decode<double, double>(rule, call, cache, room.data());
    same();
  }
}

TEST_CASE("bfloat16 rounds to the nearest, ties to even", "[core][bfloat16]") {
  REQUIRE(static_cast<float>(bfloat16(1.f)) == 1.f);
  REQUIRE(static_cast<float>(bfloat16(1.f + 0x1p-8f)) == 1.f);            // a tie: even is 1
  REQUIRE(static_cast<float>(bfloat16(1.f + 0x3p-8f)) == 1.f + 0x1p-6f);  // a tie: even is up
  REQUIRE(static_cast<float>(bfloat16(1.f + 0x1.01p-8f)) == 1.f + 0x1p-7f);
  REQUIRE(std::isinf(static_cast<float>(bfloat16(3.4e38f))));
  REQUIRE(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
}
