#pragma once
/// @file  The places of a gate in a layer of attention: code where it stands, none elsewhere.

#include <limen/attention/gate.hpp>
#include <limen/core/batch.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// `z`: the scores of the gate, `width` for each row, or the same for all rows.
template <Gate gate, class Real, Index width>
struct GatePlaces {
  static constexpr Index z_row = gate.from_input ? width : 0;

  const Real* z;

  /// Where the gate stands at P, else nothing.
  template <GatePosition P>
  void apply(Index heads, MatrixView<Real> u) const noexcept {
    if constexpr (gate.at(P)) head_gate<gate>(z, z_row, heads, u, u);
  }

  /// The same, for a listener to hear; `before` keeps u for backward.
  template <GatePosition P, bool Keep, Index N>
  void pass(Index heads, Sequence<Real, N>& u, Sequence<Real, N>& before, TapListener* taps) const {
    if constexpr (gate.at(P)) {
      if constexpr (Keep) before = u;
      if (taps == nullptr) return apply<P>(heads, u.matrix());
      Sequence<Real, width> g(gate.from_input ? u.rows() : 1);
      gate_scores<gate>(z, g.data(), g.size());
      taps->at("gate", g.matrix());
      head_gate<given(gate)>(g.data(), z_row, heads, u.matrix(), u.matrix());
    }
  }

  template <GatePosition P, Index N>
  void back(Index heads, const Sequence<Real, N>& u, Sequence<Real, N>& dy,
            Sequence<Real, width>& dz) const {
    if constexpr (gate.at(P)) {
      head_gate_backward<gate>(z, z_row, heads, u.matrix(), dy.matrix(), dy.matrix(), dz.data());
    }
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
