#pragma once
/// @file  The decay rates of a selective scan:  A = -exp(A_log)        A_log [E x N]
///
/// Learned as A_log, run as A log2 e in the blocks of kernel/selective_scan.hpp. The inference form
/// looks once whether A[e, n] = (n + 1) A[e, 0], as models start with: then one exponential per
/// channel serves all its states.

#include <cmath>
#include <limits>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/selective_scan.hpp>

namespace limen::inline LIMEN_ABI {

/// What a scan takes; `own` keeps the numbers alive where they were made for one call.
template <class Real>
struct DecayBlocks {
  const Real* data;
  bool powers;
  Buffer<Real> own;
};

/// -exp(a_log) log2 e for channels e0 to e0 + channels, in blocks; 0 behind them.
template <class Real>
void decay_blocks(const Real* a_log, Index channels, Index N, Real* to) noexcept {
  using V = simd::Vec<Real>;
  for (Index e = 0; e < scan_blocks(channels) * scan_block; ++e) {
    Real row[64];
    for (Index n0 = 0; n0 < N; n0 += 64) {
      const Index count = N - n0 < 64 ? N - n0 : 64;
      if (e < channels) {
        simd::transform(a_log + e * N + n0, row, count,
                        [](const V& v) { return math::exp(v) * V(-math::detail::log2_e<Real>); });
      }
      for (Index n = 0; n < count; ++n) to[scan_at(e, n0 + n, N)] = e < channels ? row[n] : Real(0);
    }
  }
}

/// The inference form of A_log.
template <class Real, Index E, Index N>
class PackedDecayRates {
 public:
  using Scalar = Real;

  void prepare_from(const Tensor<Real, E, N>& a_log) {
    powers_ = is_geometric(a_log);
    if (powers_) {
      for (Index e = 0; e < E; ++e) {
        blocks_[e] = -std::exp(a_log(e, 0)) * math::detail::log2_e<Real>;
      }
    } else {
      decay_blocks(a_log.data(), E, N, blocks_.data());
    }
  }
  const Real* data() const { return blocks_.data(); }
  bool powers() const { return powers_; }

 private:
  /// A[e, n] = (n + 1) A[e, 0], up to the rounding of A_log.
  static bool is_geometric(const Tensor<Real, E, N>& a_log) {
    constexpr Real eps = 4 * std::numeric_limits<Real>::epsilon();
    for (Index e = 0; e < E; ++e) {
      for (Index n = 0; n < N; ++n) {
        const Real expected = a_log(e, 0) + std::log(static_cast<Real>(n + 1));
        if (!(std::abs(a_log(e, n) - expected) <= eps * (1 + std::abs(expected)))) return false;
      }
    }
    return true;
  }

  Tensor<Real, scan_blocks(E), N, scan_block> blocks_;
  bool powers_ = false;
};

template <class S, Index E, Index N>
using DecayRates = std::conditional_t<is_prepared<S>, PackedDecayRates<real_of<S>, E, N>,
                                      Tensor<real_of<S>, E, N>>;

template <class Real, Index E, Index N>
DecayBlocks<Real> blocks_of(const PackedDecayRates<Real, E, N>& rates) {
  return {rates.data(), rates.powers(), {}};
}
template <class Real, Index E, Index N>
DecayBlocks<Real> blocks_of(const Tensor<Real, E, N>& a_log) {
  Buffer<Real> own(scan_state_size(E, N));
  decay_blocks(a_log.data(), E, N, own.data());
  const Real* data = own.data();
  return {data, false, std::move(own)};
}

/// f(blocks, first channel, channels): all at once where they are prepared, otherwise block by
/// block on the stack.
template <class Real, Index E, Index N, class F>
void for_each_decay_piece(const PackedDecayRates<Real, E, N>& rates, F&& f) noexcept {
  f(DecayBlocks<Real>{rates.data(), rates.powers(), {}}, Index{0}, E);
}
template <class Real, Index E, Index N, class F>
void for_each_decay_piece(const Tensor<Real, E, N>& a_log, F&& f) noexcept {
  alignas(alignment) Real block[N * scan_block];
  for (Index e = 0; e < E; e += scan_block) {
    const Index channels = E - e < scan_block ? E - e : scan_block;
    decay_blocks(a_log.data() + e * N, channels, N, block);
    f(DecayBlocks<Real>{block, false, {}}, e, channels);
  }
}

/// dA_log += dA ⊙ A, dA in blocks.
template <class Real, Index E, Index N>
void add_decay_gradient(const Real* da, const DecayBlocks<Real>& a, Tensor<Real, E, N>& d_a_log) {
  constexpr Real ln2 = Real(0.6931471805599453094L);
  for (Index e = 0; e < E; ++e) {
    for (Index n = 0; n < N; ++n) {
      d_a_log(e, n) += da[scan_at(e, n, N)] * a.data[scan_at(e, n, N)] * ln2;
    }
  }
}

// ── How they start ───────────────────────────────────────────────────────────────────────────────

/// A[e, n] = -(n + 1): "S4D-Real".
template <class Real, Index E, Index N>
void fill_log_integers(Tensor<Real, E, N>& a_log) {
  for (Index e = 0; e < E; ++e) {
    for (Index n = 0; n < N; ++n) a_log(e, n) = std::log(static_cast<Real>(n + 1));
  }
}

/// softplus of it lies between `low` and `high`, uniform in its logarithm.
template <class Real, Index E>
void fill_inverse_softplus(Tensor<Real, E>& bias, double low, double high, Random& random) {
  for (Real& b : bias.flat()) {
    const double dt = std::exp(random.uniform(std::log(low), std::log(high)));
    b = static_cast<Real>(dt + std::log(-std::expm1(-dt)));
  }
}

/// An error that names the first number that is none.
template <class Real, Index... Dims>
Status check_finite(const char* name, const Tensor<Real, Dims...>& tensor) {
  for (Index i = 0; i < tensor.size; ++i) {
    if (!std::isfinite(tensor[i])) {
      return Error{name, "finite numbers",
                   std::to_string(tensor[i]) + " at element " + std::to_string(i)};
    }
  }
  return {};
}

}  // namespace limen::inline LIMEN_ABI
