#pragma once
/// @file  Delays over an image: each event is stamped, as a patch of weights, on the frames to
/// come.
///
///   y_t[p, q] = b + Σ_{d,k,l} W_{dkl} x_{t-d}[p - k + r, q - l + r']
///
///   A row is one frame with its channels side by side: x [T x H H' I] is
///   [height][width][channels], y likewise with O channels. W [I, L + 1, kh, kw, O], kh and kw odd,
///   r = (kh - 1) / 2, r' = (kw - 1) / 2, b [O]; beyond the frame, and before the start, there is
///   nothing.
///
/// A weight for each delay and place, so which delays there are is learned by learning weights: the
/// synapses that are left after pruning differ in their delays (`strongest`, delay_lines.hpp).
/// Event-driven, with the ring of delays.hpp: an event adds its patches to the L + 1 frames in
/// which they arrive. The weight is stored as it is stamped; PyTorch's conv3d over frames padded by
/// L in front has it flipped in all three axes, and as [O, I, ...].
///
///   dW_{idkl} = Σ_{t,p,q} x_t[p, q, i] dy_{t+d}[p + k - r, q + l - r'],   db = Σ dy
///   dx_t[p, q, i] = Σ_{d,k,l} W_{idkl} · dy_{t+d}[p + k - r, q + l - r']
///
/// Grimaldi & Perrinet, Learning heterogeneous delays in a layer of spiking neurons for fast motion
/// detection, Biological Cybernetics 117 (2023).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <limen/kernel/conv.hpp>
#include <limen/spiking/delay_lines.hpp>

namespace limen::inline LIMEN_ABI {

struct DelayedConv2dConfig {
  Extent image = {};    ///< H, H'
  Index d_in = 0;       ///< I, channels; two polarities, say
  Index d_out = 0;      ///< O, channels; one for each motion, say
  Extent kernel{3, 3};  ///< kh, kw; odd
  Index longest = 15;   ///< L, the largest delay, in steps
  bool bias = true;     ///< add b
};

template <DelayedConv2dConfig C, class S = float>
struct DelayedConv2d {
  static_assert(C.image.height > 0 && C.image.width > 0, "DelayedConv2d: .image must not be empty");
  static_assert(C.d_in > 0, "DelayedConv2d: .d_in must be positive");
  static_assert(C.d_out > 0, "DelayedConv2d: .d_out must be positive");
  static_assert(C.kernel.height % 2 == 1 && C.kernel.width % 2 == 1,
                "DelayedConv2d: .kernel must be odd, so that it has a middle");
  static_assert(C.longest >= 0 && C.longest <= 65535, "DelayedConv2d: .longest must be 0 to 65535");

  static constexpr DelayedConv2dConfig config = C;
  static constexpr Index H = C.image.height, W = C.image.width, I = C.d_in, O = C.d_out,
                         L = C.longest, kh = C.kernel.height, kw = C.kernel.width;
  static constexpr Index in = H * W * I, out = H * W * O;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = DelayedConv2d<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, I, L + 1, kh, kw, O> weight;  ///< W, all that an event of a channel does
  Optional<C.bias, Tensor<Real, O>> bias;    ///< b

  template <class F, class... Ls>
  static constexpr void visit(F&& f, Ls&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  /// By how many weights an output has.
  static DelayedConv2d initialized(Random& random) {
    DelayedConv2d layer;
    const double most = 1 / std::sqrt(static_cast<double>(I * (L + 1) * kh * kw));
    fill_uniform(layer.weight, most, random);
    if constexpr (C.bias) fill_uniform(layer.bias, most, random);
    return layer;
  }

  static constexpr bool work_depends_on_data = true;
  /// If every pixel had an event.
  static constexpr Index macs(Index rows) { return rows * in * (L + 1) * kh * kw * O; }

  /// f(output, weight) for what an event of channel i at `place` reaches d steps later.
  template <class F>
  void each_reached(Index place, Index i, Index d, F f) const {
    const Real* const w = weight.data() + (i * (L + 1) + d) * patch;
    each_line(place, [&](Index from, Index to, Index n) {
      for (Index c = 0; c < n; ++c) f(to + c, w[from + c]);
    });
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = DelayState<Real, L, out>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return run(x, batch);
  }

  /// A frame of events -> a frame of evidence.  Allocates nothing.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    one(x.data(), state.ring.data(), state.cursor, y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;         ///< [T x H H' I]
    Buffer<std::int64_t> cursor;  ///< [B] of the first states
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.cursor = Buffer<std::int64_t>(batch.count());
    for (Index b = 0; b < batch.count(); ++b) {
      cache.cursor[b] = batch.carries() ? batch[b].cursor : 0;
    }
    auto y = run(SequenceView<Real, in>(x), batch);
    cache.x = std::move(x);
    return y;
  }

  /// Delays are shared out to threads for dW, frames for dx.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              DelayedConv2d& gradient) const {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    if (!fits_cache(batch.count(), cache.cursor.size(), "sequences of the batch")) return {};
    const FlushDenormals guard;
    auto dx = Sequence<Real, in>::zeros(dy.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), T = batch.end(b, dy.rows()) - first;
      if (T == 0) continue;
      Real* const d_ring = batch.carries() ? batch[b].ring.data() : nullptr;
      const Index cursor = static_cast<Index>(cache.cursor[b]);
      const Index frames = d_ring == nullptr ? T : T + L;
      Buffer<Real> g(frames * out);  // dy, and behind it what the last state says
      for (Index t = 0; t < frames; ++t) {
        std::memcpy(g.data() + t * out,
                    t < T ? dy.row(first + t).data() : d_ring + (cursor + t) % (L + 1) * out,
                    sizeof(Real) * std::size_t{out});
      }
      for (Index k = 0; d_ring != nullptr && k <= L; ++k) {
        std::memcpy(d_ring + (cursor + k) % (L + 1) * out, g.data() + k * out,
                    sizeof(Real) * std::size_t{out});
      }
      const auto last = [&](Index t) { return t + L < frames ? L : frames - 1 - t; };
      parallel_for(L + 1, static_cast<double>(macs(T)) / 100, [&](Index d) {
        for (Index t = 0; t < T && d <= last(t); ++t) {
          each_event(cache.x.row(first + t).data(), [&](Index place, Index i, Real x) {
            add_to(place, gradient.weight.data() + (i * (L + 1) + d) * patch, x,
                   g.data() + (t + d) * out);
          });
        }
      });
      parallel_for(T, static_cast<double>(macs(T)) / 8, [&](Index t) {
        for (Index place = 0; place < H * W; ++place) {
          for (Index i = 0; i < I; ++i) {
            Real sum = 0;
            for (Index d = 0; d <= last(t); ++d) {
              sum +=
                  seen(place, weight.data() + (i * (L + 1) + d) * patch, g.data() + (t + d) * out);
            }
            dx(first + t, place * I + i) = sum;
          }
        }
      });
    }
    if constexpr (C.bias) {
      for (Index t = 0; t < dy.rows(); ++t) {
        for (Index k = 0; k < out; ++k) gradient.bias[k % O] += dy(t, k);
      }
    }
    return dx;
  }

 private:
  static constexpr Index patch = kh * kw * O;  // numbers that one delay stamps

  /// f(place, channel, value) for all that is not 0; NaN is an event.
  template <class F>
  static void each_event(const Real* x, F f) noexcept {
    for (Index place = 0; place < H * W; ++place) {
      for (Index i = 0; i < I; ++i) {
        const Real value = x[place * I + i];
        if (value != Real(0)) f(place, i, value);
      }
    }
  }

  /// f(in the patch, in the frame, numbers) for each line of the patch around a place, cut off at
  /// the border.
  template <class F>
  LIMEN_INLINE static void each_line(Index place, F f) noexcept {
    const Index p = place / W, q = place % W;
    const Index left = q < kw / 2 ? kw / 2 - q : 0;
    const Index right = W - q <= kw / 2 ? kw / 2 + W - q : kw;
    for (Index k = 0; k < kh; ++k) {
      const Index row = p + k - kh / 2;
      if (row < 0 || row >= H) continue;
      f((k * kw + left) * O, (row * W + q + left - kw / 2) * O, (right - left) * O);
    }
  }

  /// frame += x patch
  static void stamp(Index place, const Real* w, Real x, Real* frame) noexcept {
    each_line(place, [&](Index from, Index to, Index n) {
      const simd::Vec<Real> factor(x);
      simd::for_each<Real>(n, [&](Index c, auto load, auto store) {
        store(frame + to + c, simd::fma(factor, load(w + from + c), load(frame + to + c)));
      });
    });
  }

  /// patch += x frame
  static void add_to(Index place, Real* w, Real x, const Real* frame) noexcept {
    each_line(place, [&](Index from, Index to, Index n) {
      const simd::Vec<Real> factor(x);
      simd::for_each<Real>(n, [&](Index c, auto load, auto store) {
        store(w + from + c, simd::fma(factor, load(frame + to + c), load(w + from + c)));
      });
    });
  }

  /// patch · frame
  static Real seen(Index place, const Real* w, const Real* frame) noexcept {
    Real sum = 0;
    each_line(place, [&](Index from, Index to, Index n) {
      sum += reduce_row<Real>(
          n, [&](Index c, auto load) { return load(w + from + c) * load(frame + to + c); });
    });
    return sum;
  }

  void one(const Real* x, Real* ring, std::int64_t& cursor, Real* y) const noexcept {
    each_event(x, [&](Index place, Index i, Real value) {
      Index at = static_cast<Index>(cursor);
      for (Index d = 0; d <= L; ++d) {
        stamp(place, weight.data() + (i * (L + 1) + d) * patch, value, ring + at * out);
        at = at == L ? 0 : at + 1;
      }
    });
    detail::arrive<Real>(ring, L, out, nullptr, cursor, y);
    if constexpr (C.bias) {
      for (Index k = 0; k < out; k += O) {
        for (Index c = 0; c < O; ++c) y[k + c] += bias[c];
      }
    }
  }

  Sequence<Real, out> run(SequenceView<Real, in> x, const Batch<State>& batch) const {
    return detail::run_delays<L, Real, in, out>(
        x, batch, [&](const Real* x_t, Real* ring, std::int64_t& cursor, Real* y) {
          one(x_t, ring, cursor, y);
        });
  }
};

/// Leaves the `count` weights that say most, of equals the first; the others are 0 from now on.
template <DelayedConv2dConfig C, class Real>
void prune(DelayedConv2d<C, Real>& layer, Index count) {
  std::vector<DelayedSynapse> all;
  for (Index k = 0; k < layer.weight.size; ++k) {
    all.push_back({k, 0, 0, static_cast<double>(layer.weight[k])});
  }
  auto kept = layer.weight;
  for (Real& w : kept.flat()) w = 0;
  for (const DelayedSynapse& s : strongest(std::move(all), count)) {
    kept[s.from] = layer.weight[s.from];
  }
  layer.weight = std::move(kept);
}

/// From pixel to pixel, for DelayLines: what is not 0, and does not reach beyond the frame.
template <DelayedConv2dConfig C, class Real>
std::vector<DelayedSynapse> synapses_of(const DelayedConv2d<C, Real>& layer) {
  std::vector<DelayedSynapse> synapses;
  for (Index from = 0; from < layer.in; ++from) {
    const Index i = from % C.d_in, place = from / C.d_in;
    for (Index d = 0; d <= C.longest; ++d) {
      layer.each_reached(place, i, d, [&](Index to, Real w) {
        if (w != Real(0)) synapses.push_back({from, to, d, static_cast<double>(w)});
      });
    }
  }
  return synapses;
}

}  // namespace limen::inline LIMEN_ABI
