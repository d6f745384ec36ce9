#pragma once
/// @file  The inference form of GatedConv: for each image the open channels, and only those.

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include <limen/core/parallel.hpp>
#include <limen/exit/gated_conv.hpp>
#include <limen/kernel/open_channels.hpp>

namespace limen::inline LIMEN_ABI {

template <GatedConvConfig C, class S>
  requires is_prepared<S>
struct GatedConv<C, S> {
  using Real = real_of<S>;
  using Learning = GatedConv<C, Real>;
  using Gate = ChannelGate<C.gate_config(), S>;

  static constexpr Window2d window = C.conv.window();
  static constexpr Index I = Learning::I, O = Learning::O, P = Learning::P, K = window.columns();
  static constexpr Index in = Learning::in, out = Learning::out, taps = window.taps();
  static constexpr Index pixels = in / I;
  /// Fewer positions than this do not pay for packing the weight.
  static constexpr Index worth_packing_open = 8;
  using Scalar = Real;
  template <class T>
  using with_scalar = GatedConv<C, T>;
  static constexpr Index macs(Index rows) { return Learning::macs(rows); }
  static constexpr Index open_macs(Index inputs, Index outputs) {
    return Learning::open_macs(inputs, outputs);
  }

  /// A kernel that is a row, or has holes, copies its windows; others go row by row of the kernel.
  static constexpr bool by_rows = P >= worth_packing_open && taps > 1 && C.conv.dilation.width == 1;
  static constexpr Index pieces = by_rows ? C.conv.kernel.height : 1;
  static constexpr Index piece_taps = taps / pieces;

  std::array<Panels<Real>, std::size_t{pieces}> panels;  ///< of all channels
  Tensor<Real, O, K> filters;                            ///< [O][taps][I], what is packed from
  Tensor<Real, O> bias;
  Gate gate;

  void prepare_from(const Learning& learned) {
    const auto place = [&](const auto& conv) {
      taps_first(conv.weight.data(), O, I, taps, filters.data());
      for (Index o = 0; o < O; ++o) {
        if constexpr (std::remove_cvref_t<decltype(conv)>::config.bias) bias[o] = conv.bias[o];
      }
    };
    if constexpr (C.norm) {
      place(fold(learned.conv, learned.norm));
    } else {
      place(learned.conv);
    }
    for (Index a = 0; a < pieces; ++a) {
      panels[static_cast<std::size_t>(a)] = Panels<Real>::pack(
          std::as_const(filters).matrix().middle_cols(a * piece_taps * I, piece_taps * I));
    }
    prepare_into(gate, learned.gate);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    const auto g = gate.forward(x, batch);
    if constexpr (P < worth_packing_open) {
      return all_rows(x, g);
    } else {
      Sequence<Real, out> y(x.rows());
      const double work_ns = 0.02 * double{P * K * O} * static_cast<double>(x.rows());
      parallel_for(x.rows(), work_ns,
                   [&](Index t) { one(x.row(t).data(), g.row(t).data(), y.row_data(t)); });
      return y;
    }
  }

  /// Position by position, allocates nothing.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto g = gate.step(x, state);
    Vector<Real, out> y;
    Index at[O];
    const OpenChannels outs = open(g.data(), at);
    Vector<Real, K> windows;
    for (Index p = 0; p < P; ++p) {
      gather_windows(window, x.data(), p, 1, windows.data());
      product_open<Real>(windows.matrix(), filters.matrix(), outs, epilogue(bias.data()),
                         scale(g.data()), {y.data() + p * O, 1, O, O});
    }
    return y;
  }

 private:
  /// g is 0 or 1
  static constexpr bool unit =
      C.gate != GateKind::top && C.gate != GateKind::hard_concrete && !C.soft;

  static Epilogue<Real> epilogue(const Real* b) noexcept {
    return {.bias = b, .activation = Activation::relu};
  }
  static const Real* scale(const Real* g) noexcept { return unit ? nullptr : g; }

  static OpenChannels open(const Real* g, Index* at) noexcept {
    Index count = 0;
    for (Index o = 0; o < O; ++o) {
      at[count] = o;
      count += g[o] == Real(0) ? 0 : 1;
    }
    return {at, count};
  }

  void one(const Real* x, const Real* g, Real* y) const {
    Buffer<Index> numbers(O + I);
    const OpenChannels outs = open(g, numbers.data());
    Buffer<Real> sums(I);
    const Index live = nonzero_channels<Real>({x, pixels, I, I}, sums.data(), numbers.data() + O);
    some(x, g, outs, {numbers.data() + O, live}, y);
  }

  /// Images of few positions: each has open channels of its own, and one product for all of them,
  /// of what is open in any, is faster than what could be skipped. One row alone has `step`. A
  /// row's bits must not depend on the others: sums of an output are made in one order however
  /// many panels there are, but for a single one.
  Sequence<Real, out> all_rows(SequenceView<Real, in> x, const Sequence<Real, O>& g) const {
    Sequence<Real, out> y(x.rows());
    Buffer<Real> windows(x.rows() * P * K);
    for (Index t = 0; t < x.rows(); ++t) {
      gather_windows(window, x.row(t).data(), 0, P, windows.data() + t * P * K);
    }
    const MatrixView<const Real> X{windows.data(), x.rows() * P, K, K};
    const MatrixView<Real> to{y.data(), x.rows() * P, O, O};
    Buffer<Index> numbers(O);
    const OpenChannels some = open_in_any(g, numbers.data());
    if (4 * some.count > 3 * O || X.rows < worth_packing_open ||
        detail::chains_for<Real>(detail::panel_count<Real>(some.count)) !=
            detail::chains_for<Real>(detail::panel_count<Real>(O))) {
      product_nt<Real>(X, panels[0].view(), to, epilogue(bias.data()));
    } else {
      Buffer<Real> packed(open_panels_size<Real>(some.count, taps, I)), b(O),
          narrow(X.rows * some.count);
      Buffer<Index> all(I);
      std::iota(all.begin(), all.end(), Index{0});
      for (Index j = 0; j < some.count; ++j) b[j] = bias[some.at[j]];
      product_nt<Real>(
          X, pack_open<Real>(filters.data(), K, taps, I, some, {all.data(), I}, packed.data()),
          {narrow.data(), X.rows, some.count, some.count}, epilogue(b.data()));
      spread_open<Real>(narrow.data(), some, nullptr, to);
    }
    for (Index t = 0; t < x.rows(); ++t) scale_rows(g.row(t).data(), {y.row_data(t), P, O, O});
    return y;
  }

  static OpenChannels open_in_any(const Sequence<Real, O>& g, Index* at) noexcept {
    Vector<Real, O> any{};
    for (Index t = 0; t < g.rows(); ++t) {
      for (Index o = 0; o < O; ++o) any[o] = g(t, o) != Real(0) ? Real(1) : any[o];
    }
    return open(any.data(), at);
  }

  static void scale_rows(const Real* g, MatrixView<Real> y) noexcept {
    for (Index p = 0; p < y.rows; ++p) {
      multiply_rows<Real>(MatrixView<const Real>{g, 1, O, O}, y.middle_rows(p, 1));
    }
  }

  void some(const Real* x, const Real* g, OpenChannels outs, OpenChannels ins, Real* y) const {
    const bool all = outs.count == O && ins.count == I;
    const Index size = all ? 0 : open_panels_size<Real>(outs.count, piece_taps, ins.count);
    Buffer<Real> packed(size * pieces), b(O), narrow(outs.count == O ? 0 : P * outs.count);
    PanelsView<Real> w[pieces];
    for (Index a = 0; a < pieces; ++a) {
      w[a] = all ? panels[static_cast<std::size_t>(a)].view()
                 : pack_open<Real>(filters.data() + a * piece_taps * I, K, piece_taps, I, outs, ins,
                                   packed.data() + a * size);
    }
    for (Index j = 0; j < outs.count; ++j) b[j] = bias[outs.at[j]];
    const MatrixView<Real> whole{y, P, O, O};
    const MatrixView<Real> to =
        outs.count == O ? whole : MatrixView<Real>{narrow.data(), P, outs.count, outs.count};
    Window2d seen = window;
    seen.channels = ins.count;
    if constexpr (by_rows) {
      Buffer<Real> padded(padded_pixels * ins.count);
      pad_open(window, x, ins, padded.data());
      product_windows<Real>(seen, padded.data(), w, epilogue(b.data()), to);
    } else {
      copy_windows(seen, x, ins, w[0], b.data(), to);
    }
    if (outs.count < O) {
      spread_open<Real>(narrow.data(), outs, scale(g), whole);
    } else if constexpr (!unit) {
      scale_rows(g, whole);
    }
  }

  static constexpr Index padded_pixels = (C.conv.image.height + 2 * C.conv.padding.height) *
                                         (C.conv.image.width + 2 * C.conv.padding.width);

  static void copy_windows(const Window2d& seen, const Real* x, OpenChannels ins,
                           PanelsView<Real> w, const Real* b, MatrixView<Real> to) {
    Buffer<Real> image(ins.count == I ? 0 : pixels * ins.count);
    if (ins.count < I) {
      gather_channels<Real>({x, pixels, I, I}, ins, image.data());
      x = image.data();
    }
    const Index k = taps * ins.count, most = k == 0 ? P : std::max<Index>(12, 32768 / k / 12 * 12);
    Buffer<Real> windows(std::min(most, P) * k);
    for (Index p = 0; p < P; p += most) {
      const Index n = std::min(most, P - p);
      gather_windows(seen, x, p, n, windows.data());
      product_nt<Real>({windows.data(), n, k, k}, w, to.middle_rows(p, n), epilogue(b));
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
