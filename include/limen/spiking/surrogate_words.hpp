#pragma once
/// @file  What surrogates (spiking/surrogate.hpp) are written with, what one must have, and the
/// twin of one whose slope can be checked.

#include <cmath>
#include <concepts>
#include <type_traits>

#include <limen/kernel/fire.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// What a surrogate is written with: the same words for one number and for a vector of them.
namespace surrogate {

/// x, as many of it as u has lanes.
template <class U>
LIMEN_INLINE U like(const U&, double x) {
  if constexpr (std::is_floating_point_v<U>) {
    return static_cast<U>(x);
  } else {
    return U(static_cast<typename U::value_type>(x));
  }
}

template <class U>
LIMEN_INLINE U magnitude(const U& u) {
  if constexpr (std::is_floating_point_v<U>) {
    return std::abs(u);
  } else {
    return simd::abs(u);
  }
}

template <class U>
LIMEN_INLINE U exponential(const U& u) {
  if constexpr (std::is_floating_point_v<U>) {
    return std::exp(u);
  } else {
    return math::exp(u);
  }
}

/// a where the mask is set, b elsewhere.
template <class Mask, class U>
LIMEN_INLINE U choose(const Mask& mask, const U& a, const U& b) {
  if constexpr (std::is_floating_point_v<U>) {
    return mask ? a : b;
  } else {
    return simd::select(mask, a, b);
  }
}

/// f of each lane: for what needs not be fast.
template <class U, class F>
U each(const U& u, F f) {
  if constexpr (std::is_floating_point_v<U>) {
    return static_cast<U>(f(u));
  } else {
    using Real = typename U::value_type;
    alignas(64) Real lanes[U::size];
    simd::store(lanes, u);
    for (Real& lane : lanes) lane = static_cast<Real>(f(lane));
    return simd::load<U>(lanes);
  }
}

/// 1 / (1 + k|u|)²
template <class U>
LIMEN_INLINE U hyperbola(const U& u, double k) {
  const U one = like(u, 1), d = one + like(u, k) * magnitude(u);
  return one / (d * d);
}

/// max(0, 1 - k|u|)
template <class U>
LIMEN_INLINE U tent(const U& u, double k) {
  const U zero = like(u, 0), up = like(u, 1) - like(u, k) * magnitude(u);
  return choose(up > zero, up, zero);
}

/// The integral of the tent of width 1 from the left: 0, then 1/2 at u = 0, then 1.
inline double tent_below(double u) {
  if (u <= -1) return 0;
  if (u >= 1) return 1;
  return u < 0 ? (1 + u) * (1 + u) / 2 : 1 - (1 - u) * (1 - u) / 2;
}

}  // namespace surrogate

/// Are the numbers of a surrogate what its formula needs?
template <class Phi>
constexpr bool sound(const Phi& phi) {
  if constexpr (requires { phi.sound(); }) {
    return phi.sound();
  } else {
    return true;
  }
}

/// φ of one number and of a vector.
template <class Phi>
concept Surrogate = requires(const Phi phi, float x, simd::Vec<float> u, simd::Vec<double> w) {
  { phi.derivative(x) } -> std::same_as<float>;
  { phi.derivative(u) } -> std::same_as<simd::Vec<float>>;
  { phi.derivative(w) } -> std::same_as<simd::Vec<double>>;
};

/// The twin of a surrogate whose spike is its primitive: then φ is the slope of what is computed,
/// through resets too, and the way back can be checked by differences. For tests, and for those who
/// want to see how far a surrogate is from a gradient.
template <Surrogate Phi>
struct Soft {
  Phi of{};
  static constexpr bool soft = true;
  constexpr bool sound() const { return limen::sound(of); }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return of.derivative(u);
  }
  template <class U>
  U primitive(const U& u) const {
    return of.primitive(u);
  }
};
template <class Phi>
Soft(Phi) -> Soft<Phi>;

}  // namespace limen::inline LIMEN_ABI
