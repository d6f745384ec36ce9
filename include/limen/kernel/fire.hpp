#pragma once
/// @file  When a neuron fires, and what firing does to its membrane.
///
///   s = H(u)        u: membrane above the threshold; H: 1 where it fires, 0 elsewhere
///
/// Published code disagrees on all three of these, so each has a name. On the way back H' is a
/// surrogate φ (spiking/surrogate.hpp).

#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Does a membrane fire that stands exactly at its threshold?
enum class SpikeTest {
  ge,  ///< yes: u >= 0
  gt   ///< no: u > 0
};

/// What a spike does to the membrane.
enum class Reset {
  subtract,  ///< it goes down by an amount, usually the threshold
  to_value,  ///< it goes to a value
  none       ///< nothing
};

/// When the reset is paid.
enum class When {
  now,  ///< in the step of the spike: what is remembered is what is left
  next  ///< in the step after it: what is remembered is the membrane that fired
};

/// H(u) as a mask, or as a bool for one number. NaN never fires.
template <SpikeTest Test, class U>
LIMEN_INLINE auto fires(const U& u) {
  if constexpr (Test == SpikeTest::ge) {
    return u >= U(0);
  } else {
    return u > U(0);
  }
}

template <class U>
LIMEN_INLINE auto fires(const U& u, SpikeTest test) {
  return test == SpikeTest::ge ? fires<SpikeTest::ge>(u) : fires<SpikeTest::gt>(u);
}

/// True of a surrogate whose forward is its primitive instead of H: the twin that has a slope.
template <class Phi>
inline constexpr bool is_soft = requires { requires Phi::soft; };

/// s for a vector of neurons: H(u), or the primitive of a soft surrogate.
template <SpikeTest Test, class Phi, class V>
LIMEN_INLINE V spike(const Phi& phi, const V& u) {
  if constexpr (is_soft<Phi>) {
    return phi.primitive(u);
  } else {
    return simd::select(fires<Test>(u), V(1), V(0));
  }
}

}  // namespace limen::inline LIMEN_ABI
