#pragma once
/// @file  What a spiking network has done, in operations, and what they are said to cost.
///
///     SpikeMeasures measures;
///     Context run{.taps = &measures};
///     net.forward(x, from_rest(offsets, &run));
///     for (const auto& layer : measures.layers()) ... layer.rate(), layer.operations() ...
///
///   AC    accumulate: a weight is added because its input spiked      spikes x O
///   MAC   multiply and accumulate: the input is a number              inputs that are not 0 x O
///   E     4.6 pJ MAC + 0.9 pJ AC       float32 at 45 nm: Horowitz, ISSCC 2014
///
/// The rate is spikes per input and step: T steps at rate r are r T accumulates for each MAC of a
/// network that runs once, so spikes save energy in this model only below r T = 5.1. It leaves out
/// what memory costs, and the neurons' own update (`updates`, a MAC each), as the literature does:
/// a way to compare networks, not watts of a processor. On a CPU the time is what docs/
/// spiking_events.md measures.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <limen/core/batch.hpp>

namespace limen::inline LIMEN_ABI {

/// pJ of an operation.
struct EnergyModel {
  double mac = 4.6;  ///< 3.7 for the product, 0.9 for the sum
  double ac = 0.9;
};

struct Operations {
  double ac = 0, mac = 0;
  double updates = 0;  ///< of neurons, not in the energy

  double picojoule(const EnergyModel& model = {}) const { return model.mac * mac + model.ac * ac; }
  Operations& operator+=(const Operations& other) {
    ac += other.ac;
    mac += other.mac;
    updates += other.updates;
    return *this;
  }
};

/// Spikes per input and step below which `steps` steps of accumulates cost less than one of MACs.
constexpr double break_even_rate(Index steps, const EnergyModel& model = {}) {
  return model.mac / model.ac / static_cast<double>(steps);
}

/// Counts what layers tell that spikes come in to (SpikeLinear).
class SpikeMeasures final : public TapListener {
 public:
  struct Layer {
    std::string name;
    Index in = 0, out = 0;
    double rows = 0;      ///< steps of all sequences
    double spikes = 0;    ///< inputs that were not 0
    double analog = 0;    ///< of those, in rows that held other numbers than 0 and 1
    double followed = 0;  ///< rows that ran by events

    double rate() const { return rows > 0 ? spikes / (rows * static_cast<double>(in)) : 0; }
    Operations operations() const {
      const auto fan_out = static_cast<double>(out);
      return {(spikes - analog) * fan_out, analog * fan_out, rows * fan_out};
    }
    /// What dense execution multiplies.
    Operations dense() const {
      const auto fan_out = static_cast<double>(out);
      return {0, rows * static_cast<double>(in) * fan_out, rows * fan_out};
    }
  };

  const std::vector<Layer>& layers() const { return layers_; }
  void clear() { layers_.clear(); }

  Operations operations() const {
    Operations sum;
    for (const Layer& layer : layers_) sum += layer.operations();
    return sum;
  }
  Operations dense() const {
    Operations sum;
    for (const Layer& layer : layers_) sum += layer.dense();
    return sum;
  }

  void at(std::string_view name, MatrixView<float> rows) override { hear(name, rows); }
  void at(std::string_view name, MatrixView<double> rows) override { hear(name, rows); }

 private:
  template <class Real>
  void hear(std::string_view name, MatrixView<Real> told) {
    const std::size_t dot = name.rfind('.');
    if (name.substr(dot == name.npos ? 0 : dot + 1) != "spikes" || told.cols != 6) return;
    Layer& layer = of(dot == name.npos ? std::string_view() : name.substr(0, dot));
    const auto number = [&](Index i) { return static_cast<double>(told(0, i)); };
    layer.rows += number(0);
    layer.spikes += number(1);
    layer.in = static_cast<Index>(number(2));
    layer.out = static_cast<Index>(number(3));
    layer.followed += number(4) != 0 ? number(0) : 0;
    layer.analog += number(5) != 0 ? 0 : number(1);
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
