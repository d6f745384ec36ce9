#pragma once
/// @file  What the machine has: xsimd's batches and the compiler's intrinsics, or LIMEN_SCALAR.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <limen/core/config.hpp>

#if !defined(LIMEN_SCALAR)
#include <xsimd/xsimd.hpp>
#if defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define LIMEN_SCALAR
#endif
#endif

#if defined(__x86_64__) && !defined(LIMEN_SCALAR)
#include <immintrin.h>
#endif

namespace limen::inline LIMEN_ABI {

using Index = std::ptrdiff_t;

namespace simd {

/// The integer with the width of Real.
template <class Real>
using Int = std::conditional_t<sizeof(Real) == 4, std::int32_t, std::int64_t>;

}  // namespace simd
}  // namespace limen::inline LIMEN_ABI
