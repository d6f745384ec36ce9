#pragma once
/// @file  The law of the slope: what `backward` gives is what central differences measure.

#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include <limen/check/subject.hpp>

namespace limen::inline LIMEN_ABI::check {

/// Central differences of L = Σ forward(x) ∘ r + Σ last state ∘ q, for random r and q, in every
/// input, parameter and number of the first state. (In float against those of float: rough.)
template <class S>
void backward_is_the_slope(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  using Real = typename S::Real;
  const auto& offsets = s.ragged();
  const Index rows = offsets.back();
  const std::size_t count = offsets.size() - 1;
  const bool with_state = s.options.state_has_slope && s.state_numbers() > 0;
  auto x = s.inputs(rows);
  const Y r = s.template noise<S::out>(rows);
  auto start = std::make_unique<State[]>(count), q = std::make_unique<State[]>(count);
  if (with_state) {
    for (std::size_t b = 0; b < count; ++b) {
      s.layer.forward(s.inputs(3), start[b]);  // a state that can occur
      State reach{};  // padding and unused numbers stay zero in q as they do in a state
      s.layer.forward(s.inputs(3), reach);
      for (Index i = 0; i < s.state_numbers(); ++i) {
        if (s.numbers(reach)[i] != Real(0)) {
          s.numbers(q[b])[i] = static_cast<Real>(s.options.amplitude * s.random.normal());
        }
      }
    }
  }
  L layer = s.layer;
  auto states = std::make_unique<State[]>(count);
  const auto batch = [&](State* from, Context* c) {
    return with_state ? Batch<State>(std::span<State>(from, count), offsets, c)
                      : Batch<State>(offsets, c);
  };
  const auto copy_states = [&](State* to, const State* from) {
    std::memcpy(static_cast<void*>(to), static_cast<const void*>(from), count * sizeof(State));
  };
  const auto loss = [&] {
    copy_states(states.get(), start.get());
    typename L::Cache cache;
    Context c = s.context();
    const Y y = layer.forward(X(x), batch(states.get(), &c), cache);
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) {
      sum += static_cast<double>(y.data()[i]) * static_cast<double>(r.data()[i]);
    }
    if (with_state) {
      for (std::size_t b = 0; b < count; ++b) {
        for (Index i = 0; i < s.state_numbers(); ++i) {
          sum += static_cast<double>(s.numbers(states[b])[i]) *
                 static_cast<double>(s.numbers(q[b])[i]);
        }
      }
    }
    return sum;
  };

  typename L::Cache cache;
  L gradient{};
  auto d_states = std::make_unique<State[]>(count);
  copy_states(states.get(), start.get());
  copy_states(d_states.get(), q.get());
  Context c = s.context();
  layer.forward(X(x), batch(states.get(), &c), cache);
  const X dx = layer.backward(r, batch(d_states.get(), &c), cache, gradient);

  const auto slope = [&](Real& value) {
    const Real before = value;
    const double h =
        (sizeof(Real) == 8 ? 1e-6 : 1e-2) * (1 + std::abs(static_cast<double>(before)));
    value = static_cast<Real>(static_cast<double>(before) + h);
    const Real high = value;
    const double above = loss();
    value = static_cast<Real>(static_cast<double>(before) - h);
    const Real low = value;
    const double below = loss();
    value = before;
    return (above - below) / (static_cast<double>(high) - static_cast<double>(low));
  };
  const auto sampled = [&](Index size, auto check_one) {
    const Index step = size > s.options.most_slopes ? size / s.options.most_slopes + 1 : 1;
    for (Index i = 0; i < size; i += step) check_one(i);
  };
  constexpr const char* law = "backward is the slope";
  if (dx.rows() != rows) {
    s.report.broke(law, "rows of dx", static_cast<double>(dx.rows()), static_cast<double>(rows));
    return;
  }
  if (s.options.tokens == 0)
    sampled(x.size(), [&](Index i) {
      s.report.compare(law, "input", i, static_cast<double>(dx.data()[i]), slope(x.data()[i]),
                       s.options.slope);
    });
  for_each_parameter(
      [&](const std::string& name, auto& parameter, const auto& d) {
        if constexpr (!is_statistic<std::remove_cvref_t<decltype(parameter)>>) {
          sampled(parameter.size, [&](Index i) {
            s.report.compare(law, name, i, static_cast<double>(d[i]), slope(parameter[i]),
                             s.options.slope);
          });
        }
      },
      layer, gradient);
  if (with_state) {
    for (std::size_t b = 0; b < count; ++b) {
      const std::string place = "first state of sequence " + std::to_string(b);
      sampled(s.state_numbers(), [&](Index i) {
        if (s.numbers(q[b])[i] == Real(0) && s.numbers(start[b])[i] == Real(0)) return;
        s.report.compare(law, place, i, static_cast<double>(s.numbers(d_states[b])[i]),
                         slope(s.numbers(start[b])[i]), s.options.slope);
      });
    }
  }
}

}  // namespace limen::inline LIMEN_ABI::check
