#pragma once
/// @file  Stochastic gradient descent with momentum.
///
///   g <- g + λ w                     decay is part of the gradient ("coupled")
///   m <- μ m + g
///   w <- w - η (g + μ m)  Nesterov,  w - η m  else

#include <limen/train/optimizer.hpp>

namespace limen::inline LIMEN_ABI {

struct SgdOptions {
  double rate = 0.01;   ///< η
  double momentum = 0;  ///< μ
  double decay = 0;     ///< λ
  bool nesterov = false;
  ParameterRules rules{};
};

namespace detail {

template <class Real>
void sgd(Real* w, const Real* g, Real* m, Index n, double rate, double momentum, double decay,
         bool nesterov) {
  using V = simd::Vec<Real>;
  const V eta(static_cast<Real>(rate)), mu(static_cast<Real>(momentum)),
      lambda(static_cast<Real>(decay));
  const V ahead = nesterov ? mu : V(Real(0)), now(Real(nesterov ? 1 : 0)),
          kept(Real(nesterov ? 0 : 1));
  for_each_piece(n, [&](Index first, Index count) {
    Real *a = w + first, *b = m + first;
    const Real* c = g + first;
    simd::for_each<Real>(count, [&](Index i, auto load, auto store) {
      const V d = simd::fma(lambda, load(a + i), load(c + i));
      const V v = simd::fma(mu, load(b + i), d);
      store(b + i, v);
      const V step = simd::fma(ahead + kept, v, now * d);
      store(a + i, simd::fnma(eta, step, load(a + i)));
    });
  });
}

}  // namespace detail

template <Parametrized M>
class Sgd {
 public:
  explicit Sgd(SgdOptions options = {})
      : options_(std::move(options)), roles_(detail::roles_of(momentum_, options_.rules)) {
    detail::check_option("Sgd: .rate", options_.rate, 0, detail::unlimited);
    detail::check_option("Sgd: .momentum", options_.momentum, 0, 1);
    detail::check_option("Sgd: .decay", options_.decay, 0, detail::unlimited);
  }

  void update(M& model, const M& gradient, double factor = 1) {
    const FlushDenormals guard;
    detail::for_each_learned(
        [&](std::size_t i, auto& w, const auto& g, auto& m) {
          if (roles_[i].frozen) return;
          detail::sgd(w.data(), g.data(), m.data(), w.size, factor * options_.rate,
                      options_.momentum, roles_[i].decayed ? options_.decay : 0, options_.nesterov);
        },
        model, gradient, momentum_);
  }

  const std::vector<ParameterRole>& roles() const { return roles_; }

  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    inventory.add(prefix + "momentum.", momentum_);
  }

 private:
  SgdOptions options_;
  M momentum_{};
  std::vector<ParameterRole> roles_;
};

}  // namespace limen::inline LIMEN_ABI
