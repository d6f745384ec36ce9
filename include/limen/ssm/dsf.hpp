#pragma once
/// @file  One form for attention, state-space models and gated recurrences, small and plain: what
/// the fast layers are tested against, and how one of them is read as another.
///
///   h_i = Λ_i ∘ h_{i-1} + B_i u_i,   y_i = C_i h_i        h_0 = 0, Λ_i diagonal
///
///   u, y [T x d], h, Λ [T x N d]: N numbers of state for each of d channels, channel innermost.
///   B_i = b_i ⊗ I and C_i = c_i ⊗ I with b, c [T x N]: a channel is written to its own states.
///
/// Sieber et al., "Understanding the differences in Foundation Models: Attention, State Space
/// Models, and Recurrent Neural Networks", arXiv:2405.15731, equation 2 and section 3. The delta
/// rule has no such form: what it does to the state, I - β k kᵀ, is not diagonal.

#include <cmath>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/kernel/matrix_state.hpp>

namespace limen::inline LIMEN_ABI::dsf {

/// A linear system that varies in time. In double, whatever the layer computes in.
struct System {
  System(Index rows, Index states, Index channels)
      : T(rows),
        N(states),
        d(channels),
        decay(size(T * N * d)),
        write(size(T * N)),
        read(size(T * N)) {}

  Index T, N, d;
  std::vector<double> decay;  ///< Λ [T][N][d]
  std::vector<double> write;  ///< b [T][N]
  std::vector<double> read;   ///< c [T][N]

  double& lambda(Index t, Index n, Index i) { return decay[size((t * N + n) * d + i)]; }
  double lambda(Index t, Index n, Index i) const { return decay[size((t * N + n) * d + i)]; }
  double& b(Index t, Index n) { return write[size(t * N + n)]; }
  double b(Index t, Index n) const { return write[size(t * N + n)]; }
  double& c(Index t, Index n) { return read[size(t * N + n)]; }
  double c(Index t, Index n) const { return read[size(t * N + n)]; }

 private:
  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }
};

/// y of u [T][d], row after row as the equation says.
inline std::vector<double> apply(const System& s, const std::vector<double>& u) {
  std::vector<double> h(static_cast<std::size_t>(s.N * s.d)), y(u.size());
  for (Index t = 0; t < s.T; ++t) {
    for (Index n = 0; n < s.N; ++n) {
      for (Index i = 0; i < s.d; ++i) {
        double& state = h[static_cast<std::size_t>(n * s.d + i)];
        const auto at = static_cast<std::size_t>(t * s.d + i);
        state = s.lambda(t, n, i) * state + s.b(t, n) * u[at];
        y[at] += s.c(t, n) * state;
      }
    }
  }
  return y;
}

/// Head h of a recurrence with a matrix as state (Mamba-2, RetNet; `keyed`: gated linear
/// attention): Λ = a, b = d k, c = q.
template <class Real>
System of_head(const StateInputs<Real>& x, Index h, bool keyed) {
  const Index first = h / (x.heads / x.groups) * x.keys;
  System s(x.v.rows, x.keys, x.width);
  for (Index t = 0; t < s.T; ++t) {
    for (Index n = 0; n < s.N; ++n) {
      const double a = static_cast<double>(x.a(t, keyed ? h * x.keys + n : h));
      for (Index i = 0; i < s.d; ++i) s.lambda(t, n, i) = a;
      s.b(t, n) = static_cast<double>(x.k(t, first + n));
      if (x.d.data != nullptr) s.b(t, n) *= static_cast<double>(x.d(t, h));
      s.c(t, n) = static_cast<double>(x.scale) * static_cast<double>(x.q(t, first + n));
    }
  }
  return s;
}

/// The values that head h reads, as u of its system.
template <class Real>
std::vector<double> values_of_head(const StateInputs<Real>& x, Index h) {
  std::vector<double> u;
  for (Index t = 0; t < x.v.rows; ++t) {
    for (Index i = 0; i < x.width; ++i) {
      u.push_back(static_cast<double>(x.v(t, h * x.width + i)));
    }
  }
  return u;
}

/// Attention whose normaliser does not look at the query,
///   y_i = φ_i · Σ_{j <= i} ψ_j u_j / η_i :        Λ = η_{i-1} / η_i, b = ψ_i / η_i, c = φ_i.
/// φ, ψ [T][N]; log η [T], since η itself overflows. The features may be those of any kernel.
inline System normalised_attention(Index T, Index N, Index d, const std::vector<double>& phi,
                                   const std::vector<double>& psi,
                                   const std::vector<double>& log_eta) {
  System s(T, N, d);
  for (Index t = 0; t < T; ++t) {
    const double eta = log_eta[static_cast<std::size_t>(t)];
    const double before = t > 0 ? log_eta[static_cast<std::size_t>(t - 1)] : eta;
    for (Index n = 0; n < N; ++n) {
      const auto at = static_cast<std::size_t>(t * N + n);
      for (Index i = 0; i < d; ++i) s.lambda(t, n, i) = std::exp(before - eta);
      s.b(t, n) = psi[at] * std::exp(-eta);
      s.c(t, n) = phi[at];
    }
  }
  return s;
}

/// The other way: a system with one decay for each row, read as attention. φ = c, and with
/// log η_i = -Σ_{j <= i} log Λ_j the features of the keys are ψ = η b, given as b and log η: the
/// weight of row j in row i is  φ_i · b_j e^(log η_j - log η_i).
struct Attention {
  std::vector<double> log_eta;  ///< [T]
};
inline Attention as_attention(const System& s) {
  Attention a;
  double sum = 0;
  for (Index t = 0; t < s.T; ++t) {
    sum -= std::log(s.lambda(t, 0, 0));
    a.log_eta.push_back(sum);
  }
  return a;
}
/// y_i = Σ_{j <= i} (φ_i · ψ_j) / η_i u_j, every pair of rows.
inline std::vector<double> attend(const System& s, const Attention& a,
                                  const std::vector<double>& u) {
  std::vector<double> y(u.size());
  for (Index i = 0; i < s.T; ++i) {
    for (Index j = 0; j <= i; ++j) {
      double weight = 0;
      for (Index n = 0; n < s.N; ++n) weight += s.c(i, n) * s.b(j, n);
      weight *=
          std::exp(a.log_eta[static_cast<std::size_t>(j)] - a.log_eta[static_cast<std::size_t>(i)]);
      for (Index c = 0; c < s.d; ++c) {
        y[static_cast<std::size_t>(i * s.d + c)] +=
            weight * u[static_cast<std::size_t>(j * s.d + c)];
      }
    }
  }
  return y;
}

/// Does one number decay all states of every row? Then the system is normalised attention, too.
inline bool has_one_decay(const System& s) {
  for (Index t = 0; t < s.T; ++t) {
    for (Index n = 0; n < s.N; ++n) {
      for (Index i = 0; i < s.d; ++i) {
        if (!(s.lambda(t, n, i) == s.lambda(t, 0, 0))) return false;
      }
    }
  }
  return true;
}

}  // namespace limen::inline LIMEN_ABI::dsf
