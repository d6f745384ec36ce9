#pragma once
/// @file  Version, and the name of the inline namespace.
///
/// Everything in limen is inline code, compiled anew in each translation unit with that unit's
/// instruction set. If two units built with different -march used the same names, the linker would
/// keep one body for both, and the program could run AVX-512 where it must not, or mix objects of
/// different layout. So what changes the code is part of the name: version, instruction set,
/// OpenMP, exceptions. Users write limen:: and never see it.

#define LIMEN_VERSION_MAJOR 0
#define LIMEN_VERSION_MINOR 1
#define LIMEN_VERSION_PATCH 0

#if defined(LIMEN_SCALAR)
#define LIMEN_ISA scalar
#elif defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(__AVX512FP16__)
#define LIMEN_ISA avx512fp16
#elif defined(__AVX512BF16__)
#define LIMEN_ISA avx512bf16
#elif defined(__AVX512VNNI__)
#define LIMEN_ISA avx512vnni
#else
#define LIMEN_ISA avx512
#endif
#elif defined(__AVX512F__)
#define LIMEN_ISA avx512f
#elif defined(__AVX2__) && defined(__FMA__)
#define LIMEN_ISA avx2fma
#elif defined(__AVX2__)
#define LIMEN_ISA avx2
#elif defined(__AVX__)
#define LIMEN_ISA avx
#elif defined(__SSE4_1__)
#define LIMEN_ISA sse4
#elif defined(__SSE2__)
#define LIMEN_ISA sse2
#elif defined(__ARM_FEATURE_SVE)
#define LIMEN_ISA sve
#elif defined(__aarch64__)
#define LIMEN_ISA neon64
#else
#define LIMEN_ISA generic
#endif

#if defined(_OPENMP)
#define LIMEN_ABI_THREADS _omp
#else
#define LIMEN_ABI_THREADS
#endif

/// 1 where errors are thrown, 0 where they are reported (see error.hpp).
#if defined(__cpp_exceptions)
#define LIMEN_EXCEPTIONS 1
#define LIMEN_ABI_ERRORS
#else
#define LIMEN_EXCEPTIONS 0
#define LIMEN_ABI_ERRORS _noexc
#endif

// The detour makes the preprocessor expand the arguments before it glues and quotes them.
#define LIMEN_GLUE(a, b, c, d, e) v##a##_##b##_##c##d##e
#define LIMEN_EXPAND(a, b, c, d, e) LIMEN_GLUE(a, b, c, d, e)
#define LIMEN_ABI                                                                      \
  LIMEN_EXPAND(LIMEN_VERSION_MAJOR, LIMEN_VERSION_MINOR, LIMEN_ISA, LIMEN_ABI_THREADS, \
               LIMEN_ABI_ERRORS)
#define LIMEN_QUOTE(x) #x
#define LIMEN_TEXT(x) LIMEN_QUOTE(x)

/// Unrolls the loop that follows: g++ does not unroll a loop over an array of vectors at -O2, and
/// the array then lives in memory instead of registers.
#if defined(__clang__)
#define LIMEN_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LIMEN_UNROLL _Pragma("GCC unroll 64")
#else
#define LIMEN_UNROLL
#endif

#if defined(__GNUC__)
#define LIMEN_INLINE inline __attribute__((always_inline))
#define LIMEN_NOINLINE __attribute__((noinline))
#else
#define LIMEN_INLINE inline
#define LIMEN_NOINLINE
#endif

namespace limen::inline LIMEN_ABI {

/// "0.1.0"
inline constexpr const char* version = LIMEN_TEXT(LIMEN_VERSION_MAJOR) "." LIMEN_TEXT(
    LIMEN_VERSION_MINOR) "." LIMEN_TEXT(LIMEN_VERSION_PATCH);

/// The instruction set this translation unit was compiled for, such as "avx2fma".
inline constexpr const char* isa = LIMEN_TEXT(LIMEN_ISA);

}  // namespace limen::inline LIMEN_ABI
