#pragma once
/// @file  Who is served by whom: what the routers of a model do while it runs.
///
///     RoutingMeasures measures;
///     Context run{.taps = &measures};
///     model.forward(x, from_rest(offsets, &run));
///     for (const auto& layer : measures.layers()) ... layer.balance() ...
///
///   share      f_e: choices of expert e / all choices
///   balance    H(f) / log E: 1 where all experts are chosen equally often, 0 where one is
///   entropy    mean over rows of H(softmax(z)) / log E: 1 for a router that does not know, 0 for
///              one that is sure; of the weights, where a router has no scores
///   dropped    slots that stayed empty / all slots;  unserved: rows without any expert
///   overlap    Σ_e min(f_e, g_e) of two tasks: 1 the same experts as often, 0 none in common
///
/// `set_task(n)` before a run says whose rows follow, `set_tasks` says it row by row; layers that
/// see other rows than those (inside an expert) leave it out. History has a column for each call,
/// or for every so many rows: routing over time, drawn by moe/routing_picture.hpp.
///
/// Layers are told apart by the names of the taps and parts around them.

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <limen/core/batch.hpp>

namespace limen::inline LIMEN_ABI {

struct RoutingMeasuresOptions {
  Index rows_per_column = 0;  ///< of the history; 0: a call is a column
};

class RoutingMeasures final : public TapListener {
 public:
  struct Layer {
    std::string name;
    Index rows = 0, slots = 0, empty = 0,
          without = 0;                             ///< slots: all; without: rows with no expert
    std::vector<Index> load;                       ///< [E] choices
    std::vector<double> weight;                    ///< [E] sum of weights
    double score_entropy = 0, weight_entropy = 0;  ///< sums over rows, / log E
    Index scored = 0, weighed = 0;                 ///< over which they go
    std::vector<std::vector<Index>> tasks;         ///< choices of each task, [E] or nothing
    std::vector<std::vector<Index>> history;       ///< choices in each column, [E]
    Index rows_in_column = 0;                      ///< of the last column

    Index experts() const { return static_cast<Index>(load.size()); }
    double share(Index e) const {
      return ratio(static_cast<double>(load[std::size_t(e)]), total(load));
    }
    double balance() const { return entropy_of(load); }
    double entropy() const {
      return scored > 0 ? ratio(score_entropy, scored) : ratio(weight_entropy, weighed);
    }
    double dropped() const { return ratio(static_cast<double>(empty), slots); }
    double unserved() const { return ratio(static_cast<double>(without), rows); }
    double overlap(Index a, Index b) const {
      const auto n = static_cast<Index>(tasks.size());
      if (a < 0 || b < 0 || a >= n || b >= n) return 0;
      const auto &f = tasks[std::size_t(a)], &g = tasks[std::size_t(b)];
      double common = 0;
      for (std::size_t e = 0; e < std::min(f.size(), g.size()); ++e) {
        common += std::min(ratio(static_cast<double>(f[e]), total(f)),
                           ratio(static_cast<double>(g[e]), total(g)));
      }
      return common;
    }
  };

  explicit RoutingMeasures(RoutingMeasuresOptions options = {}) : options_(options) {}

  const std::vector<Layer>& layers() const { return layers_; }
  void clear() { layers_.clear(); }

  /// All rows that follow are of task n; -1: of none.
  void set_task(Index n) {
    task_ = n;
    tasks_.clear();
  }
  /// Row t of each run that follows is of task n[t].
  void set_tasks(std::span<const Index> n) { tasks_.assign(n.begin(), n.end()); }

  void at(std::string_view name, MatrixView<float> rows) override { hear(name, rows); }
  void at(std::string_view name, MatrixView<double> rows) override { hear(name, rows); }

 private:
  static double ratio(double a, Index b) { return b > 0 ? a / static_cast<double>(b) : 0; }
  static Index total(const std::vector<Index>& n) {
    Index sum = 0;
    for (const Index i : n) sum += i;
    return sum;
  }

  /// Of shares in proportion to n, over that of equal ones.
  template <class T>
  static double entropy_of(const std::vector<T>& n) {
    double sum = 0, h = 0;
    for (const T& v : n) sum += static_cast<double>(v);
    if (!(sum > 0) || n.size() < 2) return 0;
    for (const T& v : n) {
      const double p = static_cast<double>(v) / sum;
      if (p > 0) h -= p * std::log(p);
    }
    return h / std::log(static_cast<double>(n.size()));
  }

  template <class Real>
  void hear(std::string_view name, MatrixView<Real> rows) {
    const std::size_t dot = name.rfind('.');
    const std::string_view last = dot == name.npos ? name : name.substr(dot + 1);
    const std::string_view before = dot == name.npos ? std::string_view() : name.substr(0, dot);
    if (last == "scores") hear_scores(of(before), rows);
    if (last == "routing") hear_weights(of(before), rows);
    if (last == "choices") hear_choices(of(before), rows);
  }

  template <class Real>
  static void hear_scores(Layer& layer, MatrixView<Real> z) {
    std::vector<double> p(static_cast<std::size_t>(z.cols));
    layer.scored += z.rows;
    for (Index t = 0; t < z.rows; ++t) {
      const auto most = static_cast<double>(*std::max_element(z.row(t), z.row(t) + z.cols));
      for (Index e = 0; e < z.cols; ++e) {
        p[std::size_t(e)] = std::exp(static_cast<double>(z(t, e)) - most);
      }
      layer.score_entropy += entropy_of(p);
    }
  }

  template <class Real>
  static void hear_weights(Layer& layer, MatrixView<Real> w) {
    layer.load.resize(static_cast<std::size_t>(w.cols));
    layer.weight.resize(static_cast<std::size_t>(w.cols));
    std::vector<double> p(static_cast<std::size_t>(w.cols));
    layer.weighed += w.rows;
    for (Index t = 0; t < w.rows; ++t) {
      for (Index e = 0; e < w.cols; ++e) {
        p[std::size_t(e)] = static_cast<double>(w(t, e));
        layer.weight[std::size_t(e)] += p[std::size_t(e)];
      }
      layer.weight_entropy += entropy_of(p);
    }
  }

  template <class Real>
  void hear_choices(Layer& layer, MatrixView<Real> ids) {
    const std::size_t n = layer.load.size();
    if (options_.rows_per_column == 0 && ids.rows > 0) layer.history.emplace_back(n);
    layer.rows += ids.rows;
    layer.slots += ids.rows * ids.cols;
    for (Index t = 0; t < ids.rows; ++t) {
      if (options_.rows_per_column > 0) {
        const bool full = layer.rows_in_column == options_.rows_per_column;
        if (layer.history.empty() || full) {
          layer.history.emplace_back(n);
          layer.rows_in_column = 0;
        }
      }
      ++layer.rows_in_column;
      std::vector<Index>* const task = counts_of_task(layer, t, ids.rows);
      Index served = 0;
      for (Index j = 0; j < ids.cols; ++j) {
        if (ids(t, j) < Real(0)) continue;
        const auto e = static_cast<std::size_t>(ids(t, j));
        ++served;
        ++layer.load[e];
        ++layer.history.back()[e];
        if (task != nullptr) ++(*task)[e];
      }
      layer.empty += ids.cols - served;
      layer.without += served == 0 ? 1 : 0;
    }
  }

  std::vector<Index>* counts_of_task(Layer& layer, Index t, Index rows) const {
    Index n = task_;
    if (!tasks_.empty()) {
      n = static_cast<Index>(tasks_.size()) == rows ? tasks_[std::size_t(t)] : Index{-1};
    }
    if (n < 0) return nullptr;
    if (layer.tasks.size() <= std::size_t(n)) layer.tasks.resize(std::size_t(n) + 1);
    layer.tasks[std::size_t(n)].resize(layer.load.size());
    return &layer.tasks[std::size_t(n)];
  }

  Layer& of(std::string_view name) {
    const auto found = std::find_if(layers_.begin(), layers_.end(),
                                    [&](const Layer& l) { return l.name == name; });
    if (found != layers_.end()) return *found;
    layers_.push_back({});
    layers_.back().name = name;
    return layers_.back();
  }

  RoutingMeasuresOptions options_;
  std::vector<Layer> layers_;
  Index task_ = -1;
  std::vector<Index> tasks_;
};

}  // namespace limen::inline LIMEN_ABI
