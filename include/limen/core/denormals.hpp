#pragma once
/// @file  Denormal numbers, flushed for as long as a guard lives.
///
/// A state that decays ends in numbers below 1e-38, which most processors handle by microcode: a
/// scan over silence ran 27 times slower than over sound. Every face of a layer that runs holds a
/// FlushDenormals; it treats such numbers as zero and gives the caller's mode back. A guard inside
/// a guard only looks.

#include <cstdint>

#include <limen/core/config.hpp>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace limen::inline LIMEN_ABI {

class FlushDenormals {
 public:
#if defined(__SSE2__)
  LIMEN_INLINE FlushDenormals() noexcept : before_(_mm_getcsr()) {
    if ((before_ & mode) != mode) _mm_setcsr(before_ | mode);
  }
  LIMEN_INLINE ~FlushDenormals() {
    if ((before_ & mode) != mode) _mm_setcsr(before_);
  }
  /// Does this thread flush them now?
  static bool active() noexcept { return (_mm_getcsr() & mode) == mode; }

 private:
  static constexpr unsigned mode = 0x8040;  // FTZ: results, DAZ: operands
  unsigned before_;
#elif defined(__aarch64__)
  LIMEN_INLINE FlushDenormals() noexcept : before_(read()) {
    if ((before_ & mode) == 0) write(before_ | mode);
  }
  LIMEN_INLINE ~FlushDenormals() {
    if ((before_ & mode) == 0) write(before_);
  }
  static bool active() noexcept { return (read() & mode) != 0; }

 private:
  static constexpr std::uint64_t mode = std::uint64_t{1} << 24;  // FPCR.FZ: operands and results
  static std::uint64_t read() noexcept {
    std::uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void write(std::uint64_t fpcr) noexcept { __asm__ volatile("msr fpcr, %0" : : "r"(fpcr)); }
  std::uint64_t before_;
#else
  FlushDenormals() noexcept {}
  ~FlushDenormals() {}
  static bool active() noexcept { return false; }

 public:
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace limen::inline LIMEN_ABI
