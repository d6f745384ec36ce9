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

namespace detail {
/// Does a guard of this thread live? Asking the processor takes 3 ns, as long as a small layer.
inline thread_local constinit bool flushing = false;
}  // namespace detail

class FlushDenormals {
 public:
#if defined(__SSE2__) || defined(__aarch64__)
  LIMEN_INLINE FlushDenormals() noexcept : inner_(detail::flushing) {
    if (inner_) return;
    before_ = read();
    if ((before_ & mode) != mode) write(before_ | mode);
    detail::flushing = true;
  }
  LIMEN_INLINE ~FlushDenormals() {
    if (inner_) return;
    if ((before_ & mode) != mode) write(before_);
    detail::flushing = false;
  }
  /// Does this thread flush them now?
  static bool active() noexcept { return (read() & mode) == mode; }

 private:
#if defined(__SSE2__)
  using Word = unsigned;
  static constexpr Word mode = 0x8040;  // FTZ: results, DAZ: operands
  static Word read() noexcept { return _mm_getcsr(); }
  static void write(Word csr) noexcept { _mm_setcsr(csr); }
#else
  using Word = std::uint64_t;
  static constexpr Word mode = Word{1} << 24;  // FPCR.FZ: operands and results
  static Word read() noexcept {
    Word fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void write(Word fpcr) noexcept { __asm__ volatile("msr fpcr, %0" : : "r"(fpcr)); }
#endif
  Word before_ = 0;
  const bool inner_;

 public:
#else
  FlushDenormals() noexcept {}
  ~FlushDenormals() {}
  static bool active() noexcept { return false; }
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace limen::inline LIMEN_ABI
