#pragma once
/// @file  Loops that several threads may share, with the same bits for any number of them.
///
/// One thread is the default: a real-time caller wants no other. `Threads two(2);` lets what runs
/// in its scope, on this thread, use two. The work is done by OpenMP where the program is compiled
/// with it; otherwise the loop simply runs.

#include <limen/core/config.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/simd.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace limen::inline LIMEN_ABI {

namespace detail {

inline thread_local int threads_allowed = 1;

#if defined(_OPENMP)
/// A function by itself: one that holds a parallel region begins, from clang, with a call of
/// OpenMP, and the first of these allocates. A step, which shares nothing, must not come by here.
template <class F>
LIMEN_NOINLINE void share(Index count, int threads, F& f) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < count; ++i) {
    const FlushDenormals guard;  // the mode belongs to each thread
    f(i);
  }
}
#endif

}  // namespace detail

/// Allows `count` threads until the end of the scope.
class Threads {
 public:
  explicit Threads(int count) : before_(detail::threads_allowed) {
    detail::threads_allowed = count > 1 ? count : 1;
  }
  ~Threads() { detail::threads_allowed = before_; }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  static int allowed() { return detail::threads_allowed; }

 private:
  int before_;
};

/// Handing work to another core and back costs about a microsecond; below this it does not pay.
inline constexpr double worth_a_thread_ns = 10'000;

/// f(i) for 0 <= i < count, in any order, on the threads allowed. `work_ns` is a guess of what all
/// of it takes on one. What f(i) writes must not depend on other f(j).
template <class F>
void parallel_for(Index count, double work_ns, F&& f) {
#if defined(_OPENMP)
  const int threads = Threads::allowed();
  if (threads > 1 && count > 1 && work_ns >= worth_a_thread_ns && omp_in_parallel() == 0) {
    detail::share(count, threads, f);
    return;
  }
#endif
  static_cast<void>(work_ns);
  for (Index i = 0; i < count; ++i) f(i);
}

/// The i-th of `count` tasks, taken from both ends by turns: where tasks grow with their number, as
/// rows do that see all before them, each thread's stretch of i then holds about as much work.
constexpr Index from_both_ends(Index i, Index count) {
  return i % 2 == 0 ? i / 2 : count - 1 - i / 2;
}

}  // namespace limen::inline LIMEN_ABI
