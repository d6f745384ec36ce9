#pragma once
/// @file  Looking inside a model while it runs, and reaching in.
///
///     Probe probe;
///     probe.on("blocks.*.mixer", [](const TapPoint& point, auto rows) { ... });
///     const auto y = watch(model, x, probe);
///
/// A hook sees the rows that pass a tap, and may edit them; of several at one tap the first one
/// comes first, and what is written last stays. It may return a Status. A hook with a member
/// `back(point, dy)` also sees the gradients of what it left, and may edit them. What is not a hook
/// any more is taken off by `remove`, or with the probe: the model itself never changes.
///
/// A pattern that no tap of the run fits is an error that names close ones, and so is what a hook
/// refuses; the states of the run are then what they were.

#include <algorithm>
#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/probe/names.hpp>
#include <limen/probe/site.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// Anything that can be called as f(point, rows), for rows of float or double or both.
class Hook {
 public:
  virtual ~Hook() = default;
  virtual Status at(const TapPoint& point, MatrixView<float> rows) = 0;
  virtual Status at(const TapPoint& point, MatrixView<double> rows) = 0;
  virtual Status back(const TapPoint& point, MatrixView<float> rows) = 0;
  virtual Status back(const TapPoint& point, MatrixView<double> rows) = 0;
};

template <class F>
class HookOf final : public Hook {
 public:
  explicit HookOf(F f) : f_(std::move(f)) {}
  Status at(const TapPoint& point, MatrixView<float> rows) override { return call(point, rows); }
  Status at(const TapPoint& point, MatrixView<double> rows) override { return call(point, rows); }
  Status back(const TapPoint& point, MatrixView<float> rows) override { return turn(point, rows); }
  Status back(const TapPoint& point, MatrixView<double> rows) override { return turn(point, rows); }

 private:
  template <class Real>
  Status call(const TapPoint& point, MatrixView<Real> rows) {
    if constexpr (!std::invocable<F&, const TapPoint&, MatrixView<Real>>) {
      return Error{"tap " + std::string(point.name), "numbers that the hook takes",
                   sizeof(Real) == 4 ? "float" : "double"};
    } else if constexpr (std::is_void_v<decltype(f_(point, rows))>) {
      f_(point, rows);
      return {};
    } else {
      return f_(point, rows);
    }
  }
  template <class Real>
  Status turn(const TapPoint& point, MatrixView<Real> rows) {
    if constexpr (!requires { f_.back(point, rows); }) {
      return {};
    } else if constexpr (std::is_void_v<decltype(f_.back(point, rows))>) {
      f_.back(point, rows);
      return {};
    } else {
      return f_.back(point, rows);
    }
  }

  F f_;
};

}  // namespace detail

class Probe final : public TapListener {
 public:
  using Id = std::size_t;

  /// f(point, rows) wherever a tap fits the pattern.
  template <class F>
  Id on(std::string pattern, F f) {
    hooks_.push_back(
        {next_, std::move(pattern), std::make_unique<detail::HookOf<F>>(std::move(f))});
    return next_++;
  }
  void remove(Id id) {
    std::erase_if(hooks_, [id](const Entry& e) { return e.id == id; });
  }
  void clear() { hooks_.clear(); }
  bool empty() const { return hooks_.empty(); }

  /// The taps that the latest run passed, in order, once for each pass.
  const std::vector<std::string>& heard() const { return heard_; }

  /// A run of so many rows begins, or goes back.
  void begin(Index run_rows) {
    heard_.clear();
    fault_ = {};
    for (Entry& e : hooks_) e.fits = false;
    run_rows_ = run_rows;
    ++run_;
  }

  /// What went wrong in the run that ends here.
  Status outcome() const {
    if (!fault_) return fault_;
    for (const Entry& e : hooks_) {
      if (!e.fits) return no_such_tap(e.pattern, heard_);
    }
    return {};
  }

  void at(std::string_view name, MatrixView<float> rows) override { hear(name, rows, false); }
  void at(std::string_view name, MatrixView<double> rows) override { hear(name, rows, false); }
  void back_at(std::string_view name, MatrixView<float> rows) override { hear(name, rows, true); }
  void back_at(std::string_view name, MatrixView<double> rows) override { hear(name, rows, true); }

 private:
  struct Entry {
    Id id;
    std::string pattern;
    std::unique_ptr<detail::Hook> hook;
    bool fits = false;
  };

  template <class Real>
  void hear(std::string_view name, MatrixView<Real> rows, bool back) {
    const TapPoint point{name, run_rows_, std::count(heard_.begin(), heard_.end(), name), run_};
    heard_.emplace_back(name);
    for (Entry& e : hooks_) {
      if (!fits(e.pattern, name)) continue;
      e.fits = true;
      const Status said = back ? e.hook->back(point, rows) : e.hook->at(point, rows);
      if (!said && fault_) fault_ = said;
    }
  }

  std::vector<Entry> hooks_;
  std::vector<std::string> heard_;
  Status fault_;
  Index run_rows_ = 0;
  Index run_ = -1;
  Id next_ = 0;
};

namespace detail {

/// y = run(batch with the probe in its context); where that did not go well, states are as before.
template <class State, class Y, class Run>
Status listen(Probe& probe, Index rows, Batch<State> batch, Y& y, Run run) {
  std::vector<State> before;
  for (Index b = 0; batch.carries() && b < batch.count(); ++b) before.push_back(batch[b]);
  Context context = batch.context != nullptr ? *batch.context : Context{};
  context.taps = &probe;
  batch.context = &context;
  probe.begin(rows);
  y = run(batch);
  const Status well = probe.outcome();
  for (std::size_t b = 0; !well && b < before.size(); ++b) batch[static_cast<Index>(b)] = before[b];
  return well;
}

/// y, or nothing after an error.
template <class Y>
Y or_fail(const Status& well, Y y) {
  if (well) return y;
  well.value();
  return {};
}

}  // namespace detail

/// y = forward(x, batch) with the probe listening.
template <Runs L>
Status try_watch(const L& model, std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x,
                 Probe& probe, Sequence<typename L::Scalar, L::out>& y,
                 Batch<typename L::State> batch = {}) {
  return detail::listen(probe, x.rows(), batch, y,
                        [&](const auto& b) { return model.forward(x, b); });
}

template <Runs L>
Sequence<typename L::Scalar, L::out> watch(
    const L& model, std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x, Probe& probe,
    Batch<typename L::State> batch = {}) {
  Sequence<typename L::Scalar, L::out> y;
  const Status well = try_watch(model, x, probe, y, batch);
  return detail::or_fail(well, std::move(y));
}

/// The same for training.
template <Trainable L>
Sequence<typename L::Scalar, L::out> watch(const L& model, Sequence<typename L::Scalar, L::in> x,
                                           Probe& probe, typename L::Cache& cache,
                                           Batch<typename L::State> batch = {}) {
  Sequence<typename L::Scalar, L::out> y;
  const Status well = detail::listen(probe, x.rows(), batch, y, [&](const auto& b) {
    return model.forward(std::move(x), b, cache);
  });
  return detail::or_fail(well, std::move(y));
}

/// dx = backward(dy, batch, cache, gradient), with the probe at the gradients.
template <Trainable L>
Status try_watch_back(const L& model,
                      std::type_identity_t<SequenceView<typename L::Scalar, L::out>> dy,
                      Probe& probe, const typename L::Cache& cache, L& gradient,
                      Sequence<typename L::Scalar, L::in>& dx,
                      Batch<typename L::State> batch = {}) {
  return detail::listen(probe, dy.rows(), batch, dx,
                        [&](const auto& b) { return model.backward(dy, b, cache, gradient); });
}

template <Trainable L>
Sequence<typename L::Scalar, L::in> watch_back(
    const L& model, std::type_identity_t<SequenceView<typename L::Scalar, L::out>> dy, Probe& probe,
    const typename L::Cache& cache, L& gradient, Batch<typename L::State> batch = {}) {
  Sequence<typename L::Scalar, L::in> dx;
  const Status well = try_watch_back(model, dy, probe, cache, gradient, dx, batch);
  return detail::or_fail(well, std::move(dx));
}

/// The taps that a run over x passes, in order.
template <Runs L>
std::vector<std::string> tap_names(
    const L& model, std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x) {
  Probe probe;
  watch(model, x, probe);
  return probe.heard();
}

}  // namespace limen::inline LIMEN_ABI
