#pragma once
/// @file  One line on a terminal that says how far a run is. Silent where there is no terminal.

#include <chrono>
#include <cstdio>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace limen::inline LIMEN_ABI {

///     epoch 3/10  [############--------]  61%  loss 0.2137  4 s left
class Progress {
 public:
  /// Speaks if `wanted` and `out` is a terminal.
  explicit Progress(bool wanted = true, std::FILE* out = stderr) : out_(out) {
#if defined(__unix__) || defined(__APPLE__)
    active_ = wanted && ::isatty(::fileno(out)) != 0;
#else
    active_ = false && wanted;
#endif
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (shown_) std::fputc('\n', out_);
  }

  /// The line of a new epoch starts.
  void begin(Index epoch, Index epochs, Index steps) {
    epoch_ = epoch;
    epochs_ = epochs;
    steps_ = steps;
    start_ = Clock::now();
    next_ = start_;
  }

  /// `step` of the epoch's steps are done. Ten times a second at most.
  void show(Index step, double loss) {
    if (!active_) return;
    const auto now = Clock::now();
    if (now < next_ && step < steps_) return;
    next_ = now + std::chrono::milliseconds(100);
    const double done = steps_ > 0 ? static_cast<double>(step) / static_cast<double>(steps_) : 1;
    const double spent = std::chrono::duration<double>(now - start_).count();
    const int bars = static_cast<int>(20 * done);
    std::fprintf(out_, "\repoch %td/%td  [%.*s%.*s] %3.0f%%  loss %.4f  %.0f s left   ", epoch_,
                 epochs_, bars, "####################", 20 - bars, "--------------------",
                 100 * done, loss, done > 0 ? spent * (1 - done) / done : 0.0);
    std::fflush(out_);
    shown_ = true;
  }

  /// Takes the line away, so that something else can be printed.
  void clear() {
    if (shown_) std::fputs("\r\033[K", out_);
    std::fflush(out_);
    shown_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::FILE* out_;
  bool active_ = false;
  bool shown_ = false;
  Index epoch_ = 0, epochs_ = 0, steps_ = 0;
  Clock::time_point start_{}, next_{};
};

}  // namespace limen::inline LIMEN_ABI
