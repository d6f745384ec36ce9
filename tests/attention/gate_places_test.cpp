#include <limen/attention/gate_places.hpp>

#include <string>
#include <vector>

#include "../catch.hpp"

using namespace limen;
using enum GatePosition;

namespace {

constexpr Gate linear_at_3{.position = G3, .activation = Activation::identity};
constexpr Gate constant_at_3{
    .position = G3, .from_input = false, .activation = Activation::identity};
constexpr Gate narrow_at_1{.position = G1, .headwise = true, .least = 0.5};

template <Gate gate, Index width>
using Places = detail::GatePlaces<gate, double, width>;

struct Heard final : TapListener {
  std::vector<std::string> names;
  Index rows = 0, cols = 0;
  std::vector<double> g;

  void at(std::string_view, MatrixView<float>) override {}
  void at(std::string_view name, MatrixView<double> m) override {
    names.emplace_back(name);
    rows = m.rows;
    cols = m.cols;
    for (Index t = 0; t < m.rows; ++t) g.insert(g.end(), m.row(t), m.row(t) + m.cols);
  }
};

template <Index N>
void same(const Sequence<double, N>& x, std::initializer_list<double> expected) {
  REQUIRE(x.size() == static_cast<Index>(expected.size()));
  for (Index i = 0; i < x.size(); ++i) {
    INFO("number " << i);
    REQUIRE(std::abs(x.data()[i] - expected.begin()[i]) < 1e-12);
  }
}

}  // namespace

TEST_CASE("A gate is at its own place and at no other", "[attention][gate]") {
  const double z[] = {2, 0.5, -1, 4};
  const Places<linear_at_3, 2> places{z};
  Sequence<double, 2> u{{1, 2}, {3, 4}}, before;
  Heard heard;
  places.apply<G1>(1, u.matrix());
  places.apply<none>(1, u.matrix());
  places.pass<G2, true>(1, u, before, &heard);
  places.pass<G5, true>(1, u, before, nullptr);
  Sequence<double, 2> dz{{7, 7}, {7, 7}};
  places.back<G4>(1, before, u, dz);
  same(u, {1, 2, 3, 4});
  same(dz, {7, 7, 7, 7});
  REQUIRE(before.rows() == 0);
  REQUIRE(heard.names.empty());

  places.apply<G3>(1, u.matrix());
  same(u, {2, 1, -3, 16});
}

TEST_CASE("A place keeps what it gates only if backward asks for it", "[attention][gate]") {
  const double z[] = {2, 0.5, -1, 4};
  const Places<linear_at_3, 2> places{z};
  Sequence<double, 2> u{{1, 2}, {3, 4}}, before;
  places.pass<G3, false>(1, u, before, nullptr);
  same(u, {2, 1, -3, 16});
  REQUIRE(before.rows() == 0);
  u = {{1, 2}, {3, 4}};
  places.pass<G3, true>(1, u, before, nullptr);
  same(u, {2, 1, -3, 16});
  same(before, {1, 2, 3, 4});

  // y = u z: dz = dy u, du = dy z.
  Sequence<double, 2> dy{{1, 10}, {100, 1000}}, dz(2);
  places.back<G3>(1, before, dy, dz);
  same(dz, {1, 20, 300, 4000});
  same(dy, {2, 5, -100, 4000});
}

TEST_CASE("Scores that are not made of the input are one row for all", "[attention][gate]") {
  const double z[] = {2, 0.5};
  const Places<constant_at_3, 2> places{z};
  STATIC_REQUIRE(Places<constant_at_3, 2>::z_row == 0);
  STATIC_REQUIRE(Places<linear_at_3, 2>::z_row == 2);
  Sequence<double, 2> u{{1, 2}, {3, 4}}, before;
  Heard heard;
  places.pass<G3, true>(1, u, before, &heard);
  same(u, {2, 1, 6, 2});
  REQUIRE(heard.rows == 1);
  REQUIRE(heard.g == std::vector<double>{2, 0.5});
  // Their gradient comes row by row, to be summed.
  Sequence<double, 2> dy{{1, 1}, {1, 1}}, dz(2);
  places.back<G3>(1, before, dy, dz);
  same(dz, {1, 2, 3, 4});
  same(dy, {2, 0.5, 2, 0.5});
}

TEST_CASE("A listener hears the gate as it is applied, once", "[attention][gate]") {
  const double ln3 = std::log(3.0), z[] = {0, ln3, -ln3, 0};
  const Places<narrow_at_1, 2> places{z};
  Sequence<double, 4> u{{8, 16, 8, 16}, {8, 16, 8, 16}}, alone(u), before;
  Heard heard;
  places.pass<G1, false>(2, u, before, &heard);
  places.pass<G1, false>(2, alone, before, nullptr);
  same(u, {6, 12, 7, 14, 5, 10, 6, 12});
  same(alone, {6, 12, 7, 14, 5, 10, 6, 12});
  REQUIRE(heard.names == std::vector<std::string>{"gate"});
  REQUIRE((heard.rows == 2 && heard.cols == 2));
  const double expected[] = {0.75, 0.875, 0.625, 0.75};
  for (std::size_t i = 0; i < 4; ++i) REQUIRE(std::abs(heard.g[i] - expected[i]) < 1e-12);

  // Whoever listens may also change it.
  struct Shut final : TapListener {
    void at(std::string_view, MatrixView<float>) override {}
    void at(std::string_view, MatrixView<double> m) override { m.row(1)[0] = 0; }
  } shut;
  u = {{8, 16, 8, 16}, {8, 16, 8, 16}};
  places.pass<G1, false>(2, u, before, &shut);
  same(u, {6, 12, 7, 14, 0, 0, 6, 12});
}
