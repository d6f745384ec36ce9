#pragma once
/// @file  Each task mixes its own low-rank change of a Linear from an inventory of them.
///
///   y = x Wᵀ + b + c (x Ā) B̄        c = α / R
///   Ā_q = Σ_s w_qs A_sq              rows of head q           A [S x I x R]
///   B̄_q = Σ_s w_qs B_sq              columns of head q        B [S x R x O]
///   w_qs = σ(z_qs) / Σ_s σ(z_qs)     z: the row of the task   Z [tasks x Q S]
///                                    or another of SkillWeights
///
///   Polytropon  .n_heads = 1            MHR    .n_heads = Q, a divisor of I and of O
///   MHR-z       .train_adapters = false, and with_tasks() for new ones
///   MHR-µ       average(): the mean of all as one Lora, which learns on as such
///
/// x has a last column more than the Linear takes: the number of the row's task. With .average_task
/// the number n_tasks stands for a task that nobody knows, which gets the mean of all adapters.
/// Matrices are mixed before they multiply: once for a task, over all of its rows. The inference
/// form has mixed them all, and a step of it is that of a Lora.
///
/// With .sample, training draws: σ((z + log u - log(1 - u)) / τ) in place of σ(z), once for the
/// rows that a sequence has of a task, where the run has a generator.
///
/// Ponti et al., "Combining parameter-efficient modules for task-level generalisation",
/// arXiv:2202.13914, section 3. Caccia et al., "Multi-head adapter routing for cross-task
/// generalization", arXiv:2211.03831, section 3.

#include <array>
#include <cmath>

#include <limen/kernel/mix.hpp>
#include <limen/moe/lora.hpp>
#include <limen/moe/skill_weights.hpp>
#include <limen/moe/task_groups.hpp>

namespace limen::inline LIMEN_ABI {

template <PolytroponConfig C, class L>
struct Polytropon {
  static_assert(detail::is_linear<L>, "Polytropon: adapts a Linear");
  static_assert(C.n_tasks > 0, "Polytropon: .n_tasks must be positive");
  static_assert(C.n_skills > 0, "Polytropon: .n_skills must be positive");
  static_assert(C.rank > 0, "Polytropon: .rank must be positive");
  static_assert(C.n_heads > 0 && L::in % C.n_heads == 0 && L::out % C.n_heads == 0,
                "Polytropon: .n_heads must divide what the Linear takes and what it gives");
  static_assert(C.temperature > 0, "Polytropon: .temperature must be positive");
  static_assert(!C.round || (!C.sample && C.weigh != SkillWeights::unit),
                "Polytropon: .round is for weights that are not drawn, and not unit ones");
  static_assert(!C.sample || C.weigh != SkillWeights::unit,
                "Polytropon: unit weights are not drawn");

  static constexpr PolytroponConfig config = C;
  static constexpr Index I = L::in, O = L::out, R = C.rank, in = I + 1, out = O;
  static constexpr Index n_skills = C.n_skills, Q = C.n_heads, weights = Q * n_skills;
  /// How many there are to name.
  static constexpr Index tasks = C.n_tasks + (C.average_task ? 1 : 0);
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = std::conditional_t<is_prepared<T>,  //
                                         TaskAdapters<C, typename L::template with_scalar<T>>,
                                         Polytropon<C, typename L::template with_scalar<T>>>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  L base;                              ///< W, b
  Tensor<Real, n_skills, I, R> a;      ///< A
  Tensor<Real, n_skills, R, O> b;      ///< B
  Tensor<Real, C.n_tasks, weights> z;  ///< Z

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("base_layer", m.base...);
    f("lora_a", m.a...);
    f("lora_b", m.b...);
    f("selector.module_logits", m.z...);
  }

  static Polytropon around(const L& base, Random& random) {
    Polytropon layer;
    layer.base = base;
    fill_uniform(layer.a, std::sqrt(1.0 / 3.0 / static_cast<double>(I)), random);
    fill_uniform(layer.z, 1e-3, random);
    return layer;
  }
  static Polytropon initialized(Random& random) { return around(L::initialized(random), random); }

  static constexpr Index macs(Index rows) { return L::macs(rows) + rows * R * (I + O); }

  // ── One adapter out of many ────────────────────────────────────────────────────────────────────
  using Single = Lora<LoraConfig{.rank = R, .alpha = config.alpha, .train_base = C.train_base}, L>;

  /// What a task does, alone: to be merged, or to learn on.
  Single adapter(Index task) const {
    Single lora;
    if (task < 0 || task >= tasks) {
      fail(
          {"Polytropon: task", "one from 0 to " + std::to_string(tasks - 1), std::to_string(task)});
      return lora;
    }
    return single(weights_of(task));
  }
  /// The mean of all adapters (MHR-µ).
  Single average() const { return single(equal_weights()); }

  /// The same inventory for so many tasks: those there are keep their mixtures, new ones start near
  /// the mean. Set .train_adapters = false to let only the mixtures learn (MHR-z).
  template <PolytroponConfig New>
  Polytropon<New, L> with_tasks(Random& random) const {
    static_assert(New.n_skills == C.n_skills && New.n_heads == Q && New.rank == R,
                  "Polytropon: with_tasks keeps the inventory as it is");
    Polytropon<New, L> layer;
    layer.base = base;
    layer.a = a;
    layer.b = b;
    fill_uniform(layer.z, 1e-3, random);
    const Index kept = std::min(z.size, layer.z.size);
    for (Index i = 0; i < kept; ++i) layer.z[i] = z[i];
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x (I + 1)] -> y [T x O]
  Sequence<Real, O> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const detail::TaskGroups groups(x.matrix(), I, tasks, run_of(batch), false);
    if (!groups.sound()) return {};
    return run(x, groups, [&](Index g) { return weights_of(groups.task(g)); });
  }

  /// Mixes what the task needs while it multiplies.  Allocates nothing; NaN for no task.
  Vector<Real, O> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    auto y = base.step(VectorView<Real, I>(x.data()), state);
    const Index task = detail::whole_number(x[I], tasks);
    if (task < 0) {
      for (Index o = 0; o < O; ++o) y[o] = std::numeric_limits<Real>::quiet_NaN();
      return y;
    }
    const Vector<Real, weights> w = weights_of(task);
    Vector<Real, R> u{};
    for (Index s = 0; s < n_skills; ++s) {
      for (Index i = 0; i < I; ++i) {
        const Real scaled = scale * w[i / (I / Q) * n_skills + s] * x[i];
        detail::add_scaled(R, scaled, a.data() + (s * I + i) * R, u.values);
      }
    }
    for (Index s = 0; s < n_skills; ++s) {
      detail::for_each_head_run(sizes, false, [&](Index q, Index first, Index count) {
        detail::add_scaled(count, u[first / O] * w[q * n_skills + s], b.data() + s * R * O + first,
                           y.values + first % O);
      });
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;
    detail::TaskGroups groups;
    Sequence<Real, weights> sigma;  ///< σ(z), or what was drawn (unit: z), of each group
    Sequence<Real, weights> w;      ///< w
    Sequence<Real, R> u;            ///< c x Ā, rows by group
    Real slope = 1;                 ///< 1 / τ where drawn
  };

  Sequence<Real, O> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Random* const random = draws && batch.context != nullptr ? batch.context->random : nullptr;
    auto& [kept, groups, sigma, w, u, slope] = cache;
    groups =
        detail::TaskGroups(std::as_const(x).matrix(), I, tasks, run_of(batch), random != nullptr);
    if (!groups.sound()) return {};
    slope = random != nullptr ? 1 / Mixing::temperature : Real(1);
    sigma = Sequence<Real, weights>(groups.count());
    w = Sequence<Real, weights>(groups.count());
    u = Sequence<Real, R>(x.rows());
    auto y = run(
        x, groups,
        [&](Index g) {
          const auto of = weights_of(groups.task(g), random, sigma.row_data(g));
          std::copy_n(of.values, weights, w.row_data(g));
          return of;
        },
        u.data());
    kept = std::move(x);
    return y;
  }

  /// With u = c x Ā, of each task:
  ///   du = c dy B̄ᵀ,  dB̄ = uᵀ dy,  dĀ = xᵀ du,  dx = dy W + du Āᵀ
  ///   dA_sq = w_qs dĀ_q,  dB_sq = w_qs dB̄_q,  dw_qs = ⟨dĀ_q, A_sq⟩ + ⟨dB̄_q, B_sq⟩
  ///   dz from dw: SkillMixing (/ τ where drawn)
  Sequence<Real, in> backward(SequenceView<Real, O> dy, Batch<State>, const Cache& cache,
                              Polytropon& gradient) const {
    const Index rows = dy.rows();
    if (!fits_cache(rows, cache.x.rows())) return {};
    const FlushDenormals guard;
    const auto& [kept, groups, sigma, w, u, slope] = cache;
    const MatrixView<const Real> x = kept.matrix().middle_cols(0, I);
    Sequence<Real, in> dx(rows);
    const MatrixView<Real> d = dx.matrix().middle_cols(0, I);
    detail::base_backward<C.train_base, Real>(base, dy.matrix(), x, gradient.base, d);
    for (Index t = 0; t < rows; ++t) dx(t, I) = 0;
    Buffer<Real> mixed(sizes.of_a() + sizes.of_b()), d_mixed(mixed.size());
    const MatrixView<Real> da{d_mixed.data(), I, R, R}, db{d_mixed.data() + I * R, R, O, O};
    for (Index g = 0; g < groups.count(); ++g) {
      const auto [mixed_a, mixed_b] = mix(w.row(g).data(), mixed);
      const Index count = groups.size(g);
      const MatrixView<const Real> mine{u.data() + groups.begin(g) * R, count, R, R};
      Sequence<Real, R> du(count);
      for (Real& v : d_mixed) v = 0;
      groups.with_rows(g, dy.matrix(), [&](MatrixView<const Real> of) {
        product_nt(of, mixed_b, du.matrix());
        detail::scale_rows(scale, du.matrix());
        add_product_tn(mine, of, db);
      });
      groups.with_rows(g, x, [&](MatrixView<const Real> of) {
        add_product_tn(of, std::as_const(du).matrix(), da);
      });
      groups.change_rows(g, d, [&](MatrixView<Real> of) {
        product_nt(std::as_const(du).matrix(), mixed_a, of, {.accumulate = true});
      });
      if constexpr (C.train_adapters) {
        add_mix_gradient(sizes, w.row(g).data(), da.data, db.data, gradient.a.data(),
                         gradient.b.data());
      }
      if (groups.task(g) < C.n_tasks) {
        Vector<Real, weights> dw;
        mix_dots(sizes, a.data(), b.data(), da.data, db.data, dw.values);
        Mixing::add_slope(sigma.row(g).data(), w.row(g).data(), dw.values, slope,
                          gradient.z.data() + groups.task(g) * weights);
      }
    }
    return dx;
  }

 private:
  using Mixing = detail::SkillMixing<C, Real>;
  static constexpr bool draws = C.sample;
  static constexpr AdapterSizes sizes{n_skills, Q, I, O, R};
  static constexpr Real scale = static_cast<Real>(config.alpha / static_cast<double>(R));  ///< c

  static RoutingRun run_of(const Batch<State>& batch) {
    return {batch.offsets(), batch.count(), batch.context};
  }

  static Vector<Real, weights> equal_weights() noexcept {
    Vector<Real, weights> w;
    for (Real& v : w.values) v = Real(1) / static_cast<Real>(n_skills);
    return w;
  }

  /// w [Q x S] of a task; what the way back needs to `kept` if there is one.
  Vector<Real, weights> weights_of(Index task, Random* random = nullptr,
                                   Real* kept = nullptr) const noexcept {
    if (task >= C.n_tasks) return equal_weights();
    Vector<Real, weights> w;
    std::copy_n(z.data() + task * weights, weights, w.values);
    if (random != nullptr) Mixing::draw(w.values, *random);
    Mixing::weigh(w.values, kept);
    return w;
  }

  struct Mixed {
    MatrixView<const Real> a, b;  ///< Ā [I x R], B̄ [R x O]
  };
  Mixed mix(const Real* w, Buffer<Real>& to) const noexcept {
    mix_adapters(sizes, w, a.data(), b.data(), to.data(), to.data() + I * R);
    return {{to.data(), I, R, R}, {to.data() + I * R, R, O, O}};
  }

  /// w = mixture(g) of each group; u [T x R] by group, where somebody keeps it.
  template <class F>
  Sequence<Real, O> run(SequenceView<Real, in> x, const detail::TaskGroups& groups, F mixture,
                        Real* u = nullptr) const {
    const SequenceView<Real, I> seen(x.data(), x.rows(), x.stride());
    auto y = base.forward(seen, Batch<State>());
    Buffer<Real> mixed(sizes.of_a() + sizes.of_b()), own(u == nullptr ? x.rows() * R : 0);
    if (u == nullptr) u = own.data();
    for (Index g = 0; g < groups.count(); ++g) {
      const auto w = mixture(g);
      const auto [mixed_a, mixed_b] = mix(w.values, mixed);
      const MatrixView<Real> mine{u + groups.begin(g) * R, groups.size(g), R, R};
      groups.with_rows(g, seen.matrix(),
                       [&](MatrixView<const Real> of) { product_nn(of, mixed_a, mine); });
      detail::scale_rows(scale, mine);
      groups.change_rows(g, y.matrix(), [&](MatrixView<Real> of) {
        product_nn(mine, mixed_b, of, {.accumulate = true});
      });
    }
    return y;
  }

  Single single(const Vector<Real, weights>& w) const {
    Single lora;
    lora.base = base;
    Buffer<Real> mixed(sizes.of_a() + sizes.of_b());
    const auto [mixed_a, mixed_b] = mix(w.values, mixed);
    for (Index r = 0; r < R; ++r) {
      for (Index i = 0; i < I; ++i) lora.a(r, i) = mixed_a(i, r);
      for (Index o = 0; o < O; ++o) lora.b(o, r) = mixed_b(r, o);
    }
    return lora;
  }
};

}  // namespace limen::inline LIMEN_ABI
