#include <limen/kernel/spike_sums.hpp>

#include "../catch.hpp"

#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>

#include <vector>

using namespace limen;

namespace {

template <class Real>
struct Rows {
  Index in, out;
  std::vector<Real> w;  ///< [in x out]

  Rows(Index rows, Index columns) : in(rows), out(columns), w(std::size_t(rows * columns)) {
    Random random(3);
    for (Real& v : w) v = static_cast<Real>(random.normal());
  }
  MatrixView<const Real> view() const { return {w.data(), in, out, out}; }
  /// [out x in], as a layer has it.
  std::vector<Real> turned() const {
    std::vector<Real> t(w.size());
    for (Index i = 0; i < in; ++i) {
      for (Index o = 0; o < out; ++o) t[std::size_t(o * in + i)] = w[std::size_t(i * out + o)];
    }
    return t;
  }
};

/// Every third input, `count` of them; values for a graded list.
template <class Real>
struct List {
  std::vector<SpikeIndex> ids;
  std::vector<Real> values;

  explicit List(Index count) {
    for (Index k = 0; k < count; ++k) {
      ids.push_back(static_cast<SpikeIndex>(3 * k + k % 2));
      values.push_back(static_cast<Real>(0.25 * static_cast<double>(k % 7)));
    }
  }
  SpikeList<Real> view(bool graded) const {
    return {ids.data(), static_cast<Index>(ids.size()), graded ? values.data() : nullptr};
  }
};

/// Of a plain matrix the sums go by columns, whatever the list: in the order that is promised.
template <class Real, class Stored>
void agrees(const Rows<Real>& rows, Index count) {
  const auto turned = rows.turned();
  const auto fan_out = FanOut<Real, Stored>::pack({turned.data(), rows.out, rows.in, rows.in});
  const List<Real> list(count);
  std::vector<Real> start(std::size_t(rows.out)), by_columns(start), sums(start);
  for (std::size_t o = 0; o < start.size(); ++o) start[o] = static_cast<Real>(0.1 * double(o));
  for (const bool graded : {false, true}) {
    for (const Real* from : {static_cast<const Real*>(nullptr), std::as_const(start).data()}) {
      sum_listed(rows.view(), list.view(graded), from, by_columns.data());
      sum_listed(fan_out.view(), list.view(graded), from, sums.data());
      INFO(rows.out << " columns, " << count << " rows" << (graded ? ", graded" : ""));
      REQUIRE(sums == by_columns);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Sums by rows and by columns are the same bits", "[spiking][kernel]", float,
                   double) {
  for (const Index out : {255, 256, 287, 300}) {
    const Rows<TestType> rows(700, out);
    for (const Index count : {0, 1, 191, 192, 193, 195, 200}) {
      agrees<TestType, TestType>(rows, count);
    }
  }
}

TEST_CASE("Rows of halves give the sums of rounded weights", "[spiking][kernel]") {
  for (const Index out : {200, 256, 300}) {
    Rows<float> rows(700, out);
    for (float& v : rows.w) v = static_cast<float>(bfloat16(v));
    for (const Index count : {3, 191, 194, 200}) agrees<float, HalfPair>(rows, count);
  }
}

TEST_CASE("A long list may start from what is there", "[spiking][kernel]") {
  const Rows<float> rows(700, 270);
  const auto turned = rows.turned();
  const auto fan_out = FanOut<float>::pack({turned.data(), rows.out, rows.in, rows.in});
  const List<float> list(222);
  std::vector<float> start(270, 0.5f), sums(270);
  sum_listed(fan_out.view(), list.view(false), start.data(), sums.data());
  sum_listed(fan_out.view(), list.view(false), start.data(), start.data());
  REQUIRE(sums == start);
}
