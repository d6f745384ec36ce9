#pragma once
/// @file  What lies between the products of gated layers: an activation, a product, their
/// derivatives.
///
///   gate                  h = a(z) u
///   gate_backward         h again, and du = dh a(z),  dz = dh u a'(z)
///   activation_backward   dx = dy a'(x)

#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>

namespace limen::inline LIMEN_ABI {

/// h = a(z) u.  `h` may be `z` or `u`.
template <Activation A, class Real>
void gate(const Real* z, const Real* u, Real* h, Index n) noexcept {
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(h + i, activate<A>(load(z + i)) * load(u + i));
  });
}

/// h = a(z) u,  du = dh a(z),  dz = dh u a'(z).  `h` may be `dh`.
template <Activation A, class Real>
void gate_backward(const Real* z, const Real* u, const Real* dh, Real* h, Real* dz, Real* du,
                   Index n) noexcept {
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    const auto zi = load(z + i), ui = load(u + i), d = load(dh + i);
    const auto a = activate<A>(zi);
    store(h + i, a * ui);
    store(du + i, d * a);
    store(dz + i, d * ui * activation_derivative<A>(zi));
  });
}

/// dx = dy a'(x).  `dx` may be `dy` or `x`.
template <Activation A, class Real>
void activation_backward(const Real* x, const Real* dy, Real* dx, Index n) noexcept {
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(dx + i, load(dy + i) * activation_derivative<A>(load(x + i)));
  });
}
template <class Real>
void activation_backward(Activation a, const Real* x, const Real* dy, Real* dx, Index n) noexcept {
  with_activation(a, [&](auto kind) { activation_backward<kind()>(x, dy, dx, n); });
}

}  // namespace limen::inline LIMEN_ABI
