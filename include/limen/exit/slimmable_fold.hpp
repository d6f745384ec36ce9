#pragma once
/// @file  A layer of a slimmable network at one width, with its norm in the weight:
///
///   scale (w x - mean) / sqrt(var + eps) + shift = (by w) x + b,   by = scale / sqrt(var + eps)

#include <cmath>

#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// by w [rows x cols] of layer l at width k, b [rows]. The last layer has no norm.
template <class Net, class Real>
Buffer<Real> fold_norm(const Net& net, Index l, Index k, Real* b) {
  const auto w = Net::weight(net, l, k);
  Buffer<Real> folded(w.rows * w.cols);
  for (Index o = 0; o < w.rows; ++o) {
    Real by = 1;
    if (l < Net::L) {
      const Index n = (l * Net::K + k) * Net::H + o, a = Net::affine(l, k) + o;
      by = net.scale[a] / std::sqrt(net.running_var[n] + static_cast<Real>(Net::config.eps));
      b[o] = net.shift[a] - by * net.running_mean[n];
    } else {
      b[o] = net.bias[o];
    }
    for (Index i = 0; i < w.cols; ++i) folded[o * w.cols + i] = by * w(o, i);
  }
  return folded;
}

}  // namespace limen::inline LIMEN_ABI::detail
