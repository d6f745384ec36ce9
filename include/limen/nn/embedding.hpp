#pragma once
/// @file  A row of a table for each token.
///
///   y_t = E[token_t]        E [V x D]   V vocabulary
///
/// As a layer it takes Sequence<Real, 1>: one column that holds the number of the token, so that it
/// stands first in a Sequential. A float holds whole numbers up to 2^24 exactly. What is no whole
/// number from 0 to V - 1 is an error that names the row; in `step`, which cannot fail, a row of
/// NaN. `lookup` takes the tokens as integers. Nothing flows back into tokens: dx is 0.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>

#include <limen/core/denormals.hpp>
#include <limen/core/error.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

struct EmbeddingConfig {
  Index vocabulary = 0;  ///< V
  Index d = 0;           ///< D
};

template <EmbeddingConfig C, class S = float>
struct Embedding {
  static_assert(C.vocabulary > 0, "Embedding: .vocabulary must be positive");
  static_assert(C.d > 0, "Embedding: .d must be positive");
  static_assert(C.vocabulary <= Index{1} << 24, "Embedding: a float counts exactly to 2^24 only");

  static constexpr EmbeddingConfig config = C;
  static constexpr Index V = C.vocabulary, D = C.d, in = 1, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Embedding<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, V, D> weight;  ///< E

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
  }

  static Embedding initialized(Random& random) {
    Embedding layer;
    fill_normal(layer.weight, 1, random);
    return layer;
  }

  // ── Tokens as integers ─────────────────────────────────────────────────────────────────────────

  /// tokens [T] -> y [T x D].  Without rows after an error.
  Sequence<Real, D> lookup(std::span<const std::int32_t> tokens) const {
    return rows_of(static_cast<Index>(tokens.size()),
                   [&](Index t) { return Index{tokens[static_cast<std::size_t>(t)]}; });
  }

  /// dE[token_t] += dy_t
  void add_gradient(std::span<const std::int32_t> tokens, SequenceView<Real, D> dy,
                    Embedding& gradient) const {
    if (static_cast<Index>(tokens.size()) != dy.rows()) {
      fail({"tokens", std::to_string(dy.rows()) + ", one for each row of dy",
            std::to_string(tokens.size())});
      return;
    }
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if (!known(tokens[t])) return refuse(static_cast<Index>(t), std::to_string(tokens[t]));
    }
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      add_row(dy.row(static_cast<Index>(t)), gradient, tokens[t]);
    }
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x 1] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, 1> x, Batch<State>) const {
    const FlushDenormals guard;
    return rows_of(
        x.rows(), [&](Index t) { return token(x(t, 0)); },
        [&](Index t) { return std::to_string(x(t, 0)); });
  }

  Vector<Real, D> step(VectorView<Real, 1> x, State&) const noexcept {
    const FlushDenormals guard;
    const Index k = token(x[0]);
    if (k >= 0) return VectorView<Real, D>(weight.data() + k * D).copy();
    Vector<Real, D> y;
    for (Real& v : y.values) v = std::numeric_limits<Real>::quiet_NaN();
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, 1> x;  ///< [T x 1]
  };

  Sequence<Real, D> forward(Sequence<Real, 1> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    auto y = forward(SequenceView<Real, 1>(x), batch);
    cache.x = std::move(x);
    return y;
  }

  /// dE[token_t] += dy_t,  dx = 0
  Sequence<Real, 1> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             Embedding& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    for (Index t = 0; t < dy.rows(); ++t) {
      const Index k = token(cache.x(t, 0));
      if (k >= 0) add_row(dy.row(t), gradient, k);
    }
    return Sequence<Real, 1>::zeros(dy.rows());
  }

 private:
  static bool known(Index k) { return k >= 0 && k < V; }

  /// The token that a number stands for, or -1.
  static Index token(Real x) {
    if (!(x >= Real(0) && x < static_cast<Real>(V))) return -1;  // NaN too
    const Index k = static_cast<Index>(x);
    return static_cast<Real>(k) == x ? k : -1;
  }

  static void refuse(Index t, std::string found) {
    fail({"Embedding: token of row " + std::to_string(t),
          "a whole number from 0 to " + std::to_string(V - 1), std::move(found)});
  }

  template <class Token, class Text>
  Sequence<Real, D> rows_of(Index rows, Token token_of, Text text) const {
    for (Index t = 0; t < rows; ++t) {
      if (!known(token_of(t))) {
        refuse(t, text(t));
        return {};
      }
    }
    Sequence<Real, D> y(rows);
    for (Index t = 0; t < rows; ++t) {
      std::memcpy(y.row_data(t), weight.data() + token_of(t) * D, sizeof(Real) * std::size_t{D});
    }
    return y;
  }
  template <class Token>
  Sequence<Real, D> rows_of(Index rows, Token token_of) const {
    return rows_of(rows, token_of, [&](Index t) { return std::to_string(token_of(t)); });
  }

  static void add_row(VectorView<Real, D> dy, Embedding& gradient, Index k) {
    Real* to = gradient.weight.data() + k * D;
    for (Index d = 0; d < D; ++d) to[d] += dy[d];
  }
};

}  // namespace limen::inline LIMEN_ABI
