#pragma once
/// @file  Gated leaky neurons (GLIF): three learned gates between two ways to leak, two to take in
/// and two to reset.
///
///   A = 1 - α (1 - τ)                  leak: by a factor τ (α = 1), or by an amount l
///   G_t = 1 - β (1 - c_t)              intake: weighed by c of that step (β = 1), or as it is
///   v_t = A v_{t-1} - (1 - α) l + G_t x_t - γ A v_{t-1} s_{t-1} - (1 - γ) r s_{t-1}
///   s_t = H(v_t - θ)                   reset: to 0 (γ = 1), or by an amount r
///
///   x, s [T x D]; α, β, γ, τ, θ, l, r [D] and c [steps x D] are kept as what σ makes them of. τ is
///   a factor here, not a time constant.
///
/// With `.steps` c is one row for each step, so the layer knows where in its sequence it is, and
/// refuses to go past the last: `forward` by an error, `step`, which cannot fail, by NaN. Without
/// (0), c is one row for all steps, and sequences may be of any length.
///
/// Yao, Li, Mo & Cheng, GLIF: A Unified Gated Leaky Integrate-and-Fire Neuron for Spiking Neural
/// Networks, arXiv:2210.13768, equations 10 to 13; steps and starts as SpikingJelly has them.

#include <cmath>
#include <limits>

#include <limen/core/initialize.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/gated_fire.hpp>
#include <limen/kernel/math.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/spike.hpp>
#include <limen/spiking/step_number.hpp>
#include <limen/spiking/surrogate.hpp>

namespace limen::inline LIMEN_ABI {

struct GlifConfig {
  Index d_model = 0;               ///< D, neurons
  Index steps = 0;                 ///< of a sequence at most; 0: any, c is shared by all
  double decay = 0.25;             ///< τ at the start
  double threshold = 0.5;          ///< θ at the start, below 1
  double linear_decay = 0.0625;    ///< l at the start; published: θ / (2 steps)
  double reset_by = 0.5;           ///< r at the start; published: θ
  double conductance = 0.5;        ///< c at the start
  SpikeTest test = SpikeTest::ge;  ///< whether θ itself fires
};

template <class Real, Index D, bool Counts>
struct GlifState : StepNumber<Real, Counts> {
  Fixed<Real, D> v;  ///< membrane
  Fixed<Real, D> s;  ///< spikes that are not paid for yet

  NeuronArrays<Real, 2> arrays() { return {v.data(), s.data()}; }
};

template <GlifConfig C, class S = float, auto Phi = ArcTan{}>
struct Glif {
  static constexpr bool inside(double p) { return p > 0 && p < 1; }
  static_assert(C.d_model > 0, "Glif: .d_model must be positive");
  static_assert(C.steps >= 0, "Glif: .steps must not be negative");
  static_assert(inside(C.decay) && inside(C.threshold) && inside(C.linear_decay) &&
                    inside(C.reset_by) && inside(C.conductance),
                "Glif: every number must be between 0 and 1");
  static_assert(Surrogate<std::remove_const_t<decltype(Phi)>> && sound(Phi),
                "Glif: the surrogate needs a derivative, and positive numbers");

  static constexpr GlifConfig config = C;
  static constexpr Index D = C.d_model, steps = C.steps, rows_of_c = steps > 0 ? steps : 1, in = D,
                         out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Glif<C, T, Phi>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, D> alpha, beta, gamma;      ///< σ of it: gates of leak, intake, reset
  Tensor<Real, D> tau;                     ///< τ = σ(tau)
  Tensor<Real, D> threshold;               ///< θ
  Tensor<Real, D> linear_decay;            ///< l
  Tensor<Real, D> reset_by;                ///< r
  Tensor<Real, rows_of_c, D> conductance;  ///< c

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("alpha", l.alpha...);
    f("beta", l.beta...);
    f("gamma", l.gamma...);
    f("tau", l.tau...);
    f("threshold", l.threshold...);
    f("linear_decay", l.linear_decay...);
    f("reset_by", l.reset_by...);
    f("conductance", l.conductance...);
  }

  static Glif initialized(Random& random) {
    Glif layer;
    for (auto* gate : {&layer.alpha, &layer.beta, &layer.gamma}) fill_uniform(*gate, 0.1, random);
    const auto before_sigmoid = [](double p) { return std::log(p / (1 - p)); };
    fill(layer.tau, before_sigmoid(config.decay));
    fill(layer.threshold, before_sigmoid(config.threshold));
    fill(layer.linear_decay, before_sigmoid(config.linear_decay));
    fill(layer.reset_by, before_sigmoid(config.reset_by));
    fill(layer.conductance, before_sigmoid(config.conductance));
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * 5 * D; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = GlifState<Real, D, (steps > 0)>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows()) || !fits_steps("Glif", steps, batch, x.rows())) return {};
    const FlushDenormals guard;
    const Numbers numbers(*this);
    Sequence<Real, D> gated(x.rows());
    for_each_step_number(batch, x.rows(), [&](Index row, Index t) {
      numbers.gate(t, x.row(row).data(), gated.row_data(row));
    });
    move_step_numbers(batch, x.rows());
    return neurons_forward(numbers.unit(), SequenceView<Real, D>(gated), batch);
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> gated;
    const Index t = state.step_number();
    if (steps > 0 && t >= steps) {
      for (Index c = 0; c < D; ++c) gated[c] = std::numeric_limits<Real>::quiet_NaN();
      return gated;
    }
    Vector<Real, 5 * D> room;
    intake(t, x.data(), gated.data());
    state.move_on(1);
    return neurons_step(fill_unit(room.data()), VectorView<Real, D>(gated), state);
  }

 private:
  using V = simd::Vec<Real>;
  using Unit = GatedFireUnit<C.test, Phi, Real>;

  /// x times G of step t.
  void intake(Index t, const Real* x, Real* gated) const noexcept {
    const Real* c = conductance.data() + (steps > 0 ? t * D : 0);
    const V one(Real(1));
    simd::for_each<Real>(D, [&](Index d, auto load, auto store) {
      const V weight = one - math::sigmoid(load(c + d));
      store(gated + d, simd::fnma(math::sigmoid(load(beta.data() + d)), weight, one) * load(x + d));
    });
  }

  /// d: gradient of x G, becomes that of x.
  void add_intake_gradient(Index t, const Real* x, Real* d, Glif& gradient) const noexcept {
    const Index at = steps > 0 ? t * D : 0;
    const V one(Real(1));
    simd::for_each<Real>(D, [&](Index c, auto load, auto store) {
      const V be = math::sigmoid(load(beta.data() + c));
      const V w = math::sigmoid(load(conductance.data() + at + c));
      const V d_gated = load(d + c), dG = d_gated * load(x + c);
      Real* const d_beta = gradient.beta.data() + c;
      Real* const d_c = gradient.conductance.data() + at + c;
      store(d_beta, simd::fnma(be * (one - be) * (one - w), dG, load(d_beta)));
      store(d_c, simd::fma(w * (one - w) * be, dG, load(d_c)));
      store(d + c, simd::fnma(be, one - w, one) * d_gated);
    });
  }

  Unit fill_unit(Real* room) const noexcept {
    const V one(Real(1));
    simd::for_each<Real>(D, [&](Index d, auto load, auto store) {
      const auto p = [&](const Tensor<Real, D>& raw) {
        return math::sigmoid(load(raw.data() + d));
      };
      const V al = p(alpha), ga = p(gamma), a = simd::fnma(al, one - p(tau), one);
      store(room + d, a);
      store(room + D + d, (one - al) * p(linear_decay));
      store(room + 2 * D + d, ga * a);
      store(room + 3 * D + d, (one - ga) * p(reset_by));
      store(room + 4 * D + d, p(threshold));
    });
    return {room, room + D, room + 2 * D, room + 3 * D, room + 4 * D};
  }

  /// What one call computes with.
  struct Numbers {
    const Glif& layer;
    Buffer<Real> room{5 * D};
    explicit Numbers(const Glif& of) : layer(of) { layer.fill_unit(room.data()); }
    Unit unit() const {
      const Real* r = room.data();
      return {r, r + D, r + 2 * D, r + 3 * D, r + 4 * D};
    }
    void gate(Index t, const Real* x, Real* gated) const { layer.intake(t, x, gated); }
  };

 public:
  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x D]
    Buffer<Index> first;  ///< [B], the step each sequence began at
    NeuronCache<Unit, D> neurons;
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows()) || !fits_steps("Glif", steps, batch, x.rows())) return {};
    const FlushDenormals guard;
    const Numbers numbers(*this);
    Sequence<Real, D> gated(x.rows());
    cache.first = first_step_numbers(batch);
    for_each_step_number(batch, x.rows(), [&](Index row, Index t) {
      numbers.gate(t, x.row(row).data(), gated.row_data(row));
    });
    move_step_numbers(batch, x.rows());
    cache.x = std::move(x);
    return neurons_forward(numbers.unit(), std::move(gated), batch, cache.neurons);
  }

  /// From those of the unit (kernel/gated_fire.hpp) and dG_t = δ_t ⊙ x_t:
  ///   dα = -(1 - τ) (dA + γ dK) - l dL    dτ = α (dA + γ dK)    dγ = A dK - r dR
  ///   dl = (1 - α) dL,  dr = (1 - γ) dR,  dβ = -Σ_t (1 - c_t) dG_t,  dc_t = β dG_t
  /// each times p (1 - p) of its sigmoid.
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Glif& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(ds.rows()) || !fits_cache(ds.rows(), cache.x.rows()) ||
        !fits_cache(batch.count(), cache.first.size(), "sequences of the batch")) {
      return {};
    }
    const FlushDenormals guard;
    const Numbers numbers(*this);
    Buffer<Real> sums;
    auto dx = neurons_backward(numbers.unit(), ds, batch, cache.neurons, sums);
    const auto p = [](Real raw) { return 1 / (1 + std::exp(-raw)); };
    for (Index c = 0; c < D; ++c) {
      const Real al = p(alpha[c]), ga = p(gamma[c]), ta = p(tau[c]), th = p(threshold[c]);
      const Real l = p(linear_decay[c]), r = p(reset_by[c]), a = 1 - al * (1 - ta);
      const Real dL = sums[D + c], dK = sums[2 * D + c], dR = sums[3 * D + c];
      const Real dA = sums[c] + ga * dK;
      gradient.alpha[c] += al * (1 - al) * (-(1 - ta) * dA - l * dL);
      gradient.tau[c] += ta * (1 - ta) * al * dA;
      gradient.gamma[c] += ga * (1 - ga) * (a * dK - r * dR);
      gradient.linear_decay[c] += l * (1 - l) * (1 - al) * dL;
      gradient.reset_by[c] += r * (1 - r) * (1 - ga) * dR;
      gradient.threshold[c] += th * (1 - th) * sums[4 * D + c];
    }
    for (Index b = 0; b < batch.count(); ++b) {
      for (Index row = batch.begin(b); row < batch.end(b, ds.rows()); ++row) {
        const Index t = steps > 0 ? cache.first[b] + row - batch.begin(b) : 0;
        add_intake_gradient(t, cache.x.row(row).data(), dx.row_data(row), gradient);
      }
    }
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
