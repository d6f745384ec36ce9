#pragma once
/// @file  Lion: only the sign of the gradient counts. Chen et al., arXiv:2302.06675.
///
///   w <- w (1 - η λ) - η sign(β₁ m + (1 - β₁) g)        sign(0) = 0
///   m <- β₂ m + (1 - β₂) g
///
/// η three to ten times smaller than AdamW's, λ as many times larger.

#include <limen/train/optimizer.hpp>

namespace limen::inline LIMEN_ABI {

struct LionOptions {
  double rate = 1e-4;   ///< η
  double beta1 = 0.9;   ///< β₁
  double beta2 = 0.99;  ///< β₂
  double decay = 0.1;   ///< λ
  ParameterRules rules{};
};

namespace detail {

template <class Real>
void lion(Real* w, const Real* g, Real* m, Index n, const LionOptions& o, double rate,
          double decay) {
  using V = simd::Vec<Real>;
  const auto number = [](double x) { return V(static_cast<Real>(x)); };
  const V b1 = number(o.beta1), a1 = number(1 - o.beta1);
  const V b2 = number(o.beta2), a2 = number(1 - o.beta2);
  const V keep = number(1 - rate * decay), eta = number(rate), zero = number(0);
  for_each_piece(n, [&](Index first, Index count) {
    Real *pw = w + first, *pm = m + first;
    const Real* pg = g + first;
    simd::for_each<Real>(count, [&](Index i, auto load, auto store) {
      const V d = load(pg + i), m0 = load(pm + i), c = simd::fma(b1, m0, a1 * d);
      const V down = simd::select(c > zero, eta, zero), up = simd::select(c < zero, eta, zero);
      store(pw + i, simd::fma(keep, load(pw + i), up - down));
      store(pm + i, simd::fma(b2, m0, a2 * d));
    });
  });
}

}  // namespace detail

template <Parametrized M>
class Lion {
 public:
  explicit Lion(LionOptions options = {})
      : options_(std::move(options)), roles_(detail::roles_of(m_, options_.rules)) {
    detail::check_option("Lion: .rate", options_.rate, 0, detail::unlimited);
    detail::check_option("Lion: .beta1", options_.beta1, 0, 1);
    detail::check_option("Lion: .beta2", options_.beta2, 0, 1);
    detail::check_option("Lion: .decay", options_.decay, 0, detail::unlimited);
  }

  void update(M& model, const M& gradient, double factor = 1) {
    const FlushDenormals guard;
    detail::for_each_learned(
        [&](std::size_t i, auto& w, const auto& g, auto& m) {
          if (roles_[i].frozen) return;
          detail::lion(w.data(), g.data(), m.data(), w.size, options_, factor * options_.rate,
                       roles_[i].decayed ? options_.decay : 0);
        },
        model, gradient, m_);
  }

  const std::vector<ParameterRole>& roles() const { return roles_; }

  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    inventory.add(prefix + "m.", m_);
  }

 private:
  LionOptions options_;
  M m_{};
  std::vector<ParameterRole> roles_;
};

}  // namespace limen::inline LIMEN_ABI
