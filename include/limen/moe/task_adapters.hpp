#pragma once
/// @file  The inference form of Polytropon: the adapter of each task, mixed and in panels.
///
///   y = x Wᵀ + b + c (x Āᵀ) B̄ᵀ        Ā, B̄ of the row's task, the last column of x

#include <array>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/moe/lora.hpp>
#include <limen/moe/task_groups.hpp>

namespace limen::inline LIMEN_ABI {

/// How the logits z of a task become weights of adapters.
enum class SkillWeights {
  shares,  ///< σ(z) / Σ_s σ(z)
  scaled,  ///< σ(z) √(Q / S)
  unit,    ///< z / ‖z‖
};

struct PolytroponConfig {
  Index n_tasks = 0;   ///< that have mixtures of their own
  Index n_skills = 8;  ///< S, adapters in the inventory
  Index n_heads = 1;   ///< Q, pieces of the widths that are mixed apart
  Index rank = 4;      ///< R
  double alpha = 4;    ///< α
  SkillWeights weigh = SkillWeights::shares;
  bool round = false;          ///< σ(z) to 0 or 1, with the slope of σ(z)
  bool average_task = false;   ///< one task more, which is nobody's
  bool sample = false;         ///< draw the mixtures while training
  double temperature = 1;      ///< τ, of what is drawn
  bool train_base = false;     ///< W and b learn, too
  bool train_adapters = true;  ///< A and B learn, not only Z
};

template <PolytroponConfig C, class L>
struct TaskAdapters {
  static constexpr Index I = L::in, O = L::out, R = C.rank, in = I + 1, out = O;
  static constexpr Index tasks = C.n_tasks + (C.average_task ? 1 : 0);
  using S = typename detail::ScalarOf<L>::type;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = TaskAdapters<C, typename L::template with_scalar<T>>;

  L base;                                                          ///< W, b
  std::array<Weight<S, R, I>, static_cast<std::size_t>(tasks)> a;  ///< c Āᵀ
  std::array<Weight<S, O, R>, static_cast<std::size_t>(tasks)> b;  ///< B̄ᵀ

  template <class Learned>
  void prepare_from(const Learned& learned) {
    prepare_into(base, learned.base);
    for (Index n = 0; n < tasks; ++n) {
      auto lora = learned.adapter(n);
      detail::scale_rows(static_cast<Real>(Learned::config.alpha / static_cast<double>(R)),
                         lora.a.matrix());
      a[static_cast<std::size_t>(n)].prepare_from(lora.a);
      b[static_cast<std::size_t>(n)].prepare_from(lora.b);
    }
  }

  static constexpr Index macs(Index rows) { return L::macs(rows) + rows * R * (I + O); }

  using State = NoState;

  /// x [T x (I + 1)] -> y [T x O]
  Sequence<Real, O> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const detail::TaskGroups groups(x.matrix(), I, tasks, {batch.offsets(), batch.count()}, false);
    if (!groups.sound()) return {};
    const SequenceView<Real, I> seen(x.data(), x.rows(), x.stride());
    auto y = base.forward(seen, batch);
    for (Index g = 0; g < groups.count(); ++g) {
      const auto task = static_cast<std::size_t>(groups.task(g));
      Sequence<Real, R> u(groups.size(g));
      groups.with_rows(g, seen.matrix(), [&](MatrixView<const Real> of) {
        product_nt(of, a[task].view(), u.matrix());
      });
      groups.change_rows(g, y.matrix(), [&](MatrixView<Real> of) {
        product_nt(std::as_const(u).matrix(), b[task].view(), of, {.accumulate = true});
      });
    }
    return y;
  }

  /// Allocates nothing; NaN for no task.
  Vector<Real, O> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    auto y = base.step(VectorView<Real, I>(x.data()), state);
    const Index task = detail::whole_number(x[I], tasks);
    if (task < 0) {
      for (Index o = 0; o < O; ++o) y[o] = std::numeric_limits<Real>::quiet_NaN();
      return y;
    }
    const auto u = linear(VectorView<Real, I>(x.data()), a[static_cast<std::size_t>(task)]);
    product_nt(u.matrix(), b[static_cast<std::size_t>(task)].view(), y.matrix(),
               {.accumulate = true});
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
