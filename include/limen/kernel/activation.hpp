#pragma once
// provisional, until the engineer named "math" lands the real one (same names)
#include <limen/kernel/math.hpp>
namespace limen::inline LIMEN_ABI {
enum class Activation { identity, relu, leaky_relu, sigmoid, tanh, silu, gelu, gelu_tanh, softplus };
template <Activation A, class V> LIMEN_INLINE V activate(V v) {
  if constexpr (A == Activation::relu) return simd::max(v, V(0));
  else if constexpr (A == Activation::sigmoid) return math::sigmoid(v);
  else if constexpr (A == Activation::tanh) return math::tanh(v);
  else if constexpr (A == Activation::silu) return math::silu(v);

  else if constexpr (A == Activation::softplus) return math::softplus(v);
  else return v;
}
template <class Real> void activate(Activation a, const Real* in, Real* out, Index n) {
  const auto run = [&](auto f) { simd::transform(in, out, n, f); };
  switch (a) {
    case Activation::relu: return run([](auto v) { return activate<Activation::relu>(v); });
    case Activation::sigmoid: return run([](auto v) { return activate<Activation::sigmoid>(v); });
    case Activation::tanh: return run([](auto v) { return activate<Activation::tanh>(v); });
    case Activation::silu: return run([](auto v) { return activate<Activation::silu>(v); });
    default: return run([](auto v) { return v; });
  }
}
}
