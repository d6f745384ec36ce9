#pragma once
/// @file  What attention computes: the rule that all sequences of a call have in common, and one
/// sequence. kernel/attention.hpp has the equations.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// What all sequences of a call have in common.
template <class Real>
struct AttentionRule {
  Index query_heads = 1;         ///< Hq
  Index key_heads = 1;           ///< Hk, a divisor of Hq
  Real scale = 0;                ///< 0: 1 / sqrt(d)
  bool causal = false;           ///< a query sees keys up to its own position
  Index window = 0;              ///< and only the last so many of them, its own included; without
                                 ///< `causal` as many to the other side. 0: all
  Real soft_cap = 0;             ///< c; 0: none
  const Real* slopes = nullptr;  ///< [Hq], ALiBi
  const Real* sinks = nullptr;   ///< [Hq], a logit that takes probability and gives no value
};

/// One sequence.
template <class Real>
struct AttentionCall {
  MatrixView<const Real> q;            ///< [Tq x Hq d]
  MatrixView<const Real> k;            ///< [Tk x Hk d]
  MatrixView<const Real> v;            ///< [Tk x Hk dv]
  MatrixView<Real> y;                  ///< [Tq x Hq dv]
  Real* lse = nullptr;                 ///< [Tq][Hq], or null
  std::optional<Index> offset = {};    ///< position of the first query; if not given, Tk - Tq
  const Index* positions = nullptr;    ///< [Tk], of the keys; null: 0, 1, 2, ...
  const Real* bias = nullptr;          ///< [Tq][Tk], added to the scores
  Index bias_head = 0;                 ///< numbers from one head's bias to the next; 0: one for all
  const std::uint8_t* keep = nullptr;  ///< [Tq][Tk], 0 forbids
  Index keep_head = 0;                 ///< likewise
  Index keep_block = 1;  ///< an entry of `keep` stands for so many queries by so many keys

  Index position(Index i) const { return i + offset.value_or(k.rows - q.rows); }
  bool plain() const { return positions == nullptr && bias == nullptr && keep == nullptr; }
};

namespace detail {

template <class Real>
inline constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
template <class Real>
inline constexpr Real ln2 = Real(0.69314718055994530942);

constexpr Index rounded_up(Index n, Index to) { return (n + to - 1) / to * to; }

struct KeyRange {
  Index begin, end;
};

/// Which keys query i can see at all, by position.
template <class Real>
KeyRange visible(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index i) {
  KeyRange r{0, c.k.rows};
  if (c.positions != nullptr) return r;  // looked at one by one
  const Index p = c.position(i);
  if (rule.causal) {
    r.end = std::min(r.end, p + 1);
  } else if (rule.window > 0) {
    r.end = std::min(r.end, p + rule.window);
  }
  if (rule.window > 0) r.begin = std::max(r.begin, p - rule.window + 1);
  r.end = std::max(r.end, Index{0});
  r.begin = std::min(r.begin, r.end);
  return r;
}

template <class Real>
bool sees(const AttentionRule<Real>& rule, Index query, Index key) {
  if (key < 0) return false;  // an empty slot
  if (rule.causal && key > query) return false;
  return rule.window == 0 || (query - key < rule.window && key - query < rule.window);
}

/// Scores of keys j0 .. j0 + n of query i, as they came from the product (times log2 e): what else
/// the rule makes of them. Still times log2 e.
template <class Real>
void finish_scores(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index h, Index i,
                   Index j0, Index n, Real* s) {
  using V = simd::Vec<Real>;
  constexpr Real log2_e = math::detail::log2_e<Real>;
  if (c.bias != nullptr) {
    const Real* bias = c.bias + h * c.bias_head + i * c.k.rows + j0;
    simd::for_each<Real>(n, [&](Index j, auto load, auto store) {
      store(s + j, simd::fma(V(log2_e), load(bias + j), load(s + j)));
    });
  }
  const Index p = c.position(i);
  const auto at = [&](Index j) { return c.positions != nullptr ? c.positions[j0 + j] : j0 + j; };
  if (rule.slopes != nullptr) {
    const Real slope = rule.slopes[h] * log2_e;
    for (Index j = 0; j < n; ++j) {
      const Index distance = p - at(j);
      s[j] -= slope * static_cast<Real>(distance < 0 ? -distance : distance);
    }
  }
  if (rule.soft_cap > 0) {
    const V cap(rule.soft_cap * log2_e), inverse(1 / (rule.soft_cap * log2_e));
    simd::transform(s, s, n, [&](const V& v) { return cap * math::tanh(v * inverse); });
  }
  if (c.keep != nullptr) {
    const Index columns = (c.k.rows + c.keep_block - 1) / c.keep_block;
    const std::uint8_t* keep = c.keep + h * c.keep_head + i / c.keep_block * columns;
    for (Index j = 0; j < n; ++j) {
      if (keep[(j0 + j) / c.keep_block] == 0) s[j] = minus_infinity<Real>;
    }
  }
  if (c.positions != nullptr) {
    for (Index j = 0; j < n; ++j) {
      if (!sees(rule, p, at(j))) s[j] = minus_infinity<Real>;
    }
  }
}

/// Is what finish_scores does nothing?
template <class Real>
bool plain(const AttentionRule<Real>& rule, const AttentionCall<Real>& c) {
  return rule.slopes == nullptr && !(rule.soft_cap > 0) && c.plain();
}

template <class Real>
Real scale_of(const AttentionRule<Real>& rule, Index d) {
  return rule.scale > 0 ? rule.scale : 1 / std::sqrt(static_cast<Real>(d));
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
