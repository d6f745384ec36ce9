#pragma once
/// @file  The laws of training, but for the slope (check/slope.hpp).

#include <span>
#include <string>

#include <limen/check/subject.hpp>
#include <limen/core/error.hpp>

namespace limen::inline LIMEN_ABI::check {

/// Keeping a cache for training does not change the answer, nor the state left behind.
template <class S>
void training_is_inference(S& s, Index rows) {
  using X = typename S::X;
  using Y = typename S::Y;
  if (!s.options.training_is_inference || s.options.random) return;
  const X x = s.inputs(rows);
  const auto a = s.rest(), b = s.rest();
  s.layer.forward(s.inputs(2), *a);
  *b = *a;
  typename S::Layer::Cache cache;
  const Y inferred = s.layer.forward(x, *a);
  const Y trained = s.layer.forward(X(x), *b, cache);
  s.compare_rows("training is inference", length(rows), trained, inferred, s.options.tolerance);
  s.compare_future("training is inference", length(rows), *b, *a);
}

/// Once the pool has what a training step needs, nothing is asked of the system.
template <class S>
void running_again_allocates_nothing(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  typename L::Cache cache;
  L gradient{};
  const auto& offsets = s.ragged();
  const X x = s.inputs(offsets.back());
  const Y dy = s.template noise<S::out>(offsets.back());
  std::size_t counts[4];
  for (std::size_t& count : counts) {  // the first runs fill the pool
    Context c = s.context();
    s.layer.forward(X(x), from_rest(offsets, &c), cache);
    s.layer.backward(dy, from_rest(offsets, &c), cache, gradient);
    s.layer.forward(x, from_rest(offsets));
    count = s.allocations();
  }
  ++s.report.checks;
  if (counts[3] != counts[2]) {
    s.report.broke("running again allocates nothing", "allocations",
                   static_cast<double>(counts[3] - counts[2]), 0);
  }
}

/// backward adds: a second one doubles the first.
template <class S>
void gradients_add(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  const X x = s.inputs(s.options.rows);
  const Y r = s.template noise<S::out>(s.options.rows);
  typename L::Cache cache;
  L gradient{};
  Context c = s.context();
  s.layer.forward(X(x), Batch<State>(s.offsets_of(s.options.rows), &c), cache);
  s.layer.backward(r, Batch<State>(s.offsets_of(s.options.rows), &c), cache, gradient);
  const L once = gradient;
  s.layer.backward(r, Batch<State>(s.offsets_of(s.options.rows), &c), cache, gradient);
  for_each_parameter(
      [&](const std::string& name, const auto& both, const auto& first) {
        for (Index i = 0; i < both.size; ++i) {
          s.report.compare("gradients add", name, i, static_cast<double>(both[i]),
                           2 * static_cast<double>(first[i]), s.options.tolerance);
        }
      },
      gradient, once);
}

/// The gradient of a batch is the sum of those of its sequences.
template <class S>
void gradients_of_a_batch_add(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  if (!s.options.rows_are_independent || s.options.random) return;
  const auto& offsets = s.ragged();
  const X x = s.inputs(offsets.back());
  const Y r = s.template noise<S::out>(offsets.back());
  typename L::Cache cache;
  L together{}, summed{};
  s.layer.forward(X(x), from_rest(offsets), cache);
  const X dx = s.layer.backward(r, from_rest(offsets), cache, together);
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const Index first = offsets[b], rows = offsets[b + 1] - first;
    typename L::Cache alone;
    s.layer.forward(middle_rows(x, first, rows).copy(), Batch<State>(), alone);
    const X part = s.layer.backward(middle_rows(r, first, rows), Batch<State>(), alone, summed);
    s.compare_rows("gradients of a batch add", "dx of sequence " + std::to_string(b), part,
                   middle_rows(dx, first, rows), 10 * s.options.tolerance);
  }
  for_each_parameter(
      [&](const std::string& name, const auto& a, const auto& b) {
        for (Index i = 0; i < a.size; ++i) {
          s.report.compare("gradients of a batch add", name, i, static_cast<double>(a[i]),
                           static_cast<double>(b[i]), 10 * s.options.tolerance);
        }
      },
      together, summed);
}

/// The rows that f() gives; 0 if it fails.
template <class F>
Index or_refused(F f) {
#if LIMEN_EXCEPTIONS
  try {
    return f().rows();
  } catch (const Exception&) {
    return 0;
  }
#else
  return f().rows();
#endif
}

/// A gradient with fewer or more rows than forward had is an error, before anything is added.
template <class S>
void other_rows_are_refused(S& s) {
  using L = typename S::Layer;
  using Y = typename S::Y;
  using State = typename S::State;
  if (!s.options.refuses_other_rows) return;
  typename L::Cache cache;
  L gradient{};
  Context c = s.context();
  s.layer.forward(s.inputs(3), Batch<State>(s.offsets_of(3), &c), cache);
  const Y dy = s.template noise<S::out>(4);
  for (const Index rows : {Index{2}, Index{4}}) {  // more only if fewer are refused
    const auto given = middle_rows(dy, 0, rows);
    const Index back = or_refused([&] {
      return s.layer.backward(given, Batch<State>(s.offsets_of(rows), &c), cache, gradient);
    });
    ++s.report.checks;
    if (back == 0) continue;
    s.report.broke("other rows are refused", "rows of dx", static_cast<double>(back), 0);
    break;
  }
  for_each_parameter(
      [&](const std::string& name, const auto& d) {
        for (Index i = 0; i < d.size; ++i) {
          s.report.compare("other rows are refused", name, i, static_cast<double>(d[i]), 0, 0);
        }
      },
      gradient);
}

}  // namespace limen::inline LIMEN_ABI::check
