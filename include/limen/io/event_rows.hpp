#pragma once
/// @file  Event streams (io/events.hpp) as rows of a sequence, and back.
///
///     auto rows = binned<float, 128>(stream, {.step_us = 1000}).value();   // [T x D]
///     auto again = events_of(rows, 1000).value();                           // of signed counts

#include <cstdint>
#include <limits>
#include <string>

#include <limen/core/sequence.hpp>
#include <limen/io/events.hpp>

namespace limen::inline LIMEN_ABI {

/// What a row says of the events in its step.
enum class Binning {
  count,   ///< how many
  binary,  ///< 1 where there was one
  signed_  ///< up minus down; D is the number of addresses, also below
};

struct BinOptions {
  std::int64_t step_us = 1000;
  std::int64_t start_us = 0;  ///< events before it are left out
  Index steps = 0;            ///< rows; 0: up to the last event
  Binning binning = Binning::count;
  Index most_steps = 1 << 20;  ///< a time from a file must not ask for all memory
};

/// events -> [T x D]. D is the number of addresses (polarities together, or `signed_`), or twice
/// that: first those up, then those down.
template <class Real, Index D>
Result<Sequence<Real, D>> binned(const EventStream& stream, const BinOptions& o = {}) {
  const auto addresses = static_cast<Index>(stream.addresses);
  const bool split = D == 2 * addresses && o.binning != Binning::signed_;
  if (!split && D != addresses) {
    return Error{"binned: addresses", std::to_string(D) + ", or half of it",
                 std::to_string(stream.addresses)};
  }
  if (o.step_us < 1) return Error{"BinOptions.step_us", "1 or more", std::to_string(o.step_us)};
  if (o.start_us < 0) return Error{"BinOptions.start_us", "0 or more", std::to_string(o.start_us)};
  if (auto s = check_events(stream); !s) return s.error();
  std::int64_t steps = o.steps;
  if (steps == 0 && !stream.events.empty() && stream.events.back().time_us >= o.start_us) {
    steps = (stream.events.back().time_us - o.start_us) / o.step_us + 1;
  }
  if (steps < 0 || steps > o.most_steps) {
    return Error{"binned: steps", "0 to " + std::to_string(o.most_steps), std::to_string(steps)};
  }
  auto rows = Sequence<Real, D>::zeros(static_cast<Index>(steps));
  for (const Event& e : stream.events) {
    if (e.time_us < o.start_us) continue;
    const std::int64_t t = (e.time_us - o.start_us) / o.step_us;
    if (t >= steps) break;
    Real& at = rows(static_cast<Index>(t),
                    static_cast<Index>(e.address) + (split && !e.up ? addresses : 0));
    switch (o.binning) {
      case Binning::count:
        at += Real(1);
        break;
      case Binning::binary:
        at = Real(1);
        break;
      case Binning::signed_:
        at += e.up ? Real(1) : Real(-1);
        break;
    }
  }
  return rows;
}

/// The events of rows of signed counts [T x D], at the begin of their step; |x| of them each.
template <class Real, Index D>
Result<EventStream> events_of(SequenceView<Real, D> rows, std::int64_t step_us,
                              Index most_each = 64) {
  if (step_us < 1 ||
      (rows.rows() > 0 && step_us > std::numeric_limits<std::int64_t>::max() / rows.rows())) {
    return Error{"events_of: step_us", "1 or more, and times below 2^63", std::to_string(step_us)};
  }
  EventStream stream;
  stream.addresses = static_cast<std::uint32_t>(D);
  for (Index t = 0; t < rows.rows(); ++t) {
    for (Index d = 0; d < D; ++d) {
      const double x = static_cast<double>(rows(t, d)), size = x < 0 ? -x : x;
      if (!(size <= static_cast<double>(most_each)) ||
          size != static_cast<double>(static_cast<Index>(size))) {
        return Error{"events_of: row " + std::to_string(t) + ", address " + std::to_string(d),
                     "a whole number up to " + std::to_string(most_each), std::to_string(x)};
      }
      for (Index k = 0; k < static_cast<Index>(size); ++k) {
        stream.events.push_back({t * step_us, static_cast<std::uint32_t>(d), x > 0});
      }
    }
  }
  return stream;
}

template <class Real, Index D>
Result<EventStream> events_of(const Sequence<Real, D>& rows, std::int64_t step_us,
                              Index most_each = 64) {
  return events_of(SequenceView<Real, D>(rows), step_us, most_each);
}

}  // namespace limen::inline LIMEN_ABI
