#pragma once
/// @file  Activations: a(v), a'(v), and both over arrays.
///
///   identity    v                    silu        v σ(v), also called swish       arXiv:1702.03118
///   relu        max(0, v)            gelu        v Φ(v)                          arXiv:1606.08415
///   leaky_relu  max(v, v / 100)      gelu_tanh   its tanh form, as GPT-2 has it
///   sigmoid     1 / (1 + e^-v)       softplus    log(1 + e^v)
///   tanh
///
/// NaN stays NaN. How exact they are: the table in kernel/math.hpp.

#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

enum class Activation {
  identity,
  relu,
  leaky_relu,
  sigmoid,
  tanh,
  silu,
  gelu,
  gelu_tanh,
  softplus
};

inline constexpr double leaky_slope = 0.01;  ///< of leaky_relu below 0

/// a(v) of a vector of numbers.
template <Activation A, class V>
LIMEN_INLINE V activate(const V& v) {
  using Real = typename V::value_type;
  using enum Activation;
  if constexpr (A == identity) return v;
  if constexpr (A == relu) return simd::max(V(Real(0)), v);  // in this order NaN stays
  if constexpr (A == leaky_relu) return simd::max(v * V(Real(leaky_slope)), v);
  if constexpr (A == sigmoid) return math::sigmoid(v);
  if constexpr (A == tanh) return math::tanh(v);
  if constexpr (A == silu) return math::silu(v);
  if constexpr (A == gelu) return math::gelu(v);
  if constexpr (A == gelu_tanh) return math::gelu_tanh(v);
  if constexpr (A == softplus) return math::softplus(v);
}

/// a'(v), of the number that went in. At the kinks of relu and leaky_relu: the slope from below.
template <Activation A, class V>
LIMEN_INLINE V activation_derivative(const V& v) {
  using Real = typename V::value_type;
  using enum Activation;
  if constexpr (A == identity) return V(Real(1));
  if constexpr (A == relu) return simd::select(v <= V(Real(0)), V(Real(0)), V(Real(1)));
  if constexpr (A == leaky_relu) {
    return simd::select(v <= V(Real(0)), V(Real(leaky_slope)), V(Real(1)));
  }
  if constexpr (A == sigmoid) return math::sigmoid_derivative(v);
  if constexpr (A == tanh) return math::tanh_derivative(v);
  if constexpr (A == silu) return math::silu_derivative(v);
  if constexpr (A == gelu) return math::gelu_derivative(v);
  if constexpr (A == gelu_tanh) return math::gelu_tanh_derivative(v);
  if constexpr (A == softplus) return math::sigmoid(v);
}

/// f(std::integral_constant<Activation, a>): from a value to a template argument.
template <class F>
LIMEN_INLINE decltype(auto) with_activation(Activation a, F&& f) {
  using enum Activation;
  switch (a) {
    case relu:
      return f(std::integral_constant<Activation, relu>{});
    case leaky_relu:
      return f(std::integral_constant<Activation, leaky_relu>{});
    case sigmoid:
      return f(std::integral_constant<Activation, sigmoid>{});
    case tanh:
      return f(std::integral_constant<Activation, tanh>{});
    case silu:
      return f(std::integral_constant<Activation, silu>{});
    case gelu:
      return f(std::integral_constant<Activation, gelu>{});
    case gelu_tanh:
      return f(std::integral_constant<Activation, gelu_tanh>{});
    case softplus:
      return f(std::integral_constant<Activation, softplus>{});
    case identity:
      break;
  }
  return f(std::integral_constant<Activation, identity>{});
}

/// out[i] = a(in[i]).  `in` may be `out`.
template <Activation A, class Real>
LIMEN_NOINLINE void activate(const Real* in, Real* out, Index n) noexcept {
  simd::transform(in, out, n, [](const auto& v) { return activate<A>(v); });
}
template <class Real>
void activate(Activation a, const Real* in, Real* out, Index n) noexcept {
  with_activation(a, [&](auto kind) { activate<kind()>(in, out, n); });
}

}  // namespace limen::inline LIMEN_ABI
