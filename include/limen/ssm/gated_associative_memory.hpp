#pragma once
/// @file  Gated associative memory: a short filter and a learned bank of memories, weighed by
/// gates.
///
///   l = conv(u)        p = softmax(u Mᵀ)        g = p M        [a; b] = W u + c
///   y = σ(a) ⊙ l + σ(b) ⊙ g
///
///   T time   D d_model   M [slots x D], the bank   W taps of the conv
///
/// Rishiraj Acharya, "Gated Associative Memory: A Parallel O(N) Architecture for Efficient Sequence
/// Modeling", arXiv:2509.00605. The bank is shared by all tokens but read by each alone: only the
/// conv mixes time, so L such layers see 1 + L (W - 1) tokens. The logits are not scaled.
///
/// As a block:  Residual<Sequential<LayerNorm<n>, GatedAssociativeMemory<c>>> and a feed-forward
/// one.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/row_product.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedAssociativeMemoryConfig {
  Index d_model = 0;  ///< D
  Index slots = 0;    ///< rows of the bank
  Index d_conv = 3;   ///< W
};

template <GatedAssociativeMemoryConfig C, class S = float>
struct GatedAssociativeMemory {
  static_assert(C.d_model > 0, "GatedAssociativeMemory: .d_model must be positive");
  static_assert(C.slots > 0, "GatedAssociativeMemory: .slots must be positive");

  static constexpr GatedAssociativeMemoryConfig config = C;
  static constexpr Index D = C.d_model, K = C.slots, W = C.d_conv, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GatedAssociativeMemory<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  DepthwiseConv<DepthwiseConvConfig{D, W}, S> causal_conv;
  Tensor<Real, K, D> memory_bank;          ///< M
  Linear<LinearConfig{D, 2 * D}, S> gate;  ///< W, c: rows of a, then of b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("causal_conv", l.causal_conv...);
    f("memory_bank", l.memory_bank...);
    f("gate", l.gate...);
  }

  static GatedAssociativeMemory initialized(Random& random) {
    GatedAssociativeMemory layer;
    layer.causal_conv = decltype(causal_conv)::initialized(random);
    fill_uniform(layer.memory_bank, std::sqrt(6.0 / (K + D)), random);
    layer.gate = decltype(gate)::initialized(random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * (2 * K * D + 2 * D * D + W * D + 2 * D); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = DepthwiseConvState<Real, W, D>;

  /// u [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> u, Batch<State> batch) const {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    auto y = causal_conv.forward(u, batch);
    const auto p = address(u);
    mix(linear(u, gate.weight, gate.bias.data()).matrix(), read(p).matrix(), y.matrix());
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> u, State& state) const noexcept {
    const FlushDenormals guard;
    auto y = causal_conv.step(u, state);
    auto p = linear(u, memory_bank);
    softmax(p.matrix(), p.matrix());
    Vector<Real, D> g;
    row_product<Real>(p.data(), memory_bank.matrix(), nullptr, g.data());
    mix(linear(u, gate.weight, gate.bias.data()).matrix(), g.matrix(), y.matrix());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename decltype(causal_conv)::Cache conv;  ///< u is in here
    Sequence<Real, D> local, global;             ///< l and g
    Sequence<Real, K> p;
    Sequence<Real, 2 * D> gates;  ///< before σ
  };

  Sequence<Real, D> forward(Sequence<Real, D> u, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    cache.p = address(u);
    cache.global = read(cache.p);
    cache.gates = linear(u, gate.weight, gate.bias.data());
    cache.local = causal_conv.forward(std::move(u), batch, cache.conv);
    Sequence<Real, D> y(cache.local);
    mix(cache.gates.matrix(), cache.global.matrix(), y.matrix());
    return y;
  }

  /// With the logits s = u Mᵀ:
  ///   dl = dy ⊙ σ(a),  dg = dy ⊙ σ(b),  da = dy ⊙ l ⊙ σ'(a),  db = dy ⊙ g ⊙ σ'(b)
  ///   dp = dg Mᵀ,  ds = p ⊙ (dp - <dp, p>),  dM = pᵀ dg + dsᵀ u        (the bank is used twice)
  ///   du = [da; db] W + ds M + what comes through the conv
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             GatedAssociativeMemory& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.p.rows())) return {};
    const FlushDenormals guard;
    const Index T = dy.rows();
    const auto& u = cache.conv.x;
    Sequence<Real, D> dl(T), dg(T);
    Sequence<Real, 2 * D> d_gates(T);
    for (Index t = 0; t < T; ++t) {
      const Real *a = cache.gates.data() + t * 2 * D, *d = dy.data() + t * dy.stride();
      Real* to = d_gates.row_data(t);
      simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
        using V = simd::Vec<Real>;
        const V one(Real(1)), d_i = load(d + i);
        const V open_l = math::sigmoid(load(a + i)), open_g = math::sigmoid(load(a + D + i));
        const V l = load(cache.local.data() + t * D + i), g = load(cache.global.data() + t * D + i);
        store(dl.row_data(t) + i, d_i * open_l);
        store(dg.row_data(t) + i, d_i * open_g);
        store(to + i, d_i * l * open_l * (one - open_l));
        store(to + D + i, d_i * g * open_g * (one - open_g));
      });
    }
    Sequence<Real, K> ds(T);
    product_nt(dg.matrix(), memory_bank.matrix(), ds.matrix());
    softmax_backward<Real>(cache.p.matrix(), ds.matrix(), ds.matrix());
    add_product_tn(cache.p.matrix(), dg.matrix(), gradient.memory_bank.matrix());
    add_product_tn(ds.matrix(), u.matrix(), gradient.memory_bank.matrix());
    add_linear_weight_gradient<Real, 2 * D, D>(d_gates, u, gradient.gate.weight);
    add_bias_gradient<Real, 2 * D>(d_gates, gradient.gate.bias);
    auto du = causal_conv.backward(dl, batch, cache.conv, gradient.causal_conv);
    add_linear_input_gradient<Real, 2 * D, D>(d_gates, gate.weight, du);
    product_nn(ds.matrix(), memory_bank.matrix(), du.matrix(), {.accumulate = true});
    return du;
  }

 private:
  /// p = softmax(u Mᵀ)
  Sequence<Real, K> address(SequenceView<Real, D> u) const {
    auto p = linear(u, memory_bank);
    softmax(p.matrix(), p.matrix());
    return p;
  }
  /// g = p M
  Sequence<Real, D> read(const Sequence<Real, K>& p) const {
    Sequence<Real, D> g(p.rows());
    product_nn(p.matrix(), memory_bank.matrix(), g.matrix());
    return g;
  }
  /// y = σ(a) ⊙ y + σ(b) ⊙ g
  static void mix(MatrixView<const Real> gates, MatrixView<const Real> g,
                  MatrixView<Real> y) noexcept {
    for (Index t = 0; t < y.rows; ++t) {
      simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
        const auto open_l = math::sigmoid(load(gates.row(t) + i));
        const auto open_g = math::sigmoid(load(gates.row(t) + D + i));
        store(y.row(t) + i, simd::fma(open_l, load(y.row(t) + i), open_g * load(g.row(t) + i)));
      });
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
