#pragma once
/// @file  Training networks of many widths: some widths a step, and their statistics at the end.
///
///     const auto chosen = sandwich<Net::K>(random);              // narrowest, widest, two others
///     const auto y = net.forward_some(std::move(x), chosen, cache);   // [T x K C], 0 for the rest
///     const auto loss = sandwich_loss<Net::K>(y, labels, chosen);
///     backward(net, loss.dy, cache, gradient);
///     ...
///     measure_statistics(net, x, 256);
///
///   L = CE(z_widest, label) + Σ_others CE(softmax(z_widest), softmax(z_k))     the widest constant
///
/// Yu & Huang, "Universally slimmable networks and improved training techniques", arXiv:1903.05134:
/// sandwich rule, in-place distillation, post-statistics of batch norm.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include <limen/core/random.hpp>
#include <limen/core/sequence.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/kernel/norm.hpp>

namespace limen::inline LIMEN_ABI {

/// Of K widths, narrow to wide, those that run.
template <Index K>
struct ChosenWidths {
  std::array<bool, std::size_t{K}> at{};

  static constexpr ChosenWidths all() {
    ChosenWidths chosen;
    chosen.at.fill(true);
    return chosen;
  }
  static constexpr ChosenWidths only(Index k) {
    ChosenWidths chosen;
    chosen.at[static_cast<std::size_t>(k)] = true;
    return chosen;
  }
  constexpr bool operator[](Index k) const { return at[static_cast<std::size_t>(k)]; }
  constexpr Index count() const { return std::count(at.begin(), at.end(), true); }
};

/// The narrowest, the widest, and `others` of those between, each as likely as the other.
template <Index K>
ChosenWidths<K> sandwich(Random& random, Index others = 2) {
  auto chosen = ChosenWidths<K>::only(K - 1);
  chosen.at[0] = true;
  Index left = std::max<Index>(K - 2, 0);
  for (Index k = 1; k + 1 < K; ++k, --left) {
    const bool take = static_cast<Index>(random.below(static_cast<std::uint64_t>(left))) < others;
    chosen.at[static_cast<std::size_t>(k)] = take;
    others -= take ? 1 : 0;
  }
  return chosen;
}

/// y [T x K C]. The widest must be among the chosen.
template <Index K, class Real, Index D>
Loss<Real, D> sandwich_loss(SequenceView<Real, D> y, std::span<const int> labels,
                            const ChosenWidths<K>& chosen) {
  if (!chosen[K - 1]) {
    fail({"sandwich_loss: widths", "the widest among them, which teaches", "others only"});
    return {};
  }
  ExitLossOptions<K> options{.distill = 1};
  for (std::size_t k = 0; k < chosen.at.size(); ++k) options.weights[k] = chosen.at[k] ? 1 : 0;
  return exit_loss<K>(y, labels, options);
}
template <Index K, class Real, Index D>
Loss<Real, D> sandwich_loss(const Sequence<Real, D>& y, std::span<const int> labels,
                            const ChosenWidths<K>& chosen) {
  return sandwich_loss<K>(SequenceView<Real, D>(y), labels, chosen);
}

namespace detail {
/// An unbiased variance is so many times the mean of squares.
template <class Real>
Real unbiased_by(Index rows) {
  return rows > 1 ? static_cast<Real>(rows) / static_cast<Real>(rows - 1) : Real(1);
}
}  // namespace detail

/// Sets the statistics of all norms at all widths to their means over batches of `rows` rows of x,
/// data that was trained on: a width that was seldom chosen has none that are any good.
template <class Net>
void measure_statistics(Net& net, SequenceView<typename Net::Scalar, Net::in> x, Index rows) {
  using Real = typename Net::Scalar;
  if (x.rows() == 0 || rows < 1) {
    fail({"measure_statistics: rows", "one or more", std::to_string(std::min(x.rows(), rows))});
    return;
  }
  for (Real& v : net.running_mean.flat()) v = 0;
  for (Real& v : net.running_var.flat()) v = 0;
  for (Index k = 0; k < Net::K; ++k) {
    for (Index t = 0; t < x.rows(); t += rows) {
      const Index some = std::min(rows, x.rows() - t);
      const Real share = static_cast<Real>(some) / static_cast<Real>(x.rows());
      typename Net::Cache cache;
      net.forward_some(x.middle_rows(t, some).copy(), ChosenWidths<Net::K>::only(k), cache);
      for (Index l = 0; l < Net::L; ++l) {
        const auto& seen = cache.at[k][l];
        const Real unbiased = detail::unbiased_by<Real>(Net::Shape::norm_rows(l, some));
        for (Index i = 0; i < Net::Shape::channels(k); ++i) {
          net.running_mean[(l * Net::K + k) * Net::H + i] += share * seen.mean[i];
          net.running_var[(l * Net::K + k) * Net::H + i] += share * unbiased * seen.var[i];
        }
      }
    }
  }
}

namespace detail {

/// dz [R x n] from dh behind the norm, z in front of it; adds the gradients of scale and shift, and
/// for the statistics what `settle` wants, `count` times (R rows are `count` images).
template <class Real, class Net>
void slim_norm_back(MatrixView<const Real> dh, const Real* z_data, const Real* mean,
                    const Real* var, double eps, Index count, const Net& net, Index affine,
                    Index statistics, MatrixView<Real> dz, Net& gradient) {
  const Index n = dh.cols, rows = dh.rows;
  const MatrixView<const Real> z{z_data, rows, n, n};
  Buffer<Real> s(n), sum(n), hat(n);
  for (Index i = 0; i < n; ++i) {
    s[i] = 1 / std::sqrt(var[i] + static_cast<Real>(eps));
    sum[i] = hat[i] = 0;
  }
  add_column_products<Real>(dh, z, mean, s.data(), sum.data(), hat.data());
  normalize_columns_backward<Real>(dh, z, mean, s.data(), net.scale.data() + affine, sum.data(),
                                   hat.data(), rows, dz);
  const Real times = static_cast<Real>(count), unbiased = unbiased_by<Real>(rows);
  for (Index i = 0; i < n; ++i) {
    const Index at = statistics + i;
    gradient.shift[affine + i] += sum[i];
    gradient.scale[affine + i] += hat[i];
    gradient.running_mean[at] += times * (mean[i] - net.running_mean[at]);
    gradient.running_var[at] += times * (unbiased * var[i] - net.running_var[at]);
  }
}

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
