#pragma once
/// @file  What passed the taps of a run, kept.
///
///     const Recording seen = record(model, x, {"blocks.*.mixer"});    // no patterns: all taps
///     seen["blocks.3.mixer"](t, d)
///
/// Numbers are kept as double, which holds a float exactly: put back, they are the same bits.

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <limen/probe/probe.hpp>

namespace limen::inline LIMEN_ABI {

/// What passed a tap once: [T x D].
struct Activations {
  Index rows = 0, cols = 0;
  std::vector<double> values;

  double operator()(Index t, Index d) const {
    return values[static_cast<std::size_t>(t * cols + d)];
  }
  double& operator()(Index t, Index d) { return values[static_cast<std::size_t>(t * cols + d)]; }
  MatrixView<const double> matrix() const { return {values.data(), rows, cols, cols}; }

  template <class Real>
  static Activations of(MatrixView<Real> x) {
    Activations a{x.rows, x.cols, std::vector<double>(static_cast<std::size_t>(x.rows * x.cols))};
    for (Index t = 0; t < x.rows; ++t) {
      for (Index d = 0; d < x.cols; ++d) a(t, d) = static_cast<double>(x(t, d));
    }
    return a;
  }
  template <class Real, Index D>
  static Activations of(SequenceView<Real, D> x) {
    return of(x.matrix());
  }
};

class Recording {
 public:
  struct Entry {
    std::string name;
    Index pass;
    Activations seen;
  };

  /// What passed the tap, the last time if there were several; `fail`s if there is no such tap.
  const Activations& operator[](std::string_view name) const {
    if (const Activations* last = find(name, -1)) return *last;
    fail(no_such_tap(name, names()));
    static const Activations none;
    return none;
  }

  /// Null if the tap was not passed so often; pass -1 is the last one.
  const Activations* find(std::string_view name, Index pass) const {
    const Activations* result = nullptr;
    for (const Entry& e : entries_) {
      if (e.name == name && (pass < 0 || pass == e.pass)) result = &e.seen;
    }
    return result;
  }

  /// Of all entries, in the order in which they passed.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const Entry& e : entries_) result.push_back(e.name);
    return result;
  }

  const std::vector<Entry>& entries() const { return entries_; }
  void add(const TapPoint& point, Activations seen) {
    entries_.push_back({std::string(point.name), point.pass, std::move(seen)});
  }

 private:
  std::vector<Entry> entries_;
};

/// A hook that keeps what passes.
struct RecordInto {
  Recording* to;
  template <class Real>
  void operator()(const TapPoint& point, MatrixView<Real> rows) const {
    to->add(point, Activations::of(rows));
  }
};

/// A hook that keeps gradients.
struct RecordGradientsInto {
  Recording* to;
  template <class Real>
  void operator()(const TapPoint&, MatrixView<Real>) const {}
  template <class Real>
  void back(const TapPoint& point, MatrixView<Real> dy) const {
    to->add(point, Activations::of(dy));
  }
};

namespace detail {
/// At every tap there is, whatever its name; unlike a pattern it may fit none.
class RecordAll final : public TapListener {
 public:
  explicit RecordAll(Recording& to) : to_(to) {}
  void at(std::string_view name, MatrixView<float> rows) override { add(name, rows); }
  void at(std::string_view name, MatrixView<double> rows) override { add(name, rows); }

 private:
  template <class Real>
  void add(std::string_view name, MatrixView<Real> rows) {
    const auto names = to_.names();
    to_.add({name, 0, std::count(names.begin(), names.end(), name)}, Activations::of(rows));
  }
  Recording& to_;
};
}  // namespace detail

/// What passes the taps that fit one of the patterns; all taps, if there is none.
template <Runs L>
Recording record(const L& model, std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x,
                 const std::vector<std::string>& patterns = {},
                 Batch<typename L::State> batch = {}) {
  Recording seen;
  if (patterns.empty()) {
    detail::RecordAll all(seen);
    Context context = batch.context != nullptr ? *batch.context : Context{};
    context.taps = &all;
    batch.context = &context;
    model.forward(x, batch);
    return seen;
  }
  Probe probe;
  for (const std::string& pattern : patterns) probe.on(pattern, RecordInto{&seen});
  watch(model, x, probe, batch);
  return seen;
}

}  // namespace limen::inline LIMEN_ABI
