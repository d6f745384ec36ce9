#pragma once
/// @file  A block that a row may pass by: a gate in front of it looks at the row and decides.
///
///   a = gate(x),  m = 1 where a > 0, else 0        x, y [T x D], a [T x 1], one for each row
///   y = m F(x) + (1 - m) x                         rows with m = 0 are not computed
///
/// A step has no slope, so training lends it one (`estimator`):
///
///   sigmoid    dm/da = σ(a) (1 - σ(a))                             (Bengio et al.,
///   arXiv:1308.3432) identity   1 clipped    1 where |a| <= 1, else 0 gumbel     s = σ((a + log u
///   - log(1 - u)) / τ), m = [s > 1/2], dm/da = s (1 - s) / τ
///              u drawn in training where the run has a generator, else 1/2 (arXiv:1611.01144)
///   soft       m = σ(a) itself, in training and in use: nothing is skipped; to start from
///
/// `.price` is what an open gate costs: backward adds the slope of price · mean m. SkipNet (Wang et
/// al., arXiv:1711.09485). In training all rows run F: it must have no memory, and statistics that
/// F measures are those of all rows.

#include <cmath>
#include <utility>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

enum class GateEstimator { sigmoid, identity, clipped, gumbel, soft };

struct SkipGateConfig {
  GateEstimator estimator = GateEstimator::sigmoid;
  double tau = 1;    ///< τ of gumbel; to be made smaller, it is a config of its own
  double price = 0;  ///< of an open gate
};

template <class F, class Scalar = typename F::Scalar>
using SkipGateLinear =
    typename Linear<LinearConfig{.d_in = F::in, .d_out = 1}>::template with_scalar<Scalar>;

namespace detail {
LIMEN_RULE(skips_the_width, "SkipGate: the block must give as many numbers as it takes");
}

template <SkipGateConfig C, class F, class Gate = SkipGateLinear<F>>
struct SkipGate {
  static_assert(detail::compose<F, Gate>() && detail::skips_the_width < F::in == F::out,
                detail::takes<F::in>, detail::gives < F::out >> ::ok);
  static_assert(Gate::in == F::in && Gate::out == 1,
                "SkipGate: the gate must take what the block takes and give one number");
  static_assert(std::is_empty_v<typename F::State> && std::is_empty_v<typename Gate::State>,
                "SkipGate: block and gate must have no memory, as training shows them all rows");
  static_assert(C.tau > 0, "SkipGate: .tau must be above 0");
  static_assert(C.price >= 0, "SkipGate: .price must be 0 or more");

  static constexpr SkipGateConfig config = C;
  static constexpr Index D = F::in, in = D, out = D;
  static constexpr bool work_depends_on_data = true;
  static constexpr bool soft = C.estimator == GateEstimator::soft;
  using Scalar = typename F::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar =
      SkipGate<C, typename F::template with_scalar<T>, typename Gate::template with_scalar<T>>;

  Gate gate;
  F block;

  template <class V, class... L>
  static constexpr void visit(V&& f, L&... l) {
    f("gate", l.gate...);
    f("block", l.block...);
  }

  /// Open for nine rows in ten at the start: a gate that is closed learns nothing about its block.
  static SkipGate initialized(Random& random) {
    SkipGate layer{Gate::initialized(random), F::initialized(random)};
    if constexpr (requires { layer.gate.bias[0]; }) layer.gate.bias[0] = Real(2.5);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    const FlushDenormals guard;
    const auto a = gate.forward(x, of<Gate>(batch));
    if (a.rows() != x.rows()) return {};
    if constexpr (soft) {
      auto y = block.forward(x, of<F>(batch));
      if (y.rows() == x.rows()) mix(a, x, y);
      return y;
    }
    Buffer<Index> open(x.rows());
    Index count = 0;
    for (Index t = 0; t < x.rows(); ++t) {
      if (a(t, 0) > 0) open[count++] = t;
    }
    if (count == x.rows()) return block.forward(x, of<F>(batch));
    auto y = x.copy();
    if (count == 0) return y;
    Sequence<Real, D> mine(count);
    gather_rows(x.matrix(), open.data(), mine.matrix());
    const auto f = block.forward(SequenceView<Real, D>(mine), of<F>(batch));
    if (f.rows() != count) return {};
    scatter_rows(f.matrix(), open.data(), y.matrix());
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept
    requires(Streaming<F> && Streaming<Gate>)
  {
    const FlushDenormals guard;
    typename Gate::State gate_state;
    typename F::State state;
    const Real a = gate.step(x, gate_state)[0];
    if (!soft && !(a > 0)) return x.copy();
    auto y = block.step(x, state);
    if constexpr (soft) mix_row(sigmoid(a), x.data(), y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x, f;  ///< x: where a gate was open, and where not
    Buffer<Real> m, slope;   ///< [T], slope: dm/da
    detail::cache_of<Gate> gate;
    detail::cache_of<F> block;
    double open = 0;  ///< mean m
    double price = 0;

    /// backward adds its slope by itself.
    double loss() const { return price * open; }
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<F> && Trainable<Gate>)
  {
    const FlushDenormals guard;
    const Index rows = x.rows();
    const auto a = gate.forward(Sequence<Real, D>(x), of<Gate>(batch), cache.gate);
    cache.x = x;
    cache.f = block.forward(std::move(x), of<F>(batch), cache.block);
    if (a.rows() != rows || cache.f.rows() != rows) return {};
    open(a, batch.context, cache);
    auto y = cache.f;
    for (Index t = 0; t < rows; ++t) {
      mix_row(cache.m[t], cache.x.row(t).data(), y.row_data(t));
    }
    return y;
  }

  /// dF = m dy,  dx = (1 - m) dy + F'(dF) + gate'(da),  da = (dy · (F(x) - x) + price / T) dm/da
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             SkipGate& gradient) const
    requires(Trainable<F> && Trainable<Gate>)
  {
    if (!fits_cache(dy.rows(), cache.m.size())) return {};
    const FlushDenormals guard;
    const Index rows = dy.rows();
    const Real price =
        rows > 0 ? static_cast<Real>(config.price / static_cast<double>(rows)) : Real(0);
    Sequence<Real, D> df(rows), dx(rows);
    Sequence<Real, 1> da(rows);
    for (Index t = 0; t < rows; ++t) {
      const Real m = cache.m[t];
      Real dm = price;
      for (Index d = 0; d < D; ++d) {
        const Real g = dy(t, d);
        dm += g * (cache.f(t, d) - cache.x(t, d));
        df(t, d) = m * g;
        dx(t, d) = (1 - m) * g;
      }
      da(t, 0) = dm * cache.slope[t];
    }
    const auto through = block.backward(df, of<F>(batch), cache.block, gradient.block);
    const auto asked = gate.backward(da, of<Gate>(batch), cache.gate, gradient.gate);
    if (through.rows() != rows || asked.rows() != rows) return {};
    add_rows(through.matrix(), dx.matrix());
    add_rows(asked.matrix(), dx.matrix());
    return dx;
  }

 private:
  template <class L>
  static Batch<typename L::State> of(const Batch<State>& batch) {
    Batch<typename L::State> own;
    own.context = batch.context;
    return own;
  }
  static Real sigmoid(Real a) noexcept { return 1 / (1 + std::exp(-a)); }

  /// y = m y + (1 - m) x
  static void mix_row(Real m, const Real* x, Real* y) noexcept {
    if (m == 1) return;
    for (Index d = 0; d < D; ++d) y[d] = m == 0 ? x[d] : m * y[d] + (1 - m) * x[d];
  }
  static void mix(const Sequence<Real, 1>& a, SequenceView<Real, D> x, Sequence<Real, D>& y) {
    for (Index t = 0; t < x.rows(); ++t) mix_row(sigmoid(a(t, 0)), x.row(t).data(), y.row_data(t));
  }

  void open(const Sequence<Real, 1>& a, Context* context, Cache& cache) const {
    const Index rows = a.rows();
    cache.m = Buffer<Real>(rows);
    cache.slope = Buffer<Real>(rows);
    cache.price = config.price;
    cache.open = 0;
    Random* const random = context != nullptr ? context->random : nullptr;
    for (Index t = 0; t < rows; ++t) {
      Real v = a(t, 0), by = 1;
      if constexpr (C.estimator == GateEstimator::gumbel) {
        if (random != nullptr) {
          const double u = std::fma(random->uniform(), 1 - 0x1p-53, 0x1p-54);  // neither 0 nor 1
          v += static_cast<Real>(std::log(u) - std::log1p(-u));
        }
        by = static_cast<Real>(1 / config.tau);
      }
      const Real s = sigmoid(v * by);
      cache.m[t] = soft ? s : Real(v > 0);
      cache.slope[t] = C.estimator == GateEstimator::identity  ? Real(1)
                       : C.estimator == GateEstimator::clipped ? Real(std::abs(v) <= 1)
                                                               : s * (1 - s) * by;
      cache.open += static_cast<double>(cache.m[t]);
    }
    if (rows > 0) cache.open /= static_cast<double>(rows);
  }
};

}  // namespace limen::inline LIMEN_ABI
