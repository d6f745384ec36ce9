#pragma once
/// @file  Leaving early at each token of a decoder: what CALM asks of a row and its layer.
///
///     SaturationAtLeast<D>{0.99}                 cos(h_k, h_{k-1}) >= t: the layers change little
///     JudgeAtLeast{&judge, 0.9}                  a layer [D] -> [2] says "no more will change"
///     DecayingThreshold{.least = 0.8}.at(t)      stricter for the first tokens
///
///   λ_t = 0.9 λ + 0.1 λ exp(-τ t / N)
///
/// The softmax gap is MarginAtLeast. What later tokens see of one that left: Skipped::note
/// (exit/note.hpp). A λ with a guarantee: exit/risk.hpp. Schuster et al., "Confident adaptive
/// language modeling", arXiv:2207.07061, sections 3.1, 3.4 and 4.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/exit/policies.hpp>

namespace limen::inline LIMEN_ABI {

/// The first exit has nothing to compare with: nobody leaves there. For heads that all look at D
/// numbers; where one looks at others, nobody leaves.
template <Index D, class Real = float>
struct SaturationAtLeast {
  Thresholds at_least;

  struct Memory {
    Real last[D];
    bool known;
  };
  bool operator()(std::span<const Real>, Index k, Memory& row,
                  std::span<const Real> h) const noexcept {
    if (static_cast<Index>(h.size()) != D) return row.known = false;
    double both = 0, now = 0, before = 0;
    for (Index d = 0; d < D; ++d) {
      const double a = static_cast<double>(h[static_cast<std::size_t>(d)]);
      const double b = static_cast<double>(row.last[d]);
      both += a * b;
      now += a * a;
      before += b * b;
      row.last[d] = h[static_cast<std::size_t>(d)];
    }
    const bool compare = std::exchange(row.known, true);
    return compare && both / std::sqrt(now * before) >= at_least[k];
  }
  Status check(Index exits, Index) const {
    if (exits < 3) {
      return Error{"SaturationAtLeast: exits",
                   "3 or more, as the first has nothing to compare with", std::to_string(exits)};
    }
    return at_least.check("SaturationAtLeast", exits, -1, 1);
  }
};

/// σ(j_1 - j_0) >= t for j = judge(h).
template <class Judge>
struct JudgeAtLeast {
  static_assert(Judge::out == 2, "JudgeAtLeast: a judge says how far from and how near to the end");
  static_assert(std::is_empty_v<typename Judge::State>, "JudgeAtLeast: a judge has no memory");
  using Real = typename Judge::Scalar;

  const Judge* judge;  ///< outlives the run
  Thresholds at_least;

  using Memory = NoState;
  bool operator()(std::span<const Real>, Index k, Memory& none,
                  std::span<const Real> h) const noexcept {
    if (static_cast<Index>(h.size()) != Judge::in) return false;
    const auto j = judge->step(VectorView<Real, Judge::in>(h.data()), none);
    return 1 / (1 + std::exp(static_cast<double>(j[0] - j[1]))) >= at_least[k];
  }
  bool asks(Index k) const noexcept { return at_least[k] <= 1; }
  Status check(Index exits, Index) const { return at_least.check("JudgeAtLeast", exits, 0, 1); }
};
template <class Judge>
JudgeAtLeast(const Judge*, double) -> JudgeAtLeast<Judge>;
template <class Judge>
JudgeAtLeast(const Judge*, Thresholds) -> JudgeAtLeast<Judge>;

/// What a judge learns: [K - 1][T], 1 where head k predicts what the last one does.
template <Index K, class Real, Index D>
std::vector<std::vector<int>> consistency_labels(SequenceView<Real, D> y) {
  static_assert(K > 1 && D % K == 0, "consistency_labels: y must have all K heads side by side");
  constexpr Index C = D / K;
  std::vector<std::vector<int>> labels(K - 1);
  for (Index t = 0; t < y.rows(); ++t) {
    const auto said = [&](Index k) {
      return predicted_class(std::span<const Real>(y.row(t).data() + k * C, std::size_t{C}));
    };
    for (Index k = 0; k + 1 < K; ++k) {
      labels[static_cast<std::size_t>(k)].push_back(said(k) == said(K - 1));
    }
  }
  return labels;
}

struct DecayingThreshold {
  double least = 0.9;  ///< λ, nearly what late tokens get
  double tau = 4;      ///< τ
  Index most = 128;    ///< N, tokens

  double at(Index t) const noexcept {
    const double gone = static_cast<double>(t) / static_cast<double>(most);
    return std::min(1.0, 0.9 * least + 0.1 * least * std::exp(-tau * gone));
  }
  Status check() const {
    if (!(least >= 0 && least <= 1)) {
      return Error{"DecayingThreshold: .least", "0 to 1", std::to_string(least)};
    }
    if (most < 1) return Error{"DecayingThreshold: .most", "1 or more", std::to_string(most)};
    return {};
  }
};

}  // namespace limen::inline LIMEN_ABI
