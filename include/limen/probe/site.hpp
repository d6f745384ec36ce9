#pragma once
/// @file  Where to look or to reach in: a tap, and of what passes there some rows and columns.
///
///     Site{.tap = "blocks.3.mixer"}                                    all of it
///     Site{.tap = "blocks.*.mixer", .rows = {4, 1}, .columns = {0, 8}}

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <limen/core/error.hpp>
#include <limen/core/matrix.hpp>

namespace limen::inline LIMEN_ABI {

/// `count` in a row from `first` on; by default all.
struct Span {
  Index first = 0;
  Index count = -1;  ///< -1: to the end

  constexpr bool all() const { return first == 0 && count < 0; }
  constexpr Index size(Index of) const { return count < 0 ? of - first : count; }
  constexpr bool within(Index of) const {
    return first >= 0 && first <= of && first + size(of) <= of;
  }
};

struct Site {
  std::string tap;  ///< its name, or a pattern
  Span rows = {};
  Span columns = {};
};

/// What passes a tap.
struct TapPoint {
  std::string_view name;
  Index run_rows = 0;  ///< that went into the model
  Index pass = 0;      ///< how often the run was here before
  Index run = 0;       ///< how many runs the probe has seen before
};

namespace detail {
inline std::string range(const char* what, Span s, Index of) {
  return std::string(what) + ' ' + std::to_string(s.first) + " to " +
         std::to_string(s.first + s.size(of) - 1);
}
}  // namespace detail

namespace detail {
inline std::string shape(Index rows, Index cols) {
  return '[' + std::to_string(rows) + " x " + std::to_string(cols) + ']';
}
}  // namespace detail

/// The part of `rows` that the site names; nothing, and why, if there is no such part. Rows that
/// were gathered (behind a router, or with others having left) are not the run's: a site that names
/// some of them by number is refused.
template <class Real>
std::optional<MatrixView<Real>> part_of_site(const Site& site, const TapPoint& point,
                                             MatrixView<Real> rows, Status& why) {
  const auto none = [&](std::string wanted, std::string found) -> std::optional<MatrixView<Real>> {
    why = Error{"tap " + std::string(point.name), std::move(wanted), std::move(found)};
    return std::nullopt;
  };
  if (!site.columns.within(rows.cols)) {
    return none(detail::range("columns", site.columns, rows.cols),
                std::to_string(rows.cols) + " columns");
  }
  if (!site.rows.all() && rows.rows != point.run_rows) {
    return none("the run's " + std::to_string(point.run_rows) + " rows, as some are named",
                std::to_string(rows.rows) + " gathered ones");
  }
  if (!site.rows.within(rows.rows)) {
    return none(detail::range("rows", site.rows, rows.rows), std::to_string(rows.rows) + " rows");
  }
  return rows.middle_rows(site.rows.first, site.rows.size(rows.rows))
      .middle_cols(site.columns.first, site.columns.size(rows.cols));
}

}  // namespace limen::inline LIMEN_ABI
