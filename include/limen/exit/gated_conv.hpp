#pragma once
/// @file  A convolution that computes only the channels its input needs.
///
///   y = g(x) ⊙ relu(norm(conv(x)))        x [T x H H' I], y [T x P O], g [T x O] for all positions
///
///     constexpr GatedConvConfig c{.conv = {.image = {16, 16}, .d_in = 64, .d_out = 64},
///                                 .gate = GateKind::filter};
///     const auto fast = prepare(layer);        // closed channels are not computed
///
/// The learning form computes all channels and multiplies. The inference form packs the open rows
/// of the weight for each image and multiplies only those; input channels that are 0 everywhere
/// (closed by the layer before) are left out as well. Its norm is folded into the weight. A linear
/// map is a kernel of 1 x 1 on an image of 1 x 1.
///
/// With `.gate = GateKind::filter` the gate learns from what its layer did, not from the task, see
/// exit/filter_selection.hpp: decoupled, by `predictor_step` after each training step, its input a
/// constant; or `.joint`, a part of the loss that moves the layers below too. Papers:
/// channel_gate.hpp.

#include <type_traits>

#include <limen/exit/channel_gate.hpp>
#include <limen/exit/filter_selection.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/batch_norm.hpp>
#include <limen/nn/conv.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedConvConfig {
  Conv2dConfig conv;
  GateKind gate = GateKind::filter;  ///< how g decides
  double density = 0.5;              ///< share that GateKind::top keeps
  double tau = 2.0 / 3;              ///< temperature of GateKind::gumbel and hard_concrete
  bool soft = false;                 ///< the gate's twin without a decision
  double price = 0;                  ///< of open channels (channel_gate.hpp)
  double joint = 0;                  ///< weight of the filter's own loss in backward; 0: decoupled
  FilterTargetConfig target = {};    ///< what the filter learns
  bool norm = true;                  ///< batch norm behind the convolution

  constexpr ChannelGateConfig gate_config() const {
    return {.d_in = conv.d_in,
            .d_out = conv.d_out,
            .positions = conv.image.height * conv.image.width,
            .kind = gate,
            .density = density,
            .tau = tau,
            .soft = soft,
            .price = price};
  }
  constexpr BatchNormConfig norm_config() const {
    // Feature boosting has the gate for a scale.
    return {
        .d = conv.d_out, .positions = conv.window().positions(), .weight = gate != GateKind::top};
  }
};

template <GatedConvConfig C, class S = float>
struct GatedConv;

template <GatedConvConfig C, class S>
  requires(!is_prepared<S>)
struct GatedConv<C, S> {
  using Conv = Conv2d<C.conv, S>;
  using Gate = ChannelGate<C.gate_config(), S>;
  using Norm = BatchNorm<C.norm_config(), S>;
  static_assert(C.joint >= 0 && (C.joint == 0 || C.gate == GateKind::filter),
                "GatedConv: .joint must be 0 or more, and is of GateKind::filter");

  static constexpr GatedConvConfig config = C;
  static constexpr Index I = Conv::I, O = Conv::O, P = Conv::P, in = Conv::in, out = Conv::out;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = GatedConv<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Conv conv;
  Optional<C.norm, Norm> norm;
  Gate gate;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("conv", l.conv...);
    f("norm", l.norm...);
    f("gate", l.gate...);
  }

  static GatedConv initialized(Random& random) {
    GatedConv layer;
    layer.conv = Conv::initialized(random);
    if constexpr (C.norm) layer.norm = Norm::initialized(random);
    layer.gate = Gate::initialized(random);
    return layer;
  }

  /// With all channels open.
  static constexpr Index macs(Index rows) { return Conv::macs(rows) + Gate::macs(rows); }
  /// Of one image, with so many open inputs and outputs.
  static constexpr Index open_macs(Index inputs, Index outputs) {
    return P * Conv::window.taps() * inputs * outputs + Gate::macs(1);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    auto y = limen::forward(conv, x);
    if constexpr (C.norm) y = limen::forward(norm, y);
    activate(Activation::relu, y.data(), y.data(), y.size());
    const auto g = gate.forward(x, batch);
    multiply(g, y);
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    auto y = conv.step(x, state);
    if constexpr (C.norm) y = norm.step(y, state);
    activate(Activation::relu, y.data(), y.data(), out);
    const auto g = gate.step(x, state);
    for (Index n = 0; n < out; ++n) y[n] *= g[n % O];
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename Conv::Cache conv;
    std::conditional_t<C.norm, typename Norm::Cache, NoState> norm;
    typename Gate::Cache gate;
    Sequence<Real, O> g;        ///< [T x O]
    Sequence<Real, out> z;      ///< [T x P O], behind the relu, without the mask
    FilterLoss<Real, O> own{};  ///< of the filter, where it learns jointly

    /// What backward adds to the task's loss.
    double loss() const { return gate.loss() + config.joint * own.value; }
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    const FlushDenormals guard;
    cache.g = gate.forward(Sequence<Real, in>(x), batch, cache.gate);
    cache.z = conv.forward(std::move(x), batch, cache.conv);
    if constexpr (C.norm) cache.z = norm.forward(std::move(cache.z), batch, cache.norm);
    activate(Activation::relu, cache.z.data(), cache.z.data(), cache.z.size());
    if constexpr (config.joint > 0) cache.own = own_loss(cache, target);
    Sequence<Real, out> y = cache.z;
    multiply(cache.g, y);
    return y;
  }

  /// dg_o = Σ_p dy_po z_po,  dz = g ⊙ dy where z > 0
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              GatedConv& gradient) const {
    if (!fits_cache(dy.rows(), cache.z.rows())) return {};
    const FlushDenormals guard;
    auto dz = dy.copy();
    auto dg = Sequence<Real, O>::zeros(dy.rows());
    for (Index t = 0; t < dy.rows(); ++t) {
      for (Index n = 0; n < out; ++n) {
        const Real z = cache.z(t, n), d = dz(t, n);
        dg(t, n % O) += d * z;
        dz(t, n) = z > 0 ? d * cache.g(t, n % O) : 0;
      }
    }
    if constexpr (C.norm) dz = norm.backward(dz, batch, cache.norm, gradient.norm);
    auto dx = conv.backward(dz, batch, cache.conv, gradient.conv);
    const auto dx_gate = gate.backward(dg, batch, cache.gate, gradient.gate);
    if (dx.rows() == dx_gate.rows()) add_rows(dx_gate.matrix(), dx.matrix());
    if constexpr (config.joint > 0) {
      if (cache.own.de.rows() == dx.rows()) learn_jointly(cache, gradient, dx);
    }
    return dx;
  }

  /// The gate's own lesson: adds `weight` times the gradient of the loss of filter_selection.hpp to
  /// gradient.gate, nothing else (the gate's input is taken for a constant); its value.
  double predictor_step(const Cache& cache, GatedConv& gradient,
                        const FilterTargetConfig& how = C.target, double weight = 1) const
    requires(C.gate == GateKind::filter)
  {
    auto loss = own_loss(cache, how);
    teach(cache, loss.de, weight, gradient);
    return loss.value;
  }

 private:
  /// A copy: clang (16, 19) stumbles over a reference to a config within a config.
  static constexpr FilterTargetConfig target = C.target;

  static FilterLoss<Real, O> own_loss(const Cache& cache, const FilterTargetConfig& how) {
    const auto targets = filter_targets<O>(SequenceView<Real, out>(cache.z), how);
    if (targets.rows() != cache.z.rows() || targets.rows() == 0) return {};
    return filter_loss<Real, O>(cache.gate.e, targets);
  }

  /// dW += w deᵀ u,  db += w Σ de;  de becomes w de.
  static void teach(const Cache& cache, Sequence<Real, O>& de, double weight, GatedConv& gradient) {
    for (Index i = 0; i < de.size(); ++i) de.data()[i] *= static_cast<Real>(weight);
    if (de.rows() == 0) return;
    add_linear_weight_gradient<Real, O, I>(de, cache.gate.u, gradient.gate.weight);
    add_bias_gradient<Real, O>(de, gradient.gate.bias);
  }

  /// du = de W,  dx_p += u ⊙ (du - u · du) / (pixels of x)
  void learn_jointly(const Cache& cache, GatedConv& gradient, Sequence<Real, in>& dx) const {
    auto de = cache.own.de;
    teach(cache, de, config.joint, gradient);
    const auto du = linear_input_gradient<Real, O, I>(de, gate.weight);
    for (Index t = 0; t < dx.rows(); ++t) {
      Real both = 0;
      for (Index i = 0; i < I; ++i) both += cache.gate.u(t, i) * du(t, i);
      for (Index n = 0; n < in; ++n) {
        const Index i = n % I;
        dx(t, n) += cache.gate.u(t, i) * (du(t, i) - both) * Real(I) / Real(in);
      }
    }
  }

  static void multiply(const Sequence<Real, O>& g, Sequence<Real, out>& y) noexcept {
    for (Index t = 0; t < y.rows(); ++t) {
      for (Index p = 0; p < P; ++p) {
        multiply_rows<Real>(MatrixView<const Real>{g.row(t).data(), 1, O, O},
                            {y.row_data(t) + p * O, 1, O, O});
      }
    }
  }
};

}  // namespace limen::inline LIMEN_ABI

#include <limen/exit/open_conv.hpp>  // GatedConv<C, Prepared<Real>>
