#pragma once
/// @file  Real-gated linear recurrent unit: one number of state per channel, input and recurrence
/// gated.
///
///   r = σ(W_r x + b_r),  i = σ(W_i x + b_i),  a = e^(-8 r softplus(Λ)),  m = √(1 - a²)
///   s_t = a_t ⊙ s_{t-1} + m_t ⊙ i_t ⊙ x_t          at the first token of a stream: a = 0, m = 1
///
///   T time   E width   H heads: W_r and W_i are block diagonal, [H][E/H in][E/H out]
///
/// De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention", arXiv:2402.19427,
/// section 2.4. Names are those of RecurrentGemma. A state at rest has seen nothing: its first
/// token is a start. A state that has run is not.

#include <cmath>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/rg_lru.hpp>
#include <limen/kernel/row_product.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct RgLruConfig {
  Index d = 0;      ///< E
  Index heads = 1;  ///< H, blocks of the gates
};

template <class Real, Index E>
struct RgLruState {
  Fixed<Real, E> s;
  Fixed<Real, 1> started;  ///< 1 once a token has passed
};

template <RgLruConfig C, class S = float>
struct RgLru {
  static_assert(C.d > 0, "RgLru: .d must be positive");
  static_assert(C.heads > 0 && C.d % C.heads == 0, "RgLru: .heads must divide .d");

  static constexpr RgLruConfig config = C;
  static constexpr Index E = C.d, H = C.heads, B = E / H, in = E, out = E;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = RgLru<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, E> recurrent_param;              ///< Λ
  Tensor<Real, H, B, B> input_gate_weight;      ///< W_i, one row per input
  Tensor<Real, H, B> input_gate_bias;           ///< b_i
  Tensor<Real, H, B, B> recurrent_gate_weight;  ///< W_r, one row per input
  Tensor<Real, H, B> recurrent_gate_bias;       ///< b_r

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("recurrent_param", l.recurrent_param...);
    f("input_gate_weight", l.input_gate_weight...);
    f("input_gate_bias", l.input_gate_bias...);
    f("recurrent_gate_weight", l.recurrent_gate_weight...);
    f("recurrent_gate_bias", l.recurrent_gate_bias...);
  }

  /// a^8 at r = 1 between 0.9 and 0.999: e^(-softplus(Λ)) = ρ, ρ² uniform there.
  static RgLru initialized(Random& random) {
    RgLru layer;
    for (Real& v : layer.recurrent_param.flat()) {
      const double square = random.uniform(0.9 * 0.9, 0.999 * 0.999) + 1e-8;
      v = static_cast<Real>(std::log(std::expm1(-0.5 * std::log(square))));
    }
    fill_normal(layer.input_gate_weight, 1 / std::sqrt(double{B}), random);
    fill_normal(layer.recurrent_gate_weight, 1 / std::sqrt(double{B}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * (2 * E * B + 2 * E); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = RgLruState<Real, E>;

  /// x [T x E] -> s [T x E]
  Sequence<Real, E> forward(SequenceView<Real, E> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto p = gates(x.matrix());
    const auto rate = rates();
    const auto starts = start(batch, x.rows());
    return scan({x.matrix(), p.matrix(), rate.data(), starts.data()}, batch);
  }

  Vector<Real, E> step(VectorView<Real, E> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, 2 * E> p;
    for (Index h = 0; h < H; ++h) {
      const Real* x_h = x.data() + h * B;
      row_product<Real>(x_h, block(recurrent_gate_weight, h), recurrent_gate_bias.data() + h * B,
                        p.data() + h * B);
      row_product<Real>(x_h, block(input_gate_weight, h), input_gate_bias.data() + h * B,
                        p.data() + E + h * B);
    }
    const auto rate = rates();
    const unsigned char starts = state.started[0] == Real(0) ? 1 : 0;
    state.started[0] = 1;
    Vector<Real, E> s;
    rg_lru<Real>({x.matrix(), p.matrix(), rate.data(), &starts}, s.matrix(), state.s[0]);
    return s;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, E> x, s;        ///< [T x E]
    Sequence<Real, 2 * E> p;       ///< gates before σ
    Buffer<Real> before;           ///< [B x E], the first states; empty if all started from rest
    Buffer<unsigned char> starts;  ///< [T]
  };

  Sequence<Real, E> forward(Sequence<Real, E> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.before = first_states(states(batch), E);
    cache.p = gates(x.matrix());
    cache.starts = start(batch, x.rows());
    const auto rate = rates();
    cache.s = scan({x.matrix(), cache.p.matrix(), rate.data(), cache.starts.data()}, batch);
    cache.x = std::move(x);
    return cache.s;
  }

  /// Through the scan as kernel/rg_lru.hpp has it, then for each head:
  ///   dW = x_hᵀ dp_h,  db = Σ_t dp_h,  dx_h += dp_h Wᵀ       for both gates;  dΛ = 8 σ(Λ) d_rate
  Sequence<Real, E> backward(SequenceView<Real, E> ds, Batch<State> batch, const Cache& cache,
                             RgLru& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(ds.rows()) || !fits_cache(ds.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const Index T = ds.rows();
    Sequence<Real, E> dx(T);
    Sequence<Real, 2 * E> dp(T);
    const auto rate = rates();
    Vector<Real, E> d_rate{};
    rg_lru_backward<Real>({cache.x.matrix(), cache.p.matrix(), rate.data(), cache.starts.data()},
                          cache.s.matrix(), cache.before.data(), ds.matrix(), dx.matrix(),
                          dp.matrix(), d_rate.data(), states(batch));
    simd::for_each<Real>(E, [&](Index c, auto load, auto store) {
      using V = simd::Vec<Real>;
      const V slope = math::sigmoid(load(recurrent_param.data() + c)) * V(Real(8));
      Real* to = gradient.recurrent_param.data() + c;
      store(to, simd::fma(slope, load(d_rate.data() + c), load(to)));
    });
    gate_backward(cache.x.matrix(), dp.matrix().middle_cols(0, E), recurrent_gate_weight,
                  gradient.recurrent_gate_weight, gradient.recurrent_gate_bias, dx.matrix());
    gate_backward(cache.x.matrix(), dp.matrix().middle_cols(E, E), input_gate_weight,
                  gradient.input_gate_weight, gradient.input_gate_bias, dx.matrix());
    for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
      if (batch.end(b, T) > batch.begin(b)) batch[b].started[0] = 0;  // a yes has no slope
    }
    return dx;
  }

 private:
  static Batch<Real> states(const Batch<State>& batch) {
    return batch.part([](State& s) -> Real& { return s.s[0]; });
  }

  /// 8 softplus(Λ)
  Vector<Real, E> rates() const noexcept {
    Vector<Real, E> rate;
    simd::transform(recurrent_param.data(), rate.data(), E, [](const auto& v) {
      return math::softplus(v) * std::remove_cvref_t<decltype(v)>(Real(8));
    });
    return rate;
  }

  /// Which rows start a stream; those that have begun are marked so.
  static Buffer<unsigned char> start(const Batch<State>& batch, Index rows) {
    Buffer<unsigned char> starts(rows);
    for (unsigned char& s : starts) s = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      if (batch.end(b, rows) == batch.begin(b)) continue;
      starts[batch.begin(b)] = !batch.carries() || batch[b].started[0] == Real(0) ? 1 : 0;
      if (batch.carries()) batch[b].started[0] = 1;
    }
    return starts;
  }

  static Sequence<Real, E> scan(const RgLruRows<Real>& rows, const Batch<State>& batch) {
    Sequence<Real, E> s(rows.x.rows);
    rg_lru<Real>(rows, s.matrix(), states(batch));
    return s;
  }

  /// p = [x W_r + b_r; x W_i + b_i], head by head
  Sequence<Real, 2 * E> gates(MatrixView<const Real> x) const {
    Sequence<Real, 2 * E> p(x.rows);
    for (Index h = 0; h < H; ++h) {
      const auto x_h = x.middle_cols(h * B, B);
      product_nn(x_h, block(recurrent_gate_weight, h), p.matrix().middle_cols(h * B, B),
                 {.bias = recurrent_gate_bias.data() + h * B});
      product_nn(x_h, block(input_gate_weight, h), p.matrix().middle_cols(E + h * B, B),
                 {.bias = input_gate_bias.data() + h * B});
    }
    return p;
  }

  static void gate_backward(MatrixView<const Real> x, MatrixView<const Real> dp,
                            const Tensor<Real, H, B, B>& w, Tensor<Real, H, B, B>& dw,
                            Tensor<Real, H, B>& db, MatrixView<Real> dx) {
    add_column_sums(dp, db.data());
    for (Index h = 0; h < H; ++h) {
      const auto dp_h = dp.middle_cols(h * B, B);
      add_product_tn(x.middle_cols(h * B, B), dp_h, block(dw, h));
      product_nt(dp_h, block(w, h), dx.middle_cols(h * B, B), {.accumulate = true});
    }
  }

  template <class T>
  static auto block(T& w, Index h) {
    return MatrixView<std::remove_pointer_t<decltype(w.data())>>{w.data() + h * B * B, B, B, B};
  }
};

}  // namespace limen::inline LIMEN_ABI
