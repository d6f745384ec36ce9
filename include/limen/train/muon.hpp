#pragma once
/// @file  Muon: momentum whose singular values are all brought near 1, for the matrices in the
/// middle of a network. Jordan et al., https://kellerjordan.github.io/posts/muon/.
///
///   m <- β m + (1 - β) g
///   u  = (1 - β) g + β m   Nesterov,   m   else
///   w <- w (1 - η λ) - η √max(1, rows / cols) NS(u)
///
///   NS(u):  X = u / max(‖u‖, 1e-7);   five times   X <- a X + (b A + c A A) X   with A = X Xᵀ
///
/// The five steps take singular values from 0.01..1 into 0.68..1.13; more precise they need not be.
/// Each is taken in the precision of the model (the authors' own code uses bfloat16). Tensors of
/// more than two dimensions count as [first x all others].
///
/// Vectors, and matrices that `.adamw` names (embeddings, the last layer), are AdamW's.

#include <limen/kernel/gemm.hpp>
#include <limen/train/adamw.hpp>

namespace limen::inline LIMEN_ABI {

struct MuonOptions {
  double rate = 0.02;      ///< η, in units of the spectral norm
  double momentum = 0.95;  ///< β
  double decay = 0;        ///< λ
  bool nesterov = true;
  int steps = 5;
  std::vector<std::string> adamw = {"embedding", "head"};  ///< matrices for AdamW
  AdamWOptions others{.rate = 3e-4};                       ///< its options; its rules are not used
  ParameterRules rules{};
};

/// x [m x n] -> x with its singular values brought near 1.
template <class Real>
void newton_schulz(MatrixView<Real> x, int steps = 5) {
  constexpr Real a = Real(3.4445), b = Real(-4.7750), c = Real(2.0315);
  using V = simd::Vec<Real>;
  const bool tall = x.rows > x.cols;
  const Index m = tall ? x.cols : x.rows, n = tall ? x.rows : x.cols;
  Buffer<Real> now(m * n), next(m * n), gram(m * m), poly(m * m);
  MatrixView<Real> X{now.data(), m, n, n}, Y{next.data(), m, n, n};
  const MatrixView<Real> A{gram.data(), m, m, m}, B{poly.data(), m, m, m};

  double norm = 0;
  for (Index r = 0; r < x.rows; ++r) norm += detail::squared_norm(x.row(r), x.cols);
  const double length = std::sqrt(norm);
  const Real scale = static_cast<Real>(1 / (length > 1e-7 ? length : 1e-7));
  for (Index r = 0; r < m; ++r) {
    for (Index j = 0; j < n; ++j) X(r, j) = scale * (tall ? x(j, r) : x(r, j));
  }
  for (int step = 0; step < steps; ++step) {
    product_nt<Real>(X, MatrixView<const Real>(X), A);
    product_nn<Real>(A, A, B);
    simd::for_each<Real>(m * m, [&](Index i, auto load, auto store) {  // B = b A + c A A
      store(B.data + i, simd::fma(V(c), load(B.data + i), V(b) * load(A.data + i)));
    });
    for (Index i = 0; i < m; ++i) B(i, i) += a;
    product_nn<Real>(B, X, Y);
    std::swap(X, Y);
  }
  for (Index r = 0; r < m; ++r) {
    for (Index j = 0; j < n; ++j) (tall ? x(j, r) : x(r, j)) = X(r, j);
  }
}

namespace detail {

template <class Real>
void muon(MatrixView<Real> w, const Real* g, Real* m, const MuonOptions& o, double rate,
          double decay) {
  using V = simd::Vec<Real>;
  const auto number = [](double x) { return V(static_cast<Real>(x)); };
  const Index n = w.rows * w.cols;
  const V beta = number(o.momentum), rest = number(1 - o.momentum);
  Buffer<Real> direction(n);
  Real* u = direction.data();
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    const V fresh = rest * load(g + i), m1 = simd::fma(beta, load(m + i), fresh);
    store(m + i, m1);
    store(u + i, o.nesterov ? simd::fma(beta, m1, fresh) : m1);
  });
  newton_schulz<Real>({u, w.rows, w.cols, w.cols}, o.steps);
  const double tall =
      w.rows > w.cols ? std::sqrt(static_cast<double>(w.rows) / static_cast<double>(w.cols)) : 1;
  const V keep = number(1 - rate * decay), eta = number(rate * tall);
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(w.data + i, simd::fnma(eta, load(u + i), keep * load(w.data + i)));
  });
}

}  // namespace detail

template <Parametrized M>
class Muon {
 public:
  explicit Muon(MuonOptions options = {})
      : options_(std::move(options)), roles_(detail::roles_of(m_, options_.rules, options_.adamw)) {
    detail::check_option("Muon: .rate", options_.rate, 0, detail::unlimited);
    detail::check_option("Muon: .momentum", options_.momentum, 0, 1);
    detail::check_option("Muon: .decay", options_.decay, 0, detail::unlimited);
    detail::check(options_.others);
  }

  void update(M& model, const M& gradient, double factor = 1) {
    const FlushDenormals guard;
    ++t_;
    const AdamWOptions& o = options_.others;
    detail::for_each_learned(
        [&](std::size_t i, auto& w, const auto& g, auto& m, auto& v) {
          const ParameterRole role = roles_[i];
          if (role.frozen) return;
          if (role.matrix) {
            detail::muon(w.matrix(), g.data(), m.data(), options_, factor * options_.rate,
                         role.decayed ? options_.decay : 0);
          } else {
            detail::adamw(w.data(), g.data(), m.data(), v.data(), w.size, o, factor * o.rate,
                          role.decayed ? o.decay : 0, t_);
          }
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
  MuonOptions options_;
  M m_{}, v_{};  ///< v: of AdamW's parameters only
  Index t_ = 0;
  std::vector<ParameterRole> roles_;
};

}  // namespace limen::inline LIMEN_ABI
