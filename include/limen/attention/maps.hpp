#pragma once
/// @file  Attention with its probabilities laid open, to be looked at and edited before they are
/// used.
///
///   P = softmax(scores)      [B][H][Tq][Tk], written out            attention_maps
///   P' = edited P            emphasise, fade, replace               rows need not sum to 1
///   y = P' v                                                        read_maps
///
/// The way back:  dP' = dy vᵀ,  dv = P'ᵀ dy;  edits are linear, so dP comes from dP' by the same
/// factors;  ds = P ⊙ (dP - Σ P dP),  dq = scale ds k,  dk = scale dsᵀ q.
///
/// The edits are those of Chen et al., "MotionCLR: Motion Generation and Training-free Editing via
/// Understanding Attention Mechanisms", arXiv:2410.18977, section 4. All sequences must have as
/// many queries, and as many keys, as each other. Memory grows with Tq Tk: kernel/attention.hpp
/// does not.

#include <span>
#include <string>
#include <type_traits>

#include <limen/core/error.hpp>
#include <limen/kernel/attention.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
class AttentionMaps {
 public:
  AttentionMaps() = default;
  AttentionMaps(Index sequences, Index heads, Index queries, Index keys)
      : sequences_(sequences),
        heads_(heads),
        queries_(queries),
        keys_(keys),
        row_(detail::rounded_up(keys, simd::lanes<Real>)),
        values_(sequences * heads * queries * row_) {}
  AttentionMaps copy() const {
    AttentionMaps maps(sequences_, heads_, queries_, keys_);
    std::copy(values_.begin(), values_.end(), maps.values_.begin());
    return maps;
  }

  Index sequences() const { return sequences_; }
  Index heads() const { return heads_; }
  Index queries() const { return queries_; }
  Index keys() const { return keys_; }

  /// [Tq x Tk] of sequence b and head h.
  MatrixView<Real> operator()(Index b, Index h) { return {first(b, h), queries_, keys_, row_}; }
  MatrixView<const Real> operator()(Index b, Index h) const {
    return {first(b, h), queries_, keys_, row_};
  }

 private:
  Real* first(Index b, Index h) { return values_.data() + (b * heads_ + h) * queries_ * row_; }
  const Real* first(Index b, Index h) const {
    return values_.data() + (b * heads_ + h) * queries_ * row_;
  }

  Index sequences_ = 0, heads_ = 0, queries_ = 0, keys_ = 0, row_ = 0;
  Buffer<Real> values_;
};

/// P of all calls; their v and y are not looked at. Without sequences after an error.
template <class Real>
AttentionMaps<Real> attention_maps(
    const AttentionRule<Real>& rule,
    std::type_identity_t<std::span<const AttentionCall<Real>>> calls) {
  using namespace detail;
  if (calls.empty()) return {};
  const Index Tq = calls[0].q.rows, Tk = calls[0].k.rows, d = calls[0].q.cols / rule.query_heads;
  for (const auto& c : calls) {
    if (c.q.rows == Tq && c.k.rows == Tk) continue;
    fail({"attention maps", std::to_string(Tq) + " x " + std::to_string(Tk) + " for every sequence",
          std::to_string(c.q.rows) + " x " + std::to_string(c.k.rows)});
    return {};
  }
  AttentionMaps<Real> maps(static_cast<Index>(calls.size()), rule.query_heads, Tq, Tk);
  const Index group = rule.query_heads / rule.key_heads, row = rounded_up(Tk, simd::lanes<Real>);
  Buffer<Real> space(Tq * d);
  const MatrixView<Real> q{space.data(), Tq, d, d};
  const Real scale = scale_of(rule, d) * math::detail::log2_e<Real>;
  for (Index b = 0; b < maps.sequences(); ++b) {
    const auto& c = calls[static_cast<std::size_t>(b)];
    for (Index h = 0; h < rule.query_heads; ++h) {
      const auto p = maps(b, h);
      for (Index i = 0; i < Tq; ++i) copy_scaled(c.q.row(i) + h * d, q.row(i), d, scale);
      product_nt<Real>(q, c.k.middle_cols(h / group * d, d), p);
      for (Index i = 0; i < Tq; ++i) {
        Real* const s = p.row(i);
        const KeyRange range = visible(rule, c, i);
        if (!plain(rule, c)) {
          finish_scores(rule, c, h, i, range.begin, range.end - range.begin, s + range.begin);
        }
        std::fill(s, s + range.begin, minus_infinity<Real>);
        std::fill(s + range.end, s + row, minus_infinity<Real>);
        auto running = at_start(rule, h);
        running.add(s, row);
        scale_row(s, row, running.sum > 0 ? 1 / running.sum : Real(0));
      }
    }
  }
  return maps;
}

/// y [Tq x H dv] of sequence b; v [Tk x K dv].
template <class Real>
void read_maps(const AttentionRule<Real>& rule, const AttentionMaps<Real>& maps, Index b,
               std::type_identity_t<MatrixView<const Real>> v, MatrixView<Real> y) {
  const Index group = rule.query_heads / rule.key_heads, dv = y.cols / rule.query_heads;
  for (Index h = 0; h < rule.query_heads; ++h) {
    product_nn<Real>(maps(b, h), v.middle_cols(h / group * dv, dv), y.middle_cols(h * dv, dv));
  }
}

namespace detail {

/// y of all calls from P as edit(maps) leaves it; false after an error.
template <class Real, class Edit>
bool read_edited(const AttentionRule<Real>& rule,
                 std::type_identity_t<std::span<const AttentionCall<Real>>> calls, Edit&& edit) {
  auto maps = attention_maps<Real>(rule, calls);
  if (maps.sequences() != static_cast<Index>(calls.size())) return false;  // said why
  edit(maps);
  for (std::size_t b = 0; b < calls.size(); ++b) {
    read_maps(rule, maps, static_cast<Index>(b), calls[b].v, calls[b].y);
  }
  return true;
}

}  // namespace detail

/// dP' of sequence b is written, dv added to.
template <class Real>
void read_maps_backward(const AttentionRule<Real>& rule, const AttentionMaps<Real>& maps, Index b,
                        std::type_identity_t<MatrixView<const Real>> v,
                        std::type_identity_t<MatrixView<const Real>> dy, AttentionMaps<Real>& dp,
                        MatrixView<Real> dv) {
  const Index group = rule.query_heads / rule.key_heads, width = dy.cols / rule.query_heads;
  for (Index h = 0; h < rule.query_heads; ++h) {
    const Index at = h / group * width;
    const auto down = dy.middle_cols(h * width, width);
    product_nt<Real>(down, v.middle_cols(at, width), dp(b, h));
    add_product_tn<Real>(maps(b, h), down, dv.middle_cols(at, width));
  }
}

/// From P as the softmax gave it and dP: dq written, dk added to, both of sequence b. dP becomes
/// ds. Not for rules with a soft-cap, whose slope P does not tell.
template <class Real>
void maps_backward(const AttentionRule<Real>& rule, const AttentionCall<Real>& call,
                   const AttentionMaps<Real>& maps, Index b, AttentionMaps<Real>& dp,
                   MatrixView<Real> dq, MatrixView<Real> dk) {
  if (rule.soft_cap > 0) {
    fail({"gradient of attention maps", "a rule without soft-cap", "one with"});
    return;
  }
  const Index group = rule.query_heads / rule.key_heads, d = call.q.cols / rule.query_heads;
  const Real scale = detail::scale_of(rule, d);
  for (Index h = 0; h < rule.query_heads; ++h) {
    const auto p = maps(b, h);
    const auto ds = dp(b, h);
    for (Index i = 0; i < p.rows; ++i) {
      simd::Vec<Real> sum(Real(0));
      const Real* const pi = p.row(i);
      Real* const di = ds.row(i);
      simd::for_each<Real>(p.cols, [&](Index j, auto load, auto) {
        sum = simd::fma(load(pi + j), load(di + j), sum);
      });
      const simd::Vec<Real> mean(simd::reduce_add(sum)), by(scale);
      simd::for_each<Real>(p.cols, [&](Index j, auto load, auto store) {
        store(di + j, load(pi + j) * (load(di + j) - mean) * by);
      });
    }
    const Index at = h / group * d;
    product_nn<Real>(ds, call.k.middle_cols(at, d), dq.middle_cols(h * d, d));
    add_product_tn<Real>(ds, call.q.middle_cols(h * d, d), dk.middle_cols(at, d));
  }
}

// ── Edits ────────────────────────────────────────────────────────────────────────────────────────

namespace detail {

template <class Real>
bool fits_maps(const AttentionMaps<Real>& maps, Index b, std::span<const Index> columns) {
  if (b < 0 || b >= maps.sequences()) {
    fail({"sequence of attention maps", "0 to " + std::to_string(maps.sequences() - 1),
          std::to_string(b)});
    return false;
  }
  for (const Index j : columns) {
    if (j >= 0 && j < maps.keys()) continue;
    fail(
        {"column of attention maps", "0 to " + std::to_string(maps.keys() - 1), std::to_string(j)});
    return false;
  }
  return true;
}

}  // namespace detail

/// P[b, :, :, columns] += by: a word counts more, or less. Its derivative is the identity.
template <class Real>
void emphasise(AttentionMaps<Real>& maps, Index b, std::span<const Index> columns,
               std::type_identity_t<Real> by) {
  if (!detail::fits_maps(maps, b, columns)) return;
  for (Index h = 0; h < maps.heads(); ++h) {
    const auto p = maps(b, h);
    for (Index i = 0; i < p.rows; ++i) {
      for (const Index j : columns) p.row(i)[j] += by;
    }
  }
}

/// P[b, :, first .. last, columns] *= by: a word counts less for some of the queries. Its
/// derivative is the same edit of dP.
template <class Real>
void fade(AttentionMaps<Real>& maps, Index b, Index first, Index last,
          std::span<const Index> columns, std::type_identity_t<Real> by) {
  if (!detail::fits_maps(maps, b, columns)) return;
  if (first < 0 || first > last || last > maps.queries()) {
    fail({"rows of attention maps", "0 to " + std::to_string(maps.queries()) + ", ascending",
          std::to_string(first) + " to " + std::to_string(last)});
    return;
  }
  for (Index h = 0; h < maps.heads(); ++h) {
    const auto p = maps(b, h);
    for (Index i = first; i < last; ++i) {
      for (const Index j : columns) p.row(i)[j] *= by;
    }
  }
}

/// P[to] = P[from], all columns but `except`: one sequence is led by another.
template <class Real>
void replace(AttentionMaps<Real>& maps, Index from, Index to, std::span<const Index> except = {}) {
  if (!detail::fits_maps(maps, from, except) || !detail::fits_maps(maps, to, {})) return;
  for (Index h = 0; h < maps.heads(); ++h) {
    const auto source = maps(from, h), target = maps(to, h);
    for (Index i = 0; i < source.rows; ++i) {
      for (Index j = 0; j < source.cols; ++j) {
        if (std::find(except.begin(), except.end(), j) == except.end()) {
          target.row(i)[j] = source.row(i)[j];
        }
      }
    }
  }
}

/// The derivative of `replace`: what was overwritten has none; what was copied hands it on, if
/// `attached`.
template <class Real>
void replace_backward(AttentionMaps<Real>& dp, Index from, Index to,
                      std::span<const Index> except = {}, bool attached = false) {
  if (!detail::fits_maps(dp, from, except) || !detail::fits_maps(dp, to, {})) return;
  for (Index h = 0; h < dp.heads(); ++h) {
    const auto source = dp(from, h), target = dp(to, h);
    for (Index i = 0; i < source.rows; ++i) {
      for (Index j = 0; j < source.cols; ++j) {
        if (std::find(except.begin(), except.end(), j) != except.end()) continue;
        if (attached) source.row(i)[j] += target.row(i)[j];
        target.row(i)[j] = 0;
      }
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
