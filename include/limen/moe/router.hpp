#pragma once
/// @file  What a router is: scores in, a sparse assignment out, a gradient back.
///
///   route(x, run, assignment)                     who takes which row, and with what weight
///   route(x, run, assignment, cache)              the same for training
///   backward(x, run, assignment, cache, dweight, gradient, dx)
///                                                 adds to gradient and dx
///   route_row(x_t, ids, weights)                  one row: no heap, no exception (causal routers)
///
/// A router is a part of MixtureOfExperts with parameters and `visit`, and knows nothing of the
/// experts. Which expert is chosen is a constant in backward. T rows, E experts, K slots per row.
///
/// `own` of the columns, the last ones, may be for the router alone: whole numbers such as the
/// token's or the task's. Experts take the columns before. Nothing flows back into such a number.

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>

#include <limen/core/batch.hpp>
#include <limen/core/error.hpp>
#include <limen/core/parameters.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI {

/// Who takes which row. Buffers are kept for the next run.
template <class Real, Index K>
struct Assignment {
  Buffer<std::int32_t> expert;  ///< [T x K], -1: the slot is not used
  Sequence<Real, K> weight;     ///< [T x K]

  void resize(Index rows) {
    if (expert.size() != rows * K) expert = Buffer<std::int32_t>(rows * K);
    if (weight.rows() != rows) weight = Sequence<Real, K>(rows);
  }
};

/// Which rows belong together, and the run's generator.
struct RoutingRun {
  const Index* offsets = nullptr;  ///< null: one sequence
  Index sequences = 1;
  Context* context = nullptr;
  const Index* numbers = nullptr;  ///< of the rows, for messages; null: their positions

  Index begin(Index b) const { return offsets == nullptr ? 0 : offsets[b]; }
  Index end(Index b, Index rows) const { return offsets == nullptr ? rows : offsets[b + 1]; }
};

/// What to do with a row whose scores name no k experts: NaN or +inf among them, too many masked.
enum class BadScores {
  report,  ///< an error that names the row; in `step`, which cannot fail, NaN
  poison,  ///< the row's output is NaN, other rows are served
};

template <class R>
concept Router =
    Parametrized<R> &&
    requires {
      { R::in } -> std::convertible_to<Index>;
      { R::experts } -> std::convertible_to<Index>;
      { R::slots } -> std::convertible_to<Index>;
      { R::causal } -> std::convertible_to<bool>;           // rows do not look ahead
      { R::uses_every_slot } -> std::convertible_to<bool>;  // the work is K experts for each row
    } &&
    requires(const R router, SequenceView<typename R::Scalar, R::in> x, const RoutingRun& run,
             Assignment<typename R::Scalar, R::slots>& assignment) {
      { router.route(x, run, assignment) } -> std::same_as<bool>;
    };

template <class R>
concept StreamingRouter = Router<R> && R::causal &&
                          requires(const R router, VectorView<typename R::Scalar, R::in> x,
                                   std::int32_t* ids, typename R::Scalar* weights) {
                            { router.route_row(x, ids, weights) } noexcept;
                          };

template <class R>
concept TrainableRouter =
    Router<R> &&
    requires(const R router, SequenceView<typename R::Scalar, R::in> x, const RoutingRun& run,
             Assignment<typename R::Scalar, R::slots>& assignment, typename R::Cache& cache,
             const Sequence<typename R::Scalar, R::slots>& dweight, R& gradient,
             Sequence<typename R::Scalar, R::in>& dx) {
      { router.route(x, run, assignment, cache) } -> std::same_as<bool>;
      router.backward(x, run, assignment, cache, dweight, gradient, dx);
    };

namespace detail {
/// How many columns of a row are for the router alone.
template <class R>
inline constexpr Index own_columns = [] {
  if constexpr (requires { R::own; }) {
    return Index{R::own};
  } else {
    return Index{0};
  }
}();

/// The whole number that a column holds; -1 where it is none from 0 to n - 1.
template <class Real>
Index whole_number(Real x, Index n) noexcept {
  if (!(x >= Real(0)) || !(x < static_cast<Real>(n))) return -1;
  const Index i = static_cast<Index>(x);
  return static_cast<Real>(i) == x ? i : -1;
}

/// Reports that a row names something that there is not.
inline bool bad_number(const char* what, Index row, Index n, double found) {
  fail({std::string(what) + " of row " + std::to_string(row),
        "a whole number from 0 to " + std::to_string(n - 1), std::to_string(found)});
  return false;
}

/// Reports that a row can not be routed.
inline bool bad_scores(const RoutingRun& run, Index row, Index k) {
  if (run.numbers != nullptr) row = run.numbers[row];
  fail({"scores of row " + std::to_string(row),
        "at least " + std::to_string(k) + " finite ones and no NaN", "others"});
  return false;
}
}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
