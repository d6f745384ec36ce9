#pragma once
/// @file  What every layer that steps promises of its state, and of numbers large and small.
///
/// `parts` shows the numbers of a state: parts(state, [](auto&... fixed) {...}).

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/state_ring.hpp>
#include <limen/io/state_file.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../allocations.hpp"
#include "../goldens/golden.hpp"

namespace streams {

using namespace limen;

template <class L>
Sequence<typename L::Scalar, L::in> noise(Index rows, std::uint64_t seed, double amplitude = 1) {
  using Real = typename L::Scalar;
  Random random(seed);
  Sequence<Real, L::in> x(rows);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<Real>(amplitude * random.normal());
  }
  return x;
}

template <class L>
L drawn(std::uint64_t seed) {
  Random random(seed);
  return L::initialized(random);
}

template <class A>
bool same_bits(const A& a, const A& b) {
  return a.size() == 0 || std::memcmp(a.data(), b.data(),
                                      sizeof(*a.data()) * static_cast<std::size_t>(a.size())) == 0;
}

/// Drafts of up to four tokens are taken back, and nobody can tell that they ever were.
template <class L>
void take_drafts_back() {
  const L layer = drawn<L>(1);
  const auto x = noise<L>(40, 2);
  const auto plain = std::make_unique<typename L::State>();
  const auto ring = std::make_unique<StateRing<typename L::State, 4>>();
  const std::size_t before = allocations();
  bool same = true;
  for (Index t = 0; t < 30; ++t) {
    const auto expected = layer.step(x.row(t), *plain);
    for (Index draft = 0; draft < t % 5; ++draft) {
      ring->advance();
      layer.step(x.row(39 - draft), ring->now());
    }
    same = ring->roll_back(t % 5) && same;
    same = same_bits(layer.step(x.row(t), ring->now()), expected) && same;
  }
  REQUIRE(allocations() == before);
  REQUIRE(same);
}

/// A stream is put to sleep in the middle, as bytes, and goes on elsewhere with the same bits. The
/// bytes are not taken for the state of a model with another name or of another size.
template <class L, class Other>
void sleep_and_wake() {
  const L layer = drawn<L>(3);
  const auto x = noise<L>(40, 4);
  const auto state = std::make_unique<typename L::State>();
  layer.forward(middle_rows(x, 0, 21), *state);
  const auto bytes = state_bytes("model 1", *state);
  const auto whole = layer.forward(middle_rows(x, 21, 10), *state);
  const auto woken = std::make_unique<typename L::State>();
  REQUIRE(state_from_bytes(bytes, "model 1", *woken));
  REQUIRE(same_bits(layer.forward(middle_rows(x, 21, 10), *woken), whole));
  for (Index t = 31; t < 40; ++t) {
    REQUIRE(same_bits(layer.step(x.row(t), *woken), layer.step(x.row(t), *state)));
  }
  REQUIRE(state_from_bytes(bytes, "model 2", *woken).error().message() ==
          "state of model 2: wanted this name, found the state of model 1 in memory");
  static_assert(sizeof(typename Other::State) != sizeof(typename L::State));
  const auto other = std::make_unique<typename Other::State>();
  REQUIRE(state_from_bytes(bytes, "model 1", *other).error().message() ==
          "state of model 1: wanted " + std::to_string(sizeof(typename Other::State)) +
              " bytes, found " + std::to_string(sizeof(typename L::State)) + " bytes in memory");
}

/// A prefix is read once; what continues it is what would have been read with it.
template <class L>
void share_a_prefix(double tolerance = 1e-10) {
  using Exact = typename L::template with_scalar<double>;
  const Exact layer = drawn<Exact>(5);
  const auto x = noise<Exact>(60, 6);
  const auto prefix = std::make_unique<typename Exact::State>();
  layer.forward(middle_rows(x, 0, 40), *prefix);
  for (const Index from : {40, 50}) {
    const auto fork = std::make_unique<typename Exact::State>(*prefix);
    const auto y = layer.forward(middle_rows(x, from, 10), *fork);
    Sequence<double, Exact::in> all(50);
    std::copy_n(x.data(), 40 * Exact::in, all.data());
    std::copy_n(x.data() + from * Exact::in, 10 * Exact::in, all.row_data(40));
    const auto expected = forward(layer, all);
    for (Index i = 0; i < y.size(); ++i) {
      const double e = expected.data()[40 * Exact::out + i];
      REQUIRE(std::abs(y.data()[i] - e) <= tolerance * (1 + std::abs(e)));
    }
  }
}

/// Buffers that are taken next hold nothing but NaN.
template <class Real>
void spoil_buffers() {
  std::vector<Buffer<Real>> all;
  for (Index size = 16; size < 50'000; size += size / 8) {
    for (int i = 0; i < 8; ++i) {
      all.emplace_back(size);
      std::fill(all.back().begin(), all.back().end(), std::numeric_limits<Real>::quiet_NaN());
    }
  }
}

/// A batch of long sequences, run forwards and backwards from states that have seen something.
template <class L>
struct LongBatch {
  using State = typename L::State;
  static constexpr std::array<Index, 6> offsets{0, 150, 150, 420, 421, 500};
  static constexpr Index count = 5;

  Sequence<typename L::Scalar, L::in> x = noise<L>(500, 18), dy = noise<L>(500, 19);
  std::unique_ptr<State[]> start = std::make_unique<State[]>(count), last, first;
  Sequence<typename L::Scalar, L::out> y;
  Sequence<typename L::Scalar, L::in> dx;
  L gradient;
  bool from_rest = false, spoiled = false;

  explicit LongBatch(const L& layer) {
    for (Index b = 0; b < count; ++b) {
      layer.forward(noise<L>(5, static_cast<std::uint64_t>(20 + b)), Batch<State>(start[at(b)]));
    }
  }
  static std::size_t at(Index b) { return static_cast<std::size_t>(b); }
  Index begin(Index b) const { return offsets[at(b)]; }
  Index rows(Index b) const { return offsets[at(b + 1)] - begin(b); }

  void run(const L& layer) {
    typename L::Cache cache;
    last = std::make_unique<State[]>(count);
    first = std::make_unique<State[]>(count);
    gradient = L();
    std::copy_n(start.get(), count, last.get());
    if (spoiled) spoil_buffers<typename L::Scalar>();
    y = layer.forward(Sequence(x), batch(last), cache);
    if (spoiled) spoil_buffers<typename L::Scalar>();
    dx = layer.backward(dy, batch(first), cache, gradient);
  }
  auto batch(const std::unique_ptr<State[]>& states) const {
    if (from_rest) return Batch<State>(offsets);
    return Batch<State>(std::span<State>(states.get(), at(count)), offsets);
  }
};

/// Long sequences of a batch, each across chunks and segments of its own, are what they are alone.
template <class L>
void long_batches_are_their_sequences(double tolerance = 1e-10) {
  using Exact = typename L::template with_scalar<double>;
  const Exact layer = drawn<Exact>(17);
  LongBatch<Exact> all(layer);
  all.run(layer);
  Exact gradient;
  const auto near = [&](const char* what, Index i, double got, double expected) {
    INFO(what << ' ' << i);
    REQUIRE(std::abs(got - expected) <= tolerance * (1 + std::abs(expected)));
  };
  for (Index b = 0; b < all.count; ++b) {
    typename Exact::Cache cache;
    auto state = std::make_unique<typename Exact::State>(all.start[all.at(b)]);
    auto d_state = std::make_unique<typename Exact::State>();
    const auto y =
        layer.forward(middle_rows(all.x, all.begin(b), all.rows(b)).copy(), *state, cache);
    const auto dx =
        layer.backward(middle_rows(all.dy, all.begin(b), all.rows(b)), *d_state, cache, gradient);
    for (Index i = 0; i < y.size(); ++i) {
      near("y", i, all.y.row_data(all.begin(b))[i], y.data()[i]);
      near("dx", i, all.dx.row_data(all.begin(b))[i], dx.data()[i]);
    }
    const auto from = middle_rows(all.x, 0, 1);
    near("last state", b, layer.step(from.row(0), all.last[all.at(b)])[0],
         layer.step(from.row(0), *state)[0]);
    const auto numbers = [](const auto& s) { return reinterpret_cast<const double*>(&s); };
    for (Index i = 0; i < static_cast<Index>(sizeof(*d_state) / sizeof(double)); ++i) {
      near("first state", i, numbers(all.first[all.at(b)])[i], numbers(*d_state)[i]);
    }
  }
  for_each_parameter(
      [&](const std::string& name, const auto& got, const auto& expected) {
        for (Index i = 0; i < got.size; ++i) near(name.c_str(), i, got[i], expected[i]);
      },
      all.gradient, gradient);
}

/// A number that is none, in a row or in a first state, leaves every bit of the other sequences as
/// it was: forwards, backwards, and in their states. So does whatever buffers held before.
template <class L>
void keep_nan_to_themselves() {
  const L layer = drawn<L>(17);
  LongBatch<L> clean(layer);
  clean.run(layer);
  const auto inferred = prepare(layer).forward(clean.x, clean.batch(clean.last));
  const auto others_are_the_same = [&](const LongBatch<L>& other, Index poisoned) {
    for (Index b = 0; b < clean.count; ++b) {
      if (b == poisoned) continue;
      INFO("sequence " << b);
      const Index first = clean.begin(b), rows = clean.rows(b);
      REQUIRE(same_bits(middle_rows(clean.y, first, rows).copy(),
                        middle_rows(other.y, first, rows).copy()));
      REQUIRE(same_bits(middle_rows(clean.dx, first, rows).copy(),
                        middle_rows(other.dx, first, rows).copy()));
      const std::size_t size = sizeof(typename L::State);
      REQUIRE(std::memcmp(&clean.first[clean.at(b)], &other.first[clean.at(b)], size) == 0);
    }
  };
  for (const bool in_state : {false, true}) {
    LongBatch<L> poisoned(layer);
    auto* const bytes = reinterpret_cast<typename L::Scalar*>(&poisoned.start[2]);
    const Index numbers = static_cast<Index>(sizeof(typename L::State) / sizeof(*bytes));
    constexpr auto nan = std::numeric_limits<typename L::Scalar>::quiet_NaN();
    if (in_state) {
      std::fill_n(bytes, numbers, nan);
    } else {
      std::fill_n(poisoned.x.row_data(240), L::in, nan);
    }
    poisoned.run(layer);
    REQUIRE(std::isnan(poisoned.y(in_state ? 150 : 240, 0)));
    others_are_the_same(poisoned, 2);
    const auto y = prepare(layer).forward(poisoned.x, poisoned.batch(poisoned.last));
    REQUIRE(same_bits(middle_rows(y, 421, 79).copy(), middle_rows(inferred, 421, 79).copy()));
  }
  for (const bool from_rest : {false, true}) {
    LongBatch<L> again(layer);
    clean.from_rest = again.from_rest = from_rest;
    clean.run(layer);
    again.spoiled = true;
    again.run(layer);
    others_are_the_same(again, -1);
  }
}

/// Copies, rings, files and prefixes of one layer.
template <class L, class Other>
void are_values() {
  take_drafts_back<L>();
  sleep_and_wake<L, Other>();
  share_a_prefix<L>();
}

/// The numbers of a state, one after the other.
template <class State, class F>
std::vector<double> numbers_of(State& state, F parts) {
  std::vector<double> all;
  parts(state, [&](auto&... fixed) { all = golden::in_a_row(fixed...); });
  return all;
}

/// After a million rows a state in float is where it is in double, to so much of its largest
/// number, and so is what comes out.
template <class L, class F>
void do_not_drift(F parts, double tolerance) {
  using Exact = typename L::template with_scalar<double>;
  const L rough = drawn<L>(13);
  Exact exact;
  std::vector<double> learned;
  for_each_tensor(
      [&](const auto& t) { learned.insert(learned.end(), t.data(), t.data() + t.size); }, rough);
  auto from = learned.begin();
  for_each_tensor(
      [&](auto& t) {
        std::copy_n(from, t.size, t.data());
        from += t.size;
      },
      exact);
  const auto state = std::make_unique<typename L::State>();
  const auto exact_state = std::make_unique<typename Exact::State>();
  constexpr Index piece = 1000, pieces = 1000;
  for (Index i = 0; i < pieces; ++i) {
    const auto x = noise<L>(piece, static_cast<std::uint64_t>(i));
    Sequence<double, L::in> same(piece);
    std::copy(x.data(), x.data() + x.size(), same.data());
    const auto y = rough.forward(x, *state);
    const auto expected = exact.forward(same, *exact_state);
    if (i + 1 < pieces) continue;
    const std::vector<double> last(expected.data(), expected.data() + expected.size());
    golden::same("y", y, last, tolerance, golden::Against::largest);
    golden::same("state", numbers_of(*state, parts), numbers_of(*exact_state, parts), tolerance,
                 golden::Against::largest);
  }
}

/// Outputs and all gradients of a sequence are numbers.
template <class L>
void stays_finite(const L& layer, double amplitude = 1) {
  typename L::Cache cache;
  L gradient;
  const auto y = forward(layer, noise<L>(70, 11, amplitude), cache);
  const auto dx = backward(layer, noise<L>(70, 12), cache, gradient);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(std::isfinite(y.data()[i]));
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(std::isfinite(dx.data()[i]));
  for_each_parameter(
      [](const std::string& name, const auto& g) {
        INFO(name);
        for (const auto v : g.flat()) REQUIRE(std::isfinite(v));
      },
      gradient);
}

/// Steps from the smallest to the largest: `set(layer, value)`.
template <class L, class F>
void stays_finite_for_any_step(F set, std::initializer_list<double> values) {
  for (const double value : values) {
    L layer = drawn<L>(14);
    set(layer, static_cast<typename L::Scalar>(value));
    INFO("step " << value);
    stays_finite(layer);
  }
}

/// A state that has decayed to denormal numbers is a state at rest: the same bits come out, and no
/// denormal number stays behind.
template <class L, class F>
void fall_silent(F parts) {
  const auto can = [] {
    const FlushDenormals guard;
    return FlushDenormals::active();
  };
  if (!can()) return;  // the machine; otherwise from here on only the layer sees to it
  L layer = drawn<L>(15);
  for_each_parameter(  // or the state would hear them in the silence
      [](const std::string& name, auto& tensor) {
        if (name.ends_with("bias")) fill(tensor, 0);
      },
      layer);
  const auto x = noise<L>(40, 16);
  const auto faint = std::make_unique<typename L::State>(),
             rest = std::make_unique<typename L::State>();
  const auto fill = [&](float value) {
    return [=](auto&... fixed) { (std::fill_n(fixed.data(), fixed.size, value), ...); };
  };
  parts(*faint, fill(3e-39f));
  parts(*rest, fill(0.0f));
  REQUIRE(same_bits(layer.step(x.row(0), *faint), layer.step(x.row(0), *rest)));
  parts(*faint, fill(-3e-39f));
  parts(*rest, fill(0.0f));
  REQUIRE(same_bits(layer.forward(x, *faint), layer.forward(x, *rest)));
  // Just above the smallest number that is normal: what decays falls below, and not yet to zero.
  const auto silence = Sequence<float, L::in>::zeros(10);
  const auto is_normal = [&] {
    for (const double v : numbers_of(*faint, parts)) {
      REQUIRE((v == 0 || std::abs(v) >= static_cast<double>(std::numeric_limits<float>::min())));
    }
  };
  parts(*faint, fill(1.2e-38f));
  layer.forward(silence, *faint);
  is_normal();
  parts(*faint, fill(1.2e-38f));
  for (Index t = 0; t < 10; ++t) {
    layer.step(silence.row(t), *faint);
    is_normal();
  }
}

}  // namespace streams
