#pragma once
/// @file  A moving average of the weights, which often does better than the weights themselves.
///
///   a <- d a + (1 - d) w        d = min(decay, (1 + t) / (10 + t)): it starts quickly

#include <string>

#include <limen/train/optimizer.hpp>

namespace limen::inline LIMEN_ABI {

template <Parametrized M>
class Average {
 public:
  explicit Average(const M& model, double decay = 0.999) : value_(model), decay_(decay) {
    detail::check_option("Average: decay", decay, 0, 1);
  }

  void update(const M& model) {
    const FlushDenormals guard;
    const double t = static_cast<double>(step_++);
    const double d = decay_ < (1 + t) / (10 + t) ? decay_ : (1 + t) / (10 + t);
    for_each_tensor(
        [&](auto& a, const auto& w) { detail::move_towards(a.data(), w.data(), 1 - d, a.size); },
        value_, model);
  }

  const M& value() const { return value_; }

  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    inventory.add(prefix, value_);
    inventory.add_number(prefix + "step", step_);
  }

 private:
  M value_;
  double decay_;
  Index step_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
