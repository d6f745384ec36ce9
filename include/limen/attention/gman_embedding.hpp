#pragma once
/// @file  Where a row of Gman (gman.hpp) is, and when.
///
///   e_tn = FC(S_n) + FC(day_t ‖ slot_t)        FC: Linear, relu, Linear
///
///   S [N x D], e [rows of nodes x D], for the steps that are asked for
///
/// Days and slots are ones among zeros to their FC, so its first Linear is a row for each of them.
///
/// Zheng et al., arXiv:1911.08415, "Spatio-temporal embedding".

#include <string>

#include <limen/attention/gman_parts.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Of a layer that has learned nodes, node_fc, times, times_bias and times_out.
template <class L>
struct GmanEmbedding {
  static constexpr Index N = L::N, D = L::D, Days = L::Days, Slots = L::Slots;
  using Real = typename L::Scalar;
  using Embedded = Sequence<Real, D>;

  struct Cache {
    Buffer<Index> when;  ///< [T][2]: rows of `times`
    cache_of<decltype(L::node_fc)> node_fc;
    Embedded time_h;  ///< [T x D], behind relu
    cache_of<decltype(L::times_out)> times_out;
  };

  const L& layer;

  /// Which rows of `times` rows of x ask for. Reports and says no if a day or slot is none; the
  /// cache is then as it was.
  static bool read_times(SequenceView<Real, N + 2> x, Cache& c) {
    Buffer<Index> when(2 * x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      for (Index k = 0; k < 2; ++k) {
        const Index most = k == 0 ? Days : Slots;
        const Real value = x(t, N + k);
        const bool sound = value >= 0 && value < static_cast<Real>(most);
        when[2 * t + k] = sound ? static_cast<Index>(value) : 0;
        if (sound && static_cast<Real>(when[2 * t + k]) == value) continue;
        fail({std::string(k == 0 ? "Gman: day" : "Gman: slot") + " of row " + std::to_string(t),
              "a whole number from 0 to " + std::to_string(most - 1), std::to_string(value)});
        return false;
      }
    }
    c.when = std::move(when);
    return true;
  }

  /// e of the past and the future. `through(layer, x, batch, cache)` runs a part.
  template <class Through>
  void run(const GmanPlan& plan, Cache& c, Through& through, Embedded& e_past,
           Embedded& e_future) const {
    const Index rows = c.when.size() / 2;
    Embedded all(N);
    copy_rows(layer.nodes.matrix(), all.matrix());
    const auto where = through(layer.node_fc, std::move(all), Batch<NoState>(), c.node_fc);
    c.time_h = Embedded(rows);
    for (Index t = 0; t < rows; ++t) {
      const Real* const day = layer.times.data() + c.when[2 * t] * D;
      const Real* const slot = layer.times.data() + (Days + c.when[2 * t + 1]) * D;
      Real* const to = c.time_h.row_data(t);
      simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
        const auto sum = load(day + i) + load(slot + i) + load(layer.times_bias.data() + i);
        store(to + i, activate<Activation::relu>(sum));
      });
    }
    const auto when = through(layer.times_out, Embedded(c.time_h), Batch<NoState>(), c.times_out);
    const auto sum = [&](const Buffer<Index>& steps) {
      Embedded e(steps.size() * N);
      each_value(steps, N, [&](Index i, Index t, Index n) {
        const Real *const a = where.data() + n * D, *const b = when.data() + t * D;
        simd::for_each<Real>(D, [&](Index k, auto load, auto store) {
          store(e.row_data(i) + k, load(a + k) + load(b + k));
        });
      });
      return e;
    };
    e_past = sum(plan.past_row);
    e_future = sum(plan.future_row);
  }

  /// What e gathers is summed over nodes for the times, over times for the nodes.
  void back(const GmanPlan& plan, const Cache& c, const Embedded& de_past,
            const Embedded& de_future, L& gradient) const {
    const Index rows = c.when.size() / 2;
    auto d_where = Embedded::zeros(N), d_when = Embedded::zeros(rows);
    const auto gather = [&](const Buffer<Index>& steps, const Embedded& de) {
      each_value(steps, N, [&](Index i, Index t, Index n) {
        const Real* const from = de.data() + i * D;
        simd::for_each<Real>(D, [&](Index k, auto load, auto store) {
          store(d_where.row_data(n) + k, load(d_where.row_data(n) + k) + load(from + k));
          store(d_when.row_data(t) + k, load(d_when.row_data(t) + k) + load(from + k));
        });
      });
    };
    gather(plan.past_row, de_past);
    gather(plan.future_row, de_future);
    const auto ds = layer.node_fc.backward(d_where, {}, c.node_fc, gradient.node_fc);
    add_rows(ds.matrix(), gradient.nodes.matrix());
    auto dh = layer.times_out.backward(d_when, {}, c.times_out, gradient.times_out);
    relu_backward(c.time_h.data(), dh.data(), dh.size());
    add_bias_gradient<Real, D>(dh, gradient.times_bias);
    for (Index t = 0; t < rows; ++t) {
      const auto row = std::as_const(dh).matrix().middle_rows(t, 1);
      add_rows(row, gradient.times.matrix().middle_rows(c.when[2 * t], 1));
      add_rows(row, gradient.times.matrix().middle_rows(Days + c.when[2 * t + 1], 1));
    }
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
