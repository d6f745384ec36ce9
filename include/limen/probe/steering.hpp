#pragma once
/// @file  A controller that watches some taps and steers at others.
///
///   u = rows of the inputs side by side      (s, w_1 ... w_L) = W_2 relu(W_1 u)
///   h_l += scale s σ(w_l) d                  u [T x U], W_1 [H x U], W_2 [1 + L x H], d [D]
///
///     const Steering<c> controller = ...;
///     attach(probe, controller, {{.tap = "blocks.1"}}, {{.tap = "blocks.3"}}, d, 2.0);
///
/// It speaks for each row. While a run is under way it can only act behind its last input; what
/// happens in front of that is `Timing`. s is trained as a logit, and used as it is.
///
/// Hegazy et al., "Guiding Giants", arXiv:2505.20309.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <limen/nn/linear.hpp>
#include <limen/probe/record.hpp>
#include <limen/probe/steer.hpp>

namespace limen::inline LIMEN_ABI {

enum class Timing {
  current_only,  ///< taps in front of the controller's last input are left alone
  previous_run,  ///< they get what it said the last time
};

struct SteeringConfig {
  Index d_in = 0;         ///< U, numbers of all inputs together
  Index taps = 1;         ///< L, where it acts
  Index d_hidden = 1024;  ///< H
};

namespace detail {
/// What a controller has seen and said.
struct SteeringRun {
  std::vector<Activations> inputs;
  std::size_t there = 0;  ///< inputs that have come in this run
  Activations now, before;
  Index run = -1;

  void begin(Index number) {
    if (number == run) return;
    run = number;
    there = 0;
    before = std::exchange(now, {});
  }

  template <Index U>
  Status side_by_side(Sequence<double, U>& u) const {
    Index column = 0;
    bool fit = true;
    for (const Activations& a : inputs) {
      fit = fit && a.rows == u.rows() && column + a.cols <= U;
      for (Index t = 0; fit && t < a.rows; ++t) {
        for (Index k = 0; k < a.cols; ++k) u(t, column + k) = a(t, k);
      }
      column += a.cols;
    }
    if (fit && column == U) return {};
    return Error{"inputs of the controller", std::to_string(U) + " numbers for each of the rows",
                 std::to_string(column) + ", or other rows"};
  }
};
}  // namespace detail

/// A small gated network that looks at some taps and pushes at others.
template <SteeringConfig C>
struct Steering {
  static constexpr Index U = C.d_in, H = C.d_hidden, L = C.taps;
  Linear<LinearConfig{.d_in = U, .d_out = H}, double> up;        ///< W_1
  Linear<LinearConfig{.d_in = H, .d_out = 1 + L}, double> down;  ///< W_2

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("up", m.up...);
    f("down", m.down...);
  }
  static Steering initialized(Random& random) {
    Steering s;
    s.up = decltype(s.up)::initialized(random);
    s.down = decltype(s.down)::initialized(random);
    return s;
  }

  /// u [T x U] -> (s, w_1 ... w_L) [T x 1 + L]
  Sequence<double, 1 + L> operator()(SequenceView<double, U> u) const {
    auto h = limen::forward(up, u);
    for (Index i = 0; i < h.size(); ++i) h.data()[i] = h.data()[i] > 0 ? h.data()[i] : 0;
    return limen::forward(down, h);
  }
};

/// Hangs a controller on the probe: row t of its inputs speaks for row t of each output. It must
/// outlive the probe's runs. Of several hooks at a tap, its inputs see what the earlier ones left.
template <SteeringConfig C>
Status attach(Probe& probe, const Steering<C>& controller, const std::vector<Site>& inputs,
              const std::vector<Site>& outputs, const Direction& d, double scale,
              Timing timing = Timing::current_only) {
  if (static_cast<Index>(outputs.size()) != C.taps || inputs.empty()) {
    return Error{"steering", std::to_string(C.taps) + " outputs and some inputs",
                 std::to_string(outputs.size()) + " and " + std::to_string(inputs.size())};
  }
  if (Status s = detail::check_direction(d); !s) return s;
  const auto said = std::make_shared<detail::SteeringRun>();
  said->inputs.resize(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    probe.on(inputs[i].tap,
             [said, i, &controller, site = inputs[i]](const TapPoint& point, auto rows) -> Status {
               Status why;
               const auto part = part_of_site(site, point, rows, why);
               if (!part) return why;
               said->begin(point.run);
               said->inputs[i] = Activations::of(*part);
               if (++said->there < said->inputs.size()) return {};
               Sequence<double, C.d_in> u(part->rows);
               if (Status s = said->side_by_side(u); !s) return s;
               said->now = Activations::of(SequenceView<double, 1 + C.taps>(controller(u)));
               return {};
             });
  }
  for (std::size_t l = 0; l < outputs.size(); ++l) {
    probe.on(
        outputs[l].tap,
        [said, l, site = outputs[l], d, scale, timing](const TapPoint& point, auto rows) -> Status {
          said->begin(point.run);
          const bool known = said->now.rows > 0 || timing == Timing::current_only;
          const Activations& answer = known ? said->now : said->before;
          if (answer.rows == 0) return {};
          if (answer.rows != site.rows.size(rows.rows)) {
            return Error{"steering of " + std::string(point.name),
                         std::to_string(answer.rows) + " rows, as the controller saw",
                         std::to_string(site.rows.size(rows.rows))};
          }
          return detail::push(site, point, rows, d, [&](Index t) {
            return scale * answer(t, 0) / (1 + std::exp(-answer(t, 1 + static_cast<Index>(l))));
          });
        });
  }
  return {};
}

/// BCE(s, harmful) + 0.1 (mean |σ(w) - 1/2| + 0.01 mean σ(w)) over harmful rows, and its slope.
template <Index N>
struct SteeringLoss {
  double value = 0;
  Sequence<double, N> dy;
};
template <Index N>
SteeringLoss<N> steering_loss(const Sequence<double, N>& y, const std::vector<int>& harmful) {
  SteeringLoss<N> loss{0, Sequence<double, N>::zeros(y.rows())};
  if (static_cast<Index>(harmful.size()) != y.rows()) {
    fail({"labels", std::to_string(y.rows()), std::to_string(harmful.size())});
    return loss;
  }
  const double rows = static_cast<double>(y.rows());
  const double of_harm = 0.1 / (static_cast<double>(std::ranges::count(harmful, 1)) * (N - 1));
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (Index t = 0; t < y.rows(); ++t) {
    const int label = harmful[static_cast<std::size_t>(t)];
    const double s = y(t, 0);
    loss.value += (std::max(s, 0.0) - s * label + std::log1p(std::exp(-std::abs(s)))) / rows;
    loss.dy(t, 0) = (sigmoid(s) - label) / rows;
    for (Index l = 1; label == 1 && l < N; ++l) {
      const double g = sigmoid(y(t, l)), side = g > 0.5 ? 1 : g < 0.5 ? -1 : 0;
      loss.value += of_harm * (std::abs(g - 0.5) + 0.01 * g);
      loss.dy(t, l) = of_harm * (side + 0.01) * g * (1 - g);
    }
  }
  return loss;
}

}  // namespace limen::inline LIMEN_ABI
