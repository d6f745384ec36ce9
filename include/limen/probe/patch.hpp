#pragma once
/// @file  Activation patching: what of one run, put into another, changes the answer.
///
///     const Patching study(model, base, source, LogitDifference{.a = 3, .b = 5});
///     study.effect({{.tap = "blocks.3.mixer", .rows = {4, 1}}})     Result<Effect>
///
///   e = (M_patched - M_base) / (M_source - M_base)      0 nothing changed, 1 all of it
///
/// base is the clean run and source the corrupt one (noising: what is needed), or the other way
/// round (denoising: what suffices). A metric is any double(SequenceView<Real, out>).
///
/// Vig et al., "Investigating gender bias in language models using causal mediation analysis",
/// NeurIPS 2020, arXiv:2004.12265; Zhang & Nanda, arXiv:2309.16042.

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <limen/probe/clamp.hpp>
#include <limen/probe/record.hpp>

namespace limen::inline LIMEN_ABI {

/// z_a - z_b of one row.
struct LogitDifference {
  Index a = 0, b = 1;
  Index row = -1;  ///< -1: the last one

  template <class Real, Index C>
  double operator()(SequenceView<Real, C> z) const {
    const Index t = row < 0 ? z.rows() - 1 : row;
    return static_cast<double>(z(t, a)) - static_cast<double>(z(t, b));
  }
};

/// softmax(z)_of of one row.
struct Probability {
  Index of = 0;
  Index row = -1;

  template <class Real, Index C>
  double operator()(SequenceView<Real, C> z) const {
    const Index t = row < 0 ? z.rows() - 1 : row;
    double sum = 0;
    for (Index c = 0; c < C; ++c) sum += std::exp(static_cast<double>(z(t, c) - z(t, of)));
    return 1 / sum;
  }
};

struct Effect {
  double base = 0, source = 0, patched = 0;  ///< M of the three runs

  double share() const { return (patched - base) / (source - base); }
  /// What is left of the metric: FLDD = 1 - M_patched / M_clean, with base the clean run.
  double fractional_decrease() const { return 1 - patched / base; }
};

namespace detail {
/// Holds the site at what it was in a recorded run, pass by pass. `seen` must outlive the probe.
inline void replace_from(Probe& probe, const Site& site, const Recording& seen) {
  probe.on(site.tap, [&seen, site](const TapPoint& point, auto rows) -> Status {
    const Activations* values = seen.find(point.name, point.pass);
    if (values == nullptr) return no_such_tap(point.name, seen.names());
    return replace_part(site, point, rows, *values);
  });
}
}  // namespace detail

template <Runs L, class Metric>
class Patching {
  using Real = typename L::Scalar;
  using View = SequenceView<Real, L::in>;

 public:
  static constexpr double smallest =
      1e-12;  ///< of |M_source - M_base|, below which e means nothing

  /// The inputs must outlive this; as long as each other.
  Patching(const L& model, const Sequence<Real, L::in>& base, const Sequence<Real, L::in>& source,
           Metric metric)
      : model_(model), base_(base), metric_(std::move(metric)) {
    if (base.rows() != source.rows()) {
      fault_ = Error{"rows of the source", std::to_string(base.rows()) + " as in the base",
                     std::to_string(source.rows())};
      return;
    }
    base_seen_ = record(model, base);
    source_seen_ = record(model, source);
    m_base_ = metric_(SequenceView<Real, L::out>(forward(model, View(base))));
    m_source_ = metric_(SequenceView<Real, L::out>(forward(model, View(source))));
    if (!(std::abs(m_source_ - m_base_) >= smallest)) {
      fault_ =
          Error{"metric", "another value for the source", "the base's, " + std::to_string(m_base_)};
    }
  }

  /// The base run with all these sites as in the source run.
  Result<Effect> effect(const std::vector<Site>& sites) const {
    if (!fault_) return fault_.error();
    Probe probe;
    for (const Site& site : sites) detail::replace_from(probe, site, source_seen_);
    return measure(probe);
  }

  /// The base run under a probe of your own.
  Result<Effect> measure(Probe& probe) const {
    if (!fault_) return fault_.error();
    Sequence<Real, L::out> y;
    if (Status s = run(probe, y); !s) return s.error();
    return Effect{m_base_, m_source_, metric_(SequenceView<Real, L::out>(y))};
  }

  /// The base run under a probe; y is good only if this is.
  Status run(Probe& probe, Sequence<Real, L::out>& y) const {
    if (!fault_) return fault_;
    return try_watch(model_, View(base_), probe, y);
  }

  const Recording& base() const { return base_seen_; }
  const Recording& source() const { return source_seen_; }
  const Status& fault() const { return fault_; }

 private:
  const L& model_;
  const Sequence<Real, L::in>& base_;
  Metric metric_;
  Recording base_seen_, source_seen_;
  double m_base_ = 0, m_source_ = 0;
  Status fault_;
};

/// Of pairs of a base and a source, the share that answers with the source's first choice in the
/// last row once the sites are patched.
template <Runs L>
Result<double> interchange_accuracy(const L& model,
                                    const std::vector<Sequence<typename L::Scalar, L::in>>& bases,
                                    const std::vector<Sequence<typename L::Scalar, L::in>>& sources,
                                    const std::vector<Site>& sites) {
  using Y = Sequence<typename L::Scalar, L::out>;
  if (bases.empty() || bases.size() != sources.size()) {
    return Error{"sources", std::to_string(bases.size()) + ", one for each base",
                 std::to_string(sources.size())};
  }
  const auto choice = [](const Y& y) {
    const auto* z = y.row(y.rows() - 1).data();
    return std::max_element(z, z + L::out) - z;
  };
  Index same = 0;
  for (std::size_t i = 0; i < bases.size(); ++i) {
    Recording seen;
    Y wanted, patched;
    Probe recorder, patcher;
    for (const Site& site : sites) recorder.on(site.tap, RecordInto{&seen});
    if (Status s = try_watch(model, sources[i], recorder, wanted); !s) return s.error();
    for (const Site& site : sites) detail::replace_from(patcher, site, seen);
    if (Status s = try_watch(model, bases[i], patcher, patched); !s) return s.error();
    same += choice(patched) == choice(wanted) ? 1 : 0;
  }
  return static_cast<double>(same) / static_cast<double>(bases.size());
}

}  // namespace limen::inline LIMEN_ABI
