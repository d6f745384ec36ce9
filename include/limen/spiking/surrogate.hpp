#pragma once
/// @file  Surrogates: the slope that stands for that of a spike on the way back.
///
///   s = H(u),  ds/du := φ(u)          u: membrane above the threshold, before the reset
///
/// A surrogate is a small value and a template argument of the neuron: `Lif<c, float,
/// FastSigmoid{.k = 25}>`. Names differ between libraries, so judge one by its peak φ(0) and its
/// area ∫φ; an area of 1 is the slope of a step.
///
///   ArcTan               (α/2) / (1 + (π α u / 2)²)     peak α/2      area 1
///   Sigmoid              k σ(ku) (1 - σ(ku))            peak k/4      area 1
///   FastSigmoid          1 / (1 + k|u|)²                peak 1        area 2/k
///   SuperSpike           h / (1 + k|u|)²                peak h        area 2h/k
///   SoftSign             (α/2) / (1 + α|u|)²            peak α/2      area 1
///   Triangle             γ max(0, 1 - |u|/w) / w        peak γ/w      area γ
///   PiecewiseQuadratic   max(0, α - α²|u|)              peak α        area 1
///   PiecewiseExponential (α/2) e^(-α|u|)                peak α/2      area 1
///   Gaussian             (α/√π) e^(-α²u²)               peak α/√π     area 1
///   Rect                 α where |u| < 1/(2α)           peak α        area 1
///   TanhPrime            1 - tanh²(ku)                  peak 1        area 2/k
///   StraightThrough      1                              peak 1        no area
///   LeakyStep            1 where u >= 0, else leak      peak 1        no area
///
/// Your own is a structural type with `derivative`, for any vector type V; `primitive` (whose slope
/// is φ) is wanted by `Soft` alone, `sound` guards its numbers:
///
///     struct Cauchy {
///       double width = 1;
///       constexpr bool sound() const { return width > 0; }
///       template <class V>
///       V derivative(const V& u) const {
///         const V x = u * surrogate::like(u, 1 / width);
///         return surrogate::like(u, 1) / (surrogate::like(u, 1) + x * x);
///       }
///     };
///
/// Neftci, Mostafa & Zenke, Surrogate gradient learning in spiking neural networks,
/// arXiv:1901.09948; Zenke & Ganguli, SuperSpike, arXiv:1705.11146; Bellec et al.,
/// arXiv:1803.09574 (triangle); Fang et al., arXiv:2007.05785 (arc tangent).

#include <cmath>
#include <numbers>

#include <limen/spiking/surrogate_words.hpp>

namespace limen::inline LIMEN_ABI {

/// The default of SpikingJelly and snnTorch's `atan`, both with α = 2.
struct ArcTan {
  double alpha = 2;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    const U x = u * surrogate::like(u, std::numbers::pi / 2 * alpha);
    return surrogate::like(u, alpha / 2) / (surrogate::like(u, 1) + x * x);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) {
      return std::atan(std::numbers::pi / 2 * alpha * v) / std::numbers::pi + 0.5;
    });
  }
};

/// Of a logistic function. (Written with e^-|ku|, so that it cannot overflow into NaN.)
struct Sigmoid {
  double k = 4;
  constexpr bool sound() const { return k > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    const U e = surrogate::exponential(surrogate::like(u, -k) * surrogate::magnitude(u));
    const U d = surrogate::like(u, 1) + e;
    return surrogate::like(u, k) * e / (d * d);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) { return 1 / (1 + std::exp(-k * v)); });
  }
};

/// snnTorch's `fast_sigmoid` (25). Norse's `super` says k = 100; its 1.1.0 computes k = 1 always.
struct FastSigmoid {
  double k = 25;
  constexpr bool sound() const { return k > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::hyperbola(u, k);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) { return v / (1 + k * std::abs(v)) + 0.5; });
  }
};

/// Of Zenke and Ganguli, whose k is 100; SpikingJelly's `SuperSpike(α)` is {.k = 1, .height = α}.
struct SuperSpike {
  double k = 100;
  double height = 1;  ///< h
  constexpr bool sound() const { return k > 0 && height > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, height) * surrogate::hyperbola(u, k);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u,
                           [this](double v) { return height * v / (1 + k * std::abs(v)) + 0.5; });
  }
};

struct SoftSign {
  double alpha = 2;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, alpha / 2) * surrogate::hyperbola(u, alpha);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(
        u, [this](double v) { return alpha * v / (1 + alpha * std::abs(v)) / 2 + 0.5; });
  }
};

/// γ = 0.3 is what long runs need to stay stable (Bellec et al.).
struct Triangle {
  double gamma = 0.3;
  double width = 1;  ///< w, half of what it covers
  constexpr bool sound() const { return gamma > 0 && width > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, gamma / width) * surrogate::tent(u, 1 / width);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u,
                           [this](double v) { return gamma * surrogate::tent_below(v / width); });
  }
};

/// A triangle of half-width 1/α.
struct PiecewiseQuadratic {
  double alpha = 1;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, alpha) * surrogate::tent(u, alpha);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) { return surrogate::tent_below(alpha * v); });
  }
};

struct PiecewiseExponential {
  double alpha = 1;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, alpha / 2) *
           surrogate::exponential(surrogate::like(u, -alpha) * surrogate::magnitude(u));
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) {
      const double tail = std::exp(-alpha * std::abs(v)) / 2;
      return v < 0 ? tail : 1 - tail;
    });
  }
};

/// SpikingJelly's `Erf`.
struct Gaussian {
  double alpha = 2;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    const U x = u * surrogate::like(u, alpha);
    return surrogate::like(u, alpha * std::numbers::inv_sqrtpi) * surrogate::exponential(-(x * x));
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) { return std::erfc(-alpha * v) / 2; });
  }
};

struct Rect {
  double alpha = 1;
  constexpr bool sound() const { return alpha > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::choose(surrogate::magnitude(u) < surrogate::like(u, 0.5 / alpha),
                             surrogate::like(u, alpha), surrogate::like(u, 0));
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) {
      const double s = alpha * v + 0.5;
      return s < 0 ? 0 : s > 1 ? 1 : s;
    });
  }
};

/// Norse's `tanh`.
struct TanhPrime {
  double k = 1;
  constexpr bool sound() const { return k > 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {  // 1 - tanh² x = 4 e / (1 + e)², e = e^(-2|x|)
    const U e = surrogate::exponential(surrogate::like(u, -2 * k) * surrogate::magnitude(u));
    const U d = surrogate::like(u, 1) + e;
    return surrogate::like(u, 4) * e / (d * d);
  }
  template <class U>
  U primitive(const U& u) const {
    return surrogate::each(u, [this](double v) { return std::tanh(k * v) / k + 0.5; });
  }
};

struct StraightThrough {
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::like(u, 1);
  }
  template <class U>
  U primitive(const U& u) const {
    return u;
  }
};

/// What snnTorch's `LSO` intends; SpikingJelly's `LeakyKReLU` with k = 1 and leak 0.
struct LeakyStep {
  double leak = 0.1;
  constexpr bool sound() const { return leak >= 0; }
  template <class U>
  LIMEN_INLINE U derivative(const U& u) const {
    return surrogate::choose(u >= surrogate::like(u, 0), surrogate::like(u, 1),
                             surrogate::like(u, leak));
  }
  template <class U>
  U primitive(const U& u) const {
    return u * derivative(u);
  }
};

}  // namespace limen::inline LIMEN_ABI
