#include <limen/attention/unit_sums.hpp>

#include <memory>
#include <vector>

#include "../allocations.hpp"
#include "../catch.hpp"

#include <limen/core/random.hpp>
#include <limen/kernel/rows.hpp>

using namespace limen;

namespace {

constexpr Index S = 3, E = 5, C = 4;
using State = ChunkedUnitState<double, S, E, C>;
using Numbers = std::vector<double>;

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

/// Rows of several sequences, one behind the other, at the positions they begin at.
struct Rows {
  std::vector<Index> offsets{0};
  std::vector<detail::SequenceRows> list;

  Rows(std::initializer_list<Index> lengths, std::initializer_list<std::int64_t> seen) {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      const Index row = offsets.back(), n = lengths.begin()[b];
      list.push_back({row, n, row, n, seen.begin()[b]});
      offsets.push_back(row + n);
    }
  }
  Index count() const { return offsets.back(); }
};

/// p_t S_g: every earlier row that is in a chunk before, one by one.
template <bool causal>
Sequence<double, E> one_by_one(const Rows& rows, const Sequence<double, S>& p,
                               const Sequence<double, S>& l, const Sequence<double, E>& v) {
  auto o = Sequence<double, E>::zeros(rows.count());
  for (const auto& s : rows.list) {
    for (Index t = 0; t < s.rows; ++t) {
      for (Index j = 0; j < s.rows; ++j) {
        if (causal && (s.seen + j) / C >= (s.seen + t) / C) continue;
        double score = 0;
        for (Index i = 0; i < S; ++i) score += p(s.row + t, i) * l(s.row + j, i);
        const double by = causal ? static_cast<double>(C) : static_cast<double>(s.rows);
        for (Index e = 0; e < E; ++e) o(s.row + t, e) += score * v(s.row + j, e) / by;
      }
    }
  }
  return o;
}

template <class A, class B>
void same(const A& a, const B& b, double tolerance = 1e-12) {
  REQUIRE(a.size() == b.size());
  for (Index i = 0; i < a.size(); ++i) {
    INFO("number " << i);
    REQUIRE(std::abs(a.data()[i] - b.data()[i]) <= tolerance);
  }
}

template <bool causal>
void sums_are_one_by_one() {
  using Sums = detail::UnitSums<double, S, E, C, causal>;
  Random random(1);
  // Empty, shorter than a chunk, as long as one, longer.
  const Rows rows({0, 3, 4, 11, 1}, {0, 0, 0, 0, 0});
  const Batch<std::conditional_t<causal, State, NoState>> batch(rows.offsets);
  const Index T = rows.count();
  const auto p = noise<S>(T, random), l = noise<S>(T, random);
  const auto v = noise<E>(T, random), start = noise<E>(T, random), r = noise<E>(T, random);
  auto o = start;
  Sums::template read<false>(batch, rows.list, p, l, v, o);
  auto expected = one_by_one<causal>(rows, p, l, v);
  for (Index i = 0; i < o.size(); ++i) expected.data()[i] += start.data()[i];
  same(o, expected);

  auto kept = start;
  const auto sums = Sums::template read<true>(batch, rows.list, p, l, v, kept);
  same(kept, o, 0);
  REQUIRE(sums.size() == (causal ? 0 + 1 + 1 + 3 + 1 : 4) * S * E);

  // o is linear in each of p, l and v: its slopes are its values at ones.
  Sequence<double, S> dp(T), dl(T);
  auto dv = start;
  Sums::back(rows.list, p, l, v, r, sums, dp, dl, dv);
  const auto loss = [&](const auto& p_, const auto& l_, const auto& v_) {
    const auto y = one_by_one<causal>(rows, p_, l_, v_);
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  const auto slope = [](auto& x, Index i, const auto& of) {
    auto one = std::remove_cvref_t<decltype(x)>::zeros(x.rows());
    one.data()[i] = 1;
    return of(one);
  };
  for (Index i = 0; i < p.size(); ++i) {
    INFO("number " << i);
    REQUIRE(std::abs(dp.data()[i] - slope(p, i, [&](auto& x) { return loss(x, l, v); })) < 1e-12);
    REQUIRE(std::abs(dl.data()[i] - slope(l, i, [&](auto& x) { return loss(p, x, v); })) < 1e-12);
  }
  for (Index i = 0; i < v.size(); ++i) {
    INFO("number " << i);
    const double d = dv.data()[i] - start.data()[i];
    REQUIRE(std::abs(d - slope(v, i, [&](auto& x) { return loss(p, l, x); })) < 1e-12);
  }
}

}  // namespace

TEST_CASE("Sums of chunks that are over are what their rows say one by one", "[attention][unit]") {
  sums_are_one_by_one<true>();
}

TEST_CASE("A unit that sees the future sums all of its sequence", "[attention][unit]") {
  sums_are_one_by_one<false>();
}

TEST_CASE("Sums go on where a state left them, and it moves on", "[attention][unit]") {
  using Sums = detail::UnitSums<double, S, E, C, true>;
  Random random(2);
  const Rows whole({13, 9}, {0, 0});
  const auto p = noise<S>(22, random), l = noise<S>(22, random);
  const auto v = noise<E>(22, random);
  const auto expected = one_by_one<true>(whole, p, l, v);
  std::vector<State> states(2);
  // Pieces that end within a chunk, at its end, and behind several; one of no rows.
  const Index cuts[2][6] = {{0, 3, 4, 4, 12, 13}, {0, 1, 1, 6, 8, 9}};
  for (std::size_t i = 0; i + 1 < 6; ++i) {
    const Index n[] = {cuts[0][i + 1] - cuts[0][i], cuts[1][i + 1] - cuts[1][i]};
    const Rows rows({n[0], n[1]}, {states[0].seen, states[1].seen});
    const auto part = [&]<Index D>(const Sequence<double, D>& x) {
      Sequence<double, D> y(n[0] + n[1]);
      copy_rows(x.matrix().middle_rows(cuts[0][i], n[0]), y.matrix().middle_rows(0, n[0]));
      copy_rows(x.matrix().middle_rows(13 + cuts[1][i], n[1]), y.matrix().middle_rows(n[0], n[1]));
      return y;
    };
    auto o = Sequence<double, E>::zeros(n[0] + n[1]);
    const auto lp = part(l);
    const auto vp = part(v);
    Sums::read<false>(Batch<State>(states, rows.offsets), rows.list, part(p), lp, vp, o);
    same(o, part(expected));
    for (std::size_t b = 0; b < 2; ++b) {
      const auto& s = rows.list[b];
      states[b].append(lp.matrix().middle_rows(s.row, s.rows),
                       vp.matrix().middle_rows(s.row, s.rows));
    }
  }
  REQUIRE((states[0].seen == 13 && states[1].seen == 9));
}

TEST_CASE("A state of chunks holds the rows of the chunk under way", "[attention][unit]") {
  STATIC_REQUIRE(State::ring);
  Random random(3);
  const auto k = noise<S>(10, random);
  const auto v = noise<E>(10, random);
  const auto in_rows = std::make_unique<State>(), in_pieces = std::make_unique<State>();
  REQUIRE(in_rows->has_room(1 << 20));
  const std::size_t before = allocations();
  for (Index t = 0; t < 10; ++t) {
    REQUIRE(in_rows->held() == t % C);
    REQUIRE(in_rows->append(k.data() + t * S, v.data() + t * E));
  }
  REQUIRE(allocations() == before);
  in_pieces->append(k.matrix().middle_rows(0, 7), v.matrix().middle_rows(0, 7));
  in_pieces->append(k.matrix().middle_rows(7, 0), v.matrix().middle_rows(7, 0));
  in_pieces->append(k.matrix().middle_rows(7, 3), v.matrix().middle_rows(7, 3));
  for (const auto* state : {in_rows.get(), in_pieces.get()}) {
    REQUIRE(state->seen == 10);
    REQUIRE(state->held() == 2);
    Sequence<double, S> keys(2);
    Sequence<double, E> values(2);
    state->gather(keys.matrix(), values.matrix());
    same(keys, middle_rows(k, 8, 2).copy(), 0);
    same(values, middle_rows(v, 8, 2).copy(), 0);
  }
}
