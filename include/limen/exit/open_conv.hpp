#pragma once
/// @file  The inference form of GatedConv: for each image the open channels, and only those.

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
  using Scalar = Real;
  template <class T>
  using with_scalar = GatedConv<C, T>;
  static constexpr Index macs(Index rows) { return Learning::macs(rows); }
  static constexpr Index open_macs(Index inputs, Index outputs) {
    return Learning::open_macs(inputs, outputs);
  }

  Panels<Real> panels;         ///< of all channels, for images that need them all
  Tensor<Real, O, K> filters;  ///< [O][taps][I], what is packed from
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
    panels = Panels<Real>::pack(std::as_const(filters).matrix());
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
  /// Fewer positions than this do not pay for packing the weight.
  static constexpr Index worth_packing_open = 8;
  static constexpr bool unit = C.gate != GateKind::top && !C.soft;  ///< g is 0 or 1

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

  /// Images of few positions: each has open channels of its own, a dense product for all of them is
  /// faster than what could be skipped, and a row's bits must not depend on how many there are. One
  /// row alone has `step`.
  Sequence<Real, out> all_rows(SequenceView<Real, in> x, const Sequence<Real, O>& g) const {
    Sequence<Real, out> y(x.rows());
    Buffer<Real> windows(x.rows() * P * K);
    for (Index t = 0; t < x.rows(); ++t) {
      gather_windows(window, x.row(t).data(), 0, P, windows.data() + t * P * K);
    }
    product_nt<Real>({windows.data(), x.rows() * P, K, K}, panels.view(),
                     {y.data(), x.rows() * P, O, O}, epilogue(bias.data()));
    for (Index t = 0; t < x.rows(); ++t) scale_rows(g.row(t).data(), {y.row_data(t), P, O, O});
    return y;
  }

  static void scale_rows(const Real* g, MatrixView<Real> y) noexcept {
    for (Index p = 0; p < y.rows; ++p) {
      multiply_rows<Real>(MatrixView<const Real>{g, 1, O, O}, y.middle_rows(p, 1));
    }
  }

  void some(const Real* x, const Real* g, OpenChannels outs, OpenChannels ins, Real* y) const {
    const bool all = outs.count == O && ins.count == I;
    const Index k = taps * ins.count;
    Buffer<Real> packed(all ? 0 : open_panels_size<Real>(outs.count, taps, ins.count));
    Buffer<Real> image(ins.count == I ? 0 : pixels * ins.count), b(O);
    PanelsView<Real> w = panels.view();
    if (!all) w = pack_open<Real>(filters.data(), taps, I, outs, ins, packed.data());
    for (Index j = 0; j < outs.count; ++j) b[j] = bias[outs.at[j]];
    Window2d seen = window;
    if (ins.count < I) {
      gather_channels<Real>({x, pixels, I, I}, ins, image.data());
      x = image.data();
      seen.channels = ins.count;
    }
    const Index most = k == 0 ? P : std::max<Index>(12, 32768 / k / 12 * 12);
    Buffer<Real> windows(std::min(most, P) * k),
        narrow(outs.count == O ? 0 : std::min(most, P) * outs.count);
    for (Index p = 0; p < P; p += most) {
      const Index n = std::min(most, P - p);
      gather_windows(seen, x, p, n, windows.data());
      const MatrixView<Real> to{y + p * O, n, O, O};
      if (outs.count == O) {
        product_nt<Real>({windows.data(), n, k, k}, w, to, epilogue(b.data()));
        if constexpr (!unit) scale_rows(g, to);
      } else {
        product_nt<Real>({windows.data(), n, k, k}, w, {narrow.data(), n, outs.count, outs.count},
                         epilogue(b.data()));
        spread_open<Real>(narrow.data(), outs, scale(g), to);
      }
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
