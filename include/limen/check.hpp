#pragma once
/// @file  The laws of layers, for any layer, also your own.
///
///     const auto report = limen::check::laws(MyLayer<double>::initialized(random));
///     if (!report.ok()) std::puts(report.text().c_str());
///
/// Runs over lengths 0, 1, 2, an odd one, and a ragged batch. Run it with `double`, where the
/// tolerances are tight, and with `float`. What the laws are is said where each is checked; a
/// report says which law broke, at which parameter or input, which element, what was got and what
/// expected.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <limen/core/error.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI::check {

struct Options {
  Index rows = 7;        ///< the odd length
  double tolerance = 0;  ///< relative to 1 + |expected|; 0: 1e-10 in double, 2e-4 in float
  double slope = 0;      ///< the same for slopes; 0: 1e-6 in double, 2e-2 in float
  double amplitude = 1;  ///< inputs are normal with this deviation
  Index tokens = 0;      ///< instead, inputs are whole numbers below this one, and have no slope
  std::uint64_t seed = 1;
  bool random = false;  ///< the layer draws in training: give it a generator, the same each time
  bool training_is_inference = true;  ///< false for layers that measure the batch while training
  bool rows_are_independent = true;   ///< false likewise: a sequence sees others of its batch
  bool state_has_slope = true;        ///< false where the state holds more than real numbers
  bool causal = true;                 ///< false for layers that see the future: they cannot be cut
  bool nan_stays = true;              ///< check that NaN poisons its own sequence only
  bool refuses_other_rows = true;     ///< false for layers whose cache does not know its rows
  int most_slopes = 400;              ///< elements of one tensor whose slope is measured
  std::size_t (*allocations)() = nullptr;  ///< how often the program asked for memory, if you count
};

struct Finding {
  std::string law;
  std::string where;
  double got;
  double expected;
};

struct Report {
  std::vector<Finding> findings;  ///< the first of each law and place
  Index checks = 0;               ///< numbers compared

  bool ok() const { return findings.empty(); }
  std::string text() const {
    std::string all = findings.empty() ? "all laws hold" : "";
    for (const Finding& f : findings) {
      char numbers[96];
      std::snprintf(numbers, sizeof numbers, ": got %.9g, expected %.9g\n", f.got, f.expected);
      all += f.law + ": " + f.where + numbers;
    }
    return all;
  }
};

namespace detail {

struct Anything {
  template <class T>
  operator T() const;
};

template <class L, class... A>
consteval int members() {
  if constexpr (requires { L{A{}..., Anything{}}; }) {
    return members<L, A..., Anything>();
  } else {
    return sizeof...(A);
  }
}

template <class L>
consteval int named() {
  int count = 0;
  L::visit([&](std::string_view, auto&...) { ++count; });
  return count;
}

}  // namespace detail

/// True if `visit` lists each member once. For layers with members of their own; a combinator names
/// its parts by position.
template <class L>
inline constexpr bool names_every_member = detail::members<L>() == detail::named<L>();

template <Runs L>
class Laws {
  using Real = typename L::Scalar;
  using State = typename L::State;
  static constexpr Index in = L::in, out = L::out;
  using X = Sequence<Real, in>;
  using Y = Sequence<Real, out>;

 public:
  Laws(const L& layer, Options options) : layer_(layer), options_(options), random_(options.seed) {
    constexpr bool is_double = sizeof(Real) == 8;
    if (options_.tolerance == 0) options_.tolerance = is_double ? 1e-10 : 2e-4;
    if (options_.slope == 0) options_.slope = is_double ? 1e-6 : 2e-2;
  }

  Report run() {
    for (const Index rows : {Index{0}, Index{1}, Index{2}, options_.rows}) {
      if (options_.causal) cutting_changes_nothing(rows);
      if constexpr (Streaming<L>) stepping_is_forward(rows);
      if constexpr (Streaming<L>) the_past_does_not_see_the_future(rows);
      if constexpr (Trainable<L>) training_is_inference(rows);
    }
    a_batch_is_its_sequences();
    if (options_.nan_stays && options_.rows_are_independent && options_.tokens == 0) {
      nan_stays_in_its_sequence();
    }
    if constexpr (Streaming<L>) stepping_allocates_nothing();
    if constexpr (Trainable<L>) {
      running_again_allocates_nothing();
      backward_is_the_slope();
      gradients_add();
      gradients_of_a_batch_add();
      other_rows_are_refused();
    }
    if constexpr (Preparable<L>) {
      if constexpr (Runs<prepared_form<L>>) prepared_is_the_same();
    }
    return std::move(report_);
  }

 private:
  // ── Tools ──────────────────────────────────────────────────────────────────────────────────────

  template <Index D>
  Sequence<Real, D> noise(Index rows) {
    Sequence<Real, D> x(rows);
    for (Index i = 0; i < x.size(); ++i) {
      x.data()[i] = static_cast<Real>(options_.amplitude * random_.normal());
    }
    return x;
  }

  /// What the layer is fed: noise, or tokens.
  X inputs(Index rows) {
    if (options_.tokens == 0) return noise<in>(rows);
    X x(rows);
    for (Index i = 0; i < x.size(); ++i) {
      x.data()[i] = static_cast<Real>(random_.below(static_cast<std::uint64_t>(options_.tokens)));
    }
    return x;
  }

  static std::unique_ptr<State> rest() { return std::make_unique<State>(); }

  void broke(const char* law, const std::string& where, double got, double expected) {
    for (const Finding& f : report_.findings) {
      if (f.law == law &&
          f.where.substr(0, f.where.find('[')) == where.substr(0, where.find('['))) {
        return;
      }
    }
    report_.findings.push_back({law, where, got, expected});
  }

  void compare(const char* law, const std::string& place, Index element, double got,
               double expected, double tolerance) {
    ++report_.checks;
    const bool same = (std::isnan(got) && std::isnan(expected)) || got == expected ||
                      std::abs(got - expected) <= tolerance * (1 + std::abs(expected));
    if (!same) broke(law, place + '[' + std::to_string(element) + ']', got, expected);
  }

  template <class A, class B>
  void compare_rows(const char* law, const std::string& place, const A& got, const B& expected,
                    double tolerance) {
    if (got.rows() != expected.rows()) {
      broke(law, place + " rows", static_cast<double>(got.rows()),
            static_cast<double>(expected.rows()));
      return;
    }
    constexpr Index D = std::is_same_v<A, X> ? in : out;
    for (Index t = 0; t < got.rows(); ++t) {
      for (Index d = 0; d < D; ++d) {
        compare(law, place, t * D + d, static_cast<double>(got(t, d)),
                static_cast<double>(expected(t, d)), tolerance);
      }
    }
  }

  /// What follows from two states must be the same, whatever bytes they are made of.
  void compare_future(const char* law, const std::string& place, State& a, State& b) {
    if constexpr (!std::is_empty_v<State>) {
      const X x = inputs(3);
      const Y from_a = layer_.forward(x, a), from_b = layer_.forward(x, b);
      compare_rows(law, place + ", state left behind, seen in output", from_a, from_b,
                   options_.tolerance);
    }
  }

  Context context() {
    draws_ = Random(options_.seed + 17);  // the same for every call
    Context c;
    if (options_.random) c.random = &draws_;
    return c;
  }

  static std::string length(Index rows) { return std::to_string(rows) + " rows"; }

  // ── The laws ───────────────────────────────────────────────────────────────────────────────────

  /// Stepping is the whole sequence, one row at a time.
  void stepping_is_forward(Index rows) {
    const X x = inputs(rows);
    const auto at_once = rest(), by_steps = rest();
    const Y whole = layer_.forward(x, *at_once);
    Y stepped(rows);
    for (Index t = 0; t < rows; ++t) {
      const auto y = layer_.step(x.row(t), *by_steps);
      std::memcpy(stepped.row_data(t), y.data(), sizeof(y.values));
    }
    compare_rows("stepping is forward", length(rows), stepped, whole, options_.tolerance);
    compare_future("stepping is forward", length(rows), *by_steps, *at_once);
  }

  /// Cutting the sequence anywhere, and carrying the state over the cut, changes nothing.
  void cutting_changes_nothing(Index rows) {
    const X x = inputs(rows);
    const auto whole_state = rest();
    const Y whole = layer_.forward(x, *whole_state);
    compare_rows("cutting changes nothing", length(rows) + " from rest", forward(layer_, x), whole,
                 options_.tolerance);
    for (Index cut = 0; cut <= rows; ++cut) {
      const auto state = rest();
      const std::string place = length(rows) + ", cut at " + std::to_string(cut);
      const Y head = layer_.forward(middle_rows(x, 0, cut), *state);
      const Y tail = layer_.forward(middle_rows(x, cut, rows - cut), *state);
      compare_rows("cutting changes nothing", place + ", head", head, middle_rows(whole, 0, cut),
                   options_.tolerance);
      compare_rows("cutting changes nothing", place + ", tail", tail,
                   middle_rows(whole, cut, rows - cut), options_.tolerance);
      auto kept = std::make_unique<State>(*whole_state);  // compare_future moves both on
      compare_future("cutting changes nothing", place, *state, *kept);
    }
  }

  /// What comes later does not change a bit of what came before.
  void the_past_does_not_see_the_future(Index rows) {
    if (rows < 2 || options_.tokens == 1) return;
    X x = inputs(rows);
    const Y before = forward(layer_, x);
    for (Index d = 0; d < in; ++d) {
      if (options_.tokens == 0 || x(rows - 1, d) == Real(0)) {
        x(rows - 1, d) += Real(1);
      } else {
        x(rows - 1, d) = Real(0);
      }
    }
    const Y after = forward(layer_, x);
    for (Index t = 0; t + 1 < rows; ++t) {
      for (Index d = 0; d < out; ++d) {
        compare("the past does not see the future", length(rows), t * out + d,
                static_cast<double>(after(t, d)), static_cast<double>(before(t, d)), 0);
      }
    }
  }

  /// Keeping a cache for training does not change the answer, nor the state left behind.
  void training_is_inference(Index rows) {
    if (!options_.training_is_inference || options_.random) return;
    const X x = inputs(rows);
    const auto a = rest(), b = rest();
    layer_.forward(inputs(2), *a);
    *b = *a;
    typename L::Cache cache;
    const Y inferred = layer_.forward(x, *a);
    const Y trained = layer_.forward(X(x), *b, cache);
    compare_rows("training is inference", length(rows), trained, inferred, options_.tolerance);
    compare_future("training is inference", length(rows), *b, *a);
  }

  static const std::vector<Index>& ragged() {
    static const std::vector<Index> offsets{0, 2, 2, 3, 8, 12};
    return offsets;
  }

  /// The rows of a batch are what each sequence gives alone, from states of their own.
  void a_batch_is_its_sequences() {
    const auto& offsets = ragged();
    const std::size_t count = offsets.size() - 1;
    const X x = inputs(offsets.back());
    auto states = std::make_unique<State[]>(count), alone = std::make_unique<State[]>(count);
    for (std::size_t b = 0; b < count; ++b) {
      layer_.forward(inputs(static_cast<Index>(b)), states[b]);
      alone[b] = states[b];
    }
    auto trained = std::make_unique<State[]>(count);
    std::memcpy(static_cast<void*>(trained.get()), static_cast<const void*>(states.get()),
                count * sizeof(State));
    const Y together =
        layer_.forward(x, Batch<State>(std::span<State>(states.get(), count), offsets));
    const Y resting = layer_.forward(x, from_rest(offsets));
    for (std::size_t b = 0; b < count; ++b) {
      const auto rows = middle_rows(x, offsets[b], offsets[b + 1] - offsets[b]);
      const std::string place = "sequence " + std::to_string(b);
      const Y one = layer_.forward(rows, alone[b]);
      compare_rows("a batch is its sequences", place, one,
                   middle_rows(together, offsets[b], rows.rows()), options_.tolerance);
      compare_rows("a batch is its sequences", place + " from rest", forward(layer_, rows),
                   middle_rows(resting, offsets[b], rows.rows()), options_.tolerance);
      compare_future("a batch is its sequences", place, states[b], alone[b]);
    }
    if constexpr (Trainable<L>) {
      if (!options_.training_is_inference || options_.random) return;
      typename L::Cache cache;
      const Y kept = layer_.forward(
          X(x), Batch<State>(std::span<State>(trained.get(), count), offsets), cache);
      compare_rows("training a batch is inference", "ragged", kept, together, options_.tolerance);
    }
    const std::vector<Index> none{0};
    if (layer_.forward(X(), from_rest(none)).rows() != 0) {
      broke("an empty batch gives an empty output", "rows", 1, 0);
    }
  }

  void nan_stays_in_its_sequence() {
    const auto& offsets = ragged();
    X x = inputs(offsets.back());
    const Y clean = layer_.forward(x, from_rest(offsets));
    for (Index d = 0; d < in; ++d) x(4, d) = std::numeric_limits<Real>::quiet_NaN();  // sequence 3
    const Y y = layer_.forward(x, from_rest(offsets));
    for (Index t = 0; t < offsets.back(); ++t) {
      if (t >= offsets[3] && t < offsets[4]) continue;
      for (Index d = 0; d < out; ++d) {
        compare("NaN stays in its sequence", "row " + std::to_string(t), t * out + d,
                static_cast<double>(y(t, d)), static_cast<double>(clean(t, d)), options_.tolerance);
      }
    }
  }

  std::size_t allocations() const {
    return options_.allocations != nullptr ? options_.allocations() : pool_allocations();
  }

  /// A step may run in an audio or control loop.
  void stepping_allocates_nothing() {
    const X x = inputs(1);
    const auto state = rest();
    const std::size_t before = allocations();
    layer_.step(x.row(0), *state);
    const std::size_t after = allocations();
    ++report_.checks;
    if (after != before) {
      broke("stepping allocates nothing", "allocations", static_cast<double>(after - before), 0);
    }
  }

  void running_again_allocates_nothing() {
    typename L::Cache cache;
    L gradient{};
    const auto& offsets = ragged();
    const X x = inputs(offsets.back());
    const Y dy = noise<out>(offsets.back());
    std::size_t counts[4];
    for (std::size_t& count : counts) {  // the first runs fill the pool
      Context c = context();
      layer_.forward(X(x), from_rest(offsets, &c), cache);
      layer_.backward(dy, from_rest(offsets, &c), cache, gradient);
      layer_.forward(x, from_rest(offsets));
      count = allocations();
    }
    ++report_.checks;
    if (counts[3] != counts[2]) {
      broke("running again allocates nothing", "allocations",
            static_cast<double>(counts[3] - counts[2]), 0);
    }
  }

  /// The state as numbers, if that is what it is made of.
  static constexpr Index state_numbers() {
    if constexpr (std::is_empty_v<State>) {
      return 0;
    } else {
      return static_cast<Index>(sizeof(State) / sizeof(Real));
    }
  }
  static Real* numbers(State& s) { return reinterpret_cast<Real*>(&s); }

  /// Central differences of L = Σ forward(x) ∘ r + Σ last state ∘ q, for random r and q, in every
  /// input, parameter and number of the first state. (In float against those of float: rough.)
  void backward_is_the_slope() {
    const auto& offsets = ragged();
    const Index rows = offsets.back();
    const std::size_t count = offsets.size() - 1;
    const bool with_state = options_.state_has_slope && state_numbers() > 0;
    auto x = inputs(rows);
    const Y r = noise<out>(rows);
    auto start = std::make_unique<State[]>(count), q = std::make_unique<State[]>(count);
    if (with_state) {
      for (std::size_t b = 0; b < count; ++b) {
        layer_.forward(inputs(3), start[b]);  // a state that can occur
        State reach{};  // padding and unused numbers stay zero in q as they do in a state
        layer_.forward(inputs(3), reach);
        for (Index i = 0; i < state_numbers(); ++i) {
          if (numbers(reach)[i] != Real(0)) {
            numbers(q[b])[i] = static_cast<Real>(options_.amplitude * random_.normal());
          }
        }
      }
    }
    L layer = layer_;
    auto states = std::make_unique<State[]>(count);
    const auto batch = [&](State* s, Context* c) {
      return with_state ? Batch<State>(std::span<State>(s, count), offsets, c)
                        : Batch<State>(offsets, c);
    };
    const auto copy_states = [&](State* to, const State* from) {
      std::memcpy(static_cast<void*>(to), static_cast<const void*>(from), count * sizeof(State));
    };
    const auto loss = [&] {
      copy_states(states.get(), start.get());
      typename L::Cache cache;
      Context c = context();
      const Y y = layer.forward(X(x), batch(states.get(), &c), cache);
      double sum = 0;
      for (Index i = 0; i < y.size(); ++i) {
        sum += static_cast<double>(y.data()[i]) * static_cast<double>(r.data()[i]);
      }
      if (with_state) {
        for (std::size_t b = 0; b < count; ++b) {
          for (Index i = 0; i < state_numbers(); ++i) {
            sum +=
                static_cast<double>(numbers(states[b])[i]) * static_cast<double>(numbers(q[b])[i]);
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
    Context c = context();
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
      const Index step = size > options_.most_slopes ? size / options_.most_slopes + 1 : 1;
      for (Index i = 0; i < size; i += step) check_one(i);
    };
    constexpr const char* law = "backward is the slope";
    if (dx.rows() != rows) {
      broke(law, "rows of dx", static_cast<double>(dx.rows()), static_cast<double>(rows));
      return;
    }
    if (options_.tokens == 0)
      sampled(x.size(), [&](Index i) {
        compare(law, "input", i, static_cast<double>(dx.data()[i]), slope(x.data()[i]),
                options_.slope);
      });
    for_each_parameter(
        [&](const std::string& name, auto& parameter, const auto& d) {
          if constexpr (!is_statistic<std::remove_cvref_t<decltype(parameter)>>) {
            sampled(parameter.size, [&](Index i) {
              compare(law, name, i, static_cast<double>(d[i]), slope(parameter[i]), options_.slope);
            });
          }
        },
        layer, gradient);
    if (with_state) {
      for (std::size_t b = 0; b < count; ++b) {
        const std::string place = "first state of sequence " + std::to_string(b);
        sampled(state_numbers(), [&](Index i) {
          if (numbers(q[b])[i] == Real(0) && numbers(start[b])[i] == Real(0)) return;
          compare(law, place, i, static_cast<double>(numbers(d_states[b])[i]),
                  slope(numbers(start[b])[i]), options_.slope);
        });
      }
    }
  }

  /// backward adds: a second one doubles the first.
  void gradients_add() {
    const X x = inputs(options_.rows);
    const Y r = noise<out>(options_.rows);
    typename L::Cache cache;
    L gradient{};
    Context c = context();
    layer_.forward(X(x), Batch<State>(offsets_of(options_.rows), &c), cache);
    layer_.backward(r, Batch<State>(offsets_of(options_.rows), &c), cache, gradient);
    const L once = gradient;
    layer_.backward(r, Batch<State>(offsets_of(options_.rows), &c), cache, gradient);
    for_each_parameter(
        [&](const std::string& name, const auto& both, const auto& first) {
          for (Index i = 0; i < both.size; ++i) {
            compare("gradients add", name, i, static_cast<double>(both[i]),
                    2 * static_cast<double>(first[i]), options_.tolerance);
          }
        },
        gradient, once);
  }

  std::span<const Index> offsets_of(Index rows) {
    single_[1] = rows;
    return single_;
  }

  /// The gradient of a batch is the sum of those of its sequences.
  void gradients_of_a_batch_add() {
    if (!options_.rows_are_independent || options_.random) return;
    const auto& offsets = ragged();
    const X x = inputs(offsets.back());
    const Y r = noise<out>(offsets.back());
    typename L::Cache cache;
    L together{}, summed{};
    layer_.forward(X(x), from_rest(offsets), cache);
    const X dx = layer_.backward(r, from_rest(offsets), cache, together);
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      const Index first = offsets[b], rows = offsets[b + 1] - first;
      typename L::Cache alone;
      layer_.forward(middle_rows(x, first, rows).copy(), Batch<State>(), alone);
      const X part = layer_.backward(middle_rows(r, first, rows), Batch<State>(), alone, summed);
      compare_rows("gradients of a batch add", "dx of sequence " + std::to_string(b), part,
                   middle_rows(dx, first, rows), 10 * options_.tolerance);
    }
    for_each_parameter(
        [&](const std::string& name, const auto& a, const auto& b) {
          for (Index i = 0; i < a.size; ++i) {
            compare("gradients of a batch add", name, i, static_cast<double>(a[i]),
                    static_cast<double>(b[i]), 10 * options_.tolerance);
          }
        },
        together, summed);
  }

  /// A gradient with fewer or more rows than forward had is an error, before anything is added.
  void other_rows_are_refused() {
    if (!options_.refuses_other_rows) return;
    typename L::Cache cache;
    L gradient{};
    Context c = context();
    layer_.forward(inputs(3), Batch<State>(offsets_of(3), &c), cache);
    const Y dy = noise<out>(4);
    for (const Index rows : {Index{2}, Index{4}}) {  // more only if fewer are refused
      const auto given = middle_rows(dy, 0, rows);
      const Index back = or_refused([&] {
        return layer_.backward(given, Batch<State>(offsets_of(rows), &c), cache, gradient);
      });
      ++report_.checks;
      if (back == 0) continue;
      broke("other rows are refused", "rows of dx", static_cast<double>(back), 0);
      break;
    }
    for_each_parameter(
        [&](const std::string& name, const auto& d) {
          for (Index i = 0; i < d.size; ++i) {
            compare("other rows are refused", name, i, static_cast<double>(d[i]), 0, 0);
          }
        },
        gradient);
  }

  /// The rows that f() gives; 0 if it fails.
  template <class F>
  static Index or_refused(F f) {
#if LIMEN_EXCEPTIONS
    try {
      return f().rows();
    } catch (const Exception&) {
      return 0;
    }
#else
    return f().rows();
#endif
  }

  /// The inference form computes the same, and keeps the same state.
  void prepared_is_the_same() {
    const auto fast = prepare(layer_);
    static_assert(std::is_same_v<typename prepared_form<L>::State, State>,
                  "the inference form must keep the state of the layer it was made from");
    const X x = inputs(options_.rows);
    const auto a = rest(), b = rest(), s = rest();
    const Y slow = layer_.forward(x, *a);
    const Y y = fast.forward(x, *b);
    compare_rows("prepared is the same", "forward", y, slow, options_.tolerance);
    compare_future("prepared is the same", "forward", *b, *a);
    const auto& offsets = ragged();
    const X many = inputs(offsets.back());
    compare_rows("prepared is the same", "ragged batch", fast.forward(many, from_rest(offsets)),
                 layer_.forward(many, from_rest(offsets)), options_.tolerance);
    if constexpr (Streaming<prepared_form<L>>) {
      Y stepped(options_.rows);
      const std::size_t before = allocations();
      for (Index t = 0; t < options_.rows; ++t) {
        const auto row = fast.step(x.row(t), *s);
        std::memcpy(stepped.row_data(t), row.data(), sizeof(row.values));
      }
      const std::size_t after = allocations();
      if (after != before) {
        broke("stepping allocates nothing", "prepared", static_cast<double>(after - before), 0);
      }
      compare_rows("prepared is the same", "step", stepped, slow, options_.tolerance);
    }
  }

  const L& layer_;
  Options options_;
  Random random_;
  Random draws_{0};
  Index single_[2] = {0, 0};
  Report report_;
};

/// Checks every law that applies to the layer.
template <Runs L>
Report laws(const L& layer, Options options = {}) {
  return Laws<L>(layer, options).run();
}

}  // namespace limen::inline LIMEN_ABI::check
