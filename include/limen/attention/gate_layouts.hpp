#pragma once
/// @file  How checkpoints store a gate at G1 inside q_proj, and how it is taken apart.
///
///   rows of q_proj.weight, query head h = k G + r of key head k (G = H / K), channel c:
///
///                       size             queries               gate
///   by_head             [2 H d, D]       2 h d + c             2 h d + d + c          Qwen3-Next
///   by_group            [2 H d, D]       2 k G d + r d + c     2 k G d + G d + r d + c
///   by_group_headwise   [H d + H, D]     k G (d + 1) + r d + c  k G (d + 1) + G d + r
///
/// The last two are those of Qiu et al., arXiv:2505.06708. The same holds for q_proj.bias, with
/// rows of one number.

#include <cstring>
#include <span>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

enum class GateLayout { by_head, by_group, by_group_headwise };

namespace detail {

/// f(row of the checkpoint, row of the queries or of the gate, is it the gate's) for all rows.
template <class F>
void for_each_gated_row(GateLayout layout, Index H, Index K, Index d, F f) {
  const Index together = layout == GateLayout::by_head ? 1 : H / K;  // heads
  const Index gates = layout == GateLayout::by_group_headwise ? together : together * d;
  Index row = 0;
  for (Index h = 0; h < H; h += together) {
    for (Index i = 0; i < together * d; ++i) f(row++, h * d + i, false);
    for (Index i = 0; i < gates; ++i) f(row++, h * gates / together + i, true);
  }
}

}  // namespace detail

/// Rows that a checkpoint has in this layout.
constexpr Index gated_rows(GateLayout layout, Index H, Index d) {
  return layout == GateLayout::by_group_headwise ? H * d + H : 2 * H * d;
}

/// The rows of `stored` go to `queries` [H d x width] and `gate` [H d or H x width].
template <class Real>
Status split_gated_queries(GateLayout layout, Index H, Index K, Index d, Index width,
                           std::span<const Real> stored, Real* queries, Real* gate) {
  const Index wanted = gated_rows(layout, H, d) * width;
  if (static_cast<Index>(stored.size()) != wanted) {
    return Error{"q_proj with a gate",
                 std::to_string(wanted / width) + " rows of " + std::to_string(width),
                 std::to_string(stored.size()) + " numbers"};
  }
  detail::for_each_gated_row(layout, H, K, d, [&](Index from, Index to, bool is_gate) {
    std::memcpy((is_gate ? gate : queries) + to * width, stored.data() + from * width,
                static_cast<std::size_t>(width) * sizeof(Real));
  });
  return {};
}

/// And back: `stored` has gated_rows(layout, H, d) rows.
template <class Real>
void join_gated_queries(GateLayout layout, Index H, Index K, Index d, Index width,
                        const Real* queries, const Real* gate, Real* stored) {
  detail::for_each_gated_row(layout, H, K, d, [&](Index to, Index from, bool is_gate) {
    std::memcpy(stored + to * width, (is_gate ? gate : queries) + from * width,
                static_cast<std::size_t>(width) * sizeof(Real));
  });
}

}  // namespace limen::inline LIMEN_ABI
