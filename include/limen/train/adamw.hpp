#pragma once
/// @file  AdamW. Loshchilov & Hutter, arXiv:1711.05101.
///
///   m <- β₁ m + (1 - β₁) g
///   v <- β₂ v + (1 - β₂) g²
///   w <- w (1 - η λ) - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)        t = 1, 2, ...

#include <limen/train/optimizer.hpp>

namespace limen::inline LIMEN_ABI {

struct AdamWOptions {
  double rate = 1e-3;     ///< η
  double beta1 = 0.9;     ///< β₁
  double beta2 = 0.999;   ///< β₂
  double epsilon = 1e-8;  ///< ε
  double decay = 0.01;    ///< λ
  ParameterRules rules{};
};

namespace detail {

inline void check(const AdamWOptions& o) {
  check_option("AdamW: .rate", o.rate, 0, unlimited);
  check_option("AdamW: .beta1", o.beta1, 0, 1);
  check_option("AdamW: .beta2", o.beta2, 0, 1);
  check_option("AdamW: .epsilon", o.epsilon, 0, unlimited);
  check_option("AdamW: .decay", o.decay, 0, unlimited);
}

template <class Real>
void adamw(Real* w, const Real* g, Real* m, Real* v, Index n, const AdamWOptions& o, double rate,
           double decay, Index t) {
  using V = simd::Vec<Real>;
  const auto number = [](double x) { return V(static_cast<Real>(x)); };
  const V b1 = number(o.beta1), a1 = number(1 - o.beta1);
  const V b2 = number(o.beta2), a2 = number(1 - o.beta2);
  const V keep = number(1 - rate * decay), epsilon = number(o.epsilon);
  const V eta = number(rate / (1 - std::pow(o.beta1, static_cast<double>(t))));
  const V bias = number(1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(t))));
  for_each_piece(n, [&](Index first, Index count) {
    Real *pw = w + first, *pm = m + first, *pv = v + first;
    const Real* pg = g + first;
    simd::for_each<Real>(count, [&](Index i, auto load, auto store) {
      const V d = load(pg + i);
      const V m1 = simd::fma(b1, load(pm + i), a1 * d);
      const V v1 = simd::fma(b2, load(pv + i), a2 * d * d);
      store(pm + i, m1);
      store(pv + i, v1);
      const V step = eta * m1 / simd::fma(simd::sqrt(v1), bias, epsilon);
      store(pw + i, simd::fma(keep, load(pw + i), -step));
    });
  });
}

}  // namespace detail

template <Parametrized M>
class AdamW {
 public:
  explicit AdamW(AdamWOptions options = {})
      : options_(std::move(options)), roles_(detail::roles_of(m_, options_.rules)) {
    detail::check(options_);
  }

  void update(M& model, const M& gradient, double factor = 1) {
    const FlushDenormals guard;
    ++t_;
    detail::for_each_learned(
        [&](std::size_t i, auto& w, const auto& g, auto& m, auto& v) {
          if (roles_[i].frozen) return;
          detail::adamw(w.data(), g.data(), m.data(), v.data(), w.size, options_,
                        factor * options_.rate, roles_[i].decayed ? options_.decay : 0, t_);
        },
        model, gradient, m_, v_);
  }

  const std::vector<ParameterRole>& roles() const { return roles_; }

  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    inventory.add(prefix + "m.", m_);
    inventory.add(prefix + "v.", v_);
    inventory.add_number(prefix + "t", t_);
  }

 private:
  AdamWOptions options_;
  M m_{}, v_{};
  Index t_ = 0;
  std::vector<ParameterRole> roles_;
};

}  // namespace limen::inline LIMEN_ABI
