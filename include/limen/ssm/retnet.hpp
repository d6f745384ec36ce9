#pragma once
/// @file  Multi-scale retention: a linear attention whose heads forget at fixed paces.
///
///   q, k, v, g = x W_q, x W_k, x W_v, x W_g        q, k turned by their position (rotate-half)
///   S_t = γ_h S_{t-1} + k_t v_tᵀ,   o_t = S_tᵀ q_t / √K,   γ_h = 1 - 2^(-5-h)      h = 0, 1, ...
///   y = W_o (w ⊙ RMS(o) ⊙ silu(g))
///
///   T time   D d_model   H heads   K, V keys and values of a head
///   q, k [T x H K]   v, g, o [T x H V]   S [H][K][V], and how many rows have been
///
/// The same as o_t = Σ_{s<=t} γ^(t-s) (q_t k_s / √K) v_s. Names as in flash-linear-attention. Sun
/// et al., "Retentive Network: A Successor to Transformer for Large Language Models",
/// arXiv:2307.08621, equations 5 to 8; their rotation of neighbours and their division of rows
/// before the norm, which the norm undoes, are not used.

#include <array>
#include <cmath>
#include <cstdint>

#include <limen/core/denormals.hpp>
#include <limen/kernel/rotate.hpp>
#include <limen/kernel/ssd.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/heads.hpp>

namespace limen::inline LIMEN_ABI {

struct RetNetConfig {
  Index d_model = 0;    ///< D
  Index n_heads = 8;    ///< H
  Index key_dim = 0;    ///< H K; 0: D
  Index value_dim = 0;  ///< H V; 0: 2 D
  double base = 1e4;    ///< of the rotation
  double eps = 1e-5;    ///< of the norm
};

/// Counts rows, so that it knows the positions of those to come.
template <class Real, Index H, Index K, Index V>
struct RetNetState {
  Fixed<Real, H, K, V> s;     ///< S
  std::int64_t position = 0;  ///< of the next row
};

template <RetNetConfig C, class S = float>
struct RetNet {
  static constexpr Index keys = C.key_dim > 0 ? C.key_dim : C.d_model;
  static constexpr Index values = C.value_dim > 0 ? C.value_dim : 2 * C.d_model;
  static_assert(C.d_model > 0, "RetNet: .d_model must be positive");
  static_assert(C.n_heads > 0 && keys % C.n_heads == 0 && keys / C.n_heads % 2 == 0,
                "RetNet: .key_dim (or d_model) must be an even width for each head");
  static_assert(keys / C.n_heads <= 512, "RetNet: keys of a head are at most 512 wide");
  static_assert(values % C.n_heads == 0, "RetNet: .n_heads must divide .value_dim (or 2 d_model)");
  static_assert(C.eps > 0, "RetNet: .eps must be positive");

  static constexpr RetNetConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, K = keys / H, V = values / H;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = RetNet<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H * K, D> q_proj;  ///< W_q
  Weight<S, H * K, D> k_proj;  ///< W_k
  Weight<S, H * V, D> v_proj;  ///< W_v
  Weight<S, H * V, D> g_proj;  ///< W_g
  HeadNorm<Real, V> norm;      ///< w
  Weight<S, D, H * V> o_proj;  ///< W_o

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_proj.weight", l.q_proj...);
    f("k_proj.weight", l.k_proj...);
    f("v_proj.weight", l.v_proj...);
    f("g_proj.weight", l.g_proj...);
    f("g_norm_swish_gate", l.norm...);
    f("o_proj.weight", l.o_proj...);
  }

  static RetNet initialized(Random& random) {
    RetNet layer;
    for_each_tensor([&](auto& tensor) { fill_fan_in(tensor, random); }, layer);
    fill(layer.norm.weight, 1);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * (2 * H * K + 3 * H * V) + 3 * H * K * V);
  }

  /// γ_h, of every head.
  static constexpr std::array<Real, static_cast<std::size_t>(H)> gamma = [] {
    std::array<Real, static_cast<std::size_t>(H)> g{};
    double lost = 1.0 / 32;
    for (Real& x : g) {
      x = static_cast<Real>(1 - lost);
      lost /= 2;
    }
    return g;
  }();

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = RetNetState<Real, H, K, V>;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return run(x, batch, cache, nullptr, nullptr);
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    auto q = linear(x, q_proj), k = linear(x, k_proj);
    const auto v = linear(x, v_proj), g = linear(x, g_proj);
    rotate_halves(q.matrix(), K, state.position, config.base);
    rotate_halves(k.matrix(), K, state.position, config.base);
    Vector<Real, H * V> o;
    ssd_step(scan(q.matrix(), k.matrix(), v.matrix()), state.s.data(), o.data());
    ++state.position;
    norm.apply(o.data(), g.data(), H * V, config.eps, o.data(), nullptr);
    return linear(o, o_proj);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;             ///< [T x D]
    Sequence<Real, H * K> q, k;      ///< [T x H K], turned
    Sequence<Real, H * V> v, g;      ///< [T x H V]
    Sequence<Real, H * V> o;         ///< what was read
    Buffer<Real> r;                  ///< [T H], of the norm
    KeptStates<Real> states;         ///< S every 128 rows
    Buffer<std::int64_t> positions;  ///< [B], where the sequences began
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.r = Buffer<Real>(x.rows() * H);
    auto y = run(SequenceView<Real, D>(x), batch, cache, &cache.states, cache.r.data());
    cache.x = std::move(x);
    return y;
  }

  /// dh = dy W_o,  do and dg as in heads.hpp,  dq, dk, dv as in kernel/ssd.hpp, dq and dk turned
  /// back, and dx = Σ of what comes back through the projections.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             RetNet& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, cache.x.rows())) return {};
    const FlushDenormals guard;
    const auto& [x, q, k, v, g, o, r, states, positions] = cache;
    Sequence<Real, H * V> dg(T), dv(T);
    const auto d_o = detail::read_out_backward(norm, o_proj, dy, o, g.data(), config.eps, r.data(),
                                               dg.data(), gradient.norm, gradient.o_proj);
    Sequence<Real, H * K> dq(T), dk(T);
    ssd_backward<Real>(scan(q.matrix(), k.matrix(), v.matrix()), detail::s_part(batch), states,
                       d_o.matrix(), {dq.matrix(), dk.matrix(), dv.matrix(), {}, {}});
    turn(dq, batch, positions, -1);
    turn(dk, batch, positions, -1);
    Sequence<Real, D> dx = linear_input_gradient(SequenceView<Real, H * K>(dq), q_proj);
    add_linear_weight_gradient<Real, H * K, D>(dq, x, gradient.q_proj);
    const auto back = [&](const auto& d, const auto& weight, auto& dw) {
      add_linear_weight_gradient(d, x, dw);
      add_linear_input_gradient(d, weight, dx);
    };
    back(dk, k_proj, gradient.k_proj);
    back(dv, v_proj, gradient.v_proj);
    back(dg, g_proj, gradient.g_proj);
    return dx;
  }

 private:
  static StateInputs<Real> scan(MatrixView<const Real> q, MatrixView<const Real> k,
                                MatrixView<const Real> v) noexcept {
    return {H, H, K, V, q, k, v, {gamma.data(), v.rows, H, 0}, {}, Real(1) / std::sqrt(Real(K))};
  }

  /// Turns rows by their positions, or back.
  static void turn(Sequence<Real, H * K>& x, const Batch<State>& batch,
                   const Buffer<std::int64_t>& positions, double sign) {
    for (Index b = 0; b < batch.count(); ++b) {
      const Index begin = batch.begin(b);
      rotate_halves(x.matrix().middle_rows(begin, batch.end(b, x.rows()) - begin), K, positions[b],
                    config.base, sign);
    }
  }

  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c,
                        KeptStates<Real>* kept, Real* r) const {
    c.positions = Buffer<std::int64_t>(batch.count());
    for (Index b = 0; b < batch.count(); ++b) {
      c.positions[b] = batch.carries() ? batch[b].position : 0;
      if (batch.carries()) batch[b].position += batch.end(b, x.rows()) - batch.begin(b);
    }
    c.q = linear(x, q_proj);
    c.k = linear(x, k_proj);
    c.v = linear(x, v_proj);
    c.g = linear(x, g_proj);
    turn(c.q, batch, c.positions, 1);
    turn(c.k, batch, c.positions, 1);
    c.o = Sequence<Real, H * V>(x.rows());
    ssd(scan(c.q.matrix(), c.k.matrix(), c.v.matrix()), detail::s_part(batch), c.o.matrix(), kept);
    return detail::read_out(norm, o_proj, c.o, c.g.data(), config.eps, r);
  }
};

}  // namespace limen::inline LIMEN_ABI
