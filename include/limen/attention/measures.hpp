#pragma once
/// @file  What attention layers do while a model runs: how much they look at token 0, and how far
/// their gates are open.
///
///     AttentionMeasures measures;
///     Context run{.taps = &measures};
///     model.forward(x, from_rest(offsets, &run));
///     for (const auto& layer : measures.layers()) ... layer.first_token() ...
///
///   first-token share   mean over heads and rows of P(token 0)              row 0 left out
///   sink rate           share of heads whose mean P(token 0) is above ε
///   openness, closed    mean of the gate, and the share of its numbers below a threshold
///
/// Layers are told apart by the names of the taps and parts around them; without any, they are
/// counted together. Qiu et al., arXiv:2505.06708, section 4; Gu et al., "When Attention Sink
/// Emerges in Language Models", arXiv:2410.10781, equation 7.

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <limen/core/batch.hpp>

namespace limen::inline LIMEN_ABI {

class AttentionMeasures final : public TapListener {
 public:
  static constexpr Index bins = 50;

  struct Layer {
    std::string name;                     ///< of the layer, as its tap has it
    std::vector<double> first;            ///< [H], sum of P(token 0)
    Index rows = 0;                       ///< over which it goes
    double gate_sum = 0;                  ///< of all numbers of the gate
    Index gates = 0;                      ///< how many they are
    std::array<Index, bins> histogram{};  ///< of the gate, from 0 to 1
    std::array<Index, 4> below{};         ///< numbers below each of `thresholds`

    double first_token(std::size_t head) const { return ratio(first[head], rows); }
    double first_token() const {
      double sum = 0;
      for (const double f : first) sum += f;
      return ratio(sum, rows * static_cast<Index>(first.size()));
    }
    double sink_rate(double epsilon = 0.3) const {
      Index sinks = 0;
      for (std::size_t h = 0; h < first.size(); ++h) sinks += first_token(h) > epsilon ? 1 : 0;
      return ratio(static_cast<double>(sinks), static_cast<Index>(first.size()));
    }
    double openness() const { return ratio(gate_sum, gates); }
    double closed(std::size_t threshold = 2) const {
      return ratio(static_cast<double>(below[threshold]), gates);
    }

   private:
    static double ratio(double a, Index b) { return b > 0 ? a / static_cast<double>(b) : 0; }
  };

  static constexpr double thresholds[] = {1e-3, 1e-2, 0.1, 0.5};

  const std::vector<Layer>& layers() const { return layers_; }

  void at(std::string_view name, MatrixView<float> rows) override { hear(name, rows); }
  void at(std::string_view name, MatrixView<double> rows) override { hear(name, rows); }

 private:
  template <class Real>
  void hear(std::string_view name, MatrixView<Real> rows) {
    const std::size_t dot = name.rfind('.');
    const std::string_view last = dot == name.npos ? name : name.substr(dot + 1);
    const std::string_view before = dot == name.npos ? std::string_view() : name.substr(0, dot);
    if (last == "first_token") {
      Layer& layer = of(before);
      layer.first.resize(static_cast<std::size_t>(rows.cols));
      layer.rows += rows.rows;
      for_each(rows, [&](Index h, double p) { layer.first[static_cast<std::size_t>(h)] += p; });
    } else if (last == "gate") {
      Layer& layer = of(before);
      layer.gates += rows.rows * rows.cols;
      for_each(rows, [&](Index, double g) {
        layer.gate_sum += g;
        const double bin = g > 0 ? std::min(g * bins, bins - 1.0) : 0;  // also of a NaN
        ++layer.histogram[static_cast<std::size_t>(bin)];
        for (std::size_t i = 0; i < 4; ++i) layer.below[i] += g < thresholds[i] ? 1 : 0;
      });
    }
  }

  template <class Real, class F>
  static void for_each(MatrixView<Real> rows, F f) {
    for (Index t = 0; t < rows.rows; ++t) {
      for (Index c = 0; c < rows.cols; ++c) f(c, static_cast<double>(rows.row(t)[c]));
    }
  }

  Layer& of(std::string_view name) {
    const auto found = std::find_if(layers_.begin(), layers_.end(),
                                    [&](const Layer& l) { return l.name == name; });
    if (found != layers_.end()) return *found;
    layers_.push_back({});
    layers_.back().name = name;
    return layers_.back();
  }

  std::vector<Layer> layers_;
};

}  // namespace limen::inline LIMEN_ABI
