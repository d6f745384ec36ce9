#pragma once
/// @file  Threads that walk through time together: each does its part of every step, then waits.

#include <atomic>
#include <thread>

#include <limen/core/parallel.hpp>

namespace limen::inline LIMEN_ABI {

/// Below this a step is too short to wait for others at its end.
inline constexpr double worth_a_meeting_ns = 2'000;

namespace detail {

/// Where the threads of a team meet after each step. They spin: a step takes microseconds.
class Meeting {
 public:
  void wait(int members) noexcept {
    const unsigned round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      if (spins > 256) std::this_thread::yield();  // the other may want this core
    }
  }

 private:
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
};

#if defined(_OPENMP)
/// A function by itself, like detail::share.
template <class F>
LIMEN_NOINLINE void share_steps(int threads, F& f) {
  Meeting meeting;
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals guard;  // the mode belongs to each thread
    const Threads alone(1);
    const int parts = omp_get_num_threads();  // fewer may have come than were asked for
    f(Index{omp_get_thread_num()}, Index{parts}, [&] { meeting.wait(parts); });
  }
}
#endif

}  // namespace detail

/// f(part, parts, meet) on each thread allowed, or once; each calls meet() after every step, as
/// often as the others. `step_ns` is a guess of what one step takes on one thread.
template <class F>
void in_lockstep(Index most_parts, double step_ns, F&& f) {
#if defined(_OPENMP)
  const Index allowed = Threads::allowed(), threads = allowed < most_parts ? allowed : most_parts;
  if (threads > 1 && step_ns >= worth_a_meeting_ns && omp_in_parallel() == 0) {
    detail::share_steps(static_cast<int>(threads), f);
    return;
  }
#endif
  static_cast<void>(most_parts);
  static_cast<void>(step_ns);
  f(Index{0}, Index{1}, [] {});
}

}  // namespace limen::inline LIMEN_ABI
